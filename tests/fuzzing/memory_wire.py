"""The native transport on a wire in memory: bytes in, messages and bytes out."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from typing import Any

from aquilia.sockets.deflate import Agreement
from aquilia.sockets.transports.frames import NativeTransport
from aquilia.sockets.transports.upgrade import upgrade

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MAX_SIZE = 1000


@functools.cache
def _socket() -> socket.socket:
    """One for all: only its options are touched."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


class Errors(logging.Handler):
    """Exceptions of ours, which picows logs and answers with a close."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.addFilter(lambda record: bool(record.exc_info))
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


ERRORS = Errors()
LOGGER = logging.getLogger("aquilia.sockets.native")


class MemoryWire(asyncio.Transport):
    """What a client is sent, and whether reading stands still."""

    def __init__(self) -> None:
        super().__init__({"socket": _socket()})
        self.written = b""
        self.closing = False
        self.reading = True
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 1  # else picows would write to the socket itself

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    abort = close


class Visit:
    """One connection: what it handed up, and how it ended. Implements `TransportEvents`."""

    def __init__(self, max_size: int = MAX_SIZE, agreement: Agreement | None = None) -> None:
        self.messages: list[tuple[bytes, bool]] = []
        self.ends: list[tuple[int, str]] = []
        self.wire = MemoryWire()
        self.gone = 0
        self.errors = ERRORS.seen
        self.errors.clear()
        self._level = LOGGER.level
        LOGGER.addHandler(ERRORS)
        LOGGER.setLevel(logging.DEBUG)
        self.transport: NativeTransport = upgrade(
            self.wire,
            KEY,
            [],
            max_size=max_size,
            max_fragments=None,
            behind=b"",
            agreement=agreement,
            on_gone=self._count,
        )
        self.transport.start(self, self)
        self.wire.written = b""

    def _count(self, _: NativeTransport) -> None:
        self.gone += 1

    def on_message(self, conn: Any, data: bytes, *, binary: bool) -> None:
        assert not self.ends, "a message came after the end"
        self.messages.append((data, binary))

    def on_writable(self, conn: Any) -> None: ...

    def on_held(self, conn: Any) -> None: ...

    def on_shutdown(self, conn: Any) -> None: ...

    def on_closed(self, conn: Any, code: int, reason: str) -> None:
        self.ends.append((code, reason))

    async def feed(self, data: bytes) -> None:
        """Hand bytes to the transport, as the wire is ready for them, until it has handled what it took."""
        rest = memoryview(data)
        while rest and not self.wire.closing:
            if self.wire.reading:
                buffer = self.wire.protocol.get_buffer(-1)
                taken = min(len(buffer), len(rest))
                buffer[:taken] = rest[:taken]
                self.wire.protocol.buffer_updated(taken)
                rest = rest[taken:]
            await asyncio.sleep(0)
        while not self.wire.reading and not self.wire.closing:
            await asyncio.sleep(0)

    async def lose(self) -> None:
        """The wire is gone."""
        self.wire.protocol.connection_lost(None)
        await asyncio.sleep(0)
        LOGGER.removeHandler(ERRORS)
        LOGGER.setLevel(self._level)

    def sent(self) -> list[tuple[int, bytes]]:
        """Opcodes and payloads of the frames that the client was sent; the bytes must be whole frames."""
        data, frames = self.wire.written, []
        while data:
            assert data[0] & 0xF0 == 0x80, "a frame is final, and has no reserved bit"
            size, start = data[1], 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start], "big")
            assert len(data) >= start + size, "a frame is cut off"
            frames.append((data[0] & 0x0F, data[start : start + size]))
            data = data[start + size :]
        return frames
