"""Who wants to know of each session that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aquilia.sessions.session import Session

__all__ = ["SessionWatcher"]


class SessionWatcher(Protocol):
    """Is told by an engine which of its sessions end, and says which of them are over: see `SessionEngine.watch`.

    One that expires is told by nobody.
    """

    async def end_session(self, id: str) -> None:
        """A session ends: by a logout, since it lost its last key, or since somebody else logs in to it.

        All that is of its lineage ends with it. What is raised keeps it from ending, but for the last key, and goes
        to who wanted that.
        """
        ...

    async def over(self, session: Session) -> bool:
        """Asked of each session that comes with a request: was it, or who is logged in, shut out?"""
        ...
