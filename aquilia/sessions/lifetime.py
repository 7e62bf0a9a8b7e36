"""Ids of sessions, which tell when each began and which are of the same one; and the bound on how long one lives."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping

from aquilia.sessions.store import SessionStore

__all__ = ["LimitedStore", "began", "lineage", "new_id", "next_id", "parted_id"]

_MARK = "~"  # which no token has, and which a cookie may


def new_id(now: float) -> str:
    """An id that nobody can guess, of a session that begins now."""
    return _MARK.join((secrets.token_urlsafe(32), f"{int(now):x}", secrets.token_urlsafe(16)))


def next_id(id: str) -> str:
    """Another id for the same session: of the same lineage, and it began when it did."""
    return f"{secrets.token_urlsafe(32)}{_MARK}{id.partition(_MARK)[2]}"


def parted_id(id: str) -> str:
    """Another id, which began when this one did, and has a lineage of its own: what is of the one is not of both."""
    return _MARK.join((secrets.token_urlsafe(32), _part(id, 1), secrets.token_urlsafe(16)))


def lineage(id: str) -> str:
    """What all ids of a session have in common, and no other session's; the id itself if it is none of `new_id`."""
    return _part(id, 2) or id


def began(id: str) -> float | None:
    """When the session of this id began, in seconds since 1970; None if the id is none of `new_id`."""
    try:
        return float(int(_part(id, 1), 16))
    except ValueError:
        return None


def _part(id: str, place: int) -> str:
    return ([*id.split(_MARK), "", ""])[place]


class LimitedStore:
    """A store in which no session lives longer than `lifetime` seconds since it began."""

    def __init__(self, store: SessionStore, lifetime: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._lifetime = lifetime
        self._clock = clock

    async def load(self, id: str) -> Mapping[str, bytes] | None:
        """See `SessionStore`."""
        return await self._store.load(id) if self._left(id) > 0 else None

    async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
        """See `SessionStore`. What began too long ago is kept no more."""
        if (left := self._left(id)) > 0:
            await self._store.create(id, values, min(ttl, left))

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        """See `SessionStore`."""
        left = self._left(id)
        return await self._store.update(id, changes, removed, min(ttl, left)) if left > 0 else None

    async def rename(self, id: str, new: str, ttl: float) -> bool:
        """See `SessionStore`."""
        left = min(self._left(id), self._left(new))
        return left > 0 and await self._store.rename(id, new, min(ttl, left))

    async def delete(self, id: str) -> None:
        """See `SessionStore`."""
        await self._store.delete(id)

    async def remaining(self, id: str) -> float | None:
        """See `SessionStore`."""
        found, left = await self._store.remaining(id), self._left(id)
        return None if found is None or left <= 0 else min(found, left)

    def end(self, id: str) -> float | None:
        """When the session of this id ends, in seconds since 1970; None if the id is none of `new_id`."""
        start = began(id)
        return None if start is None else start + self._lifetime

    def _left(self, id: str) -> float:
        end = self.end(id)
        return 0.0 if end is None else end - self._clock()
