"""Connections that are shown out, and end a few in each turn of the loop.

What ends a connection costs more than a message does: a frame, a timer, under ASGI a task. Many may overflow at one
publication, and nobody else shall wait for all of that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aquilia.sockets.outbound import ConnectionState, Outbound

__all__ = ["Endings"]

SLICE = 0.001
"""Seconds that it may take from the loop at a stretch."""


class Endings:
    """Closes what has its close code already, in the order in which it came. One per process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: deque[Outbound] = deque()

    def add(self, conn: Outbound) -> None:
        """This one has nothing more to write, and is to be closed soon."""
        self._waiting.append(conn)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        deadline = self._clock() + SLICE
        while self._waiting:
            _close(self._waiting[0])
            self._waiting.popleft()  # only now: what is added meanwhile finds that it is under way
            if self._waiting and self._clock() >= deadline:
                asyncio.get_running_loop().call_soon(self._run)
                return


def _close(conn: Outbound) -> None:
    if conn.phase is ConnectionState.CLOSED or conn._close is None:
        return
    try:
        conn._transport.close(*conn._close)
    except Exception:  # one broken wire must not keep the others
        conn._broken()
