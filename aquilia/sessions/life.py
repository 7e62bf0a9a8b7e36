"""The life of stores that have one: with the application they start, and stop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable

from aquilia.sessions.engine import SessionEngine

__all__ = ["running"]


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
