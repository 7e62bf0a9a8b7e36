"""What the time is: one port for all that counts by it, so that a test can hold it.

Timers are no part of it: `asyncio.sleep`, `asyncio.timeout` and the loop's `call_later` follow the clock of a test by
themselves (see `aquilia.testing.clock`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass(frozen=True, slots=True)
class Clock:
    """The system's clock, unless others are given. What is called often takes its functions out of it at boot."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds since some moment: for what lasts. It never goes back."""
    time: Callable[[], float] = time.time
    """Seconds since 1970: for what is told to people and to other machines."""
