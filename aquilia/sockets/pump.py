"""The pump: which connections have something to handle, and when their handlers run.

With thousands of connections each step finds its objects gone from the processor's caches if all are read from first,
then handled, then written to. So they take these steps in groups, the first ones while the loop still reads. No
handler waits for another: each runs up to its first wait, and from there on as a task (see `tasks`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from time import perf_counter
from typing import Any

from aquilia.sockets.connection import Connection
from aquilia.sockets.tasks import TaskSet

__all__ = ["Pump"]

GROUP = 16
"""Connections that are handled, and then written to, together."""
EAGER_SLICE = 0.02
"""Seconds of a turn in which groups are handled while the loop reads; what else comes waits for the next turn."""

_DUE: Any = object()


class Pump:
    """Runs `handle(conn)` for connections, each in its own context, and never twice at a time for one of them.

    While that is due or under way `conn._pump` is set: to the task, once it had to wait.
    """

    __slots__ = ("_due", "_handle", "_running", "_scheduled", "_tasks", "_turn_ends")

    def __init__(self, tasks: TaskSet, handle: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        self._tasks = tasks
        self._handle = handle
        self._due: deque[Connection] = deque()
        self._scheduled = self._running = False
        self._turn_ends: float | None = None

    def add(self, conn: Connection) -> None:
        """Handle a connection soon; it must not be due already."""
        conn._pump = _DUE
        due = self._due
        due.append(conn)
        if not self._scheduled:
            self._scheduled = True
            self._tasks.loop.call_soon(self._run)
        if len(due) > GROUP:
            self._run_early()

    def _run(self) -> None:
        """Handle all that is due now. What comes meanwhile has the next turn, as if each had a task of its own.

        A slice by time would starve the handlers of a loop that has much else to do.
        """
        for _ in range(-(-len(self._due) // GROUP)):
            if self._due:
                self._run_group()
        self._scheduled = bool(self._due)
        if self._due:
            self._tasks.loop.call_soon(self._run)

    def _run_early(self) -> None:
        """Handle a group while the loop reads, if that has not taken long. The last one may have more to say."""
        if self._running:
            return
        loop = self._tasks.loop
        now = perf_counter()
        if self._turn_ends is None:
            self._turn_ends = now + EAGER_SLICE
            loop.call_soon(self._end_turn)
        if now < self._turn_ends:
            with self._tasks.apart():
                self._run_group()

    def _end_turn(self) -> None:
        self._turn_ends = None

    def _run_group(self) -> None:
        due = self._due
        loop = self._tasks.loop
        hub = due[0]._hub
        self._running = True
        hub.hold()
        try:
            for _ in range(min(GROUP, len(due))):
                conn = due.popleft()
                task = self._tasks.step(self._handle(conn), conn._context, loop)
                if task is None:
                    self._ended(conn)
                else:
                    conn._pump = task
                    hub.weigh_inbox(conn)
                    task.add_done_callback(partial(self._ended, conn))
        finally:
            self._running = False
            hub.release()

    def _ended(self, conn: Connection, task: object = None) -> None:
        conn._pump = None
        if conn._intake:
            conn._hub.weigh_inbox(conn)
        if conn._inbox:  # more came behind its end, or it was ended before its time
            self.add(conn)
