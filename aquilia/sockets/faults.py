"""The WS_* faults: one factory for each row of the fault table, and the close codes of the wire protocol."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from aquilia.faults import Fault, FaultDomain, Severity

__all__ = [
    "CLOSE_FOR_STATUS",
    "ClientFault",
    "CloseCode",
    "SocketFault",
    "ws_ack_timeout",
    "ws_adapter_unavailable",
    "ws_already_handled",
    "ws_already_subscribed",
    "ws_auth_required",
    "ws_connection_closed",
    "ws_connection_timeout",
    "ws_forbidden",
    "ws_handshake_failed",
    "ws_internal_error",
    "ws_kicked",
    "ws_message_invalid",
    "ws_messages_dropped",
    "ws_namespace_not_found",
    "ws_not_subscribed",
    "ws_origin_not_allowed",
    "ws_overloaded",
    "ws_payload_too_large",
    "ws_publish_failed",
    "ws_quota_exceeded",
    "ws_rate_limit_exceeded",
    "ws_room_full",
    "ws_room_not_found",
    "ws_slow_consumer",
    "ws_taken_over",
    "ws_token_expired",
    "ws_unsupported_event",
]


class CloseCode(enum.IntEnum):
    """WebSocket close codes (RFC 6455 section 7.4, and the private ones of this protocol).

    44xx tell the client to stop, 45xx to come back.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    NOT_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    OVERLOADED = 1013
    BAD_HELLO = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    NO_NAMESPACE = 4404
    KICKED = 4409
    TAKEN_OVER = 4410
    OVER_QUOTA = 4429
    TIMED_OUT = 4508
    RATE_LIMITED = 4529
    TOO_SLOW = 4531


CLOSE_FOR_STATUS = {
    401: CloseCode.UNAUTHENTICATED,
    403: CloseCode.FORBIDDEN,
    404: CloseCode.NO_NAMESPACE,
}
"""What a status of HTTP is as a close code, in a handshake and behind it."""


class SocketFault(Fault):
    """A fault of the NETWORK domain.

    `close_code` is set where an open connection ends with it.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        severity: Severity = Severity.WARN,
        retryable: bool = False,
        status: int = 500,
        close_code: int | None = None,
        details: Sequence[Any] = (),
    ) -> None:
        super().__init__(
            code,
            message,
            domain=FaultDomain.NETWORK,
            severity=severity,
            retryable=retryable,
            status=status,
            details=details,
        )
        self.close_code = close_code

    @property
    def recoverable(self) -> bool:
        """Whether the connection that met this fault goes on."""
        return self.close_code is None


class ClientFault(SocketFault):
    """The error with which a client answered a `request`: its code and message are the client's own words."""


def ws_handshake_failed(message: str) -> SocketFault:
    """The opening handshake, or the `hello` of protocol v1, is malformed."""
    return SocketFault(
        "WS_HANDSHAKE_FAILED", message, severity=Severity.ERROR, status=400, close_code=CloseCode.BAD_HELLO
    )


def ws_auth_required(message: str = "authentication is required") -> SocketFault:
    """No credentials, or none that are valid."""
    return _unauthenticated("WS_AUTH_REQUIRED", message)


def ws_token_expired(message: str = "the token has expired") -> SocketFault:
    """The credentials were valid once."""
    return _unauthenticated("WS_TOKEN_EXPIRED", message)


def _unauthenticated(code: str, message: str) -> SocketFault:
    return SocketFault(code, message, retryable=True, status=401, close_code=CloseCode.UNAUTHENTICATED)


def ws_forbidden(message: str = "not allowed") -> SocketFault:
    """A guard refused the handshake, or one message."""
    return SocketFault("WS_FORBIDDEN", message, status=403)


def ws_origin_not_allowed(origin: str) -> SocketFault:
    """The page that opened the connection is of a foreign origin. Always refused before the upgrade."""
    return SocketFault("WS_ORIGIN_NOT_ALLOWED", f"origin {origin!r} is not allowed", status=403)


def ws_namespace_not_found(path: str) -> SocketFault:
    """No controller serves this path."""
    return SocketFault(
        "WS_NAMESPACE_NOT_FOUND",
        f"no socket controller serves {path!r}",
        status=404,
        close_code=CloseCode.NO_NAMESPACE,
    )


def ws_message_invalid(message: str, details: Sequence[Any] = ()) -> SocketFault:
    """A message that is no envelope, or whose payload has the wrong shape.

    Each of `details` is `{"path": …, "expected": …, "got": …}`.
    """
    return SocketFault("WS_MESSAGE_INVALID", message, retryable=True, details=details)


def ws_unsupported_event(event: str, known: Iterable[str] = ()) -> SocketFault:
    """No handler for this event. The nearest of the `known` names are shown: pass them in development only."""
    near = get_close_matches(event, list(known), n=3)
    hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return SocketFault("WS_UNSUPPORTED_EVENT", f"event {event!r} is not supported here{hint}")


def ws_payload_too_large(size: int, limit: int, what: str = "message") -> SocketFault:
    """A message, or `what` is said, above its limit, in bytes."""
    return SocketFault(
        "WS_PAYLOAD_TOO_LARGE",
        f"a {what} of {size} bytes is above the limit of {limit}",
        status=413,
        close_code=CloseCode.TOO_BIG,
    )


def ws_rate_limit_exceeded(message: str, *, close: bool = False) -> SocketFault:
    """Too many messages for now; `close` once the client has ignored that too often."""
    return SocketFault(
        "WS_RATE_LIMIT_EXCEEDED",
        message,
        retryable=True,
        status=429,
        close_code=CloseCode.RATE_LIMITED if close else None,
    )


def ws_quota_exceeded(message: str, *, close: bool = True) -> SocketFault:
    """Over a quota that waiting does not refill; not `close` where only the message is refused."""
    return SocketFault(
        "WS_QUOTA_EXCEEDED", message, status=429, close_code=CloseCode.OVER_QUOTA if close else None
    )


def ws_overloaded(message: str) -> SocketFault:
    """The server cannot take this now."""
    return SocketFault("WS_OVERLOADED", message, severity=Severity.ERROR, retryable=True, status=503)


def ws_room_not_found(room: str) -> SocketFault:
    """The room does not exist for this client."""
    return SocketFault("WS_ROOM_NOT_FOUND", f"there is no room {room!r}", retryable=True)


def ws_room_full(room: str, size: int) -> SocketFault:
    """The room has its `room_size` of members."""
    return SocketFault("WS_ROOM_FULL", f"room {room!r} is full ({size} members)", retryable=True)


def ws_not_subscribed(room: str) -> SocketFault:
    """The client is not in the room that it speaks to."""
    return SocketFault("WS_NOT_SUBSCRIBED", f"not in room {room!r}", retryable=True)


def ws_already_handled(limit: int) -> SocketFault:
    """A message came again whose first answer was larger than what is remembered, in bytes, or none at all."""
    return SocketFault(
        "WS_ALREADY_HANDLED",
        f"this message was handled; its answer was not kept: it was above {limit} bytes, or nothing that can be sent",
        severity=Severity.INFO,
        status=409,
    )


def ws_already_subscribed(room: str) -> SocketFault:
    """The client is in that room already."""
    return SocketFault("WS_ALREADY_SUBSCRIBED", f"already in room {room!r}", severity=Severity.INFO)


def ws_connection_closed() -> SocketFault:
    """Raised to a handler that writes to a client which has gone."""
    return SocketFault("WS_CONNECTION_CLOSED", "the connection is closed", severity=Severity.INFO)


def ws_connection_timeout(message: str) -> SocketFault:
    """The client was silent for too long."""
    return SocketFault("WS_CONNECTION_TIMEOUT", message, retryable=True, close_code=CloseCode.TIMED_OUT)


def ws_ack_timeout(event: str, seconds: float) -> SocketFault:
    """Raised by `request`: the client did not answer in time."""
    return SocketFault("WS_ACK_TIMEOUT", f"no ack of {event!r} within {seconds:g} s", retryable=True)


def ws_adapter_unavailable(
    message: str, shown: str = "the broker cannot be reached now: try again later"
) -> SocketFault:
    """The broker or the store cannot be reached. Where it is is no client's business: that is told `shown`."""
    fault = SocketFault(
        "WS_ADAPTER_UNAVAILABLE", message, severity=Severity.FATAL, retryable=True, status=503
    )
    fault.shown = shown
    return fault


def ws_publish_failed(message: str) -> SocketFault:
    """A publication was not taken."""
    return SocketFault("WS_PUBLISH_FAILED", message, severity=Severity.ERROR, retryable=True)


def ws_messages_dropped(count: int = 0) -> SocketFault:
    """Told to a plain client in the place of the messages that it lost; 0: nobody knows how many."""
    if not count:
        return SocketFault("WS_MESSAGES_DROPPED", "messages were lost on their way to this server")
    return SocketFault("WS_MESSAGES_DROPPED", f"{count} messages were dropped: you read too slowly")


def ws_slow_consumer() -> SocketFault:
    """The outbox overflowed under the strategy `buffer` or `disconnect`."""
    return SocketFault(
        "WS_SLOW_CONSUMER", "you read too slowly", retryable=True, close_code=CloseCode.TOO_SLOW
    )


def ws_kicked(message: str = "kicked") -> SocketFault:
    """An administrator or a controller ended the connection."""
    return SocketFault("WS_KICKED", message, severity=Severity.INFO, close_code=CloseCode.KICKED)


def ws_taken_over() -> SocketFault:
    """A newer connection resumed this one's session."""
    return SocketFault(
        "WS_TAKEN_OVER",
        "taken over by a newer connection",
        severity=Severity.INFO,
        close_code=CloseCode.TAKEN_OVER,
    )


def ws_internal_error(incident: str, *, close: bool = False) -> SocketFault:
    """An unforeseen exception; the log has its traceback under `incident`. `close` while opening."""
    return SocketFault(
        "WS_INTERNAL_ERROR",
        f"internal error, incident {incident}",
        severity=Severity.ERROR,
        close_code=CloseCode.INTERNAL if close else None,
    )
