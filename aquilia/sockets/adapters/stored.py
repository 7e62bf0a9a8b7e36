"""How a publication is written where it is kept or sent elsewhere: MessagePack, with a version at its head.

A payload is kept as builtins (dates, UUIDs and decimals as strings, bytes as bytes), so that it does not change when
its sender changes the object, and every codec can write it as it would have written the first.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.codecs.base import WRITE_FAILURES, as_builtins
from aquilia.sockets.envelope import MAX_NESTING
from aquilia.sockets.faults import ws_publish_failed
from aquilia.sockets.history import Position

__all__ = ["VERSION", "decode", "encode"]

VERSION = 1


class _Stored(msgspec.Struct, array_like=True):
    version: int
    id: str
    namespace: str
    room: str | None
    event: str
    payload: Any
    ts: int
    identity: str | None
    exclude: str | None


_NO_CONTAINERS = bytes(byte for byte in range(256) if not (0x80 <= byte < 0xA0 or 0xDC <= byte < 0xE0))
"""Bytes with which no container begins in MessagePack."""
_write = msgspec.msgpack.Encoder().encode


def _unknown(code: int, data: memoryview) -> Any:
    raise ValueError(f"an extension of type {code}")


_read = msgspec.msgpack.Decoder(_Stored, ext_hook=_unknown).decode


def encode(publication: Publication) -> bytes:
    """The bytes of a publication, without its place in a log.

    Raises:
        SocketFault: WS_PUBLISH_FAILED, if its payload cannot be written.
    """
    told = publication
    try:
        payload: Any = msgspec.to_builtins(
            told.payload, builtin_types=(bytes, bytearray, memoryview), enc_hook=as_builtins
        )
        stored = _Stored(
            VERSION,
            told.id,
            told.namespace,
            told.room,
            told.event,
            payload,
            told.ts,
            told.identity,
            told.exclude,
        )
        data = _write(stored)
    except WRITE_FAILURES as error:
        raise ws_publish_failed(f"{told.event!r} cannot be kept: {error}") from error
    if len(data) > MAX_NESTING and _too_deep(told, payload, data):
        raise ws_publish_failed(f"{told.event!r} cannot be kept: its message nests deeper than {MAX_NESTING}")
    return data


def _too_deep(told: Publication, payload: Any, data: bytes) -> bool:
    """For clients that read it in a message, which is one container more: they end at it, and at each try again."""
    if len(data.translate(None, _NO_CONTAINERS)) <= MAX_NESTING or told.namespace.startswith("\0"):
        return False  # what nodes tell one another is no message
    level = [payload]
    for _ in range(MAX_NESTING - 1):
        level = [
            value
            for tree in level
            if isinstance(tree, (dict, list))
            for value in (tree.values() if isinstance(tree, dict) else tree)
        ]
    return any(isinstance(value, (dict, list)) for value in level)


def decode(data: bytes, position: Position | None = None, previous: int | None = None) -> Publication:
    """The publication that was written.

    Raises:
        ValueError: for what `encode` did not write, or a later version of it.
    """
    try:
        stored = _read(data)
    except (msgspec.DecodeError, RecursionError) as error:  # nested deeper than anything that was written
        raise ValueError(f"no publication: {error}") from error
    if stored.version != VERSION:
        raise ValueError(f"a publication of version {stored.version}; this is Aquilia's version {VERSION}")
    return Publication(
        id=stored.id,
        namespace=stored.namespace,
        room=stored.room,
        event=stored.event,
        payload=stored.payload,
        ts=stored.ts,
        identity=stored.identity,
        exclude=stored.exclude,
        position=position,
        previous=previous,
    )
