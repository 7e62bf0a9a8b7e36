"""Metrics of several workers: whichever is asked tells of all, and one that dies leaves what it had counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hall import Scrape
from ports import reserved_port
from wire import TIMEOUT, Client

from aquilia.aquilary import BootError
from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController

APP = """
import os

from prometheus_client import Counter

from aquilia.sockets import AquilaSockets, Connection, Emits, Event, MetricsMiddleware, Socket, SocketController

said = Counter("said", "Of the application.")


@Socket("/room/:name")
class Room(SocketController):
    heard = Emits("heard", str)

    @Event("say", middleware=[MetricsMiddleware()])
    async def say(self, conn: Connection, payload: str) -> int:
        said.inc()
        await self.broadcast(self.heard, payload)
        return os.getpid()


app = AquilaSockets.from_controllers([Room], metrics=True)
"""

SAY = {"pattern": "/room/:name", "event": "say"}


@contextlib.asynccontextmanager
async def workers(folder: Path, *, shared: Path | None, run: str | None = None) -> AsyncIterator[str]:
    """`uvicorn --workers 2`, once it accepts connections, or one process that runs this code."""
    (folder / "measured.py").write_text(APP)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, **({"PROMETHEUS_MULTIPROC_DIR": str(shared)} if shared else {})}
    options = ["--workers", "2", "--ws", "aquilia.sockets.transports.native:NativeProtocol"]
    with reserved_port() as port, (folder / "log").open("wb") as log:
        command = ["-m", "uvicorn", "measured:app", "--port", str(port), *options]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *(command if run is None else ["-c", run, str(port)])),
            cwd=folder,
            env={**os.environ, **own},
            stdout=log,
            stderr=log,
        )
        try:
            async with asyncio.timeout(30):
                # Workers are given a socket that listens; one process listens after its application has started.
                said, times = (
                    ("Application startup complete", 2) if run is None else ("Uvicorn running on", 1)
                )
                while (folder / "log").read_text().count(said) < times:
                    assert process.returncode is None, (folder / "log").read_text()
                    await asyncio.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                await process.wait()
    assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()


async def scraped(address: str) -> Scrape:
    """The answer of whichever worker takes a new connection."""
    head, body = await answered(address)
    assert head.startswith(b"HTTP/1.1 200"), head
    return Scrape.of(body.decode())


async def answered(address: str) -> tuple[bytes, bytes]:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(TIMEOUT):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head, body


def figure(figures: Scrape, name: str, **labels: str) -> float | None:
    return figures.get((name, frozenset({"pattern": "/room/:name", **labels}.items())))


async def agreed(address: str, **expected: float) -> Scrape:
    """Wait until ten answers in a row, from whichever workers, have these figures."""
    agreeing = 0
    async with asyncio.timeout(TIMEOUT):
        while agreeing < 10:
            figures = await scraped(address)
            got = {
                "connections": figure(figures, "aquilia_connections"),
                "said": figure(figures, "aquilia_messages_received_total", type="event", event="say"),
            }
            agreeing = agreeing + 1 if got == expected else 0
            await asyncio.sleep(0.02)
    return figures


async def spread(stack: contextlib.AsyncExitStack, address: str) -> dict[int, list[Client]]:
    """Clients of both workers, each of whom has said one thing; by worker."""
    found: dict[int, list[Client]] = {}
    while len(found) < 2 or sum(map(len, found.values())) < 6:
        client = await stack.enter_async_context(Client.connect(f"ws://{address}/room/a"))
        found.setdefault((await client.request("say", "hello"))["data"], []).append(client)
    return found


async def test_every_worker_tells_of_all_and_what_a_killed_one_counted_stays(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with workers(tmp_path, shared=shared) as address, contextlib.AsyncExitStack() as stack:
        by_worker = await spread(stack, address)
        all_ = sum(map(len, by_worker.values()))
        figures = await agreed(address, connections=all_, said=all_)
        assert figure(figures, "aquilia_handler_seconds_count", event="say") == all_
        assert figure(figures, "aquilia_handler_seconds_bucket", event="say", le="+Inf") == all_
        assert figure(figures, "aquilia_span_seconds_count", event="say", span="handler") == all_
        assert figure(figures, "aquilia_fanout_members_count", event="heard") == all_
        assert figure(figures, "aquilia_handshakes_total", outcome="accepted") == all_
        assert figure(figures, "aquilia_namespaces") == 2
        assert figures["said_total", frozenset()] == all_

        killed, lost = by_worker.popitem()
        os.kill(killed, signal.SIGKILL)
        for client in lost:
            await client.closed()
        figures = await agreed(address, connections=all_ - len(lost), said=all_)
        assert figure(figures, "aquilia_connections_opened_total") == all_


async def test_torn_files_take_no_figures_away_but_their_own(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "counter_2999999.db").touch()  # a worker was killed as it made its file
    (shared / "histogram_2999999.db").write_bytes(b"\xff\x00\x00\x00" * 20)
    async with workers(tmp_path, shared=shared) as address, contextlib.AsyncExitStack() as stack:
        clients = sum(map(len, (await spread(stack, address)).values()))
        await agreed(address, connections=clients, said=clients)
    log = (tmp_path / "log").read_text()
    assert "histogram_2999999.db is torn, and left out of the metrics: remove it" in log
    assert "counter_2999999.db" not in log


AGAIN = """
import os
import sys
sys.path.insert(0, os.getcwd())
own = f"histogram_{os.getpid()}.db"
with open(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], own), "wb") as file:
    file.write(bytes.fromhex("ff000000") * 20)
import uvicorn
uvicorn.run("measured:app", port=int(sys.argv[1]))
"""


async def test_a_worker_writes_even_where_one_of_its_number_left_torn_files(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with (
        workers(tmp_path, shared=shared, run=AGAIN) as address,
        Client.connect(f"ws://{address}/room/a") as ann,
    ):
        await ann.request("say", "hello")
        await agreed(address, connections=1, said=1)


async def test_a_folder_that_vanishes_fails_the_scrape_and_nothing_else(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with workers(tmp_path, shared=shared) as address, Client.connect(f"ws://{address}/room/a") as ann:
        shutil.rmtree(shared)
        assert (await ann.request("say", "hello"))["status"] == "ok"
        assert (await answered(address))[0].startswith(b"HTTP/1.1 503")


def databases(folder: Path) -> list[Path]:
    return list(folder.rglob("*.db"))


async def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    async with workers(tmp_path, shared=None) as address, contextlib.AsyncExitStack() as stack:
        await spread(stack, address)
        assert figure(await scraped(address), "aquilia_connections") is not None
    assert databases(tmp_path) == []


@Socket("/room/:name")
class Room(SocketController):
    @Event("say")
    async def say(self, conn: Connection) -> None: ...


def test_a_folder_that_is_not_there_is_refused_at_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(BootError, match=r"nowhere' is no folder that can be written to; make an empty one"):
        AquilaSockets.from_controllers([Room], metrics=True)


def test_a_folder_that_is_named_too_late_is_refused_at_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.raises(BootError, match="was set after prometheus_client had been imported: set it before"):
        AquilaSockets.from_controllers([Room], metrics=True)
