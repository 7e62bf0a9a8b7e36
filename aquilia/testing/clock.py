"""The clock of a test: time passes by itself until the test takes it into its own hands.

Everything that the application does by time follows it: its rates, its timeouts, the timestamps of messages, and in
handlers, services and libraries `asyncio.sleep`, `asyncio.timeout`, `wait_for` and `loop.call_later`. What the test
itself waits for does not: it is in real time, and bounded. Only `time.time()`, `time.monotonic()` and
`datetime.now()` cannot be held from here; `aquilia.Clock.current()` is what an application asks instead.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from fractions import Fraction
from typing import Any

from aquilia.clock import CURRENT, Clock
from aquilia.testing.looptime import OWNER, real_later

__all__ = ["TIMEOUT", "ControlledClock"]

TIMEOUT = 3.0
"""Seconds of real time that every wait takes at most, where a test does not say otherwise."""

_TICK = 1 << 20
"""Ticks in a second. Time that is held moves by whole ticks, rounded up: floats have them exactly, so that a fifth of
a second is enough for what comes five times a second."""
_QUIET_TURNS = 5
"""Turns of the loop in which the application had nothing to do, and tasks of the test could have answered it."""


class _Timer(asyncio.TimerHandle):
    """A timer of the application; the loop does not know of it."""

    __slots__ = ("_call", "_run_in")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._call: tuple[Callable[..., object], tuple[Any, ...]] | None = (callback, args)
        self._run_in = context

    def cancel(self) -> None:
        self._call = None
        asyncio.Handle.cancel(self)  # that of TimerHandle tells the loop

    def fire(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._go, context=self._run_in)

    def _go(self) -> None:
        if self._call is not None:
            callback, args = self._call
            callback(*args)


class ControlledClock:
    """The time of the application under test. `SocketsTest.clock` is it.

    It starts with the system's time, and runs with it. From the first `advance` or `freeze` on it stands still, and
    moves by `advance` alone, until `resume`. It never goes back.
    """

    def __init__(self) -> None:
        self.scheduled = 0
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(self.monotonic, self.time)
        self._held: Fraction | None = None
        """The time, while it stands still."""
        self._ahead = 0.0
        """Seconds that it is ahead of the system's."""
        self._wall = time.time() - time.monotonic()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()
        self._sweep_at = 1024
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._moves = asyncio.Lock()

    # What the time is

    def monotonic(self) -> float:
        """Seconds since some moment: what `loop.time()` is to the application."""
        return time.monotonic() + self._ahead if self._held is None else _in_ticks(self._held)

    def time(self) -> float:
        """Seconds since 1970: where the timestamps of messages come from."""
        return self._wall + self.monotonic()

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._held is not None

    # What a test does with it

    def freeze(self) -> None:
        """Let time stand still, until `advance` moves it. What is due already is done."""
        if self._held is None:
            self._held = Fraction(_in_ticks(Fraction(self.monotonic())))
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            self._fire_due()

    def resume(self) -> None:
        """Let time pass by itself again, from where it stands. The end of the test does that, too."""
        if self._held is not None:
            self._ahead = self.monotonic() - time.monotonic()
            self._held = None
            self._arm()

    async def advance(self, seconds: float, *, timeout: float = TIMEOUT) -> None:
        """Hold the time, and move it on. Timers that become due fire in their order, each at its own time.

        It returns when the application has done all that it can without more time passing, as it has at every step;
        `advance(0)` waits for just that. Calls from several tasks go one behind the other. What the application waits
        for outside the loop, such as a thread or a socket, is not waited for here.

        Raises:
            ValueError: `seconds` is negative, or no finite number.
            AssertionError: the application does not come to rest within `timeout` seconds of real time.
            RuntimeError: the application itself called this, or another loop.
        """
        __tracebackhide__ = True
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ValueError(f"advance: seconds: a finite number of at least 0 is needed, not {seconds!r}")
        if OWNER.get() is self:
            raise RuntimeError(
                "advance is for the test: the application cannot wait until it is at rest itself"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this clock belongs to another event loop")
        async with self._moves:
            self.freeze()
            await self._move(seconds, time.monotonic() + timeout, timeout)

    async def _move(self, seconds: float, deadline: float, timeout: float) -> None:
        __tracebackhide__ = True
        begun = self._stands()
        end = begun + Fraction(seconds)
        try:
            await self._settle(deadline)
            while (due := self._next()) is not None and due <= _in_ticks(end):
                self._held = min(end, max(self._stands(), Fraction(_in_ticks(Fraction(due)))))
                self._fire_due()
                await self._settle(deadline)
            self._stands()
            self._held = end
        except TimeoutError:
            raise AssertionError(
                f"the application did not come to rest within {timeout:g} s: of {seconds:g} s to advance, "
                f"{float(self._stands() - begun):g} have passed on its clock"
            ) from None

    def _stands(self) -> Fraction:
        if self._held is None:
            raise RuntimeError("time was let go by `resume` while it advanced")
        return self._held

    async def _settle(self, deadline: float) -> None:
        """Wait until the application has nothing to do now.

        In one turn the loop runs all that it had been given before. If nothing of the application's was added in it,
        nothing of it is left.
        """
        quiet = 0
        while quiet < _QUIET_TURNS:
            if time.monotonic() > deadline:
                raise TimeoutError
            before = self.scheduled
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.scheduled == before else 0

    # What the application does by it

    def owns(self, context: Context) -> Context:
        """This context, as one of the application's: what runs in it has this clock's time."""
        context.run(OWNER.set, self)
        context.run(CURRENT.set, self._clock)
        return context

    def call_at(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.TimerHandle:
        """See `loop.call_at`."""
        timer = _Timer(when, callback, args, self._loop, context or copy_context())
        if len(self._timers) >= self._sweep_at:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._sweep_at = max(1024, 2 * len(self._timers))
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        if self._held is None:
            self._arm()
        else:
            self._fire_due()
        return timer

    def _next(self) -> float | None:
        """When the next timer is due."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _fire_due(self) -> None:
        now = self.monotonic()
        while (due := self._next()) is not None and due <= now:
            heapq.heappop(self._timers)[2].fire(self._loop)

    def _arm(self) -> None:
        """While time passes by itself, the loop has one timer for all of ours."""
        due = self._next()
        if due is None or (self._alarm is not None and self._alarm_at <= due):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        self._alarm = real_later(self._loop, max(0.0, due - self.monotonic()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._fire_due()
        self._arm()


def _in_ticks(seconds: Fraction) -> float:
    return math.ceil(seconds * _TICK) / _TICK
