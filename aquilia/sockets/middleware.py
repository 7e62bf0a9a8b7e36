"""Message middleware: wraps the handling of one event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aquilia.sockets.connection import Connection
    from aquilia.sockets.envelope import MessageEnvelope

__all__ = ["Handle", "SocketMiddleware", "wrap"]

Handle = Callable[["Connection", "MessageEnvelope"], Awaitable[Any]]


class SocketMiddleware(Protocol):
    """`await next(conn, envelope)` goes on to the rest of the chain, and returns the ack's data."""

    async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
        """Handle one event. The envelope's payload is still raw."""


def wrap(middleware: SocketMiddleware, handle: Handle) -> Handle:
    """The handling with one middleware around it."""

    def handle_wrapped(conn: Connection, envelope: MessageEnvelope) -> Awaitable[Any]:
        return middleware(conn, envelope, handle)

    return handle_wrapped
