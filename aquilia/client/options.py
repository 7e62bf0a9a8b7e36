"""What can be chosen about a session, checked."""

from __future__ import annotations

import math

import msgspec

__all__ = ["Options", "positive", "whole"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The choices, with their defaults. Times are in seconds.

    Raises:
        ValueError: one is out of its range.
    """

    open_timeout: float = 10.0
    """For a link, and again for `welcome` and `resumed` on it."""
    backoff_base: float = 0.5
    backoff_cap: float = 30.0
    stable_after: float = 5.0
    """How long a connection lasts before the attempts are counted anew."""
    queue_size: int = 1000
    queue_bytes: int = 1 << 20
    keep_trying: bool = False
    """Whether the first attempt too is repeated when it fails for a passing reason."""
    rejoin_after_takeover: bool = False
    renewable: bool = False
    """Whether there may be another token after one that was refused."""

    def __post_init__(self) -> None:
        for name in ("open_timeout", "backoff_base", "backoff_cap"):
            positive(name, getattr(self, name))
        for name in ("queue_size", "queue_bytes"):
            whole(name, getattr(self, name))
        if not self.stable_after >= 0:
            raise ValueError(f"stable_after is {self.stable_after!r}: 0 or more seconds")


def positive(name: str, value: float) -> None:
    """See to it that a time is one, in seconds, and more than 0.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}: more than 0 seconds")


def whole(name: str, value: int) -> None:
    """See to it that a bound is a whole number, and at least 1.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}: a whole number, 1 or more")
