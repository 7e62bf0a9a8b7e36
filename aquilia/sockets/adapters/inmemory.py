"""The in-memory adapter: one process, nothing to install, and the promises of both ports kept by plain calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

import msgspec

from aquilia.sockets.adapters.base import Deliver, Page, Publication
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.stored import decode, encode
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position, RoomLogs

__all__ = ["InMemoryAdapter", "InMemoryBroker", "InMemoryStore"]


class InMemoryBroker:
    """Delivers to its own node, at once, and keeps the logs of rooms with history."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deliver: Deliver | None = None
        self._subscribed: set[tuple[str, str | None]] = set()
        self._logs = RoomLogs()
        self.on_lost: Callable[[], None] | None = None
        self.on_foreign: Callable[[], None] | None = None
        self.connected = True
        """See `Broker`. Memory is never lost touch with."""
        self.alone = True
        """See the head of `adapters.base`."""

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`."""
        self._deliver = deliver

    async def stop(self) -> None:
        """See `Broker`."""
        self._deliver = None
        for key in self._subscribed:
            self._logs.unfollow(key, self._clock())
        self._subscribed.clear()

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        """See `Broker`."""
        self._subscribed.add((namespace, room))
        if history is None or room is None:
            return None
        log = self._logs.follow((namespace, room), history, self._clock())
        return Position(log.epoch, log.head)

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        self._subscribed.discard((namespace, room))
        self._logs.unfollow((namespace, room), self._clock())

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        """See `Broker`."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the in-memory broker is not running")
        namespace, room = publication.namespace, publication.room
        position = None
        if history is not None and room is not None:
            data, now = encode(publication), self._clock()
            log = self._logs.open((namespace, room), history, now)
            offset, new = self._logs.append(log, publication.id, data, now)
            position = Position(log.epoch, offset)
            if not new:
                return position
            publication = msgspec.structs.replace(publication, position=position, previous=offset - 1)
        if (namespace, room) in self._subscribed:
            self._deliver(publication)
        return position

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        """See `Broker`."""
        now = self._clock()
        log = self._logs.open((namespace, room), history, now)
        head = Position(log.epoch, log.head)
        if since is not None and since.epoch != log.epoch:
            return Page((), head, False)
        found = log.read(None if since is None else since.offset, limit, now)
        entries = [
            decode(entry.data, Position(log.epoch, entry.offset), entry.offset - 1) for entry in found.entries
        ]
        return Page(entries, head, found.complete)

    async def forget(self, namespace: str, room: str, history: History) -> int:
        """See `Broker`."""
        return self._logs.forget((namespace, room), self._clock())


SWEEP_EVERY = 60.0
"""Seconds between two looks for what has expired, while something is written."""
SLICE = 1024
"""Keys that one write looks at: the loop does not stand still however many there are."""


class InMemoryStore:
    """A dict with expiry.

    An expired key goes when it is next asked for, when the dict has doubled, or at the writes a minute later.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: dict[str, tuple[bytes, float | None]] = {}
        self._sweep_at = 1024
        self._sweep_due: float | None = None
        self._sweeping: list[str] = []
        """Keys that are still to be looked at."""

    async def get(self, key: str) -> bytes | None:
        """See `Store`."""
        return self._live(key)

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """See `Store`."""
        now = self._clock()
        self._values[key] = (value, None if ttl is None else now + ttl)
        if self._sweep_due is None:
            self._sweep_due = now + SWEEP_EVERY
        elif self._sweeping or len(self._values) >= self._sweep_at or now >= self._sweep_due:
            self._sweep(now)

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

    def _sweep(self, now: float) -> None:
        if not self._sweeping:
            self._sweeping = list(self._values)
        for key in self._sweeping[-SLICE:]:
            entry = self._values.get(key)
            if entry is not None and entry[1] is not None and entry[1] <= now:
                del self._values[key]
        del self._sweeping[-SLICE:]
        if not self._sweeping:
            self._sweep_at = max(1024, 2 * len(self._values))
            self._sweep_due = now + SWEEP_EVERY


class InMemoryAdapter:
    """`memory://`: the default."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.broker = InMemoryBroker(clock)
        self.store = InMemoryStore(clock)

    @classmethod
    def from_url(cls, url: str, options: AdapterOptions) -> Self:
        """See `AdapterFactory`."""
        if url != "memory://":
            raise ValueError("memory:// is followed by nothing")
        return cls(options.clock.monotonic)
