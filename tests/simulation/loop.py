"""An event loop whose time is a number: where nothing is left to do, it is the next timer's moment at once.

It has no sockets and no threads. What belongs to somebody, by the context that it runs in, can be frozen: it does
nothing any more, not even clean up. So does a process that is killed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

__all__ = ["OWNER", "VirtualLoop", "owned_by"]

OWNER: ContextVar[object | None] = ContextVar("simulation.owner", default=None)
"""Whose code this is: a node's or a client's."""


def owned_by(owner: object) -> Context:
    """A context of somebody's."""
    context = copy_context()
    context.run(OWNER.set, owner)
    return context


class _Waiting:
    """In the place of a selector: waiting is what makes the time pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is ever going to happen")
        self._loop.now += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """See the head of this module. `connect` is what `create_connection` does."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.connect: Callable[..., Any]
        self._selector = _Waiting(self)
        self._frozen: set[object] = set()
        self._limbo: list[asyncio.Handle] = []
        self.kept: set[asyncio.Task[Any]] = set()
        """Those that were there when somebody was frozen, theirs among them."""

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        return await self.connect(protocol_factory, host, port)

    def is_frozen(self, owner: object) -> bool:
        return owner in self._frozen

    def freeze(self, owner: object) -> None:
        """From now on nothing of theirs happens."""
        self._frozen.add(owner)
        self.kept |= asyncio.all_tasks(self)  # else they are garbage, and complain
        for queue in (self._ready, self._scheduled):
            kept = [handle for handle in queue if handle._context.get(OWNER) is not owner]
            self._limbo += [handle for handle in queue if handle._context.get(OWNER) is owner]
            queue.clear()
            queue.extend(kept)
        heapq.heapify(self._scheduled)

    def clear_up(self) -> None:
        """Let all that was frozen come to an end, whose outcome nobody asks for any more, and close."""
        self.set_exception_handler(lambda *_: None)
        self._frozen.clear()
        self._ready.extend(handle for handle in self._limbo if not isinstance(handle, asyncio.TimerHandle))
        self._limbo.clear()
        for _ in range(20):
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left, timeout=1))
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.kept.clear()
        self.close()

    def _call_soon(self, callback: Any, args: Any, context: Any) -> asyncio.Handle:
        handle = super()._call_soon(callback, args, context)
        if self._frozen and handle._context.get(OWNER) in self._frozen:
            self._limbo.append(self._ready.pop())
        return handle
