"""What things are called on Redis: keys and channels. A room belongs to one of 1024 shares of its application.

The number of the share is the hash tag of all its names, so a cluster has them on one server, and a script may use
them together. Rooms of one namespace may be in different shares; what nodes tell one another, in namespaces that
begin with a null character, is in one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from aquilia.sockets.adapters.names import token

__all__ = ["SHARES", "Place", "Stored", "place_of", "slot_of", "stored_at"]

SHARES = 1024


class Place(NamedTuple):
    """Where a room is."""

    share: int
    channel: bytes
    epoch: bytes
    """The key of its share's epoch."""
    head: bytes
    log: bytes
    ids: bytes
    """Keys of what it remembers: where its log ends, the log, and the ids of what is in it."""


class Stored(NamedTuple):
    """Where a value of the store is."""

    share: int
    key: bytes


@lru_cache(maxsize=4096)
def place_of(prefix: str, namespace: str, room: str | None) -> Place:
    """Where a room is; with None, the namespace as a whole."""
    own = f"{token(namespace)}:{token(room)}"
    share = _share(token(namespace) if namespace.startswith("\0") else own)
    head = f"{prefix}:{{{share}}}:"
    names = (f"{own}", "epoch", f"head:{own}", f"log:{own}", f"ids:{own}")
    return Place(share, *(f"{head}{name}".encode() for name in names))


def stored_at(prefix: str, key: str) -> Stored:
    """Where a value is."""
    name = token(key)
    share = _share(name)
    return Stored(share, f"{prefix}:{{{share}}}:value:{name}".encode())


def slot_of(share: int) -> int:
    """The hash slot of a share: CRC-16/XMODEM of its tag, of 16384 (the Redis Cluster specification)."""
    from binascii import crc_hqx

    return crc_hqx(str(share).encode(), 0) % 16384


def _share(name: str) -> int:
    return crc32(name.encode()) % SHARES
