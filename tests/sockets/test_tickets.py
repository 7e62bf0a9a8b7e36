"""Tickets: who is logged in gets one over HTTP, and it opens one handshake, to one namespace, for half a minute."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from door import denial, expect_close
from fastapi import FastAPI
from members import PLAIN, V1, bearer, encoded, offering
from tokens import Passwords
from wire import TRANSPORTS, Client, serving

import aquilia.client
from aquilia import GET, POST, AppManifest, Controller, Identity, RequestCtx, SessionEngine
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.clock import Clock
from aquilia.middleware import CallNext
from aquilia.sockets import AquilaSockets, Connection, Event, RoleGuard, Socket, SocketController, SocketFault
from aquilia.sockets.adapters.inmemory import InMemoryStore
from aquilia.sockets.handshake.tickets import PER_IDENTITY, Tickets
from aquilia.testing import SocketsTest, sockets_test

SECRET = "a secret of 32 bytes, or of more"
ANN = Identity("ann", roles=["reader"], scopes=["a"], attributes={"team": ["x"]})


class Login(Controller):
    @POST("/login", status=204)
    async def login(self, ctx: RequestCtx) -> None:
        ctx.session.login(ANN)


@Socket("/chat/:room", require_auth=True)
class Chat(SocketController):
    @Event("who")
    async def who(self, conn: Connection) -> Any:
        assert "ticket" not in conn.query_params
        return [conn.identity.id, sorted(conn.identity.roles), dict(conn.identity.attributes)]

    @Event("query")
    async def query(self, conn: Connection) -> Any:
        return conn.query_params.multi_items()


@Socket("/friends", require_auth=True, allowed_origins=["https://friend.example"])
class Friends(Chat):
    pass


@Socket("/readers", guards=[RoleGuard("reader", "admin")])
class Readers(Chat):
    pass


@Socket("/chat/:room")
class Open(Chat):
    pass


CONTROLLERS = [Chat, Friends, Readers]


def application(**more: Any) -> Application:
    manifest = AppManifest(
        "chat",
        controllers=[Login, *CONTROLLERS],
        sessions=SessionEngine(SECRET),
        auth=Passwords(),
        websockets={"tickets": True, **more},
    )
    return Application(Registry.build([manifest]))


@pytest.fixture(params=TRANSPORTS)
async def base(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serving(application(), ws=TRANSPORTS[request.param]) as base:
        yield base


def http(base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base.replace("ws", "http", 1), trust_env=False)


async def ask(base: str, namespace: Any = "/chat/a", token: str = "ann", **options: Any) -> httpx.Response:
    async with http(base) as client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        headers |= options.pop("headers", {})
        return await client.post(
            options.pop("path", "/ws/ticket"), json={"namespace": namespace}, headers=headers
        )


async def ticket(base: str, namespace: str = "/chat/a", **options: Any) -> str:
    answer = await ask(base, namespace, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


async def who(client: Client) -> Any:
    return (await client.request("who"))["data"][0]


# Three ways to bring it


async def test_a_ticket_comes_among_the_subprotocols_and_is_never_echoed(base: str) -> None:
    for offered in ([PLAIN], [V1]):
        entry = f"aquilia.ticket.{await ticket(base)}"
        profile = "v1.json" if offered == [V1] else "plain"
        async with Client.connect(f"{base}/chat/a", profile, **offering(entry, *offered)) as client:
            assert client.socket.subprotocol == offered[0]
            assert await who(client) == "ann"


async def test_a_ticket_comes_in_the_url_and_nobody_reads_it_there(base: str) -> None:
    url = f"{base}/chat/a?x=1%2B&ticket={await ticket(base)}&y=&x=2"
    async with Client.connect(url) as client:
        assert await who(client) == "ann"
        assert (await client.request("query"))["data"] == [["x", "1+"], ["y", ""], ["x", "2"]]


async def test_a_ticket_comes_in_hello(base: str) -> None:
    for path in ("/chat/a", "/readers"):  # a guard's verdict waits for it
        async with Client.connect(base + path, "v1.json", hello=False) as client:
            given = await ticket(base, path, token="root")
            await client.send(type="control", event="hello", payload={"ticket": given})
            await client.expect("welcome")
            assert await who(client) == "root"


# What it is worth


async def test_a_ticket_opens_one_connection(base: str) -> None:
    url = f"{base}/chat/a?ticket={await ticket(base)}"
    async with Client.connect(url):
        assert await denial(url) == await denial(f"{base}/chat/a?ticket=never-was-one")
    status, body = await denial(url)
    assert (status, body["code"], body["message"]) == (401, "WS_AUTH_REQUIRED", "the ticket is not valid")


async def test_of_many_who_come_with_one_ticket_one_gets_in(base: str) -> None:
    url = f"{base}/chat/a?ticket={await ticket(base)}"

    async def enters() -> bool:
        try:
            async with Client.connect(url) as client:
                return bool(await who(client) == "ann")
        except websockets.InvalidStatus:
            return False

    assert sorted(await asyncio.gather(*(enters() for _ in range(8)))) == [False] * 7 + [True]


async def test_a_ticket_opens_no_other_namespace_and_is_used_up_by_the_attempt(base: str) -> None:
    for wrong in ("/chat/b", "/readers"):
        given = await ticket(base)
        status, body = await denial(f"{base}{wrong}?ticket={given}")
        assert (status, body["message"]) == (401, "the ticket is not valid")
        assert (await denial(f"{base}/chat/a?ticket={given}"))[0] == 401


async def test_a_namespace_has_one_spelling(base: str) -> None:
    given = await ticket(base, "//chat///é/")
    async with Client.connect(f"{base}/chat/%C3%A9/?ticket={given}") as client:
        assert await who(client) == "ann"


@pytest.mark.parametrize("wrong", ["", "x", "a" * 43, "A" * 5000, "%00", "é", "%FF%FE", "a+b"])
async def test_what_is_no_ticket_is_refused_in_the_same_words(base: str, wrong: str) -> None:
    status, body = await denial(f"{base}/chat/a?ticket={wrong}")
    assert (status, body["code"], body["message"]) == (401, "WS_AUTH_REQUIRED", "the ticket is not valid")


async def test_a_used_ticket_in_hello_closes_with_4401(base: str) -> None:
    given = await ticket(base)
    async with Client.connect(f"{base}/chat/a?ticket={given}"):
        pass
    async with Client.connect(f"{base}/chat/a", "v1.json", hello=False) as client:
        await client.send(type="control", event="hello", payload={"ticket": given})
        await expect_close(client, 4401)


async def test_more_than_one_credential_is_refused(base: str) -> None:
    one, two = await ticket(base), await ticket(base)
    entry = f"aquilia.ticket.{two}"
    for query, options in (
        (f"?ticket={one}&ticket={two}", {}),
        (f"?ticket={one}&%74icket={two}", {}),
        (f"?ticket={one}", bearer("ann")),
        (f"?ticket={one}", offering(PLAIN, encoded("ann"))),
        (f"?ticket={one}", offering(PLAIN, entry)),
        ("", offering(PLAIN, entry, encoded("ann"))),
    ):
        status, body = await denial(f"{base}/chat/a{query}", **options)
        assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
        assert "more than one" in body["message"]
    async with Client.connect(f"{base}/chat/a?ticket={one}"):  # none of these has used it up
        pass
    async with Client.connect(f"{base}/chat/a", "v1.json", hello=False) as client:
        await client.send(type="control", event="hello", payload={"token": "ann", "ticket": two})
        await expect_close(client, 4400)


async def test_a_ticket_expires_after_half_a_minute() -> None:
    async with kit() as (t, post):
        given = [await post(), await post()]
        await t.clock.advance(29)
        await t.connect("/chat/a", query={"ticket": given[0]})
        await t.clock.advance(1)
        assert await refusal(t, query={"ticket": given[1]}) == "the ticket is not valid"


# Who gets one


async def test_a_ticket_is_the_whole_identity_of_a_login(base: str) -> None:
    async with http(base) as client:
        await client.post("/login")
        answer = await client.post("/ws/ticket", json={"namespace": "/readers"})
        assert (answer.status_code, answer.json()["expires_in"]) == (200, 30)
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.json()["ticket"]) == 43
    async with Client.connect(f"{base}/readers?ticket={answer.json()['ticket']}") as found:
        assert (await found.request("who"))["data"] == ["ann", ["reader"], {"team": ["x"]}]


async def test_who_is_not_logged_in_gets_none(base: str) -> None:
    anonymous = await ask(base, token="")
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "WS_AUTH_REQUIRED")
    assert anonymous.headers["www-authenticate"] == "Bearer"
    wrong = await ask(base, token="ann/bad")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "AUTH_TOKEN_INVALID")
    assert wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert {anonymous.headers["cache-control"], wrong.headers["cache-control"]} == {"no-store"}


async def test_a_page_of_a_foreign_origin_makes_none_with_its_visitors_cookie(base: str) -> None:
    own, friend = base.replace("ws", "http", 1), "https://friend.example"
    async with http(base) as client:
        await client.post("/login")

        async def asks(namespace: str, origin: str) -> int:
            wanted = {"namespace": namespace}
            return (await client.post("/ws/ticket", json=wanted, headers={"origin": origin})).status_code

        for origin in ("https://evil.example", "null", friend):
            assert await asks("/chat/a", origin) == 403
            assert await asks("/nowhere", origin) == (404 if origin == friend else 403)
        assert await asks("/chat/a", own) == 200
        assert await asks("/friends", friend) == 200
        assert await asks("/friends", own) == 403


async def test_a_host_that_is_not_ours_makes_none() -> None:
    async with serving(application(allowed_hosts=["chat.example"])) as base:
        assert (await ask(base)).status_code == 400
        assert (await ask(base, headers={"host": "chat.example"})).status_code == 200


async def test_a_namespace_that_nobody_serves_is_told_with_the_nearest(base: str) -> None:
    answer = await ask(base, "/freinds")
    assert (answer.status_code, answer.json()["code"]) == (404, "WS_NAMESPACE_NOT_FOUND")
    assert "did you mean '/friends'?" in answer.json()["message"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"[]", 422, "body"),
        (b"{}", 422, "namespace"),
        (b'{"namespace": 7}', 422, "namespace"),
        (b'{"namespace": "chat/a"}', 422, "begins with '/'"),
        (b'{"namespace": "/\\ud800"}', 400, "JSON"),
        (b'{"namespace": "/chat/..\\u0000"}', 404, "no socket controller"),
        (b'{"namespace": "' + b"x" * 20_000 + b'"}', 413, "limit"),
        (b"[" * 15_000, 400, "JSON"),
    ],
)
async def test_a_wrong_body_is_told_what_is_wrong(base: str, body: bytes, status: int, word: str) -> None:
    async with http(base) as client:
        headers = {"authorization": "Bearer ann", "content-type": "application/json"}
        answer = await client.post("/ws/ticket", content=body, headers=headers)
        assert (answer.status_code, word in answer.text) == (status, True), answer.text
        assert answer.headers["cache-control"] == "no-store"


async def test_a_form_of_a_page_is_no_request_and_nor_is_a_get(base: str) -> None:
    async with http(base) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            answer = await client.post(
                "/ws/ticket", content=b'{"namespace": "/chat/a"}', headers={"content-type": kind}
            )
            assert answer.status_code == 415
        answer = await client.get("/ws/ticket")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_the_apps_middleware_stands_before_it_and_may_say_who_it_is() -> None:
    async def by_header(ctx: RequestCtx, call_next: CallNext) -> Any:
        if ctx.kind == "http":
            assert (await ctx.json())["namespace"] == "/chat/a"
            ctx.identity = Identity(ctx.headers["x-user"])
        response = await call_next(ctx)
        response.headers["x-seen"] = "yes"
        return response

    sockets = AquilaSockets.from_controllers([Open], middleware=[by_header], tickets="/t")
    async with serving(sockets) as base:
        answer = await ask(base, token="", headers={"x-user": "eve"}, path="/t")
        assert answer.headers["x-seen"] == "yes"
        async with Client.connect(f"{base}/chat/a?ticket={answer.json()['ticket']}") as client:
            assert await who(client) == "eve"


async def test_an_identity_gets_no_more_than_it_needs() -> None:
    seconds = [0.0]
    tickets = Tickets(InMemoryStore(), Clock(monotonic=lambda: seconds[0]))
    for _ in range(PER_IDENTITY):
        await tickets.give(ANN, "/a")
    with pytest.raises(SocketFault, match="WS_RATE_LIMIT_EXCEEDED"):
        await tickets.give(ANN, "/a")
    await tickets.give(Identity("bob"), "/a")
    seconds[0] = 30.0
    await tickets.give(ANN, "/a")


async def test_the_store_never_has_the_ticket() -> None:
    kept: list[tuple[str, bytes]] = []

    class Watched(InMemoryStore):
        async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
            kept.append((key, value))
            assert ttl == 30
            await super().put(key, value, ttl)

    tickets = Tickets(Watched(), Clock())
    given = await tickets.give(ANN, "/a")
    assert given not in f"{kept}"
    assert (await tickets.take(given, "/a")).identity == ANN


async def test_an_identity_that_expires_meanwhile_is_not_taken() -> None:
    tickets = Tickets(InMemoryStore(), Clock())
    given = await tickets.give(Identity("old", expires_at=1.0), "/a")
    with pytest.raises(SocketFault, match="the ticket is not valid"):
        await tickets.take(given, "/a")


# Where it is served


async def test_it_works_in_a_host_application_that_runs_no_lifespan_of_ours() -> None:
    host = FastAPI()
    host.mount("/rt", AquilaSockets.from_controllers([Chat], auth=Passwords(), tickets=True))
    async with serving(host) as base:
        given = await ticket(base, path="/rt/ws/ticket")
        async with Client.connect(f"{base}/rt/chat/a?ticket={given}") as client:
            assert await who(client) == "ann"


async def test_without_the_setting_there_are_none() -> None:
    async with serving(application(tickets=False)) as base:
        assert (await ask(base)).status_code == 404
        status, body = await denial(f"{base}/chat/a", **offering(PLAIN, "aquilia.ticket.x"))
        assert (status, body["message"]) == (400, "this server takes no tickets")
        assert (await denial(f"{base}/chat/a?ticket=x"))[0] == 401
        async with Client.connect(f"{base}/chat/a", "v1.json", hello=False) as client:
            await client.send(type="control", event="hello", payload={"ticket": "x"})
            await expect_close(client, 4400)


class Hidden(Controller):
    @GET("/ws/ticket")
    async def page(self) -> None: ...


@pytest.mark.parametrize(
    ("declared", "word"),
    [
        (
            {"websockets": {"tickets": True, "health": "/ws/ticket"}},
            "tickets and health are both served at /ws/ticket",
        ),
        (
            {"websockets": {"tickets": True}, "controllers": [Chat, Hidden]},
            "where the setting tickets serves",
        ),
        ({"websockets": {"tickets": "x"}}, "True, False, or a path"),
        ({"websockets": {"tickets": True}, "auth": None, "controllers": [Login]}, "nobody could be"),
        ({"websockets": {"query_token": "a b"}}, "name of a parameter"),
        ({"websockets": {"query_token": "ticket"}}, "choose another name"),
        ({"websockets": {"query_token": "t"}, "auth": None, "controllers": [Login]}, "needs an AuthManager"),
    ],
)
def test_what_cannot_work_is_told_at_boot(declared: dict[str, Any], word: str) -> None:
    manifest = AppManifest("chat", **{"controllers": [Chat], "auth": Passwords(), **declared})
    with pytest.raises(BootError, match=word):
        Application(Registry.build([manifest]))


# A token in the query


async def test_a_token_in_the_query_is_taken_where_the_setting_names_it_and_nobody_reads_it_there() -> None:
    async with serving(application(query_token="access_token")) as base:
        async with Client.connect(f"{base}/chat/a?a=1&access_token=root") as client:
            assert await who(client) == "root"
            assert (await client.request("query"))["data"] == [["a", "1"]]
        for query in ("token=ann", "access_token=ann/bad"):
            assert (await denial(f"{base}/chat/a?{query}"))[0] == 401
        for query in ("access_token=", "access_token", "access_token=ann&access_token=ann"):
            assert (await denial(f"{base}/chat/a?{query}"))[0] == 400
        assert (await denial(f"{base}/chat/a?access_token=ann", **bearer("ann")))[0] == 400


# The client


async def test_the_client_asks_for_a_ticket_at_each_attempt(base: str) -> None:
    given: list[str] = []

    async def get() -> str:
        given.append("a" * 43 if len(given) == 0 else await ticket(base))
        return given[-1]

    async with aquilia.client.Client(f"{base}/chat/a", ticket=get, proxy=None, keep_trying=True) as client:
        assert (await client.call("who"))[0] == "ann"
    assert len(given) == 2, "the first was refused"
    await client.connect()
    assert (await client.call("who"))[0] == "ann"
    await client.close()
    assert len(set(given)) == 3


def test_a_client_has_no_ticket_that_is_for_once_and_no_token_besides() -> None:
    with pytest.raises(ValueError, match="give a function"):
        aquilia.client.Client("ws://a", ticket="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not both"):
        aquilia.client.Client("ws://a", ticket=str, token="x")


# The kit


@contextlib.asynccontextmanager
async def kit() -> AsyncIterator[tuple[SocketsTest, Any]]:
    async with sockets_test(Chat, auth=Passwords(), tickets=True) as t:
        transport = httpx.ASGITransport(t.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def post() -> str:
                headers = {"authorization": "Bearer ann"}
                answer = await client.post("/ws/ticket", json={"namespace": "/chat/a"}, headers=headers)
                return str(json.loads(answer.text)["ticket"])

            yield t, post


async def refusal(t: SocketsTest, **options: Any) -> str:
    from aquilia.testing import HandshakeRefused

    with pytest.raises(HandshakeRefused) as refused:
        await t.connect("/chat/a", **options)
    return refused.value.message
