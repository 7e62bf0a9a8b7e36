"""The limits at the door: rates of handshakes, and numbers of connections, each with its answer and its count."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from door import denial, expect_close
from starlette.responses import Response
from wire import TRANSPORTS, eventually, serving
from wire import Client as RealClient

from aquilia import AuthManager, Identity
from aquilia.auth import token_invalid
from aquilia.controller import RequestCtx
from aquilia.middleware import CallNext
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.metrics.recorder import Counters
from aquilia.testing import HandshakeRefused, SocketsTest, sockets_test


@Socket("/hall/:name")
class Hall(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


@Socket("/other")
class Other(SocketController):
    pass


class Names(AuthManager):
    """A token is the name of its identity; `asked` are those that were looked at."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def authenticate(self, token: str) -> Identity:
        self.asked.append(token)
        if token == "nobody":
            raise token_invalid("who?")
        return Identity(token)


def limited(t: SocketsTest, limit: str, pattern: str = "/hall/:name") -> int:
    recorder = t.application.sockets.recorder
    assert isinstance(recorder, Counters)
    return recorder.counts["limited", pattern, limit]


async def refusal(t: SocketsTest, path: str = "/hall/a", **options: Any) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as refused:
        await t.connect(path, **options)
    return refused.value


# Rates of handshakes


async def test_an_address_may_make_the_handshakes_of_ten_seconds_at_once_and_then_the_rate() -> None:
    async with sockets_test(Hall, handshake_rate=0.2) as t:
        for _ in range(2):
            await (await t.connect("/hall/a")).disconnect()
        refused = await refusal(t)
        assert (refused.status, refused.code) == (429, "WS_RATE_LIMIT_EXCEEDED")
        await t.clock.advance(4.9)
        await refusal(t)
        await t.clock.advance(0.2)
        await t.connect("/hall/a")
        assert limited(t, "handshake_rate") == 2
        recorder = t.application.sockets.recorder
        assert isinstance(recorder, Counters)
        assert recorder.counts["handshake", "/hall/:name", "WS_RATE_LIMIT_EXCEEDED"] == 2


async def test_a_handshake_above_the_rate_is_refused_before_anybody_is_asked_who_it_is() -> None:
    names = Names()
    async with sockets_test(Hall, handshake_rate=0.1, auth=names) as t:
        await refusal(t, token="nobody")
        refused = await refusal(t, token="nobody")
        assert refused.code == "WS_RATE_LIMIT_EXCEEDED"
        assert names.asked == ["nobody"]


async def test_handshakes_that_fail_count_wherever_they_go() -> None:
    async with sockets_test(Hall, handshake_rate=0.1) as t:
        assert (await refusal(t, "/nowhere")).code == "WS_NAMESPACE_NOT_FOUND"
        assert (await refusal(t, "/nowhere")).code == "WS_RATE_LIMIT_EXCEEDED"
        assert limited(t, "handshake_rate", "none") == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_knocks_too_often_is_told_by_status_when_to_come_back(transport: str) -> None:
    app = AquilaSockets.from_controllers([Hall], handshake_rate=0.1)
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        async with RealClient.connect(f"{base}/hall/a", "v1.json"):
            pass
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/hall/a", proxy=None, subprotocols=["aquilia.v1.json"])
        assert refused.value.response.status_code == 429
        assert 9 <= int(refused.value.response.headers["retry-after"]) <= 10
        async with RealClient.connect(f"{base}/hall/a", "v1.json", local_addr=("127.0.0.2", 0)):
            pass


# Numbers of connections


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_address_has_so_many_connections_of_all_controllers(transport: str) -> None:
    app = AquilaSockets.from_controllers([Hall, Other], max_connections_per_address=2)
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        async with contextlib.AsyncExitStack() as guests:
            await guests.enter_async_context(RealClient.connect(f"{base}/hall/a"))
            await guests.enter_async_context(RealClient.connect(f"{base}/other"))
            status, body = await denial(f"{base}/hall/b", subprotocols=["aquilia.v1.json"])
            assert (status, body["code"]) == (429, "WS_QUOTA_EXCEEDED")
            other = RealClient.connect(f"{base}/hall/a", local_addr=("127.0.0.2", 0))
            await guests.enter_async_context(other)
        await eventually(lambda: app.live()["connections"] == 0)
        async with RealClient.connect(f"{base}/hall/a"), RealClient.connect(f"{base}/hall/a"):
            pass

    await eventually(lambda: app.live()["connections"] == 0)


async def test_an_identity_has_so_many_connections_of_all_controllers() -> None:
    ada, bob = Identity("ada"), Identity("bob")
    async with sockets_test(Hall, Other, max_connections_per_identity=2) as t:
        first = await t.connect("/hall/a", identity=ada)
        await t.connect("/other", identity=ada)
        refused = await refusal(t, identity=ada)
        assert (refused.status, refused.code) == (429, "WS_QUOTA_EXCEEDED")
        refused = await refusal(t, identity=ada, subprotocol="aquilia.v1.json")
        assert (refused.close_code, refused.code) == (4429, "WS_QUOTA_EXCEEDED")
        await t.connect("/hall/a", identity=bob)
        for _ in range(3):
            await t.connect("/hall/a")
        await first.disconnect()
        await t.connect("/hall/a", identity=ada)
        assert limited(t, "max_connections_per_identity") == 2


async def test_who_says_in_hello_who_it_is_is_counted_then() -> None:
    async with sockets_test(Hall, auth=Names(), max_connections_per_identity=1) as t:
        v1: dict[str, Any] = {"subprotocol": "aquilia.v1.json"}
        ada = await t.connect("/hall/a", token="ada", **v1)
        refused = await refusal(t, token="ada", **v1)
        assert (refused.close_code, refused.code) == (4429, "WS_QUOTA_EXCEEDED")
        refused = await refusal(t, token="ada")
        assert (refused.status, refused.code) == (429, "WS_QUOTA_EXCEEDED")
        await t.connect("/hall/a", token="bob", **v1)
        await ada.disconnect()
        await t.connect("/hall/a", token="ada", **v1)


def show(name: str, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a handshake, and the payload of a hello, that show a token at one of these places."""
    if where == "hello":
        return {}, {"token": name}
    if where == "middleware":
        return {"additional_headers": {"X-Name": name}}, {}
    return {"additional_headers": {"Authorization": f"Bearer {name}"}}, {}


async def by_name(ctx: RequestCtx, call_next: CallNext) -> Response:
    if (name := ctx.headers.get("x-name")) is not None:
        ctx.identity = Identity(name)
    return await call_next(ctx)


def hall_for_one(where: str) -> AquilaSockets:
    """Where each identity may have one connection."""
    auth = None if where == "middleware" else Names()
    return AquilaSockets.from_controllers(
        [Hall], auth=auth, middleware=[by_name], max_connections_per_identity=1
    )


@contextlib.asynccontextmanager
async def arriving(url: str, name: str, where: str, resume: str | None = None) -> AsyncIterator[RealClient]:
    """A client of v1 that has said hello."""
    options, hello = show(name, where)
    if resume is not None:
        hello["resume"] = {"token": resume, "rooms": {}}
    async with RealClient.connect(url, "v1.json", hello=False, **options) as client:
        await client.send("hello", hello, type="control")
        yield client


async def welcomed(client: RealClient) -> str:
    """The token to come back with."""
    return str((await client.expect("welcome"))["payload"]["resume"])


WHERE = pytest.mark.parametrize("where", ["handshake", "hello", "middleware"])


@WHERE
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_comes_back_to_its_session_is_not_counted_beside_its_former_connection(
    transport: str, where: str
) -> None:
    app = hall_for_one(where)
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        url = f"{base}/hall/a"
        async with arriving(url, "ada", where) as first:
            token = await welcomed(first)
            async with arriving(url, "ada", where, token) as second:
                token = await welcomed(second)
                await expect_close(first, 4410)
                async with arriving(url, "ada", where) as other:
                    await expect_close(other, 4429)
                assert (await second.expect("resumed"))["payload"]["rooms"][""]["recovered"]
                async with arriving(url, "ada", where, token) as third:
                    await welcomed(third)
        await eventually(lambda: app.live()["connections"] == 0)
        async with arriving(url, "ada", where) as anew, arriving(url, "bob", where) as bob:
            await welcomed(anew)
            await welcomed(bob)


@WHERE
async def test_only_a_token_of_its_own_session_that_is_good_lets_an_identity_have_one_more(
    where: str,
) -> None:
    app = hall_for_one(where)
    async with serving(app) as base:
        async with arriving(f"{base}/hall/a", "ada", where) as first:
            used = await welcomed(first)
            async with (
                arriving(f"{base}/hall/a", "ada", where, used) as second,
                contextlib.AsyncExitStack() as rest,
            ):
                token = await welcomed(second)
                await second.expect("resumed")
                async with arriving(f"{base}/hall/a", "ada", where, token) as third:
                    await welcomed(third)
                    await third.expect("resumed")
                    bob = await rest.enter_async_context(arriving(f"{base}/hall/a", "bob", where))
                    for path, wrong in (
                        *(("a", shown) for shown in (used, "forged", await welcomed(bob))),
                        ("b", token),
                    ):
                        async with arriving(f"{base}/hall/{path}", "ada", where, wrong) as refused:
                            assert (await expect_close(refused, 4429)).startswith("WS_QUOTA_EXCEEDED")
                    assert (await third.request("echo", 1))["data"] == 1


async def test_those_that_have_not_said_whether_they_come_back_are_as_many_as_may_be_at_most() -> None:
    app = AquilaSockets.from_controllers([Hall], auth=Names(), max_connections_per_identity=2)
    options, _ = show("ada", "handshake")
    async with serving(app) as base, contextlib.AsyncExitStack() as guests:
        for _ in range(2):
            await guests.enter_async_context(RealClient.connect(f"{base}/hall/a", **options))
        for _ in range(2):
            silent = RealClient.connect(f"{base}/hall/a", "v1.json", hello=False, **options)
            await guests.enter_async_context(silent)
        async with RealClient.connect(f"{base}/hall/a", "v1.json", hello=False, **options) as refused:
            await expect_close(refused, 4429)
        assert (await denial(f"{base}/hall/a", **options))[0] == 429


class Closed(SocketGuard):
    def check_handshake(self, handshake: Any) -> bool:
        return handshake.query_params.get("let_in") == "1"


async def test_whoever_a_guard_does_not_let_in_is_not_counted() -> None:
    ada = Identity("ada")
    limits = {"max_connections_per_address": 1, "max_connections_per_identity": 1}
    async with sockets_test(Hall, guards=[Closed()], **limits, max_connections_per_namespace=1) as t:
        for _ in range(3):
            assert (await refusal(t, identity=ada)).code == "WS_FORBIDDEN"
        await t.connect("/hall/a", identity=ada, query={"let_in": 1})


async def test_a_namespace_has_so_many_connections_and_the_controllers_word_goes_first() -> None:
    roomy = Socket("/roomy", max_connections_per_namespace=2)(type("Roomy", (SocketController,), {}))
    async with sockets_test(Hall, roomy, max_connections_per_namespace=1) as t:
        first = await t.connect("/hall/a")
        refused = await refusal(t)
        assert (refused.status, refused.code) == (503, "WS_OVERLOADED")
        await t.connect("/hall/b")
        await t.connect("/roomy")
        await t.connect("/roomy")
        await refusal(t, "/roomy")
        await first.disconnect()
        await t.connect("/hall/a")
        assert limited(t, "max_connections_per_namespace") == 1
        assert limited(t, "max_connections_per_namespace", "/roomy") == 1


async def test_the_bound_of_all_connections_is_counted_as_well() -> None:
    async with sockets_test(Hall, max_connections=1) as t:
        await t.connect("/hall/a")
        assert (await refusal(t)).status == 503
        assert limited(t, "max_connections") == 1


async def test_a_client_without_an_address_is_not_limited_by_it() -> None:
    class Unaddressed:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "client": None}, receive, send)

    app = AquilaSockets.from_controllers([Hall], handshake_rate=0.1, max_connections_per_address=1)
    async with serving(Unaddressed(app)) as base, RealClient.connect(f"{base}/hall/a"):
        for _ in range(3):
            async with RealClient.connect(f"{base}/hall/a"):
                pass


async def test_what_was_refused_by_a_limit_is_among_the_metrics() -> None:
    app = AquilaSockets.from_controllers([Hall], max_connections_per_address=1, metrics=True)
    async with serving(app) as base, RealClient.connect(f"{base}/hall/a"):
        await denial(f"{base}/hall/a")
        async with httpx.AsyncClient(trust_env=False) as http:
            told = (await http.get(f"{base.replace('ws', 'http', 1)}/metrics")).text
    line = 'aquilia_limited_total{limit="max_connections_per_address",pattern="/hall/:name"} 1.0'
    assert line in told
