"""The hub where things take their time or break: slow and failing brokers, broken wires, many rooms at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from house import House, Shaky, heard, turns

from aquilia.sockets import Publication, SocketFault
from aquilia.sockets import fanout as fanout_module


@pytest.fixture
def broker() -> Shaky:
    return Shaky()


@pytest.fixture
async def house(broker: Shaky) -> AsyncIterator[House]:
    house = House(broker, max_rooms=3, room_size=8)
    await house.hub.start()
    await house.hub.enter(house.home)
    yield house
    broker.turns = 0
    broker.broken.clear()
    await house.hub.exit(house.home)
    await house.hub.stop()


def every_look_is_late(house: House) -> None:
    """Whenever the hub looks at the clock, it finds its slice over."""
    clock = iter(range(10**9))
    house.hub._fanout.clock = lambda: float(next(clock))


async def test_concurrent_joins_do_not_pass_the_number_of_rooms(house: House, broker: Shaky) -> None:
    broker.turns = 3
    conn = house.connect()
    ends = await asyncio.gather(*(conn.join(f"room {n}") for n in range(10)), return_exceptions=True)
    refused = [end for end in ends if end is not None]
    assert len(refused) == 7
    assert {end.code for end in refused} == {"WS_QUOTA_EXCEEDED"}  # type: ignore[attr-defined]
    assert len(conn.rooms) == 3
    assert set(house.home.rooms) == conn.rooms


async def test_concurrent_joins_do_not_pass_the_size_of_a_room(house: House, broker: Shaky) -> None:
    broker.turns = 3
    conns = [house.connect() for _ in range(12)]
    ends = await asyncio.gather(*(conn.join("r") for conn in conns), return_exceptions=True)
    assert [type(end) for end in ends] == [type(None)] * 8 + [SocketFault] * 4
    assert len(await house.hub.members("/n", "r")) == 8


async def test_the_broker_is_told_of_one_change_of_a_room_at_a_time(house: House, broker: Shaky) -> None:
    broker.turns = 2  # and the broker itself objects to concurrent calls for one room
    conns = [house.connect() for _ in range(6)]

    async def come_and_go(conn: Any) -> None:
        for _ in range(10):
            await conn.join("r")
            await conn.leave("r")

    await asyncio.gather(*map(come_and_go, conns))
    assert house.home.rooms == {}
    await conns[0].join("r")
    await house.publish("still heard")
    await turns()
    assert heard(conns[0]) == ["still heard"]


async def test_a_connection_that_joins_a_room_twice_at_once_is_in_it_once(
    house: House, broker: Shaky
) -> None:
    broker.turns = 3
    conn = house.connect()
    ends = await asyncio.gather(*(house.hub.join(conn, "r") for _ in range(3)))
    assert sorted(ends) == [False, False, True]
    await house.publish("once")
    await turns()
    assert heard(conn) == ["once"]


async def test_a_room_that_is_given_back_twice_at_once_is_gone_once(house: House, broker: Shaky) -> None:
    conns = await house.members(2)
    broker.turns = 3
    await asyncio.gather(*(conn.leave("r") for conn in conns))
    await house.hub.close_room(house.home, "r")
    assert house.home.rooms == {}


async def test_who_goes_while_it_joins_is_not_in_the_room(house: House, broker: Shaky) -> None:
    broker.turns = 3
    conn = house.connect()
    joining = asyncio.create_task(conn.join("r"))
    await asyncio.sleep(0)
    conn._closed(1006, "")
    house.hub.forget(conn)
    with pytest.raises(SocketFault) as refused:
        await joining
    assert refused.value.code == "WS_CONNECTION_CLOSED"
    assert house.home.rooms == {}


async def test_a_join_that_is_cancelled_leaves_no_room(house: House, broker: Shaky) -> None:
    broker.turns = 3
    joining = asyncio.create_task(house.connect().join("r"))
    await asyncio.sleep(0)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert house.home.rooms == {}


async def test_a_member_hears_what_is_published_as_soon_as_its_join_returns(
    house: House, broker: Shaky
) -> None:
    broker.turns = 3
    first, second = house.connect(), house.connect()

    async def join_and_publish(conn: Any) -> None:
        await conn.join("r")
        await house.publish(conn.id)

    await asyncio.gather(join_and_publish(first), join_and_publish(second))
    await turns()
    assert first.id in heard(first)
    assert second.id in heard(second)


async def test_a_wire_that_breaks_is_cut_and_all_others_are_served(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    members = await house.members(5)
    broken: Any = members[2]._transport
    broken.broken = True
    for n in range(3):
        await house.publish(n)
        await turns()
    for member in (*members[:2], *members[3:]):
        assert heard(member) == [0, 1, 2]
    assert broken.cut
    assert "the wire is broken" in caplog.text


async def test_a_wire_that_breaks_under_a_burst_stops_no_fan_out(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    members = await house.members(3, buffer_size=2)
    broken: Any = members[0]._transport
    broken.broken = True
    for n in range(10):
        await house.publish(n)
    await turns()
    assert heard(members[1]) == heard(members[2]) == list(range(10))


def publication(room: str, payload: Any) -> Publication:
    return Publication(id=room, namespace="/n", event="e", payload=payload, ts=0, room=room)


@pytest.fixture
async def town() -> AsyncIterator[House]:
    """One room with many members, and many rooms with one."""
    town = House(max_rooms=1)
    await town.hub.start()
    await town.hub.enter(town.home)
    for n in range(300):
        await town.connect().join("large" if n < 250 else f"small {n}")
    yield town
    await town.hub.exit(town.home)
    await town.hub.stop()


def reached(town: House) -> int:
    members: Any = town.home.connections.members.values()
    return sum(len(conn._outbox) + len(conn._transport.frames) for conn in members)


async def test_many_small_rooms_give_the_loop_back_as_one_large_room_does(town: House) -> None:
    every_look_is_late(town)
    town.hub.deliver(publication("large", "x"))
    for n in range(250, 300):
        town.hub.deliver(publication(f"small {n}", n))  # as a broker does that has read many at once
    while (before := reached(town)) < 300:
        await asyncio.sleep(0)
        assert 0 < reached(town) - before <= fanout_module.CLOCK_EVERY


async def test_a_small_room_does_not_wait_for_the_whole_of_a_large_one(town: House) -> None:
    every_look_is_late(town)
    town.hub.deliver(publication("large", "x"))
    town.hub.deliver(publication("small 299", "y"))
    members = list(town.home.connections.members.values())
    await turns(3)
    assert heard(members[299]) == ["y"]
    assert heard(members[249]) == []
    await turns(10)
    assert heard(members[249]) == ["x"]


async def test_publishers_that_wait_go_on_when_everyone_has_left(town: House) -> None:
    every_look_is_late(town)
    for n in range(fanout_module.BACKLOG):
        town.hub.deliver(publication("large", n))
    waiting = [asyncio.create_task(town.publish(n, room="large")) for n in range(3)]
    await turns(2)
    assert not any(task.done() for task in waiting)
    for conn in list(town.home.connections.members.values()):
        await conn.leave("large")
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert "large" not in town.home.rooms


async def test_who_leaves_and_comes_back_hears_what_is_published_after_that(town: House) -> None:
    every_look_is_late(town)
    members = list(town.home.connections.members.values())
    town.hub.deliver(publication("large", "before"))
    await members[249].leave("large")
    await members[249].join("large")
    town.hub.deliver(publication("large", "after"))
    await turns(20)
    assert heard(members[249])[-1] == "after"
    assert heard(members[0]) == ["before", "after"]
