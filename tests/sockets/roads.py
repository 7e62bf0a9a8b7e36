"""The road of one node to its broker: a proxy of TCP that is closed, or falls silent, where a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ports import reserved_port


class Road:
    """Leads from `port` to the one behind it."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._open = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Road]:
        """A road that is open."""
        with reserved_port() as port:
            road = cls(port, target)
            await road.mend()
            try:
                yield road
            finally:
                await road.close()

    async def mend(self) -> None:
        """Let everything pass, also what was swallowed and has not been given up."""
        self._open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Break all links; who wants a new one is refused."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def swallow(self) -> None:
        """Pass nothing on, in either direction, and say nothing: links stay, and new ones are taken."""
        self._open.clear()

    async def break_down(self, how: str) -> None:
        """`closed` or `silent`."""
        if how == "closed":
            await self.close()
        else:
            self.swallow()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.get_running_loop().create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            await self._open.wait()
            from_there, there = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(there)
            await asyncio.gather(self._pass(reader, there), self._pass(from_there, writer))
        except OSError:
            pass  # the broker is not there, or an end has gone: so has the link
        finally:
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        await self._open.wait()
        raise ConnectionResetError
