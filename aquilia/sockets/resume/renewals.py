"""When the record of each live session is written anew: a part of them at a time, so that the store sees no peaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aquilia.clock import Clock
from aquilia.sockets.connection import Connection
from aquilia.sockets.resume.direct_log import DirectLogs
from aquilia.sockets.tasks import TaskSet

__all__ = ["REFRESH", "Renewals"]

REFRESH = 30.0
"""Seconds after which the record of a live connection is written anew."""
SLOTS = 10
AT_ONCE = 8
TURN = 64


class Renewals:
    """Calls `renew` for each connection once in REFRESH seconds, and has `logs` forget what is too old."""

    def __init__(
        self,
        logs: DirectLogs,
        clock: Clock,
        tasks: TaskSet,
        renew: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._logs = logs
        self._clock = clock
        self._tasks = tasks
        self._renew = renew
        self._slots: list[dict[Connection, None]] = [{} for _ in range(SLOTS)]
        self._next = 0
        self._live = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nobody to renew, and no timer."""
        return not self._live and self._timer is None

    def add(self, conn: Connection) -> None:
        """A connection has a session."""
        self._slots[self._slot(conn)][conn] = None
        self._live += 1
        if self._timer is None:
            self._timer = self._tasks.loop.call_later(REFRESH / SLOTS, self._tick)

    def remove(self, conn: Connection) -> None:
        """It has none any more; it may have had none."""
        if self._slots[self._slot(conn)].pop(conn, self) is None:
            self._live -= 1

    def stop(self) -> None:
        """The process ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _slot(self, conn: Connection) -> int:
        return hash(conn.id) % SLOTS

    def _tick(self) -> None:
        self._logs.expire(self._clock.monotonic())
        slot = list(self._slots[self._next])
        self._next = (self._next + 1) % SLOTS
        # It goes on for the logs of those who are away, which have their time as well.
        self._timer = None
        if self._live or len(self._logs):
            self._timer = self._tasks.loop.call_later(REFRESH / SLOTS, self._tick)
        if slot:
            self._tasks.start(self._renew_all(slot))

    async def _renew_all(self, conns: list[Connection]) -> None:
        rest = iter(conns)

        async def some() -> None:
            for turn, conn in enumerate(rest, 1):
                await self._renew(conn)
                if turn % TURN == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*(some() for _ in range(min(AT_ONCE, len(conns)))))
