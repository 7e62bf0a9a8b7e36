"""The in-memory adapter: one process, nothing to install, and the promises of both ports kept by plain calls."""

from __future__ import annotations

import time
from collections.abc import Callable

from aquilia.sockets.adapters.base import Deliver, Publication
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["InMemoryAdapter", "InMemoryBroker", "InMemoryStore"]


class InMemoryBroker:
    """Delivers to its own node, at once."""

    def __init__(self) -> None:
        self._deliver: Deliver | None = None
        self._subscribed: set[tuple[str, str | None]] = set()

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`."""
        self._deliver = deliver

    async def stop(self) -> None:
        """See `Broker`."""
        self._deliver = None
        self._subscribed.clear()

    async def subscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        self._subscribed.add((namespace, room))

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        self._subscribed.discard((namespace, room))

    async def publish(self, publication: Publication) -> None:
        """See `Broker`."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the in-memory broker is not running")
        if (publication.namespace, publication.room) in self._subscribed:
            self._deliver(publication)


class InMemoryStore:
    """A dict with expiry; an expired key goes when it is next asked for, or when the dict has doubled."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: dict[str, tuple[bytes, float | None]] = {}
        self._sweep_at = 1024

    async def get(self, key: str) -> bytes | None:
        """See `Store`."""
        return self._live(key)

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """See `Store`."""
        self._values[key] = (value, None if ttl is None else self._clock() + ttl)
        if len(self._values) >= self._sweep_at:
            self._sweep()

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        """See `Store`."""
        if self._live(key) != expected:
            return False
        await self.put(key, value, ttl)
        return True

    async def get_and_delete(self, key: str) -> bytes | None:
        """See `Store`."""
        value = self._live(key)
        self._values.pop(key, None)
        return value

    def _live(self, key: str) -> bytes | None:
        entry = self._values.get(key)
        if entry is None:
            return None
        value, expires = entry
        if expires is not None and expires <= self._clock():
            del self._values[key]
            return None
        return value

    def _sweep(self) -> None:
        now = self._clock()
        self._values = {
            key: entry for key, entry in self._values.items() if entry[1] is None or entry[1] > now
        }
        self._sweep_at = max(1024, 2 * len(self._values))


class InMemoryAdapter:
    """`memory://`: the default."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.broker = InMemoryBroker()
        self.store = InMemoryStore(clock)
