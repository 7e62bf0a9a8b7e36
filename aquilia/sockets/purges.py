"""Rooms that were purged a while ago: who was in one before that does not come back into it.

Pure: times are seconds since 1970. A node remembers what it heard of for as long as a session may wait for its
client; one that starts later has heard nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from aquilia.sockets.resume.records import RESUME_WINDOW

__all__ = ["Purges"]

KEPT = RESUME_WINDOW + 30.0
"""Seconds: the record of a node that died may be half a minute older than it says."""
MOST = 10_000
"""Rooms that are remembered; beyond, the oldest are not."""


class Purges:
    """What one node has heard of."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    def note(self, namespace: str, room: str, now: float) -> None:
        """A room is being purged."""
        at = self._at
        at.pop((namespace, room), None)
        while at and (len(at) >= MOST or next(iter(at.values())) + KEPT <= now):
            at.popitem(last=False)
        at[namespace, room] = now

    def bar(self, namespace: str, room: str, session: Entered | None, now: float) -> bool:
        """Whether a room was purged since the client of a session entered any."""
        at = self._at.get((namespace, room)) if self._at else None
        return at is not None and session is not None and session.entered <= at and now < at + KEPT


class Entered(Protocol):
    """A session."""

    @property
    def entered(self) -> float:
        """When its client last entered a room."""
