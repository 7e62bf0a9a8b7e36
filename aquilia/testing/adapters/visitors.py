"""What `ClusterContract` drives: nodes as processes, and clients that see every frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

import websockets

from aquilia.testing.adapters.contract import PATIENCE

__all__ = ["NodeProcess", "Visitor"]

START = 60.0
"""Seconds that a process may take to serve."""


class NodeProcess:
    """`aquilia.testing.adapters.node` with an adapter's URL."""

    def __init__(self, adapter_url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aquilia.testing.adapters.node"],
            env={**os.environ, "AQ_WS_ADAPTER_URL": adapter_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = ""

    def started(self) -> Self:
        """Wait until it serves. It ends by itself if it cannot."""
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip().replace("http", "ws", 1)
        assert self.url, "the node does not start: see its log"
        return self

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def stop(self) -> None:
        """End it, and wait for that."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate(timeout=START)


class Visitor:
    """A client of protocol v1 in JSON."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}
        self._frames: list[dict[str, Any]] = []
        """Came while something else was awaited."""
        self._ids = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, url: str, name: str, hello: dict[str, Any] | None = None) -> AsyncIterator[Self]:
        """A client, welcomed; its identity has this name."""
        options: dict[str, Any] = {"subprotocols": ["aquilia.v1.json"], "proxy": None, "max_size": None}
        async with websockets.connect(url, **options) as socket:
            visitor = cls(socket)
            payload = {"token": name, **(hello or {})}
            await visitor.send({"type": "control", "event": "hello", "payload": payload})
            visitor.welcome = (await visitor.expect("welcome"))["payload"]
            yield visitor

    async def send(self, envelope: dict[str, Any]) -> None:
        """Send an envelope as it is."""
        await self.socket.send(json.dumps(envelope))

    async def say(self, event: str, payload: Any) -> None:
        """Send an event that wants no ack."""
        await self.send({"event": event, "payload": payload})

    async def request(self, event: str, payload: Any = None, id: str | None = None) -> Any:
        """The data of an ack."""
        self._ids += 1
        id = id or f"v{self._ids}"
        await self.send({"event": event, "payload": payload, "id": id, "ack": True})
        answer = (await self._next(lambda frame: frame["type"] == "ack" and frame["id"] == id))["payload"]
        assert answer["status"] == "ok", answer
        return answer.get("data")

    async def expect(self, event: str) -> dict[str, Any]:
        """The next frame with this event; others wait until they are asked for."""
        return await self._next(lambda frame: frame.get("event") == event)

    async def heard(self, count: int) -> list[Any]:
        """The payloads of the next events `said`."""
        return [(await self.expect("said"))["payload"] for _ in range(count)]

    async def sees(self, room: str, *names: str) -> None:
        """Wait until frames `presence` have said that these, and nobody else, are in a room."""
        here: set[str] = set()
        while here != set(names):
            told = await self._next(
                lambda frame: frame.get("event") == "presence" and frame["payload"]["room"] == room
            )
            here |= set(told["payload"].get("joins", ()))
            here -= set(told["payload"].get("leaves", ()))

    async def closed(self) -> int:
        """The code of the connection's end."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await self.socket.recv()
        return self.socket.close_code or 0

    def place(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Where a message stands in its log."""
        return {"epoch": frame["meta"]["epoch"], "offset": frame["meta"]["offset"]}

    async def _next(self, fits: Any) -> dict[str, Any]:
        for number, frame in enumerate(self._frames):
            if fits(frame):
                return self._frames.pop(number)
        async with asyncio.timeout(PATIENCE):
            while not fits(frame := json.loads(await self.socket.recv())):
                self._frames.append(frame)
        found: dict[str, Any] = frame
        return found
