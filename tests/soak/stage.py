"""The servers and the broker of the soak, as processes that are killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

from nats_server import NatsServer
from ports import reserved_port
from processes import descendants, gone
from redis_cluster import RedisCluster
from redis_servers import RedisServer

HERE = Path(__file__).parent
PATIENCE = 60.0


class Broker(Protocol):
    """What holds the logs: it is killed, and started again."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class LocalBroker:
    """The server that an application has by `local://`, which starts it again by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"local://{folder}"

    def kill(self) -> None:
        for file in self.folder.glob("nats-server_*.ports"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.stem.rpartition("_")[2]), signal.SIGKILL)

    def start(self) -> None:
        """The application does."""


class Server:
    """A process that serves one node, or the workers of `aq serve`; it is killed, and started again on its port."""

    def __init__(self, port: int, url: str, history: int, log: Path, workers: int) -> None:
        self.port = port
        self.workers = workers
        self.log = log
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AQ_")}
        # In development `aq serve` wants no compiled artifact.
        ours = {"PYTHONPATH": path, "AQ_ENV": "development", "AQ_APP": "soak_app:manifest"}
        self._env = {**kept, **ours, "AQ_WS_ADAPTER_URL": url, "SOAK_HISTORY": str(history)}
        self._process: subprocess.Popen[bytes] | None = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        words = ["uvicorn", "soak_app:application", "--factory", "--log-level", "warning"]
        words += ["--ws", "aquilia.sockets.transports.native:NativeProtocol"]
        if self.workers > 1:
            words = ["aquilia.cli", "serve", "--workers", str(self.workers), "--log-level", "warning"]
        command = [sys.executable, "-m", *words, "--port", str(self.port)]
        with self.log.open("ab") as output:
            return subprocess.Popen(command, env=self._env, cwd=self.log.parent, stdout=output, stderr=output)

    async def start(self) -> None:
        """Start it, until it takes connections; anew where the broker that it needs is not up yet."""
        self._process = self._spawn()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                if self.workers < 2 or len(self._posted()) == self.workers:
                    return
            if self._process.poll() is not None:
                self._process = self._spawn()
            await asyncio.sleep(0.05)
        raise TimeoutError(f"no server on port {self.port}")

    def kill(self) -> None:
        """End all of it, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def end(self) -> None:
        """The same, and wait for those that end with it."""
        everyone = [] if self._process is None else descendants(self._process.pid)
        self.kill()
        while not all(map(gone, everyone)):
            await asyncio.sleep(0.05)

    async def crash(self, chance: random.Random) -> None:
        """Kill what serves some of the clients: one of the workers, where there are any."""
        if self.workers > 1 and (workers := self._posted()):
            os.kill(chance.choice(workers), signal.SIGKILL)
        else:
            self.kill()

    async def recover(self) -> None:
        """Have it serve again, all of it."""
        assert self._process is not None
        if self.workers < 2:
            await self.start()
            return
        async with asyncio.timeout(PATIENCE):  # who has been killed is replaced by itself
            while len(self._posted()) < self.workers:
                await asyncio.sleep(0.05)

    def _posted(self) -> list[int]:
        assert self._process is not None
        found = []
        for pid in descendants(self._process.pid):
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and not gone(pid):
                    found.append(pid)
        return found


class RedisMasters:
    """A Redis Cluster whose masters are killed in turn; each comes back as a replica of who has its place."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self._killed: RedisServer | None = None
        self._turn = 0

    def kill(self) -> None:
        masters = self._cluster.masters()
        self._killed = masters[self._turn % len(masters)]
        self._turn += 1
        self._cluster.kill(self._killed)

    def start(self) -> None:
        """Behind the failover: until then its replica alone has what it kept."""
        assert self._killed is not None
        self._cluster.promoted(self._killed)
        self._cluster.restart(self._killed)


@contextlib.contextmanager
def broker(kind: str, folder: Path) -> Iterator[tuple[Broker, str]]:
    """What holds the logs, and its URL."""
    if kind == "local":
        local = LocalBroker(folder / "local")
        yield local, local.url
    elif kind == "redis":
        with RedisServer(folder / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
            yield server, server.url("soak")
    elif kind == "redis-cluster":
        with RedisCluster(folder / "redis", "--appendonly", "yes") as cluster:
            yield RedisMasters(cluster), f"{cluster.url('soak')}&replicas=1"
    else:
        nats = NatsServer(folder / "nats")
        try:
            yield nats, nats.url("soak")
        finally:
            nats.kill()


@contextlib.asynccontextmanager
async def servers(
    count: int, workers: int, url: str, history: int, folder: Path
) -> AsyncIterator[list[Server]]:
    """So many servers, started."""
    started: list[Server] = []
    with contextlib.ExitStack() as stack:
        try:
            for n in range(count):
                port = stack.enter_context(reserved_port())
                started.append(Server(port, url, history, folder / f"server{n}.log", workers))
                await started[-1].start()
            yield started
        finally:
            for server in started:
                await server.end()
