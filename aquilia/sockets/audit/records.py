"""The audit: what happens that touches security, as records without secrets; and who is told of it.

Whatever refuses, ends or revokes tells the process's `AuditLog`: from a controller's connection it is
`conn._hub.audit`. A message that is accepted passes nothing of this.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from msgspec import Struct

from aquilia.faults import Fault

__all__ = ["SUMMED", "WARNINGS", "AuditEvent", "AuditLog", "AuditRecord", "Outcome", "safe", "security_event"]

AuditEvent = Literal[
    "handshake.refused",
    "authentication.failed",
    "access.denied",
    "limit.hit",
    "connection.kicked",
    "credentials.revoked",
    "admin.action",
    "audit.opened",
    "audit.closed",
    "audit.sealed",
    "audit.lost",
]
Outcome = Literal["refused", "closed", "done"]
"""What came of it: no, and the connection goes on, if there is one; it ended; what was meant was done."""

SUMMED = frozenset({"handshake.refused", "authentication.failed", "access.denied", "limit.hit"})
"""What clients cause, as often as they like: it is summed up by the second."""
WARNINGS = frozenset({"authentication.failed", "access.denied", "limit.hit", "audit.sealed", "audit.lost"})
"""What the log has as a warning; the rest is information."""

_TOO_LARGE = ("WS_PAYLOAD_TOO_LARGE", "HTTP_PAYLOAD_TOO_LARGE")
MAX_TEXT = 200
"""Characters of any text in a record, so that no client can make one long."""


class AuditRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, or `count` alike in one second.

    Every text has at most 200 characters, all of them printable. There is no token, cookie, query or payload in it.
    """

    time: str
    """ISO 8601, UTC."""
    event: AuditEvent
    outcome: Outcome
    code: str = ""
    """The fault that the client was answered with."""
    pattern: str = ""
    """The path pattern of the controller; `none` where none serves the path."""
    namespace: str = ""
    """The path itself, without its query."""
    connection: str = ""
    identity: str = ""
    address: str = ""
    """The client's, as the server has it: behind a proxy, what the proxy is trusted to say."""
    origin: str = ""
    message: str = ""
    """The event of the controller that was refused, or the control frame; of an HTTP request the method."""
    reason: str = ""
    count: int = 1


class AuditLog(Protocol):
    """Is told what touches security. Calls come from the event loop's thread; they neither block nor raise."""

    def note(
        self,
        event: AuditEvent,
        about: Any = None,
        *,
        outcome: Outcome,
        code: str = "",
        identity: Any = None,
        message: str = "",
        reason: str = "",
        pattern: str = "",
    ) -> None:
        """Something happened, to the connection, handshake or ASGI scope that it is `about`, if there is one.

        What is not said is taken from there. `reason` is for people; give it no secret, and no client's words.
        """


def security_event(fault: Fault, *, opening: bool) -> AuditEvent | None:
    """What a fault that a client is answered with is for the audit; None: no matter of security.

    An application's own faults count by their status: 401, 403 and 429.
    """
    if fault.code in ("WS_ORIGIN_NOT_ALLOWED", "WS_HANDSHAKE_FAILED"):
        return "handshake.refused"
    if fault.status == 401:
        return "authentication.failed"
    if fault.status == 403:
        return "access.denied"
    if fault.status == 429 or fault.code in _TOO_LARGE or (opening and fault.status == 503):
        return "limit.hit"
    return "handshake.refused" if opening else None


def safe(value: Any) -> str:
    """A value as a short text in which nothing moves a cursor, begins a line or hides what is beside it."""
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else str(value)
    shown = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
    return shown if shown.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in shown)
