"""Time and chance of this process, by a seed. It comes before every other import, as they take them by name.

Beside it, `PYTHONHASHSEED` has to be set when the process starts: the order within sets of strings depends on it.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable

__all__ = ["EPOCH", "clock", "real_time", "seed"]

EPOCH = 1_800_000_000.0
"""What the wall clock shows when a run begins, less the loop's time."""

real_time = time.perf_counter
_entropy = random.Random(0)
_work = random.Random(0)
_worked = 0.0
clock: list[Callable[[], float]] = [lambda: 0.0]
"""What the time is: that of the loop which runs."""


def seed(number: int) -> None:
    """Begin a run."""
    global _worked
    _entropy.seed(f"entropy {number}")
    _work.seed(f"work {number}")
    random.seed(number)
    _worked = 0.0


def _urandom(size: int) -> bytes:
    return _entropy.randbytes(size)


def _perf_counter() -> float:
    """What measures work. Each look at it finds that some was done, and now and then that the machine was busy."""
    global _worked
    _worked += 0.005 if _work.random() < 0.02 else 5e-6
    return clock[0]() + _worked


os.urandom = _urandom
random._urandom = _urandom  # type: ignore[attr-defined]  # what `secrets` reads
time.monotonic = lambda: clock[0]()
time.time = lambda: EPOCH + clock[0]()
time.perf_counter = _perf_counter
uuid.uuid4 = lambda: uuid.UUID(bytes=_urandom(16), version=4)
