"""Word of what was lost while the broker was away, for the members of rooms that keep no history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.audience import Audience, Delivery
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_messages_dropped
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.outbound import Outbound

__all__ = ["losses"]

CAUSE = "broker_lost"


def losses(homes: Iterable[Home]) -> Iterator[tuple[Audience, Delivery]]:
    """For each plain room, what its members are told: nobody knows how much it was, or whether it was anything.

    Each member counts as one message that was dropped.
    """
    for home in homes:
        told = 0
        for room in home.rooms.values():
            if room.tail is None and room.members:
                told += len(room.members)
                yield room, _Loss(room.name or "")
        if told:
            home.recorder.dropped(home.pattern, CAUSE, told)


class _Loss(Delivery):
    """A `gap` for clients of v1, and the error event for plain ones, at the place of the loss."""

    __slots__ = ()

    def __init__(self, room: str) -> None:
        super().__init__(Publication(id="", namespace="", event="gap", payload=None, ts=0, room=room))

    def _encode(self, conn: Connection) -> bytes:
        if conn._variant.v1:
            gap = {"cause": CAUSE, "room": self.publication.room}
            return Outbound._encode(conn, MessageEnvelope(type="system", event="gap", payload=gap))
        return Outbound._encode(conn, MessageEnvelope(event="error", payload=ws_messages_dropped().as_dict()))
