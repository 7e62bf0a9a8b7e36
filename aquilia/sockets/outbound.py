"""The way out of one connection: events wait in its outbox until the loop's turn is over, and are written together.

A publication to many is written at once where nothing waits before it: that spares each member the way through the
outbox.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aquilia.sockets.codecs import Codec
from aquilia.sockets.envelope import MessageEnvelope, Profile
from aquilia.sockets.faults import CloseCode, ws_connection_closed, ws_messages_dropped, ws_slow_consumer
from aquilia.sockets.hub_port import HubPort
from aquilia.sockets.outbox.queue import Outbox, Strategy

if TYPE_CHECKING:
    from aquilia.sockets.transports.base import Transport

__all__ = ["ConnectionState", "DisconnectReason", "Outbound", "Variant"]

logger = logging.getLogger("aquilia.sockets")

FLUSH_BYTES = 1 << 16
"""Bytes that are handed to the transport in one write, about."""
CLOSE_GRACE = 5.0
"""Seconds that a closing connection may take to write what waits, before the rest is dropped."""


class ConnectionState(enum.StrEnum):
    """The life of a connection; it only moves forward."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"


_CLOSED = ConnectionState.CLOSED


class DisconnectReason(NamedTuple):
    """Why a connection ended: the close code and text, ours if we closed it."""

    code: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


class Variant(NamedTuple):
    """What decides how an event is written: connections with equal variants share its frame."""

    codec: str
    v1: bool
    transport: str


@cache
def variant_of(profile: Profile, transport: str) -> Variant:
    """The variant of connections like this: always the same object."""
    return Variant(profile.codec, profile.v1, transport)


class Outbound:
    """Frames, and in the end a close, on their way to one client. The base of `Connection`."""

    __slots__ = (
        "_blocked", "_close", "_codec", "_dirty", "_home", "_hub", "_idle", "_outbox", "_paused", "_profile",
        "_timer", "_transport", "_variant", "_waiters", "_weight", "bytes_sent", "id", "messages_sent", "phase",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        profile: Profile,
        codec: Codec,
        transport: Transport,
        outbox: Outbox,
        hub: HubPort,
        home: Any,
    ) -> None:
        self.id = id
        self.phase = ConnectionState.CONNECTING
        self.messages_sent = self.bytes_sent = 0
        self._profile = profile
        self._codec = codec
        self._transport = transport
        self._variant = variant_of(profile, transport.kind)
        self._outbox = outbox
        self._hub = hub
        self._home = home
        # For what ends the connection: no hello, a slow goodbye.
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._close: DisconnectReason | None = None
        self._dirty = self._blocked = self._paused = False
        self._weight = 0
        """Bytes that the process's bound counts for it."""
        self._idle = True
        """Open, with nothing waiting: what comes next may be written at once."""

    # What waits

    def _event(
        self, name: str, payload: Any, id: str | None = None, *, place: Mapping[str, Any] | None = None
    ) -> bytes:
        """The frame of an event, which wants an ack if it has an id; `place` is said in its meta."""
        meta: dict[str, Any] | None = None
        if self._profile.v1:
            meta = {"ts": int(self._hub.clock.time() * 1000)}
            if place is not None:
                meta |= place
        return self._encode(
            MessageEnvelope(type="event", event=name, payload=payload, id=id, ack=id is not None, meta=meta)
        )

    def _encode(self, envelope: MessageEnvelope) -> bytes:
        codec = self._codec
        return self._transport.frame(codec.encode(envelope), binary=codec.binary)

    def _push(self, frame: bytes, strategy: Strategy | None = None, key: Hashable = None) -> None:
        """Queue an event's frame, under the backpressure policy of the connection, or one of its own."""
        outbox = self._outbox
        if outbox.half_full and self._dirty and not self._blocked:
            self._flush()  # the transport takes more: only the loop's turn is too long
        if strategy is None:
            queued = outbox.push(frame)
        else:
            queued = outbox.push_as(frame, strategy, key)
            if outbox.conflated:
                self._home.recorder.dropped(self._home.pattern, "conflated", outbox.conflated)
                outbox.conflated = 0
        if not queued:
            self._count_dropped()
            if outbox.overflowed:
                self._overflow("slow_consumer", len(outbox) + 1)
                return
        if not self._dirty:
            self._mark_dirty()

    def _holds(self, frame: bytes, strategy: Strategy | None) -> bool:
        """Whether an event's frame can be queued without ending the connection, which would be its policy."""
        outbox = self._outbox
        if outbox.half_full and self._dirty and not self._blocked:
            self._flush()
        return outbox.holds(frame, strategy)

    def _push_urgent(self, envelope: MessageEnvelope) -> None:
        """Queue an answer or a word of the protocol."""
        if self._close is not None:
            return
        self._outbox.push_urgent(self._encode(envelope))
        if not self._dirty:
            self._mark_dirty()
        self._balance_reading()

    def _push_all(self, frames: Sequence[bytes]) -> None:
        """Queue frames that no policy may drop."""
        if self._close is None and frames:
            for frame in frames:
                self._outbox.push_urgent(frame)
            if not self._dirty:
                self._mark_dirty()
            self._balance_reading()

    def _system(self, event: str, payload: Any = None) -> None:
        """Tell a v1 client; a plain one sees no system frames."""
        if self._profile.v1:
            self._push_urgent(MessageEnvelope(type="system", event=event, payload=payload))

    def _count_dropped(self) -> None:
        """Report what the policy has dropped.

        The client is told when it reads on, which may be never: so the count does not wait for that.
        """
        dropped, self._outbox.dropped = self._outbox.dropped, 0
        if dropped:
            self._home.recorder.dropped(self._home.pattern, "slow_consumer", dropped)
        unspooled, self._outbox.unspooled = self._outbox.unspooled, 0
        if unspooled:
            self._home.recorder.dropped(self._home.pattern, "spool_full", unspooled)

    def _give_way(self, volume: int) -> None:
        """The process holds too much for slow clients: drop so many bytes of it here, or end the connection."""
        outbox = self._outbox
        if outbox.give_way(volume):
            dropped, outbox.dropped = outbox.dropped, 0
            if dropped:
                self._home.recorder.dropped(self._home.pattern, "outbox_bytes", dropped)
        else:
            self._overflow("outbox_bytes", len(outbox))

    def _overflow(self, cause: str, lost: int) -> None:
        self._home.recorder.dropped(self._home.pattern, cause, lost)
        self._outbox.clear()
        self._end(CloseCode.TOO_SLOW, ws_slow_consumer().message)
        self._hub.show_out(self)  # it reads nothing: there is nothing to wait for

    def _gap_frame(self, dropped: int) -> bytes:
        if self._profile.v1:
            payload: dict[str, Any] = {"cause": "slow_consumer", "dropped": dropped}
            return self._encode(MessageEnvelope(type="system", event="gap", payload=payload))
        return self._encode(MessageEnvelope(event="error", payload=ws_messages_dropped(dropped).as_dict()))

    # What is written

    def _mark_dirty(self) -> None:
        self._dirty = True
        self._idle = False
        self._hub.mark_dirty(self)

    def _flush(self) -> None:
        """Hand what waits to the transport, as far as it takes it."""
        self._dirty = False
        if self.phase is _CLOSED:
            return
        if self._blocked:
            self._hub.weigh(self)
            return
        outbox = self._outbox
        while not outbox.empty and not self._blocked:
            if frames := outbox.take(FLUSH_BYTES, self._gap_frame):
                self._write(frames)
            else:
                self._blocked = True  # until what is next has been read from disk
        if self._blocked or self._weight:
            self._hub.weigh(self)
        if self._close is None:
            self._idle = not self._blocked
        elif outbox.empty:
            self._transport.close(*self._close)
        if self._waiters:
            self._wake()
        if self._paused:
            self._balance_reading()

    def _write(self, frames: Sequence[bytes]) -> None:
        self.messages_sent += len(frames)
        self.bytes_sent += sum(map(len, frames))
        try:
            self._blocked = not self._transport.write(frames)
        except Exception:  # one broken wire must not stop the others that are written in this turn
            self._broken()

    def _broken(self) -> None:
        """A write has failed: called while its error is handled."""
        told = {"connection": self.id, "namespace": self._home.namespace.path, "pattern": self._home.pattern}
        logger.exception("connection %s cannot be written to", self.id, extra=told)
        self._blocked = True
        self._idle = False
        self._transport.abort()

    def _writable(self) -> None:
        self._blocked = False
        self._flush()

    async def _drained(self) -> None:
        """Wait until something has been written, or there is nobody left to write to."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters or (), None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _balance_reading(self) -> None:
        """Stop or go on reading, as there is room for answers."""
        raise NotImplementedError

    # The end

    def _require_open(self) -> None:
        if self._close is not None:
            raise ws_connection_closed()

    def _end(self, code: int, reason: str) -> None:
        if self._close is not None:
            return
        self._close = DisconnectReason(code, reason)
        self._idle = False
        self.phase = ConnectionState.CLOSING
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_GRACE, self._transport.close, code, reason)
        if not self._dirty:
            self._mark_dirty()

    def _closed(self, code: int, reason: str) -> DisconnectReason:
        """The transport is gone. The reason is ours if we closed."""
        if self._close is None:
            self._close = DisconnectReason(code, reason)
        self.phase = ConnectionState.CLOSED
        self._idle = False
        self._cancel_timer()
        self._discard()
        if self._weight:
            self._hub.weigh(self)
        self._wake()
        return self._close

    def _discard(self) -> None:
        """What waits is not written any more."""
        if unread := len(self._outbox):
            self._home.recorder.dropped(self._home.pattern, "disconnected", unread)
        self._outbox.clear()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
