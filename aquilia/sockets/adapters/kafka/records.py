"""Publications as records of Kafka: the key is the room, so that nobody need read what is for other rooms.

A record of a log has a head before its publication: what it is, its id and its `History`. Where there is a secret the
signature is over key, head and publication: nobody without the secret moves a record to another room, or changes how
much that room remembers.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from struct import Struct, error
from typing import NamedTuple

from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.adapters.messages import Messages
from aquilia.sockets.adapters.names import token
from aquilia.sockets.adapters.signing import HEAD, SignatureError, Signer
from aquilia.sockets.adapters.stored import decode, encode
from aquilia.sockets.history import History, Position

__all__ = ["LIFE", "MARK", "STORED", "LogRecord", "Record", "Records", "key_of", "partition_of"]

STORED, MARK, LIFE = 1, 2, 3
"""What a record of a log is: a publication; the mark that its room is emptied; the mark that a new life begins."""
_SIGNED = len(HEAD) + 32
_VERSION = 1
_HEAD = Struct(">BBHQQQ")
"""Version, kind, length of the id, and the three bounds of the History, its seconds in milliseconds."""
_NO_HISTORY = (0, 0, 0)
LONGEST_ID = 200
"""Bytes. A longer one is hashed."""


def key_of(namespace: str, room: str | None) -> bytes:
    """The key of a room's records."""
    return f"{token(namespace)}.{token(room)}".encode()


def partition_of(namespace: str, room: str | None, partitions: int) -> int:
    """Where a room's records go. What nodes tell one another keeps its order, whichever rooms it goes to."""
    word = token(namespace) if namespace.startswith("\0") else f"{token(namespace)}.{token(room)}"
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big") % partitions


class Record(NamedTuple):
    """One record of a partition."""

    offset: int
    at: float
    """Seconds since 1970."""
    key: bytes | None
    value: bytes | None


class LogRecord(NamedTuple):
    """What stands in a record of a log."""

    kind: int
    id: bytes
    history: History | None
    data: bytes
    """The publication; of a new life, the one that it follows."""


class Records:
    """Those of one application."""

    def __init__(self, prefix: str, signer: Signer | None, logger: logging.Logger) -> None:
        self._prefix = prefix
        self._signer = signer
        self.plain = Messages(prefix, signer, f"in the topics {prefix}.* on Kafka", logger)
        """Those of plain rooms, and who hears of what is none of ours."""

    def stored(self, key: bytes, publication: Publication, history: History) -> bytes:
        """A publication for a log.

        Raises:
            SocketFault: WS_PUBLISH_FAILED, if its payload cannot be written.
        """
        return self._write(key, STORED, self.id_of(publication.id), history, encode(publication))

    @staticmethod
    def id_of(id: str) -> bytes:
        """An id as a record has it."""
        raw = id.encode("utf-8", "surrogatepass")
        return raw if len(raw) <= LONGEST_ID else blake2b(raw).digest()

    def mark(self, key: bytes, id: str) -> bytes:
        """What says that all before it in its room was forgotten."""
        return self._write(key, MARK, id.encode(), None, b"")

    def life(self, key: bytes, life: str, behind: str) -> bytes:
        """What says that a new life begins, behind another."""
        return self._write(key, LIFE, life.encode(), None, behind.encode())

    def _write(self, key: bytes, kind: int, id: bytes, history: History | None, data: bytes) -> bytes:
        bounds = _NO_HISTORY
        if history is not None:
            bounds = (history.size, max(1, round(history.ttl * 1000)), history.max_bytes)
        data = _HEAD.pack(_VERSION, kind, len(id), *bounds) + id + data
        if self._signer is None:
            return data
        signed = self._signer.sign(key + data, self._prefix, "log")
        return signed[:_SIGNED] + data

    def read_log(self, key: bytes | None, value: bytes | None) -> LogRecord:
        """What stands in a record of a log.

        Raises:
            ValueError: it is none of ours.
        """
        if key is None or value is None:
            raise ValueError("a record without key or value")
        if self._signer is not None:
            whole = self._signer.verified(value[:_SIGNED] + key + value[_SIGNED:], self._prefix, "log")
            value = whole[len(key) :]
        elif value.startswith(HEAD):
            raise SignatureError("it is signed, and no secret is set here")
        try:
            version, kind, length, size, ttl, most = _HEAD.unpack_from(value)
        except error:
            raise ValueError("it is too short for a record of a log") from None
        if version != _VERSION:
            raise ValueError(f"a record of version {version}; this is Aquilia's version {_VERSION}")
        start = _HEAD.size + length
        history = History(size, ttl / 1000, most) if kind == STORED else None
        return LogRecord(kind, value[_HEAD.size : start], history, value[start:])

    def publication(
        self, data: bytes, namespace: str, room: str | None, position: Position, previous: int
    ) -> Publication:
        """The publication of an entry again.

        Raises:
            ValueError: it is none of ours, or another room's.
        """
        found = decode(data, position, previous)
        if found.room != room or found.namespace != namespace:
            raise ValueError("a publication for another room")
        return found
