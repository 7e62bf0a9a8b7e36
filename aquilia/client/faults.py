"""What a client raises: each fault keeps its fields, and says what is known of the message that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aquilia.faults import Fault, FaultDomain, Severity

__all__ = [
    "AckTimeout",
    "ClientFault",
    "ConnectionEnded",
    "ConnectionLost",
    "PayloadInvalid",
    "QueueFull",
    "ServerFault",
]


class ClientFault(Fault):
    """All that a client raises about its conversation with the server.

    `retryable` says whether the same may succeed later.
    """

    def __init__(
        self, code: str, message: str, *, retryable: bool = False, details: Sequence[Any] = ()
    ) -> None:
        super().__init__(
            code,
            message,
            domain=FaultDomain.NETWORK,
            severity=Severity.WARN,
            retryable=retryable,
            details=details,
        )


class ServerFault(ClientFault):
    """The server answered with an error: its code, message, details and `retryable` are the server's words."""


class PayloadInvalid(ClientFault):
    """What came is not of the type that was asked for. `details` has every wrong field: path, expected, got."""

    def __init__(self, event: str, message: str, details: Sequence[Any]) -> None:
        super().__init__(
            "WS_MESSAGE_INVALID", f"what came for {event!r} is of another type: {message}", details=details
        )
        self.event = event


class AckTimeout(ClientFault):
    """No ack came in time. `sent`: whether the message had left at all; if so, it may have been handled."""

    def __init__(self, event: str, seconds: float, *, sent: bool) -> None:
        known = "it may have been handled" if sent else "it was never sent"
        super().__init__(
            "WS_ACK_TIMEOUT", f"no ack of {event!r} within {seconds:g} s; {known}", retryable=True
        )
        self.event = event
        self.seconds = seconds
        self.sent = sent


class ConnectionLost(ClientFault):
    """The connection ended between a message and its ack: it is not known whether the server handled it.

    A call that says `idempotent=True` is sent again instead.
    """

    def __init__(self, event: str, close_code: int, reason: str) -> None:
        told = f" ({reason})" if reason else ""
        super().__init__(
            "WS_CONNECTION_LOST",
            f"the connection ended with {close_code}{told} before {event!r} was answered: "
            "it is not known whether it was handled",
        )
        self.event = event
        self.close_code = close_code
        self.reason = reason


class ConnectionEnded(ClientFault):
    """The client has stopped, and does not come back by itself.

    `close_code` is the WebSocket's, `http_status` that of a refused handshake; each None where there was none.
    `code` is the server's own, such as WS_TOKEN_EXPIRED, where it told one.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "WS_CONNECTION_CLOSED",
        close_code: int | None = None,
        http_status: int | None = None,
        reason: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(code, message, retryable=retryable)
        self.close_code = close_code
        self.reason = reason
        self.http_status = http_status

    @property
    def clean(self) -> bool:
        """Whether one of the sides just left: code 1000."""
        return self.close_code == 1000


class QueueFull(ClientFault):
    """More waits to be sent than the client may hold."""

    def __init__(self, messages: int, size: int) -> None:
        super().__init__(
            "WS_QUEUE_FULL",
            f"{messages} messages of {size} bytes wait to be sent already (queue_size, queue_bytes)",
            retryable=True,
        )
        self.messages = messages
        self.size = size
