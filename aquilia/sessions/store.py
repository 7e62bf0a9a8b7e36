"""Where sessions are kept: what a store promises, and the one that keeps them in the memory of this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from aquilia.clock import now

__all__ = [
    "MemorySessionStore",
    "SessionStore",
    "SessionTooLarge",
    "require_fit",
    "require_numbers",
    "too_large",
]


class SessionStore(Protocol):
    """Keeps sessions: under an id, values of bytes by their keys. Implement it for a database or a cache.

    Ids are unguessable, and made by the engine alone. `ttl` is in seconds: a session that was not written for so
    long is gone, as if it had been deleted. Each call is atomic: of two that run at once, neither sees or undoes half
    of the other. Of several changes to one key the last holds; changes of different keys all hold, so that two tabs
    of a browser do not undo what the other did. What cannot be done is raised: the engine answers for it.

    A store may also have `async start()` and `async stop()`: the application awaits them when it starts and stops.
    What `start` raises keeps it from starting.
    """

    async def load(self, id: str) -> Mapping[str, bytes] | None:
        """What the session holds now, as a mapping that no later call changes; None if there is none."""
        ...

    async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
        """Keep a new session, whose id was never used before."""
        ...

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        """Write these keys and remove those, leave all others as they are, and begin `ttl` anew.

        Returns how many keys there are then; a session that has none left is deleted. None if there was no such
        session: it must not come to life again by this. Without changes it only begins `ttl` anew.
        """
        ...

    async def rename(self, id: str, new: str, ttl: float) -> bool:
        """Give a session a new id, and begin `ttl` anew: the old id names nothing from then on.

        False if there was no such session.
        """
        ...

    async def delete(self, id: str) -> None:
        """Forget a session. One that is not there is no error."""
        ...

    async def remaining(self, id: str) -> float | None:
        """The seconds after which a session is gone if nobody writes it; None if there is none. This is no use."""
        ...


class SessionTooLarge(ValueError):
    """A session is above the bound of its store."""


def require_fit(values: Mapping[str, bytes], bound: int) -> None:
    """Refuse more than `bound` bytes of keys and values.

    Raises:
        SessionTooLarge: above it.
    """
    size = sum(len(key.encode()) + len(value) for key, value in values.items())
    if size > bound:
        raise too_large(size, bound)


def too_large(size: int, bound: int) -> SessionTooLarge:
    """What is raised for a session of so many bytes."""
    return SessionTooLarge(
        f"a session of {size} bytes is above max_session_size, {bound}: keep large data elsewhere, and its key in "
        "the session"
    )


def require_numbers(store: str, **bounds: float) -> None:
    """Refuse what bounds nothing, by its name.

    Raises:
        ValueError: for one that is no number above 0.
    """
    for name, bound in bounds.items():
        whole = name != "timeout"
        kinds = int if whole else (int, float)
        if not isinstance(bound, kinds) or isinstance(bound, bool) or not 0 < bound < float("inf"):
            kind = "a whole number" if whole else "a number of seconds"
            raise ValueError(f"{store}: {name}: {kind} above 0 is needed, not {bound!r}")


@dataclass(slots=True)
class _Kept:
    values: dict[str, bytes]
    expires: float


class MemorySessionStore:
    """Keeps sessions in this process, and in no other: they end with it.

    Beyond `max_sessions`, those that would expire first make room for new ones: `evicted` counts them. One session
    holds up to `max_session_size` bytes of keys and values. `clock` tells the seconds.

    Raises:
        ValueError: for bounds that nothing would fit in.
    """

    def __init__(
        self,
        *,
        max_sessions: int = 100_000,
        max_session_size: int = 65_536,
        clock: Callable[[], float] = now,
    ) -> None:
        require_numbers("MemorySessionStore", max_sessions=max_sessions, max_session_size=max_session_size)
        self.evicted = 0
        self._max_sessions = max_sessions
        self._max_session_size = max_session_size
        self._clock = clock
        self._sessions: OrderedDict[str, _Kept] = OrderedDict()  # the one written last is at the end

    def __len__(self) -> int:
        """How many sessions are held; expired ones count until a new one takes their place."""
        return len(self._sessions)

    async def load(self, id: str) -> Mapping[str, bytes] | None:
        """See `SessionStore`."""
        kept = self._find(id)
        return None if kept is None else dict(kept.values)

    async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
        """See `SessionStore`.

        Raises:
            ValueError: above `max_session_size`.
        """
        require_fit(values, self._max_session_size)
        self._make_room()
        self._sessions[id] = _Kept(dict(values), self._clock() + ttl)

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        """See `SessionStore`.

        Raises:
            ValueError: above `max_session_size`; then nothing of it is written.
        """
        kept = self._find(id)
        if kept is None:
            return None
        values = {key: value for key, value in kept.values.items() if key not in removed} | dict(changes)
        require_fit(values, self._max_session_size)
        if values:
            kept.values, kept.expires = values, self._clock() + ttl
            self._sessions.move_to_end(id)
        else:
            del self._sessions[id]
        return len(values)

    async def rename(self, id: str, new: str, ttl: float) -> bool:
        """See `SessionStore`."""
        kept = self._find(id)
        if kept is None:
            return False
        del self._sessions[id]
        kept.expires = self._clock() + ttl
        self._sessions[new] = kept
        return True

    async def delete(self, id: str) -> None:
        """See `SessionStore`."""
        self._sessions.pop(id, None)

    async def remaining(self, id: str) -> float | None:
        """See `SessionStore`."""
        kept = self._find(id)
        return None if kept is None else kept.expires - self._clock()

    def _find(self, id: str) -> _Kept | None:
        kept = self._sessions.get(id)
        if kept is not None and kept.expires <= self._clock():
            del self._sessions[id]
            return None
        return kept

    def _make_room(self) -> None:
        """Drop what has expired, from the oldest on; and if that is not enough, the oldest."""
        now = self._clock()
        while self._sessions:
            id, oldest = next(iter(self._sessions.items()))
            if oldest.expires > now:
                if len(self._sessions) < self._max_sessions:
                    return
                self.evicted += 1
            del self._sessions[id]
