"""What the end of a connection says about coming back: close codes, HTTP statuses, and the delay before it."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable

import msgspec

from aquilia.sockets.faults import CloseCode

__all__ = ["Advice", "Backoff", "advice_of_code", "advice_of_status", "delay_told", "described", "fault_code"]

LONGEST = 3600.0
"""Seconds: the longest delay that a server can ask for."""
RESTART_PATIENCE = 30.0
"""Seconds for which a server that restarts is tried without waiting longer each time."""
_MOST_DOUBLINGS = 30


class Advice(enum.Enum):
    """What to do after an end."""

    RETURN = "return"
    STOP = "stop"
    RENEW = "renew"
    """Stop until there is a new token."""
    TAKEN_OVER = "taken over"
    """A newer connection has the session."""


_STOP = {
    CloseCode.NORMAL,
    CloseCode.PROTOCOL_ERROR,
    CloseCode.UNSUPPORTED_DATA,
    CloseCode.NOT_UTF8,
    CloseCode.POLICY,
    CloseCode.TOO_BIG,
}
_PASSING = {408, 425, 429}
"""The 4xx that speak of this moment only."""
_WORDS = {
    CloseCode.NORMAL: "normal closure",
    CloseCode.GOING_AWAY: "going away",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.UNSUPPORTED_DATA: "unsupported data",
    CloseCode.NO_STATUS: "no code was told",
    CloseCode.ABNORMAL: "the link broke",
    CloseCode.NOT_UTF8: "not UTF-8",
    CloseCode.POLICY: "policy",
    CloseCode.TOO_BIG: "message too big",
    CloseCode.INTERNAL: "internal error of the server",
    CloseCode.RESTART: "the server restarts",
    CloseCode.OVERLOADED: "the server is overloaded",
    CloseCode.BAD_HELLO: "bad hello, or a malformed token",
    CloseCode.UNAUTHENTICATED: "unauthenticated, or the identity expired",
    CloseCode.FORBIDDEN: "forbidden",
    CloseCode.NO_NAMESPACE: "no such namespace",
    CloseCode.KICKED: "kicked",
    CloseCode.TAKEN_OVER: "taken over by a newer connection",
    CloseCode.OVER_QUOTA: "over quota",
    CloseCode.TIMED_OUT: "timed out",
    CloseCode.RATE_LIMITED: "rate limit",
    CloseCode.TOO_SLOW: "too slow to read",
}


def advice_of_code(code: int) -> Advice:
    """What a close code asks for: 44xx stop, 45xx and unknown ones come back."""
    if code == CloseCode.UNAUTHENTICATED:
        return Advice.RENEW
    if code == CloseCode.TAKEN_OVER:
        return Advice.TAKEN_OVER
    return Advice.STOP if code in _STOP or 4400 <= code <= 4499 else Advice.RETURN


def advice_of_status(status: int, code: str = "") -> Advice:
    """What the HTTP status of a refused handshake asks for, and the code of the fault that came with it."""
    if status == 401:
        return Advice.RENEW
    if code == "WS_QUOTA_EXCEEDED":  # a 429 for good, as the close code 4429
        return Advice.STOP
    return Advice.STOP if status < 500 and status not in _PASSING else Advice.RETURN


def described(code: int, reason: str) -> str:
    """A close code in words, with its reason."""
    words = _WORDS.get(code)  # type: ignore[call-overload]
    return f"{code}" + (f" ({words})" if words else "") + (f": {reason}" if reason else "")


def fault_code(reason: str) -> str | None:
    """The code of the fault that a close reason begins with, as in `WS_TOKEN_EXPIRED: the token has expired`."""
    found = re.match(r"([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?::|$)", reason)
    return found[1] if found else None


class _Told(msgspec.Struct):
    after: float


def delay_told(reason: str) -> float | None:
    """The seconds that a close reason such as `{"after": 500}` asks to stay away, at most an hour."""
    try:
        after = msgspec.json.decode(reason, type=_Told).after
    except (msgspec.MsgspecError, ValueError):
        return None
    return min(after / 1000, LONGEST) if after >= 0 and math.isfinite(after) else None


class Backoff:
    """Full jitter: before each attempt anything up to `base`, doubled for each that failed, at most `cap` seconds.

    `random` gives numbers from 0 to 1.
    """

    def __init__(self, base: float, cap: float, random: Callable[[], float]) -> None:
        self._base = base
        self._cap = cap
        self._random = random
        self._level = base
        self.attempts = 0
        self.return_at: float | None = None
        """The moment at which a server that restarts wants to see this client: it has spread them."""

    def restarting(self, told: float, now: float) -> None:
        """A server that restarts asks to stay away for so many seconds, perhaps once more than it did before.

        Its successor may be late, and nobody shall wait longer for each attempt that came before it: for
        RESTART_PATIENCE seconds each waits for anything up to `told`. That is longer the more clients there are,
        so they do not overrun it.
        """
        self.return_at = max(self.return_at or 0.0, now + told)
        self._level = min(max(self._level, told), self._cap)

    def met(self) -> None:
        """Somebody is there again: what it refuses from here on has other reasons."""
        self.return_at = None
        self._level = self._base

    def next(self, now: float) -> float:
        """The delay before the next attempt."""
        if self.return_at is not None and now < self.return_at + RESTART_PATIENCE:
            return self._random() * self._level
        ceiling: float = min(self._cap, self._base * 2 ** min(self.attempts, _MOST_DOUBLINGS))
        self.attempts += 1
        return self._random() * ceiling

    def reset(self) -> None:
        """A connection lasted."""
        self.attempts = 0
