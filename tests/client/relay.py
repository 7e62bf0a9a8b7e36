"""A relay before a server: links through it can be cut, silenced, and led elsewhere. And servers as processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

HERE = Path(__file__).parent


class Relay:
    """One address for clients; `target` is the port that new links lead to."""

    def __init__(self) -> None:
        self.target = 0
        self.url = ""
        self.swallowing = False
        """Whether what new links bring from the server, behind the upgrade, is thrown away."""
        self.swallowed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, base: str) -> AsyncIterator[Relay]:
        """A relay before the server at `ws://127.0.0.1:PORT`."""
        relay = cls()
        relay.target = int(base.rpartition(":")[2])
        server = await asyncio.start_server(relay._take, "127.0.0.1", 0)
        relay.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield relay
        finally:
            server.close()
            relay.cut()

    def cut(self) -> None:
        """Break all links, without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_server}
        try:
            await asyncio.gather(
                self._pass(reader, to_server, whole=True),
                self._pass(from_server, writer, whole=not self.swallowing),
            )
        finally:
            self._writers -= {writer, to_server}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, whole: bool) -> None:
        upgraded = False
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if upgraded and not whole:
                    self.swallowed.set()
                    continue
                upgraded = True
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class ServerProcess:
    """`resume_app` in a process of its own, which can be killed and started again on its port."""

    def __init__(self, port: int, adapter_url: str) -> None:
        self.base = f"ws://127.0.0.1:{port}"
        self._port = port
        self._adapter_url = adapter_url
        self._process: subprocess.Popen[bytes] | None = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "resume_app:app", "--port", str(self._port)]
        command += ["--ws", "aquilia.sockets.transports.native:NativeProtocol", "--log-level", "warning"]
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, "RESUME_ADAPTER": self._adapter_url}
        return subprocess.Popen(command, env=env)

    async def start(self) -> None:
        self._process = self._spawn()
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.close()
                    return
                assert self._process.poll() is None, "the server ended"
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
