"""What the socket tests share: an application under a real server, and a real client of every profile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Self

import cbor2
import msgspec
import uvicorn
import websockets

from aquilia.sockets.transports.native import NativeProtocol

TIMEOUT = 10.0

TRANSPORTS: dict[str, Any] = {"asgi": "websockets-sansio", "native": NativeProtocol}

PROFILES = {
    "plain": (None, json.dumps, json.loads),
    "v1.json": ("aquilia.v1.json", json.dumps, json.loads),
    "v1.msgpack": ("aquilia.v1.msgpack", msgspec.msgpack.encode, msgspec.msgpack.decode),
    "v1.cbor": ("aquilia.v1.cbor", cbor2.dumps, cbor2.loads),
}


class Server(uvicorn.Server):
    """uvicorn asks itself ten times a second whether to end; this one is told, and waits only for who is there."""

    _ticking: asyncio.Task[None]

    async def main_loop(self) -> None:
        self._ticking = asyncio.create_task(super().main_loop())
        await asyncio.wait([self._ticking])

    def end(self) -> None:
        self.should_exit = True
        if self.started:
            self._ticking.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(5):  # a client that has just closed is gone after a turn or two
            await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
        else:
            for server in self.servers:
                server.close()
            await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def serving(app: Any, *, send_buffer: int | None = None, **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI application with uvicorn on a free port; gives `ws://127.0.0.1:PORT`.

    With a small `send_buffer`, in bytes, a client that does not read is noticed early.
    """
    # By its protocol asyncio knows that TCP_NODELAY is for it: else an ack behind an event takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if send_buffer is not None:  # what it accepts inherits that
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    listener.bind(("127.0.0.1", 0))
    options = {
        "log_level": "warning",
        "ws": TRANSPORTS["asgi"],
        "lifespan": "on",
        "timeout_graceful_shutdown": 5,
        **options,
    }
    server = Server(uvicorn.Config(app, **options))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(TIMEOUT):
            while not server.started:
                if running.done():
                    running.result()
                    raise RuntimeError("the server did not start")
                await asyncio.sleep(0.005)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        await running
        listener.close()


class Client:
    """A WebSocket client that speaks one profile, and sees every frame."""

    def __init__(self, socket: websockets.ClientConnection, profile: str) -> None:
        self.socket = socket
        _, self._encode, self._decode = PROFILES[profile]
        self._acks = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, url: str, profile: str = "plain", *, hello: bool = True, **options: Any
    ) -> AsyncIterator[Self]:
        subprotocol = PROFILES[profile][0]
        if subprotocol is not None:
            options.setdefault("subprotocols", [subprotocol])
        async with websockets.connect(url, proxy=None, **options) as connection:
            client = cls(connection, profile)
            if subprotocol is not None and hello:
                await client.send(type="control", event="hello")
                client.welcome = await client.receive()
                assert client.welcome["event"] == "welcome", client.welcome
            yield client

    welcome: dict[str, Any]

    async def send(self, event: str | None = None, payload: Any = None, **fields: Any) -> None:
        envelope = {"event": event, "payload": payload, **fields}
        await self.raw(self._encode({key: value for key, value in envelope.items() if value is not None}))

    async def raw(self, data: str | bytes) -> None:
        await self.socket.send(data)

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(TIMEOUT):
            return self._decode(await self.socket.recv())

    async def expect(self, event: str) -> dict[str, Any]:
        """The next frame, which must be this event (or system frame)."""
        frame = await self.receive()
        assert frame.get("event") == event, frame
        return frame

    async def request(self, event: str, payload: Any = None, **fields: Any) -> dict[str, Any]:
        """Send with an id, and return the payload of its ack; what comes before the ack is dropped."""
        self._acks += 1
        id = f"c{self._acks}"
        await self.send(event, payload, id=id, ack=True, **fields)
        while True:
            frame = await self.receive()
            if frame["type"] == "ack" and frame["id"] == id:
                return frame["payload"]

    async def closed(self) -> tuple[int, str]:
        """Wait for the end of the connection; its code and reason."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await self.socket.recv()
        return self.socket.close_code or 0, self.socket.close_reason or ""


async def eventually(condition: Any) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)
