"""Revocation: access that is taken back ends what is open, and keeps out who comes later, on every node."""

from __future__ import annotations

import asyncio
from time import time
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from joserfc import jwt
from joserfc.jwk import OctKey
from wire import Client, serving

from aquilia import GET, POST, AppManifest, Controller, Identity, JWTAuthManager, RequestCtx, SessionEngine
from aquilia.aquilary import Registry
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Handshake,
    Revocations,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.adapters.inmemory import InMemoryBroker, InMemoryStore
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.testing import HandshakeRefused, SocketsTest, sockets_test

KEY = "the key of these tests: 32 bytes or more"
JWT = JWTAuthManager(KEY, leeway=0)


@Socket("/desk")
class Desk(SocketController):
    @Event("whoami")
    async def whoami(self, conn: Connection) -> str | None:
        return conn.identity.id if conn.identity is not None else None

    @Event("out")
    async def out(self, conn: Connection, payload: dict[str, Any]) -> None:
        await self.revoke(**payload)

    @Event("leave")
    async def leave(self, conn: Connection) -> None:
        await conn.session.invalidate()


def desk(**settings: Any) -> AppManifest:
    return AppManifest("desk", controllers=[Desk], auth=JWT, websockets={"revocation": True, **settings})


def token(id: str = "ann", jti: str | None = None, lifetime: float = 3600) -> str:
    return JWT.issue(Identity(id, token_id=jti), lifetime=lifetime)


def issued(moment: float) -> str:
    """Ann's token of this moment, by the clock of the application."""
    claims = {"sub": "ann", "iat": int(moment), "exp": moment + 3600}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(KEY))


async def revoked(client: Any) -> bool:
    closed = await client.closed()
    return (closed.code, closed.text) == (4401, "WS_AUTH_REQUIRED: access was revoked")


async def refused(t: SocketsTest, token: str, **options: Any) -> bool:
    with pytest.raises(HandshakeRefused) as refusal:
        await t.connect("/desk", token=token, **options)
    return "access was revoked" in str(refusal.value)


# What is revoked


async def test_a_token_ends_its_connections_and_opens_none_again() -> None:
    async with sockets_test(desk()) as t:
        first, second = [await t.connect("/desk", token=token(jti="a")) for _ in range(2)]
        other = await t.connect("/desk", token=token(jti="b"))

        await other.send("out", {"token_id": "a"})

        assert await revoked(first)
        assert await revoked(second)
        assert await other.request("whoami") == "ann"
        assert await refused(t, token(jti="a"))


async def test_an_identity_is_out_with_all_its_tokens_until_it_logs_in_again() -> None:
    async with sockets_test(desk()) as t:
        ann = await t.connect("/desk", token=(old := token(jti="a")))
        ben = await t.connect("/desk", token=token("ben"))

        moment = t.clock.time()
        await ben.send("out", {"identity": "ann"})

        assert await revoked(ann)
        assert await refused(t, old)
        assert await refused(t, issued(moment))  # it says its second only, and might be of a moment later
        await t.clock.advance(1)
        new = await t.connect("/desk", token=issued(t.clock.time()))
        assert await new.request("whoami") == "ann"
        assert await refused(t, old)
        assert await ben.request("whoami") == "ben"


async def test_an_identity_that_does_not_say_since_when_it_is_one_stays_out() -> None:
    async with sockets_test(desk()) as t:
        await t.application.sockets.revoke(identity="ann")
        await t.clock.advance(1)

        with pytest.raises(HandshakeRefused, match="access was revoked"):
            await t.connect("/desk", identity=Identity("ann"))


async def test_a_revocation_is_remembered_as_long_as_the_token_would_be_good_or_a_day() -> None:
    async with sockets_test(desk()) as t:
        revoke, day = t.application.sockets.revoke, 24 * 3600
        week = token(jti="a", lifetime=7 * day)
        ann = (await t.connect("/desk", token=week)) and await JWT.authenticate(week)
        await revoke(token_id=ann)
        await revoke(token_id="b")
        long = {id: token(id, jti=id, lifetime=7 * day) for id in ("b", "c")}
        await revoke(token_id="c", until=t.clock.time() + 3 * day)
        await revoke(token_id="c")  # which shortens nothing

        await t.clock.advance(2 * day)

        assert await refused(t, week)
        await t.connect("/desk", token=long["b"])
        assert await refused(t, long["c"])
        await t.clock.advance(2 * day)
        await t.connect("/desk", token=long["c"])


# Where it is looked at


async def hello(client: Client, token: str) -> None:
    await client.send("hello", {"token": token}, type="control")


async def test_it_is_refused_in_hello_and_in_auth() -> None:
    node = sockets()
    async with serving(node) as base:
        await node.revoke(token_id="a")
        async with Client.connect(f"{base}/desk", "v1.json", hello=False) as client:
            await hello(client, token(jti="a"))
            assert await client.closed() == REVOKED
        async with Client.connect(f"{base}/desk", "v1.json", hello=False) as client:
            await hello(client, token(jti="b"))
            await client.expect("welcome")
            await client.send("auth", {"token": token(jti="a")}, type="control")
            assert await client.closed() == REVOKED


async def test_nobody_comes_back_to_a_session_with_it_but_with_a_new_token() -> None:
    node = sockets()
    async with serving(node) as base:
        async with Client.connect(f"{base}/desk", "v1.json", hello=False) as client:
            await hello(client, token(jti="a"))
            resume = (await client.expect("welcome"))["payload"]["resume"]
            await node.revoke(token_id="a")
            assert await client.closed() == REVOKED
        for jti in ("a", "b"):
            async with Client.connect(f"{base}/desk", "v1.json", hello=False) as client:
                payload = {"token": token(jti=jti), "resume": {"token": resume}}
                await client.send("hello", payload, type="control")
                if jti == "a":
                    assert await client.closed() == REVOKED
                else:
                    await client.expect("welcome")
                    assert "resumed" in (await client.receive()).values()


async def test_a_request_with_a_revoked_token_is_refused_and_di_provides_what_revokes() -> None:
    class Admin(Controller):
        def __init__(self, revocations: Revocations) -> None:
            self.revocations = revocations

        @GET("/me")
        async def me(self, ctx: RequestCtx) -> str:
            return "anybody" if ctx.identity is None else ctx.identity.id

        @POST("/revoke/:jti")
        async def revoke(self, ctx: RequestCtx, jti: str) -> str:
            await self.revocations.revoke(token_id=jti)
            return "done"

    manifest = AppManifest("desk", controllers=[Desk, Admin], auth=JWT, websockets={"revocation": True})
    async with (
        sockets_test(manifest) as t,
        AsyncClient(transport=ASGITransport(app=t.application), base_url="http://localhost") as http,
    ):
        bearer = {"authorization": f"Bearer {token(jti='a')}"}
        ann = await t.connect("/desk", token=token(jti="a"))
        assert (await http.get("/me", headers=bearer)).status_code == 200

        assert (await http.post("/revoke/a")).status_code == 200

        assert await revoked(ann)
        answer = await http.get("/me", headers=bearer)
        assert (answer.status_code, answer.json()["message"]) == (401, "access was revoked")


async def test_what_is_taken_back_is_audited_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="aquilia.audit")
    async with sockets_test(desk()) as t:
        await t.application.sockets.revoke(identity="ann")
        await t.application.sockets.revoke(token_id=Identity("ben", token_id="the token's"))
        await t.application.sockets.revoke(session="the session's")

    told = [(record.event, getattr(record, "identity", ""), record.reason) for record in caplog.records]
    assert told == [
        ("credentials.revoked", "ann", "all that it has so far"),
        ("credentials.revoked", "ben", "a token"),
        ("credentials.revoked", "", "a session"),
    ]


# Sessions


async def test_a_logout_ends_all_connections_of_the_session_its_own_too() -> None:
    sessions = SessionEngine("a secret of these tests: 32 bytes or more")
    manifest = AppManifest(
        "desk", controllers=[Desk], sessions=sessions, auth=JWT, websockets={"revocation": True}
    )
    async with sockets_test(manifest) as t:
        first = await t.connect("/desk", session={"user": "ann"})
        cookie = {"cookie": f"{sessions.cookie}={sessions.sign(only_session(t))}"}
        second = await t.connect("/desk", headers=cookie)
        stranger = await t.connect("/desk", session={"user": "ben"})

        await second.send("leave")

        assert await revoked(first)
        assert await revoked(second)
        assert await stranger.request("whoami") is None


def only_session(t: SocketsTest) -> str:
    (home,) = t.application.sockets.hub.homes.values()
    (conn,) = home.everyone()
    return str(conn.session.id)


async def test_a_session_can_be_shut_out_by_its_id() -> None:
    sessions = SessionEngine("a secret of these tests: 32 bytes or more")
    manifest = AppManifest("desk", controllers=[Desk], sessions=sessions, websockets={"revocation": True})
    async with sockets_test(manifest) as t:
        first = await t.connect("/desk", session={"user": "ann"})
        id = only_session(t)

        await t.application.sockets.revoke(session=id)

        assert await revoked(first)
        with pytest.raises(HandshakeRefused, match="access was revoked"):
            await t.connect("/desk", headers={"cookie": f"{sessions.cookie}={sessions.sign(id)}"})


class Site(Controller):
    def __init__(self, revocations: Revocations) -> None:
        self.revocations = revocations

    @POST("/login/:user", status=204)
    async def login(self, ctx: RequestCtx, user: str) -> None:
        ctx.session.login(Identity(user))

    @GET("/me")
    async def me(self, ctx: RequestCtx) -> list[str | None]:
        return [None if ctx.identity is None else ctx.identity.id, *ctx.session.values()]

    @POST("/everywhere/:user", status=204)
    async def everywhere(self, user: str) -> None:
        await self.revocations.revoke(identity=user)

    @POST("/shut/:id", status=204)
    async def shut(self, id: str) -> None:
        await self.revocations.revoke(session=id)


async def test_who_is_logged_out_everywhere_is_nobody_over_http_too_for_as_long_as_a_session_lives() -> None:
    ahead = 0.0
    sessions = SessionEngine("a secret of these tests: 32 bytes or more", clock=lambda: time() + ahead)
    settings = {"revocation": True, "require_auth": True}
    manifest = AppManifest("desk", controllers=[Desk, Site], sessions=sessions, websockets=settings)
    async with sockets_test(manifest) as t:

        def browser() -> AsyncClient:
            return AsyncClient(transport=ASGITransport(app=t.application), base_url="http://localhost")

        async with browser() as laptop, browser() as phone, browser() as tablet, browser() as other:
            for each in (laptop, phone, tablet):
                await each.post("/login/ann")
            await other.post("/login/ben")
            await t.clock.advance(1)
            ahead += 1

            await laptop.post("/everywhere/ann")

            assert (await phone.get("/me")).json() == [None]
            assert (await other.get("/me")).json() == ["ben"]
            await t.clock.advance(13 * 24 * 3600)
            ahead += 13 * 24 * 3600
            cookie = {"cookie": "; ".join(f"{name}={value}" for name, value in tablet.cookies.items())}
            with pytest.raises(HandshakeRefused, match="access was revoked"):
                await t.connect("/desk", headers=cookie)
            assert (await tablet.get("/me")).json() == [None]
            await phone.post("/login/ann")
            assert (await phone.get("/me")).json() == ["ann"]


async def test_a_session_that_is_shut_out_by_its_id_is_nobodys_over_http_too() -> None:
    sessions = SessionEngine("a secret of these tests: 32 bytes or more")
    manifest = AppManifest(
        "desk", controllers=[Desk, Site], sessions=sessions, websockets={"revocation": True}
    )
    async with (
        sockets_test(manifest) as t,
        AsyncClient(transport=ASGITransport(app=t.application), base_url="http://localhost") as http,
    ):
        await http.post("/login/ann")
        await http.post(f"/shut/{http.cookies[sessions.cookie].partition('.')[0]}")
        assert (await http.get("/me")).json() == [None]


# What is asked for wrongly


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "exactly one of token_id, identity and session, not 0"),
        ({"token_id": "a", "identity": "ann"}, "exactly one of token_id, identity and session, not 2"),
        ({"identity": 7}, "identity: an id or an Identity is needed, not int"),
        ({"session": {}}, "session: an id or a Session is needed, not dict"),
        ({"token_id": ""}, "token_id: it is empty"),
        ({"token_id": Identity("ann")}, "the token of this identity had no id"),
        ({"identity": "ann", "until": float("inf")}, "until: seconds since 1970 are needed, not inf"),
        ({"identity": "ann", "until": True}, "until: seconds since 1970 are needed, not True"),
    ],
)
async def test_what_cannot_be_revoked_is_told(asked: dict[str, Any], told: str) -> None:
    async with sockets_test(desk()) as t:
        with pytest.raises((TypeError, ValueError), match=told):
            await t.application.sockets.revoke(**asked)


async def test_without_the_setting_it_is_said_how_to_have_it() -> None:
    async with sockets_test(desk(revocation=False)) as t:
        with pytest.raises(RuntimeError, match="the setting 'revocation' is off"):
            await t.application.sockets.revoke(identity="ann")


# Over nodes, and at bad moments


REVOKED = (4401, "WS_AUTH_REQUIRED: access was revoked")


class Wires:
    """The brokers of several nodes: what one publishes all deliver, while nothing is cut."""

    def __init__(self) -> None:
        self.nodes: list[Wired] = []
        self.cut = False


class Wired(InMemoryBroker):
    def __init__(self, wires: Wires) -> None:
        super().__init__()
        self.wires = wires
        wires.nodes.append(self)

    async def publish(self, publication: Publication, history: Any = None) -> Any:
        for node in [self] if self.wires.cut else self.wires.nodes:
            await InMemoryBroker.publish(node, publication, history)


class Shared(InMemoryStore):
    away = False

    async def get(self, key: str) -> bytes | None:
        if self.away and key.startswith("revoked."):
            raise ws_adapter_unavailable("the store is away")
        return await super().get(key)


class Adapter:
    def __init__(self, broker: Any, store: Any) -> None:
        self.broker = broker
        self.store = store


def sockets(adapter: Any = None, **settings: Any) -> AquilaSockets:
    return AquilaSockets(Registry.build([desk(**settings)]), adapter=adapter)


def bearer(token: str) -> dict[str, Any]:
    return {"additional_headers": {"authorization": f"Bearer {token}"}}


async def test_a_node_that_was_cut_off_finds_out_when_its_broker_is_back_even_if_the_store_comes_later() -> (
    None
):
    wires, store = Wires(), Shared()
    nodes = [sockets(Adapter(Wired(wires), store)) for _ in range(2)]
    async with (
        serving(nodes[0]),
        serving(nodes[1]) as other,
        Client.connect(f"{other}/desk", **bearer(token(jti="a"))) as ann,
        Client.connect(f"{other}/desk", **bearer(token(jti="b"))) as stays,
    ):
        wires.cut = True
        await nodes[0].revoke(token_id="a")
        assert (await ann.request("whoami"))["data"] == "ann"
        store.away = True
        assert wires.nodes[1].on_lost is not None
        wires.nodes[1].on_lost()
        assert (await ann.request("whoami"))["data"] == "ann"
        store.away = False

        assert await ann.closed() == REVOKED
        assert (await stays.request("whoami"))["data"] == "ann"


async def test_nobody_is_let_in_while_the_store_cannot_say() -> None:
    store = Shared()
    async with serving(sockets(Adapter(Wired(Wires()), store))) as base:
        store.away = True
        async with Client.connect(f"{base}/desk", "v1.json", hello=False) as client:
            await hello(client, token())
            assert (await client.closed())[0] == 1013


class Slow(SocketGuard):
    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def check_handshake(self, handshake: Handshake) -> None:
        self.asked.set()
        await self.answer.wait()


@pytest.mark.parametrize("subprotocol", [(), "aquilia.v1.json"])
async def test_who_was_on_the_way_in_when_it_was_said_does_not_stay(subprotocol: Any) -> None:
    guard = Slow()
    async with sockets_test(desk(guards=[guard])) as t:
        coming = asyncio.create_task(
            t.connect("/desk", headers=bearer(token(jti="a"))["additional_headers"], subprotocol=subprotocol)
        )
        await guard.asked.wait()
        await t.application.sockets.revoke(token_id="a")
        guard.answer.set()
        try:
            client = await coming
        except HandshakeRefused as refusal:
            assert "revoked" in str(refusal)
        else:
            assert await revoked(client)


async def test_a_revocation_of_many_leaves_the_others_their_turn() -> None:
    async with sockets_test(desk()) as t:
        clients = [await t.connect("/desk", token=token(f"u{n % 2}")) for n in range(300)]
        await t.application.sockets.revoke(identity="u0")
        for n, client in enumerate(clients):
            if n % 2:
                assert await client.request("whoami") == "u1"
            else:
                assert await revoked(client)
        assert t.application.sockets.live()["connections"] == 150
