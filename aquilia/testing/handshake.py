"""The opening handshake of a test's client: the request, and what the application answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any
from urllib.parse import quote, unquote, urlencode

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from aquilia.auth import Identity, token_invalid
from aquilia.controller import RequestCtx
from aquilia.middleware import CallNext
from aquilia.sockets.transports.base import NATIVE
from aquilia.testing.wire import Handover, Wire

__all__ = ["HandshakeRefused", "TestIdentities", "Upgrade", "identified", "shake_hands"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 section 5.6.2."""
_IDENTITY = "aquilia.testing.identity"


class HandshakeRefused(Exception):
    """The client was not let in.

    `code` and `message` are those of the fault. `status` is the HTTP status; None for a client of protocol v1 that
    was told by a close code instead, which is then in `close_code`.
    """

    def __init__(
        self, code: str, message: str, *, status: int | None = None, close_code: int | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status
        self.close_code = close_code

    def __str__(self) -> str:
        told = f"HTTP {self.status}" if self.close_code is None else f"close code {self.close_code}"
        return f"{self.code} ({told}): {self.message}" if self.message else f"{self.code} ({told})"

    @classmethod
    def by_close(cls, code: int, reason: str) -> HandshakeRefused:
        """What a close code and its reason tell."""
        fault, _, message = reason.partition(": ")
        return cls(fault or f"close {code}", message, close_code=code)


async def identified(ctx: RequestCtx, call_next: CallNext) -> Any:
    """Handshake middleware: the identity that a test gave its client."""
    identity = ctx.request.scope.get(_IDENTITY)
    if identity is not None:
        ctx.identity = identity
    return await call_next(ctx)


class TestIdentities:
    """The AuthManager of an app that has none, in a test: identities are given to `connect`."""

    async def authenticate(self, token: str) -> Identity:
        """See `AuthManager`."""
        raise token_invalid(
            "the app has no AuthManager: give the test's client an identity instead of a token"
        )


class Upgrade:
    """A handshake as the application sees it, and its answer."""

    def __init__(
        self,
        url: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        subprotocols: Sequence[str],
        identity: Any,
        context: Context,
    ) -> None:
        if not isinstance(url, str) or not url.startswith("/"):
            raise ValueError(f"a path begins with a slash, as /chat/x does, not {url!r}")
        if identity is not None and not hasattr(identity, "id"):
            raise TypeError(f"an identity has an `id`, by which publications find it; {identity!r} has none")
        self.context = context
        """Where the application answers: it is the application's, not the test's."""
        self.wire = Wire(context.copy())
        self.subprotocol: str | None = None
        self.headers = Headers()
        self._accepted = False
        self._start: Message | None = None
        self._body = b""
        self._closed: tuple[int, str] | None = None
        if not all(isinstance(each, str) and _TOKEN.fullmatch(each) for each in subprotocols):
            raise ValueError(f"a subprotocol is a word of ASCII, not one of {subprotocols!r}")
        path, _, search = url.partition("?")
        search = "&".join(filter(None, [search, urlencode(query or {}, doseq=True)]))
        given = _sent(headers or {})
        if subprotocols:
            given["sec-websocket-protocol"] = ", ".join(subprotocols)
        raw = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **given}.items()]
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 50_000),
            "root_path": "",
            "path": unquote(path),
            "raw_path": quote(path, safe="/%:@!$&'()*+,;=~").encode(),
            "query_string": quote(search, safe="/?%:@!$&'()*+,;=~").encode(),
            "headers": raw,
            "subprotocols": list(subprotocols),
            "state": {},
            "extensions": {"websocket.http.response": {}, NATIVE: Handover(self.wire)},
            _IDENTITY: identity,
        }
        self._asked = False

    async def receive(self) -> Message:
        """See the ASGI specification."""
        if self._asked:
            await asyncio.get_running_loop().create_future()  # the client waits for its answer
        self._asked = True
        return {"type": "websocket.connect"}

    async def send(self, message: Message) -> None:
        """See the ASGI specification."""
        match message["type"]:
            case "websocket.accept":
                self._accepted = True
                self.subprotocol = message.get("subprotocol")
                self.headers = Headers(raw=list(message.get("headers", ())))
            case "websocket.close":
                self._closed = (int(message.get("code", 1000)), message.get("reason") or "")
            case "websocket.http.response.start":
                self._start = message
            case "websocket.http.response.body":
                self._body += message.get("body", b"")

    def check(self) -> None:
        """Raise `HandshakeRefused` where the client was not let in."""
        if self._start is not None:
            raise _refused(self._start["status"], self._body)
        if self._closed is not None and self._accepted:
            raise HandshakeRefused.by_close(*self._closed)
        if not self._accepted:
            raise HandshakeRefused("HTTP 403", "", status=403)  # what servers make of it


def _sent(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as servers hand them on: no client can send others."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"the name of a header is a word of ASCII, not {name!r}")
        if not isinstance(value, str) or any(sign in value for sign in "\r\n\0"):
            raise ValueError(f"the header {name!r} is one line of text, not {value!r}")
    return {name.lower(): value for name, value in headers.items()}


def _refused(status: int, body: bytes) -> HandshakeRefused:
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
        return HandshakeRefused(str(told["code"]), str(told.get("message", "")), status=status)
    except (msgspec.MsgspecError, KeyError):
        return HandshakeRefused(f"HTTP {status}", body.decode(errors="replace"), status=status)


async def shake_hands(app: ASGIApp, upgrade: Upgrade) -> None:
    """Let the application answer, in the upgrade's context."""
    call: Any = app(upgrade.scope, upgrade.receive, upgrade.send)
    task = asyncio.get_running_loop().create_task(call, context=upgrade.context)
    try:
        await task
    finally:
        task.cancel()
    upgrade.check()
