"""A client in the place of an ASGI server: for tests that need no network, or a server that does odd things."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from wire import TIMEOUT

from aquilia.sockets import AquilaSockets


class Visit:
    """A plain client as an ASGI server would serve it, without a network."""

    def __init__(self, app: AquilaSockets, path: str = "/shop/a", *, denial: bool = True) -> None:
        self._app = app
        self._path = path
        self._extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
        self._up: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._down: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._ids = 0

    async def __aenter__(self) -> Self:
        self._up.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": self._path,
            "headers": [(b"host", b"shop.example")],
            "subprotocols": [],
            "extensions": self._extensions,
        }
        self.task = asyncio.create_task(self._app(scope, self._up.get, self._down.put))  # type: ignore[arg-type]
        self.first = await self._receive()
        self.accepted = self.first["type"] == "websocket.accept"
        self.status = self.first.get("status", 101)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._up.put_nowait({"type": "websocket.disconnect", "code": 1001})
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait([self.task])

    async def _receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT):
            return await self._down.get()

    async def frame(self) -> dict[str, Any]:
        return json.loads((await self._receive())["text"])

    async def request(self, event: str, payload: Any = None) -> dict[str, Any]:
        self._ids += 1
        message = {"event": event, "payload": payload, "id": str(self._ids), "ack": True}
        self._up.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})
        while True:
            frame = await self.frame()
            if frame.get("id") == str(self._ids):
                return frame["payload"]

    def code(self, answer: dict[str, Any]) -> str:
        return answer["error"]["code"]
