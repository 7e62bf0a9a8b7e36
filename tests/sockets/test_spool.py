"""What a slow client has yet to read waits on disk: real servers, and clients that stop reading."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hall import scraped
from rawsocket import CLOSE
from slow import (
    COUNT,
    NOTE,
    entered,
    first,
    frozen_at,
    hall,
    hall_class,
    lost,
    members,
    numbers,
    profiles,
    publish_all,
    served,
    spools,
    wires,
    written,
)
from test_slow_members import told_of
from wire import eventually

from aquilia.aquilary import BootError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    History,
    Socket,
    SocketController,
)
from aquilia.sockets.metrics.recorder import Counters
from aquilia.testing import sockets_test


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


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "aquilia-spool"]


async def test_its_file_has_no_name_and_is_empty_when_nothing_waits_and_gone_in_the_end(
    tmp_path: Path,
) -> None:
    app = hall(spool_dir=str(tmp_path))
    async with members(app, "native") as (ada, frozen):
        assert not threads()
        assert not spools(tmp_path)
        await publish_all(ada)
        file = await written(app, tmp_path)
        assert file.stat().st_size > COUNT * len(NOTE) // 2
        assert os.listdir(tmp_path) == []
        await frozen.read_on()
        await eventually(lambda: file.stat().st_size == 0)
        await publish_all(ada)
        frozen.raw.writer.transport.abort()
        await eventually(lambda: file.stat().st_size == 0)
        assert lost(app, "disconnected") > COUNT // 2
        assert len(threads()) == 1
        await publish_all(ada)
    assert not threads()
    assert not spools(tmp_path)


class Plain(SocketController):
    """Nothing of it may wait on disk."""

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


async def test_without_the_strategy_there_is_no_disk(tmp_path: Path) -> None:
    app = AquilaSockets.from_controllers([Socket("/plain")(Plain)], spool_dir=str(tmp_path / "nothing"))
    assert app.hub.spool is None


@pytest.mark.parametrize("wrong", ["nothing", "file"])
async def test_a_folder_that_takes_no_files_is_told_when_it_starts(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").touch()
    app = hall(spool_dir=str(tmp_path / wrong))
    with pytest.raises(
        BootError, match=f"spool_dir: '.*{wrong}' takes no files .*the strategy 'spool' needs"
    ):
        await app.startup()


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


async def test_any_path_of_a_folder_will_do(tmp_path: Path) -> None:
    app = hall(spool_dir=tmp_path)
    async with members(app, "asgi") as (ada, _):
        await publish_all(ada)
        await written(app, tmp_path)


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
    monkeypatch.setattr("aquilia.sockets.transports.closing.CLOSE_TIMEOUT", 0.05)


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


async def test_a_close_writes_what_is_on_disk_before(tmp_path: Path) -> None:
    app = hall(spool_dir=tmp_path)
    async with members(app, "native") as (ada, frozen):
        await publish_all(ada)
        frozen.say("dismiss")
        got = []
        while (found := await frozen.raw.read()).opcode != CLOSE:
            got.append(frozen._decode(found.payload))
        assert found.close_code == 4000
        assert numbers(got) == [*range(COUNT)]


@pytest.mark.usefixtures("hasty")
async def test_a_close_that_nobody_reads_leaves_nothing_on_disk(tmp_path: Path) -> None:
    app = hall(spool_dir=tmp_path)
    async with members(app, "native") as (ada, frozen):
        await publish_all(ada)
        file = await written(app, tmp_path)
        frozen.say("dismiss")
        await eventually(lambda: app.live()["connections"] == 1)
        await eventually(lambda: file.stat().st_size == 0)
        assert lost(app, "disconnected") > COUNT // 2


@wires
async def test_a_member_of_a_room_with_history_reads_the_log_and_no_disk(
    transport: str, tmp_path: Path
) -> None:
    app = hall(spool_dir=tmp_path, history=History(size=1000, max_bytes=10_000_000))
    async with members(app, transport, "v1.json") as (ada, frozen):
        await publish_all(ada)
        assert numbers([await frozen.read() for _ in range(COUNT)]) == [*range(COUNT)]
        assert not threads()
        assert not spools(tmp_path)


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
            most = max(most, app.hub._writing._budget.total + spool.unwritten)
        assert 10_000_000 < most < limit
        for client in clients:
            client.read_on()
            assert [(await client.expect("note")).payload[0] for _ in range(20)] == [*range(20)]
        assert isinstance(app.recorder, Counters)
        assert not [key for key in app.recorder.counts if key[0] == "dropped"]


async def test_many_who_read_a_little_take_no_memory_for_what_they_do_not_read() -> None:
    limit = 6_000_000
    async with sockets_test(hall_class({"buffer_size": 1000}), outbox_bytes=limit) as t:
        ada = await t.connect("/hall")
        clients = [await t.connect("/hall") for _ in range(100)]
        for client in clients:
            await client.request("enter")
            client.stop_reading()
        app = t.application.sockets
        for number in range(20):
            await ada.request("say", ["note", [number]])
        for client in clients:
            client.read_on()
            assert (await client.expect("note")).payload[0] == 0
            client.stop_reading()
        await eventually(lambda: app.hub._writing._budget.total < limit)
        for client in clients:
            client.read_on()
            assert [(await client.expect("note")).payload[0] for _ in range(19)] == [*range(1, 20)]
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
