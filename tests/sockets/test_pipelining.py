"""A WebSocket handshake behind other requests of its connection, which are not answered yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from rawsocket import TEXT, RawSocket, frame, handshake
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from wire import TIMEOUT, TRANSPORTS, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController
from aquilia.sockets.transports.http import HTTPProtocol

GATES: list[asyncio.Event] = []


@Socket("/echo")
class Echo(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: int) -> None:
        await conn.send_event("echo", payload)


async def wait(request: Request) -> PlainTextResponse:
    GATES.append(asyncio.Event())
    await GATES[-1].wait()
    return PlainTextResponse(request.url.path)


SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
MESSAGES = [frame(TEXT, json.dumps({"event": "echo", "payload": number}).encode()) for number in range(2)]


@pytest.fixture
def sockets() -> AquilaSockets:
    GATES.clear()
    return AquilaSockets.from_controllers([Echo])


@pytest.fixture(params=list(TRANSPORTS))
async def raw(request: pytest.FixtureRequest, sockets: AquilaSockets) -> AsyncIterator[RawSocket]:
    """Connected, and nothing sent yet."""
    app = Starlette(routes=[Route("/slow", wait), Mount("/", sockets)], lifespan=sockets.lifespan)
    async with serving(app, ws=TRANSPORTS[request.param], http=HTTPProtocol) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        yield RawSocket(reader, writer)
        writer.close()


async def answer(raw: RawSocket) -> bytes:
    """The next answer's status and body."""
    async with asyncio.timeout(TIMEOUT):
        head = await raw.reader.readuntil(b"\r\n\r\n")
        body = await raw.reader.readexactly(len("/slow")) if b" 200 " in head else b""
    return head.split(b" ")[1] + body


async def echoed(raw: RawSocket) -> int:
    number: int = json.loads((await raw.read()).payload)["payload"]
    return number


@pytest.mark.parametrize("before", [1, 3])
async def test_the_answers_before_come_first(raw: RawSocket, before: int) -> None:
    raw.send(SLOW * before, handshake("/echo"), MESSAGES[0])
    for number in range(before):
        await eventually(lambda: len(GATES) > number)  # noqa: B023 - it is called at once
        if number == before - 1:
            raw.send(MESSAGES[1])
        GATES[number].set()
        assert await answer(raw) == b"200/slow"
    assert await answer(raw) == b"101"
    assert [await echoed(raw), await echoed(raw)] == [0, 1]


async def test_a_client_that_leaves_meanwhile_leaves_nothing(raw: RawSocket, sockets: AquilaSockets) -> None:
    raw.send(SLOW, handshake("/echo"), MESSAGES[0])
    await eventually(lambda: GATES)
    raw.writer.transport.abort()
    GATES[0].set()
    await eventually(lambda: sockets.live()["connections"] == 0)


async def test_a_handshake_behind_answered_requests_is_like_any_other(raw: RawSocket) -> None:
    for number in range(2):
        raw.send(SLOW)
        await eventually(lambda: len(GATES) > number)  # noqa: B023 - it is called at once
        GATES[number].set()
        assert await answer(raw) == b"200/slow"
    raw.send(handshake("/echo"), *MESSAGES)
    assert await answer(raw) == b"101"
    assert [await echoed(raw), await echoed(raw)] == [0, 1]
