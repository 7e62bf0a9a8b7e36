"""The wire of the native transport: one open WebSocket on picows, on either of asyncio's and uvloop's transports.

picows splits the bytes into frames, and unmasks them (RFC 6455 sections 5.2 and 5.3). What it leaves to us is here:
fragments and their order (5.4), reserved bits (5.2), UTF-8 (8.1), and control frames. How it ends is in `closing.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aquilia.sockets.faults import CloseCode
from aquilia.sockets.transports.base import TransportEvents
from aquilia.sockets.transports.closing import ClosingTransport
from aquilia.sockets.transports.fragments import Fragments
from aquilia.sockets.transports.framing import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PING_FRAME,
    PONG,
    SHORT_BINARY,
    SHORT_TEXT,
    TEXT,
    KeptFrame,
    close_body,
    frame_header,
)

__all__ = ["NativeTransport", "Reader"]

TURN = 64
"""Frames of one connection that are handled in one turn of the loop; what else came with them waits for the next."""

_NOBODY = asyncio.BufferedProtocol()


class Reader(Protocol):
    """What puts frames together for a transport."""

    buffer: int
    """Bytes by which its buffer has grown."""

    def renew(self) -> Reader:
        """One with a small buffer, in its place; itself, while it has a part of a frame."""


class NativeTransport(ClosingTransport):
    """One open connection. Implements `Transport`; picows calls the `on_ws_…` methods."""

    kind = "native"

    __slots__ = (
        "_broken", "_budget", "_conn", "_fragments", "_heard", "_later", "_later_bytes", "_on_gone", "_paused",
        "_pong", "_silent", "_stopped", "_websocket", "_write_paused", "held", "max_fragments", "max_size",
        "read_behind", "reader",
    )  # fmt: skip

    def __init__(
        self, wire: asyncio.Transport, max_size: int, on_gone: Callable[[NativeTransport], None]
    ) -> None:
        super().__init__(wire)
        self._line = self._way()
        self._websocket: Any = None
        self._heard = True
        self._silent = 0
        self.max_size = max_size
        """Bytes that one message may have on the wire."""
        self.max_fragments: int | None = None
        """Frames that one message may have."""
        self._on_gone = on_gone
        self._conn: Any = None
        self._fragments: Fragments | None = None
        self._broken = False
        """Whether picows met a broken frame: it would go on behind it with the next read."""
        self._pong: bytes | None = None
        self._write_paused = self._paused = self._stopped = False
        self.read_behind: Callable[[], None] | None = None
        """Reads what came in one read with the request's head: it is the beginning of what is read now."""
        self._budget = TURN
        self._later: deque[KeptFrame] | None = None
        self._later_bytes = 0
        self.reader: Reader | None = None
        self.held = 0
        """See `Transport`."""

    def start(self, events: TransportEvents, conn: Any) -> None:
        """Hand messages up to `events` from now on; called in the turn of the loop that made the connection."""
        if self.gone:  # before anybody was there to hear of it
            code, reason = self._closing or (CloseCode.ABNORMAL, "")
            asyncio.get_running_loop().call_soon(events.on_closed, conn, int(code), reason)
            return
        self._events, self._conn = events, conn
        self._wire.resume_reading()
        if self.read_behind is not None:
            asyncio.get_running_loop().call_soon(self._begin, self.read_behind)
            self.read_behind = None

    def _begin(self, read_behind: Callable[[], None]) -> None:
        if not self._wire.is_closing():
            read_behind()

    # What picows calls

    def on_ws_connected(self, transport: Any) -> None:
        """The upgrade was written."""
        self._websocket = transport

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """A frame came. Nothing of it may outlive this call: its memory is used again."""
        events = self._events
        self._heard = True
        budget = self._budget
        if not budget:
            self._put_off(frame)
            return
        self._budget = TURN if frame.last_in_buffer else budget - 1
        if self._closing is not None or events is None:
            if frame.msg_type == CLOSE:
                self.leave()
            return
        opcode = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._on_reserved(frame)
        elif opcode == TEXT and frame.fin and self._fragments is None:
            data = frame.get_payload_as_bytes()
            if data.isascii() or self._is_utf8(data):
                events.on_message(self._conn, data, binary=False)
        elif opcode == BINARY and frame.fin and self._fragments is None:
            events.on_message(self._conn, frame.get_payload_as_bytes(), binary=True)
        elif opcode == PING:
            self._answer_ping(frame.get_payload_as_bytes())
        elif opcode == CLOSE:
            self._answer_close(transport)
        elif opcode != PONG:
            self._on_fragment(frame)

    def _on_reserved(self, frame: Any) -> None:
        self._fail(CloseCode.PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")

    def _put_off(self, frame: Any) -> None:
        """Others want the loop, too: a single read can hold many thousands of frames."""
        if self._later is None:
            self._later = deque()
            self._balance_wire()
            asyncio.get_running_loop().call_soon(self._go_on)
        kept = KeptFrame(frame)
        self._later.append(kept)
        self._later_bytes += kept.weight
        if frame.last_in_buffer:
            self.hold()

    def _go_on(self) -> None:
        """Handle what was put off, as long as reading is not paused."""
        later = self._later
        if later is None or self._paused:
            return
        self._budget = TURN
        while later and self._budget:
            kept = later.popleft()
            self._later_bytes -= kept.weight
            self.on_ws_frame(self._websocket, kept)
        if later:
            self._budget = 0  # what comes now comes behind them
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._budget = TURN
            self._later = None
            self._balance_wire()
            self._say_goodbye()  # if there is one: it came behind all of them
        self.hold()

    def _balance_wire(self) -> None:
        stop = self._paused or self._later is not None or self._broken
        if stop is not self._stopped and not self._wire.is_closing():
            self._stopped = stop
            if stop:
                self._wire.pause_reading()
            else:
                self._wire.resume_reading()

    def _on_fragment(self, frame: Any, *, compressed: bool = False) -> None:
        fragments = self._fragments
        if frame.msg_type == CONTINUATION:
            if fragments is None:
                self._fail(CloseCode.PROTOCOL_ERROR, "a continuation frame continues nothing")
                return
        elif fragments is not None:
            self._fail(CloseCode.PROTOCOL_ERROR, "a new message began within a fragmented one")
            return
        else:
            fragments = self._fragments = Fragments(int(frame.msg_type), compressed=compressed)
        if not fragments.add(frame.get_payload_as_bytes()):
            self._fail(CloseCode.NOT_UTF8, "a text message is not UTF-8")
        elif fragments.exceed(self.max_size, self.max_fragments):
            self._fail(CloseCode.TOO_BIG, "the message is too big")
        else:
            if frame.fin:
                self._fragments = None
                self._finish(fragments)
            self.hold()

    def hold(self) -> None:
        """Tell of what is held, which has changed."""
        held = self._later_bytes + (0 if self.reader is None else self.reader.buffer)
        if self._fragments is not None:
            held += self._fragments.weight
        if held != self.held and self._events is not None:
            self.held = held
            self._events.on_held(self._conn)

    def _finish(self, whole: Fragments) -> None:
        data = whole.join()
        if self._events is not None and (whole.binary or data.isascii() or self._is_utf8(data)):
            self._events.on_message(self._conn, data, binary=whole.binary)

    def _is_utf8(self, data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.NOT_UTF8, "a text message is not UTF-8")
            return False
        return True

    def _answer_ping(self, payload: bytes) -> None:
        # Of pings that cannot be answered yet, the latest stands for all (RFC 6455 section 5.5.3).
        if self._write_paused:
            self._pong = payload
        else:
            self._wire.write(frame_header(PONG, len(payload)) + payload)

    def on_goodbye(self) -> None:
        """picows would say goodbye: it met a broken frame, or an exception of ours.

        It reads a frame ahead. What it read before comes now, and may be a close that is to be answered as such; so
        it is said a turn later, and by us. What was put off comes before it, for as long as we wait for a peer.
        """
        asyncio.get_running_loop().call_soon(self._say_goodbye)
        if not self._said:
            self._broken = True
            self._balance_wire()
            self._set_timer(self._drop_later)

    def _drop_later(self) -> None:
        self._drop()
        self.hold()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._later is None and not self.gone and self._websocket.is_close_frame_sent:
            sent = self._websocket.close_handshake.sent
            self._fail(int(sent.code), sent.reason or "")

    def _fail(self, code: int, reason: str) -> None:
        """The peer broke the protocol (RFC 6455 section 7.1.7)."""
        self._fragments = None
        self.hold()
        if self._closing is None:
            self._close_behind_answers(code, reason, close_body(code, reason))

    def on_ws_disconnected(self, transport: Any) -> None:
        """The wire is gone."""
        if self._close_timer is not None:
            self._close_timer.cancel()
        code, reason = self._closing = self._closing or (CloseCode.ABNORMAL, "")
        self._line = None
        self.gone = True
        self._websocket = None  # which leads back to here
        self._on_gone(self)
        events, self._events = self._events, None
        self._drop()
        self.reader = None
        self.held = 0
        self._wire.set_protocol(_NOBODY)  # TLS keeps the reader, and its buffer, until garbage is collected
        conn, self._conn = self._conn, None
        if events is not None:
            events.on_closed(conn, int(code), reason)

    def _await_close(self) -> None:
        self._broken = False
        self.resume_reading()

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._write_paused = True
        self._line = None

    def resume_writing(self) -> None:
        """The wire takes more."""
        self._write_paused = False
        self._line = None if self._said else self._way()
        pong, self._pong = self._pong, None
        if pong is not None and not self._said:
            self._answer_ping(pong)
        if self._events is not None:
            self._events.on_writable(self._conn)

    # The downward half

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        """See `Transport`."""
        length = len(message)
        if length < 126:
            return (SHORT_BINARY if binary else SHORT_TEXT)[length] + message
        return frame_header(BINARY if binary else TEXT, length) + message

    def _way(self) -> Callable[[bytes], object]:
        """What `line` is, while there is one."""
        return self._wire.write

    @property
    def line(self) -> Callable[[bytes], object] | None:
        """See `Transport`."""
        return self._line

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`."""
        if not self._said:
            self._wire.write(frames[0] if len(frames) == 1 else b"".join(frames))
        return not self._write_paused

    def pause_reading(self) -> None:
        """See `Transport`."""
        self._paused = True
        self._balance_wire()

    def resume_reading(self) -> None:
        """See `Transport`."""
        if self._paused and self._later is not None:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._heard = self._heard or self._paused
        self._paused = False
        self._balance_wire()

    def close(self, code: int, reason: str) -> None:
        """See `Transport`."""
        if self._fragments is not None:
            self._fragments = None
            asyncio.get_running_loop().call_soon(self.hold)
        super().close(code, reason)

    def trim(self) -> None:
        """See `Transport`."""
        if self._closing is not None or self._later is not None or self._broken:
            return
        if self.reader is not None and self.reader.buffer:
            self.held -= self.reader.buffer
            self.reader = self.reader.renew()
            self.held += self.reader.buffer

    def fail(self, code: int, reason: str) -> None:
        """See `Transport`."""
        self._drop()
        self.held = 0
        self.close(code, reason)
        if self._write_paused:
            self._wire.abort()  # it would be held until the peer reads on
        else:
            self._wire.close()
            loop = asyncio.get_running_loop()
            loop.call_soon(
                loop.call_soon, self._wire.abort
            )  # or until it reads the rest, or ends TLS as well

    def _drop(self) -> None:
        self._fragments = self._later = None
        self._later_bytes = 0

    def shutdown(self) -> None:
        """The server stops: uvicorn calls this for each of its connections."""
        if self._events is not None:
            self._events.on_shutdown(self._conn)
        else:
            self.close(CloseCode.RESTART, "")

    def beat(self) -> None:
        """Once per heartbeat: ping the peer."""
        if self._closing is not None:
            return
        self._silent = 0 if self._heard or self._paused else self._silent + 1
        self._heard = False
        if not self._write_paused:
            self._wire.write(PING_FRAME)

    def look(self, silent: int) -> None:
        """Give the peer up if nothing was heard for so many heartbeats before the last one, nor since.

        While we do not read, its silence says nothing.
        """
        if self._closing is None and not self._heard and not self._paused and self._silent >= silent:
            self.close(CloseCode.TIMED_OUT, "no answer to pings")
