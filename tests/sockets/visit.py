"""A client in the place of an ASGI server: for tests that need no network, or a server that does odd things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from wire import TIMEOUT

from aquilia.sockets import AquilaSockets


class Visit:
    """A plain client as an ASGI server would serve it, without a network."""

    def __init__(
        self,
        app: AquilaSockets,
        path: str = "/shop/a",
        *,
        query: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
        denial: bool = True,
    ) -> None:
        self._app = app
        self._path = path
        self._query = query.encode()
        fields = {"host": "shop.example", **headers}
        self._headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
        self._up: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._down: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._ids = 0

    def knock(self) -> None:
        """Begin the handshake, and do not wait for its end."""
        self._up.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": self._path,
            "query_string": self._query,
            "headers": self._headers,
            "subprotocols": [],
            "extensions": self._extensions,
        }
        self.task = asyncio.create_task(self._app(scope, self._up.get, self._down.put))  # type: ignore[arg-type]

    async def __aenter__(self) -> Self:
        self.knock()
        self.first = await self.message()
        self.accepted = self.first["type"] == "websocket.accept"
        self.status = self.first.get("status", 101)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._up.put_nowait({"type": "websocket.disconnect", "code": 1001})
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait([self.task])

    async def message(self) -> dict[str, Any]:
        """What the application sends next, as ASGI has it."""
        async with asyncio.timeout(TIMEOUT):
            return await self._down.get()

    async def frame(self) -> dict[str, Any]:
        return json.loads((await self.message())["text"])

    def send(self, event: str, payload: Any = None, **fields: Any) -> None:
        message = {"event": event, "payload": payload, **fields}
        self._up.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def request(self, event: str, payload: Any = None) -> dict[str, Any]:
        self._ids += 1
        self.send(event, payload, id=str(self._ids), ack=True)
        while True:
            frame = await self.frame()
            if frame.get("id") == str(self._ids):
                return frame["payload"]

    async def refused(self, event: str, payload: Any = None) -> str:
        """The code of the fault that answers."""
        answer = await self.request(event, payload)
        assert answer["status"] == "error", answer
        return answer["error"]["code"]
