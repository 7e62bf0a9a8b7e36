"""Keeping what handlers change in the session of their connection. Only apps that have sessions are wrapped in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from aquilia.faults import Fault
from aquilia.sessions import Session

__all__ = ["saving"]


class _Visitor(Protocol):
    @property
    def session(self) -> Any: ...


Visitor = TypeVar("Visitor", bound=_Visitor)
More = ParamSpec("More")


def saving(
    handle: Callable[Concatenate[Visitor, More], Awaitable[Any]],
) -> Callable[Concatenate[Visitor, More], Awaitable[Any]]:
    """What handles an event or an end of a connection; behind it the session is saved, before the ack goes out.

    So it is where all went well, or a fault refused it. What failed, or could not be saved, is undone.
    """

    async def saved(visitor: Visitor, /, *more: More.args, **names: More.kwargs) -> Any:
        session = visitor.session
        if not isinstance(session, Session):  # a middleware put one of its own kind there
            return await handle(visitor, *more, **names)
        refused: Fault | None = None
        try:
            try:
                result = await handle(visitor, *more, **names)
            except Fault as fault:
                refused = fault
            await session.save()
        except BaseException:  # a fault of the store too
            session._undo()
            raise
        if refused is not None:
            try:
                raise refused
            finally:
                del refused  # whose traceback leads back to this frame: both would keep the message
        return result

    return saved
