"""`@OnPresence`: in which order it is told, what it may use, and what becomes of one that hangs or fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from aquilia import service
from aquilia.di import DIError
from aquilia.sockets import AquilaSockets, Connection, Event, OnPresence, Socket, SocketController
from aquilia.testing import SocketsTest, sockets_test

Told = list[tuple[str, list[str], list[str]]]


class Office(SocketController):
    def __init__(self) -> None:
        self.told: Told = []
        self.running = self.most = 0
        self.go_on = asyncio.Event()

    @Event("enter")
    async def enter(self, conn: Connection, payload: str) -> None:
        await conn.join(payload)

    @Event("exit")
    async def exit(self, conn: Connection, payload: str) -> None:
        await conn.leave(payload)

    @Event("set")
    async def set(self, conn: Connection, payload: Any) -> None:
        await conn.update_presence("team", payload)

    @Event("told")
    async def tell(self, conn: Connection) -> Told:
        return self.told

    @Event("most")
    async def tell_most(self, conn: Connection) -> int:
        return self.most

    @Event("go on")
    async def let_go(self, conn: Connection) -> None:
        self.go_on.set()

    def note(self, room: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        self.told.append((room, sorted(joins), sorted(leaves)))


@Socket("/slow", presence=True)
class Slow(Office):
    @OnPresence()
    async def changed(self, room: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        self.note(room, joins, leaves)
        self.running += 1
        self.most = max(self.most, self.running)
        if room != "other":
            await self.go_on.wait()
        self.running -= 1


@Socket("/broken", presence=True)
class Broken(Office):
    @OnPresence()
    async def breaks(self, room: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        joins.clear()
        raise ZeroDivisionError

    @OnPresence()
    async def changed(self, room: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        self.note(room, joins, leaves)


OPEN: list[str] = []


class Book:
    """A service that lives as long as one call."""

    def __init__(self) -> None:
        self.notes: list[str] = []


@service(scope="request")
async def book() -> AsyncIterator[Book]:
    OPEN.append("opened")
    yield Book()
    OPEN.append("closed")


@service(scope="singleton")
class Clock:
    name = "clock"


@Socket("/injected", presence=True)
class Injected(Office):
    @OnPresence()
    async def changed(
        self, room: str, joins: dict[str, Any], leaves: dict[str, Any], book: Book, clock: Clock
    ) -> None:
        OPEN.append(f"used with the {clock.name}")
        self.note(room, joins, leaves)

    @OnPresence()
    async def wide(self, room: str, joins: Any, leaves: Any, clock: Clock) -> None:
        self.note(clock.name, joins, leaves)


async def enter(t: SocketsTest, path: str, name: str, room: str = "team") -> Any:
    t.clock.freeze()
    client = await t.connect(path, identity=SimpleNamespace(id=name))
    await client.request("enter", room)
    return client


async def test_what_changes_while_it_runs_is_told_as_one_and_loses_nothing() -> None:
    async with sockets_test(Slow) as t:
        ann = await enter(t, "/slow", "ann")
        await t.clock.advance(1)
        bob, cem = await enter(t, "/slow", "bob"), await enter(t, "/slow", "cem")
        await t.clock.advance(1)
        await cem.request("exit", "team")  # came and went
        await bob.request("set", {"at": 1})
        await t.clock.advance(1)
        await ann.request("exit", "team")
        await t.clock.advance(1)
        assert await bob.request("told") == [["team", ["ann"], []]]
        await bob.request("go on")
        await t.clock.advance(0.1)
        assert await bob.request("told") == [["team", ["ann"], []], ["team", ["bob"], ["ann"]]]


async def test_who_was_known_and_is_back_with_other_metadata_has_changed() -> None:
    async with sockets_test(Slow) as t:
        ann, bob = await enter(t, "/slow", "ann"), await enter(t, "/slow", "bob")
        await t.clock.advance(1)
        await bob.request("exit", "team")
        await t.clock.advance(1)
        await bob.request("enter", "team")
        await t.clock.advance(1)
        await ann.request("exit", "team")
        await t.clock.advance(1)
        await ann.request("go on")
        await t.clock.advance(0.1)
        assert (await ann.request("told"))[1:] == [["team", ["bob"], ["ann"]]]


async def test_one_that_hangs_in_a_room_does_not_hold_up_the_others() -> None:
    async with sockets_test(Slow) as t:
        ann = await enter(t, "/slow", "ann")
        await t.clock.advance(1)
        await enter(t, "/slow", "bob", "other")
        await t.clock.advance(1)
        assert (await ann.request("told"))[1:] == [["other", ["bob"], []]]
        await ann.request("go on")


async def test_one_that_hangs_is_cancelled_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with sockets_test(Slow, handler_timeout=5) as t:
            ann = await enter(t, "/slow", "ann")
            await t.clock.advance(1)
            await enter(t, "/slow", "bob")
            await t.clock.advance(4)
            assert len(await ann.request("told")) == 1
            await t.clock.advance(2)
            assert await ann.request("told") == [["team", ["ann"], []], ["team", ["bob"], []]]
            counts = t.application.sockets.recorder.counts
            assert counts["fault", "/slow", "WS_OVERLOADED"] == 1
            await ann.request("go on")
    assert "Slow.changed" in caplog.text
    assert "changed did not finish within 5 s" in caplog.text


async def test_one_that_fails_is_counted_and_the_next_is_told_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sockets_test(Broken) as t:
        ann = await enter(t, "/broken", "ann")
        await t.clock.advance(1)
        await enter(t, "/broken", "bob")
        await t.clock.advance(1)
        assert await ann.request("told") == [["team", ["ann"], []], ["team", ["bob"], []]]
        assert t.application.sockets.recorder.counts["fault", "/broken", "WS_INTERNAL_ERROR"] == 2
    assert "Broken.breaks failed, incident" in caplog.text


async def test_it_has_services_and_those_of_one_request_live_as_long_as_the_call() -> None:
    OPEN.clear()
    async with sockets_test(Injected, services=[book, Clock]) as t:
        ann = await enter(t, "/injected", "ann")
        await t.clock.advance(1)
        assert await ann.request("told") == [["team", ["ann"], []], ["clock", ["ann"], []]]
        assert OPEN == ["opened", "used with the clock", "closed"]


def test_it_has_no_connection_and_what_needs_one_is_refused_at_boot() -> None:
    class Wrong(SocketController):
        @OnPresence()
        async def changed(self, room: str, joins: Any, leaves: Any, conn: Connection) -> None: ...

    with pytest.raises(
        DIError, match=r"Connection lives in the scope connection, which does not exist where Wrong"
    ):
        AquilaSockets.from_controllers([Socket("/wrong", presence=True)(Wrong)])


async def test_a_server_stops_though_one_hangs(caplog: pytest.LogCaptureFixture) -> None:
    async with sockets_test(Slow) as t:
        ann = await enter(t, "/slow", "ann")
        await t.clock.advance(1)
        assert len(await ann.request("told")) == 1
        t.clock.resume()
    assert "@OnPresence of /slow does not end, and is given up" in caplog.text


async def test_no_more_than_a_few_run_at_a_time() -> None:
    async with sockets_test(Slow) as t:
        clients = [await enter(t, "/slow", "ann", f"team{number}") for number in range(40)]
        await t.clock.advance(1)
        assert len(await clients[0].request("told")) == 16
        await clients[0].request("go on")
        await t.clock.advance(0.1)
        assert len(await clients[0].request("told")) == 40
        assert await clients[0].request("most") == 16
