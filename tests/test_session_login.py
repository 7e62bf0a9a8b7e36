"""Who is logged in to a session: for requests and for connections, and never by what a client could put there."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import websockets
from session_pages import SECRET
from tokens import Passwords
from wire import TRANSPORTS, Client, serving

from aquilia import (
    GET,
    POST,
    AppManifest,
    Controller,
    Identity,
    MemorySessionStore,
    RequestCtx,
    Session,
    SessionEngine,
)
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.clock import now
from aquilia.identity import packed, unpacked
from aquilia.sockets import (
    Connection,
    Event,
    HandshakeAuthGuard,
    RoleGuard,
    Socket,
    SocketController,
)
from aquilia.testing import sockets_test

FULL = Identity(
    "ann",
    type="service",
    roles=["admin", "lead"],
    scopes=["a", "b:c"],
    attributes={"n": 1, "deep": {"l": [1.5, None, True, b"x"]}, "at": dt.datetime(2030, 1, 1, tzinfo=dt.UTC)},
    expires_at=4_000_000_000.5,
)
USERS: dict[str, Identity] = {"ann": FULL, "bob": Identity("bob")}


class Colour(enum.StrEnum):
    RED = "red"


class Login(Controller):
    @POST("/login", status=204)
    async def login(self, ctx: RequestCtx, name: str) -> None:
        ctx.session.login(USERS[name])
        assert ctx.identity == USERS[name]

    @POST("/logout", status=204)
    async def logout(self, ctx: RequestCtx) -> None:
        await ctx.session.logout()
        assert ctx.identity is None

    @POST("/put", status=204)
    async def put(self, ctx: RequestCtx, body: dict[str, Any]) -> None:
        ctx.session.update(body)

    @GET("/who")
    async def who(self, ctx: RequestCtx) -> Any:
        return None if ctx.identity is None else {"id": ctx.identity.id, "session": dict(ctx.session)}

    @GET("/plain")
    async def plain(self) -> str:
        return "plain"


@Socket("/inbox", require_auth=True)
class Inbox(SocketController):
    @Event("who")
    async def who(self, conn: Connection) -> Any:
        return conn.identity.id

    @Event("same")
    async def same(self, conn: Connection) -> bool:
        return bool(conn.identity == USERS[conn.identity.id])


@Socket("/guarded", guards=[HandshakeAuthGuard(require_session=True), RoleGuard("admin")])
class Guarded(Inbox):
    pass


@Socket("/shared", allowed_origins=["https://friend.example"])
class Shared(SocketController):
    @Event("who")
    async def who(self, conn: Connection) -> Any:
        return None if conn.identity is None else conn.identity.id


def application(**more: Any) -> Application:
    manifest = AppManifest(
        "mail", controllers=[Login, Inbox, Guarded, Shared], sessions=SessionEngine(SECRET), **more
    )
    return Application(Registry.build([manifest]))


@pytest.fixture(params=TRANSPORTS)
async def base(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serving(application(auth=Passwords()), ws=TRANSPORTS[request.param]) as base:
        yield base


def browser(base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base.replace("ws", "http", 1), trust_env=False)


def cookie(http: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    told = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    return {"additional_headers": {"cookie": told, **headers}}


async def refused(url: str, **options: Any) -> int:
    with pytest.raises(websockets.InvalidStatus) as refusal:
        async with Client.connect(url, **options):
            pass
    return int(refusal.value.response.status_code)


async def test_a_login_is_the_identity_of_requests_and_connections_without_loss(base: str) -> None:
    async with browser(base) as http:
        assert await refused(f"{base}/inbox") == 401
        await http.post("/login?name=ann")
        assert (await http.get("/who")).json() == {"id": "ann", "session": {}}
        for path in ("/inbox", "/guarded"):
            async with Client.connect(base + path, **cookie(http)) as client:
                assert (await client.request("who"))["data"] == "ann"
                assert (await client.request("same"))["data"] is True


async def test_after_a_logout_nobody_is_logged_in_and_the_cookie_is_worth_nothing(base: str) -> None:
    async with browser(base) as http:
        await http.post("/login?name=ann")
        stolen = cookie(http)
        await http.post("/logout")
        assert (await http.get("/who")).content == b""
        assert await refused(f"{base}/inbox", **stolen) == 401


async def test_a_login_changes_the_id_so_that_a_planted_one_opens_nothing(base: str) -> None:
    async with browser(base) as http:
        await http.post("/put", json={"cart": [7]})
        planted = cookie(http)
        await http.post("/login?name=bob")
        assert (await http.get("/who")).json() == {"id": "bob", "session": {"cart": [7]}}
        assert await refused(f"{base}/inbox", **planted) == 401


async def test_who_logs_in_as_somebody_else_finds_nothing_of_the_first(base: str) -> None:
    async with browser(base) as http:
        await http.post("/login?name=ann")
        await http.post("/put", json={"draft": "of ann"})
        await http.post("/login?name=ann")
        assert (await http.get("/who")).json()["session"] == {"draft": "of ann"}
        await http.post("/login?name=bob")
        assert (await http.get("/who")).json() == {"id": "bob", "session": {}}


async def test_a_client_that_chooses_its_keys_cannot_log_itself_in(base: str) -> None:
    async with browser(base) as http:
        answer = await http.post("/put", json={"aquilia.identity": packed(FULL).hex()})
        assert answer.status_code == 500
        assert (await http.get("/who")).content == b""


async def test_a_token_goes_before_the_session(base: str) -> None:
    async with browser(base) as http:
        await http.post("/login?name=bob")
        bearer = {"authorization": "Bearer root"}
        assert (await http.get("/who", headers=bearer)).json()["id"] == "root"
        async with Client.connect(f"{base}/inbox", **cookie(http, **bearer)) as client:
            assert (await client.request("who"))["data"] == "root"
        assert await refused(f"{base}/inbox", **cookie(http, authorization="Bearer x/bad")) == 401


async def test_a_page_of_a_foreign_origin_never_gets_its_visitors_session(base: str) -> None:
    own = base.replace("ws", "http", 1)
    async with browser(base) as http:
        await http.post("/login?name=ann")
        for origin in ("https://evil.example", "null", own + ".evil.example", own + "1"):
            assert await refused(f"{base}/inbox", **cookie(http, origin=origin)) == 403
            assert await refused(f"{base}/shared", **cookie(http, origin=origin)) == 403
        assert await refused(f"{base}/shared", **cookie(http, origin=own)) == 403
        async with Client.connect(f"{base}/inbox", **cookie(http, origin=own)) as client:
            assert (await client.request("who"))["data"] == "ann"
        friend = cookie(http, origin="https://friend.example")
        async with Client.connect(f"{base}/shared", **friend) as client:
            assert (await client.request("who"))["data"] == "ann"


async def test_a_connection_cannot_log_in_for_it_can_set_no_cookie() -> None:
    told: list[str] = []

    @Socket("/late")
    class Late(SocketController):
        @Event("login")
        async def login(self, conn: Connection) -> None:
            try:
                conn.session.login(FULL)
            except RuntimeError as error:
                told.append(str(error))

    async with sockets_test(Late, sessions=SessionEngine(SECRET)) as t:
        await (await t.connect("/late", session={"a": 1})).request("login")
    assert "no cookie" in told[0]


def test_an_identity_that_has_expired_is_nobody() -> None:
    session = Session(MemorySessionStore(), 60)
    session.login(soon := Identity("ann", expires_at=now() + 60))
    assert session.identity == soon
    session.login(Identity("ann", expires_at=now() - 1))
    assert session.identity is None


async def test_who_reads_the_identity_has_read_the_cookie_and_others_have_not(base: str) -> None:
    async with browser(base) as http:
        assert "cookie" in (await http.get("/who")).headers["vary"].lower()
        assert "vary" not in (await http.get("/plain")).headers


def test_a_session_with_a_login_alone_is_not_empty_and_shows_no_key() -> None:
    session = Session(MemorySessionStore(), 60)
    assert not session
    session.login(FULL)
    assert session
    assert (dict(session), len(session), "aquilia.identity" in session) == ({}, 0, False)
    with pytest.raises(KeyError):
        session["aquilia.identity"]
    with pytest.raises(KeyError):
        del session["aquilia.identity"]
    session.clear()
    assert session.identity is None


def test_an_identity_comes_back_as_it_was() -> None:
    assert unpacked(packed(FULL)) == FULL
    assert unpacked(packed(Identity("a"))) == Identity("a")


def unkeepable() -> Iterator[Any]:
    yield from [(1, 2), {1}, uuid.uuid4(), dt.datetime(2030, 1, 1), Colour.RED, {1: "a"}, 1 << 70, object()]
    yield [Colour.RED]
    endless: list[Any] = []
    endless.append(endless)
    yield endless


@pytest.mark.parametrize("value", list(unkeepable()), ids=lambda value: type(value).__name__)
def test_what_would_come_back_as_something_else_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"attributes\['colour'\] cannot be kept"):
        packed(Identity("a", attributes={"colour": value}))


def test_an_identity_of_the_applications_own_kind_is_refused() -> None:
    class Mine(Identity):
        pass

    for identity in (Mine("a"), object()):
        with pytest.raises(TypeError, match=r"only an aquilia\.Identity can be kept"):
            packed(identity)
