"""The hub: membership, and the fan-out of publications in slices, in order, encoded once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from house import House, Wire, heard, turns

from aquilia.sockets import ConnectionState, SocketFault
from aquilia.sockets import fanout as fanout_module
from aquilia.sockets.codecs import codec
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import PLAIN_JSON, V1_JSON, V1_MSGPACK, Profile


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House(max_rooms=3, room_size=200)
    await house.hub.start()
    await house.hub.enter(house.home)
    yield house
    await house.hub.exit(house.home)
    await house.hub.stop()


async def test_members_hear_in_order_and_others_do_not(house: House) -> None:
    members = await house.members(3)
    stranger = house.connect()
    for n in range(10):
        await house.publish(n)
    await turns()
    assert [heard(conn) for conn in members] == [list(range(10))] * 3
    assert heard(stranger) == []


async def test_a_publication_is_encoded_once_for_each_variant(house: House) -> None:
    await house.members(50)
    await house.members(50, profile=V1_JSON)
    await house.members(50, profile=V1_MSGPACK)
    before = Wire.framed
    await house.publish("x")
    await turns()
    assert Wire.framed - before == 3


async def test_exclude_and_identity_choose_among_the_members(house: House) -> None:
    ada, bob, again = (
        house.connect(identity="ada"),
        house.connect(identity="bob"),
        house.connect(identity="ada"),
    )
    for conn in (ada, bob, again):
        await conn.join("r")
    await house.publish(1, exclude=ada.id)
    await house.publish(2, identity="ada")
    await house.publish(3, room=None, identity="bob")
    await house.publish(4, room=None)
    await turns()
    assert [heard(ada), heard(bob), heard(again)] == [[2, 4], [1, 3, 4], [1, 2, 4]]


async def test_a_long_fan_out_gives_the_loop_back_and_keeps_the_order(house: House) -> None:
    members = await house.members(200)
    clock = iter(range(10**6))
    house.hub._fanout.clock = lambda: float(next(clock))  # every look at the clock finds the slice over
    await house.publish("a")
    assert sum(len(conn._transport.frames) for conn in members) == fanout_module.CLOCK_EVERY
    late = house.connect()
    await members[-1].leave("r")
    await late.join("r")
    await house.publish("b")
    await turns(40)
    assert [heard(conn) for conn in members[:-1]] == [["a", "b"]] * 199
    assert heard(members[-1]) == []  # it left before its turn
    assert heard(late) == ["b"]  # it came after the first was published


async def full(house: House, count: int) -> list[Connection]:
    """Members whose wires take nothing more: the next publication is one too many for them."""
    members = await house.members(count, buffer_size=1, strategy="disconnect")
    for conn in members:
        conn._transport.open = False
    for n in range(2):
        await house.publish(n)
        await turns()
    assert {conn._close for conn in members} == {None}
    return members


def ends(conns: list[Connection]) -> list[int | None]:
    return [conn._transport.ended and conn._transport.ended[0] for conn in conns]


async def test_those_who_overflow_at_one_publication_are_closed_a_few_in_each_turn(house: House) -> None:
    readers = await house.members(5)
    members = await full(house, 100)
    house.step = 0.0003
    await house.publish(2)
    assert {conn.phase for conn in members} == {ConnectionState.CLOSING}
    closed = 0
    async with asyncio.timeout(10):
        while closed < 100:
            before = closed
            await turns(1)
            closed = ends(members).count(4531)
            assert closed - before <= 5
    assert [heard(conn) for conn in readers] == [[0, 1, 2]] * 5


async def test_one_that_is_gone_before_its_turn_to_be_closed_is_left_alone(house: House) -> None:
    members = await full(house, 3)
    await house.publish(2)
    members[1]._closed(1006, "")
    await turns()
    assert ends(members) == [4531, None, 4531]


async def test_a_wire_that_cannot_be_closed_is_cut_and_keeps_nobody(house: House) -> None:
    members = await full(house, 3)
    await house.publish(2)
    members[0]._transport.broken = True
    await turns()
    assert members[0]._transport.cut
    assert ends(members) == [None, 4531, 4531]


async def test_fan_out_and_the_writing_of_what_was_queued_share_a_turn(house: House) -> None:
    members = [house.connect() for _ in range(fanout_module.CLOCK_EVERY * 40)]
    house.step = fanout_module.SLICE / 10  # in which so many members are written to as lie between two looks
    publishing = [asyncio.create_task(house.publish(n, room=None)) for n in range(4)]
    async with asyncio.timeout(10):
        while any(len(conn._transport.frames) < 4 for conn in members):
            before = house.now
            await turns(1)
            assert house.now - before <= 1.7 * fanout_module.SLICE
    await asyncio.wait(publishing)
    assert [heard(conn) for conn in members] == [[0, 1, 2, 3]] * len(members)


async def test_publishers_wait_while_a_room_is_far_behind(house: House) -> None:
    members = await house.members(200)
    clock = iter(range(10**6))
    house.hub._fanout.clock = lambda: float(next(clock))
    published = 0

    async def flood() -> None:
        nonlocal published
        for n in range(150):
            await house.publish(n)
            published += 1

    flooding = asyncio.create_task(flood())
    await asyncio.sleep(0)
    assert published < 150
    assert len(house.home.rooms["r"].backlog) <= fanout_module.BACKLOG
    await flooding
    await turns(1000)
    assert heard(members[0]) == list(range(150))


async def test_a_payload_that_cannot_be_encoded_fails_its_publisher_and_nobody_else(house: House) -> None:
    (member,) = await house.members(1)
    with pytest.raises(SocketFault) as refused:
        await house.publish(object())
    assert refused.value.code == "WS_PUBLISH_FAILED"
    await house.publish("next")
    await turns()
    assert heard(member) == ["next"]


async def test_a_member_whose_codec_cannot_write_a_payload_is_told(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    (binary,) = await house.members(1, profile=V1_MSGPACK)
    (plain,) = await house.members(1)
    await house.publish({True: 1})  # JSON has no such keys
    await turns()
    wire: Any = binary._transport
    assert codec("msgpack").plain(msgspec.Raw(wire.frames[-1]))["payload"] == {True: 1}
    (apology,) = heard(plain)
    assert apology["code"] == "WS_PUBLISH_FAILED"
    assert "cannot be written as json" in caplog.text


async def test_a_full_room_refuses_and_is_not_changed(house: House) -> None:
    await house.members(200)
    late = house.connect()
    with pytest.raises(SocketFault) as refused:
        await late.join("r")
    assert refused.value.code == "WS_ROOM_FULL"
    assert late.rooms == set()
    assert len(await house.hub.members("/n", "r")) == 200


async def test_a_connection_has_a_bounded_number_of_rooms(house: House) -> None:
    conn = house.connect()
    for room in "abc":
        await conn.join(room)
    with pytest.raises(SocketFault) as refused:
        await conn.join("d")
    assert (refused.value.code, refused.value.close_code) == ("WS_QUOTA_EXCEEDED", None)
    await conn.join("a")  # there already
    await conn.leave("a")
    await conn.leave("a")
    await conn.join("d")
    assert conn.rooms == {"b", "c", "d"}
    assert set(house.home.rooms) == {"b", "c", "d"}


@pytest.mark.parametrize("room", ["", "x" * 257, 7, None])
async def test_a_room_needs_a_proper_name(house: House, room: Any) -> None:
    with pytest.raises(SocketFault) as refused:
        await house.connect().join(room)
    assert refused.value.code == "WS_MESSAGE_INVALID"


async def test_concurrent_joins_and_leaves_end_where_they_should(house: House) -> None:
    conns = [house.connect() for _ in range(20)]
    await asyncio.gather(*(conn.join("r") for conn in conns for _ in range(2)))
    await asyncio.gather(*(conn.leave("r") for conn in conns[:10]))
    assert {member.connection for member in await house.hub.members("/n", "r")} == {c.id for c in conns[10:]}
    for conn in conns[10:]:
        for room in house.hub.forget(conn):
            await house.hub.close_room(house.home, room)
    assert house.home.rooms == {}


async def test_who_has_gone_joins_nothing(house: House) -> None:
    conn = house.connect()
    conn._closed(1006, "")
    with pytest.raises(SocketFault) as refused:
        await conn.join("r")
    assert refused.value.code == "WS_CONNECTION_CLOSED"
    assert house.home.rooms == {}


async def test_members_and_kick(house: House) -> None:
    conn = house.connect(identity="ada")
    await conn.join("r")
    (member,) = await house.hub.members("/n", "r")
    assert (member.connection, member.identity) == (conn.id, "ada")
    assert await house.hub.members("/n", "empty") == []
    assert await house.hub.members("/other", "r") == []
    assert await house.hub.kick("/n", conn.id)
    assert not await house.hub.kick("/n", conn.id)
    assert not await house.hub.kick("/other", conn.id)
    await turns()
    wire: Any = conn._transport
    assert wire.ended == (4409, "kicked")


async def test_publications_to_nobody_are_no_error(house: House) -> None:
    await house.publish(1)
    await house.hub.publish("/other", "e", 1)


async def test_a_member_that_reads_nothing_is_ended_and_the_others_go_on(house: House) -> None:
    slow, fast = house.connect(buffer_size=5), house.connect(buffer_size=5)
    for conn in (slow, fast):
        await conn.join("r")
    wire: Any = slow._transport
    wire.open = False
    for n in range(20):
        await house.publish(n)
        await turns(2)
    assert wire.ended is not None
    assert wire.ended[0] == 4531
    assert heard(fast) == list(range(20))
    assert house.recorder.counts["dropped", "/n", "slow_consumer"] > 0


@pytest.mark.parametrize(
    ("profile", "told"), [(PLAIN_JSON, "WS_MESSAGES_DROPPED"), (V1_JSON, "slow_consumer")]
)
async def test_what_a_slow_member_loses_is_told_in_its_place(
    house: House, profile: Profile, told: str
) -> None:
    conn = house.connect(profile, strategy="drop_oldest", buffer_size=3)
    await conn.join("r")
    await turns()
    wire: Any = conn._transport
    wire.open = False
    await house.publish("written")
    await turns()
    for n in range(10):
        await house.publish(n)
    wire.open = True
    conn._writable()
    frames = [frame for frame in wire.events if frame.get("event") != "joined"]
    assert told in str(frames[1])
    assert [frame["payload"] for frame in (frames[0], *frames[2:])] == ["written", 7, 8, 9]
    assert house.recorder.counts["dropped", "/n", "slow_consumer"] == 7


async def test_a_direct_sender_waits_for_a_slow_client(house: House) -> None:
    conn = house.connect(buffer_size=4)
    wire: Any = conn._transport
    wire.open = False
    sent = 0

    async def stream() -> None:
        nonlocal sent
        for n in range(20):
            await conn.send_event("token", n)
            sent += 1

    streaming = asyncio.create_task(stream())
    await turns(10)
    assert sent < 20
    assert wire.ended is None
    wire.open = True
    while not streaming.done():
        conn._writable()
        await asyncio.sleep(0)
    await turns()
    assert heard(conn) == list(range(20))
