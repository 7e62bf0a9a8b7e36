"""MessagePack, by msgspec."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from aquilia.sockets.codecs.base import (
    WRITE_FAILURES,
    RawReceived,
    as_builtins,
    no_envelope,
    require_complete,
    settle,
    too_deep,
    unwritable,
)
from aquilia.sockets.envelope import MAX_NESTING, MessageEnvelope
from aquilia.sockets.explanation import READ_FAILURES
from aquilia.sockets.faults import SocketFault, ws_message_invalid
from aquilia.sockets.payload import PayloadType

__all__ = ["MsgpackCodec"]

_NIL = msgspec.Raw(b"\xc0")
_CONTAINERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_NO_CONTAINERS = bytes(byte for byte in range(256) if byte not in _CONTAINERS)
_TIMESTAMP = re.compile(rb"[\xd6\xd7]\xff|\xc7\x0c\xff")
"""The heads of timestamps. Found by chance elsewhere, they cost a little time."""
_NATIVE = (bytes, bytearray, memoryview)


class MsgpackCodec:
    """Binary frames. See `Codec`."""

    name = "msgpack"
    binary = True

    def __init__(self) -> None:
        self._read = msgspec.msgpack.Decoder(RawReceived, ext_hook=_refuse_extension).decode
        self._read_any = msgspec.msgpack.Decoder(ext_hook=_refuse_extension).decode
        self._write = msgspec.msgpack.Encoder(enc_hook=as_builtins).encode

    def decode(self, data: bytes) -> MessageEnvelope:
        """See `Codec`."""
        try:
            envelope = self._read(data)
        except READ_FAILURES as error:
            raise self._refused(data, error) from None
        if len(data) > MAX_NESTING and len(data.translate(None, _NO_CONTAINERS)) > MAX_NESTING:
            settle(self._tree(data), 1)
        if envelope.event is None or envelope.id is None:
            require_complete(envelope)
        return envelope

    def encode(self, envelope: MessageEnvelope) -> bytes:
        """See `Codec`."""
        payload = envelope.payload
        if type(payload) is msgspec.Raw and payload == _NIL:
            envelope = msgspec.structs.replace(envelope, payload=None)
        try:
            data = self._write(envelope)
        except OverflowError:
            return self._write_plain(envelope)
        except WRITE_FAILURES as error:
            raise unwritable("MessagePack", error) from error
        if 0xFF in data and _TIMESTAMP.search(data):
            return self._write_plain(envelope)
        return data

    def _write_plain(self, envelope: MessageEnvelope) -> bytes:
        """Write what msgspec cannot, or would write as timestamps, which no other codec has."""
        try:
            payload = msgspec.to_builtins(envelope.payload, builtin_types=_NATIVE, enc_hook=self._as_builtins)
            return self._write(msgspec.structs.replace(envelope, payload=_within_64_bits(payload)))
        except WRITE_FAILURES as error:
            raise unwritable("MessagePack", error) from error

    def _as_builtins(self, value: Any) -> Any:
        return self.plain(value) if isinstance(value, msgspec.Raw) else as_builtins(value)

    def payload_decoder(self, type: PayloadType) -> Callable[[Any], Any]:
        """See `Codec`."""
        return self._loose_decoder(type) if type.loose else self._strict_decoder(type)

    def _strict_decoder(self, type: PayloadType) -> Callable[[Any], Any]:
        read = msgspec.msgpack.Decoder(type.annotation).decode

        def decode(raw: Any) -> Any:
            try:
                return read(_NIL if raw is None else raw)
            except READ_FAILURES as error:
                raise type.error(self.plain(raw), error).fault() from None

        return decode

    def _loose_decoder(self, type: PayloadType) -> Callable[[Any], Any]:
        def decode(raw: Any) -> Any:
            tree = self.plain(raw)
            settle(tree, 2)
            return type.received(tree)

        return decode

    def plain(self, raw: Any) -> Any:
        """See `Codec`."""
        return self._tree(raw) if isinstance(raw, msgspec.Raw) else raw

    def _tree(self, data: bytes) -> Any:
        try:
            return self._read_any(data)
        except READ_FAILURES as error:
            raise _not_msgpack(error) from None

    def _refused(self, data: bytes, refusal: Exception) -> SocketFault:
        try:
            message = self._tree(data)
        except SocketFault as fault:
            return fault
        return no_envelope(message, refusal, text=False)


def _refuse_extension(code: int, data: memoryview) -> NoReturn:
    raise ws_message_invalid(f"MessagePack extensions of type {code} are not accepted")


def _not_msgpack(error: Exception) -> SocketFault:
    if isinstance(error, RecursionError):
        return too_deep()
    return ws_message_invalid(f"not valid MessagePack: {error}")


def _within_64_bits(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    if isinstance(value, dict):
        return {key: _within_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within_64_bits(item) for item in value]
    return value
