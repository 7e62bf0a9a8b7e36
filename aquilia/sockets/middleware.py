"""Message middleware: wraps the handling of one event."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aquilia.sockets.connection import Connection
    from aquilia.sockets.envelope import MessageEnvelope

__all__ = ["Handle", "SocketMiddleware", "accepts", "middleware_problems", "wrap"]

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


def middleware_problems(middleware: Sequence[Any]) -> Iterator[str]:
    """Why these could not be called as middleware."""
    for entry in middleware:
        name = getattr(entry, "__qualname__", type(entry).__qualname__)
        if isinstance(entry, type):
            yield f"middleware: {name} is a class; write {name}()"
        elif not callable(entry):
            yield f"middleware: {entry!r} is not callable as (conn, envelope, next)"
        elif not (inspect.iscoroutinefunction(entry) or inspect.iscoroutinefunction(type(entry).__call__)):
            yield f"middleware: {name} is not async; write `async def (conn, envelope, next)`"
        elif not accepts(entry, 3):
            yield f"middleware: {name} must take (conn, envelope, next)"


def accepts(call: Callable[..., Any], arguments: int) -> bool:
    """Whether it can be called with so many positional arguments, as far as its signature tells."""
    try:
        inspect.signature(call).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # compiled code may have no signature
        return True
    return True
