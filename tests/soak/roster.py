"""Who is in a room, as one client was told."""

from __future__ import annotations

from aquilia.client import Presence


class Roster:
    """What the frames of one room add up to."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.leaves = 0
        """How often it was told that somebody has gone."""

    def take(self, notice: Presence) -> None:
        if notice.count is not None:  # it takes the place of all that was known
            self.ids.clear()
        self.leaves += len(notice.leaves)
        self.ids -= notice.leaves.keys()
        self.ids |= notice.joins.keys()
