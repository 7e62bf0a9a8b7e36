"""A wire without a network: the transport port, with the client at its other end in the same process.

It is handed over as the native transport is, so that all above the port is what serves in production. Messages are
whole and unframed; they go up from the loop, never from the task of a test, as from a socket, and in a context of the
application's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

from aquilia.sockets.connection import DisconnectReason
from aquilia.sockets.deflate import Compression
from aquilia.sockets.faults import CloseCode
from aquilia.sockets.flow import FlowDispatcher
from aquilia.sockets.transports.base import TransportEvents

__all__ = ["Handover", "Wire"]


class Wire:
    """One connection. The methods of the client's end are below those of the port."""

    kind = "testing"
    held = 0

    def __init__(self, context: Context) -> None:
        self.ended: DisconnectReason | None = None
        """How the connection ended, as the client sees it."""
        self.gone = asyncio.Event()
        """The server has given back all that the connection held, after `@OnDisconnect`."""
        self.on_news: Callable[[], None] = lambda: None
        """Called when a message has arrived for the client, or the end."""
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._events: TransportEvents | None = None
        self._conn: Any = None
        self._binary = False
        self._upward: deque[bytes] = deque()
        self._downward: deque[bytes] = deque()
        self._server_reads = self._client_reads = True
        self._blocked = False
        self._closing = False

    @property
    def by_function(self) -> bool:
        """Whether a function handles the connection: what it sends and gets are no envelopes."""
        return isinstance(self._events, FlowDispatcher)

    def start(self, events: TransportEvents, conn: Any) -> None:
        """Begin to hand up messages; `conn` is what they belong to."""
        self._events, self._conn = events, conn

    # The port

    @property
    def line(self) -> Callable[[bytes], object] | None:
        """See `Transport`."""
        return self._write_one if self._client_reads and not self._closing else None

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        """See `Transport`: there are no frames here."""
        return message

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`. What comes while the client does not read is its first buffer full."""
        self._downward += frames
        self._blocked = not self._client_reads
        if self._client_reads:
            self.on_news()
        return not self._blocked

    def _write_one(self, frame: bytes) -> None:
        self.write((frame,))

    def pause_reading(self) -> None:
        """See `Transport`."""
        self._server_reads = False

    def resume_reading(self) -> None:
        """See `Transport`."""
        if not self._server_reads:
            self._server_reads = True
            self._call_up(self._hand_up)

    def close(self, code: int, reason: str) -> None:
        """See `Transport`. The client answers at once."""
        self._closing = True
        self._call_up(self._end, code, reason)

    def abort(self) -> None:
        """See `Transport`."""
        self.close(CloseCode.ABNORMAL, "")

    def trim(self) -> None:
        """See `Transport`: there is nothing to give back."""

    def fail(self, code: int, reason: str) -> None:
        """See `Transport`."""
        self.close(code, reason)

    # The client's end

    def send(self, message: bytes, *, binary: bool) -> None:
        """Send a message. It waits while the server reads no more."""
        self._binary = binary
        self._upward.append(message)
        self._call_up(self._hand_up)

    def received(self) -> list[bytes]:
        """What has arrived since the last call; nothing while the client does not read."""
        if not self._client_reads:
            return []
        arrived = list(self._downward)
        self._downward.clear()
        return arrived

    def stop_reading(self) -> None:
        """Be a client that is too slow: the server's outbox fills, and its policy takes hold."""
        self._client_reads = False

    def read_on(self) -> None:
        """Go on after `stop_reading`."""
        self._client_reads = True
        self.on_news()
        if self._blocked:
            self._blocked = False
            self._call_up(self._writable)

    def leave(self, code: int, reason: str) -> None:
        """End the connection, behind what was sent."""
        self._call_up(self._end, code, reason)

    # Up, from the loop

    def _call_up(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(callback, *args, context=self._context)

    def _hand_up(self) -> None:
        while self._upward and self._server_reads and self.ended is None and self._events is not None:
            self._events.on_message(self._conn, self._upward.popleft(), binary=self._binary)

    def _writable(self) -> None:
        if self.ended is None and self._events is not None:
            self._events.on_writable(self._conn)

    def _end(self, code: int, reason: str) -> None:
        if self.ended is None and self._events is not None:
            self.ended = DisconnectReason(int(code), reason)
            self._closing = True
            self.on_news()
            self._events.on_closed(self._conn, int(code), reason)


class Handover:
    """What the entrance finds at the place of the native transport's handover."""

    def __init__(self, wire: Wire) -> None:
        self.compression: Compression | None = None
        self.max_message_size = self.max_fragments = 0
        self._wire = wire

    def attach(self) -> Wire:
        """The connection's transport."""
        return self._wire
