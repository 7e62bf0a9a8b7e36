"""A loop that tells two times: the clock of a test to the application under test, and its own to all others.

Which of them is asked for is in the context: it goes with every task, callback and timer that the application starts,
its libraries included. The loop's methods are put in front of on that one object, so any loop that is written in
Python, or whose class is, will do: asyncio's and uvloop's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

__all__ = ["OWNER", "LoopClock", "real_later", "two_times"]


class LoopClock(Protocol):
    """What a clock is to the loop."""

    scheduled: int
    """Callbacks of the application that the loop was given, so far."""

    def monotonic(self) -> float:
        """The time, as `loop.time` tells it."""

    def call_at(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        """See `loop.call_at`."""


OWNER: ContextVar[LoopClock | None] = ContextVar("aquilia.testing.clock", default=None)
"""The clock of the application that the current code belongs to."""


class _TwoTimes:
    """The methods that stand in front of a loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tests = 0
        self._real_time, self._real_soon = loop.time, loop.call_soon
        self._real_at, self.real_later = loop.call_at, loop.call_later

    def time(self) -> float:
        clock = OWNER.get()
        return self._real_time() if clock is None else clock.monotonic()

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        clock = OWNER.get() if context is None else context.get(OWNER)
        if clock is not None:
            clock.scheduled += 1
        return self._real_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        clock = OWNER.get()
        if clock is None:
            return self._real_at(when, callback, *args, context=context)
        return clock.call_at(when, callback, args, context)

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        clock = OWNER.get()
        if clock is None:
            return self.real_later(delay, callback, *args, context=context)
        return clock.call_at(clock.monotonic() + delay, callback, args, context)


_NAMES = ("time", "call_soon", "call_at", "call_later")
_LOOPS: WeakKeyDictionary[asyncio.AbstractEventLoop, _TwoTimes] = WeakKeyDictionary()


@contextlib.contextmanager
def two_times(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a loop tell both, for as long as a test needs it. Tests may share a loop.

    Raises:
        RuntimeError: the loop's class lets nobody put anything in front of its methods.
    """
    times = _LOOPS.get(loop) or _TwoTimes(loop)
    if not times.tests:
        try:
            for name in _NAMES:
                setattr(loop, name, getattr(times, name))
        except AttributeError:
            raise RuntimeError(
                f"{type(loop).__qualname__} does not let a test hold its time: run it on asyncio's loop, or uvloop's"
            ) from None
        _LOOPS[loop] = times
    times.tests += 1
    try:
        yield
    finally:
        times.tests -= 1
        if not times.tests:
            del _LOOPS[loop]
            for name in _NAMES:
                delattr(loop, name)


def real_later(
    loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]
) -> asyncio.TimerHandle:
    """A timer by the loop's own time, whoever asks."""
    return Context().run(loop.call_later, delay, callback)
