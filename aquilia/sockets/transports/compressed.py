"""Connections of the native transport that agreed on permessage-deflate (RFC 7692).

Whoever did not agree has nothing of this in its way: what is shared with the others is in `frames.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aquilia.sockets.deflate import Agreement, InflateError
from aquilia.sockets.faults import CloseCode
from aquilia.sockets.metrics.figures import Deflated
from aquilia.sockets.transports.fragments import Fragments
from aquilia.sockets.transports.frames import NativeTransport
from aquilia.sockets.transports.framing import BINARY, TEXT, frame_header

__all__ = ["CompressedTransport", "ContextTransport", "compressed"]

logger = logging.getLogger("aquilia.sockets.native")

RSV1 = 0x40
CHARGE = 4096
"""Inflated bytes that count like one more frame in what a connection may do in one turn of the loop."""

_UNSEEN = {"received": Deflated(), "sent": Deflated()}
"""What is counted where nobody asks."""


def compressed(
    wire: asyncio.Transport,
    max_size: int,
    on_gone: Callable[[NativeTransport], None],
    agreement: Agreement,
    counted: Mapping[str, Deflated] | None = None,
) -> CompressedTransport:
    """The transport of a connection that agreed on this; `counted` is what it has received and sent."""
    kind = ContextTransport if agreement.server_context else CompressedTransport
    return kind(wire, max_size, on_gone, agreement, counted or _UNSEEN)


class CompressedTransport(NativeTransport):
    """Its messages stand alone: those that agreed on the same share their frames."""

    __slots__ = (
        "_deflater",
        "_inflater",
        "_limit",
        "_min_size",
        "_received",
        "_sent",
        "kind",
    )

    def __init__(
        self,
        wire: asyncio.Transport,
        max_size: int,
        on_gone: Callable[[NativeTransport], None],
        agreement: Agreement,
        counted: Mapping[str, Deflated],
    ) -> None:
        # What does not become smaller becomes larger, by 5 bytes for each block of 507 or more.
        super().__init__(wire, max_size + max_size // 64 + 64, on_gone)
        self._limit = max_size
        self._min_size = agreement.compression.min_size
        self._deflater = agreement.deflater()
        self._inflater = agreement.inflater()
        self._received, self._sent = counted["received"], counted["sent"]
        self.kind = agreement.kind

    # What picows calls

    def _on_reserved(self, frame: Any) -> None:
        opcode = frame.msg_type
        if frame.rsv2 or frame.rsv3 or opcode not in (TEXT, BINARY):
            self._fail(CloseCode.PROTOCOL_ERROR, "a reserved bit is set where it has no meaning")
        elif frame.fin and self._fragments is None:
            self._inflate(frame.get_payload_as_bytes(), binary=opcode == BINARY)
        else:
            self._on_fragment(frame, compressed=True)

    def _finish(self, whole: Fragments) -> None:
        if whole.compressed:
            self._inflate(whole.join(), binary=whole.binary)
        else:
            super()._finish(whole)

    def _inflate(self, data: bytes, *, binary: bool) -> None:
        try:
            message = self._inflater.inflate(data, self._limit)
        except InflateError as error:
            logger.debug("a compressed message of %d bytes is refused: %s", len(data), error)
            self._fail(error.code, error.reason)
            return
        self._received.add(len(message), len(data))
        if self._events is not None and (binary or message.isascii() or self._is_utf8(message)):
            self._events.on_message(self._conn, message, binary=binary)
        # A read holds few bytes, and what they inflate to may be many: what is behind waits as it came.
        self._budget = 0 if self._paused else max(0, self._budget - len(message) // CHARGE)

    # The downward half

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        """See `Transport`."""
        if len(message) >= self._min_size:
            packed = self._deflater.deflate(message)
            if len(packed) < len(message):
                self._sent.add(len(message), len(packed))
                return frame_header(RSV1 | (BINARY if binary else TEXT), len(packed)) + packed
        return super().frame(message, binary=binary)


class ContextTransport(CompressedTransport):
    """Its messages refer to those before: each is compressed when it is written, for only then its place is known.

    What waits is as it is on a wire without compression, and is shared with those.
    """

    __slots__ = ()

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        """See `Transport`."""
        return NativeTransport.frame(self, message, binary=binary)

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`."""
        return super().write([self._packed(frame) for frame in frames])

    def _way(self) -> Callable[[bytes], object]:
        return self._write_one

    def _write_one(self, frame: bytes) -> None:
        self._wire.write(self._packed(frame))

    def _packed(self, frame: bytes) -> bytes:
        size = frame[1]
        start = 2 if size < 126 else 4 if size == 126 else 10
        if len(frame) - start < self._min_size:
            return frame
        packed = self._deflater.deflate(frame[start:])
        self._sent.add(len(frame) - start, len(packed))
        return frame_header(RSV1 | (frame[0] & 0x0F), len(packed)) + packed
