"""The settings that `aq serve` hands to its server: seen from the wire, over both transports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rawsocket import CLOSE, CONTINUATION, PING, TEXT, RawSocket, frame
from workspaces import Workspace

TRANSPORTS = pytest.mark.parametrize("transport", ["native", "asgi"])


def message(size: int) -> bytes:
    """An event in a message of so many bytes."""
    start = b'{"event":"say","id":"1","ack":true,"payload":{"text":"'
    return start + b"x" * (size - len(start) - 3) + b'"}}'


def in_parts(data: bytes) -> list[bytes]:
    """The frames of a fragmented message, none of which is beyond a bound by itself."""
    return [
        frame(TEXT, data[:600], final=False),
        frame(CONTINUATION, data[600:700], final=False),
        frame(CONTINUATION, data[700:]),
    ]


async def answer(raw: RawSocket) -> Any:
    while (found := json.loads((await raw.read()).payload))["type"] != "ack":
        pass
    return found["payload"]


@TRANSPORTS
async def test_a_message_of_just_the_bound_passes_and_one_byte_more_does_not(
    compiled: Workspace, transport: str
) -> None:
    async with compiled.serving("--transport", transport) as server:
        url = server.sockets[0].replace(":room", "x")
        for frames in (lambda data: [frame(TEXT, data)], in_parts):
            async with RawSocket.open(url) as raw:
                raw.send(*frames(message(1000)))
                assert (await answer(raw))["status"] == "ok"
                raw.send(*frames(message(1001)))
                assert await raw.closed() == 1009


@TRANSPORTS
async def test_a_bound_above_the_default_is_kept_too(echo: Workspace, transport: str) -> None:
    echo.edit("modules/echo/controllers.py", "max_message_size=1000", "max_message_size=3_000_000")
    echo.compile()
    async with echo.serving("--transport", transport) as server:
        async with RawSocket.open(server.sockets[0].replace(":room", "x")) as raw:
            raw.send(frame(TEXT, message(3_000_000)))
            assert (await answer(raw))["status"] == "ok"
            raw.send(frame(TEXT, message(3_000_001)))
            assert await raw.closed() == 1009


@TRANSPORTS
async def test_the_heartbeat_is_that_of_the_manifest(echo: Workspace, transport: str) -> None:
    echo.edit(
        "modules/echo/manifest.py", 'version="1.2.3", ', 'version="1.2.3", websockets={"heartbeat": 0.2}, '
    )
    echo.compile()
    async with echo.serving("--transport", transport) as server:
        async with RawSocket.open(server.sockets[0].replace(":room", "x")) as raw:
            assert (await raw.read()).opcode == PING
            while (found := await raw.read()).opcode == PING:
                pass
            assert found.opcode == CLOSE
            assert found.close_code == (4508 if transport == "native" else 1011)


@TRANSPORTS
async def test_compression_is_agreed_on_or_the_log_says_that_it_is_not(
    echo: Workspace, transport: str
) -> None:
    echo.edit("modules/echo/controllers.py", "max_message_size=1000", "compression=True")
    echo.compile()
    shown = " ".join(echo.done("ws", "inspect").split())
    assert "compression level 6, max_ratio 100" in shown
    async with echo.serving("--transport", transport) as server:
        url = server.sockets[0].replace(":room", "x")
        async with RawSocket.open(url, Sec_WebSocket_Extensions="permessage-deflate") as raw:
            assert raw.status == 101
            assert (b"permessage-deflate" in raw.head) is (transport == "native")
        _, logged = await server.end()
    told = "compression: has no effect with --transport asgi: nothing is compressed"
    assert (told in logged) is (transport == "asgi")
    assert logged.count("compression: has no effect") == (transport == "asgi")
