"""What controllers do about presence: their `@OnPresence` methods, and what waits for them.

In each room one change is told after the other. What changes while a method runs is told as one: of who came and went
meanwhile, nothing. So no more waits than who is there now, and who was when it was told last.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context

from aquilia.di import Scope, Services
from aquilia.faults import FaultEngine
from aquilia.sockets.answers import label
from aquilia.sockets.contract import WITHOUT_CONNECTION, HookContract, SocketContract
from aquilia.sockets.faults import ws_internal_error
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.presence.values import Difference, copied
from aquilia.sockets.routes import timed
from aquilia.sockets.tasks import own_error, pass_on

__all__ = ["PresenceHook", "PresenceHooks"]

logger = logging.getLogger("aquilia.sockets")

AT_ONCE = 16
"""Rooms of one namespace whose changes are told at a time."""
GRACE = 2.0
"""Seconds that a namespace which closes waits for what its controller does yet."""


class PresenceHook:
    """One method of a controller, with what it needs; made at boot. Calling it never raises an error of its own."""

    __slots__ = ("_engine", "_in_time", "_injection", "_location", "_method", "_where")

    def __init__(
        self,
        contract: SocketContract,
        hook: HookContract,
        services: Services,
        *,
        timeout: float | None,
        engine: FaultEngine,
    ) -> None:
        self._method = hook.handler.function
        self._where = f"{contract.controller.__qualname__}.{hook.handler.attribute}"
        self._location = hook.handler.location
        self._injection = services.injector(hook.dependencies, Scope.REQUEST, without=WITHOUT_CONNECTION)
        self._in_time = self._run if timeout is None else timed(self._run, timeout, hook.handler.attribute)
        self._engine = engine

    async def __call__(self, home: Home, room: str, told: Difference) -> None:
        """Tell of a change. What goes wrong is logged and counted."""
        try:
            await self._in_time(home, room, told)
        except (Exception, asyncio.CancelledError) as error:
            self._note(home, own_error(error))
            pass_on(error)

    async def _run(self, home: Home, room: str, told: Difference) -> None:
        joins, leaves = copied(told.joins), copied(told.leaves)
        if not self._injection.needed:
            await self._method(home.controller, room, joins, leaves)
            return
        assert home.container is not None
        if self._injection.scope is not Scope.REQUEST:
            arguments = await self._injection.resolve(home.container)
            await self._method(home.controller, room, joins, leaves, **arguments)
            return
        async with await home.container.enter(Scope.REQUEST) as container:
            arguments = await self._injection.resolve(container)
            await self._method(home.controller, room, joins, leaves, **arguments)

    def _note(self, home: Home, error: Exception) -> None:
        about = {"namespace": home.namespace.path, "pattern": home.pattern}
        fault = self._engine.process(error, self._where, internal=ws_internal_error, about=about)
        home.recorder.fault(home.pattern, label(fault))
        if fault.code != "WS_INTERNAL_ERROR":  # which has been logged, with its incident
            level = fault.severity.log_level
            logger.log(level, "%s (%s) ended with %s", self._where, self._location, fault, extra=about)


class _Queue:
    """What waits for one controller, by rooms."""

    __slots__ = ("busy", "tasks", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, Difference] = {}
        self.busy: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def next(self) -> str | None:
        """A room whose turn it is."""
        return next((name for name in self.waiting if name not in self.busy), None)


class PresenceHooks:
    """Tells controllers who has come and gone, behind what has changed and without a wait for them."""

    def __init__(self) -> None:
        self._queues: dict[Home, _Queue] = {}
        self._context = copy_context()

    def tell(self, home: Home, name: str, told: Difference) -> None:
        """Something has changed in a room of a namespace whose controller wants to know."""
        queue = self._queues.get(home)
        if queue is None:
            queue = self._queues[home] = _Queue()
        waiting = queue.waiting.get(name)
        if waiting is None:
            queue.waiting[name] = told
        else:
            waiting.add(told.joins, told.leaves, told.new)
            if not waiting:
                del queue.waiting[name]
        if len(queue.tasks) < AT_ONCE and queue.next() is not None:
            task = asyncio.get_running_loop().create_task(
                self._run(home, queue), context=self._context.copy()
            )
            queue.tasks.add(task)
            task.add_done_callback(lambda task: self._ended(home, queue, task))

    async def _run(self, home: Home, queue: _Queue) -> None:
        while (name := queue.next()) is not None:
            told = queue.waiting.pop(name)
            queue.busy.add(name)
            try:
                for hook in home.on_presence:
                    await hook(home, name, told)
            finally:
                queue.busy.discard(name)

    def _ended(self, home: Home, queue: _Queue, task: asyncio.Task[None]) -> None:
        queue.tasks.discard(task)
        if not queue.tasks and self._queues.get(home) is queue:
            del self._queues[home]

    async def end(self, home: Home) -> None:
        """Wait until a namespace has been told all, a while at most; the rest is given up."""
        queue = self._queues.get(home)
        if queue is not None:
            _, running = await asyncio.wait(set(queue.tasks), timeout=GRACE)
            if running:
                about = {"namespace": home.namespace.path, "pattern": home.pattern}
                logger.warning("@OnPresence of %s does not end, and is given up", home.pattern, extra=about)
                await _cancel(queue)

    async def stop(self) -> None:
        """Run no more."""
        for queue in list(self._queues.values()):
            await _cancel(queue)
        self._queues.clear()


async def _cancel(queue: _Queue) -> None:
    queue.waiting.clear()
    tasks = set(queue.tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
