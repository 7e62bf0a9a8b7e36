"""Starting tasks: at once where the interpreter can, and never one that the garbage collector may take."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

__all__ = ["TaskSet", "own_error"]

logger = logging.getLogger("aquilia.sockets")

DEAF = 2.0
"""Seconds within which a cancelled task has to end."""


def own_error(error: BaseException) -> Exception:
    """The error of what the current task ran: a cancellation counts as one where nobody cancelled the task itself.

    Such a one comes from an awaited task or future that was cancelled, and ends no more than what awaited it. A
    cancellation that is meant for the current task is raised again.
    """
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if not isinstance(error, asyncio.CancelledError) or (task is not None and task.cancelling()):
        raise error
    stray = RuntimeError("what it awaited was cancelled")
    stray.__cause__ = error
    return stray


class TaskSet:
    """Tasks that belong together, held until they end."""

    __slots__ = ("_loop", "_tasks")

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that runs them. Asking for the running one costs a system call before Python 3.12."""
        self._loop = loop

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None], *, eager: bool = True) -> asyncio.Task[None] | None:
        """Run a coroutine as a task. None: it has ended already.

        An `eager` one runs up to its first real wait here and now, from Python 3.12, which spares a turn of the loop.
        """
        loop = self._loop or asyncio.get_running_loop()
        task: asyncio.Task[None]
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=loop, eager_start=eager)
            if task.done():
                task.result()
                return None
        else:
            task = loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self, timeout: float) -> None:
        """Wait for all, those started meanwhile included; after `timeout` seconds cancel what is left.

        What does not end even then is left alone, and named in the log.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._tasks:
            remaining = deadline - loop.time()
            if remaining <= -DEAF:
                logger.error("these tasks do not end, though they were cancelled: %s", list(self._tasks))
                return
            if remaining <= 0:
                for task in self._tasks:
                    task.cancel()
            await asyncio.wait(set(self._tasks), timeout=remaining if remaining > 0 else DEAF / 4)
