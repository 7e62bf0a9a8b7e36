"""JSON (RFC 8259), by msgspec."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from aquilia.sockets.codecs.base import (
    WRITE_FAILURES,
    RawReceived,
    as_builtins,
    no_envelope,
    require_complete,
    too_deep,
    unwritable,
)
from aquilia.sockets.envelope import MAX_NESTING, MessageEnvelope
from aquilia.sockets.explanation import READ_FAILURES
from aquilia.sockets.faults import SocketFault, ws_message_invalid
from aquilia.sockets.payload import PayloadType

__all__ = ["JsonCodec"]

_Raw = msgspec.Raw
_NULL = _Raw(b"null")
_ALWAYS_SHALLOW = 2 * MAX_NESTING + 1
"""Bytes within which nothing can nest too deep: each container takes two."""
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_STRING = re.compile(rb'"[^"]*"')


class JsonCodec:
    """Text frames. See `Codec`."""

    name = "json"
    binary = False

    def __init__(self) -> None:
        self._read = msgspec.json.Decoder(RawReceived).decode
        self._read_any = msgspec.json.Decoder().decode
        self._write = msgspec.json.Encoder(enc_hook=as_builtins).encode

    def decode(self, data: bytes) -> MessageEnvelope:
        """See `Codec`."""
        try:
            envelope = self._read(data)
        except READ_FAILURES as error:
            raise self._refused(data, error) from None
        if len(data) > _ALWAYS_SHALLOW and _nests_too_deep(data):
            raise too_deep()
        if envelope.event is None or (envelope.id is None and (envelope.ack or envelope.type == "ack")):
            require_complete(envelope)
        return envelope

    def encode(self, envelope: MessageEnvelope) -> bytes:
        """See `Codec`."""
        payload = envelope.payload
        if type(payload) is _Raw and payload == _NULL:
            envelope = msgspec.structs.replace(envelope, payload=None)
        try:
            return self._write(envelope)
        except WRITE_FAILURES as error:
            raise unwritable("JSON", error) from error

    def payload_decoder(self, type: PayloadType) -> Callable[[Any], Any]:
        """See `Codec`."""
        read = type.json_decoder()

        def decode(raw: Any) -> Any:
            try:
                return read(_NULL if raw is None else raw)
            except READ_FAILURES as error:
                raise type.error(self.plain(raw), error, text=True).fault() from None

        return decode

    def plain(self, raw: Any) -> Any:
        """See `Codec`."""
        if not isinstance(raw, msgspec.Raw):
            return raw
        try:
            return self._read_any(raw)
        except READ_FAILURES as error:
            raise _not_json(error) from None

    def _refused(self, data: bytes, refusal: Exception) -> SocketFault:
        try:
            message = self._read_any(data)
        except READ_FAILURES as error:
            return _not_json(error)
        return no_envelope(message, refusal, text=True)


def _not_json(error: Exception) -> SocketFault:
    return too_deep() if isinstance(error, RecursionError) else ws_message_invalid(f"not valid JSON: {error}")


def _nests_too_deep(data: bytes) -> bool:
    """Whether valid JSON has containers more than `MAX_NESTING` deep.

    By operations on whole byte strings, each linear: decoding would cost several times that.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_NESTING:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Strings that touch once the rest is gone may be cut at their quotes or joined: either way they vanish whole.
    brackets = _STRING.sub(b"", data.translate(_BRACKETS, _NO_BRACKETS).replace(b'""', b""))
    for _ in range(MAX_NESTING):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # takes the innermost level away
    return bool(brackets)
