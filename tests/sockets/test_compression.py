"""permessage-deflate (RFC 7692) on raw sockets and with a real client, for the native transport."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import zlib
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
from rawsocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, frame
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from wire import PROFILES, Client, serving

from aquilia.client import Client as OurClient
from aquilia.sockets import (
    AckEvent,
    AquilaSockets,
    Compression,
    Connection,
    Event,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.transports import frames as frames_module
from aquilia.sockets.transports.http import HTTPProtocol
from aquilia.sockets.transports.native import NativeProtocol

FLUSHED = b"\x00\x00\xff\xff"
DEFLATE = "permessage-deflate"
LONG = "to and fro " * 100
HANDLED: list[Any] = []


class Raw(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> None:
        await conn.send_event("echo", payload)

    @AckEvent("answer")
    async def answer(self, conn: Connection, payload: Any) -> Any:
        return payload

    @AckEvent("written")
    async def written(self, conn: Connection) -> int:
        return conn.bytes_sent

    @AckEvent("offered")
    async def offered(self, conn: Connection) -> str:
        return conn.headers["sec-websocket-extensions"]

    @Event("note")
    async def note(self, conn: Connection, payload: Any) -> None:
        HANDLED.append(payload)

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "all"

    @Event("tell")
    async def tell(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("all", "told", payload)


def served(compression: Any, **settings: Any) -> Any:
    HANDLED.clear()
    controller = Socket("/raw")(type("AnyRaw", (Raw,), {}))
    app = AquilaSockets.from_controllers([controller], compression=compression, **settings)
    return serving(app, ws=NativeProtocol, http=HTTPProtocol)


@contextlib.asynccontextmanager
async def opened(
    compression: Any = True, *, offer: str = DEFLATE, **settings: Any
) -> AsyncIterator[RawSocket]:
    async with (
        served(compression, **settings) as base,
        RawSocket.open(f"{base}/raw", Sec_WebSocket_Extensions=offer) as raw,
    ):
        assert raw.status == 101
        yield raw


def agreed_on(raw: RawSocket) -> str | None:
    lines = [line.decode() for line in raw.head.split(b"\r\n")]
    found = [line for line in lines if line.lower().startswith("sec-websocket-extensions:")]
    assert len(found) <= 1
    return found[0].partition(":")[2].strip() if found else None


def message(payload: Any, event: str = "echo") -> bytes:
    return json.dumps({"event": event, "payload": payload}).encode()


def deflated(data: bytes, *, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return (machine.compress(data) + machine.flush(flush)).removesuffix(FLUSHED)


def packed(data: bytes, opcode: int = TEXT) -> bytes:
    return frame(opcode, deflated(data), rsv=4)


async def read(raw: RawSocket, reader: Any = None) -> tuple[bool, Any]:
    """The next message: whether it was compressed, and its payload."""
    async with asyncio.timeout(10):
        first, size = await raw.reader.readexactly(2)
        if size == 126:
            size = struct.unpack("!H", await raw.reader.readexactly(2))[0]
        data = await raw.reader.readexactly(size)
    assert first & 0xBF == 0x80 | TEXT, (first, data)
    if first & 0x40:
        data = (reader or zlib.decompressobj(-15)).decompress(data + FLUSHED)
    return bool(first & 0x40), json.loads(data)["payload"]


# What is agreed on


@pytest.mark.parametrize(
    ("compression", "offer", "answer"),
    [
        (True, DEFLATE, f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"),
        (Compression(mode="context"), DEFLATE, DEFLATE),
        (True, f"{DEFLATE}; server_max_window_bits=8", None),
        (True, f"{DEFLATE}; nonsense", None),
        (True, "", None),
        (False, DEFLATE, None),
    ],
)
async def test_the_answer_says_what_was_agreed_on(compression: Any, offer: str, answer: str | None) -> None:
    async with opened(compression, offer=offer) as raw:
        assert agreed_on(raw) == answer
        raw.send(frame(TEXT, message(LONG)))
        assert await read(raw) == (answer is not None, LONG)


COMBINATIONS = [
    {
        "server_no_context_takeover": server,
        "client_no_context_takeover": client,
        "server_max_window_bits": server_bits,
        "client_max_window_bits": client_bits,
    }
    for server, client, server_bits, client_bits in product(
        (False, True), (False, True), (None, 9, 12, 15), (None, True, 9, 15)
    )
]


@pytest.mark.parametrize(
    "compression",
    [
        Compression(min_size=0),
        Compression(min_size=0, window_bits=10, memory_level=1, level=9),
        Compression("context", min_size=0),
        Compression("context", min_size=0, window_bits=9),
    ],
    ids=["shared", "shared and narrow", "context", "context and narrow"],
)
async def test_a_client_may_want_any_parameters(compression: Compression) -> None:
    async with served(compression) as base:
        for wanted in COMBINATIONS:
            factory = ClientPerMessageDeflateFactory(**wanted)
            async with Client.connect(f"{base}/raw", compression=None, extensions=[factory]) as client:
                (extension,) = client.socket.protocol.extensions
                assert isinstance(extension, PerMessageDeflate)
                for payload in ("x", LONG, "", "ä" * 5000, LONG, "y"):
                    await client.send("echo", payload)
                    assert (await client.expect("echo"))["payload"] == payload


@pytest.mark.parametrize("mode", ["shared", "context"])
@pytest.mark.parametrize("profile", PROFILES)
async def test_every_profile_passes_compressed(mode: Any, profile: str) -> None:
    async with (
        served(Compression(mode, min_size=10)) as base,
        Client.connect(f"{base}/raw", profile) as client,
    ):
        await client.request("enter")
        for payload in (LONG, "short", [LONG, {"ä": 1}], LONG):
            await client.send("echo", payload)
            assert (await client.expect("echo"))["payload"] == payload
            await client.send("tell", payload)
            assert (await client.expect("told"))["payload"] == payload


@pytest.mark.parametrize("mode", ["shared", "context"])
async def test_the_client_of_this_house_negotiates(mode: Any) -> None:
    async with (
        served(Compression(mode)) as base,
        OurClient(f"{base}/raw") as client,
    ):
        assert "permessage-deflate" in await client.call("offered", timeout=10)
        for _ in range(3):
            assert await client.call("answer", LONG, timeout=10) == LONG
        if mode == "shared":  # else what is counted is what waits, which has yet to be compressed
            assert await client.call("written", timeout=10) < len(LONG)


# What is written


async def test_a_short_message_goes_as_it_is() -> None:
    async with opened(Compression(min_size=100)) as raw:
        for text, compressed in (("x", False), ("x" * 40, False), ("x" * 100, True)):
            raw.send(frame(TEXT, message(text)))
            assert await read(raw) == (compressed, text)


async def test_in_shared_mode_each_message_stands_alone() -> None:
    async with opened() as raw:
        for _ in range(3):
            raw.send(packed(message(LONG)))
            assert await read(raw) == (True, LONG)


async def test_in_context_mode_messages_are_one_stream_both_ways() -> None:
    async with opened(Compression("context")) as raw:
        writer, reader = zlib.compressobj(wbits=-15), zlib.decompressobj(-15)
        for text in (LONG, "short", LONG + "!", LONG):
            data = message(text)
            data = (writer.compress(data) + writer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(FLUSHED)
            raw.send(frame(TEXT, data, rsv=4))
            assert await read(raw, reader) == (text != "short", text)


async def test_a_context_survives_that_the_wire_is_full_and_events_are_dropped() -> None:
    dropping = {"strategy": "drop_oldest", "buffer_size": 5}
    controller = Socket("/raw", compression=Compression("context"), backpressure=dropping)(
        type("AnyRaw", (Raw,), {})
    )
    app = AquilaSockets.from_controllers([controller])
    numbers = [{"n": n, "text": LONG * 5 + str(n)} for n in range(400)]
    async with (
        serving(app, ws=NativeProtocol, send_buffer=4096) as base,
        Client.connect(f"{base}/raw", max_queue=1) as slow,
        Client.connect(f"{base}/raw") as quick,
    ):
        assert slow.socket.protocol.extensions
        await slow.request("enter")
        slow.socket.transport.pause_reading()
        for number in numbers:
            await quick.send("tell", number)
        await quick.request("tell", "the end")
        slow.socket.transport.resume_reading()
        got = []
        while (told := (await slow.receive()))["payload"] != "the end":
            if told["event"] == "told":
                got.append(told["payload"])
        assert got == [number for number in numbers if number in got]


async def test_members_with_and_without_compression_share_a_room() -> None:
    offers = [
        "",
        DEFLATE,
        f"{DEFLATE}; client_max_window_bits",
        f"{DEFLATE}; server_max_window_bits=9",
        f"{DEFLATE}; server_max_window_bits=12; client_max_window_bits=10",
    ]
    for mode in ("shared", "context"):
        async with served(Compression(mode)) as base, contextlib.AsyncExitStack() as stack:
            raws = [
                await stack.enter_async_context(RawSocket.open(f"{base}/raw", Sec_WebSocket_Extensions=offer))
                for offer in offers
            ]
            readers = [
                zlib.decompressobj(-bits) if mode == "context" else None for bits in (15, 15, 15, 9, 12)
            ]
            for raw in raws:
                raw.send(frame(TEXT, json.dumps({"event": "enter", "id": "1", "ack": True}).encode()))
                await raw.read()
            for text in (LONG, "short", LONG):
                raws[0].send(frame(TEXT, message(text, "tell")))
                got = [await read(raw, reader) for raw, reader in zip(raws, readers, strict=True)]
                assert got == [(bool(offer) and text is LONG, text) for offer in offers]


async def test_a_publication_is_compressed_once_for_all_who_agreed_on_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    compressobj = zlib.compressobj

    def counting(*args: Any, **options: Any) -> Any:
        if args:  # those of the clients have options only
            made.append(args)
        return compressobj(*args, **options)

    async with served(True) as base, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(f"{base}/raw")) for _ in range(20)]
        for client in clients:
            await client.request("enter")
        monkeypatch.setattr("aquilia.sockets.deflate.zlib.compressobj", counting)
        await clients[0].send("tell", LONG)
        for client in clients:
            assert (await client.expect("told"))["payload"] == LONG
        assert len(made) == 1


# What is read


@pytest.mark.parametrize("mode", ["shared", "context"])
async def test_fragments_are_put_together_and_then_inflated(mode: Any) -> None:
    async with opened(Compression(mode)) as raw:
        data = deflated(message(LONG + "ä"))
        raw.send(frame(TEXT, data[:5], final=False, rsv=4), frame(CONTINUATION, data[5:9], final=False))
        raw.send(frame(PING, b"now"))
        assert await raw.read() == (PONG, b"now")
        raw.send(frame(CONTINUATION, b"", final=False), frame(CONTINUATION, data[9:]))
        assert (await read(raw))[1] == LONG + "ä"
        # What is not compressed passes as ever, in fragments as well.
        plain = message("plain")
        raw.send(frame(TEXT, plain[:5], final=False), frame(CONTINUATION, plain[5:]), frame(TEXT, plain))
        assert [await read(raw), await read(raw)] == [(False, "plain")] * 2


@pytest.mark.parametrize("mode", ["shared", "context"])
async def test_what_the_standard_allows_is_read(mode: Any) -> None:
    async with opened(Compression(mode)) as raw:
        data = message("hello")
        final = deflated(data, flush=zlib.Z_FINISH) + b"\0"  # RFC 7692 section 7.2.3.4
        stored = b"\0" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data + b"\0"  # 7.2.3.3
        for written in (final, stored, deflated(data), final):
            raw.send(frame(TEXT, written, rsv=4))
            assert await read(raw) == (False, "hello")
        raw.send(frame(TEXT, b"\0", rsv=4))  # 7.2.3.6: an empty message, which is no envelope
        assert (await read(raw))[1]["code"] == "WS_MESSAGE_INVALID"


async def test_a_ratio_is_asked_for_only_where_much_comes_of_it() -> None:
    async with opened(max_message_size=1 << 22) as raw:
        raw.send(packed(message("x" * 60_000, "note")), packed(message(1)))
        assert await read(raw) == (False, 1)
        raw.send(packed(message("x" * 100_000)))
        assert await raw.closed() == 1009


async def test_a_message_of_just_the_bound_passes_also_where_it_gets_no_smaller() -> None:
    async with opened(max_message_size=2000) as raw:
        text = "".join(chr(0x100 + (n * 7919) % 0x6FF) for n in range(980))
        data = json.dumps({"event": "echo", "payload": text}, ensure_ascii=False).encode()
        data += b" " * (2000 - len(data))
        assert len(data) == 2000
        stored = b"\0" + struct.pack("<HH", 2000, 2000 ^ 0xFFFF) + data + b"\0"
        raw.send(frame(TEXT, stored, rsv=4))
        assert (await read(raw))[1] == text
        raw.send(frame(TEXT, data))
        assert (await read(raw))[1] == text


STORED = b"\0" + struct.pack("<HH", 2001, 2001 ^ 0xFFFF) + b"x" * 2001 + b"\0"
BOMB = deflated(b"x" * (1 << 20))


@pytest.mark.parametrize("mode", ["shared", "context"])
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(PING, b"x", rsv=4)], 1002),
        ([frame(PONG, b"x", rsv=4)], 1002),
        ([frame(CONTINUATION, b"x", rsv=4)], 1002),
        ([frame(TEXT, b"x", final=False, rsv=4), frame(CONTINUATION, b"x", rsv=4)], 1002),
        ([frame(TEXT, b"x", final=False), frame(CONTINUATION, b"x", rsv=4)], 1002),
        ([frame(TEXT, b"x", final=False, rsv=4), frame(TEXT, b"x", rsv=4)], 1002),
        ([frame(TEXT, b"x", final=False, rsv=4), frame(TEXT, b"x", final=False, rsv=4)], 1002),
        ([frame(TEXT, b"x", rsv=6)], 1002),
        ([frame(TEXT, b"x", rsv=2)], 1002),
        ([frame(TEXT, b"x", rsv=5)], 1002),
        ([frame(TEXT, b"\xff" * 20, rsv=4)], 1007),
        ([frame(TEXT, b"no deflate at all", rsv=4)], 1007),
        ([packed(b'"\xff"')], 1007),
        ([packed(b'"\xed\xa0\x80"')], 1007),
        ([packed(b"x" * 2001)], 1009),
        ([frame(TEXT, STORED, rsv=4)], 1009),
        ([frame(TEXT, BOMB, rsv=4)], 1009),
        ([frame(TEXT, BOMB[:500], final=False, rsv=4), frame(CONTINUATION, BOMB[500:])], 1009),
        ([frame(BINARY, BOMB, rsv=4)], 1009),
        ([frame(TEXT, b"x" * 2200, rsv=4)], 1009),
        ([frame(TEXT, b"x" * 1500, final=False, rsv=4), frame(CONTINUATION, b"x" * 700)], 1009),
        ([frame(TEXT, b"x" * 2001)], 1009),
        ([frame(TEXT, b"x" * 2100)], 1009),
        ([frame(TEXT, b"x" * 1500, final=False), frame(CONTINUATION, b"x" * 501)], 1009),
        ([packed(b"{}", BINARY)], 1003),
    ],
)
async def test_a_broken_frame_ends_the_connection_with_its_code(
    mode: Any, frames: list[bytes], code: int
) -> None:
    async with opened(Compression(mode), max_message_size=2000) as raw:
        raw.send(*frames)
        assert await raw.closed() == code


async def test_a_close_is_never_compressed() -> None:
    async with opened() as raw:
        raw.send(frame(CLOSE, deflated(b"\x03\xe8"), rsv=4))
        answer = await raw.read()
        assert (answer.opcode, answer.close_code) == (CLOSE, 1002)


@pytest.mark.parametrize("mode", ["shared", "context"])
async def test_a_message_that_was_cut_off_is_refused(mode: Any) -> None:
    whole = deflated(message(LONG * 3))
    async with served(Compression(mode)) as base:
        for cut in range(1, len(whole) - 1, 7):
            async with RawSocket.open(f"{base}/raw", Sec_WebSocket_Extensions=DEFLATE) as raw:
                raw.send(frame(TEXT, whole[:cut], rsv=4))
                assert await raw.closed() == 1007


async def test_a_context_that_we_did_not_agree_on_is_refused() -> None:
    async with opened() as raw:
        writer = zlib.compressobj(wbits=-15)
        for _ in range(2):
            data = writer.compress(message(LONG)) + writer.flush(zlib.Z_SYNC_FLUSH)
            raw.send(frame(TEXT, data.removesuffix(FLUSHED), rsv=4))
        assert await raw.closed() == 1007


async def test_without_an_agreement_the_bit_is_refused() -> None:
    for compression, offer in ((True, ""), (False, DEFLATE)):
        async with opened(compression, offer=offer) as raw:
            raw.send(packed(message(1)))
            assert await raw.closed() == 1002


async def test_what_was_refused_is_told_in_the_log_for_who_debugs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "aquilia.sockets.native"):
        async with opened(max_message_size=2000) as raw:
            raw.send(frame(TEXT, BOMB, rsv=4))
            assert await raw.closed() == 1009
    (told,) = [record for record in caplog.records if "compressed message" in record.message]
    assert told.levelno == logging.DEBUG
    assert f"of {len(BOMB)} bytes is refused: the message is too big" in told.message


async def test_many_bombs_in_one_read_wait_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one read brings may inflate to a thousand times of it: no more of it than a few is there at a time."""
    inflated: list[int] = []
    behind: list[int] = []
    take = frames_module.NativeTransport._go_on

    def counting(transport: Any) -> None:
        before = len(inflated)
        take(transport)
        behind.append(len(inflated) - before)

    from aquilia.sockets.deflate import Inflater

    inflate = Inflater.inflate

    def noting(inflater: Inflater, data: bytes, max_size: int) -> bytes:
        result = inflate(inflater, data, max_size)
        inflated.append(len(result))
        return result

    monkeypatch.setattr(frames_module.NativeTransport, "_go_on", counting)
    monkeypatch.setattr(Inflater, "inflate", noting)
    async with opened() as raw:
        bombs = packed(message("x" * 60_000, "note")) * 300
        raw.send(bombs, packed(message("at last")))
        assert await read(raw) == (False, "at last")
    assert HANDLED == ["x" * 60_000] * 300
    assert len(inflated) == 301
    assert max(behind) <= 6


# Where it is another's


async def test_under_another_server_the_log_says_once_that_it_has_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = AquilaSockets.from_controllers([Socket("/raw")(type("AnyRaw", (Raw,), {}))], compression=True)
    async with serving(app, ws_per_message_deflate=False) as base:
        for _ in range(2):
            async with Client.connect(f"{base}/raw") as client:
                assert not client.socket.protocol.extensions
                await client.send("echo", LONG)
                assert (await client.expect("echo"))["payload"] == LONG
    told = [record.getMessage() for record in caplog.records if "compression" in record.getMessage()]
    assert told == [
        "/raw: compression: has no effect under this server, which compresses, or not, by its own"
    ]
