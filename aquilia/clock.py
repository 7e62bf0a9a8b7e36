"""What the time is: one place to ask, so that a test can hold it.

Timers are no part of it: `asyncio.sleep`, `asyncio.timeout` and the loop's `call_later` follow the clock of a test by
themselves (see `aquilia.testing.clock`). Nor is what measures the work itself, such as the slices of a loop's turn
and the durations in logs: that is `perf_counter`, in a test too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["CURRENT", "Clock", "now"]


@dataclass(frozen=True, slots=True)
class Clock:
    """The system's clock, unless others are given.

    `Clock.current().time()` in a handler or a service is `time.time()`, which a test can move. What asks often takes
    the functions out of it at boot.
    """

    monotonic: Callable[[], float] = time.monotonic
    """Seconds since some moment: for what lasts. It never goes back."""
    time: Callable[[], float] = time.time
    """Seconds since 1970: for what is told to people and to other machines."""

    @classmethod
    def current(cls) -> Clock:
        """That of the application which the caller belongs to: the system's, except in a test."""
        return CURRENT.get()


CURRENT: ContextVar[Clock] = ContextVar("aquilia.clock", default=Clock())  # noqa: B039  # it is frozen
"""What `Clock.current` returns. The test kit sets it, for the application under test."""


def now() -> float:
    """Seconds since 1970, as the application that asks has them: for what is made before there is one."""
    return CURRENT.get().time()
