"""Functions as WebSocket handlers, for tests of `aquilia.sockets.compat` and of what runs them."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from starlette.responses import Response
from wire import TIMEOUT

from aquilia import Fault
from aquilia.sockets import AquilaSockets, OriginGuard, SocketGuard
from aquilia.sockets.compat import Flow, FlowRequest

DEPRECATED = pytest.mark.filterwarnings("ignore:.*is a function that handles a WebSocket:DeprecationWarning")

KIB = 1024
MIB = 1024 * KIB


class Outcome(BaseException):
    """Like those that test frameworks raise."""


class Seen:
    """What the functions of a test noted, and what they wait for."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.gate = asyncio.Event()
        self.requests: list[FlowRequest] = []


class Invited(SocketGuard):
    def check_handshake(self, handshake: Any) -> bool:
        return handshake.query_params.get("invited") == "yes"


def legacy(seen: Seen) -> Flow:
    flow = Flow()

    @flow.ws("/echo/:room", max_message_size=64 * KIB)
    async def echo(request: FlowRequest) -> None:
        await request.accept()
        try:
            async for message in request:
                if isinstance(message, str):
                    await request.send_text(message)
                else:
                    await request.send_bytes(message)
            seen.notes.append("the end")
        finally:
            seen.notes.append("finally")

    @flow.ws("/about/:id:int")
    async def about(request: FlowRequest) -> None:
        await request.accept(request.query_params.get("subprotocol"))
        request.state["asked"] = True
        assert request.client is not None
        await request.send_json(
            {
                "path": request.path,
                "params": dict(request.path_params),
                "query": dict(request.query_params),
                "header": request.headers["x-colour"],
                "cookies": request.cookies,
                "host": request.client.host,
                "identity": request.identity and request.identity.id,
                "session": request.session,
                "state": request.state,
            }
        )

    @flow.ws("/typed")
    async def typed(request: FlowRequest) -> None:
        await request.accept()
        await request.send_text(await request.receive_text())
        await request.send_bytes(await request.receive_bytes())
        await request.send_json(await request.receive_json())
        await request.close(4000, "enough")
        with pytest.raises(Fault, match="WS_CONNECTION_CLOSED"):
            await request.send_text("more")
        with pytest.raises(Fault, match="WS_CONNECTION_CLOSED"):
            await request.receive_text()
        seen.notes.append("closed")

    @flow.ws("/refusing/:how", allowed_origins=["https://friend.example"])
    async def refusing(request: FlowRequest) -> None:
        match request.path_params["how"]:
            case "close":
                await request.close(4403, "not today")
                seen.notes.append("goes on")
            case "fault":
                raise Fault("SOLD_OUT", "nothing is left", status=429)
            case "error":
                raise ZeroDivisionError("a secret")
            case "early":
                await request.send_text("hello?")
            case "never":
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    seen.notes.append("given up")
            case "close and stay":
                await request.close()
                await asyncio.get_running_loop().create_future()
            case "outcome":
                raise Outcome

    @flow.ws("/failing/:how")
    async def failing(request: FlowRequest) -> None:
        await request.accept()
        message = await request.receive_text()
        match request.path_params["how"]:
            case "fault":
                raise Fault("SIGN_IN", message, status=401)
            case "error":
                raise ZeroDivisionError("a secret")
            case "cancelled":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "twice":
                await request.accept()
            case "outcome":
                raise Outcome

    @flow.ws("/busy")
    async def busy(request: FlowRequest) -> None:
        await request.accept()
        await request.send_text(await request.receive_text())
        try:
            await seen.gate.wait()
        finally:
            seen.notes.append("cancelled")

    @flow.ws("/stream")
    async def stream(request: FlowRequest) -> None:
        await request.accept()
        seen.requests.append(request)
        while True:
            await request.send_bytes(b"x" * 10_000)
            seen.notes.append(1)

    @flow.ws("/late")
    async def late(request: FlowRequest) -> None:
        await request.accept()
        await request.send_text("here")
        await seen.gate.wait()
        async for message in request:
            seen.notes.append(message)

    @flow.ws("/few", max_connections=1)
    async def few(request: FlowRequest) -> None:
        await request.accept()
        await request.receive_text()

    @flow.ws("/slow", message_rate_limit=1)
    async def slow(request: FlowRequest) -> None:
        await request.accept()
        async for message in request:
            seen.notes.append(message)

    @flow.ws("/guarded", guards=[Invited(), OriginGuard(["*"])])
    async def guarded(request: FlowRequest) -> None:
        await request.accept()
        await request.send_text("come in")

    return flow


async def identify(ctx: Any, call_next: Any) -> Response:
    name = ctx.query_params.get("name")
    if name == "nobody":
        raise Fault("NOBODY", "say who you are", status=401)
    if name is not None:
        ctx.identity = SimpleNamespace(id=name)
    response: Response = await call_next(ctx)
    response.headers["x-house"] = "aquilia"
    return response


def application(seen: Seen) -> AquilaSockets:
    return AquilaSockets.from_controllers(
        legacy(seen).controllers,
        middleware=[identify],
        allowed_hosts=["127.0.0.1"],
        handshake_timeout=0.5,
    )


def connect(url: str, **options: Any) -> websockets.connect:
    return websockets.connect(url, proxy=None, compression=None, **options)


async def closed(client: websockets.ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(TIMEOUT):
        await client.wait_closed()
    return client.close_code, client.close_reason


async def write(client: websockets.ClientConnection, messages: list[str | bytes]) -> None:
    for message in messages:
        await client.send(message)


async def closed_after_all(client: websockets.ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(TIMEOUT):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code or 0, client.close_reason or ""
