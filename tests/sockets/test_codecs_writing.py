"""What the codecs write, and what they cannot."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from coding import (
    NOON,
    READERS,
    SENT,
    Model,
    Note,
    every_codec,
    payload_of,
    written,
)

from aquilia.sockets.codecs import CODECS
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.schema import payload_type


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


class Opaque:
    pass


# Writing


@every_codec
@pytest.mark.parametrize("payload", [{"large": 2**70}, {"when": NOON}])
def test_writing_leaves_the_envelope_as_it_is(wire, payload):
    envelope = MessageEnvelope(event="e", payload=payload)
    wire.encode(envelope)
    assert envelope.payload is payload


@every_codec
def test_absent_keys_are_omitted_and_the_type_never(wire):
    assert READERS[wire.name](wire.encode(MessageEnvelope(event="e"))) == {"type": "event", "event": "e"}
    full = MessageEnvelope(
        type="ack", event="e", payload={"a": None}, id="1", ack=True, room="r", meta={"ts": 1}
    )
    assert READERS[wire.name](wire.encode(full)) == {
        "type": "ack",
        "event": "e",
        "payload": {"a": None},
        "id": "1",
        "ack": True,
        "room": "r",
        "meta": {"ts": 1},
    }


@every_codec
def test_falsy_payloads_are_written(wire):
    for payload in (0, "", [], {}, False):
        assert (
            READERS[wire.name](wire.encode(MessageEnvelope(event="e", payload=payload)))["payload"] == payload
        )


@every_codec
def test_every_kind_of_payload_is_written_as_in_json(wire):
    model = Model(url="http://a.example/", when=NOON, Name="n")
    payload = {
        "note": Note("a"),
        "point": Point(1),
        "model": model,
        "url": pydantic.AnyUrl("http://b.example/"),
        "at": NOON,
        "naive": datetime(2030, 1, 1),
        "day": date(2030, 1, 1),
        "span": timedelta(seconds=90),
        "id": UUID(int=1),
        "colour": Colour.RED,
        "price": Decimal("1.50"),
        "set": {1},
        "tuple": (1, 2),
    }
    assert READERS[wire.name](wire.encode(MessageEnvelope(event="e", payload=payload)))["payload"] == {
        "note": {"text": "a"},
        "point": {"x": 1},
        "model": {"url": "http://a.example/", "when": "2030-01-01T12:00:00Z", "Name": "n"},
        "url": "http://b.example/",
        "at": "2030-01-01T12:00:00Z",
        "naive": "2030-01-01T00:00:00",
        "day": "2030-01-01",
        "span": "PT90S",
        "id": "00000000-0000-0000-0000-000000000001",
        "colour": "red",
        "price": "1.50",
        "set": [1],
        "tuple": [1, 2],
    }


@every_codec
def test_bytes_are_native_in_binary_codecs_and_base64_in_json(wire):
    payload = {"a": b"\xff", "b": bytearray(b"\xff")}
    data = wire.encode(MessageEnvelope(event="e", payload=payload))
    expected = b"\xff" if wire.binary else "/w=="
    assert READERS[wire.name](data)["payload"] == {"a": expected, "b": expected}
    assert payload_of(wire, data, payload_type(dict[str, bytes])) == {"a": b"\xff", "b": b"\xff"}


def test_bytes_stay_native_beside_dates_in_messagepack():
    data = CODECS["msgpack"].encode(MessageEnvelope(event="e", payload=[b"\xff", bytearray(b"\xfe"), NOON]))
    assert msgspec.msgpack.decode(data)["payload"] == [b"\xff", b"\xfe", "2030-01-01T12:00:00Z"]


@every_codec
def test_a_raw_payload_is_written_as_it_came(wire):
    for payload in ({"text": "é", "n": [1, None]}, [], "a", -1):
        received = wire.decode(written(wire, {"event": "e", "payload": payload}))
        assert READERS[wire.name](wire.encode(received)) == {
            "type": "event",
            "event": "e",
            "payload": payload,
        }


@every_codec
def test_a_raw_null_is_omitted(wire):
    received = wire.decode(written(wire, {"event": "e", "payload": None}))
    assert READERS[wire.name](wire.encode(received)) == {"type": "event", "event": "e"}


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_a_raw_payload_may_stand_within_another(name):
    wire = CODECS[name]
    raw = wire.decode(written(wire, SENT)).payload
    for beside in (1, NOON):
        ack = MessageEnvelope(type="ack", id="1", payload={"status": "ok", "data": raw, "x": beside})
        assert READERS[name](wire.encode(ack))["payload"]["data"] == {"text": "Hello!"}


@every_codec
@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"a": Opaque()}, "Opaque can be in no payload"),
        ([object()], "builtins.object can be in no payload"),
        ("\ud800", "surrogates not allowed"),
    ],
)
def test_what_cannot_be_written_is_a_type_error_in_words(wire, payload, words):
    for beside in (None, NOON):
        with pytest.raises(TypeError, match=words):
            wire.encode(MessageEnvelope(event="e", payload=[payload, beside]))


@every_codec
def test_a_payload_that_contains_itself_is_a_type_error(wire):
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match=r"cannot be written as .*: it is nested too deep, or in itself"):
        wire.encode(MessageEnvelope(event="e", payload=loop))


def test_json_writes_no_keys_that_are_no_strings():
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        CODECS["json"].encode(MessageEnvelope(event="e", payload={None: 1}))


def test_nan_is_null_in_json():
    assert b'"payload":[null,null]' in CODECS["json"].encode(
        MessageEnvelope(event="e", payload=[math.nan, math.inf])
    )


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**20, 2**1023])
def test_an_integer_beyond_64_bits_is_a_double_in_messagepack(number):
    wire = CODECS["msgpack"]
    data = wire.encode(MessageEnvelope(event="e", payload={"n": [number, 1, "a"]}))
    assert payload_of(wire, data) == {"n": [float(number), 1, "a"]}
    for other in (CODECS["json"], CODECS["cbor"]):
        assert payload_of(other, other.encode(MessageEnvelope(event="e", payload=number))) == number


def test_an_integer_beyond_a_double_is_a_type_error_in_messagepack():
    with pytest.raises(TypeError, match="too large"):
        CODECS["msgpack"].encode(MessageEnvelope(event="e", payload=10**400))


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
@every_codec
def test_an_integer_of_64_bits_stays_one(wire, number):
    assert payload_of(wire, wire.encode(MessageEnvelope(event="e", payload=number))) == number
