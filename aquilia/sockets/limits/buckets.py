"""Limits of time, and those that count over it. Pure: the time, in seconds, is passed in."""

from __future__ import annotations

from collections import deque
from math import isnan

__all__ = ["ByteBucket", "Strikes", "TokenBucket", "require_timeout"]


def require_timeout(seconds: float) -> None:
    """See to it that a user's timeout is one.

    Raises:
        ValueError: it is not a number.
    """
    if isnan(seconds):  # asyncio would take it, and keep no other timer in order
        raise ValueError("timeout: a number of seconds is needed, not nan")


class TokenBucket:
    """`rate` tokens a second, up to `burst` saved. It starts full."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"a rate above 0 and a burst of at least 1 are needed, not {rate} and {burst}")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none. A clock that goes back refills nothing."""
        tokens = self._tokens
        passed = now - self._at
        if passed > 0:
            tokens += passed * self.rate
            if tokens > self.burst:
                tokens = self.burst
            self._at = now
        taken = tokens >= 1
        self._tokens = tokens - 1 if taken else tokens
        return taken


class ByteBucket:
    """`rate` bytes a second, up to `burst` saved. It starts full.

    What comes passes whole, while anything is left; what it has too much is owed by those behind. So a message of any
    size passes some day, and one more than the rate says at most.
    """

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"a rate above 0 and a burst of at least 1 are needed, not {rate} and {burst}")
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = now

    def take(self, size: int, now: float) -> bool:
        """Take so many bytes; False if none are left. A clock that goes back refills nothing."""
        passed = now - self._at
        if passed > 0:
            self._left = min(self.burst, self._left + passed * self.rate)
            self._at = now
        if self._left < 1:
            return False
        self._left -= size
        return True


class Strikes:
    """Remembers refusals, and says when there were `limit` of them within `window` seconds."""

    __slots__ = ("_times", "limit", "window")

    def __init__(self, limit: int, window: float) -> None:
        self.limit = limit
        self.window = window
        self._times: deque[float] = deque(maxlen=limit)

    def strike(self, now: float) -> bool:
        """Count one. True: that was one too many."""
        self._times.append(now)
        return len(self._times) == self.limit and now - self._times[0] <= self.window
