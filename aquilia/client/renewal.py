"""When the identity of a link wants a new token: in time before it expires."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Renewal"]

AT_MOST_BEFORE = 60.0
"""Seconds before the expiry. Half of it is for chance: many clients may have come at one moment."""
SHARE = 0.2
"""Of the time that is left: how long before the expiry at most, where that is soon."""
LEAST = 1.0
"""Seconds below which it comes too late: the server ends the link with 4401, and a new one says a new token."""


class Renewal:
    """That of one link. `random` gives numbers from 0 to 1."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._until = math.inf
        self._due: float | None = None

    def good_for(self, seconds: float | None, now: float) -> None:
        """The server says how long the identity is good; None: for good.

        It is its clock that says so: where that differs, the link may end before, or a token be asked for early.
        """
        self._until = math.inf if seconds is None else now + seconds
        left = self._until - now
        before = min(left * SHARE, AT_MOST_BEFORE) * (1 + self._random()) / 2
        self._due = self._until - before if LEAST < left < math.inf else None

    def due(self) -> float | None:
        """When a token is to be asked for; None: not now, or never."""
        return self._due

    def asked(self) -> None:
        """One is asked for."""
        self._due = None

    def failed(self, now: float) -> None:
        """There was none, or it was not taken: once more in half of the time that is left."""
        wait = (self._until - now) / 2
        self._due = now + wait if LEAST <= wait < math.inf else None
