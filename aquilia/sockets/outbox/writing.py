"""Writing: which connections have frames that wait, and when they are written; and what waits in all of them.

A connection that has something to write is dirty. It is written before the loop's turn is over, once, with all that
came to it meanwhile; the pump, which runs handlers in groups, writes at the end of each group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aquilia.sockets.connection import Connection
from aquilia.sockets.fanout import CLOCK_EVERY, FanOut
from aquilia.sockets.outbox.budget import Budget, SpoolingBudget
from aquilia.sockets.outbox.spool import Spool

__all__ = ["Writing"]


class Writing:
    """Of all connections of the process. Where `HubPort` has a verb of the same name, that says what it does."""

    def __init__(
        self, fanout: FanOut, outbox_bytes: int, stopwatch: Callable[[], float], spool: Spool | None
    ) -> None:
        self._fanout = fanout
        self._spool = spool
        self._budget = (Budget if spool is None else SpoolingBudget)(outbox_bytes, stopwatch)
        self.weigh = self._budget.weigh
        self._dirty: deque[Connection] = deque()
        self._flushing = False
        """Whether what is dirty will be written without further notice."""
        self._held = False
        self._loop: asyncio.AbstractEventLoop

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop whose turns it goes by."""
        self._loop = loop

    async def keep_pace(self) -> None:
        """See `HubPort`."""
        await self._fanout.turn()
        if self._spool is not None:
            if isinstance(self._budget, SpoolingBudget) and self._budget.tight:
                await asyncio.sleep(0)
                self._budget.keep()
            while await self._spool.caught_up():
                self._budget.keep()  # there may be more for the disk than it took before

    def mark_dirty(self, conn: Connection) -> None:
        """See `HubPort`."""
        self._dirty.append(conn)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def hold(self) -> None:
        """See `HubPort`."""
        self._held = not self._flushing
        self._flushing = True

    def release(self) -> None:
        """See `HubPort`."""
        dirty = self._dirty
        for _ in range(min(len(dirty), CLOCK_EVERY)):  # more than a group says: a publication is on its way
            dirty.popleft()._flush()
        self._budget.keep()
        if self._held:
            self._flushing = bool(dirty)
            if dirty:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write for the connections that are dirty now, and give the loop back after a slice of them."""
        deadline = self._fanout.rest_of_slice(self._fanout.clock())
        dirty = self._dirty
        for turn in range(len(dirty)):
            dirty.popleft()._flush()
            if turn % CLOCK_EVERY == CLOCK_EVERY - 1 and self._fanout.clock() >= deadline:
                break
        self._budget.keep()
        if dirty:
            self._loop.call_soon(self._flush)
        else:
            self._flushing = False
