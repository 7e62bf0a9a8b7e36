"""A rate that all nodes hold together: what one of them lets through, and when it tells the others. Pure: the time,
in seconds, is passed in.

The store has a record for each who is limited: what was left, and when. A node lets through up to half of what is
left as far as it knows, without asking, and tells of it behind: all that passes is counted once, and what was too
much is owed. So nothing waits, and nodes that know nothing of each other pass half of what may come at once each.
"""

from __future__ import annotations

import msgspec

__all__ = ["Level", "Share"]

VERSION = 1
PART = 0.5
"""Of what is left, this much may pass before the others know of it."""
STEP = 0.25
"""Seconds whose worth passes before a node tells of it: one far below the rate asks the store for nothing."""
IDLE = 60.0
"""Seconds after which a node forgets what is full again: what it has not told, a quarter second's worth, is lost."""
_ONE = 1 - 1e-3
"""A token, as it comes out of the sums of moments since 1970."""


class Level(msgspec.Struct, frozen=True, array_like=True):
    """What the store has: the tokens that were left at a moment, by the clock that the nodes share."""

    version: int
    at: float
    tokens: float

    @classmethod
    def full(cls, burst: float, at: float) -> Level:
        """That of one who has used nothing."""
        return cls(VERSION, at, burst)

    def pack(self) -> bytes:
        """Its bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def read(cls, data: bytes | None) -> Level | None:
        """What was packed; None where there is nothing, or that of a later version."""
        try:
            found = None if data is None else _read(data)
        except msgspec.MsgspecError:
            return None
        return found if found is not None and found.version == VERSION else None

    def after(self, rate: float, burst: float, used: float, now: float) -> Level:
        """The level now, when so many tokens more were used. A clock that goes back refills nothing."""
        return Level(VERSION, now, min(burst, self.tokens + max(0.0, now - self.at) * rate) - used)


_read = msgspec.msgpack.Decoder(Level).decode


class Share:
    """What one node lets through: `rate` tokens a second with the others, up to `burst` saved. It starts full."""

    __slots__ = ("_known", "_seen", "alone", "ask_at", "asking", "burst", "due", "rate", "step", "used")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.step = max(1.0, rate * STEP)
        """So much passes before the others are told."""
        self._known = Level.full(burst, now)
        self._seen = now
        self.used = 0.0
        """What passed here, and the others do not know of."""
        self.due = False
        """Whether it is time to tell them."""
        self.asking = self.alone = False
        """Whether they are being told; and whether nobody could be, the last time."""
        self.ask_at = now
        """When they may be told again."""

    def take(self, amount: float, now: float) -> bool:
        """Let so many tokens pass, if one of them may: what they are too many is owed. False: they may not."""
        self._seen = now
        level = self._known.after(self.rate, self.burst, 0, now).tokens
        left = max(level * PART, 1.0) - self.used if level >= _ONE else 0.0
        taken = left >= _ONE
        if taken:
            self.used += amount
            left -= amount
        self.due = self.used >= self.step or (self.used > 0 and left < _ONE)
        return taken

    def told(self, level: float, used: float, now: float) -> None:
        """The others know of so much that was `used`, and this is what is left for all."""
        self._known = Level.full(level, now)
        self.used -= used
        self.alone = False

    def go_alone(self, now: float) -> None:
        """Nobody can be told: go on as if this were the only node."""
        self._known = self._known.after(self.rate, self.burst, self.used, now)
        self.used = 0.0
        self.alone = True

    def forgettable(self, now: float) -> bool:
        """Whether a new one would let through the same."""
        silent = now - self._seen
        full = self._known.tokens + silent * self.rate - self.used >= self.burst
        return full and silent >= IDLE and not self.asking
