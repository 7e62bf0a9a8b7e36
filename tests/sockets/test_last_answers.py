"""What a client sent before it broke the protocol, or before its close, is answered; on the native transport."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from loops import on_each_loop
from rawsocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, RawSocket, frame
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from wire import eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    DisconnectReason,
    Event,
    OnDisconnect,
    Socket,
    SocketController,
    outbound,
)
from aquilia.sockets.compat import Flow, FlowRequest
from aquilia.sockets.transports import closing
from aquilia.sockets.transports.native import NativeProtocol

SEEN: list[Any] = []
ENDS: list[DisconnectReason] = []


@Socket("/controller")
class Echo(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> None:
        SEEN.append(payload)
        await conn.send_event("echo", payload)

    @Event("hang")
    async def hang(self, conn: Connection) -> None:
        await asyncio.Event().wait()

    @Event("end")
    async def end(self, conn: Connection) -> None:
        SEEN.append("end")
        await conn.disconnect(4001, "enough")

    @OnDisconnect()
    async def ended(self, conn: Connection, reason: DisconnectReason) -> None:
        ENDS.append(reason)


async def flow(request: FlowRequest) -> None:
    await request.accept()
    async for text in request:
        await request.send_text(str(text))


async def plain(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[str]:
    SEEN.clear()
    ENDS.clear()
    flows = Flow()
    with pytest.warns(DeprecationWarning, match="/flow"):
        flows.ws("/flow")(flow)
    sockets = AquilaSockets.from_controllers(
        [Echo, *flows.controllers], max_message_size=2000, compression=True
    )

    plain_app = Starlette(routes=[WebSocketRoute("/plain", plain)])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (plain_app if scope.get("path") == "/plain" else sockets)(scope, receive, send)

    async with serving(app, ws=NativeProtocol) as base:
        yield base


@pytest.fixture
async def base() -> AsyncIterator[str]:
    async with served() as base:
        yield base


@pytest.fixture
async def raw(base: str) -> AsyncIterator[RawSocket]:
    async with RawSocket.open(f"{base}/controller") as raw:
        yield raw


def event(name: str, payload: Any = None) -> bytes:
    return frame(TEXT, json.dumps({"event": name, "payload": payload}).encode())


async def all_of(raw: RawSocket) -> list[Frame]:
    """What comes up to the end of the wire; the client says no more."""
    found = []
    try:
        while True:
            found.append(await raw.read())
    except asyncio.IncompleteReadError as error:
        assert error.partial == b""
    return found


def payloads(frames: list[Frame]) -> list[Any]:
    return [json.loads(answer.payload)["payload"] for answer in frames]


BROKEN = {
    "an unknown opcode": (frame(11, b"x"), 1002),
    "a reserved bit": (frame(TEXT, b"{}", rsv=2), 1002),
    "no mask": (frame(TEXT, b"{}", masked=False), 1002),
    "nothing to continue": (frame(CONTINUATION, b"x", final=False), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "text that is not UTF-8": (frame(TEXT, b'"\xff"'), 1007),
    "a frame that is too big": (frame(TEXT, b"x" * 5000), 1009),
    "a message that is too big": (frame(TEXT, b"x" * 1500, final=False) + frame(CONTINUATION, b"x" * 900), 1009),
    "its close": (frame(CLOSE, b"\x0f\xa1bye"), 4001),
    "a broken close": (frame(CLOSE, b"\x03\xed"), 1002),
}  # fmt: skip


@pytest.mark.parametrize("path", ["controller", "flow", "plain"])
@pytest.mark.parametrize("what", BROKEN)
async def test_what_came_before_is_answered_and_then_the_close_goes_out(
    base: str, path: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.05)
    broken, code = BROKEN[what]
    if path == "plain" and code == 1009:
        broken = frame(TEXT, b"x" * (1 << 25))[:20]  # there the bound is the server's
    async with RawSocket.open(f"{base}/{path}") as raw:
        raw.send(*(event("echo", n) for n in range(3)), broken)
        *answers, close = await all_of(raw)
        assert payloads(answers) == [0, 1, 2]
        assert (close.opcode, close.close_code) == (CLOSE, code)


@on_each_loop
async def test_it_is_so_on_each_loop() -> None:
    for broken, code in BROKEN.values():
        async with served() as base, RawSocket.open(f"{base}/flow") as raw:
            raw.send(event("echo", 1), event("echo", 2), broken)
            assert payloads([await raw.read(), await raw.read()]) == [1, 2]
            assert (await raw.read()).close_code == code


@pytest.mark.parametrize("what", BROKEN)
async def test_all_that_came_before_is_answered_however_much_it_is(
    raw: RawSocket, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 3600)  # it is not waited for
    broken, code = BROKEN[what]
    raw.send(*(event("echo", n) for n in range(1000)), broken)
    assert payloads([await raw.read() for _ in range(1000)]) == list(range(1000))
    assert (await raw.read()).close_code == code


@pytest.mark.parametrize("what", BROKEN)
async def test_what_comes_behind_is_neither_answered_nor_handled(
    raw: RawSocket, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.05)
    broken, code = BROKEN[what]
    raw.send(event("echo", 1), broken, event("echo", 2), frame(PING, b"?"), frame(CLOSE, b"\x03\xe8"))
    answer, close = await all_of(raw)
    assert payloads([answer]) == [1]
    assert close.close_code == code
    await eventually(lambda: ENDS)
    assert ENDS[0].code == code
    assert SEEN == [1]


async def test_a_ping_before_it_is_answered_too(raw: RawSocket) -> None:
    raw.send(frame(PING, b"!"), event("echo", 1), frame(11, b"x"))
    assert await raw.read() == (PONG, b"!")
    assert payloads([await raw.read()]) == [1]
    assert await raw.closed() == 1002


async def test_a_message_in_fragments_that_is_complete_is_answered(raw: RawSocket) -> None:
    data = json.dumps({"event": "echo", "payload": "parts"}).encode()
    raw.send(frame(TEXT, data[:9], final=False), frame(CONTINUATION, data[9:]))
    raw.send(frame(CONTINUATION, b"x", final=False), event("echo", 2))
    assert payloads([await raw.read()]) == ["parts"]
    assert await raw.closed() == 1002


@pytest.mark.parametrize("what", BROKEN)
async def test_a_handler_that_hangs_holds_up_nothing(raw: RawSocket, what: str) -> None:
    broken, code = BROKEN[what]
    raw.send(event("echo", 1), event("hang"), event("echo", 2), broken)
    assert payloads([await raw.read()]) == [1]
    assert (await raw.read()).close_code == code
    assert SEEN == [1]


async def test_messages_that_wait_behind_one_that_hangs_hold_the_close_for_as_long_as_one_waits_for_a_client(
    raw: RawSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.05)
    raw.send(*(event("echo", n) for n in range(1000)))  # from then on a read takes all that follows
    assert payloads([await raw.read() for _ in range(1000)])[-1] == 999
    raw.send(event("hang"), *(event("echo", n) for n in range(100)), frame(11, b"x"))
    (close,) = await all_of(raw)
    assert close.close_code == 1002
    assert len(SEEN) == 1000


async def test_a_handlers_own_close_that_came_before_is_what_the_client_is_told(raw: RawSocket) -> None:
    raw.send(event("echo", 1), event("end"), frame(11, b"x"))
    assert payloads([await raw.read()]) == [1]
    assert await raw.closed() == 4001


async def test_a_client_that_goes_on_sending_is_not_heard_and_is_cut(
    raw: RawSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.05)
    raw.send(event("echo", 1), frame(TEXT, b"{}", rsv=2))
    assert payloads([await raw.read()]) == [1]
    assert (await raw.read()).close_code == 1002
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while not ENDS:
                raw.send(event("echo", 2))
                await raw.writer.drain()
                await asyncio.sleep(0)
    await raw.ended()
    assert SEEN == [1]


async def test_a_client_that_reads_nothing_is_cut_whatever_it_sends_behind_our_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SEEN.clear()
    ENDS.clear()
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.2)
    monkeypatch.setattr(outbound, "CLOSE_GRACE", 0)
    app = AquilaSockets.from_controllers([Echo], max_message_size=17 * 2**20)
    async with (
        serving(app, ws=NativeProtocol, send_buffer=1 << 16) as base,
        RawSocket.open(f"{base}/controller") as raw,
    ):
        raw.send(event("echo", "x" * 2**24), event("end"))
        await raw.writer.drain()
        await eventually(lambda: SEEN[1:] == ["end"])
        raw.send(frame(11, b"x"))
        await eventually(lambda: ENDS)


async def test_no_pong_comes_behind_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    monkeypatch.setattr(outbound, "CLOSE_GRACE", 0)
    app = AquilaSockets.from_controllers([Echo], max_message_size=17 * 2**20)
    async with (
        serving(app, ws=NativeProtocol, send_buffer=1 << 16) as base,
        RawSocket.open(f"{base}/controller") as raw,
    ):
        raw.send(event("echo", "x" * 2**24))
        await raw.writer.drain()
        await eventually(lambda: SEEN)
        raw.send(frame(PING, b"?"), event("end"))
        await raw.writer.drain()
        await eventually(lambda: SEEN[1:] == ["end"])
        assert (await raw.read()).opcode == TEXT
        assert (await raw.read()).close_code == 4001
        raw.send(frame(CLOSE, b"\x0f\xa1"))
        assert await all_of(raw) == []


async def test_a_compressed_message_before_a_broken_one_is_answered(base: str) -> None:
    async with websockets.connect(f"{base}/controller", proxy=None, compression="deflate") as client:
        text = json.dumps({"event": "echo", "payload": "x" * 500})
        client.transport.pause_reading()
        await client.send(text)
        client.transport.write(frame(BINARY, b"not deflated", rsv=4))
        client.transport.resume_reading()
        assert json.loads(await client.recv())["payload"] == "x" * 500
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1007
