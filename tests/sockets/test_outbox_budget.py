"""The bound of the process for what waits for slow clients: who holds the most gives way, and nobody else."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from house import House, heard, turns
from test_hub_under_strain import every_look_is_late

from aquilia.sockets import (
    AckEvent,
    Connection,
    Emits,
    Event,
    History,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.envelope import V1_JSON
from aquilia.sockets.fanout import BACKLOG_BYTES
from aquilia.sockets.history import Histories
from aquilia.sockets.metrics.recorder import Counters
from aquilia.sockets.outbox.budget import SpoolingBudget
from aquilia.sockets.outbox.queue import Backpressure, Outbox
from aquilia.sockets.outbox.spooling import SpoolingOutbox
from aquilia.testing import Client, SocketsTest, sockets_test

NOTE = "x" * 1000


class Hall(SocketController):
    vital = Emits("vital", list[Any], backpressure={"strategy": "buffer"})

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("say")
    async def say(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        room, numbers = payload
        for number in numbers:
            await self.publish_room(room, "note", [number, NOTE])

    @Event("warn")
    async def warn(self, conn: Connection, payload: tuple[str, int]) -> None:
        await self.publish_room(payload[0], self.vital, [payload[1], NOTE])

    @Unsubscribe("leave")
    async def leave(self, conn: Connection, payload: str) -> str:
        return payload

    @AckEvent("ask")
    async def ask(self, conn: Connection, payload: Any) -> Any:
        return payload


def hall(**settings: Any) -> type[SocketController]:
    return Socket("/hall", **settings)(type("AHall", (Hall,), {}))


def lost(t: SocketsTest, cause: str = "outbox_bytes") -> int:
    recorder = t.application.sockets.recorder
    assert isinstance(recorder, Counters)
    return recorder.counts["dropped", "/hall", cause]


async def entered(t: SocketsTest, room: str) -> Client:
    client = await t.connect("/hall", subprotocol="aquilia.v1.json")
    await client.request("enter", room)
    return client


async def frozen(t: SocketsTest, room: str, speaker: Client) -> Client:
    """Who is in a room and does not read; its wire has taken a note, and takes no more."""
    client = await entered(t, room)
    client.stop_reading()
    await speaker.request("say", [room, [-1]])
    return client


async def notes(client: Client, count: int) -> list[int]:
    return [(await client.expect("note")).payload[0] for _ in range(count)]


async def test_who_holds_the_most_is_shown_out_and_the_others_lose_nothing() -> None:
    async with sockets_test(hall(), outbox_bytes=10_000) as t:
        speaker = await entered(t, "large")
        greedy = await frozen(t, "large", speaker)
        modest = await frozen(t, "small", speaker)
        await speaker.request("say", ["small", [1, 2, 3]])
        await speaker.request("say", ["large", list(range(8))])
        assert await notes(speaker, 9) == [-1, *range(8)]
        greedy.read_on()
        assert (await greedy.closed()).code == 4531
        assert 6 <= lost(t) <= 8
        modest.read_on()
        assert await notes(modest, 4) == [-1, 1, 2, 3]
        assert not lost(t, "slow_consumer")


async def test_what_is_read_or_left_behind_by_who_goes_counts_no_more() -> None:
    async with sockets_test(hall(), outbox_bytes=10_000) as t:
        speaker = await t.connect("/hall")
        for number in range(4):
            client = await frozen(t, "hall", speaker)
            await speaker.request("say", ["hall", list(range(6))])
            if number % 2:
                await client.disconnect()
            else:
                client.read_on()
                assert await notes(client, 7) == [-1, *range(6)]
                await client.request("leave", "hall")
        assert not lost(t)


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest", "conflate"])
async def test_a_dropping_strategy_loses_its_oldest_and_is_told(strategy: str) -> None:
    lossy = hall(backpressure={"strategy": strategy, "key": key_of(strategy)})
    async with sockets_test(lossy, outbox_bytes=10_000) as t:
        speaker = await t.connect("/hall")
        client = await frozen(t, "hall", speaker)
        await speaker.request("say", ["hall", list(range(30))])
        client.read_on()
        dropped = lost(t)
        assert 20 <= dropped < 30
        assert await notes(client, 31 - dropped) == [-1, *range(dropped, 30)]
        assert (await client.expect("gap", type="system")).payload == {
            "cause": "slow_consumer",
            "dropped": dropped,
        }
        assert not lost(t, "slow_consumer")


def key_of(strategy: str) -> Any:
    return (lambda payload: payload[0]) if strategy == "conflate" else None


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest"])
async def test_an_event_that_is_not_to_be_lost_does_not_give_way(strategy: str) -> None:
    async with sockets_test(hall(backpressure={"strategy": strategy}), outbox_bytes=10_000) as t:
        speaker = await t.connect("/hall")
        client = await frozen(t, "hall", speaker)
        await speaker.request("warn", ["hall", 7])
        await speaker.request("say", ["hall", list(range(30))])
        client.read_on()
        assert (await client.expect("vital")).payload[0] == 7
        assert lost(t) >= 20


async def test_members_of_a_room_with_history_read_its_log_instead() -> None:
    kept = hall(history=History(size=100), backpressure={"buffer_bytes": 12_000})
    async with sockets_test(kept, outbox_bytes=20_000) as t:
        speaker = await t.connect("/hall")
        clients = [await frozen(t, "hall", speaker) for _ in range(2)]
        for number in range(50):
            await speaker.request("say", ["hall", [number]])
        for number, client in enumerate(clients):
            client.read_on()
            assert await notes(client, 52 - number) == [-1] * (2 - number) + list(range(50))
        assert not lost(t)
        assert not lost(t, "slow_consumer")


async def test_who_is_put_back_to_the_log_is_shown_out_if_that_does_not_help() -> None:
    kept = hall(history=History(size=100))
    async with sockets_test(kept, outbox_bytes=8_000) as t:
        speaker = await t.connect("/hall")
        client = await frozen(t, "hall", speaker)
        await speaker.request("say", ["hall", list(range(50))])
        client.read_on()
        assert (await client.closed()).code == 4531


async def full(house: House, **limits: Any) -> list[Connection]:
    """A hundred members for whom 700 kB wait, since their wires take nothing."""
    await house.hub.start()
    await house.hub.enter(house.home)
    members = await house.members(100, profile=V1_JSON, **limits)
    for conn in members:
        conn._transport.open = False
    for n in range(8):  # of which the wire has taken the first
        await house.publish([n, NOTE])
        await turns()
    house.step = 0.0003
    return members


async def test_members_are_put_back_to_the_log_a_few_in_each_turn() -> None:
    history = Histories({"*": History(size=1000)})
    house = House(room_size=None, outbox_bytes=1_000_000, history=history)
    members = await full(house, buffer_size=10)
    waiting = house.home.rooms["r"].waiting
    await house.publish([8, NOTE])
    async with asyncio.timeout(10):
        while len(waiting) < len(members):
            before = len(waiting)
            await turns(1)
            assert before <= len(waiting) <= before + 5


async def test_those_who_hold_the_most_are_shown_out_a_few_in_each_turn() -> None:
    house = House(room_size=None, outbox_bytes=800_000)
    members = await full(house)
    await house.publish([8, NOTE * 10])
    ended = 0
    async with asyncio.timeout(10):
        while ended < 60:  # who is left holds seven eighths of the bound
            before = ended
            await turns(1)
            ended = sum(conn._close is not None for conn in members)
            assert ended <= before + 5
    await turns(40)
    assert sum(conn._close is not None for conn in members) < 65


async def test_answers_count_as_well() -> None:
    async with sockets_test(hall(backpressure={"strategy": "drop_oldest"}), outbox_bytes=5_000) as t:
        client = await frozen(t, "hall", await t.connect("/hall"))
        asked = [asyncio.create_task(client.request("ask", NOTE)) for _ in range(8)]
        assert (await client.closed()).code == 4531
        await asyncio.gather(*asked, return_exceptions=True)


async def test_a_room_that_is_behind_by_many_bytes_makes_its_publishers_wait() -> None:
    house = House(room_size=None)
    await house.hub.start()
    await house.hub.enter(house.home)
    members = await house.members(200)
    every_look_is_late(house)
    published = 0

    async def flood() -> None:
        nonlocal published
        for _ in range(20):
            await house.publish("x" * (BACKLOG_BYTES // 4))
            published += 1

    flooding = asyncio.create_task(flood())
    await turns(4)
    assert published < 8
    async with asyncio.timeout(10):
        await flooding
    await turns(200)
    assert len(heard(members[0])) == len(heard(members[199])) == 20


class Holder:
    """As much of a connection as the bound of the process looks at."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._blocked, self._weight = True, 0


def test_what_cannot_go_to_disk_is_asked_once_and_not_at_every_turn() -> None:
    looks = itertools.count()
    budget = SpoolingBudget(16_000_000, lambda: float(next(looks)) * 1e-6)
    for number in range(8000):
        holder: Any = Holder(SpoolingOutbox(Backpressure("buffer"), 1))
        holder._outbox.push(b"x" * 1100)
        budget.weigh(holder)
        if number % 100 == 0:
            budget.keep()
    for _ in range(100):
        budget.keep()
    before = next(looks)
    for _ in range(100):
        budget.keep()
    assert next(looks) == before + 1
