"""What a slow client has yet to read waits on disk: real servers, clients that stop reading, and disks that fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from door import Complaints
from hall import scraped
from rawsocket import BINARY, CLOSE, TEXT, RawSocket, frame, handshake
from test_slow_members import told_of
from wire import PROFILES, TRANSPORTS, Client, eventually, serving

from aquilia.aquilary import BootError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    History,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.recorder import Counters
from aquilia.testing import sockets_test

KIB = 1024
NOTE = "x" * 20_000
COUNT = 300
"""Six megabytes of notes, of which a wire takes less than one."""

wires = pytest.mark.parametrize("transport", TRANSPORTS)
profiles = pytest.mark.parametrize("profile", ["plain", "v1.json", "v1.msgpack"])


class Hall(SocketController):
    tick = Emits("tick", list[Any], backpressure={"strategy": "drop_oldest"})
    vital = Emits("vital", list[Any], backpressure={"strategy": "buffer"})
    late = Emits("late", list[Any], backpressure={"strategy": "spool"})

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Event("say")
    async def say(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        event, numbers = payload
        for number in numbers:
            await self.publish_room("hall", event, [number, NOTE])

    @Event("tell me")
    async def tell_me(self, conn: Connection, payload: int) -> str:
        for number in range(payload):
            await conn.send_event("note", [number, NOTE])
        return "told"

    @Event("dismiss")
    async def dismiss(self, conn: Connection) -> None:
        await conn.disconnect(4000, "bye")

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


class Frozen:
    """A client that sends, and reads only when it is told to."""

    def __init__(self, raw: RawSocket, profile: str) -> None:
        self.raw = raw
        self._opcode = BINARY if profile == "v1.msgpack" else TEXT
        _, encode, self._decode = PROFILES[profile]
        self._encode: Callable[[Any], Any] = encode

    def say(self, event: str, payload: Any = None, **fields: Any) -> None:
        data = self._encode({"event": event, "payload": payload, **fields})
        self.raw.send(frame(self._opcode, data if isinstance(data, bytes) else data.encode()))

    async def read(self) -> dict[str, Any]:
        return self._decode((await self.raw.read()).payload)

    async def read_until(self, id: str) -> list[dict[str, Any]]:
        """All that comes before the answer of this id."""
        found = []
        while (message := await self.read()).get("id") != id:
            found.append(message)
        return found

    async def read_on(self) -> list[dict[str, Any]]:
        """All that waits for it."""
        self.say("echo", id="last", ack=True)
        return await self.read_until("last")


@contextlib.asynccontextmanager
async def frozen_at(base: str, profile: str = "plain", path: str = "/hall") -> AsyncIterator[Frozen]:
    host, _, port = base.removeprefix("ws://").partition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=64 * KIB)
        subprotocol = PROFILES[profile][0]
        headers = {} if subprotocol is None else {"Sec_WebSocket_Protocol": subprotocol}
        writer.write(handshake(path, **headers))
        await reader.readuntil(b"\r\n\r\n")
        client = Frozen(RawSocket(reader, writer), profile)
        if subprotocol is not None:
            client.say("hello", type="control")
        client.say("enter", id="in", ack=True)
        await client.read_until("in")
        try:
            yield client
        finally:
            writer.transport.abort()


def hall_class(backpressure: dict[str, Any] | None = None, **options: Any) -> type[SocketController]:
    limits = {"strategy": "spool", "buffer_size": 10, **(backpressure or {})}
    return Socket("/hall", backpressure=limits, **options)(type("AHall", (Hall,), {}))


def hall(
    backpressure: dict[str, Any] | None = None, history: History | None = None, **settings: Any
) -> AquilaSockets:
    return AquilaSockets.from_controllers([hall_class(backpressure, history=history)], **settings)


def first(app: AquilaSockets) -> Connection:
    """The connection of who came first, and does not read."""
    return next(iter(app.hub.homes["/hall"].connections.members.values()))


def lost(app: AquilaSockets, cause: str) -> int:
    assert isinstance(app.recorder, Counters)
    return app.recorder.counts["dropped", "/hall", cause]


def numbers(messages: list[dict[str, Any]], event: str = "note") -> list[int]:
    return [message["payload"][0] for message in messages if message["event"] == event]


def served(app: AquilaSockets, transport: str = "native") -> Any:
    return serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB)


@contextlib.asynccontextmanager
async def entered(base: str) -> AsyncIterator[Client]:
    async with Client.connect(f"{base}/hall") as client:
        await client.request("enter")
        yield client


@contextlib.asynccontextmanager
async def members(
    app: AquilaSockets, transport: str, profile: str = "plain"
) -> AsyncIterator[tuple[Client, Frozen]]:
    """One that reads and one that does not, in one hall."""
    async with (
        served(app, transport) as base,
        frozen_at(base, profile) as frozen,
        entered(base) as ada,
    ):
        yield ada, frozen


async def publish_all(ada: Client, event: str = "note", count: int = COUNT) -> None:
    for number in range(count):
        await ada.send("say", [event, [number]])
        assert (await ada.expect(event))["payload"][0] == number


@wires
@profiles
async def test_a_client_that_reads_on_finds_everything_in_order(transport: str, profile: str) -> None:
    app = hall()
    async with members(app, transport, profile) as (ada, frozen):
        for _ in range(2):
            await publish_all(ada)
            frozen.say("echo", 1, id="one", ack=True)
            await ada.send("say", ["note", [COUNT]])
            await ada.expect("note")
            assert numbers(await frozen.read_until("one") + await frozen.read_on()) == [*range(COUNT + 1)]
        assert isinstance(app.recorder, Counters)
        assert not [key for key in app.recorder.counts if key[0] == "dropped"]


# What it costs, and what is left of it


def spools() -> list[Path]:
    """The files of this process that are spools: none of them has a name."""
    found = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [fd for fd in found if fd.exists() and SPOOL_DIR in os.readlink(fd)]


async def written(app: AquilaSockets) -> Path:
    """The spool, once all is there that was on its way."""
    spool = app.hub.spool
    assert spool is not None
    await eventually(lambda: not spool.unwritten)
    (file,) = spools()
    return file


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "aquilia-spool"]


SPOOL_DIR = "the spool of a test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / SPOOL_DIR
    found.mkdir()
    return found


async def test_its_file_has_no_name_and_is_empty_when_nothing_waits_and_gone_in_the_end(folder: Path) -> None:
    app = hall(spool_dir=str(folder))
    async with members(app, "native") as (ada, frozen):
        assert not threads()
        assert not spools()
        await publish_all(ada)
        file = await written(app)
        assert file.stat().st_size > COUNT * len(NOTE) // 2
        assert os.listdir(folder) == []
        await frozen.read_on()
        await eventually(lambda: file.stat().st_size == 0)
        await publish_all(ada)
        frozen.raw.writer.transport.abort()
        await eventually(lambda: file.stat().st_size == 0)
        assert lost(app, "disconnected") > COUNT // 2
        assert len(threads()) == 1
        await publish_all(ada)
    assert not threads()
    assert not spools()


class Plain(SocketController):
    """Nothing of it may wait on disk."""

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


async def test_without_the_strategy_there_is_no_disk(tmp_path: Path) -> None:
    app = AquilaSockets.from_controllers([Socket("/plain")(Plain)], spool_dir=str(tmp_path / "nothing"))
    assert app.hub.spool is None


async def test_a_folder_that_takes_no_files_is_told_at_boot(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in ("nothing", "file"):
        with pytest.raises(
            BootError, match=f"spool_dir: '.*{wrong}' takes no files .*the strategy 'spool' needs"
        ):
            hall(spool_dir=str(tmp_path / wrong))


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("spool_dir", "", "the path of a folder is needed, not ''"),
        ("spool_dir", 7, "the path of a folder is needed, not 7"),
        ("spool_dir", b"/tmp", "the path of a folder is needed"),
        ("spool_dir", "a\0b", "no folder can be called"),
        ("spool_bytes", 0, "a whole number of at least 1"),
        ("spool_total_bytes", "1G", "a whole number of at least 1"),
    ],
)
async def test_settings_that_cannot_be_right_are_told_at_boot(setting: str, value: Any, told: str) -> None:
    with pytest.raises(BootError, match=f"{setting}: {told}"):
        hall(**{setting: value})


async def test_any_path_of_a_folder_will_do(folder: Path) -> None:
    app = hall(spool_dir=folder)
    async with members(app, "asgi") as (ada, _):
        await publish_all(ada)
        await written(app)


# Losses


def whole(messages: list[dict[str, Any]], count: int = COUNT) -> tuple[list[int], int]:
    """The notes, each at its place, and of how many more the client was told."""
    got: list[int] = []
    place = told = 0
    for message in messages:
        if message["event"] == "note":
            assert message["payload"][0] == place
            got.append(place)
            place += 1
        else:
            dropped = told_of(message)
            assert dropped is not None
            told += dropped
            place += dropped
    assert place == count
    return got, told


@wires
@profiles
async def test_beyond_its_bound_the_newest_are_lost_and_told(transport: str, profile: str) -> None:
    app = hall(spool_bytes=1_000_000)
    async with members(app, transport, profile) as (ada, frozen):
        await publish_all(ada)
        counted = lost(app, "spool_full")
        got, told = whole(await frozen.read_on())
        assert got[:50] == [*range(50)]
        assert 150 < told == counted < 260
        await publish_all(ada)
        whole(await frozen.read_on())


async def test_the_bound_of_the_process_is_shared() -> None:
    app = hall(spool_total_bytes=1_000_000)
    async with served(app) as base, entered(base) as ada, frozen_at(base) as frozen, frozen_at(base) as other:
        await publish_all(ada)
        for client in (frozen, other):
            _, told = whole(await client.read_on())
            assert 150 < told < COUNT
        await publish_all(ada)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as the kernel has it: writing beyond that is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@wires
@profiles
async def test_a_disk_that_is_full_loses_what_it_cannot_take_and_nothing_else(
    transport: str, profile: str, complaints: Complaints
) -> None:
    app = hall()
    async with members(app, transport, profile) as (ada, frozen):
        with files_of_at_most(1_000_000):
            await publish_all(ada)
            await eventually(lambda: lost(app, "spool_failed") > 100)
        got, told = whole(await frozen.read_on())
        assert got[:40] == [*range(40)]
        assert told == lost(app, "spool_failed") == COUNT - len(got)
        assert len(complaints.take()) == 1
        await publish_all(ada)
        assert whole(await frozen.read_on()) == ([*range(COUNT)], 0)


@pytest.mark.parametrize("damage", ["changed", "cut"])
async def test_what_is_not_what_was_written_is_lost_and_never_sent(
    damage: str, folder: Path, complaints: Complaints
) -> None:
    app = hall(spool_dir=str(folder))
    async with members(app, "native") as (ada, frozen):
        await publish_all(ada)
        file = await written(app)
        if damage == "changed":
            with file.open("r+b") as damaged:
                damaged.seek(200_000)
                damaged.write(b"y")
        else:
            os.truncate(file, 200_000)
        got, told = whole(await frozen.read_on())
        assert told == lost(app, "spool_failed") == COUNT - len(got)
        assert (1 <= told <= 5) if damage == "changed" else told > 100
        assert len(complaints.take()) == 1
        await publish_all(ada)
        assert whole(await frozen.read_on()) == ([*range(COUNT)], 0)


# Beside other strategies


@wires
async def test_answers_and_other_events_keep_their_places_among_it(transport: str) -> None:
    app = hall()
    async with members(app, transport, "v1.json") as (ada, frozen):
        order: list[Any] = []
        conn = first(app)
        for number in range(COUNT):
            event = "vital" if number % 50 == 0 else "note"
            await ada.send("say", [event, [number]])
            await ada.expect(event)
            order.append(number)
            if number % 40 == 0:
                frozen.say("echo", number, id=f"e{number}", ack=True)
                await eventually(lambda said=number // 40 + 3: conn.messages_received >= said)
                order.append(f"e{number}")
        found = [
            message["id"] if message["type"] == "ack" else message["payload"][0]
            for message in await frozen.read_on()
        ]
        assert found == order
        assert not lost(app, "slow_consumer")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long until a frozen client takes its leave."""
    monkeypatch.setattr("aquilia.sockets.outbound.CLOSE_GRACE", 0.05)
    monkeypatch.setattr("aquilia.sockets.transports.frames.CLOSE_TIMEOUT", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_one_event_may_wait_on_disk_where_the_others_are_dropped_or_end_the_connection() -> None:
    app = hall(backpressure={"strategy": "buffer", "buffer_size": 10})
    async with members(app, "native", "v1.json") as (ada, frozen):
        for event in ("late", "tick", "late"):
            await publish_all(ada, event)
        found = await frozen.read_on()
        assert numbers(found, "late") == [*range(COUNT)] * 2
        ticks = numbers(found, "tick")
        assert ticks == sorted(ticks)
        assert len(ticks) + lost(app, "slow_consumer") == COUNT
        assert lost(app, "slow_consumer") == sum(told_of(message) or 0 for message in found)
        await publish_all(ada, "vital", 100)
        await eventually(lambda: app.live()["connections"] == 1)


async def test_who_sends_to_a_client_that_does_not_read_does_not_wait_for_it() -> None:
    app = hall()
    async with members(app, "native") as (_, frozen):
        frozen.say("tell me", 2000, id="told", ack=True)
        conn = first(app)
        await eventually(lambda: conn._pump is None and len(conn._outbox) > 1900)
        assert conn._outbox.waiting_bytes < 1_000_000
        assert numbers(await frozen.read_until("told")) == [*range(2000)]


async def test_a_close_writes_what_is_on_disk_before(folder: Path) -> None:
    app = hall(spool_dir=folder)
    async with members(app, "native") as (ada, frozen):
        await publish_all(ada)
        frozen.say("dismiss")
        got = []
        while (found := await frozen.raw.read()).opcode != CLOSE:
            got.append(frozen._decode(found.payload))
        assert found.close_code == 4000
        assert numbers(got) == [*range(COUNT)]


@pytest.mark.usefixtures("hasty")
async def test_a_close_that_nobody_reads_leaves_nothing_on_disk(folder: Path) -> None:
    app = hall(spool_dir=folder)
    async with members(app, "native") as (ada, frozen):
        await publish_all(ada)
        file = await written(app)
        frozen.say("dismiss")
        await eventually(lambda: app.live()["connections"] == 1)
        await eventually(lambda: file.stat().st_size == 0)
        assert lost(app, "disconnected") > COUNT // 2


@wires
async def test_a_member_of_a_room_with_history_reads_the_log_and_no_disk(
    transport: str, folder: Path
) -> None:
    app = hall(spool_dir=folder, history=History(size=1000, max_bytes=10_000_000))
    async with members(app, transport, "v1.json") as (ada, frozen):
        await publish_all(ada)
        assert numbers([await frozen.read() for _ in range(COUNT)]) == [*range(COUNT)]
        assert not threads()
        assert not spools()


async def test_metrics_tell_what_is_on_disk() -> None:
    app = hall(metrics=True)
    async with served(app) as base, frozen_at(base) as frozen, entered(base) as ada:
        await publish_all(ada)
        conn = first(app)
        found = (await scraped(base))["aquilia_spool_bytes", frozenset({("pattern", "/hall")})]
        assert found == conn._outbox.spooled_bytes > COUNT * len(NOTE) // 2
        await frozen.read_on()
        assert (await scraped(base))["aquilia_spool_bytes", frozenset({("pattern", "/hall")})] == 0


# Many


async def test_hundreds_of_slow_clients_share_the_memory_of_the_process_and_lose_nothing() -> None:
    limit = 32_000_000
    async with sockets_test(hall_class({"buffer_size": 1000}), outbox_bytes=limit) as t:
        ada = await t.connect("/hall")
        clients = [await t.connect("/hall") for _ in range(200)]
        for client in clients:
            await client.request("enter")
            client.stop_reading()
        app = t.application.sockets
        spool, most = app.hub.spool, 0
        assert spool is not None
        for number in range(0, 20, 2):  # eighty megabytes in all
            await ada.request("say", ["note", [number, number + 1]])
            most = max(most, app.hub._budget.total + spool.unwritten)
        assert 10_000_000 < most < limit
        for client in clients:
            client.read_on()
            assert [(await client.expect("note")).payload[0] for _ in range(20)] == [*range(20)]
        assert isinstance(app.recorder, Counters)
        assert not [key for key in app.recorder.counts if key[0] == "dropped"]


@pytest.mark.parametrize("way", ["published", "sent"])
async def test_who_is_faster_than_the_disk_waits_for_it(way: str) -> None:
    app = hall({"buffer_bytes": 100_000}, outbox_bytes=1_000_000)  # an eighth may be on its way
    async with members(app, "native") as (ada, frozen):
        if way == "published":
            await ada.request("say", ["note", [*range(2000)]])
        else:
            frozen.say("tell me", 2000, id="told", ack=True)
            await eventually(lambda: first(app)._pump is None and len(first(app)._outbox) > 1900)
        assert isinstance(app.recorder, Counters)
        assert not [key for key in app.recorder.counts if key[0] == "dropped"]
        assert numbers([await frozen.read() for _ in range(2000)]) == [*range(2000)]
