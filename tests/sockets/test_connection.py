"""A connection as handlers see it, and what a controller can do to those of its namespace."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from visit import Visit
from wire import TRANSPORTS, Client, eventually, serving

from aquilia import RequestCtx
from aquilia.middleware import CallNext
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    ConnectionState,
    DisconnectReason,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
)

SEEN: dict[str, Connection] = {}
JOURNAL: list[Any] = []


@Socket("/desk/:number:int")
class Desk(SocketController):
    @OnConnect()
    async def open(self, conn: Connection) -> None:
        SEEN[conn.query_params.get("name", "anyone")] = conn
        JOURNAL.append(conn.phase)
        await conn.join("desk")

    @OnDisconnect()
    async def close(self, conn: Connection, reason: DisconnectReason) -> None:
        JOURNAL.append((conn.phase, reason.code, conn.rooms))

    @Event("rooms")
    async def rooms(self, conn: Connection) -> list[str]:
        return sorted(conn.rooms)

    @Event("remember")
    async def remember(self, conn: Connection, payload: Any) -> Any:
        conn.state.setdefault("all", []).append(payload)
        return conn.state["all"]

    @Event("tell")
    async def tell(self, conn: Connection, payload: list[str]) -> None:
        await self.publish_identity(payload[0], "told", payload[1])

    @Event("others")
    async def others(self, conn: Connection, payload: str) -> None:
        await self.broadcast("told", payload, exclude=conn.id)

    @Event("who")
    async def who(self, conn: Connection, payload: str) -> list[list[str | None]]:
        return sorted([member.connection, member.identity] for member in await self.room_members(payload))

    @Event("throw.out")
    async def throw_out(self, conn: Connection, payload: str) -> bool:
        return await self.kick(payload)

    @Event("twice")
    async def twice(self, conn: Connection) -> None:
        await conn.disconnect(4000, "first")
        await conn.disconnect(4001, "second")


async def by_name(ctx: RequestCtx, call_next: CallNext) -> Any:
    name = ctx.query_params.get("name")
    ctx.identity = SimpleNamespace(id=name) if name else None
    ctx.session = {"of": name}
    return await call_next(ctx)


@pytest.fixture
def app() -> AquilaSockets:
    SEEN.clear()
    JOURNAL.clear()
    return AquilaSockets.from_controllers([Desk], middleware=[by_name])


@pytest.fixture(params=list(TRANSPORTS))
async def base(request: pytest.FixtureRequest, app: AquilaSockets) -> AsyncIterator[str]:
    async with serving(app, ws=TRANSPORTS[request.param]) as base:
        yield f"{base}/desk/7"


async def test_it_shows_where_it_came_from_and_what_it_did(base: str) -> None:
    before = datetime.now(UTC)
    async with Client.connect(
        f"{base}?name=ada&x=1", "v1.json", additional_headers={"x-colour": "blue"}
    ) as client:
        await client.request("rooms")
        conn = SEEN["ada"]
        assert conn.id == client.welcome["payload"]["connection"]
        assert (conn.namespace, conn.path_params) == ("/desk/7", {"number": 7})
        assert dict(conn.query_params) == {"name": "ada", "x": "1"}
        assert conn.headers["X-Colour"] == "blue"
        assert conn.subprotocol == "aquilia.v1.json"
        assert conn.identity.id == "ada"
        assert conn.session == {"of": "ada"}
        assert conn.rooms == {"desk"}
        assert conn.phase is ConnectionState.CONNECTED
        assert not conn.resumed
        assert repr(conn) == f"<Connection {conn.id} /desk/7 connected>"
        assert before - timedelta(seconds=1) < conn.created_at <= conn.last_activity
        assert conn.last_activity < datetime.now(UTC) + timedelta(seconds=1)
        assert conn.messages_received == 2  # hello, rooms
        assert conn.messages_sent == 3  # welcome, joined, the ack
        assert conn.bytes_received > 20
        assert conn.bytes_sent > 60
    await eventually(lambda: len(JOURNAL) == 2)
    # The end is known, the rooms still are, and whoever asks is told that it is over.
    assert [ConnectionState.CONNECTED, (ConnectionState.CLOSED, 1000, {"desk"})] == JOURNAL
    await eventually(lambda: conn.rooms == frozenset())
    assert repr(conn) == f"<Connection {conn.id} /desk/7 closed>"


@pytest.fixture
async def visits(app: AquilaSockets) -> AsyncIterator[dict[str, Visit]]:
    """Ada twice, Bob, and one without a name."""
    names = ["ada", "ada again", "bob", "nobody"]
    visits = {name: Visit(app, "/desk/7", query=f"name={name.split()[0]}") for name in names[:3]}
    visits["nobody"] = Visit(app, "/desk/7")
    for visit in visits.values():
        await visit.__aenter__()
        await visit.request("rooms")
    yield visits
    for visit in visits.values():
        await visit.__aexit__()
    await app.shutdown()


async def test_each_connection_has_a_state_of_its_own(visits: dict[str, Visit]) -> None:
    await visits["ada"].request("remember", 1)
    assert (await visits["ada"].request("remember", 2))["data"] == [1, 2]
    assert (await visits["bob"].request("remember", 3))["data"] == [3]


async def test_an_identity_is_reached_on_all_its_connections_and_nobody_else_is(
    visits: dict[str, Visit],
) -> None:
    await visits["bob"].request("tell", ["ada", "hello"])
    for name in ("ada", "ada again"):
        assert (await visits[name].frame())["payload"] == "hello"
    await visits["bob"].request("tell", ["carol", "hello"])
    await visits["ada"].request("others", "all but one ada")
    for name in ("ada again", "bob", "nobody"):
        assert (await visits[name].frame())["payload"] == "all but one ada"


async def test_members_are_known_by_connection_and_identity(visits: dict[str, Visit]) -> None:
    members = (await visits["bob"].request("who", "desk"))["data"]
    assert sorted(str(identity) for _, identity in members) == ["None", "ada", "ada", "bob"]
    assert (await visits["bob"].request("who", "empty"))["data"] == []


async def test_a_controller_ends_a_connection_of_its_namespace(visits: dict[str, Visit]) -> None:
    kicked = SEEN["bob"].id
    assert (await visits["ada"].request("throw.out", kicked))["data"] is True
    assert await visits["bob"].message() == {
        "type": "websocket.close",
        "code": 4409,
        "reason": "kicked",
    }
    await eventually(lambda: (ConnectionState.CLOSED, 4409, {"desk"}) in JOURNAL)
    assert (await visits["ada"].request("throw.out", kicked))["data"] is False
    assert (await visits["ada"].request("throw.out", "never there"))["data"] is False


async def test_the_first_end_is_the_one_that_counts(visits: dict[str, Visit]) -> None:
    visits["bob"].send("twice")
    assert (await visits["bob"].message())["code"] == 4000
    await eventually(lambda: (ConnectionState.CLOSED, 4000, {"desk"}) in JOURNAL)


def test_a_reason_speaks_for_itself() -> None:
    assert str(DisconnectReason(4000, "bye")) == "4000 bye"
    assert str(DisconnectReason(1006)) == "1006"


async def test_handlers_of_one_connection_share_its_context() -> None:
    """What middleware put into a context variable is there in every handler of the connection."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")

    async def of_tenant(ctx: RequestCtx, call_next: CallNext) -> Any:
        tenant.set(ctx.query_params["tenant"])
        return await call_next(ctx)

    @Socket("/tenants")
    class Tenants(SocketController):
        @Event("which")
        async def which(self, conn: Connection) -> str:
            await asyncio.sleep(0)
            return tenant.get()

    app = AquilaSockets.from_controllers([Tenants], middleware=[of_tenant])
    async with (
        Visit(app, "/tenants", query="tenant=a") as first,
        Visit(app, "/tenants", query="tenant=b") as second,
    ):
        for _ in range(2):
            assert (await first.request("which"))["data"] == "a"
            assert (await second.request("which"))["data"] == "b"
    await app.shutdown()
