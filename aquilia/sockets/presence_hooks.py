"""What controllers do about presence: their `@OnPresence` methods, told behind what has changed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import copy_context
from typing import Any

from aquilia.sockets.home import Home

__all__ = ["PresenceHooks"]

logger = logging.getLogger("aquilia.sockets")


class PresenceHooks:
    """Runs those of each namespace, for one change after the other."""

    def __init__(self) -> None:
        self._waiting: dict[Home, deque[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = copy_context()

    def tell(self, home: Home, name: str, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        """Tell the controller: without a wait for it."""
        if not home.on_presence:
            return
        waiting = self._waiting.get(home)
        if waiting is not None:
            waiting.append((name, joins, leaves))
            return
        self._waiting[home] = deque([(name, joins, leaves)])
        task = asyncio.get_running_loop().create_task(self._run(home), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Run no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._waiting.clear()

    async def _run(self, home: Home) -> None:
        waiting = self._waiting[home]
        try:
            while waiting:
                told = waiting.popleft()
                for hook in home.on_presence:
                    try:
                        await hook(*told)
                    except Exception:
                        about = {"namespace": home.namespace.path, "pattern": home.pattern}
                        logger.exception("@OnPresence of %s", home.namespace.path, extra=about)
        finally:
            self._waiting.pop(home, None)
