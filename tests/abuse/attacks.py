"""What hostile clients do: each attack is one connection, from its opening to its drop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import zlib
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from rawsocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, RawSocket, frame, handshake

PATH = "/abused"
COMPRESSED = ["/packed", "/remembering"]
OFFER = "permessage-deflate; client_max_window_bits"
RSV1 = 4


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
async def _socket(port: int, path: str = PATH, **headers: str):  # type: ignore[no-untyped-def]
    async with RawSocket.open(f"ws://127.0.0.1:{port}{path}", **headers) as raw:
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


async def slow_head(port: int, chance: random.Random) -> None:
    """Sends its head byte by byte: for a while, or until it is shown out."""
    reader, writer = await _opened(port)
    pieces = chance.choice([1, 5, 10, 20, 1000])  # the last takes longer than the server waits
    head = handshake(PATH) if pieces < 1000 else b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000
    for at in range(pieces):
        writer.write(head[at : at + 1])
        try:
            await asyncio.wait_for(reader.read(1), 0.02)
        except TimeoutError:
            continue
        except OSError:
            pass
        break  # it is shown out
    writer.transport.abort()


async def half_messages(port: int, chance: random.Random) -> None:
    """Begins messages, goes on with them for a while, and never ends one."""
    rsv, path = chance.choice([(0, PATH), (0, "/packed"), (RSV1, "/packed"), (RSV1, "/remembering")])
    async with _socket(port, path, Sec_WebSocket_Extensions=OFFER) as raw:
        part = frame(CONTINUATION, b"x" * chance.choice([0, 1, 30, 300]), final=False)
        raw.send(frame(TEXT, b"{", final=False, rsv=rsv))
        for _ in range(chance.randrange(6)):
            raw.send(part * 5, frame(PING, b"still here"))
            await asyncio.sleep(chance.random() * 0.05)
        raw.send(part[: chance.randrange(len(part))])
        await asyncio.sleep(chance.random() * 0.05)


async def bombs(port: int, chance: random.Random) -> None:
    """Sends little that inflates to much, in one frame or several; or what cannot be inflated."""
    async with _socket(port, chance.choice(COMPRESSED), Sec_WebSocket_Extensions=OFFER) as raw:
        kinds = [
            BOMB, SMALL_BOMB, LATE_BOMB, SMALL_BOMB[: chance.randrange(1, len(SMALL_BOMB))],
            b"\x03\x00" * 5000, b"\x00" * 300, chance.randbytes(chance.randrange(1, 500)), GOOD,
        ]  # fmt: skip
        for _ in range(chance.randrange(1, 4)):
            packed = chance.choice(kinds)
            at = chance.randrange(len(packed) + 1)
            if chance.random() < 0.5:
                raw.send(frame(TEXT, packed, rsv=RSV1))
            else:
                raw.send(frame(TEXT, packed[:at], final=False, rsv=RSV1), frame(CONTINUATION, packed[at:]))
        await asyncio.sleep(chance.random() * 0.05)


async def never_reads_compressed(port: int, chance: random.Random) -> None:
    """Has the server compress more than it ever reads."""
    async with _socket(port, chance.choice(COMPRESSED), Sec_WebSocket_Extensions=OFFER) as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.send(frame(TEXT, b'{"event":"flood"}') * 5)
        await asyncio.sleep(0.1)


async def bad_offers(port: int, chance: random.Random) -> None:
    """Offers extensions that are malformed, unknown, or very many; and uses them, agreed on or not."""
    offers = [
        "permessage-deflate; server_max_window_bits=8", "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; x=1, permessage-deflate; client_max_window_bits=8", "," * 900, "x-unknown; a=b",
        "permessage-deflate" + "; client_no_context_takeover" * 90, ", ".join([OFFER] * 200), '; = ""',
        "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9; server_no_context_takeover",
    ]  # fmt: skip
    path = chance.choice([PATH, *COMPRESSED])
    async with _socket(port, path, Sec_WebSocket_Extensions=chance.choice(offers)) as raw:
        raw.send(frame(TEXT, GOOD, rsv=chance.choice([RSV1, 7, 0])), frame(TEXT, GOOD, rsv=RSV1))
        await asyncio.sleep(chance.random() * 0.05)


async def spoofed(port: int, chance: random.Random) -> None:
    """Comes from anywhere, as it says itself; or says what nobody can read."""
    address = f"198.51.{chance.randrange(256)}.{chance.randrange(256)}"
    headers = chance.choice([
        {"Forwarded": f"for={address}"}, {"X_Forwarded_For": address}, {"Forwarded": f'for="[2001:db8::{address}]"'},
        {"Forwarded": f"for={address}", "X_Forwarded_For": "203.0.113.1"}, {"Forwarded": 'for="' * 500},
        {"Forwarded": f"for={address};host=else.example;proto=https"}, {"X_Forwarded_For": "127.0.0.1," * 1000},
        {"X_Forwarded_Proto": "gopher"}, {"Forwarded": "\x7f;;,=,"},
    ])  # fmt: skip
    async with _socket(port, **headers) as raw:
        raw.send(frame(TEXT, b'{"event":"echo","payload":1}'))
        await asyncio.sleep(chance.random() * 0.02)


async def tickets(port: int, chance: random.Random) -> None:
    """Asks for tickets with and without a token, uses one twice, another's, none; and leaves some behind."""
    whose = chance.choice(["ann", "bob", "carl", "nobody"])
    namespace = chance.choice(["/closed"] * 5 + ["/abused", "/nowhere", "", 7])
    body = json.dumps({"namespace": namespace}).encode() if chance.random() < 0.9 else chance.randbytes(50)
    reader, writer = await _opened(port)
    head = (
        f"POST /ws/ticket HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {whose}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body[: len(body) - (chance.random() < 0.1)])
    if chance.random() < 0.1:
        writer.transport.abort()
        return
    with contextlib.suppress(TimeoutError):
        answer = await asyncio.wait_for(reader.read(), 0.5)
        ticket = json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}").get("ticket", "made-up")
        uses = [ticket, ticket, "x" * 43, quote(chance.randbytes(9))][chance.randrange(3) :]
        await asyncio.gather(*(_use(port, use, chance) for use in uses))
    writer.transport.abort()


async def _use(port: int, ticket: str, chance: random.Random) -> None:
    headers, query = {}, f"?ticket={ticket}"
    if chance.random() < 0.3:
        headers, query = {"Sec_WebSocket_Protocol": f"aquilia.v1.json, aquilia.ticket.{ticket}"}, ""
    async with _socket(port, "/closed" + query, **headers) as raw:
        hello = {"type": "control", "event": "hello", "payload": {"ticket": ticket}}
        raw.send(frame(TEXT, json.dumps(hello).encode()))
        await asyncio.sleep(0.01)


def _packed(message: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return (packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


BOMB = _packed(b"\x00" * 9_000_000)
SMALL_BOMB = _packed(b"[" * 300_000)
LATE_BOMB = _packed(bytes(random.Random(0).randbytes(3000)) + b" " * 70_000)
GOOD = _packed(b'{"event":"echo","payload":"' + b"x" * 900 + b'"}')

Attack = Callable[[int, random.Random], Awaitable[None]]
ATTACKS: list[Attack] = [
    half_a_handshake, broken_head, garbage, broken_frames, never_reads, pings, joins, wrong_resume,
    slow_head, half_messages, bombs, never_reads_compressed, bad_offers, spoofed, tickets,
]  # fmt: skip
