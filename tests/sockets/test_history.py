"""Rooms that remember, through the application: positions, what `history` returns, and members that catch up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from rawsocket import RawSocket
from test_slow_members import COUNT, KIB, NOTE, frozen_at, said
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.aquilary import BootError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    History,
    Position,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.metrics.recorder import Counters
from aquilia.testing import sockets_test

wires = pytest.mark.parametrize("transport", TRANSPORTS)


class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str | None = None) -> str:
        return payload or "hall"

    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("hall", "note", payload)

    @Event("say in")
    async def say_in(self, conn: Connection, payload: list[Any]) -> None:
        await self.publish_room(payload[0], "note", payload[1])

    @Event("recall")
    async def recall(self, conn: Connection, payload: dict[str, Any]) -> Any:
        since = payload.get("since")
        page = await self.history(
            payload["room"], since=Position(*since) if since else None, limit=payload.get("limit", 100)
        )
        return {
            "notes": [[told.event, told.payload, told.position.offset] for told in page.messages],
            "epoch": page.head.epoch,
            "head": page.head.offset,
            "complete": page.complete,
        }


def hall(history: Any, **settings: Any) -> AquilaSockets:
    return AquilaSockets.from_controllers(
        [Socket("/hall", history=history, **settings)(type("H", (Hall,), {}))]
    )


@wires
@pytest.mark.parametrize("profile", ["v1.json", "v1.msgpack", "v1.cbor"])
async def test_each_publication_has_a_place_that_follows_the_one_at_which_the_client_joined(
    transport: str, profile: str
) -> None:
    async with serving(hall(History()), ws=TRANSPORTS[transport]) as base:
        async with Client.connect(f"{base}/hall", profile) as ada:
            await ada.request("say", "before")
            await ada.send("enter", id="e", ack=True)
            joined = (await ada.expect("joined"))["payload"]
            await ada.receive()
            await ada.send("say", "one")
            await ada.send("say", "two")
            notes = [await ada.expect("note") for _ in range(2)]
    assert joined["room"] == "hall"
    assert [note["meta"]["offset"] - joined["offset"] for note in notes] == [1, 2]
    assert {note["meta"]["epoch"] for note in notes} == {joined["epoch"]}


async def test_a_plain_client_sees_no_places() -> None:
    async with serving(hall(History())) as base:
        async with Client.connect(f"{base}/hall") as ada:
            await ada.request("enter")
            await ada.send("say", "one")
            note = await ada.expect("note")
    assert note == {"type": "event", "event": "note", "payload": "one", "room": "hall"}


async def test_a_room_that_was_quiet_for_an_hour_is_no_loss_to_who_is_in_it_or_comes_back() -> None:
    hall = Socket("/hall", history=History(ttl=60))(type("H", (Hall,), {}))
    async with sockets_test(hall) as t:
        stays, leaves = [await t.connect("/hall", subprotocol="aquilia.v1.json") for _ in range(2)]
        for client in (stays, leaves):
            await client.request("enter")
        for _ in range(2):
            await stays.request("say", "once")
            await t.clock.advance(3600)

        await stays.request("say", "again")
        told = [await leaves.expect("note") for _ in range(3)]
        assert [note.meta["offset"] for note in told if note.meta] == [1, 2, 3]
        assert len({note.meta["epoch"] for note in told if note.meta}) == 1
        await leaves.disconnect()
        await stays.disconnect()
        await t.clock.advance(70)

        back = await t.connect("/hall")
        page = await back.request("recall", {"room": "hall", "since": [told[-1].meta["epoch"], 3]})
        assert (page["complete"], page["head"]) == (True, 3)


async def test_history_returns_what_was_said_also_when_nobody_was_there() -> None:
    async with serving(hall(History(size=3))) as base:
        async with Client.connect(f"{base}/hall", "v1.json") as ada:
            for word in "abcd":
                await ada.request("say", word)
            newest = (await ada.request("recall", {"room": "hall"}))["data"]
            two = (await ada.request("recall", {"room": "hall", "limit": 2}))["data"]
            since = [newest["epoch"], newest["notes"][0][2]]
            rest = (await ada.request("recall", {"room": "hall", "since": since}))["data"]
            lost = (await ada.request("recall", {"room": "hall", "since": [newest["epoch"], 0]}))["data"]
            future = (await ada.request("recall", {"room": "hall", "since": [newest["epoch"], 99]}))["data"]
            foreign = (await ada.request("recall", {"room": "hall", "since": ["other", 1]}))["data"]
    assert [note[:2] for note in newest["notes"]] == [["note", "b"], ["note", "c"], ["note", "d"]]
    assert newest["complete"]
    assert newest["head"] == newest["notes"][-1][2]
    assert [note[1] for note in two["notes"]] == ["c", "d"]
    assert [note[1] for note in rest["notes"]] == ["c", "d"]
    assert rest["complete"]
    for page in (lost, future, foreign):
        assert not page["complete"]
        assert not page["notes"]


async def test_rooms_keep_what_the_first_pattern_that_fits_says() -> None:
    history = {"chat:small:*": History(size=1), "chat:*": History(size=2)}
    async with serving(hall(history)) as base:
        async with Client.connect(f"{base}/hall", "v1.json") as ada:
            for room in ("chat:small:x", "chat:y"):
                for word in "abc":
                    await ada.request("say in", [room, word])
            small = await ada.request("recall", {"room": "chat:small:x"})
            large = await ada.request("recall", {"room": "chat:y"})
            none = await ada.request("recall", {"room": "hall"})
    assert [note[1] for note in small["data"]["notes"]] == ["c"]
    assert [note[1] for note in large["data"]["notes"]] == ["b", "c"]
    assert none["error"]["code"] == "WS_INTERNAL_ERROR"


async def test_what_is_kept_does_not_change_with_its_sender() -> None:
    class Board(Hall):
        def __init__(self) -> None:
            self.told = {"n": 0}

        @Event("count")
        async def count(self, conn: Connection) -> None:
            self.told["n"] += 1
            await self.publish_room("hall", "note", self.told)

    app = AquilaSockets.from_controllers([Socket("/hall", history=History())(Board)])
    async with serving(app) as base:
        async with Client.connect(f"{base}/hall", "v1.json") as ada:
            await ada.request("count")
            await ada.request("count")
            page = (await ada.request("recall", {"room": "hall"}))["data"]
    assert [note[1] for note in page["notes"]] == [{"n": 1}, {"n": 2}]


async def test_what_is_published_while_nobody_is_connected_is_kept_as_well() -> None:
    app = hall(History())
    async with serving(app) as base:
        async with Client.connect(f"{base}/hall", "v1.json") as ada:
            await ada.request("say", "first")
        controller = app.hub.homes["/hall"].controller
        await eventually(lambda: not app.hub.homes["/hall"].connections.members)
        app._namespaces._drop(app.hub.homes["/hall"])
        await eventually(lambda: "/hall" not in app.hub.homes)
        await controller.publish_room("hall", "note", "alone")
        async with Client.connect(f"{base}/hall", "v1.json") as ada:
            page = (await ada.request("recall", {"room": "hall"}))["data"]
    assert [note[1] for note in page["notes"]] == ["first", "alone"]


@pytest.mark.parametrize("room", ["", "\0x", "x" * 257, 5])
async def test_what_is_no_rooms_name_can_neither_be_published_to_nor_recalled(room: Any) -> None:
    async with serving(hall({"y": History()})) as base:
        async with Client.connect(f"{base}/hall", "v1.json") as ada:
            assert (await ada.request("say in", [room, "a"]))["error"]["code"] == "WS_MESSAGE_INVALID"


async def read_notes(frozen: RawSocket) -> list[int]:
    """What a member that stopped reading finds when it reads on, up to the last note."""
    notes: list[int] = []
    while not notes or notes[-1] != COUNT - 1:
        message = json.loads((await frozen.read()).payload)
        assert message["type"] != "system" or message["event"] in ("welcome", "joined"), message
        if message["event"] == "note":
            notes.append(message["payload"][0])
    return notes


@wires
@pytest.mark.parametrize("bound", [{"buffer_size": 10}, {"buffer_bytes": 150_000}])
async def test_a_member_that_reads_too_slowly_reads_the_log_instead_and_misses_nothing(
    transport: str, bound: dict[str, Any]
) -> None:
    app = hall(History(size=2 * COUNT, max_bytes=1 << 30), backpressure=bound)
    async with (
        serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB) as base,
        frozen_at(base, "v1.json") as frozen,
        Client.connect(f"{base}/hall", "v1.json") as ada,
    ):
        await eventually(lambda: "hall" in app.hub.homes["/hall"].rooms)
        await ada.request("enter")
        for number in range(COUNT):
            await ada.send("say", [number, NOTE])
            assert (await ada.expect("note"))["payload"][0] == number
        assert await read_notes(frozen) == list(range(COUNT))
        # It is live again.
        frozen.send(said("say", [COUNT, ""]))
        while (message := json.loads((await frozen.read()).payload))["event"] != "note":
            pass
        assert message["payload"][0] == COUNT
    recorder = app.recorder
    assert isinstance(recorder, Counters)
    assert not recorder.counts["dropped", "/hall", "slow_consumer"]


@wires
async def test_a_slow_member_is_told_of_what_the_log_has_let_go(transport: str) -> None:
    app = hall(History(size=20), backpressure={"buffer_size": 10})
    async with (
        serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB) as base,
        frozen_at(base, "v1.json") as frozen,
        Client.connect(f"{base}/hall", "v1.json") as ada,
    ):
        await eventually(lambda: "hall" in app.hub.homes["/hall"].rooms)
        await ada.request("enter")
        for number in range(COUNT):
            await ada.send("say", [number, NOTE])
            await ada.expect("note")
        frozen.send(said("say", [COUNT, ""]))
        offset, gaps, kept = 0, 0, 0
        while True:
            message = json.loads((await frozen.read()).payload)
            if message["event"] == "gap":
                assert message["payload"]["cause"] == "history_expired"
                assert message["payload"]["offset"] > offset
                offset = message["payload"]["offset"]
                gaps += 1
                kept = 0
            elif message["event"] == "note":
                assert message["meta"]["offset"] == offset + 1
                offset += 1
                kept += 1
                if message["payload"][0] == COUNT:
                    break
        assert gaps >= 1
        assert kept >= 20  # what the log still holds comes behind the gap


async def test_a_room_of_slow_and_fast_members_keeps_its_order_while_it_is_published_to_without_end() -> None:
    app = hall(History(size=5000), backpressure={"buffer_size": 8})
    async with (
        serving(app, send_buffer=64 * KIB) as base,
        frozen_at(base, "v1.json") as slow,
        Client.connect(f"{base}/hall", "v1.json") as ada,
    ):
        await eventually(lambda: "hall" in app.hub.homes["/hall"].rooms)
        controller = app.hub.homes["/hall"].controller

        async def publish() -> None:
            for number in range(1000):
                await controller.publish_room("hall", "note", [number, "x" * 2000])
                if not number % 10:
                    await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        seen: list[int] = []
        while not seen or seen[-1] != 999:
            message = json.loads((await slow.read()).payload)
            if message["event"] == "note":
                seen.append(message["payload"][0])
        await publishing
        assert seen == list(range(seen[0], 1000))
        await ada.request("recall", {"room": "hall"})


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        (5, "History(size=…, ttl=…), or a map of room patterns"),
        ({}, "a map of room patterns"),
        ({"": History()}, "a room pattern is a string like 'chat:*', not ''"),
        ({"chat:*": 3}, "'chat:*' keeps History(size=…, ttl=…), not 3"),
        (
            {"chat:*": History(), "news": History(), "chat:*:small:*": History(size=1)},
            "'chat:*:small:*' is never asked, since 'chat:*' before it fits all of its rooms",
        ),
        ({"*": History(), "news": History(size=1)}, "'news' is never asked, since '*' before it"),
    ],
)
def test_what_declares_no_history_is_refused(history: Any, problem: str) -> None:
    with pytest.raises(BootError) as refused:
        hall(history)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"size": 0}, ValueError),
        ({"size": 1.5}, TypeError),
        ({"size": True}, TypeError),
        ({"size": 2**63}, ValueError),
        ({"ttl": 1e300}, ValueError),
        ({"max_bytes": 2**63}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": float("inf")}, ValueError),
        ({"ttl": "1"}, TypeError),
        ({"max_bytes": 0}, ValueError),
    ],
)
def test_a_history_has_bounds(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(values))):
        History(**values)


@pytest.mark.parametrize("offset", [-1, -(2**63), 2**63, 10**30])
async def test_nothing_is_complete_behind_a_place_that_no_log_has(offset: int) -> None:
    async with sockets_test(Socket("/hall", history=History())(type("H", (Hall,), {}))) as t:
        ada = await t.connect("/hall")
        await ada.request("say", "a")
        epoch = (await ada.request("recall", {"room": "hall"}))["epoch"]
        page = await ada.request("recall", {"room": "hall", "since": [epoch, offset]})
    assert (page["notes"], page["complete"], page["epoch"]) == ([], False, epoch)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"since": "abc"}, "since: a Position"),
        ({"since": ("e", 1)}, "since: a Position"),
        ({"since": Position("e", None)}, "since: a Position"),  # type: ignore[arg-type]
        ({"since": Position("e", float("nan"))}, "since: a Position"),  # type: ignore[arg-type]
        ({"since": Position(5, 1)}, "since: a Position"),  # type: ignore[arg-type]
        ({"limit": "5"}, "limit: a whole number"),
        ({"limit": 1.5}, "limit: a whole number"),
    ],
)
async def test_what_is_no_position_or_no_number_is_refused(wrong: dict[str, Any], said: str) -> None:
    told: list[str] = []

    class Asks(Hall):
        @Event("ask")
        async def ask(self, conn: Connection) -> None:
            try:
                await self.history("hall", **wrong)
            except TypeError as error:
                told.append(str(error))

    async with sockets_test(Socket("/asks", history=History())(Asks)) as t:
        await (await t.connect("/asks")).request("ask")
    assert told[0].startswith(said)


async def test_nothing_is_kept_that_nests_deeper_than_a_client_reads() -> None:
    def nested(depth: int) -> Any:
        return "x" if depth == 0 else [nested(depth - 1)] if depth % 2 else {"in": nested(depth - 1)}

    class Deep(SocketController):
        @Event("enter")
        async def enter(self, conn: Connection) -> None:
            await conn.join("hall")

        @Event("say", ack=True)
        async def say(self, conn: Connection, payload: int) -> None:
            await self.publish_room("hall", "note", nested(payload))

    async with sockets_test(Socket("/deep", history=History(size=10, ttl=60))(Deep)) as t:
        client = await t.connect("/deep")
        await client.request("enter")
        with pytest.raises(Exception, match="WS_PUBLISH_FAILED"):
            await client.request("say", 64)
        await client.request("say", 63)
        assert (await client.expect("note")).payload == nested(63)
