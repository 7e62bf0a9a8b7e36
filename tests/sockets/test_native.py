"""The native transport: RFC 6455 on raw sockets, ordinary ASGI for other applications, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from fastapi import FastAPI
from rawsocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, frame
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from wire import Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    DisconnectReason,
    Event,
    OnDisconnect,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.transports import closing
from aquilia.sockets.transports import http as http_module
from aquilia.sockets.transports.closing import CLOSE_TIMEOUT
from aquilia.sockets.transports.fragments import MAX_FRAGMENTS
from aquilia.sockets.transports.http import HTTPProtocol
from aquilia.sockets.transports.native import NativeProtocol

ENDS: list[DisconnectReason] = []


@Socket("/raw")
class Raw(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> None:
        await conn.send_event("echo", payload)

    @Event("later")
    async def later(self, conn: Connection, payload: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await conn.send_event("later", payload)

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "all"

    @Event("tell")
    async def tell(self, conn: Connection, payload: int) -> None:
        for number in range(payload):
            await self.publish_room("all", "told", number)

    @Event("end")
    async def end(self, conn: Connection) -> None:
        await conn.disconnect(4001, "enough")

    @OnDisconnect()
    async def ended(self, conn: Connection, reason: DisconnectReason) -> None:
        ENDS.append(reason)


def message(payload: Any, event: str = "echo") -> bytes:
    return json.dumps({"event": event, "payload": payload}).encode()


@pytest.fixture
def app() -> AquilaSockets:
    ENDS.clear()
    return AquilaSockets.from_controllers([Raw], max_message_size=2000)


@pytest.fixture
async def url(app: AquilaSockets) -> AsyncIterator[str]:
    async with serving(app, ws=NativeProtocol, http=HTTPProtocol) as base:
        yield f"{base}/raw"


@pytest.fixture
async def raw(url: str) -> AsyncIterator[RawSocket]:
    async with RawSocket.open(url) as raw:
        assert raw.status == 101
        yield raw


async def echoed(raw: RawSocket) -> Any:
    answer = await raw.read()
    assert answer.opcode == TEXT, answer
    return json.loads(answer.payload)["payload"]


async def test_the_upgrade_answers_the_key(url: str) -> None:
    # The key and its answer are the example of RFC 6455, section 1.3.
    async with RawSocket.open(url, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==") as raw:
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in raw.head


async def test_a_fragmented_message_is_put_together(raw: RawSocket) -> None:
    data = message("a ä long one")
    raw.send(frame(TEXT, data[:7], final=False), frame(CONTINUATION, data[7:30], final=False))
    raw.send(frame(CONTINUATION, b"", final=False), frame(CONTINUATION, data[30:]))
    assert await echoed(raw) == "a ä long one"


async def test_a_ping_within_a_fragmented_message_is_answered_at_once(raw: RawSocket) -> None:
    data = message(1)
    raw.send(frame(TEXT, data[:5], final=False), frame(PING, b"now"))
    assert await raw.read() == (PONG, b"now")
    raw.send(frame(CONTINUATION, data[5:]))
    assert await echoed(raw) == 1


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(CONTINUATION, b"x")], 1002),
        ([frame(TEXT, b"a", final=False), frame(TEXT, b"b")], 1002),
        ([frame(TEXT, b"{}", rsv=4)], 1002),
        ([frame(TEXT, b"{}", rsv=2)], 1002),
        ([frame(TEXT, b"{}", rsv=1)], 1002),
        ([frame(TEXT, b"{}", masked=False)], 1002),
        ([frame(3, b"x")], 1002),
        ([frame(11, b"x")], 1002),
        ([frame(PING, b"x" * 126)], 1002),
        ([frame(PING, b"x", final=False)], 1002),
        ([frame(TEXT, b'"\xff"')], 1007),
        ([frame(TEXT, b'"\xe2', final=False), frame(CONTINUATION, b'\x28"')], 1007),
        ([frame(TEXT, b'"\xed\xa0\x80"')], 1007),
        ([frame(CLOSE, b"\x03\xe8\xff")], 1007),
        ([frame(CLOSE, b"\x03")], 1002),
        ([frame(CLOSE, b"\x03\xed")], 1002),
        ([frame(CLOSE, b"\x03\xee")], 1002),
        ([frame(TEXT, b"x" * 2001)], 1009),
        ([frame(TEXT, b"x" * 1500, final=False), frame(CONTINUATION, b"x" * 501)], 1009),
        ([frame(BINARY, b"{}")], 1003),
    ],
)
async def test_a_broken_frame_ends_the_connection_with_its_code(
    raw: RawSocket, frames: list[bytes], code: int
) -> None:
    raw.send(*frames)
    assert await raw.closed() == code
    await eventually(lambda: ENDS)
    assert ENDS[0].code == code


@pytest.mark.parametrize(
    "broken", [frame(3, b"x"), frame(TEXT, b"{}", rsv=4)], ids=["opcode", "reserved bit"]
)
async def test_nothing_follows_the_close_of_who_broke_the_protocol(
    url: str, raw: RawSocket, broken: bytes
) -> None:
    async with Client.connect(url) as publisher:
        raw.send(frame(TEXT, json.dumps({"event": "enter", "id": "1", "ack": True}).encode()))
        assert (await raw.read()).opcode == TEXT
        raw.send(broken)
        assert (await raw.read()).close_code == 1002
        assert (await publisher.request("tell", 3))["status"] == "ok"
        raw.send(frame(CLOSE, b"\x03\xea"))
        assert await asyncio.wait_for(raw.reader.read(), 10) == b""


async def test_text_that_is_not_utf8_ends_the_connection_at_the_fragment_that_shows_it(
    raw: RawSocket,
) -> None:
    raw.send(frame(TEXT, b'"\xe2', final=False), frame(CONTINUATION, b"\x28", final=False))
    assert await raw.closed() == 1007


async def test_a_binary_message_in_fragments_may_hold_anything(raw: RawSocket) -> None:
    # After a text that stopped within a character there is nothing left of it.
    raw.send(frame(TEXT, message("ä")[:-3], final=False), frame(CONTINUATION, message("ä")[-3:]))
    assert await echoed(raw) == "ä"
    raw.send(frame(BINARY, b"\xff", final=False), frame(CONTINUATION, b"\xff"))
    assert await raw.closed() == 1003  # plain JSON is text


async def test_a_message_may_have_as_many_fragments_as_its_bytes_are_worth() -> None:
    app = AquilaSockets.from_controllers([Raw], max_message_size=2**20)
    data = message("x" * 500_000)
    parts = [data[at : at + 64] for at in range(0, len(data), 64)]
    assert len(parts) > MAX_FRAGMENTS
    async with serving(app, ws=NativeProtocol) as base, RawSocket.open(f"{base}/raw") as raw:
        raw.send(frame(TEXT, parts[0], final=False))
        raw.send(*(frame(CONTINUATION, part, final=False) for part in parts[1:]), frame(CONTINUATION))
        assert await echoed(raw) == "x" * 500_000


async def test_endless_empty_fragments_are_refused(raw: RawSocket) -> None:
    raw.send(frame(TEXT, b"", final=False), frame(CONTINUATION, b"", final=False) * 5000)
    assert await raw.closed() == 1009


async def test_a_message_of_just_the_bound_passes(raw: RawSocket) -> None:
    text = "x" * (2000 - len(message("")))
    raw.send(frame(TEXT, message(text)))
    assert await echoed(raw) == text


@pytest.mark.parametrize("body", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
async def test_a_clients_close_is_answered_and_told(raw: RawSocket, body: bytes) -> None:
    raw.send(frame(CLOSE, body))
    answer = await raw.read()
    assert answer == (CLOSE, body[:2])
    await raw.ended()
    await eventually(lambda: ENDS)
    assert ENDS[0].code == (int.from_bytes(body[:2], "big") if body else 1005)
    assert ENDS[0].text == body[2:].decode()


async def test_what_comes_behind_a_clients_close_changes_nothing(raw: RawSocket) -> None:
    raw.send(frame(CLOSE, b"\x0f\xa0"), frame(CLOSE, b"\x0f\xa1"), frame(11, b"x"))
    assert await raw.read() == (CLOSE, b"\x0f\xa0")
    assert await asyncio.wait_for(raw.reader.read(), 10) == b""
    await eventually(lambda: ENDS)
    assert ENDS[0].code == 4000


async def test_a_handler_closes_and_the_wire_ends_when_the_client_has_answered(raw: RawSocket) -> None:
    raw.send(frame(TEXT, message(None, "end")))
    assert await raw.closed() == 4001
    await eventually(lambda: ENDS)
    assert ENDS[0] == (4001, "enough")


async def test_a_client_that_never_answers_a_close_is_cut(
    raw: RawSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.05)
    raw.send(frame(TEXT, message(None, "end")))
    await raw.ended()
    await eventually(lambda: ENDS)


async def test_a_wire_that_is_cut_is_1006(raw: RawSocket) -> None:
    raw.writer.transport.abort()
    await eventually(lambda: ENDS)
    assert ENDS[0].code == 1006


async def test_a_half_closed_wire_ends_the_connection(raw: RawSocket) -> None:
    raw.writer.write_eof()
    await raw.ended()
    await eventually(lambda: ENDS)


async def test_frames_that_come_with_the_handshake_are_read(url: str) -> None:
    behind = b"".join(frame(TEXT, message(n)) for n in range(50))
    async with RawSocket.open(url, behind=behind) as raw:
        assert raw.status == 101
        assert [await echoed(raw) for _ in range(50)] == list(range(50))


async def test_long_headers_pass(url: str) -> None:
    async with RawSocket.open(url, Cookie="c=" + "x" * 20_000) as raw:
        assert raw.status == 101
        raw.send(frame(TEXT, message("hi")))
        assert await echoed(raw) == "hi"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": ""}, 426),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Sec_WebSocket_Key": ""}, 400),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=!"}, 400),
    ],
)
async def test_a_malformed_handshake_is_refused(url: str, headers: dict[str, str], status: int) -> None:
    async with RawSocket.open(url, **headers) as raw:
        assert raw.status == status


async def test_messages_that_wait_are_not_overwritten_by_later_reads(raw: RawSocket) -> None:
    # Each handler waits a few turns of the loop, while the next reads fill the same buffer again.
    texts = [f"{n:04d}" * 20 for n in range(400)]
    for text in texts:
        raw.send(frame(TEXT, message(text, "later")))
        await raw.writer.drain()
    assert [await echoed(raw) for _ in texts] == texts


async def test_sixteen_mebibytes_pass_where_they_are_allowed() -> None:
    app = AquilaSockets.from_controllers([Raw], max_message_size=17 * 2**20)
    text = "x" * 2**24
    async with (
        serving(app, ws=NativeProtocol) as base,
        Client.connect(f"{base}/raw", max_size=None) as client,
    ):
        await client.send("echo", text)
        assert (await client.expect("echo"))["payload"] == text


async def test_a_stopping_server_says_1012(app: AquilaSockets) -> None:
    async with websockets_of(app) as (client, stop):
        stop()
        assert (await client.closed())[0] == 1012


def websockets_of(app: Any) -> Any:
    import contextlib

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        stopped = asyncio.Event()
        ready: asyncio.Queue[str] = asyncio.Queue()

        async def run() -> None:
            async with serving(app, ws=NativeProtocol) as base:
                await ready.put(base)
                await stopped.wait()

        server = asyncio.create_task(run())
        async with Client.connect(f"{await ready.get()}/raw") as client:
            yield client, stopped.set
        await server

    return opened()


async def test_a_silent_client_is_given_up_after_two_pings(app: AquilaSockets) -> None:
    async with serving(app, ws=NativeProtocol, ws_ping_interval=0.2) as base:
        async with RawSocket.open(f"{base}/raw") as raw:
            assert [(await raw.read()).opcode for _ in range(3)] == [PING, PING, CLOSE]
        async with RawSocket.open(f"{base}/raw") as raw:
            for _ in range(4):
                ping = await raw.read()
                assert ping.opcode == PING
                raw.send(frame(PONG, ping.payload))
            assert [(await raw.read()).opcode for _ in range(3)] == [PING, PING, CLOSE]


# The head of a request


async def test_a_head_that_is_too_large_is_refused(url: str) -> None:
    async with RawSocket.open(url, Cookie="x" * 70_000) as raw:
        assert raw.status == 431


async def test_the_size_of_a_head_is_for_the_server_to_say(app: AquilaSockets) -> None:
    async with serving(app, ws=NativeProtocol, http=HTTPProtocol, h11_max_incomplete_event_size=2000) as base:
        for size, status in ((1000, 101), (2000, 431)):
            async with RawSocket.open(f"{base}/raw", Cookie="x" * size) as raw:
                assert raw.status == status


async def test_a_head_that_never_ends_is_refused(url: str) -> None:
    port = int(url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000)
    async with asyncio.timeout(5):
        assert b" 431 " in await reader.readline()
    writer.close()


async def test_a_head_that_comes_too_slowly_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "HEAD_TIMEOUT", 0.05)
    port = int(url.split(":")[2].split("/")[0])
    for begun in (b"", b"GET / HTTP/1.1\r\nHost: a"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        async with asyncio.timeout(5):
            assert b" 408 " in await reader.readline()
        writer.close()


# Other applications


async def shout(websocket: WebSocket) -> None:
    if websocket.query_params.get("deny"):
        await websocket.close(4000)
        return
    await websocket.accept(subprotocol="loud", headers=[(b"x-volume", b"11")])
    try:
        while True:
            received = await websocket.receive()
            if received["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(received["code"])
            if received.get("text") is not None:
                if received["text"] == "end":
                    await websocket.close(4002, "as you wish")
                    return
                await websocket.send_text(received["text"].upper())
            else:
                await websocket.send_bytes(received["bytes"].upper())
    except WebSocketDisconnect as end:
        ENDS.append(DisconnectReason(end.code))


async def test_a_foreign_application_gets_ordinary_asgi() -> None:
    ENDS.clear()
    app = Starlette(routes=[WebSocketRoute("/shout", shout)])
    async with serving(app, ws=NativeProtocol) as base:
        async with websockets.connect(f"{base}/shout", subprotocols=["loud"], proxy=None) as client:
            assert client.subprotocol == "loud"
            assert client.response is not None
            assert client.response.headers["x-volume"] == "11"
            await client.send("hi")
            assert await client.recv() == "HI"
            await client.send(b"hi")
            assert await client.recv() == b"HI"
            for n in range(200):
                await client.send(str(n))
            assert [await client.recv() for _ in range(200)] == [str(n) for n in range(200)]
            await client.close(4005)
        await eventually(lambda: ENDS)
        assert ENDS[0].code == 4005
        async with websockets.connect(f"{base}/shout", subprotocols=["loud"], proxy=None) as client:
            await client.send("end")
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4002, "as you wish")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/shout?deny=1", proxy=None)
        assert refused.value.response.status_code == 403


async def test_an_error_in_a_foreign_application_is_500_before_and_1011_after_the_upgrade() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/after":
            await send({"type": "websocket.accept"})
        raise RuntimeError("oh")

    async with serving(broken, ws=NativeProtocol, lifespan="off", log_level="critical") as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/before", proxy=None)
        assert refused.value.response.status_code == 500
        async with websockets.connect(f"{base}/after", proxy=None) as client:
            async with asyncio.timeout(CLOSE_TIMEOUT - 1):  # its answer to the close is read
                await client.wait_closed()
            assert client.close_code == 1011


async def test_an_application_that_refuses_after_the_server_has_is_told_that_the_client_is_gone() -> None:
    asked, stopping, told = asyncio.Event(), asyncio.Event(), asyncio.Queue[Exception]()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        asked.set()
        await stopping.wait()
        try:
            await send({"type": "websocket.http.response.start", "status": 429, "headers": []})
        except Exception as error:
            told.put_nowait(error)
            raise

    async def open_and_refuse(base: str) -> int:
        async with RawSocket.open(f"{base}/slow") as raw:
            stopping.set()
            return raw.status

    async with serving(slow, ws=NativeProtocol, lifespan="off") as base:
        status = asyncio.create_task(open_and_refuse(base))
        await asked.wait()
    assert await status == 503
    assert isinstance(await told.get(), OSError)


async def test_mounted_in_fastapi_the_hosts_middleware_sees_the_handshake(app: AquilaSockets) -> None:
    host = FastAPI(lifespan=app.lifespan)
    host.mount("/live", app)
    seen: list[str] = []

    class Watch:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "websocket.accept":
                    seen.append(scope["path"])
                    message["headers"] = [*message.get("headers", []), (b"x-host", b"fastapi")]
                await send(message)

            await self.inner(scope, receive, sending)

    host.add_middleware(Watch)
    async with (
        serving(host, ws=NativeProtocol) as base,
        websockets.connect(f"{base}/live/raw", proxy=None) as client,
    ):
        assert seen == ["/live/raw"]
        assert client.response is not None
        assert client.response.headers["x-host"] == "fastapi"
        await client.send(message("hi").decode())
        assert json.loads(await client.recv())["payload"] == "hi"
