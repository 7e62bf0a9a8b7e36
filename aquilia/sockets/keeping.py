"""Keeping what handlers change in the session of their connection. Only apps that have sessions are wrapped in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aquilia.faults import Fault
from aquilia.session import Session
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.middleware import Handle

__all__ = ["hook_saving", "saving"]


def saving(handle: Handle) -> Handle:
    """`handle`, behind which the session is saved, before the ack goes out."""

    def saved(conn: Connection, envelope: MessageEnvelope) -> Awaitable[Any]:
        return _saved(conn.session, handle, conn, envelope)

    return saved


def hook_saving(hook: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A hook, behind which the session is saved."""

    def saved(controller: Any, conn: Connection, /, *reason: Any, **services: Any) -> Awaitable[None]:
        return _saved(conn.session, hook, controller, conn, *reason, **services)

    return saved


async def _saved(
    session: Any, function: Callable[..., Awaitable[Any]], /, *arguments: Any, **more: Any
) -> Any:
    """Save behind what went well, or was refused by a fault; what failed, or could not be saved, is undone."""
    if not isinstance(session, Session):  # a middleware put one of its own kind there
        return await function(*arguments, **more)
    try:
        try:
            result = await function(*arguments, **more)
        except Fault:
            await session.save()
            raise
        await session.save()
    except Fault:
        raise
    except BaseException:
        session._undo()
        raise
    return result
