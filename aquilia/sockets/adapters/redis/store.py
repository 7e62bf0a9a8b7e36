"""The store over Redis: a key for each value, with Redis' own expiry, and a script for each change.

A value says who wrote it, or took it: what is said again, since its answer was lost, learns that it was done.
"""

from __future__ import annotations

import math
from itertools import count
from secrets import token_bytes

from aquilia.sockets.adapters.redis.connection import RedisConnection
from aquilia.sockets.adapters.redis.names import stored_at
from aquilia.sockets.adapters.redis.scripts import CAS, PUT, TAKE

__all__ = ["RedisStore"]

TOMBSTONE = 60_000
"""Milliseconds for which a value that was taken is remembered to be gone, so that its taker can be told again."""
_HEAD = 13
"""Bytes before a value: what it is, and who wrote it."""


class RedisStore:
    """See `Store`. It works between its broker's `start` and `stop`."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._us = token_bytes(8)
        """This store among all; with a number, it is a name that nobody else gives."""
        self._numbers = count(1)

    async def get(self, key: str) -> bytes | None:
        """See `Store`."""
        place = stored_at(self._connection.target.prefix, key)
        found: bytes | None = await self._connection.repeat(place.share, b"GET", place.key)
        return found[_HEAD:] if found is not None and found.startswith(b"v") else None

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """See `Store`."""
        place = stored_at(self._connection.target.prefix, key)
        await self._connection.run(PUT, place.share, (place.key,), self._writer(), value, _expiry(ttl))

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        """See `Store`."""
        place = stored_at(self._connection.target.prefix, key)
        words = [self._writer(), value, _expiry(ttl)]
        if expected is not None:
            words.append(expected)
        return bool(await self._connection.run(CAS, place.share, (place.key,), *words))

    async def get_and_delete(self, key: str) -> bytes | None:
        """See `Store`."""
        place = stored_at(self._connection.target.prefix, key)
        taken: bytes | None = await self._connection.run(
            TAKE, place.share, (place.key,), self._writer(), TOMBSTONE
        )
        return taken

    def _writer(self) -> bytes:
        return self._us + (next(self._numbers) % (1 << 32)).to_bytes(4, "big")


def _expiry(ttl: float | None) -> bytes:
    return b"" if ttl is None else b"%d" % max(1, math.ceil(ttl * 1000))
