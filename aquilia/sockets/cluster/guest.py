"""A guest on the control channel: it asks nodes, and is none. So a program reaches an application by its broker."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import uuid4

from aquilia.clock import Clock
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.adapters.base import Broker
from aquilia.sockets.cluster.membership import CONTROL, Cluster
from aquilia.sockets.cluster.nodes import BEAT, Node, Nodes
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.tasks import TaskSet

__all__ = ["Guest", "guest_at"]

MEETING = 2 * BEAT
"""Seconds for the beat of a node, which tells once in a `BEAT` that it lives."""


class Guest(Cluster):
    """See the head of this module. Of itself it tells nothing, so no node asks it or counts it."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        super().__init__(broker, TaskSet(), clock)
        self._heard_last: dict[str, float] = {}
        self._beaten_to = asyncio.Event()

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

    def _heard(self, beat: Node, *, to_all: bool) -> None:
        super()._heard(beat, to_all=to_all)
        now = self._clock.monotonic()
        # Others look who has died when they beat themselves, which a guest does not.
        known = {**self._heard_last, beat.id: now}
        self._heard_last = {id: at for id, at in known.items() if id in self._nodes and now - at <= MEETING}
        self._beaten_to.set()

    async def host(self) -> str:
        """The id of a node that can be asked: it was heard just now, and does not leave, if there is another.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: there is none.
        """
        if (found := self._fittest()) is None:
            self._beaten_to.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MEETING):
                    await self._beaten_to.wait()
            found = self._fittest()
        if found is None:
            raise ws_adapter_unavailable(
                "no node is there: does the application run, with this broker and this prefix?"
            )
        return found

    def _fittest(self) -> str | None:
        now, others = self._clock.monotonic(), self._nodes.others
        fresh = [id for id, at in self._heard_last.items() if id in others and now - at <= MEETING]
        return min(
            fresh, key=lambda id: (others[id].phase != "live", now - self._heard_last[id]), default=None
        )


def guest_at(url: str, where: str, clock: Clock) -> Guest:
    """A guest, not started, at the broker of a URL that `where` names.

    Raises:
        ValueError: the URL is wrong, or leads to no other process, or what it needs is not installed.
    """
    broker = adapter_for("nats", url, clock, where=where, joining=True).broker
    if getattr(broker, "alone", False):
        scheme = url.partition("://")[0]
        raise ValueError(f"{where}: {scheme}:// is in the process that serves, and reaches nobody else")
    return Guest(broker, clock)
