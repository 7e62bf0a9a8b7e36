"""The native transport over TLS, whose wire is that of asyncio's or uvloop's own TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from certificates import Authority
from loops import on_each_loop
from rawsocket import TEXT, frame, handshake
from wire import eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    DisconnectReason,
    Event,
    OnDisconnect,
    Socket,
    SocketController,
)
from aquilia.sockets.transports import closing
from aquilia.sockets.transports.http import HTTPProtocol
from aquilia.sockets.transports.native import NativeProtocol
from aquilia.sockets.transports.reader import PicowsReader
from aquilia.tls import Certificate, Files

AUTHORITY = Authority()
ENDS: list[DisconnectReason] = []


@Socket("/raw", max_message_size=4 << 20)
class Raw(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> None:
        await conn.send_event("echo", payload)

    @Event("flood")
    async def flood(self, conn: Connection, payload: int) -> None:
        for number in range(payload):
            await conn.send_event("echo", [number, "x" * 50_000])

    @Event("end")
    async def end(self, conn: Connection) -> None:
        await conn.disconnect(4001, "enough")

    @OnDisconnect()
    async def ended(self, conn: Connection, reason: DisconnectReason) -> None:
        ENDS.append(reason)


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    ENDS.clear()
    AUTHORITY.issue().write(tmp_path)
    return Certificate(Files(tmp_path / "chain.pem", tmp_path / "key.pem")).context


@contextlib.asynccontextmanager
async def secure(context: ssl.SSLContext, **settings: Any) -> AsyncIterator[str]:
    app = AquilaSockets.from_controllers([Raw], **settings)
    options: dict[str, Any] = {"ssl_context_factory": lambda config, default: context}
    async with serving(app, ws=NativeProtocol, http=HTTPProtocol, ws_max_size=5 << 20, **options) as base:
        yield f"{base.replace('ws', 'wss', 1)}/raw"


def dialled(url: str, **options: Any) -> websockets.connect:
    return websockets.connect(url, ssl=AUTHORITY.trusting(), proxy=None, max_size=None, **options)


async def said(client: websockets.ClientConnection, payload: Any) -> Any:
    await client.send(json.dumps({"event": "echo", "payload": payload}))
    return json.loads(await client.recv())["payload"]


@on_each_loop
async def test_many_messages_at_once_are_read_in_order(
    context: ssl.SSLContext,
) -> None:
    async with secure(context) as url, dialled(url) as client:
        for number in range(200):
            await client.send(json.dumps({"event": "echo", "payload": number}))
        assert [json.loads(await client.recv())["payload"] for _ in range(200)] == list(range(200))


@on_each_loop
async def test_large_messages_pass_whole_both_ways(context: ssl.SSLContext) -> None:
    async with secure(context) as url, dialled(url) as client:
        for size in (16_383, 16_384, 16_385, 65_536, 1 << 20, 4_000_000):
            text = hashlib.sha256(str(size).encode()).hexdigest() * (size // 64)
            assert await said(client, text) == text


@on_each_loop
async def test_a_client_that_does_not_read_is_waited_for_and_gets_all_in_order(
    context: ssl.SSLContext,
) -> None:
    async with secure(context) as url, dialled(url, max_queue=1) as slow, dialled(url) as other:
        await slow.send(json.dumps({"event": "flood", "payload": 400}))
        for _ in range(20):
            assert await said(other, "x") == "x"
        async with asyncio.timeout(20):
            for number in range(400):
                assert json.loads(await slow.recv())["payload"][0] == number


@on_each_loop
async def test_a_client_that_sends_without_reading_is_read_again_when_it_reads(
    context: ssl.SSLContext,
) -> None:
    async with secure(context) as url, dialled(url, max_queue=1) as client:

        async def send() -> None:
            for number in range(60):
                await client.send(json.dumps({"event": "echo", "payload": [number, "x" * 200_000]}))

        sending = asyncio.create_task(send())
        async with asyncio.timeout(20):
            for number in range(60):
                assert json.loads(await client.recv())["payload"][0] == number
            await sending


@on_each_loop
async def test_both_sides_can_close_and_a_cut_wire_is_1006(context: ssl.SSLContext) -> None:
    async with secure(context) as url:
        async with dialled(url) as client:
            await client.send(json.dumps({"event": "end"}))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        async with dialled(url) as client:
            await client.close(4002, "bye")
        async with dialled(url) as client:
            assert await said(client, 1) == 1
            client.transport.abort()
            await eventually(lambda: len(ENDS) == 3)
    assert [end.code for end in ENDS] == [4001, 4002, 1006]


@on_each_loop
async def test_who_is_ended_for_what_it_holds_is_gone_at_once_and_need_not_end_tls(
    context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 60.0)
    async with secure(context, inbox_bytes=100_000) as url:
        port = int(url.split(":")[2].partition("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=AUTHORITY.trusting())
        writer.write(handshake("/raw"))
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # so it does not see that TLS ends, and says nothing to that
        writer.write(frame(TEXT, b"x" * 200_000)[:180_000])
        await eventually(lambda: ENDS)
        writer.transport.abort()
    assert [end.code for end in ENDS] == [1013]


@on_each_loop
async def test_who_has_gone_leaves_no_buffer_behind_until_garbage_is_collected(
    context: ssl.SSLContext,
) -> None:
    def readers() -> int:
        return sum(type(each) is PicowsReader for each in gc.get_objects())  # of which proxies are none

    gc.collect()
    gc.disable()
    try:
        before = readers()
        async with secure(context) as url:
            async with dialled(url) as client:
                assert await said(client, "x" * 1_000_000) == "x" * 1_000_000
            async with dialled(url) as client:
                assert await said(client, "x" * 1_000_000) == "x" * 1_000_000
                client.transport.abort()
            await eventually(lambda: len(ENDS) == 2)
            await eventually(lambda: readers() == before)
    finally:
        gc.enable()
