"""The log of Redis where its keys are not as they were left, and where the server is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_servers import RedisServer

from aquilia.sockets import History, Publication, SocketFault
from aquilia.sockets.adapters.redis import RedisAdapter
from aquilia.sockets.adapters.redis.names import Place, place_of
from aquilia.sockets.history import Position

FEW = History(size=3, ttl=60)


class Room:
    """One of an adapter of its own, with its keys."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.server = server
        self.adapter = RedisAdapter(server.url(prefix))
        self.broker = self.adapter.broker
        self.place: Place = place_of(prefix, "/a", "r")
        self.got: asyncio.Queue[Publication] = asyncio.Queue()

    async def say(self, id: str, history: History = FEW, payload: object = None) -> Position:
        told = Publication(id=id, namespace="/a", event="e", payload=payload, ts=1, room="r")
        place = await self.broker.publish(told, history)
        assert place is not None
        return place

    async def ids(self, history: History = FEW) -> list[str]:
        return [each.id for each in (await self.broker.read("/a", "r", history)).publications]

    def command(self, *words: str | bytes | float) -> object:
        return self.server.command(*words)


@pytest.fixture
async def room(redis_server: RedisServer) -> AsyncIterator[Room]:
    room = Room(redis_server, f"log-{time.monotonic_ns()}")
    await room.broker.start(room.got.put_nowait)
    yield room
    await room.broker.stop()


async def test_a_repeat_is_known_in_a_log_that_is_full(room: Room) -> None:
    places = [await room.say(id) for id in "abc"]
    assert [await room.say(id) for id in "abc"] == places
    one = History(size=1, ttl=60)
    assert await room.say("d", one) == await room.say("d", one)
    assert await room.ids(one) == ["d"]


async def test_an_id_that_has_expired_is_new(room: Room) -> None:
    brief = History(size=50, ttl=0.05)
    place = await room.say("a", brief)
    async with asyncio.timeout(5):
        while await room.ids(brief):
            await asyncio.sleep(0.01)
    await room.say("b", brief)
    again = await room.say("a", brief)
    assert again > place
    assert await room.say("a", brief) == again


async def test_a_log_of_which_a_repeat_was_told_finds_out_that_it_went_back(room: Room) -> None:
    first = await room.say("a")
    keys = (room.place.epoch, room.place.head, room.place.log, room.place.ids)
    kept = {key: room.command("DUMP", key) for key in keys}
    await room.say("b")
    assert await room.say("a") == first
    lost = asyncio.Event()
    room.broker.on_lost = lost.set
    for key, data in kept.items():
        assert isinstance(data, str)
        room.command("RESTORE", key, 0, data.encode(errors="surrogateescape"), "REPLACE")
    room.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.wait_for(lost.wait(), 5)
    after = await room.say("c")
    assert after.epoch != first.epoch
    assert not (await room.broker.read("/a", "r", FEW, since=first)).complete


async def test_an_epoch_that_ends_in_the_second_in_which_it_began_has_another_name(room: Room) -> None:
    epochs = set()
    for n in range(20):
        epochs.add((await room.say(str(n))).epoch)
        room.command("DEL", room.place.epoch)
    assert len(epochs) == 20


async def test_a_position_without_an_epoch_is_no_position_at_all(room: Room) -> None:
    place = await room.say("a")
    assert not (await room.broker.read("/a", "r", FEW, since=Position("", 0))).complete
    room.command("DEL", room.place.epoch)
    await room.say("b")
    page = await room.broker.read("/a", "r", FEW, since=Position("", place.offset - 1))
    assert not page.complete


@pytest.mark.parametrize("key", ["epoch", "head", "log", "ids"])
@pytest.mark.parametrize("wrong", [False, True], ids=["deleted", "garbage"])
async def test_a_room_goes_on_when_a_key_of_its_log_is_lost(room: Room, key: str, wrong: bool) -> None:
    history = History(size=5, ttl=60, max_bytes=3000)
    for n in range(5):
        await room.say(f"before {n}", history, "x" * 500)
    before = (await room.broker.read("/a", "r", history)).publications[1].position
    name = getattr(room.place, key)
    room.command("DEL", name)
    if wrong and key in ("epoch", "head"):
        room.command("RPUSH", name, "garbage")
    for n in range(12):
        await room.say(f"after {n}", history, "x" * 500)
    assert await room.ids(history) == [f"after {n}" for n in range(7, 12)]
    assert not (await room.broker.read("/a", "r", history, since=before)).complete
    for name in (room.place.head, room.place.log, room.place.ids):
        assert int(str(room.command("PTTL", name))) > 0


async def test_what_is_no_log_under_its_name_is_told_and_nothing_counts_as_stored(room: Room) -> None:
    await room.say("a")
    room.command("SET", room.place.log, "garbage")
    for _ in range(2):  # a repeat is not taken for one that was stored
        with pytest.raises(SocketFault, match="WRONGTYPE") as refused:
            await room.say("b")
        assert refused.value.code == "WS_PUBLISH_FAILED"
    room.command("DEL", room.place.log)
    await room.say("b")
    assert await room.ids() == ["b"]


async def test_a_log_goes_on_whose_end_is_lost_while_the_clock_is_behind_it(room: Room) -> None:
    await room.say("a")
    tomorrow = (int(time.time()) + 86_400) * 1_000_000
    room.command("XADD", room.place.log, f"{tomorrow}-0", "p", 1, "i", "b", "d", "garbage")
    room.command("DEL", room.place.head)
    await room.say("c")
    assert await room.ids() == ["c"]


@pytest.mark.parametrize("ttl", [0.05, 36_525 * 86_400], ids=["twentieth", "century"])
@pytest.mark.parametrize("most", [1, 1 << 53])
async def test_the_bounds_of_a_history_may_be_extreme(room: Room, ttl: float, most: int) -> None:
    history = History(size=most, ttl=ttl, max_bytes=1 << 53)
    for id in "ab":
        await room.say(id, history)
    page = await room.broker.read("/a", "r", history, limit=1)
    assert {each.id for each in page.publications} <= {"b"}
    assert await room.broker.forget("/a", "r", history) <= 2
    assert await room.ids(history) == []


async def test_no_entries_at_all_may_be_asked_for(room: Room) -> None:
    place = await room.say("a")
    await room.say("b")
    page = await room.broker.read("/a", "r", FEW, since=place, limit=0)
    assert page.complete
    assert page.publications == []


async def test_nodes_may_differ_in_what_a_room_keeps(room: Room) -> None:
    brief = History(size=2, ttl=0.05)
    await room.say("a", brief)
    for n in range(5):
        await room.say(str(n))
    async with asyncio.timeout(5):
        while room.command("EXISTS", room.place.log):
            await asyncio.sleep(0.01)
    await room.say("b")
    assert await room.ids() == ["b"]
    assert int(str(room.command("PTTL", room.place.log))) > 50_000


@pytest.mark.parametrize(
    "id", ["", "x" * 100_000, "\0\n\r\n", "ü✓ 🎉"], ids=["empty", "long", "control", "wide"]
)
async def test_an_id_may_be_any_text(room: Room, id: str) -> None:
    await room.broker.subscribe("/a", "r", FEW)
    assert await room.say(id) == await room.say(id)
    assert (await asyncio.wait_for(room.got.get(), 5)).id == id
    assert await room.ids() == [id]
    with pytest.raises(SocketFault, match="surrogates not allowed"):  # as by every broker
        await room.say("\udcff")


async def test_eight_megabytes_go_through_a_room_that_keeps_them(room: Room) -> None:
    large = History(size=2, ttl=60, max_bytes=20 << 20)
    await room.broker.subscribe("/a", "r", large)
    payload = "x" * (8 << 20)
    await room.say("a", large, payload)
    assert (await asyncio.wait_for(room.got.get(), 20)).payload == payload
    page = await room.broker.read("/a", "r", large)
    assert page.publications[0].payload == payload


async def test_two_applications_on_one_server_hear_nothing_of_each_other(
    room: Room, redis_server: RedisServer
) -> None:
    other = Room(redis_server, f"other-{time.monotonic_ns()}")
    await other.broker.start(other.got.put_nowait)
    try:
        for each in (room, other):
            await each.broker.subscribe("/a", "r", FEW)
        await room.say("a")
        await other.say("b")
        for each, id in ((room, "a"), (other, "b")):
            assert (await asyncio.wait_for(each.got.get(), 5)).id == id
            assert await each.ids() == [id]
            assert each.got.empty()
        await room.adapter.store.put("key", b"1")
        assert await other.adapter.store.get("key") is None
    finally:
        await other.broker.stop()


async def test_a_full_server_refuses_what_is_new_and_keeps_all_else(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        room = Room(server, "full")
        await room.broker.start(room.got.put_nowait)
        try:
            await room.broker.subscribe("/a", "r", FEW)
            place = await room.say("a")
            await room.adapter.store.put("key", b"1")
            server.command("CONFIG", "SET", "maxmemory", "1")
            for _ in range(2):
                with pytest.raises(SocketFault, match="its memory is full") as refused:
                    await room.say("b")
                assert refused.value.code == "WS_PUBLISH_FAILED"
            assert await room.ids() == ["a"]
            assert (await room.broker.read("/a", "r", FEW, since=place)).complete
            plain = Publication(id="p", namespace="/a", event="e", payload=1, ts=1, room="plain")
            await room.broker.subscribe("/a", "plain")
            await room.broker.publish(plain)
            lost = asyncio.Event()
            room.broker.on_lost = lost.set
            server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.wait_for(lost.wait(), 5)  # it comes back, full as it is
            assert await room.adapter.store.get_and_delete("key") == b"1"
            await room.broker.subscribe("/a", "another", FEW)
            assert await room.broker.forget("/a", "r", FEW) == 1
            server.command("CONFIG", "SET", "maxmemory", "0")
            after = await room.say("b")
            assert after.epoch == place.epoch
            assert await room.ids() == ["b"]
        finally:
            await room.broker.stop()


@pytest.mark.parametrize(
    "want", [("min-replicas-to-write", "1", "0"), ("maxmemory", "1", "0")], ids=["replicas", "memory"]
)
async def test_plain_rooms_and_reading_go_on_where_a_server_takes_no_writes(
    tmp_path: Path, want: tuple[str, str, str]
) -> None:
    setting, refusing, taking = want
    with RedisServer(tmp_path) as server:
        room = Room(server, "unwritable")
        await room.broker.start(room.got.put_nowait)
        try:
            await room.broker.subscribe("/a", "r", FEW)
            await room.broker.subscribe("/a", "plain")
            place = await room.say("a")
            await asyncio.wait_for(room.got.get(), 5)
            server.command("CONFIG", "SET", setting, refusing)
            refused = asyncio.create_task(room.say("b"))
            async with asyncio.timeout(3):
                for n in range(20):
                    plain = Publication(id=str(n), namespace="/a", event="e", payload=1, ts=1, room="plain")
                    await room.broker.publish(plain)
                    assert (await room.got.get()).id == str(n)
                assert await room.ids() == ["a"]
                lost = asyncio.Event()
                room.broker.on_lost = lost.set
                server.command("CLIENT", "KILL", "TYPE", "pubsub")
                await lost.wait()
                assert await room.ids() == ["a"]
            with pytest.raises(SocketFault, match=r"NOREPLICAS|its memory is full"):
                await refused
            server.command("CONFIG", "SET", setting, taking)
            assert (await room.say("c")).epoch == place.epoch
        finally:
            await room.broker.stop()


async def test_a_server_that_cannot_write_its_files_is_named_and_read(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        room = Room(server, "disk")
        await room.broker.start(room.got.put_nowait)
        try:
            place = await room.say("a")
            (tmp_path / "dump.rdb" / "in the way").mkdir(parents=True)
            server.command("CONFIG", "SET", "save", "3600 1")
            server.command("BGSAVE")
            async with asyncio.timeout(10):
                while server.info("persistence")["rdb_last_bgsave_status"] != "err":
                    await asyncio.sleep(0.02)
            with pytest.raises(SocketFault, match="cannot write to its disk: see its log") as refused:
                await room.say("b")
            assert refused.value.code == "WS_PUBLISH_FAILED"
            lost = asyncio.Event()
            room.broker.on_lost = lost.set
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.wait_for(lost.wait(), 5)
            assert await room.ids() == ["a"]
            server.command("CONFIG", "SET", "save", "")
            assert (await room.say("b")).epoch == place.epoch
        finally:
            await room.broker.stop()
