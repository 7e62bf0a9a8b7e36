"""Who gets the same publications, and one of these on its way to them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Protocol

from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.connection import Connection, Variant
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_publish_failed
from aquilia.sockets.identities import Identities
from aquilia.sockets.outbound import Outbound
from aquilia.sockets.outbox.queue import Strategy

__all__ = ["Audience", "Delivery", "Measure", "Policy", "Tail"]

logger = logging.getLogger("aquilia.sockets")

Policy = tuple[Strategy | None, Hashable]
"""The strategy and the key by which an event is queued; None where that is as the connection has it."""


class Measure(Protocol):
    """What is told of each publication that has gone to an audience: see `Meter`."""

    def published(self, event: str, members: int, size: int, seconds: float) -> None:
        """It has gone to so many members, in so many bytes, so long after it came."""

    def ended(self) -> None:
        """No more comes to the audience."""


class Tail(Protocol):
    """The live end of a room with history."""

    def begun(self, delivery: Delivery) -> None:
        """Fan-out begins with this one."""

    def put_back(self, conn: Connection) -> None:
        """What was begun does not fit into this member's outbox: it is to read the log instead."""


class Audience:
    """Connections that get the same publications: a room's members, or all of a namespace."""

    __slots__ = (
        "backlog", "backlog_bytes", "caught_up", "current", "early", "gone", "identities", "joined", "lock",
        "members", "meter", "name", "present", "rest", "subscribed", "tail", "turn", "waiting",
    )  # fmt: skip

    def __init__(
        self, name: str | None, meter: Measure | None = None, identities: Identities | None = None
    ) -> None:
        self.name = name
        self.meter = meter
        self.identities = identities
        """Which of the members are whose, where that is known."""
        self.members: dict[str, Connection] = {}
        self.backlog: deque[Delivery] = deque()
        self.backlog_bytes = 0
        self.current: Delivery | None = None
        self.rest: Iterator[Connection] = iter(())
        self.gone: set[Connection] = set()
        """Who left while the current publication is on its way: it is not for them any more."""
        self.joined = False
        """Whether the current publication waits for others, to be written with them."""
        self.turn = -1
        """The loop's turn in which a publication last began."""
        self.caught_up: asyncio.Future[None] | None = None
        self.lock = asyncio.Lock()
        self.subscribed = False
        self.waiting: dict[str, Connection] = {}
        """Members that are not served by fan-out: they have yet to catch up."""
        self.early: list[Publication] = []
        """What came before its tail was there."""
        self.present = False
        """Whether it tells who is in it."""
        self.tail: Tail | None = None
        """Where it keeps history, what has to know of each publication that is begun."""

    def __len__(self) -> int:
        """Its members, those who wait included."""
        return len(self.members) + len(self.waiting)

    def remove(self, conn: Connection) -> None:
        """Take a member out; one that is not there is no error."""
        if self.waiting.get(conn.id) is conn:
            del self.waiting[conn.id]
        if self.members.get(conn.id) is not conn:  # another may have its name: it took the session over
            return
        del self.members[conn.id]
        if self.current is not None:
            self.gone.add(conn)


class Delivery:
    """A publication on its way to one audience, with its frames."""

    __slots__ = ("_frames", "begun", "bytes", "key", "members", "publication", "strategy", "weight")

    def __init__(self, publication: Publication, policy: Policy = (None, None)) -> None:
        self.publication = publication
        self.strategy, self.key = policy
        self.weight = 0
        """Bytes for which it counts while it waits for its turn."""
        self._frames: dict[Variant, bytes] = {}

    def measure(self, now: float) -> None:
        """Count, for metrics, what of it is sent from here on."""
        self.begun = now
        self.members = self.bytes = 0

    def frame(self, conn: Connection) -> bytes:
        """The frame for a member, as its transport wants it."""
        variant = conn._variant
        frame = self._frames.get(variant)
        if frame is None:
            try:
                frame = self._encode(conn)
            except Exception:
                event, namespace = self.publication.event, self.publication.namespace
                told = {"event": event, "namespace": namespace}
                logger.exception("event %r cannot be written as %s", event, variant.codec, extra=told)
                frame = self._apology(conn)
            self._frames[variant] = frame
        return frame

    def check(self, conn: Connection) -> int:
        """Encode for one member where the publisher still hears of it: its payload may be unfit. The bytes of it.

        Raises:
            SocketFault: WS_PUBLISH_FAILED.
        """
        try:
            frame = self._frames[conn._variant] = self._encode(conn)
        except (TypeError, ValueError, OverflowError) as error:
            raise ws_publish_failed(f"{self.publication.event!r} cannot be encoded: {error}") from error
        return len(frame)

    @property
    def size(self) -> int:
        """Bytes of its frames, so far."""
        return sum(map(len, self._frames.values()))

    def _apology(self, conn: Connection) -> bytes:
        """What a member gets whose codec cannot write what others could be sent: no loss is silent."""
        fault = ws_publish_failed(f"an event {self.publication.event!r} cannot be written in this codec")
        return Outbound._encode(conn, MessageEnvelope(event="error", payload=fault.as_dict()))

    def count(self, members: int, size: int) -> None:
        """It has gone to so many more members, in a frame of this size."""
        self.members += members
        self.bytes += members * size

    def _encode(self, conn: Connection) -> bytes:
        publication = self.publication
        meta: dict[str, Any] | None = None
        if conn._variant.v1:
            meta = {"ts": publication.ts}
            if (place := publication.position) is not None:
                meta["offset"], meta["epoch"] = place.offset, place.epoch
        return Outbound._encode(  # not the connection's own, which counts it: this frame is for many
            conn,
            MessageEnvelope(
                type="event",
                event=publication.event,
                payload=publication.payload,
                room=publication.room,
                meta=meta,
            ),
        )
