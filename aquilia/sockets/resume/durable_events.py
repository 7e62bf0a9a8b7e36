"""Durable events: what is sent to one client is written to the broker's log first, so that it outlives its node.

An event is declared so, `Emits(name, type, durable=True)`, and sent by `conn.send_event` to a client that may come
back. When that returns, the event reaches the client, or the next connection of its session within the window, on
whatever node. Entries name the place in the session's direct log that the event was sent at. A node that takes a
session up without that log sends what stands behind the client's position again, at new places. It writes these to
the broker as well, since it may die too. An entry that was written after another node took the session up counts for
nothing: its sender looks at the record behind it, and raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.history import History, Position
from aquilia.sockets.resume.direct_log import DIRECT_TTL

__all__ = ["DurableEvent", "DurableEvents"]

KEPT = History(size=256, ttl=DIRECT_TTL, max_bytes=1 << 20)


class DurableEvent(NamedTuple):
    """One that is in the broker's log."""

    id: str
    """The same for the copies that were made of it."""
    place: Position
    """In the direct log of its session."""
    event: str
    payload: Any
    ts: int


class DurableEvents:
    """Those of all sessions, in a log for each that has any. Its room is one that no user's can be."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def write(self, namespace: str, session: str, told: DurableEvent) -> None:
        """Keep an event, once for each place that it is sent at.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, WS_PUBLISH_FAILED.
        """
        publication = Publication(
            id=f"{told.id}@{told.place.epoch}:{told.place.offset}",
            namespace=namespace,
            room=f"\0{session}",
            event=told.event,
            payload=[told.id, *told.place, told.payload],
            ts=told.ts,
        )
        await self._broker.publish(publication, KEPT)

    async def behind(self, namespace: str, session: str, position: Position | None) -> list[DurableEvent]:
        """What a client with this position in its direct log has not seen, in order, each once.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        page = await self._broker.read(namespace, f"\0{session}", KEPT, limit=KEPT.size)
        return unseen([_event(publication) for publication in page.publications], position)

    async def begin(self, namespace: str, session: str, place: Position) -> None:
        """Note that the session's direct log goes on in another epoch: what stands before this is of earlier ones."""
        await self.write(namespace, session, DurableEvent(place.epoch, place, "", None, 0))


def unseen(events: Sequence[DurableEvent], position: Position | None) -> list[DurableEvent]:
    """Those behind a position, each once: its copies are made where it was not seen, and stand behind it."""
    start = 0
    if position is not None:
        for index, told in enumerate(events, 1):
            if told.place.epoch == position.epoch and told.place.offset <= position.offset:
                start = index
    return list({told.id: told for told in events[start:] if told.event}.values())


def _event(publication: Publication) -> DurableEvent:
    id, epoch, offset, payload = publication.payload
    return DurableEvent(id, Position(epoch, offset), publication.event, payload, publication.ts)
