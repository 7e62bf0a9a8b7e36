"""What lives as long as the application: stores that start and stop, and who watches the sessions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator

from aquilia.sessions.engine import SessionEngine
from aquilia.sessions.watcher import SessionWatcher

__all__ = ["running", "watched"]


@contextlib.asynccontextmanager
async def running(engines: Iterable[SessionEngine | None]) -> AsyncIterator[None]:
    """Within it the engines' stores have started: each once, and of those without `start` and `stop` nothing."""
    stores = {id(engine.store): engine.store for engine in engines if engine is not None}
    async with contextlib.AsyncExitStack() as stack:
        for store in stores.values():
            if start := getattr(store, "start", None):
                await start()
            if stop := getattr(store, "stop", None):
                stack.push_async_callback(stop)
        yield


@contextlib.contextmanager
def watched(engines: Iterable[SessionEngine | None], watcher: SessionWatcher) -> Iterator[None]:
    """Within it `watcher` is told of the engines' sessions that end: once, of an engine that several apps have."""
    with contextlib.ExitStack() as stack:
        for engine in {id(engine): engine for engine in engines if engine is not None}.values():
            stack.callback(engine.watch(watcher))
        yield
