"""A guest on the control channel: it asks nodes, and is none. So a program reaches an application by its broker."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker
from aquilia.sockets.cluster import CONTROL, Cluster
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.nodes import BEAT, Happening, Nodes
from aquilia.sockets.tasks import TaskSet

__all__ = ["Guest"]

MEETING = 2 * BEAT
"""Seconds for the first beat of a node: each tells once in a `BEAT` that it lives."""


class Guest(Cluster):
    """See the head of this module. Of itself it tells nothing, so no node asks it or counts it."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        super().__init__(broker, TaskSet(), clock)
        self._met = asyncio.Event()
        self.on_node(self._meet)

    async def start(self) -> None:
        """Connect to the broker, and listen.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        self.id = uuid4().hex[:16]
        self._nodes = Nodes(self.id, self._clock.monotonic())
        await self._broker.start(self.deliver)
        await self._broker.subscribe(CONTROL, None)
        await self._broker.subscribe(CONTROL, self.id)

    async def stop(self) -> None:
        """Leave the broker."""
        await super().stop()
        await self._broker.stop()

    def _meet(self, happening: Happening) -> None:
        if happening.what == "came":
            self._met.set()

    async def host(self) -> str:
        """The id of a node that can be asked.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: there is none.
        """
        try:
            async with asyncio.timeout(MEETING):
                await self._met.wait()
        except TimeoutError:
            pass
        leaving_last = sorted(self._nodes.others.values(), key=lambda node: node.phase != "live")
        if not leaving_last:
            raise ws_adapter_unavailable(
                "no node is there: does the application run, with this broker and this prefix?"
            )
        return leaving_last[0].id
