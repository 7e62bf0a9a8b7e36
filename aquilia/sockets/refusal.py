"""How a handshake ends before there is a connection: the responses, and how a client is told of them."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Scope, Send

from aquilia.faults import Fault
from aquilia.sockets.audit import AuditLog, security_event
from aquilia.sockets.faults import CLOSE_FOR_STATUS, CloseCode
from aquilia.sockets.offered import CREDENTIALS

__all__ = ["admitted", "code_of", "note_refusal", "refusal", "refuse", "upgrade_headers"]

# Overload is not among them: it is refused before an upgrade adds to it.
_CLOSES = CLOSE_FOR_STATUS | {400: CloseCode.BAD_HELLO}
_CHALLENGE = {"WS_TOKEN_EXPIRED": 'Bearer error="invalid_token"'}
"""What a 401 must say (RFC 9110 section 15.5.2), by RFC 6750."""


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


def code_of(response: Response) -> str:
    """The fault in a response; for one that a middleware made, its status."""
    try:
        return str(msgspec.json.decode(response.body)["code"])
    except (AttributeError, msgspec.DecodeError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


def note_refusal(
    audit: AuditLog,
    scope: Scope,
    pattern: str,
    response: Response,
    identity: Any = None,
    *,
    carried: bool = False,
) -> None:
    """Tell the audit that a handshake is refused with this response. `carried`: its query had a credential."""
    told = code_of(response)
    fault = Fault(told, _message(response), status=response.status_code)
    event = security_event(fault, opening=True)
    if event is None:
        return
    reason = fault.message
    if event == "authentication.failed":  # whoever looked at the token may have put it there
        reason = f"{'a' if carried or _had_credential(scope) else 'no'} token was offered"
    audit.note(event, scope, outcome="refused", code=told, identity=identity, reason=reason, pattern=pattern)


def _message(response: Response) -> str:
    """What the fault in a response says; nothing of one that a middleware made."""
    try:
        return str(msgspec.json.decode(response.body)["message"])
    except (AttributeError, msgspec.DecodeError, KeyError, TypeError):
        return ""


def _had_credential(scope: Scope) -> bool:
    offered = scope.get("subprotocols") or ()
    return any(name == b"authorization" for name, _ in scope["headers"]) or any(
        entry.startswith(CREDENTIALS) for entry in offered
    )


async def refuse(scope: Scope, send: Send, response: Response, *, by_close: bool) -> None:
    """Say no. `by_close`: a v1 client in a browser cannot read the status, so it is let in and told by a code.

    A page of a foreign origin is never let in.
    """
    told = code_of(response)
    code = _CLOSES.get(response.status_code) if told != "WS_QUOTA_EXCEEDED" else CloseCode.OVER_QUOTA
    if by_close and code is not None and told != "WS_ORIGIN_NOT_ALLOWED":
        reason = told.encode()[:123].decode(errors="ignore")  # RFC 6455 section 5.5
        v1 = next(name for name in scope["subprotocols"] if name.startswith("aquilia.v1."))
        await send({"type": "websocket.accept", "subprotocol": v1})
        await send({"type": "websocket.close", "code": int(code), "reason": reason})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await send({"type": "websocket.http.response.body", "body": response.body})
    else:
        await send({"type": "websocket.close", "code": int(CloseCode.NORMAL)})
