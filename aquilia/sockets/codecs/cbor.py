"""CBOR (RFC 8949), by cbor2. It cannot leave a payload raw: what `decode` leaves are builtins."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

import cbor2
import msgspec

from aquilia.sockets.codecs.base import (
    WRITE_FAILURES,
    Received,
    as_builtins,
    no_envelope,
    require_complete,
    settle,
    too_deep,
    unwritable,
)
from aquilia.sockets.envelope import MAX_NESTING, MessageEnvelope
from aquilia.sockets.explanation import READ_FAILURES
from aquilia.sockets.faults import ws_message_invalid
from aquilia.sockets.payload import PayloadType

__all__ = ["CborCodec"]

_CONTAINERS = bytes(range(0x80, 0xC0))
_NO_CONTAINERS = bytes(byte for byte in range(256) if byte not in _CONTAINERS)
_UNUSUAL = re.compile(rb"[\xc0-\xdb\xe0-\xf3\xf7\xf8]")
"""The first bytes of tags, simple values and undefined: without one of them, a message has none."""
_REASON = 200
"""Characters: cbor2 quotes what it could not read, however long."""
_BIG_INTEGER = 128
"""Bytes: as many as fit a double's range, so that every codec can write what was read."""
_NATIVE = (bytes, bytearray)


class CborCodec:
    """Binary frames. See `Codec`."""

    name = "cbor"
    binary = True

    def decode(self, data: bytes) -> MessageEnvelope:
        """See `Codec`."""
        message = _tree(data)
        try:
            envelope = msgspec.convert(message, Received)
        except READ_FAILURES as error:
            raise no_envelope(message, error, text=False) from None
        require_complete(envelope)
        return envelope

    def encode(self, envelope: MessageEnvelope) -> bytes:
        """See `Codec`."""
        message: dict[str, Any] = {"type": envelope.type}
        if envelope.ack:
            message["ack"] = True
        for key in ("event", "id", "room", "meta", "payload"):
            value = getattr(envelope, key)
            if value is not None:
                message[key] = value
        try:
            plain = msgspec.to_builtins(message, builtin_types=_NATIVE, enc_hook=as_builtins)
            return cbor2.dumps(plain)
        except (*WRITE_FAILURES, cbor2.CBOREncodeError) as error:
            raise unwritable("CBOR", error) from error

    def payload_decoder(self, type: PayloadType) -> Callable[[Any], Any]:
        """See `Codec`."""
        if not type.loose:
            return type.received

        def decode(raw: Any) -> Any:
            settle(raw, 2)
            return type.received(raw)

        return decode

    def plain(self, raw: Any) -> Any:
        """See `Codec`."""
        return _tree(bytes(raw)) if isinstance(raw, msgspec.Raw) else raw


def _tree(data: bytes) -> Any:
    # cbor2 does not tell whether it read all, and asking its decoder for one more byte costs more than decoding.
    # So the hash of the message goes behind it, and has to come out second: a message cannot contain its own.
    digest = hash(data) & 0xFFFF_FFFF_FFFF_FFFF
    try:
        # Two levels more than are allowed: one for the array around, one since a tag counts as one. cbor2 lets an
        # empty container pass a level deeper still, so the exact bound is ours to keep.
        tree, end = cbor2.loads(
            b"\x82" + data + b"\x1b" + digest.to_bytes(8),
            max_depth=MAX_NESTING + 2,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAGS,
        )
    except Exception as error:  # whatever the decoder raises, it is the message that is at fault
        if "nesting depth" in str(error):
            raise too_deep() from None
        raise ws_message_invalid(f"not valid CBOR: {str(error.__cause__ or error)[:_REASON]}") from None
    if end != digest:
        raise ws_message_invalid("not valid CBOR: there are bytes behind the message")
    if _UNUSUAL.search(data) or len(data.translate(None, _NO_CONTAINERS)) > MAX_NESTING:
        settle(tree, 1, cbor2.undefined)
    return tree


def _refuse_tag(tag: Any, immutable: bool = False) -> NoReturn:
    raise ValueError("tags are not accepted but 0, 1, 2, 3 and 37")


def _big_integer(sign: int) -> Callable[[Any, bool], int]:
    def decode(value: Any, immutable: bool) -> int:
        if not isinstance(value, bytes) or len(value) > _BIG_INTEGER:
            raise ValueError(f"a big integer has up to {8 * _BIG_INTEGER} bits")
        number = int.from_bytes(value)
        return number if sign > 0 else -1 - number

    return decode


_TAGS: dict[int, Any] = {
    # All that cbor2 would decode by itself: among them shared references (28, 29), which make a message cyclic or
    # exponentially large, and string references (25, 256).
    **dict.fromkeys(
        (4, 5, 25, 28, 29, 30, 35, 36, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag
    ),
    2: _big_integer(+1),
    3: _big_integer(-1),
}
