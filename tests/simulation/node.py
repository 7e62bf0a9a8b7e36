"""One node: the application as `aq serve` runs it, but for the process."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from aquilia.clock import CURRENT, Clock
from aquilia.sockets import AquilaSockets
from aquilia.sockets.transports.http import HTTPProtocol
from aquilia.sockets.transports.native import NativeProtocol
from simulation.application import HEARTBEAT, PLAN, REGISTRY, Books
from simulation.broker import Cluster, SharedAdapter
from simulation.chance import EPOCH
from simulation.loop import VirtualLoop, owned_by
from simulation.network import Listener, Network

__all__ = ["Node"]


class _Ordered(dict[Any, None]):
    """A set, whose order is that of its filling: those of uvicorn depend on where objects lie in memory."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class Node:
    """From its start to its end, by whatever cause."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        network: Network,
        loop: VirtualLoop,
        books: Books,
    ) -> None:
        self.name = name
        self.books = books
        self.up = False
        self._loop = loop
        self._network = network
        self._context = owned_by(self)
        self._context.run(CURRENT.set, Clock(loop.time, lambda: EPOCH + loop.time()))
        self.adapter = SharedAdapter(cluster)
        self.sockets: AquilaSockets = self._context.run(
            AquilaSockets, REGISTRY, plan=PLAN, adapter=self.adapter
        )
        options: dict[str, Any] = {"http": HTTPProtocol, "ws": NativeProtocol}
        self._config = uvicorn.Config(
            self.sockets,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws_ping_interval=HEARTBEAT,
            **options,
        )
        self._config.load()
        self._state = ServerState()
        self._state.connections = _Ordered()
        self._state.tasks = _Ordered()
        self._listener = Listener(name, self._accept, self._context)

    def _accept(self) -> asyncio.Protocol:
        return HTTPProtocol(config=self._config, server_state=self._state, app_state={}, _loop=self._loop)

    def run(self, work: Any) -> asyncio.Task[Any]:
        """A task of this node."""
        return self._loop.create_task(work, context=self._context.copy())

    async def start(self) -> None:
        """Serve; tried again until the broker is there."""
        while True:
            try:
                await self.run(self.sockets.startup())
            except Exception:
                await asyncio.sleep(0.5)
            else:
                self.up = True
                self._network.listeners.append(self._listener)
                return

    def _deaf(self) -> None:
        self.up = False
        if self._listener in self._network.listeners:
            self._network.listeners.remove(self._listener)

    async def stop(self) -> None:
        """End as on SIGTERM: what uvicorn does then."""
        self._deaf()
        await self.run(self._stop())

    async def _stop(self) -> None:
        for connection in list(self._state.connections):
            connection.shutdown()
        async with asyncio.timeout(60):
            while self._state.connections or self._state.tasks:
                await asyncio.sleep(0.1)
        await self.sockets.shutdown()

    def kill(self, *, silently: bool) -> None:
        """End as on SIGKILL; `silently`: its machine has gone, too, and nobody is told."""
        self._deaf()
        self.adapter.broker.cut(come_back=False)
        for link in list(self._network.links.values()):
            if link.listener is self._listener:
                if silently:
                    link.die()
                else:
                    link.server.abort()
        self._loop.freeze(self)
