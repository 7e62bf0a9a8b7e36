"""The wire, as the slim clients in `resume.py`, `spool.py` and `compression.py` speak it; and a free port."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

_UPGRADE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def upgrade(subprotocol: str | None = None, extension: str | None = None) -> bytes:
    """The handshake of a client."""
    offer = "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if extension is not None:
        offer += f"Sec-WebSocket-Extensions: {extension}\r\n"
    return f"{_UPGRADE}{offer}\r\n".encode()


def frame(message: dict[str, Any]) -> bytes:
    """A masked text frame; the mask is zero."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) < 126:
        head = bytes((0x81, 0x80 | len(data)))
    elif len(data) < 1 << 16:
        head = struct.pack("!BBH", 0x81, 0xFE, len(data))
    else:
        head = struct.pack("!BBQ", 0x81, 0xFF, len(data))
    return head + b"\0\0\0\0" + data


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Listener(asyncio.Protocol):
    """What reads a server's answer to the handshake, and its messages, of which none is in parts."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Nothing has come yet."""
        self._buffer = bytearray()
        self._upgraded = False

    def refused(self) -> None:
        """The handshake was answered, and not with an upgrade."""
        raise SystemExit("a client was refused")

    def take(self, body: bytearray) -> None:
        """A message has come."""

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        buffer = self._buffer
        buffer += data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if b" 101 " not in buffer[:end]:
                self.refused()
                return
            self._upgraded = True
            del buffer[: end + 4]
        place = 0
        while len(buffer) >= place + 2:
            size, start = buffer[place + 1], place + 2
            if size > 125:
                width = 2 if size == 126 else 8
                if len(buffer) < start + width:
                    break
                size, start = int.from_bytes(buffer[start : start + width], "big"), start + width
            if len(buffer) < start + size:
                break
            if buffer[place] & 15 == 1:
                self.take(buffer[start : start + size])
            place = start + size
        del buffer[:place]
