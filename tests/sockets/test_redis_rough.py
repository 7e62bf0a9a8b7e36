"""The connection to Redis when it is treated badly: by the server, by what lies between, and by who uses it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_cluster import RedisCluster
from redis_servers import RedisServer, fresh_prefix
from redis_starting import open_sockets

from aquilia.sockets import History, Publication, SocketFault
from aquilia.sockets.adapters.redis import RedisAdapter
from aquilia.sockets.adapters.redis.link import Link
from aquilia.sockets.adapters.redis.names import place_of, slot_of

KEPT = History(size=1000, ttl=60)


def told(id: str, room: str | None = "plain") -> Publication:
    return Publication(id=id, namespace="/a", event="e", payload=id, ts=1, room=room)


class Between:
    """What lies between an adapter and a server: it lets all through, or spoils it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.port = 0
        self.stalled = False
        self.spoil: bytes | None = None
        """Said to the client in the place of the next bytes, half of which come before it."""
        self.cut = False
        """Ends the next connection on which something comes, in the middle of that."""
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers += [writer, ours]
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._copy(reader, ours), self._spoiled(theirs, writer))

    async def _copy(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            to.write(data)
        to.close()

    async def _spoiled(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            if self.spoil is not None:
                data, self.spoil = data[: len(data) // 2] + self.spoil, None
            if self.cut:
                self.cut = False
                to.write(data[: len(data) // 2])
                to.close()
                return
            if not self.stalled:
                to.write(data)
        to.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def between(redis_server: RedisServer) -> AsyncIterator[Between]:
    between = Between(redis_server)
    listener = await asyncio.start_server(between.serve, "127.0.0.1", 0)
    async with listener:
        between.port = listener.sockets[0].getsockname()[1]
        yield between
        between.close()


@pytest.fixture
async def adapter(between: Between) -> AsyncIterator[RedisAdapter]:
    adapter = RedisAdapter(f"redis://127.0.0.1:{between.port}?prefix={fresh_prefix()}")
    await adapter.broker.start(lambda publication: None)
    yield adapter
    await adapter.broker.stop()


async def until_back(adapter: RedisAdapter, lost: asyncio.Event) -> None:
    async with asyncio.timeout(15):
        await lost.wait()
    assert adapter.broker.connected


@pytest.mark.parametrize(
    "said",
    [b"\r\n!!!garbage\r\n", b"+OK\r\n+OK\r\n+OK\r\n", b"$-7\r\n", b"*99999999999\r\n", b"\0\0\0"],
    ids=["words", "answers", "length", "list", "nulls"],
)
async def test_a_server_that_talks_garbage_is_left_and_found_again(
    between: Between, adapter: RedisAdapter, said: bytes
) -> None:
    lost = asyncio.Event()
    adapter.broker.on_lost = lost.set
    await adapter.broker.subscribe("/a", "plain")
    between.spoil = said
    with contextlib.suppress(SocketFault):
        await asyncio.wait_for(adapter.store.put("key", b"value"), 8)
    with contextlib.suppress(SocketFault):
        await asyncio.wait_for(adapter.broker.publish(told("a")), 8)
    await until_back(adapter, lost)
    await adapter.store.put("key", b"after")
    assert await adapter.store.get("key") == b"after"


async def test_a_link_that_ends_inside_an_answer_is_made_again_and_the_answer_asked_for(
    between: Between, adapter: RedisAdapter
) -> None:
    await adapter.store.put("key", b"value" * 1000)
    lost = asyncio.Event()
    adapter.broker.on_lost = lost.set
    between.cut = True
    assert await adapter.store.get("key") == b"value" * 1000
    await until_back(adapter, lost)


async def test_a_server_that_stands_still_inside_an_answer_is_lost_within_seconds(
    between: Between, adapter: RedisAdapter
) -> None:
    lost = asyncio.Event()
    adapter.broker.on_lost = lost.set
    between.spoil = b""
    between.stalled = True
    since = time.monotonic()
    asked = asyncio.create_task(adapter.store.get("key"))
    async with asyncio.timeout(8):
        while adapter.broker.connected:
            await asyncio.sleep(0.02)
    assert 3.5 < time.monotonic() - since < 6
    between.stalled = False
    with contextlib.suppress(SocketFault):
        await asked
    await until_back(adapter, lost)


async def test_an_answer_is_nobody_elses_when_a_subscription_ends_with_its_server() -> None:
    """A cluster's server ends it by itself, and then refuses the command that ends it."""
    moved = b">3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n" + b"-MOVED 1 127.0.0.1:1\r\n"
    ended = b">3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (moved, moved[-22:], ended, ended * 2):
            said = b""
            while b"GET" not in said:
                said += await reader.read(1000)
            writer.write(answer + b"%1\r\n+server\r\n+redis\r\n" + b"$1\r\n1\r\n")
        writer.close()

    taken: list[bytes] = []
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        _, link = await asyncio.get_running_loop().create_connection(Link, "127.0.0.1", port)
        link.on_taken = taken.append
        for _ in range(4):
            link.unlisten(b"c")
            assert await asyncio.wait_for(link.ask("GET", "key"), 5) == b"1"
            assert not link.owed
        assert taken == []
        link.end()


async def test_rooms_are_left_and_joined_while_their_slot_moves_and_no_answer_is_mixed_up(
    redis_cluster: RedisCluster,
) -> None:
    prefix = fresh_prefix()
    adapter = RedisAdapter(redis_cluster.url(prefix))
    slot = slot_of(place_of(prefix, "/a", "r").share)
    await adapter.broker.start(lambda publication: None)
    moving = True

    async def look() -> None:
        while moving:
            value = str(time.monotonic_ns()).encode()
            key = f"key {random.randrange(100)} {value!r}"
            await adapter.store.put(key, value)
            assert await adapter.store.get(key) == value

    async def join_and_leave() -> None:
        while moving:
            with contextlib.suppress(SocketFault):
                await adapter.broker.subscribe("/a", "r")
            await adapter.broker.unsubscribe("/a", "r")

    try:
        tasks = [asyncio.create_task(each) for each in (look(), look(), join_and_leave())]
        for n in range(4):
            owner = redis_cluster.owner(slot)
            others = [server for server in redis_cluster.masters() if server is not owner]
            await asyncio.to_thread(redis_cluster.move_slot, slot, others[n % len(others)])
        moving = False
        await asyncio.gather(*tasks)
    finally:
        moving = False
        await adapter.broker.stop()


async def test_whatever_is_cancelled_leaves_nothing_behind_and_mixes_nothing_up(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(7)
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    adapter = RedisAdapter(redis_server.url())
    broker = adapter.broker
    got: dict[str, int] = {}
    await broker.start(lambda publication: got.update({publication.id: got.get(publication.id, 0) + 1}))
    sure: set[str] = set()

    async def one(n: int) -> None:
        room = f"room {n % 5}"
        act = n % 4
        if act == 0:
            own = f"own {n}"
            await broker.subscribe("/a", own, KEPT if n % 8 else None)
            await broker.unsubscribe("/a", own)
        elif act == 1:
            await broker.publish(told(str(n), room), KEPT)
            sure.add(str(n))
        elif act == 2:
            page = await broker.read("/a", room, KEPT, limit=3)
            assert all(each.room == room and each.payload == each.id for each in page.publications)
        else:
            await adapter.store.put(f"key {n}", b"%d" % n)
            assert await adapter.store.get(f"key {n}") == b"%d" % n

    for n in range(5):
        await broker.subscribe("/a", f"room {n}", KEPT)
    for start in range(0, 1500, 50):
        acts = [asyncio.create_task(one(n)) for n in range(start, start + 50)]
        for act in acts:
            if chance.random() < 0.4:
                asyncio.get_running_loop().call_later(chance.random() * 0.004, act.cancel)
        if start % 300 == 150:
            redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        for act in acts:
            with contextlib.suppress(asyncio.CancelledError):
                await act
    for n in range(5):
        page = await broker.read("/a", f"room {n}", KEPT, limit=1000)
        stored = [each.id for each in page.publications]
        assert len(stored) == len(set(stored))
        assert {id for id in sure if int(id) % 5 == n} <= set(stored)
    assert max(got.values()) == 1
    assert not broker._connection._calls._calls
    await broker.stop()
    gc.collect()
    async with asyncio.timeout(5):
        while open_sockets() - sockets or asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.01)
    assert complaints == []


@pytest.mark.parametrize("after", [0, 0.0005, 0.002, 0.005, 0.02])
async def test_a_start_that_is_given_up_leaves_nothing_open(redis_server: RedisServer, after: float) -> None:
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    adapter = RedisAdapter(redis_server.url())
    starting = asyncio.create_task(adapter.broker.start(lambda publication: None))
    await asyncio.sleep(after)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await adapter.broker.stop()
    async with asyncio.timeout(5):
        while open_sockets() - sockets or asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.01)
    await adapter.broker.start(lambda publication: None)
    assert adapter.broker.connected
    await adapter.broker.stop()


async def test_a_stop_while_it_is_away_ends_whoever_waits(tmp_path: Path) -> None:
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    with RedisServer(tmp_path) as server:
        adapter = RedisAdapter(server.url())
        await adapter.broker.start(lambda publication: None)
        server.stop()
        waiting = [
            asyncio.create_task(adapter.broker.publish(told("a", "r"), KEPT)),
            asyncio.create_task(adapter.broker.subscribe("/a", "r", KEPT)),
            asyncio.create_task(adapter.store.get("key")),
        ]
        async with asyncio.timeout(3):
            while adapter.broker.connected:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(adapter.broker.stop(), 3)
        for each in waiting:
            with pytest.raises(SocketFault, match=r"was closed|it may have been done|not open"):
                await asyncio.wait_for(each, 1)
    async with asyncio.timeout(5):
        while open_sockets() - sockets or asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.01)


async def test_what_others_say_in_our_channels_is_ignored_and_told_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = fresh_prefix()
    adapter = RedisAdapter(redis_server.url(prefix))
    got: asyncio.Queue[Publication] = asyncio.Queue()
    foreign = 0

    def count() -> None:
        nonlocal foreign
        foreign += 1

    adapter.broker.on_foreign = count
    await adapter.broker.start(got.put_nowait)
    try:
        await adapter.broker.subscribe("/a", "plain")
        await adapter.broker.subscribe("/a", "r", KEPT)
        channels = [place_of(prefix, "/a", room).channel for room in ("plain", "r")]
        garbage: list[bytes] = [
            b"",
            b"\0\xff",
            b"{}",
            b"a b c\n{}",
            b"\xff 1 2\n",
            b"e " + b"9" * 5000 + b" 1\n",
        ]
        for channel in channels:
            for said in garbage:
                assert redis_server.command("SPUBLISH", channel, said) == 1
        await adapter.broker.publish(told("a"))
        place = await adapter.broker.publish(told("b", "r"), KEPT)
        assert [(await asyncio.wait_for(got.get(), 5)).id for _ in range(2)] == ["a", "b"]
        assert foreign == len(garbage) * len(channels)
        assert len([each for each in caplog.messages if "is no publication of ours" in each]) == 1
        assert (await adapter.broker.read("/a", "r", KEPT)).head == place
    finally:
        await adapter.broker.stop()


async def test_ten_thousand_rooms_are_there_again_within_seconds(redis_server: RedisServer) -> None:
    adapter = RedisAdapter(redis_server.url())
    got: set[str] = set()
    await adapter.broker.start(lambda publication: got.add(publication.id))
    try:
        rooms = [f"room {n}" for n in range(10_000)]
        for start in range(0, len(rooms), 500):
            await asyncio.gather(
                *(
                    adapter.broker.subscribe("/a", room, KEPT if n % 2 else None)
                    for n, room in enumerate(rooms[start : start + 500])
                )
            )
        lost = asyncio.Event()
        adapter.broker.on_lost = lost.set
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.wait_for(lost.wait(), 10)
        assert adapter.broker.connected
        for room in rooms[::1000]:
            await adapter.broker.publish(told(room, room))
        async with asyncio.timeout(5):
            while not got.issuperset(rooms[::1000]):
                await asyncio.sleep(0.01)
    finally:
        await adapter.broker.stop()
