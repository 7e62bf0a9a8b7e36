"""Starting tasks: up to their first wait at once, and without a task where they do not wait at all.

A task for each message would cost more than most handlers do. So a coroutine begins in the name of a spare task. If
it has to wait, that task becomes its own, and the next coroutine gets another one. To the coroutine it looks as if it
had run in a task from its start, which is there to be asked for, cancelled and timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.tasks import _enter_task, _leave_task  # documented in "Extending asyncio", for what this does
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

__all__ = ["TaskSet", "own_error", "pass_on"]

logger = logging.getLogger("aquilia.sockets")

SPARES = 2
"""Tasks that are kept for coroutines to begin in: for a handler, and for what it writes."""
DEAF = 2.0
"""Seconds within which a cancelled task has to end."""


def own_error(error: BaseException, *, meant: bool = True) -> Exception:
    """The error of what the current task ran: a cancellation counts as one where nobody cancelled the task itself.

    Such a one comes from an awaited task or future that was cancelled, and ends no more than what awaited it. A
    cancellation that is meant for the current task is raised again; it is not `meant` where only what ran could have
    cancelled it.
    """
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    if not isinstance(error, asyncio.CancelledError) or (cancelled and meant):
        try:
            raise error
        finally:
            del (
                error,
                task,
            )  # the traceback leads here now, and with them in a circle: it would keep all its frames
    stray = RuntimeError("its own task was cancelled" if cancelled else "what it awaited was cancelled")
    stray.__cause__ = error
    return stray


def pass_on(error: BaseException) -> None:
    """Raise a cancellation of the current task again, once it has been answered."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


class TaskSet:
    """Tasks that belong together, held until they end."""

    __slots__ = ("_context", "_loop", "_spares", "_tasks")

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._spares: list[_Spare] = []
        self._context = copy_context()
        """That of the boot, for what runs in the name of no connection."""

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that runs them. Asking for the running one costs a system call before Python 3.12."""
        self._loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs them."""
        return self._loop or asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self, coroutine: Coroutine[Any, Any, None], context: Context | None = None
    ) -> asyncio.Task[None] | None:
        """Run a coroutine up to its first wait here and now, and the rest as a task. None: it has ended."""
        loop = self.loop
        if context is None:
            context = copy_context()
        task = asyncio.current_task(loop)
        if task is None:
            return self.step(coroutine, context, loop)
        _leave_task(loop, task)
        try:
            return self.step(coroutine, context, loop)
        finally:
            _enter_task(loop, task)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the current task, if there is one, for as long as others run up to their first waits."""
        loop = self.loop
        task = asyncio.current_task(loop)
        if task is None:
            yield
            return
        _leave_task(loop, task)
        try:
            yield
        finally:
            _enter_task(loop, task)

    def step(
        self, coroutine: Coroutine[Any, Any, None], context: Context, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Task[None] | None:
        """What `start` does where no task is the current one."""
        spares = self._spares
        spare = spares.pop() if spares else _Spare(self, loop)
        task = spare.task
        known = getrefcount(task)
        _enter_task(loop, task)
        try:
            awaited = context.run(coroutine.send, None)
        except StopIteration:
            pass
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                loop.call_soon(_raise, error)  # whoever starts a task does not hear of its errors
        else:
            self._hold(task)
            spare.take(coroutine, context, awaited)
            return task
        finally:
            _leave_task(loop, task)
        if getrefcount(task) > known or spare.marked() or len(spares) >= SPARES:
            # Somebody kept it, to cancel it, to wait for its end or to keep what is its own: it is for nobody else.
            spare.end()
        else:
            spares.append(spare)
        return None

    def _hold(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
                break
            if remaining <= 0:
                for task in self._tasks:
                    task.cancel()
            await asyncio.wait(set(self._tasks), timeout=remaining if remaining > 0 else DEAF / 4)
        while self._spares:
            spare = self._spares.pop()
            spare.end()
            await asyncio.wait([spare.task])


def _raise(error: BaseException) -> None:
    raise error


class _Spare(Coroutine[Any, Any, None]):
    """A task in wait for a coroutine that has to wait. The object is what the task runs."""

    __slots__ = ("_awaited", "_coroutine", "_ended", "_name", "_owner", "_parked", "_run", "_weakly", "task")

    def __init__(self, owner: TaskSet, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._run: Callable[..., Any] = Context().run
        self._awaited: Any = None
        self._parked: asyncio.Future[None] | None = None
        self._ended = False
        self.task: asyncio.Task[None] = asyncio.Task(self, loop=loop, context=owner._context.copy())
        self._name, self._weakly = self.task.get_name(), getweakrefcount(self.task)

    def marked(self) -> bool:
        """Whether what ran left something at the task: a name, a cancellation, a callback, state in a weak map."""
        task: Any = self.task
        return (
            getweakrefcount(task) > self._weakly
            or task.cancelling() > 0
            or bool(task._callbacks)
            or task.get_name() != self._name
        )

    def take(self, coroutine: Coroutine[Any, Any, None], context: Context, awaited: Any) -> None:
        """Run the rest of a coroutine, which waits for this."""
        self._coroutine, self._run, self._awaited = coroutine, context.run, (awaited,)
        if asyncio.isfuture(awaited):
            awaited._asyncio_future_blocking = False  # others may come to wait for it, before the task does
        self._wake()

    def end(self) -> None:
        """End the task as that of a coroutine which has returned."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def send(self, value: Any) -> Any:
        """See `collections.abc.Coroutine`."""
        if self._awaited is not None:
            return self._await()
        if self._coroutine is not None:
            return self._run(self._coroutine.send, value)
        if self._ended:
            raise StopIteration
        return self._park()

    def throw(self, error: Any, value: Any = None, traceback: Any = None) -> Any:
        """See `collections.abc.Coroutine`."""
        if self._coroutine is None or self._awaited is not None:
            cancelled = isinstance(error, asyncio.CancelledError)
            if cancelled and not self.task.cancelling():  # taken back, by what ran in its name before
                return self.send(None)
            if self._coroutine is None:
                if self in self._owner._spares:
                    self._owner._spares.remove(self)
                raise error
            awaited = self._await()
            if cancelled and asyncio.isfuture(awaited) and awaited.cancel(*error.args[:1]):
                return awaited  # what a cancelled task waits for is cancelled, and ends first
        try:
            return self._run(self._coroutine.throw, error)
        except BaseException:
            del self.task  # which has ended, and whose exception leads to this frame
            raise
        finally:
            del error

    def _park(self) -> Any:
        self._parked = self.task.get_loop().create_future()
        return next(iter(self._parked.__await__()))

    def _await(self) -> Any:
        """What the coroutine waits for, as it gave it."""
        (awaited,), self._awaited = self._awaited, None
        if asyncio.isfuture(awaited):
            awaited._asyncio_future_blocking = True
        return awaited

    def close(self) -> None:
        """See `collections.abc.Coroutine`."""
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Any:
        raise TypeError("this is for a task to run")

    @property
    def cr_frame(self) -> Any:
        """Where the coroutine is, for asyncio's own reports."""
        return getattr(self._coroutine, "cr_frame", None)
