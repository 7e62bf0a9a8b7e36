"""How a node follows a log over a broker that takes its time: what is published in between is never passed over."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from house import House, heard, turns

from aquilia.sockets import history_following as following
from aquilia.sockets.adapters.base import Page, Publication
from aquilia.sockets.adapters.inmemory import InMemoryBroker
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import V1_JSON
from aquilia.sockets.faults import SocketFault, ws_adapter_unavailable
from aquilia.sockets.history import Histories, History, Position


async def nothing() -> None: ...


class Note(list[Any]):
    """A payload that can be counted."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Distant(InMemoryBroker):
    """The same, with a way back on which something may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0
        """Offsets that other rooms have taken when this one is opened."""
        self.after_subscribe: Callable[[], Awaitable[None]] = nothing
        self.after_read: Callable[[], Awaitable[None]] = nothing
        self.lagging = 0
        """So many reads are answered by a replica that has nothing behind the position that is asked for."""
        self.reads = 0
        self.counts = False
        self.held: weakref.WeakSet[Note] = weakref.WeakSet()
        """The payloads that were read, and that somebody has."""

    def counted(self, told: Publication) -> Publication:
        note = Note(told.payload)
        self.held.add(note)
        return msgspec.structs.replace(told, payload=note)

    async def subscribe(self, *args: Any) -> Position | None:
        if self.ahead:
            self._logs.open(args[:2], args[2], 0.0).head += self.ahead
        position = await super().subscribe(*args)
        happen, self.after_subscribe = self.after_subscribe, nothing
        await happen()
        return position

    async def read(self, *args: Any, **options: Any) -> Page:
        self.reads += 1
        page = await super().read(*args, **options)
        if self.lagging and (since := options.get("since")) is not None:
            self.lagging -= 1
            return Page((), since, True)
        if self.counts:
            page = page._replace(publications=[self.counted(told) for told in page.publications])
        happen, self.after_read = self.after_read, nothing
        await happen()
        return page


class Street(House):
    """A house with rooms that remember, on a distant broker."""

    def __init__(self) -> None:
        self.broker = Distant()
        super().__init__(self.broker, history=Histories({"*": History(size=20_000)}))

    async def returning(self, position: Position | None) -> tuple[Connection, Any]:
        """A client that comes back to the room, and what it is told."""
        conn = self.connect(V1_JSON)
        found = await self.hub.rejoin(conn, {"r": position})
        await self.hub.replay(conn)
        return conn, found.get("r")

    async def head(self) -> Position:
        return (await self.hub.read("/n", "r", History(size=20_000))).head


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    street = Street()
    await street.hub.start()
    await street.hub.enter(street.home)
    yield street
    await street.hub.exit(street.home)
    await street.hub.stop()


async def test_what_is_said_while_a_room_is_being_opened_reaches_who_comes_back_to_it(street: Street) -> None:
    place = await street.head()
    street.broker.after_subscribe = lambda: street.publish("at once")
    conn, told = await street.returning(place)
    await turns()
    assert told.recovered
    assert heard(conn) == ["at once"]
    await street.publish("later")
    await turns()
    assert heard(conn) == ["at once", "later"]


async def test_who_joins_is_told_a_place_behind_which_nothing_is_missing(street: Street) -> None:
    street.broker.after_subscribe = lambda: street.publish("at once")
    (conn,) = await street.members(1, profile=V1_JSON)
    await turns()
    (joined,) = [frame["payload"] for frame in conn._transport.events if frame["event"] == "joined"]
    assert (joined["epoch"], joined["offset"]) == await street.head()


async def test_what_is_said_while_a_log_with_holes_is_read_is_not_passed_over(street: Street) -> None:
    """Logs on NATS have holes: the room's last entry lies before where the node began to follow it."""
    await street.publish("old")
    place = await street.head()
    street.broker.ahead = 5
    (live,) = await street.members(1, profile=V1_JSON)
    conn = street.connect(V1_JSON)
    await street.hub.rejoin(conn, {"r": place})
    street.broker.after_read = lambda: street.publish("new")
    await street.hub.replay(conn)
    await turns()
    assert heard(live) == ["new"]
    assert heard(conn) == ["new"]


@pytest.mark.parametrize("lagging", [3, 1000])
async def test_a_replica_that_lags_hides_nothing_from_who_comes_back(
    street: Street, monkeypatch: pytest.MonkeyPatch, lagging: int
) -> None:
    monkeypatch.setattr(following, "PAUSE", 0.0)
    await street.members(1)
    epoch, offset = await street.head()
    for number in range(10):
        await street.publish(number)
    await turns()
    street.broker.lagging = lagging
    conn, told = await street.returning(Position(epoch, offset + 5))
    await turns()
    if lagging == 3:
        assert told.recovered
        assert heard(conn) == [5, 6, 7, 8, 9]
    else:
        assert not told.recovered


async def test_who_is_answered_by_a_replica_that_lags_for_long_is_told_of_a_gap(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PAUSE", 0.0)
    await street.members(1)
    place = await street.head()
    for number in range(300):  # more than a page
        await street.publish(number)
    await turns(50)
    conn = street.connect(V1_JSON)
    await street.hub.rejoin(conn, {"r": place})
    street.broker.lagging = 1000
    await street.hub.replay(conn)
    await turns()
    wire: Any = conn._transport
    (gap,) = [frame["payload"] for frame in wire.events if frame["event"] == "gap"]
    assert heard(conn) == list(range(gap["offset"] - place.offset, 300))
    street.broker.lagging = 0
    await street.publish("later")
    await turns()
    assert heard(conn)[-1] == "later"


async def test_a_position_from_the_future_is_not_recovered(street: Street) -> None:
    await street.members(1, profile=V1_JSON)
    await street.publish("one")
    epoch, offset = await street.head()
    conn, told = await street.returning(Position(epoch, offset + 7))
    assert (told.recovered, told.position) == (False, (epoch, offset))
    await street.publish("two")
    await turns()
    assert heard(conn) == ["two"]


async def test_a_connection_to_the_broker_that_is_lost_in_the_midst_of_reading_is_read_again(
    street: Street,
) -> None:
    (conn,) = await street.members(1, profile=V1_JSON)
    await street.publish("one")

    async def missed() -> None:
        street.broker._subscribed.discard(("/n", "r"))
        await street.publish("missed")
        street.broker._subscribed.add(("/n", "r"))
        street.hub.lost_touch()

    street.broker.after_read = missed
    street.hub.lost_touch()
    await turns(20)
    assert heard(conn) == ["one", "missed"]


async def test_all_who_come_back_at_once_get_all_that_was_said(street: Street) -> None:
    """More than what is shared among them (`RECENT`), while others are talking."""
    await street.publish("first")
    place = await street.head()
    for number in range(5000):
        await street.publish(number)
    returning = [asyncio.create_task(street.returning(place)) for _ in range(20)]
    for number in range(5000, 5100):
        await street.publish(number)
        await turns(1)
    back = [await task for task in returning]
    await turns(20)
    for conn, told in back:
        assert told.recovered
        assert heard(conn) == list(range(5100))


async def test_a_member_that_leaves_while_it_catches_up_leaves_nothing_behind(street: Street) -> None:
    for number in range(1000):
        await street.publish(number)
    place = Position((await street.head()).epoch, 0)
    conn = street.connect(V1_JSON)
    await street.hub.rejoin(conn, {"r": place})

    async def leave() -> None:
        await conn.leave("r")

    street.broker.after_read = leave
    await street.hub.replay(conn)
    assert "r" not in street.home.rooms
    assert ("/n", "r") not in street.broker._subscribed
    assert heard(conn) == []


@pytest.mark.parametrize("while_it_is_read", [False, True])
async def test_what_was_forgotten_is_kept_for_nobody_who_comes_back(
    street: Street, while_it_is_read: bool
) -> None:
    await street.publish("old")
    place = Position((await street.head()).epoch, 0)
    (live,) = await street.members(1, profile=V1_JSON)
    following: Any = street.home.rooms["r"].tail

    async def purge() -> None:
        await street.broker.forget("/n", "r", History(size=20_000))
        following.purge()

    if while_it_is_read:
        street.broker.after_read = purge
    (_, first) = await street.returning(place)
    assert first.recovered
    if not while_it_is_read:
        await purge()
    conn, told = await street.returning(place)
    assert (told.recovered, heard(conn)) == (False, [])
    await street.publish("new")
    await turns()
    assert heard(conn) == heard(live) == ["new"]


async def test_a_broker_that_fails_in_the_midst_of_a_return_leaves_nothing_behind(street: Street) -> None:
    await street.publish("one")
    place = Position((await street.head()).epoch, 0)
    await street.publish("two", room="s")
    conn = street.connect(V1_JSON)

    async def fail() -> None:
        raise ws_adapter_unavailable("it is down")

    street.broker.after_read = fail
    with pytest.raises(SocketFault):
        await street.hub.rejoin(conn, {"r": place, "s": place})
    await street.hub.vacate(street.home, street.hub.forget(conn))
    assert street.home.rooms == {}
    again, told = await street.returning(place)
    await turns()
    assert told.recovered
    assert heard(again) == ["one"]


async def test_a_slow_member_that_leaves_and_joins_and_is_slow_again_gets_only_what_is_for_it(
    street: Street,
) -> None:
    (conn,) = await street.members(1, profile=V1_JSON, buffer_size=4)
    other, *_ = await street.members(1, profile=V1_JSON)  # who keeps the room open
    wire: Any = conn._transport
    wire.open = False
    for number in range(20):
        await street.publish(number)
    await turns()
    await conn.leave("r")
    await conn.join("r")
    for number in range(20, 40):
        await street.publish(number)
    await turns()
    wire.open = True
    conn._writable()
    await turns(50)
    got = heard(conn)
    assert got == [*range(len(got) - 20), *range(20, 40)]
    assert len(got) < 30  # of what it had not read when it left, it gets nothing any more
    assert heard(other) == list(range(40))


async def test_what_a_member_reads_of_the_log_does_not_wait_in_memory_while_it_takes_no_more(
    street: Street,
) -> None:
    epoch, offset = await street.head()
    for number in range(600):
        await street.publish([number, "x" * 6_000])
    street.broker.counts = True
    stalled = []
    for place in range(3):
        conn = street.connect(V1_JSON)
        wire: Any = conn._transport
        wire.open = False
        await street.hub.rejoin(conn, {"r": Position(epoch, offset + place)})
        stalled.append((conn, wire, asyncio.create_task(street.hub.replay(conn))))
    await turns(50)
    assert all(conn._outbox.half_full for conn, _, _ in stalled)
    assert len(street.broker.held) < 3 * 30
    for place, (conn, wire, replay) in enumerate(stalled):
        wire.open = True
        conn._writable()
        await replay
        await turns()
        assert [number for number, _ in heard(conn)] == list(range(place, 600))


async def test_who_was_held_up_by_a_few_large_entries_reads_on_in_large_pages(street: Street) -> None:
    place = await street.head()
    for number in range(10):
        await street.publish([number, "x" * 200_000])
    for number in range(10, 2000):
        await street.publish([number, ""])
    conn = street.connect(V1_JSON)
    wire: Any = conn._transport
    wire.open = False
    await street.hub.rejoin(conn, {"r": place})
    replay = asyncio.create_task(street.hub.replay(conn))
    await turns(50)
    assert conn._outbox.half_full
    street.broker.reads = 0
    wire.open = True
    conn._writable()
    await replay
    await turns()
    assert [number for number, _ in heard(conn)] == list(range(2000))
    assert street.broker.reads < 40
