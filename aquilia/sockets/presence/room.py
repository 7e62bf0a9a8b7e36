"""A room with presence, while somebody of this node is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aquilia.sockets.open_namespace import Home
from aquilia.sockets.presence.roster import Roster
from aquilia.sockets.presence.showing import Showing

__all__ = ["AttendedRoom", "Key"]

Key = tuple[str, str]
"""The namespace, and the room's name."""


class AttendedRoom:
    """What this node knows of the room, and whom it tells."""

    __slots__ = (
        "home", "key", "lock", "missing", "missing_since", "roster", "showing", "subscribed", "synced", "untold",
    )  # fmt: skip

    def __init__(self, home: Home, key: Key, roster: Roster, stopwatch: Callable[[], float]) -> None:
        self.home = home
        self.key = key
        self.roster = roster
        self.showing = Showing(key[1], roster, stopwatch)
        self.lock = asyncio.Lock()
        self.subscribed = False
        self.missing: set[str] = set()
        """The nodes whose entries are not all known,"""
        self.missing_since = 0.0
        """and since when there are any."""
        self.synced = asyncio.Event()
        self.untold = False
        """Whether a change may not have reached the others: they will see a hole."""

    def knows(self, node: str) -> None:
        """The entries of this node are known, or it has none any more."""
        self.missing.discard(node)
        if not self.missing:
            self.synced.set()

    @property
    def waits(self) -> bool:
        """Whether a look at it is needed."""
        return self.roster.waits or self.untold or self.showing.waits or self.roster.idle
