"""Tickets, sessions, tokens and revocation together: what one of them takes back, no other gives again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from door import denial
from tokens import Passwords
from wire import Client, serving

from aquilia import GET, POST, AppManifest, Controller, Identity, RequestCtx, SessionEngine
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.sessions import MemorySessionStore
from aquilia.sockets import AquilaSockets, Connection, Event, Revocations, Socket, SocketController
from aquilia.sockets.adapters.inmemory import InMemoryAdapter, InMemoryStore
from aquilia.sockets.faults import ws_adapter_unavailable

SECRET = "a secret of 32 bytes, or of more"


class Accounts(Controller):
    def __init__(self, revocations: Revocations) -> None:
        self.revocations = revocations

    @POST("/login/:name", status=204)
    async def login(self, ctx: RequestCtx, name: str) -> None:
        ctx.session.login(Identity(name))

    @POST("/logout", status=204)
    async def logout(self, ctx: RequestCtx) -> None:
        await ctx.session.logout()

    @POST("/empty", status=204)
    async def empty(self, ctx: RequestCtx) -> None:
        ctx.session.clear()

    @POST("/shut-out", status=204)
    async def shut_out(self, ctx: RequestCtx) -> None:
        await self.revocations.revoke(session=ctx.session)

    @POST("/ban/:name", status=204)
    async def ban(self, name: str) -> None:
        await self.revocations.revoke(identity=name)

    @GET("/me")
    async def me(self, ctx: RequestCtx) -> str:
        return "nobody" if ctx.identity is None else ctx.identity.id


@Socket("/desk", require_auth=True)
class Desk(SocketController):
    @Event("whoami")
    async def whoami(self, conn: Connection) -> str:
        return str(conn.identity.id)


@Socket("/public", allowed_origins=["*", "https://friend.example"])
class Public(Desk):
    pass


def application(engine: SessionEngine | None = None, **settings: Any) -> Application:
    manifest = AppManifest(
        "desk",
        controllers=[Accounts, Desk, Public],
        sessions=engine or SessionEngine(SECRET),
        auth=Passwords(),
        websockets={"tickets": True, "revocation": True, **settings},
    )
    return Application(Registry.build([manifest]))


@pytest.fixture
async def base() -> AsyncIterator[str]:
    async with serving(application()) as base:
        yield base


def browser(base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base.replace("ws", "http", 1), trust_env=False)


@contextlib.asynccontextmanager
async def logged_in(base: str, name: str = "ann") -> AsyncIterator[httpx.AsyncClient]:
    async with browser(base) as http:
        assert (await http.post(f"/login/{name}")).status_code == 204
        yield http


def cookie(http: httpx.AsyncClient) -> dict[str, Any]:
    return {"additional_headers": {"cookie": "; ".join(f"{k}={v}" for k, v in http.cookies.items())}}


async def ask(http: httpx.AsyncClient, namespace: str = "/desk", **headers: str) -> httpx.Response:
    return await http.post("/ws/ticket", json={"namespace": namespace}, headers=headers)


async def revoked(client: Client) -> bool:
    return await client.closed() == (4401, "WS_AUTH_REQUIRED: access was revoked")


async def test_a_session_that_was_shut_out_buys_no_ticket(base: str) -> None:
    async with logged_in(base) as http:
        assert (await ask(http)).status_code == 200
        assert (await http.post("/shut-out")).status_code == 204
        assert (await ask(http)).status_code == 401


async def test_an_identity_that_is_banned_buys_no_ticket_by_its_session(base: str) -> None:
    async with logged_in(base) as http:
        assert (await http.post("/ban/ann")).status_code == 204
        assert (await ask(http)).status_code == 401


async def test_a_revoked_login_is_nobody_in_a_request_until_the_next(base: str) -> None:
    async with logged_in(base) as http:
        assert (await http.get("/me")).text == "ann"
        assert (await http.post("/ban/ann")).status_code == 204
        assert (await http.get("/me")).text == "nobody"
        assert (await http.post("/login/ann")).status_code == 204
        assert (await http.get("/me")).text == "ann"
        assert (await http.post("/shut-out")).status_code == 204
        assert (await http.get("/me")).text == "nobody"
        assert (await http.post("/login/ann")).status_code == 204
        assert (await http.get("/me")).text == "ann"


async def test_a_ticket_is_worth_nothing_behind_the_logout_of_its_session(base: str) -> None:
    async with logged_in(base) as http:
        given = (await ask(http)).json()["ticket"]
        assert (await http.post("/logout")).status_code == 204
        status, body = await denial(f"{base}/desk?ticket={given}")
        assert (status, body["message"]) == (401, "the ticket is not valid")


async def test_a_logout_ends_what_its_tickets_have_opened(base: str) -> None:
    async with logged_in(base) as http:
        given = (await ask(http)).json()["ticket"]
        async with Client.connect(f"{base}/desk?ticket={given}") as client:
            assert (await client.request("whoami"))["data"] == "ann"
            assert (await http.post("/logout")).status_code == 204
            assert await revoked(client)


@pytest.mark.parametrize("end", ["/login/ben", "/empty", "/logout"])
async def test_connections_end_with_their_session_however_it_ends(base: str, end: str) -> None:
    async with (
        logged_in(base) as http,
        logged_in(base) as elsewhere,
        Client.connect(f"{base}/desk", **cookie(http)) as first,
        Client.connect(f"{base}/desk", **cookie(elsewhere)) as other,
    ):
        assert (await http.post(end)).status_code == 204
        assert await revoked(first)
        assert (await other.request("whoami"))["data"] == "ann"


async def test_a_page_that_only_the_star_lets_in_buys_no_ticket_with_its_visitors_cookie(base: str) -> None:
    async with logged_in(base) as http:
        assert (await ask(http, "/public", origin="https://evil.example")).status_code == 401
        assert (await ask(http, "/public", origin="https://friend.example")).status_code == 200
        assert (await ask(http, "/public")).status_code == 200


async def test_behind_a_trusted_proxy_the_page_is_of_the_same_origin_for_tickets_as_well() -> None:
    sockets = AquilaSockets.from_controllers(
        [Desk], auth=Passwords(), tickets=True, trusted_proxies=["127.0.0.1"]
    )
    async with serving(sockets, proxy_headers=False) as base, browser(base) as http:
        told = {"x-forwarded-proto": "https", "host": "desk.example", "x-forwarded-for": "192.0.2.1"}
        bearer = {"authorization": "Bearer ann"}
        answer = await ask(http, origin="https://desk.example", **told, **bearer)
        assert answer.status_code == 200, answer.text


async def test_a_store_that_two_engines_share_starts_once_also_when_it_is_watched() -> None:
    class Counting(MemorySessionStore):
        starts = 0

        async def start(self) -> None:
            self.starts += 1

    store = Counting()
    engines = [SessionEngine(SECRET, store=store, cookie=name) for name in ("a", "b")]
    first, second = (
        AppManifest("a", controllers=[Desk], sessions=engines[0], websockets={"revocation": True}),
        AppManifest("b", controllers=[Public], sessions=engines[1]),
    )
    async with serving(Application(Registry.build([first, second]))):
        assert store.starts == 1


async def test_the_connections_of_a_login_end_when_its_session_does() -> None:
    engine = SessionEngine(SECRET, max_lifetime=2)
    async with serving(application(engine)) as base, logged_in(base) as http:
        given = (await ask(http)).json()["ticket"]
        async with (
            Client.connect(f"{base}/desk", **cookie(http)) as first,
            Client.connect(f"{base}/desk?ticket={given}") as second,
        ):
            for client in (first, second):
                code, _ = await client.closed()
                assert code == 4401
        assert (await http.get("/me")).text == "nobody"


async def test_where_the_broker_is_is_no_clients_business() -> None:
    class Away(InMemoryStore):
        async def get(self, key: str) -> bytes | None:
            raise ws_adapter_unavailable("NATS at nats://10.1.2.3:4222 did not answer within 5 s")

    adapter = InMemoryAdapter()
    adapter.store = Away()
    settings = {"tickets": True, "revocation": True}
    manifest = AppManifest("desk", controllers=[Desk], auth=Passwords(), websockets=settings)
    sockets = AquilaSockets(Registry.build([manifest]), adapter=adapter)
    async with serving(sockets) as base, browser(base) as http:
        bearer = {"authorization": "Bearer ann"}
        answers = [await ask(http, **bearer), await denial(f"{base}/desk", additional_headers=bearer)]
        assert "WS_ADAPTER_UNAVAILABLE" in answers[0].text
        assert "WS_ADAPTER_UNAVAILABLE" in f"{answers[1]}"
        assert "10.1.2.3" not in f"{answers[0].text} {answers[1]}"
