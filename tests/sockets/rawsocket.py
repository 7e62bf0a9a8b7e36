"""A WebSocket client that does as it is told: for frames that no proper client would send."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from typing import NamedTuple, Self

TIMEOUT = 10.0
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


class Frame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        return struct.unpack("!H", self.payload[:2])[0]


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    first = (0x80 if final else 0) | rsv << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = bytes((first, mask_bit | len(payload)))
    elif len(payload) < 65_536:
        head = bytes((first, mask_bit | 126)) + struct.pack("!H", len(payload))
    else:
        head = bytes((first, mask_bit | 127)) + struct.pack("!Q", len(payload))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    hidden = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
    return head + mask + hidden


def handshake(path: str, **headers: str) -> bytes:
    fields = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


class RawSocket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, *, behind: bytes = b"", **headers: str) -> AsyncIterator[Self]:
        """Connect and send a handshake, with bytes right behind its head; read the head of the answer."""
        host, _, path = url.removeprefix("ws://").partition("/")
        name, _, port = host.partition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        raw = cls(reader, writer)
        try:
            writer.write(handshake("/" + path, **headers) + behind)
            async with asyncio.timeout(TIMEOUT):
                raw.head = await reader.readuntil(b"\r\n\r\n")
            yield raw
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def read(self) -> Frame:
        async with asyncio.timeout(TIMEOUT):
            first, second = await self.reader.readexactly(2)
            length = second & 0x7F
            if length == 126:
                length = struct.unpack("!H", await self.reader.readexactly(2))[0]
            elif length == 127:
                length = struct.unpack("!Q", await self.reader.readexactly(8))[0]
            assert first & 0x80, "the server never fragments"
            return Frame(first & 0x0F, await self.reader.readexactly(length))

    async def closed(self) -> int:
        """The code of the close frame; what comes before it is dropped. The wire must end after it."""
        while (found := await self.read()).opcode != CLOSE:
            pass
        self.send(frame(CLOSE, found.payload[:2]))
        async with asyncio.timeout(TIMEOUT):
            assert await self.reader.read() == b""
        return found.close_code

    async def ended(self) -> None:
        """The wire ends, whatever still comes."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65_536):
                    pass
