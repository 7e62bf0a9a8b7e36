"""Presence as users see it, on one node: who is in a room, what members and the controller are told."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from house import House, turns
from wire import eventually, serving

from aquilia.aquilary import BootError
from aquilia.client import Client, Resumed
from aquilia.client import Presence as PresenceNotice
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    OnPresence,
    Presence,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.sockets.envelope import V1_JSON, MessageEnvelope
from aquilia.testing import sockets_test

TOLD: list[tuple[str, dict[str, Any], dict[str, Any]]] = []


class Team(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        await conn.join(payload)
        return conn.id

    @Event("exit")
    async def exit(self, conn: Connection, payload: str) -> None:
        await conn.leave(payload)

    @Event("break")
    async def break_off(self, conn: Connection) -> None:
        conn._transport.abort()

    @Event("set")
    async def set(self, conn: Connection, payload: Any) -> None:
        await conn.update_presence("team", payload)

    @Event("set elsewhere")
    async def set_elsewhere(self, conn: Connection) -> str:
        with pytest.raises(ValueError, match="the room 'plain' has no presence") as refusal:
            await conn.update_presence("plain", {})
        return str(refusal.value)

    @Event("who")
    async def who(self, conn: Connection, payload: dict[str, Any]) -> dict[str, Any]:
        page = await self.presence("team", **payload)
        entries = [[each.id, dict(each.meta), each.connections] for each in page.entries]
        return {"count": page.count, "entries": entries, "next": page.next}

    @Event("flood")
    async def flood(self, conn: Connection) -> None:
        await self.publish_room("team", "flood", "x" * 1_000_000, exclude=conn)

    @Event("be")
    async def be(self, conn: Connection, payload: str) -> None:
        conn.identity = SimpleNamespace(id=payload)


def team(presence: Any = True, **options: Any) -> type[SocketController]:
    return Socket("/team", presence=presence, **options)(type("AnyTeam", (Team,), {}))


class Hooked(Team):
    @OnPresence()
    async def changed(self, room: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        TOLD.append((room, joins, leaves))
        raise RuntimeError("which is logged, and costs nothing")


async def enter(t: Any, name: str | None, subprotocol: Any = "aquilia.v1.json") -> Any:
    identity = None if name is None else SimpleNamespace(id=name)
    client = await t.connect("/team", identity=identity, subprotocol=subprotocol)
    client.connection = await client.request("enter", "team")
    return client


def change(**said: Any) -> dict[str, Any]:
    return {"room": "team", "joins": {}, "leaves": {}, **said}


async def told(*clients: Any) -> dict[str, Any]:
    """What each of them is told next, which is the same."""
    payloads = [(await client.expect("presence", type="system")).payload for client in clients]
    assert all(payload == payloads[0] for payload in payloads)
    return dict(payloads[0])


async def test_members_are_told_who_is_there_and_then_who_comes_and_goes() -> None:
    async with sockets_test(team()) as t:
        ann = await enter(t, "ann")
        await ann.expect_nothing("presence")
        await t.clock.advance(1)
        assert await told(ann) == change(joins={"ann": {}})
        bob = await enter(t, "bob", "aquilia.v1.msgpack")
        await t.clock.advance(1)
        assert await told(bob) == change(joins={"ann": {}, "bob": {}})
        assert await told(ann) == change(joins={"bob": {}})
        await bob.request("set", {"status": "away"})
        await t.clock.advance(1)
        assert await told(ann, bob) == change(joins={"bob": {"status": "away"}})
        await bob.request("exit", "team")
        await t.clock.advance(1)
        assert await told(ann) == change(leaves={"bob": {"status": "away"}})
        await bob.expect_nothing("presence")


async def test_plain_clients_count_and_see_nothing_of_it() -> None:
    async with sockets_test(team()) as t:
        ann = await enter(t, "ann", ())
        await t.clock.advance(3)
        await ann.expect_nothing()
        assert (await ann.request("who", {}))["entries"] == [["ann", {}, 1]]


async def test_whoever_loses_the_connection_and_is_back_has_not_left() -> None:
    async with sockets_test(team()) as t:
        ann, bob = await enter(t, "ann"), await enter(t, "bob")
        await t.clock.advance(1)
        await told(ann)
        await bob.disconnect(1001)
        await t.clock.advance(0.9)
        assert (await ann.request("who", {}))["entries"] == [["ann", {}, 1], ["bob", {}, 0]]
        bob = await enter(t, "bob")
        await t.clock.advance(5)
        await ann.expect_nothing("presence")
        await bob.disconnect(1001)
        await t.clock.advance(3)
        assert await told(ann) == change(leaves={"bob": {}})
        assert (await ann.request("who", {}))["entries"] == [["ann", {}, 1]]


async def test_several_tabs_are_one_entry() -> None:
    async with sockets_test(team()) as t:
        one, other = await enter(t, "ann"), await enter(t, "ann")
        await one.request("set", {"tab": 1})
        await t.clock.advance(0.5)
        await other.request("set", {"tab": 2})
        assert (await one.request("who", {}))["entries"] == [["ann", {"tab": 2}, 2]]
        await other.request("exit", "team")
        assert (await one.request("who", {}))["entries"] == [["ann", {"tab": 1}, 1]]


async def test_whoever_has_no_identity_is_present_by_its_connection_until_it_has_one() -> None:
    async with sockets_test(team()) as t:
        ann = await enter(t, None)
        await ann.request("set", {"a": 1})
        assert (await ann.request("who", {}))["entries"] == [[ann.connection, {"a": 1}, 1]]
        await t.clock.advance(1)
        await told(ann)
        await ann.request("be", "ann")
        await t.clock.advance(1)
        assert await told(ann) == change(joins={"ann": {"a": 1}}, leaves={ann.connection: {"a": 1}})


async def test_a_large_room_tells_how_many_and_a_small_one_who_again() -> None:
    async with sockets_test(team(Presence(large=5))) as t:
        clients = [await enter(t, f"id{number}") for number in range(6)]
        await t.clock.advance(1)
        assert await told(*clients) == {"room": "team", "count": 6}
        late = await enter(t, "late")
        await t.clock.advance(1)
        assert await told(*clients, late) == {"room": "team", "count": 7}
        for client in clients[1:4]:
            await client.request("exit", "team")
        await t.clock.advance(1)
        left = [clients[0], *clients[4:], late]
        assert await told(*left) == {"room": "team", "count": 4}
        assert await told(*left) == change(joins={id: {} for id in ("id0", "id4", "id5", "late")})


async def test_who_is_there_is_had_by_pages() -> None:
    async with sockets_test(team()) as t:
        ann, _, _ = await enter(t, "ann"), await enter(t, "bob"), await enter(t, "cem")
        page = await ann.request("who", {"limit": 2})
        assert page == {"count": 3, "entries": [["ann", {}, 1], ["bob", {}, 1]], "next": "bob"}
        page = await ann.request("who", {"limit": 2, "after": page["next"]})
        assert page == {"count": 3, "entries": [["cem", {}, 1]], "next": None}


async def test_an_empty_room_has_nobody() -> None:
    async with sockets_test(team()) as t:
        ann = await t.connect("/team")
        assert await ann.request("who", {}) == {"count": 0, "entries": [], "next": None}


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ([1], "a map"),
        ({"text": "x" * 1024}, "1035 bytes as JSON: 1024 at most"),
        (None, "a map"),
    ],
)
async def test_metadata_is_a_small_map(meta: Any, problem: str) -> None:
    async with sockets_test(team()) as t:
        ann = await enter(t, "ann")
        with pytest.raises(SocketFault, match=problem) as refusal:
            await ann.request("set", meta)
        assert refusal.value.code == "WS_MESSAGE_INVALID"


async def test_who_is_not_in_the_room_has_no_metadata_there() -> None:
    async with sockets_test(team(Presence(rooms=("team",)))) as t:
        ann = await t.connect("/team")
        with pytest.raises(SocketFault, match="WS_NOT_SUBSCRIBED"):
            await ann.request("set", {})
        assert "declare it by @Socket" in await ann.request("set elsewhere")


async def test_rooms_that_no_pattern_fits_tell_nothing() -> None:
    async with sockets_test(team(Presence(rooms=("team",)))) as t:
        ann = await t.connect("/team", subprotocol="aquilia.v1.json")
        await ann.request("enter", "plain")
        await t.clock.advance(3)
        await ann.expect_nothing("presence")


async def test_the_controller_is_told_once_for_each_change() -> None:
    TOLD.clear()
    controller = Socket("/team", presence=True)(type("AnyHooked", (Hooked,), {}))
    async with sockets_test(controller) as t:
        await enter(t, "ann"), await enter(t, "bob")
        await t.clock.advance(1)
        cem = await enter(t, "cem")
        await cem.request("exit", "team")
        dan = await enter(t, "dan")
        await t.clock.advance(1)
        await dan.request("exit", "team")
        await t.clock.advance(1)
        assert TOLD == [
            ("team", {"ann": {}, "bob": {}}, {}),
            ("team", {"dan": {}}, {}),
            ("team", {}, {"dan": {}}),
        ]


async def test_whoever_does_not_read_has_the_state_anew_when_it_reads_again() -> None:
    async with sockets_test(team()) as t:
        ann, bob = await enter(t, "ann"), await enter(t, "bob")
        await t.clock.advance(1)
        await told(ann)
        ann.stop_reading()
        await bob.request("flood")
        await bob.request("set", {"at": 1})
        await t.clock.advance(2)
        await bob.request("set", {"at": 2})
        await t.clock.advance(2)
        ann.read_on()
        await t.clock.advance(2)
        assert await told(ann) == {"room": "team", "count": 2}
        assert await told(ann) == change(joins={"ann": {}, "bob": {"at": 2}})


async def test_our_client_tells_of_who_comes_and_goes() -> None:
    async with serving(AquilaSockets.from_controllers([team()])) as base:
        notices: list[PresenceNotice] = []
        async with Client(f"{base}/team") as client:
            client.on(PresenceNotice)(notices.append)
            id = await client.call("enter", "team")
            await client.call("set", {"a": 1})
            await eventually(lambda: len(notices) == 1)
        assert notices == [PresenceNotice(room="team", joins={id: {"a": 1}})]


async def test_who_comes_back_to_its_session_has_the_state_anew_and_nobody_saw_it_leave() -> None:
    async with serving(AquilaSockets.from_controllers([team()])) as base:
        notices: list[Any] = []
        seen: list[PresenceNotice] = []
        async with Client(f"{base}/team") as ann, Client(f"{base}/team") as bob:
            bob.on(PresenceNotice)(seen.append)
            for notice in (PresenceNotice, Resumed):
                ann.on(notice)(notices.append)
            ids = [await client.call("enter", "team") for client in (ann, bob)]
            await eventually(lambda: len(seen) == 1)
            before = len(notices)
            await ann.send("break")
            await eventually(lambda: len(notices) == before + 3)
            resumed, counted, state = notices[before:]
            assert isinstance(resumed, Resumed)
            assert counted == PresenceNotice(room="team", count=2)
            assert state == PresenceNotice(room="team", joins={id: {} for id in ids})
            await bob.call("set", {"later": True})
            await eventually(lambda: len(seen) == 2)
            assert not any(notice.leaves for notice in seen)


def test_a_hook_without_presence_is_refused_at_boot() -> None:
    with pytest.raises(BootError, match="changed: no room has presence: declare it by @Socket"):
        AquilaSockets.from_controllers([Socket("/team")(type("AnyHooked", (Hooked,), {}))])


def test_a_hook_takes_the_room_and_what_has_changed() -> None:
    class Wrong(SocketController):
        @OnPresence()
        async def changed(self, room: str) -> None: ...

    with pytest.raises(BootError, match=r"changed must take \(self, room, joins, leaves\)"):
        AquilaSockets.from_controllers([Socket("/team", presence=True)(Wrong)])


async def test_who_is_back_soon_keeps_its_metadata_and_nobody_is_told_of_it() -> None:
    async with sockets_test(team()) as t:
        ann, bob = await enter(t, "ann"), await enter(t, "bob")
        await bob.request("set", {"status": "away"})
        await t.clock.advance(1)
        await told(ann)
        await bob.disconnect(1001)
        await t.clock.advance(0.5)
        bob = await enter(t, "bob")
        await t.clock.advance(2)
        await ann.expect_nothing("presence")
        assert (await ann.request("who", {}))["entries"] == [["ann", {}, 1], ["bob", {"status": "away"}, 1]]
        await bob.request("set", {})
        await t.clock.advance(1)
        assert await told(ann) == change(joins={"bob": {}})


async def arrive(t: Any, name: str, token: str | None = None) -> Any:
    """A client that may come back to its session, or does."""
    identity = SimpleNamespace(id=name)
    client = await t.connect("/team", identity=identity, subprotocol="aquilia.v1.json", hello=False)
    payload = {} if token is None else {"resume": {"token": token, "rooms": {}}}
    client._send(MessageEnvelope(type="control", event="hello", payload=payload))
    client.token = (await client.expect("welcome", type="system")).payload["resume"]
    return client


@pytest.mark.parametrize("away", [0.5, 60])
async def test_who_comes_back_to_its_session_is_there_with_its_metadata(away: float) -> None:
    async with sockets_test(team()) as t:
        ann, bob = await enter(t, "ann"), await arrive(t, "bob")
        await bob.request("enter", "team")
        await bob.request("set", {"status": "away"})
        await t.clock.advance(1)
        assert (await told(ann))["joins"] == {"ann": {}, "bob": {"status": "away"}}
        await bob.disconnect(1001)
        await t.clock.advance(away)
        await arrive(t, "bob", bob.token)
        await t.clock.advance(2)
        assert (await ann.request("who", {}))["entries"] == [["ann", {}, 1], ["bob", {"status": "away"}, 1]]
        if away > 2:
            assert await told(ann) == change(leaves={"bob": {"status": "away"}})
            assert await told(ann) == change(joins={"bob": {"status": "away"}})
        await ann.expect_nothing("presence")


async def test_a_huge_room_is_counted_less_often() -> None:
    async with sockets_test(team(Presence(large=5))) as t:
        t.clock.freeze()
        clients = [await enter(t, f"id{number}", ()) for number in range(2000)]
        ann = await enter(t, "ann")
        await t.clock.advance(1)
        assert await told(ann) == {"room": "team", "count": 2001}
        await clients[0].request("exit", "team")
        await t.clock.advance(1)
        await ann.expect_nothing("presence")
        await clients[1].request("exit", "team")
        await t.clock.advance(1.1)
        assert await told(ann) == {"room": "team", "count": 1999}
        for client in clients[2:400]:
            await client.send("exit", "team")
        await t.clock.advance(1)
        assert await told(ann) == {"room": "team", "count": 1601}


async def test_many_rooms_are_looked_at_in_turns_of_the_loop_that_leave_time_for_others() -> None:
    house = House(presence=Presence())
    house.step = 1.0
    await house.hub.start()
    try:
        wires = []
        for number in range(20):
            conn = house.connect(V1_JSON, identity="ann")
            await conn.join(f"room{number}")
            wires.append(conn._transport)
        await turns()
        greeted = sum(len(wire.frames) for wire in wires)
        told = {0}
        while max(told) < 20:
            await asyncio.sleep(0)
            told.add(sum(len(wire.frames) for wire in wires) - greeted)
        assert len(told) > 10
    finally:
        await house.hub.stop()


async def test_an_identity_that_no_text_can_have_does_not_hide_the_others() -> None:
    async with sockets_test(team()) as t:
        await enter(t, "\ud800", ())
        ann = await enter(t, "ann")
        await t.clock.advance(1)
        assert await told(ann) == change(joins={"\\ud800": {}, "ann": {}})
        await enter(t, "Zoë \N{SNOWMAN}\0")
        await t.clock.advance(1)
        assert await told(ann) == change(joins={"Zoë \N{SNOWMAN}\0": {}})


class Odd(Team):
    @Event("nest")
    async def nest(self, conn: Connection, payload: int) -> None:
        inner: list[Any] = []
        for _ in range(payload - 2):
            inner = [inner]
        await conn.update_presence("team", {"a": inner})

    @Event("grow")
    async def grow(self, conn: Connection, payload: int) -> None:
        await conn.update_presence("team", {"number": 1 << payload})


async def test_metadata_that_a_member_could_not_read_is_refused() -> None:
    controller = Socket("/team", presence=Presence(meta_bytes=16_384))(Odd)
    async with sockets_test(controller) as t:
        profiles = ("aquilia.v1.json", "aquilia.v1.msgpack", "aquilia.v1.cbor")
        clients = [await enter(t, subprotocol, subprotocol) for subprotocol in profiles]
        await t.clock.advance(1)
        await told(*clients)
        for event, most, problem in (("nest", 61, "nested deeper"), ("grow", 63, "cannot be written")):
            for value in (most + 1, 400):
                with pytest.raises(SocketFault, match=problem):
                    await clients[0].request(event, value)
            await clients[0].request(event, most)
            await t.clock.advance(1)
            assert profiles[0] in (await told(*clients))["joins"]


class Rewriting(Team):
    @Event("who")
    async def who(self, conn: Connection, payload: Any) -> list[Any]:
        page = await self.presence("team")
        shown = [[present.id, present.meta] for present in page.entries]
        for _, meta in shown:
            meta["at"]["place"] = "elsewhere"
        return [[present.id, present.meta] for present in (await self.presence("team")).entries]

    @OnPresence()
    async def changed(self, room: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        for meta in joins.values():
            meta["at"]["place"] = "nowhere"


async def test_what_a_handler_makes_of_metadata_changes_nobody() -> None:
    async with sockets_test(Socket("/team", presence=True)(Rewriting)) as t:
        ann = await enter(t, "ann")
        await ann.request("set", {"at": {"place": "here"}})
        await t.clock.advance(2)
        assert await ann.request("who") == [["ann", {"at": {"place": "here"}}]]
        bob = await enter(t, "bob")
        await t.clock.advance(1)
        assert await told(bob) == change(joins={"ann": {"at": {"place": "here"}}, "bob": {}})
