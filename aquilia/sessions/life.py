"""What lives as long as the application: stores that start and stop, and who hears of the sessions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from starlette.requests import HTTPConnection

from aquilia.sessions.engine import SessionEngine
from aquilia.sessions.watcher import SessionWatcher

__all__ = ["heard", "running"]


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
def heard(
    engines: Iterable[SessionEngine | None],
    *,
    refused: Callable[[HTTPConnection, str], None],
    watcher: SessionWatcher | None,
) -> Iterator[None]:
    """Within it they are told what `SessionEngine.hear` and `watch` say; once, of an engine of several apps."""
    with contextlib.ExitStack() as stack:
        for engine in {id(engine): engine for engine in engines if engine is not None}.values():
            stack.callback(engine.hear(refused))
            if watcher is not None:
                stack.callback(engine.watch(watcher))
        yield
