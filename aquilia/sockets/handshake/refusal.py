"""How a handshake ends before there is a connection: the responses, and how a client is told of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aquilia.faults import Fault, FaultEngine
from aquilia.sockets.audit.records import AuditLog, security_event
from aquilia.sockets.faults import CLOSE_FOR_STATUS, CloseCode, ws_internal_error
from aquilia.sockets.handshake.offered_credentials import CREDENTIALS, Credential
from aquilia.sockets.handshake.request import wants_v1
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.transports.base import NATIVE

__all__ = [
    "Door",
    "Refusals",
    "admitted",
    "note_cookie",
    "note_response",
    "refusal",
    "unknown_client",
    "upgrade_headers",
]

MAX_RETRY_AFTER = 3600
"""Seconds that a client is asked to wait at most, however slow the rate is."""
# Overload is not among them: it is refused before an upgrade adds to it.
_CLOSES = CLOSE_FOR_STATUS | {400: CloseCode.BAD_HELLO}
_CHALLENGE = {"WS_TOKEN_EXPIRED": 'Bearer error="invalid_token"'}
"""What a 401 must say (RFC 9110 section 15.5.2), by RFC 6750."""


@dataclass(frozen=True, slots=True)
class Door:
    """A handshake that has not been answered yet."""

    scope: Scope
    receive: Receive
    send: Send
    pattern: str
    carried: tuple[Credential, ...] = ()
    """What its query held."""

    @property
    def offered(self) -> list[str]:
        """The client's subprotocols."""
        return self.scope.get("subprotocols") or []

    @property
    def native(self) -> Any:
        """What takes the connection over from the native transport; None under any other server."""
        return (self.scope.get("extensions") or {}).get(NATIVE)


def admitted() -> Response:
    """What handshake middleware gets for a connection that may be opened; it may add headers."""
    response = Response(status_code=101)
    del response.headers["content-length"]
    return response


def upgrade_headers(response: Response) -> list[tuple[bytes, bytes]]:
    """The headers to send with the upgrade."""
    skipped = (b"content-length", b"content-type")
    return [(name, value) for name, value in response.raw_headers if name not in skipped]


def refusal(fault: Fault) -> Response:
    """The response that tells of a fault."""
    body = msgspec.json.encode({"code": fault.code, "message": fault.message})
    headers = {"www-authenticate": _CHALLENGE.get(fault.code, "Bearer")} if fault.status == 401 else None
    return Response(body, fault.status, headers, media_type="application/json")


def note_response(
    audit: AuditLog, scope: Scope, response: Response, *, pattern: str, identity: Any = None
) -> None:
    """Audit what an HTTP request is answered with, if it touches security."""
    code, message = _told_by(response)
    fault = Fault(code, message, status=response.status_code)
    event = security_event(fault, opening=False)
    if event is None:
        return
    offered = any(name == b"authorization" for name, _ in scope["headers"])
    audit.note(
        event,
        scope,
        outcome="refused",
        code=code,
        identity=identity,
        message=scope["method"],
        reason=_reason(event, message, offered=offered),
        pattern=pattern,
    )


def unknown_client(audit: AuditLog, scope: Scope, reason: str) -> Response:
    """The response to an HTTP request of whom nobody knows where it came from; it is audited."""
    fault = Fault("HTTP_BAD_REQUEST", reason, status=400)
    audit.note(
        "handshake.refused",
        scope,
        outcome="refused",
        code=fault.code,
        message=scope["method"],
        reason=reason,
    )
    return refusal(fault)


def note_cookie(audit: AuditLog, connection: HTTPConnection, reason: str) -> None:
    """Audit that a session cookie was not accepted; who brings it goes on as somebody new."""
    audit.note(
        "authentication.failed",
        connection.scope,
        outcome="refused",
        message=connection.scope.get("method", ""),
        reason=reason,
    )


def _reason(event: str, message: str, *, offered: bool) -> str:
    """What the client was told; of a failed authentication less: who looked at the token may have put it there."""
    return f"{'a' if offered else 'no'} token was offered" if event == "authentication.failed" else message


class Refusals:
    """Says no at the door, and tells the metrics and the audit of it.

    `absence` gives the seconds until the next process serves; None while this one does not leave.
    """

    def __init__(
        self, engine: FaultEngine, recorder: Recorder, audit: AuditLog, absence: Callable[[], float | None]
    ) -> None:
        self._engine = engine
        self._recorder = recorder
        self._audit = audit
        self._absence = absence

    def response(
        self,
        error: Exception,
        where: str = "handshake",
        *,
        pattern: str | None = None,
        namespace: str | None = None,
    ) -> Response:
        """What a client is answered for an error; `where` tells the log what failed."""
        about = {"pattern": pattern, "namespace": namespace}
        told = {name: value for name, value in about.items() if value is not None}
        return refusal(self._engine.process(error, where, internal=ws_internal_error, about=told))

    async def refuse(self, door: Door, error: Exception, *, by_close: bool = True) -> None:
        """Refuse a client for an error."""
        await self.send(door, self.response(error), by_close=by_close)

    async def limit(self, door: Door, limit: str, fault: Fault, *, retry_after: float | None = None) -> None:
        """Refuse a client by a limit, before an upgrade adds to it."""
        self._recorder.limited(door.pattern, limit)
        response = self.response(fault)
        if retry_after is not None:
            _ask_to_wait(response, min(retry_after, MAX_RETRY_AFTER))
        await self.send(door, response, by_close=False)

    async def send(
        self, door: Door, response: Response, *, by_close: bool = True, identity: Any = None
    ) -> None:
        """Refuse a client by this response, which may be a middleware's.

        `by_close`: a v1 client in a browser cannot read the status, so it is let in and told by a code.
        """
        code, message = _told_by(response)
        self._recorder.handshake(door.pattern, code)
        self._note(door, Fault(code, message, status=response.status_code), identity)
        if response.status_code == 503 and (absence := self._absence()) is not None:
            _ask_to_wait(response, absence)
        close = _close_for(code, response.status_code) if by_close and wants_v1(door.offered) else None
        if close is None:
            await _answer(door, response)
        else:
            await _let_in_and_close(door, close, code)

    def _note(self, door: Door, fault: Fault, identity: Any) -> None:
        event = security_event(fault, opening=True)
        if event is None:
            return
        offered = bool(door.carried) or _had_credential(door)
        self._audit.note(
            event,
            door.scope,
            outcome="refused",
            code=fault.code,
            identity=identity,
            reason=_reason(event, fault.message, offered=offered),
            pattern=door.pattern,
        )


def _told_by(response: Response) -> tuple[str, str]:
    """The code and the message of the fault in a response; of one that a middleware made, its status."""
    try:
        told = msgspec.json.decode(response.body)
        return str(told["code"]), str(told.get("message", ""))
    except (AttributeError, msgspec.DecodeError, KeyError, TypeError):
        return f"HTTP {response.status_code}", ""


def _ask_to_wait(response: Response, seconds: float) -> None:
    response.headers["retry-after"] = str(math.ceil(seconds))  # RFC 9110 section 10.2.3


def _had_credential(door: Door) -> bool:
    return any(name == b"authorization" for name, _ in door.scope["headers"]) or any(
        entry.startswith(CREDENTIALS) for entry in door.offered
    )


def _close_for(code: str, status: int) -> CloseCode | None:
    """The close code that says it; None where a response has to. A page of a foreign origin is never let in."""
    if code == "WS_ORIGIN_NOT_ALLOWED":
        return None
    return CloseCode.OVER_QUOTA if code == "WS_QUOTA_EXCEEDED" else _CLOSES.get(status)


async def _let_in_and_close(door: Door, close: CloseCode, code: str) -> None:
    reason = code.encode()[:123].decode(errors="ignore")  # RFC 6455 section 5.5
    v1 = next(name for name in door.offered if name.startswith("aquilia.v1."))
    await door.send({"type": "websocket.accept", "subprotocol": v1})
    await door.send({"type": "websocket.close", "code": int(close), "reason": reason})


async def _answer(door: Door, response: Response) -> None:
    if "websocket.http.response" in (door.scope.get("extensions") or {}):
        start = {
            "type": "websocket.http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await door.send(start)
        await door.send({"type": "websocket.http.response.body", "body": response.body})
    else:
        await door.send({"type": "websocket.close", "code": int(CloseCode.NORMAL)})
