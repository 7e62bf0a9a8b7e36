"""What rooms are called where brokers have them: no user's string stands there as it is."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b

__all__ = ["message_id", "token"]

LONGEST = 180
"""Bytes of a name that are written out. A longer one is hashed: NATS bounds the line that has a subject in it."""


@lru_cache(maxsize=4096)
def token(name: str | None) -> str:
    """A name as one token of a subject: "_" for none, base64url behind an "n", or a hash behind an "h"."""
    if name is None:
        return "_"
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) > LONGEST:
        return "h" + _base64(blake2b(raw, digest_size=32).digest())
    return "n" + _base64(raw)


def message_id(subject: str, id: str) -> str:
    """The id by which JetStream knows a repeat: ids are a room's own, and a stream has many rooms."""
    return _base64(blake2b(f"{subject} {id}".encode("utf-8", "surrogatepass"), digest_size=18).digest())


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
