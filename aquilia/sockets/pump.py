"""The pump: runs the handlers of all connections, on as few tasks as they can share.

A task for each message, or for each connection that has one, would cost more than most handlers do. So one task steps
through the connections that have something to handle. A handler that has to wait keeps that task to itself, and two
others relieve it, since where one waits the next will: to a handler it looks as if its connection had a task of its
own, which is there to be asked for, cancelled and timed. An idle connection has none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from time import perf_counter
from types import coroutine
from typing import Any

from aquilia.sockets.connection import Connection
from aquilia.sockets.tasks import TaskSet

__all__ = ["Pump"]

CLOCK_EVERY = 32
SLICE = 0.004
"""Seconds after which the loop gets its turn, looked at every `CLOCK_EVERY` connections."""

_DUE: Any = object()


class Pump:
    """Runs `handle(conn)` for connections, each in its own context, and never twice at a time for one of them.

    While that is due or under way `conn._pump` is set: to the task, once it had to wait.
    """

    __slots__ = ("_due", "_free", "_handle", "_tasks")

    def __init__(self, tasks: TaskSet, handle: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        self._tasks = tasks
        self._handle = handle
        self._due: deque[Connection] = deque()
        self._free = 0
        """Tasks that no handler keeps to itself."""

    def add(self, conn: Connection) -> None:
        """Handle a connection in the loop's next turn; it must not be due already."""
        conn._pump = _DUE
        self._due.append(conn)
        if not self._free:
            self._begin()

    def _begin(self) -> None:
        self._free += 1
        self._tasks.start(self._work(), eager=False)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        await self._step(task)

    def _leave(self) -> None:
        """The current task takes no more from here on: what is due is for others."""
        self._free -= 1
        for _ in range(min(2, len(self._due)) - self._free):
            self._begin()

    def _ended(self, conn: Connection) -> None:
        conn._pump = None
        if conn._inbox:  # it was ended before its time
            self.add(conn)

    @coroutine
    def _step(self, task: asyncio.Task[None]) -> Generator[Any, Any, None]:
        due = self._due
        deadline = perf_counter() + SLICE
        handled = 0
        waits = False
        try:
            while due:
                conn = due.popleft()
                steps = self._handle(conn)
                try:
                    awaited = conn._context.run(steps.send, None)
                except StopIteration:
                    conn._pump = None
                    if task.cancelling():
                        return  # a handler cancelled the task that it ran in: that is not for others to feel
                except BaseException:
                    self._ended(conn)
                    raise
                else:
                    waits = True
                    conn._pump = task
                    self._leave()
                    try:
                        yield from _finish(steps, awaited, conn)
                    finally:
                        self._ended(conn)
                    return
                handled += 1
                if handled % CLOCK_EVERY == 0 and perf_counter() >= deadline:
                    yield
                    deadline = perf_counter() + SLICE
        finally:
            if not waits:
                self._leave()


def _finish(steps: Coroutine[Any, Any, None], awaited: Any, conn: Connection) -> Generator[Any, Any, None]:
    """The rest of a coroutine that has come to a wait, in its connection's context: what `await` does."""
    run = conn._context.run
    try:
        while True:
            try:
                value = yield awaited
            except BaseException as error:
                awaited = run(steps.throw, error)
            else:
                awaited = run(steps.send, value)
    except StopIteration:
        pass
