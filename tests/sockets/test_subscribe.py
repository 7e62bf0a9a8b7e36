"""Handlers that join and leave rooms by what they return, and handlers that run out of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from visit import Visit

from aquilia import Identity
from aquilia.sockets import (
    AckEvent,
    AquilaSockets,
    Connection,
    Event,
    MessageEnvelope,
    RoleGuard,
    Socket,
    SocketController,
    SocketFault,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.middleware import Handle
from aquilia.testing import sockets_test


@Socket("/rooms", room_size=1, max_rooms=3)
class Rooms(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Subscribe("enter.set")
    async def enter_set(self, conn: Connection, payload: list[str]) -> set[str]:
        return set(payload)

    @Subscribe("enter.myself")
    async def enter_by_itself(self, conn: Connection) -> None:
        await conn.join("mine")

    @Unsubscribe("exit")
    async def exit(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("where")
    async def where(self, conn: Connection) -> list[str]:
        return sorted(conn.rooms)

    @Event("forever")
    async def forever(self, conn: Connection) -> None:
        await asyncio.Event().wait()

    @Event("impatient")
    async def impatient(self, conn: Connection) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()


@pytest.fixture
async def app() -> AsyncIterator[AquilaSockets]:
    app = AquilaSockets.from_controllers([Rooms], handler_timeout=30)
    yield app
    await app.shutdown()


@pytest.fixture
async def visit(app: AquilaSockets) -> AsyncIterator[Visit]:
    async with Visit(app, "/rooms") as visit:
        yield visit


async def rooms(visit: Visit) -> list[str]:
    found: list[str] = (await visit.request("where"))["data"]
    return found


@pytest.mark.parametrize(
    ("payload", "expected"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])]
)
async def test_a_connection_is_in_the_rooms_that_were_returned(
    visit: Visit, payload: Any, expected: list[str]
) -> None:
    answer = await visit.request("enter", payload)
    assert answer == ({"status": "ok"} if payload is None else {"status": "ok", "data": payload})
    assert await rooms(visit) == expected


async def test_a_set_of_rooms_is_as_good_as_a_list(visit: Visit) -> None:
    assert (await visit.request("enter.set", ["a"]))["data"] == ["a"]
    assert await rooms(visit) == ["a"]


async def test_a_handler_may_join_by_itself(visit: Visit) -> None:
    assert await visit.request("enter.myself") == {"status": "ok"}
    assert await rooms(visit) == ["mine"]


async def test_it_leaves_the_rooms_that_were_returned_and_no_others(visit: Visit) -> None:
    await visit.request("enter", ["a", "b", "c"])
    await visit.request("exit", ["a", "never there"])
    assert await rooms(visit) == ["b", "c"]
    await visit.request("exit", "b")
    assert await rooms(visit) == ["c"]
    await visit.request("exit")
    assert await rooms(visit) == ["c"]


async def test_rooms_that_were_entered_stay_entered_when_one_is_refused(
    visit: Visit, app: AquilaSockets
) -> None:
    async with Visit(app, "/rooms") as other:
        await other.request("enter", "full")
        assert await visit.refused("enter", ["a", "full", "b"]) == "WS_ROOM_FULL"
        assert await rooms(visit) == ["a"]
    assert await visit.refused("enter", ["b", "c", "d"]) == "WS_QUOTA_EXCEEDED"
    assert await rooms(visit) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("payload", "code"), [(["a", 7], "WS_MESSAGE_INVALID"), ([""], "WS_MESSAGE_INVALID"), (7, "WS_INTERNAL_ERROR")]
)  # fmt: skip
async def test_what_is_no_room_is_refused(visit: Visit, payload: Any, code: str) -> None:
    assert await visit.refused("enter", payload) == code


async def test_a_handler_without_end_is_answered_as_overload() -> None:
    async with sockets_test(Rooms, handler_timeout=30) as t:
        ann = await t.connect("/rooms")
        answer = asyncio.create_task(ann.request("forever"))
        await asyncio.sleep(0)
        await t.clock.advance(30.1)
        with pytest.raises(SocketFault, match="WS_OVERLOADED"):
            await answer
        assert await ann.request("where") == []


async def test_a_timeout_of_the_handlers_own_is_its_own_error(
    visit: Visit, caplog: pytest.LogCaptureFixture
) -> None:
    assert await visit.refused("impatient") == "WS_INTERNAL_ERROR"
    assert "Rooms.impatient failed" in caplog.text


async def counted(conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
    conn.state["asked"] = conn.state.get("asked", 0) + 1
    return await next(conn, envelope)


@Socket("/staff")
class Staff(SocketController):
    @Subscribe("enter", guards=[RoleGuard("agent")], middleware=[counted])
    async def enter(self, conn: Connection) -> str:
        return "desk"

    @Unsubscribe("exit", guards=[RoleGuard("lead")], middleware=[counted])
    async def exit(self, conn: Connection) -> str:
        return "desk"

    @AckEvent("where", guards=[RoleGuard("agent")], middleware=[counted])
    async def where(self, conn: Connection) -> tuple[list[str], int]:
        return sorted(conn.rooms), conn.state["asked"]


async def test_guards_and_middleware_stand_before_joining_leaving_and_acks_too() -> None:
    async with sockets_test(Staff) as t:
        guest = await t.connect("/staff", identity=Identity("bob", roles={"guest"}))
        for event in ("enter", "exit", "where"):
            with pytest.raises(SocketFault, match="WS_FORBIDDEN"):
                await guest.request(event)

        agent = await t.connect("/staff", identity=Identity("ann", roles={"agent"}))
        await agent.request("enter")
        with pytest.raises(SocketFault, match="WS_FORBIDDEN"):
            await agent.request("exit")
        assert await agent.request("where") == [["desk"], 3]
