"""Ordinary ASGI on the native transport, for applications that know nothing of it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aquilia.sockets.faults import CloseCode
from aquilia.sockets.transports.frames import NativeTransport

__all__ = ["ASGIBridge"]

QUEUE_LIMIT = 16
"""Messages that wait for the application before reading pauses."""


class ASGIBridge:
    """The `receive` and `send` of one open connection. Implements `TransportEvents`."""

    def __init__(self, transport: NativeTransport) -> None:
        self._transport = transport
        self._messages: deque[dict[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.closed = False

    def on_message(self, conn: Any, data: bytes, *, binary: bool) -> None:
        """See `TransportEvents`."""
        content = {"bytes": data} if binary else {"text": data.decode()}
        self._messages.append({"type": "websocket.receive", **content})
        if len(self._messages) >= QUEUE_LIMIT:
            self._transport.pause_reading()
        self._arrived.set()

    def on_writable(self, conn: Any) -> None:
        """See `TransportEvents`."""
        self._writable.set()

    def on_held(self, conn: Any) -> None:
        """See `TransportEvents`. Nobody counts here what it is."""

    def on_shutdown(self, conn: Any) -> None:
        """See `TransportEvents`."""
        self._transport.close(CloseCode.RESTART, "")

    def on_closed(self, conn: Any, code: int, reason: str) -> None:
        """See `TransportEvents`."""
        self.closed = True
        self._messages.append({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._arrived.set()
        self._writable.set()

    async def receive(self) -> dict[str, Any]:
        """See the ASGI specification."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages[0]
        if message["type"] != "websocket.disconnect":  # that one is told again to whoever asks again
            self._messages.popleft()
            if len(self._messages) < QUEUE_LIMIT // 2:
                self._transport.resume_reading()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """See the ASGI specification."""
        if self.closed:
            raise OSError("the client has gone")
        if message["type"] == "websocket.close":
            self._transport.close(int(message.get("code") or CloseCode.NORMAL), message.get("reason") or "")
        elif message["type"] == "websocket.send":
            text = message.get("text")
            data = message["bytes"] if text is None else text.encode()
            if not self._transport.write([self._transport.frame(data, binary=text is None)]):
                self._writable.clear()
                await self._writable.wait()
        else:
            raise RuntimeError(f"unexpected ASGI message {message['type']!r} on an open WebSocket")
