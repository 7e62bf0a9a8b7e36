"""What the tests of the codecs share: messages as foreign encoders write them, and how they are read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import cbor2
import msgspec
import pydantic
import pytest

from aquilia.sockets.codecs import CODECS, Codec
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.schema import Schema, payload_type

WRITERS = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode, "cbor": cbor2.dumps}
READERS = {"json": msgspec.json.decode, "msgpack": msgspec.msgpack.decode, "cbor": cbor2.loads}
ANY = payload_type(None)
TEXT = payload_type(Schema({"text": str}))
SENT = {"type": "event", "event": "message.send", "payload": {"text": "Hello!"}, "id": "a1"}
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

every_codec = pytest.mark.parametrize("wire", CODECS.values(), ids=list(CODECS))
binary_codecs = pytest.mark.parametrize("wire", [CODECS["msgpack"], CODECS["cbor"]], ids=["msgpack", "cbor"])


class Note(msgspec.Struct):
    text: str


class Model(pydantic.BaseModel):
    url: pydantic.AnyUrl
    when: datetime
    name: str = pydantic.Field(alias="Name")


class Node(msgspec.Struct):
    next: Node | None = None
    extra: Any = None


def written(wire: Codec, message: Any) -> bytes:
    return WRITERS[wire.name](message)


def payload_of(wire: Codec, data: bytes, type_: Any = ANY) -> Any:
    return wire.payload_decoder(type_)(wire.decode(data).payload)


def refusal(wire: Codec, data: bytes) -> SocketFault:
    with pytest.raises(SocketFault) as caught:
        payload_of(wire, data)
    assert caught.value.code == "WS_MESSAGE_INVALID"
    return caught.value


def in_payload(wire: Codec, item: bytes) -> bytes:
    """An event whose payload is this item, as the wire has it."""
    if wire.name == "json":
        return b'{"event":"e","payload":' + item + b"}"
    if wire.name == "msgpack":
        return b"\x82\xa5event\xa1e\xa7payload" + item
    return b"\xa2eevent" + b"ae" + b"gpayload" + item
