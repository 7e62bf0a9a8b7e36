"""One HTTP exchange as ASGI messages: the path in the mount, a bound on the request, the reply on its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

from aquilia.http_faults import http_payload_too_large

__all__ = ["Reply", "bounded", "route_path"]


def route_path(scope: Mapping[str, Any]) -> str:
    """The decoded path of a request or handshake, without the prefix that the application is mounted at."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def bounded(receive: Receive, headers: Headers, limit: int) -> Receive:
    """`receive`, which raises `HTTP_PAYLOAD_TOO_LARGE` once the body is above `limit` bytes.

    A body that announces its size is refused before its first byte is asked for.
    """
    size = headers.get("content-length", "")
    announced = int(size) if size.isascii() and size.isdigit() else 0
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        if announced > limit:
            raise http_payload_too_large(limit)
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise http_payload_too_large(limit)
        return message

    return receive_bounded


_CONTENT = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")


class Reply:
    """`send`, which knows how far the response has got, and leaves out the body if it answers a HEAD."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self.started = False
        self.finished = False
        self._send = send
        self._head = head

    async def __call__(self, message: Message) -> None:
        """Send one message. Raises ClientDisconnect if the server says that nobody is there (ASGI 2.4)."""
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
        elif kind in _CONTENT:
            self.finished = not message.get("more_body", False)
        if self._head and kind == "http.response.body":
            message = {**message, "body": b""}
        try:
            await self._send(message)
        except OSError:
            raise ClientDisconnect from None
