"""Who listens to what: the handlers of a client, run one after another in the order of what came."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from aquilia.client.notices import Message
from aquilia.client.session import Session
from aquilia.client.streams import Arrival, Decode, Signal
from aquilia.faults import Fault

__all__ = ["Desk"]

logger = logging.getLogger("aquilia.client")

ANSWERS_AT_ONCE = 100
_INTERNAL = {"code": "WS_INTERNAL_ERROR", "message": "the client's handler failed", "retryable": False}


class Desk:
    """The handlers, and what waits for them. A handler that raises is logged, and the others go on."""

    def __init__(
        self, session: Session, bound: int, taken: Callable[[], None], said: Callable[[], None]
    ) -> None:
        self._session = session
        self._bound = bound
        self._taken = taken
        self._said = said
        self._handlers: dict[Any, list[tuple[Callable[[Any], Any], Decode]]] = {}
        self._answerers: dict[str, tuple[Callable[[Any], Any], Decode]] = {}
        self._queue: deque[tuple[Any, Any]] = deque()
        self._news = Signal()
        self._over = True
        self._task: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def add(self, what: Any, handler: Callable[[Any], Any], decode: Decode) -> None:
        """Call `handler` with each `what`."""
        self._handlers.setdefault(what, []).append((handler, decode))

    def remove(self, what: Any, handler: Callable[[Any], Any] | None) -> None:
        """Call it no more; or none of them."""
        kept = [
            entry for entry in self._handlers.get(what, ()) if handler is not None and entry[0] != handler
        ]
        self._handlers[what] = kept

    def answer_with(self, event: str, handler: Callable[[Any], Any], decode: Decode) -> None:
        """Answer the server's requests of this name.

        Raises:
            ValueError: another handler does.
        """
        if event in self._answerers:
            raise ValueError(f"{event!r} is answered by {self._answerers[event][0]!r} already")
        self._answerers[event] = (handler, decode)

    def backlog(self) -> float:
        """How full the queue is; 1 is full."""
        return len(self._queue) / self._bound

    def offer(self, what: Any, item: Any) -> bool:
        """Queue something for its handlers. False: it has none."""
        if not self._handlers.get(what):
            return False
        self._queue.append((what, item))
        self._news.fire()
        return True

    def start(self) -> None:
        """Run handlers from now on; behind one that runs still, which began the client anew."""
        self._over = False
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="aquilia client: handlers")

    def end(self) -> None:
        """Nothing more comes: the handlers finish what has."""
        self._over = True
        self._news.fire()

    def abandon(self) -> None:
        """End the handlers, whatever they do."""
        self.end()
        for task in (self._task, *self._answering):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    async def stop(self, within: float) -> None:
        """Let the handlers finish what has come, for so many seconds, and end them."""
        self.end()
        current = asyncio.current_task()
        tasks: set[asyncio.Task[None]] = {task for task in (self._task, *self._answering) if task}
        tasks -= {current}  # a handler may close its own client
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _run(self) -> None:
        while True:
            while self._queue:
                what, item = self._queue.popleft()
                self._taken()
                for handler, decode in list(self._handlers.get(what, ())):
                    await self._handle(handler, item, decode)
            if self._over:
                return
            await self._news.wait()

    async def _handle(self, handler: Callable[[Any], Any], item: Any, decode: Decode) -> None:
        try:
            await _outcome(handler, item.message(decode) if isinstance(item, Arrival) else item)
        except Exception:
            logger.exception("the handler %r failed", handler)

    def answer(self, arrival: Arrival) -> None:
        """Answer a request of the server's, beside the handlers: it may take its time."""
        event = arrival.envelope.event or ""
        if event not in self._answerers:
            self._refuse(arrival, "WS_UNSUPPORTED_EVENT", f"{event!r} is answered by nobody here")
        elif len(self._answering) >= ANSWERS_AT_ONCE:
            self._refuse(arrival, "WS_OVERLOADED", "too many requests wait for an answer", retryable=True)
        else:
            task = asyncio.create_task(self._answer(arrival, *self._answerers[event]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _refuse(self, arrival: Arrival, code: str, message: str, *, retryable: bool = False) -> None:
        error = {"code": code, "message": message, "retryable": retryable}
        self._session.refuse(arrival.link, arrival.envelope.id or "", error)
        self._said()

    async def _answer(self, arrival: Arrival, handler: Callable[[Any], Any], decode: Decode) -> None:
        id = arrival.envelope.id or ""
        try:
            self._session.answer(arrival.link, id, await _outcome(handler, arrival.message(decode)))
        except Fault as fault:
            self._session.refuse(arrival.link, id, fault.as_dict())
        except Exception:
            logger.exception("the answer of %r to %r failed", handler, arrival.envelope.event)
            self._session.refuse(arrival.link, id, _INTERNAL)
        self._said()


async def _outcome(handler: Callable[[Any], Any], item: Message[Any] | Any) -> Any:
    outcome = handler(item)
    return await outcome if inspect.isawaitable(outcome) else outcome
