"""The end of a session, and of the connections that it has: who is told of it, and when."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from httpx import ASGITransport
from test_identity_seams import SECRET, Accounts, Desk
from tokens import Passwords

from aquilia import POST, AppManifest, MemorySessionStore, RequestCtx, SessionEngine
from aquilia.clock import now
from aquilia.sockets import AquilaSockets, Connection, Event, Socket
from aquilia.sockets.faults import SocketFault
from aquilia.testing import HandshakeRefused, SocketsTest, sockets_test


class Visits(Accounts):
    @POST("/rotate", status=204)
    async def rotate(self, ctx: RequestCtx) -> None:
        ctx.session.rotate()


@Socket("/desk", require_auth=True)
class Bench(Desk):
    @Event("leave")
    async def leave(self, conn: Connection) -> None:
        await conn.session.logout()

    @Event("note")
    async def note(self, conn: Connection, payload: str) -> None:
        conn.session["note"] = payload


def manifest(engine: SessionEngine, **settings: Any) -> AppManifest:
    return AppManifest(
        "desk", controllers=[Visits, Bench], sessions=engine, auth=Passwords(), websockets=settings
    )


@contextlib.asynccontextmanager
async def house(engine: SessionEngine | None = None, **settings: Any) -> AsyncIterator[SocketsTest]:
    settings = {"revocation": True, **settings}
    async with sockets_test(manifest(engine or SessionEngine(SECRET), **settings)) as t:
        yield t


@contextlib.asynccontextmanager
async def logged_in(t: SocketsTest, name: str = "ann") -> AsyncIterator[httpx.AsyncClient]:
    transport = ASGITransport(t.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.post(f"/login/{name}")).status_code == 204
        yield http


def cookie(http: httpx.AsyncClient) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in http.cookies.items())}


async def revoked(client: Any) -> bool:
    closed = await client.closed()
    return (closed.code, closed.text) == (4401, "WS_AUTH_REQUIRED: access was revoked")


async def expired(client: Any) -> bool:
    closed = await client.closed()
    return (closed.code, closed.text) == (4401, "WS_TOKEN_EXPIRED: the session has expired")


class Hours:
    """The engine's clock: that of the test kit, once there is one."""

    def __init__(self) -> None:
        self.time = now

    def __call__(self) -> float:
        return self.time()

    @contextlib.asynccontextmanager
    async def house(self, store: Any = None, **options: Any) -> AsyncIterator[SocketsTest]:
        store = MemorySessionStore(clock=self) if store is None else store
        async with house(SessionEngine(SECRET, store=store, clock=self, **options)) as t:
            self.time = t.clock.time
            yield t


# One engine, several applications


async def test_an_engine_outlives_an_app_with_revocation_and_serves_one_without() -> None:
    engine = SessionEngine(SECRET)
    async with house(engine) as first, logged_in(first) as http:
        kept = dict(http.cookies)
    async with house(engine, revocation=False) as second, logged_in(second) as http:
        http.cookies.update(kept)
        assert (await http.get("/me")).text == "ann"
        assert (await http.post("/logout")).status_code == 204
        assert (await http.get("/me")).text == "nobody"


async def test_an_app_that_is_made_again_ends_the_connections_that_are_its_own() -> None:
    engine = SessionEngine(SECRET)
    for _ in range(2):
        async with house(engine) as t, logged_in(t) as http:
            ann = await t.connect("/desk", headers=cookie(http))
            assert (await http.post("/logout")).status_code == 204
            assert await revoked(ann)


async def test_an_app_hears_of_a_logout_at_another_one_of_the_same_engine() -> None:
    engine = SessionEngine(SECRET)
    async with house(engine) as first, house(engine, revocation=False) as second, logged_in(second) as http:
        ann = await first.connect("/desk", headers=cookie(http))
        assert (await http.post("/logout")).status_code == 204
        assert await revoked(ann)


async def test_an_app_that_was_only_made_has_no_say() -> None:
    engine = SessionEngine(SECRET)
    AquilaSockets.from_controllers([Bench], sessions=engine, revocation=True)
    async with house(engine, revocation=False) as t, logged_in(t) as http:
        assert (await http.post("/logout")).status_code == 204


# Another id


async def test_connections_stay_when_their_session_gets_another_id_and_end_at_its_logout() -> None:
    async with house() as t, logged_in(t) as http:
        before = await t.connect("/desk", headers=cookie(http))
        for change in ("/rotate", "/login/ann", "/rotate"):
            assert (await http.post(change)).status_code == 204
        after = await t.connect("/desk", headers=cookie(http))
        assert [await each.request("whoami") for each in (before, after)] == ["ann", "ann"]

        assert (await http.post("/logout")).status_code == 204

        assert await revoked(before)
        assert await revoked(after)


async def test_a_logout_by_a_connection_that_knows_the_former_id_is_one_for_all() -> None:
    async with house() as t, logged_in(t) as http:
        before = await t.connect("/desk", headers=cookie(http))
        assert (await http.post("/rotate")).status_code == 204
        after = await t.connect("/desk", headers=cookie(http))

        await before.send("leave")

        assert await revoked(after)
        assert (await http.get("/me")).text == "nobody"


async def test_who_logs_in_to_the_session_of_another_takes_over_none_of_its_connections() -> None:
    async with house() as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers=cookie(http))
        assert (await http.post("/login/ben")).status_code == 204
        assert await revoked(ann)
        ben = await t.connect("/desk", headers=cookie(http))
        assert await ben.request("whoami") == "ben"


async def test_by_the_former_id_nobody_sees_what_the_session_holds_now() -> None:
    async with house() as t, logged_in(t) as http:
        old = cookie(http)
        before = await t.connect("/desk", headers=old)
        assert (await http.post("/rotate")).status_code == 204
        with pytest.raises(HandshakeRefused, match="WS_AUTH_REQUIRED"):
            await t.connect("/desk", headers=old)
        with pytest.raises(SocketFault, match="SESSION_ENDED"):
            await before.request("note", "seen")


async def test_a_ticket_is_of_the_session_whatever_its_id_is_by_then() -> None:
    async with house(tickets=True) as t, logged_in(t) as http:
        tickets = [
            (await http.post("/ws/ticket", json={"namespace": "/desk"})).json()["ticket"] for _ in range(2)
        ]
        assert (await http.post("/rotate")).status_code == 204
        ann = await t.connect("/desk", query={"ticket": tickets[0]})
        assert await ann.request("whoami") == "ann"

        assert (await http.post("/logout")).status_code == 204

        assert await revoked(ann)
        with pytest.raises(HandshakeRefused, match="WS_AUTH_REQUIRED"):
            await t.connect("/desk", query={"ticket": tickets[1]})


# Its time is over


async def test_connections_end_when_nobody_has_used_their_session_for_its_max_age() -> None:
    async with Hours().house(max_age=100) as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers=cookie(http))
        await t.clock.advance(98)
        assert await ann.request("whoami") == "ann"
        await t.clock.advance(3)
        assert await expired(ann)


async def test_a_request_lets_the_session_live_on_and_its_connections_with_it() -> None:
    async with Hours().house(max_age=100) as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers=cookie(http))
        for _ in range(3):
            await t.clock.advance(60)
            assert (await http.get("/me")).text == "ann"
        await t.clock.advance(98)
        assert await ann.request("whoami") == "ann"
        await t.clock.advance(3)
        assert await expired(ann)


async def test_a_connection_that_changes_its_session_uses_it() -> None:
    async with Hours().house(max_age=100) as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers=cookie(http))
        await t.clock.advance(60)
        await ann.request("note", "seen")
        await t.clock.advance(60)
        assert await ann.request("whoami") == "ann"
        await t.clock.advance(41)
        assert await expired(ann)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer ann"}])
async def test_a_max_lifetime_ends_connections_however_often_the_session_is_used(headers: Any) -> None:
    hours = Hours()
    async with hours.house(max_age=100, max_lifetime=150) as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers={**cookie(http), **headers})
        await t.clock.advance(90)
        assert (await http.get("/me")).text == "ann"
        await t.clock.advance(58)
        assert await ann.request("whoami") == "ann"
        await t.clock.advance(3)
        assert (await ann.closed()).code == 4401


async def test_a_store_that_is_away_when_the_time_is_over_is_asked_until_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(MemorySessionStore):
        away = True
        asked = 0

        async def remaining(self, id: str) -> float | None:
            self.asked += 1
            if self.away:
                raise ConnectionError("the store is away")
            return await super().remaining(id)

    hours = Hours()
    store = Away(clock=hours)
    async with hours.house(store, max_age=100) as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers=cookie(http))
        await t.clock.advance(105)
        assert await ann.request("whoami") == "ann"
        assert store.asked > 1
        store.away = False
        await t.clock.advance(2)
        assert await expired(ann)
    assert caplog.text.count("is asked again: the store is away") == 1


async def test_without_the_setting_connections_outlive_their_session() -> None:
    hours = Hours()
    engine = SessionEngine(SECRET, store=MemorySessionStore(clock=hours), clock=hours, max_age=100)
    async with house(engine, revocation=False) as t, logged_in(t) as http:
        hours.time = t.clock.time
        ann = await t.connect("/desk", headers=cookie(http))
        await t.clock.advance(300)
        assert await ann.request("whoami") == "ann"


async def test_a_connection_lives_as_long_as_its_session_does_by_another_id() -> None:
    async with Hours().house(max_age=100) as t, logged_in(t) as http:
        ann = await t.connect("/desk", headers=cookie(http))
        for change in ("/rotate", "/login/ann", "/rotate"):
            await t.clock.advance(50)
            assert (await http.post(change)).status_code == 204
        await t.clock.advance(98)
        assert await ann.request("whoami") == "ann"
        await t.clock.advance(3)
        assert await expired(ann)


async def test_the_store_learns_no_id_from_a_rotation_and_one_that_fails_there_fails_no_login(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Watching(MemorySessionStore):
        kept = b""
        fails = False

        async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
            if self.fails:
                raise ConnectionError("the store is away")
            self.kept += b"".join(values.values())
            await super().create(id, values, ttl)

    store = Watching()
    engine = SessionEngine(SECRET, store=store)
    async with house(engine) as t, logged_in(t) as http:
        assert (await http.post("/rotate")).status_code == 204
        secret, _, rest = http.cookies[engine.cookie].partition("~")
        assert len(store.kept) > 100
        assert secret.encode() not in store.kept
        assert rest.partition(".")[0].encode() not in store.kept

        store.fails = True
        assert (await http.post("/login/ann")).status_code == 204
        assert (await http.get("/me")).text == "ann"
    assert "connections of a session end with its former id: the store is away" in caplog.text
