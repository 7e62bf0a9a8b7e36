"""The identity of a connection that is open: its expiry, `auth`, and publications to it; over both transports."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from door import denial, expect_close, listening
from members import CONTROLLERS, Open, Slow, bearer, by_cookie, hello, who
from tokens import JWT, token
from websockets import ConnectionClosed
from wire import Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, MessageAuthGuard, Socket, SocketController


@pytest.fixture
def users() -> Slow:
    return Slow()


@pytest.fixture
def app(users: Slow) -> AquilaSockets:
    return AquilaSockets.from_controllers(
        CONTROLLERS, auth=users, middleware=[by_cookie], handshake_timeout=5
    )


async def test_welcome_tells_when_the_identity_expires(base: str, users: Slow) -> None:
    users.expires_at["ann"] = moment = time.time() + 60
    async with Client.connect(f"{base}/members", "v1.json", **bearer("ann")) as client:
        assert client.welcome["payload"]["expires"] == int(moment * 1000)
    async with Client.connect(f"{base}/members", "v1.json", **bearer("bob")) as client:
        assert "expires" not in client.welcome["payload"]


@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_a_connection_ends_when_its_identity_expires(base: str, users: Slow, profile: str) -> None:
    users.expires_at["ann"] = time.time() + 0.4
    async with Client.connect(f"{base}/members", profile, **bearer("ann")) as client:
        assert await who(client) == "ann"
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")
    assert time.time() >= users.expires_at["ann"]


@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_an_identity_that_has_expired_already_is_told_so(base: str, profile: str) -> None:
    cookie = {"cookie": "user=gone"}
    async with Client.connect(f"{base}/open", profile, hello=False, additional_headers=cookie) as client:
        if profile != "plain":
            await hello(client)
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")


async def test_auth_brings_a_new_expiry(base: str, users: Slow) -> None:
    users.expires_at["ann"] = time.time() + 0.5
    async with Client.connect(f"{base}/members", "v1.json", **bearer("ann")) as client:
        users.expires_at["ann"] = renewed = time.time() + 1.5
        answer = await client.request("auth", {"token": "ann"}, type="control")
        assert answer == {"status": "ok", "data": {"expires": int(renewed * 1000)}}
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")
    assert time.time() >= renewed


async def test_auth_replaces_the_identity_and_needs_no_id(base: str) -> None:
    manager = JWT
    app = AquilaSockets.from_controllers([Open], auth=manager)
    async with (
        serving(app) as own,
        Client.connect(f"{own}/open", "v1.json", **bearer(token(roles=["old"]))) as client,
    ):
        await client.send("auth", {"token": token(roles=["new"])}, type="control")
        async with asyncio.timeout(5):
            while (await client.request("roles"))["data"] != ["new"]:
                pass


@pytest.mark.parametrize(
    ("bad", "told"),
    [("bob", "another identity"), ("ann/bad", "WS_AUTH_REQUIRED"), ("ann/old", "WS_TOKEN_EXPIRED")],
)
async def test_auth_with_a_wrong_token_closes(base: str, bad: str, told: str) -> None:
    async with Client.connect(f"{base}/open", "v1.json", **bearer("ann")) as client:
        await client.send("auth", {"token": bad}, type="control", id="1")
        assert told in await expect_close(client, 4401)


async def test_an_anonymous_connection_stays_anonymous(base: str) -> None:
    async with Client.connect(f"{base}/open", "v1.json") as client:
        await client.send("auth", {"token": "ann"}, type="control", id="1")
        assert "anonymous" in await expect_close(client, 4401)


async def test_a_malformed_auth_and_a_manager_that_fails_leave_the_connection(base: str) -> None:
    async with Client.connect(f"{base}/open", "v1.json", **bearer("ann")) as client:
        for payload in (None, {}, [], {"token": 5}, {"token": ""}):
            answer = await client.request("auth", payload, type="control")
            assert answer["error"]["code"] == "WS_MESSAGE_INVALID"
        answer = await client.request("auth", {"token": "broken"}, type="control")
        assert answer["error"]["code"] == "WS_INTERNAL_ERROR"
        assert await who(client) == "ann"


async def test_the_log_says_on_whose_connection_a_manager_failed(base: str) -> None:
    with listening() as complaints:
        async with Client.connect(f"{base}/open", "v1.json", **bearer("ann")) as renewing:
            await renewing.request("auth", {"token": "broken"}, type="control")
        async with Client.connect(f"{base}/open", "v1.json", hello=False) as arriving:
            await arriving.send("hello", {"token": "broken"}, type="control")
            await expect_close(arriving, 1011)
    told = [vars(record) for record in complaints.records if record.name == "aquilia.faults"]
    assert [record["where"] for record in told] == ["auth of Open", "hello of Open"]
    assert [record["namespace"] for record in told] == ["/open", "/open"]
    assert told[0]["connection"] == renewing.welcome["payload"]["connection"]
    assert told[1]["connection"] not in (None, told[0]["connection"])


async def test_one_auth_at_a_time_which_does_not_hold_up_the_messages(base: str, users: Slow) -> None:
    users.let_go.set()
    async with Client.connect(f"{base}/open", "v1.json", **bearer("slow")) as client:
        users.let_go.clear()
        await client.send("auth", {"token": "slow"}, type="control", id="first")
        second = await client.request("auth", {"token": "slow"}, type="control")
        assert second["error"]["code"] == "WS_OVERLOADED"
        assert await who(client) == "slow"
        users.let_go.set()
        assert (await client.receive())["id"] == "first"


async def test_publications_to_an_identity_find_who_said_it_in_hello(base: str) -> None:
    async with (
        Client.connect(f"{base}/open", "v1.json", hello=False) as ann,
        Client.connect(f"{base}/open", "v1.json", **bearer("bob")) as bob,
        Client.connect(f"{base}/open", "v1.json") as nobody,
    ):
        await hello(ann, token="ann")
        await ann.expect("welcome")
        await bob.send("auth", {"token": "bob"}, type="control", id="1")
        assert (await bob.receive())["type"] == "ack"

        for name in ("ann", "bob", "carl"):
            assert (await nobody.request("tell", [name, f"hi {name}"]))["status"] == "ok"
        assert (await ann.receive())["payload"] == "hi ann"
        assert (await bob.receive())["payload"] == "hi bob"
        await nobody.send("who", id="last", ack=True)
        assert (await nobody.receive())["id"] == "last"  # nothing was told to who is nobody


async def test_who_leaves_during_auth_leaves_nothing_behind(
    base: str, app: AquilaSockets, users: Slow
) -> None:
    users.let_go.set()
    async with Client.connect(f"{base}/open", "v1.json", **bearer("slow")) as client:
        users.let_go.clear()
        await client.send("auth", {"token": "slow"}, type="control", id="1")
        await eventually(lambda: "asked slow" in users.asked)
    await eventually(lambda: app.live()["connections"] == 0)
    await eventually(lambda: app.live()["tasks"] == 0)


@pytest.mark.parametrize("moment", [1e17, 1e308])
@pytest.mark.parametrize("profile", ["plain", "v1.json", "v1.msgpack", "v1.cbor"])
async def test_a_moment_that_no_number_can_tell_of_is_never(
    base: str, users: Slow, profile: str, moment: float
) -> None:
    users.expires_at["ann"] = moment
    async with Client.connect(f"{base}/members", profile, **bearer("ann")) as client:
        if profile != "plain":
            assert "expires" not in client.welcome["payload"]
            assert await client.request("auth", {"token": "ann"}, type="control") == {"status": "ok"}
        assert await who(client) == "ann"


class Own:
    """An identity of an application's own."""

    def __init__(self, id: Any, expires_at: Any) -> None:
        self.id = id
        self.expires_at = expires_at


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        (Own(["ann"], None), "Own.id"),
        (Own("ann", float("nan")), "Own.expires_at"),
        (Own("ann", "tomorrow"), "Own.expires_at"),
        (Own("ann", datetime.now(UTC)), "Own.expires_at"),
    ],
)
async def test_an_identity_of_an_own_kind_that_cannot_be_kept_is_refused(
    transport: Any, identity: Own, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def recognised(ctx: Any, call_next: Any) -> Any:
        ctx.identity = identity
        return await call_next(ctx)

    app = AquilaSockets.from_controllers([Open], middleware=[recognised])
    async with serving(app, ws=transport) as base:
        status, body = await denial(f"{base}/open")
        assert (status, body["code"]) == (500, "WS_INTERNAL_ERROR")
        assert app.live()["connections"] == 0
    assert told in caplog.text


async def test_an_identity_of_an_own_kind_need_not_expire(transport: Any) -> None:
    async def recognised(ctx: Any, call_next: Any) -> Any:
        ctx.identity = Own("ann", float("inf"))
        return await call_next(ctx)

    async with serving(AquilaSockets.from_controllers([Open], middleware=[recognised]), ws=transport) as base:
        async with Client.connect(f"{base}/open", "v1.json") as client:
            assert "expires" not in client.welcome["payload"]
            assert await who(client) == "ann"


async def comes_back(client: Client, user: str, resume: str) -> dict[str, Any]:
    await client.send("hello", {"token": user, "resume": {"token": resume}}, type="control")
    welcome = await client.expect("welcome")
    await client.expect("resumed")
    return dict(welcome["payload"])


async def test_who_comes_back_to_a_session_stays_as_long_as_the_token_it_comes_back_with(
    base: str, users: Slow
) -> None:
    async with Client.connect(f"{base}/members", "v1.json", **bearer("ann")) as client:
        resume = client.welcome["payload"]["resume"]
        client.socket.transport.abort()
    users.expires_at["ann"] = moment = time.time() + 0.5
    async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
        assert (await comes_back(client, "ann", resume))["expires"] == int(moment * 1000)
        assert await who(client) == "ann"
        assert (await expect_close(client, 4401)).startswith("WS_TOKEN_EXPIRED")
    assert time.time() >= moment


async def test_who_came_back_is_asked_about_as_others_are() -> None:
    @Socket("/guarded")
    class Guarded(SocketController):
        @Event("do", guards=[MessageAuthGuard(check_interval=0.05)])
        async def do(self, conn: Connection) -> bool:
            return conn.resumed

    users = Slow()
    async with serving(AquilaSockets.from_controllers([Guarded], auth=users)) as base:
        async with Client.connect(f"{base}/guarded", "v1.json", **bearer("ann")) as client:
            resume = client.welcome["payload"]["resume"]
            client.socket.transport.abort()
        async with Client.connect(f"{base}/guarded", "v1.json", hello=False) as client:
            await comes_back(client, "ann", resume)
            while not users.checked:
                assert (await client.request("do"))["data"] is True
            users.revoked.add("ann")
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await client.request("do")
            assert (await client.closed())[0] == 4401
