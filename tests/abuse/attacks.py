"""What hostile clients do: each attack is one connection, from its opening to its drop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable

from rawsocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, RawSocket, frame, handshake

Address = tuple[str, int]
PATH = "/abused"


async def _opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def half_a_handshake(port: int, chance: random.Random) -> None:
    """Leaves in the midst of the request's head."""
    _, writer = await _opened(port)
    head = handshake(PATH)
    writer.write(head[: chance.randrange(len(head))])
    await asyncio.sleep(chance.random() * 0.1)
    writer.transport.abort()


async def broken_head(port: int, chance: random.Random) -> None:
    """Sends a head that is too large, or none at all."""
    _, writer = await _opened(port)
    writer.write(
        chance.choice([b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, chance.randbytes(500), b"\r\n" * 900])
    )
    with contextlib.suppress(OSError):
        await asyncio.wait_for(writer.drain(), 1)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def _socket(port: int, **headers: str):  # type: ignore[no-untyped-def]
    async with RawSocket.open(f"ws://127.0.0.1:{port}{PATH}", **headers) as raw:
        try:
            yield raw
        finally:
            raw.writer.transport.abort()


async def garbage(port: int, chance: random.Random) -> None:
    """Sends bytes that are no frames."""
    async with _socket(port) as raw:
        raw.writer.write(chance.randbytes(chance.randrange(1, 5000)))
        await asyncio.sleep(0.02)


async def broken_frames(port: int, chance: random.Random) -> None:
    """Sends frames, and stops minding the rules at some place."""
    kinds = [
        frame(3, b"x"), frame(TEXT, b"\xff"), frame(TEXT, b"{}", rsv=7), frame(PING, b"x" * 126),
        frame(CLOSE, b"\x00"), frame(CONTINUATION, b"x"), frame(TEXT, b"x" * 10_001), frame(BINARY, b"x"),
        frame(TEXT, b"x" * 9000, final=False) + frame(CONTINUATION, b"x" * 9000, final=False),
        frame(TEXT, b"", final=False) + frame(CONTINUATION, b"", final=False) * 5000,
        frame(TEXT, b"x" * 9000)[:100],
    ]  # fmt: skip
    async with _socket(port) as raw:
        raw.send(frame(TEXT, b'{"event":"echo","payload":1}') * chance.randrange(3), chance.choice(kinds))
        await asyncio.sleep(chance.random() * 0.05)


async def never_reads(port: int, chance: random.Random) -> None:
    """Asks for more than it ever reads."""
    async with _socket(port) as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.send(frame(TEXT, b'{"event":"flood"}') * 20)
        await asyncio.sleep(0.1)


async def pings(port: int, chance: random.Random) -> None:
    """Floods with pings."""
    async with _socket(port) as raw:
        raw.send(frame(PING, b"x" * 125) * 2000)
        await asyncio.sleep(0.02)


async def joins(port: int, chance: random.Random) -> None:
    """Enters and leaves rooms as fast as it may, and vanishes from some."""
    async with _socket(port) as raw:
        for _ in range(chance.randrange(1, 60)):
            event = chance.choice(["enter", "enter", "leave"])
            raw.send(
                frame(TEXT, json.dumps({"event": event, "payload": f"r{chance.randrange(10_000)}"}).encode())
            )
        await asyncio.sleep(0.02)


async def wrong_resume(port: int, chance: random.Random) -> None:
    """Comes back with tokens that are none, or says something else in the place of `hello`."""
    async with _socket(port, Sec_WebSocket_Protocol="aquilia.v1.json") as raw:
        resume = {"token": chance.randbytes(20).hex(), "rooms": {}}
        hello = {"type": "control", "event": "hello", "payload": {"resume": resume}}
        raw.send(frame(TEXT, chance.choice([json.dumps(hello).encode(), b"{", b"[]"])))
        await asyncio.sleep(0.02)


Attack = Callable[[int, random.Random], Awaitable[None]]
ATTACKS: list[Attack] = [
    half_a_handshake, broken_head, garbage, broken_frames, never_reads, pings, joins, wrong_resume
]  # fmt: skip
