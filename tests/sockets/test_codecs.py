"""The codecs: what they read, and what they refuse in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import cbor2
import msgspec
import pytest
from coding import (
    NOON,
    SENT,
    TEXT,
    Model,
    Node,
    Note,
    binary_codecs,
    every_codec,
    in_payload,
    payload_of,
    refusal,
    written,
)

from aquilia.sockets.codecs import CODECS, codec
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.schema import Schema, payload_type


@dataclass
class Point:
    x: int


# Reading


@every_codec
def test_a_message_becomes_an_envelope_with_its_payload_raw(wire):
    envelope = wire.decode(written(wire, SENT))
    assert isinstance(envelope, MessageEnvelope)
    assert (envelope.type, envelope.event, envelope.id, envelope.ack) == (
        "event",
        "message.send",
        "a1",
        False,
    )
    assert isinstance(envelope.payload, dict if wire.name == "cbor" else msgspec.Raw)
    assert wire.payload_decoder(TEXT)(envelope.payload) == {"text": "Hello!"}
    assert wire.plain(envelope.payload) == {"text": "Hello!"}


@every_codec
def test_type_is_event_by_default_and_null_is_as_good_as_absent(wire):
    message = {"event": "e", "payload": None, "id": None, "room": None, "meta": None}
    assert wire.decode(written(wire, message)).type == "event"
    assert payload_of(wire, written(wire, message)) is None
    assert payload_of(wire, written(wire, {"event": "e"})) is None
    assert wire.plain(wire.decode(written(wire, {"event": "e"})).payload) is None


@every_codec
def test_a_missing_payload_is_told_where_one_is_needed(wire):
    for message in ({"event": "e"}, {"event": "e", "payload": None}):
        with pytest.raises(SocketFault) as caught:
            payload_of(wire, written(wire, message), TEXT)
        assert caught.value.details == [{"path": "$", "expected": "map", "got": "null"}]


@every_codec
def test_unknown_keys_are_ignored(wire):
    assert wire.decode(written(wire, {**SENT, "x": [{"y": 1}]})).event == "message.send"


@every_codec
@pytest.mark.parametrize(
    "message",
    [
        {"type": "ack", "id": "a1"},
        {"type": "system", "event": "welcome"},
        {"type": "control", "event": "hello", "payload": {}},
        {"event": "e" * 128, "id": "i" * 64, "ack": True, "room": "r", "meta": {"traceparent": "t"}},
        {"event": "é" * 128},
    ],
)
def test_complete_envelopes_of_every_type_are_read(wire, message):
    envelope = wire.decode(written(wire, message))
    assert {key: getattr(envelope, key) for key in message if key != "payload"} == {
        key: value for key, value in message.items() if key != "payload"
    }


@every_codec
@pytest.mark.parametrize(
    ("message", "words"),
    [
        ([1], "a message is a map, this one is of type list"),
        ("text", "a message is a map, this one is of type str"),
        (None, "a message is a map, this one is of type null"),
        ({}, "a message of type 'event' needs an event"),
        ({"type": "system", "id": "a"}, "a message of type 'system' needs an event"),
        ({"type": "control", "id": "a"}, "a message of type 'control' needs an event"),
        ({"type": "ack"}, "an ack needs the id"),
        ({"event": "e", "ack": True}, "a message that wants an ack needs an id"),
        (
            {"type": "evnt", "event": "e"},
            "unknown message type 'evnt'; did you mean 'event'? (accepted: event, ack,",
        ),
        ({"type": "z" * 99, "event": "e"}, f"unknown message type '{'z' * 32}' (accepted"),
        ({"type": 5, "event": "e"}, "$.type: expected one of 'ack', 'control', 'event', 'system', got int"),
        ({"event": ""}, "$.event: expected str of length 1 to 128, got str of length 0"),
        ({"event": "e" * 129}, "$.event: expected str of length 1 to 128, got str of length 129"),
        ({"event": 5}, "$.event: expected str of length 1 to 128 or null, got int"),
        ({"event": "e", "id": ""}, "$.id: expected str of length 1 to 64, got str of length 0"),
        ({"event": "e", "id": "i" * 65}, "$.id: expected str of length 1 to 64, got str of length 65"),
        ({"event": "e", "id": 5}, "$.id: expected str of length 1 to 64 or null, got int"),
        ({"event": "e", "id": 5, "ack": "yes"}, ", and 1 more"),
        ({"event": "e", "room": 5}, "$.room: expected str or null, got int"),
        ({"event": "e", "meta": []}, "$.meta: expected map or null, got list"),
    ],
)
def test_what_is_no_envelope_is_refused_in_words(wire, message, words):
    assert words in refusal(wire, written(wire, message)).message


@every_codec
def test_every_wrong_field_of_a_payload_is_told(wire):
    type_ = payload_type(Schema({"a": int, "b": [str], "c": {"d": float}}))
    with pytest.raises(SocketFault) as caught:
        payload_of(wire, written(wire, {"event": "e", "payload": {"a": "x", "b": ["y", 2], "c": {}}}), type_)
    assert caught.value.details == [
        {"path": "$.a", "expected": "int", "got": "str"},
        {"path": "$.b[1]", "expected": "str", "got": "int"},
        {"path": "$.c.d", "expected": "float", "got": "missing"},
    ]
    assert caught.value.message.startswith("the payload is wrong: $.a: expected int, got str, and 2 more")


@every_codec
@pytest.mark.parametrize("type_", [Note, Node, Point, dict[str, Any], list[Note] | None])
def test_wrong_payloads_of_every_kind_of_type_are_refused(wire, type_):
    with pytest.raises(SocketFault) as caught:
        payload_of(wire, written(wire, {"event": "e", "payload": 5}), payload_type(type_))
    assert [detail["got"] for detail in caught.value.details] == ["int"]


@every_codec
def test_pydantic_models_are_read_and_told(wire):
    type_ = payload_type(Model)
    payload = {"url": "http://a.example/", "when": "2030-01-01T12:00:00Z", "Name": "n"}
    model = payload_of(wire, written(wire, {"event": "e", "payload": payload}), type_)
    assert (str(model.url), model.when, model.name) == ("http://a.example/", NOON, "n")
    with pytest.raises(SocketFault) as caught:
        payload_of(wire, written(wire, {"event": "e", "payload": {"url": 5, "when": "x"}}), type_)
    assert [detail["path"] for detail in caught.value.details] == ["$.url", "$.when", "$.Name"]


@every_codec
def test_keys_of_maps_may_be_written_as_strings_everywhere(wire):
    type_ = payload_type(dict[int, str])
    assert payload_of(wire, written(wire, {"event": "e", "payload": {"1": "a"}}), type_) == {1: "a"}
    if wire.binary:
        assert payload_of(wire, written(wire, {"event": "e", "payload": {1: "a"}}), type_) == {1: "a"}


@every_codec
def test_a_payload_outlives_its_message(wire):
    data = bytearray(written(wire, SENT))
    envelope = wire.decode(bytes(data))
    data[:] = bytes(len(data))
    assert wire.plain(envelope.payload) == {"text": "Hello!"}


@every_codec
def test_a_repeated_key_has_its_last_value(wire):
    item = {"json": b'{"a":1,"a":2}', "msgpack": b"\x82\xa1a\x01\xa1a\x02", "cbor": b"\xa2aa\x01aa\x02"}[
        wire.name
    ]
    assert payload_of(wire, in_payload(wire, item)) == {"a": 2}
    assert payload_of(wire, in_payload(wire, item), payload_type(Schema({"a": int}))) == {"a": 2}


@every_codec
def test_a_whole_message_can_be_read_as_builtins(wire):
    assert wire.plain(msgspec.Raw(written(wire, {"event": 5}))) == {"event": 5}
    with pytest.raises(SocketFault):
        wire.plain(msgspec.Raw(b"\xc1"))


# Forms that only the binary codecs have


@binary_codecs
def test_dates_and_uuids_are_read_in_native_form_and_as_strings(wire):
    uuid = UUID(int=5)
    type_ = payload_type(Schema({"at": datetime, "id": UUID, "raw": bytes}))
    expected = {"at": NOON, "id": uuid, "raw": b"\xff"}
    for at in (NOON, NOON.isoformat()):
        for id_ in (uuid.bytes, str(uuid)):
            data = written(wire, {"event": "e", "payload": {"at": at, "id": id_, "raw": b"\xff"}})
            assert payload_of(wire, data, type_) == expected
    assert payload_of(wire, written(wire, {"event": "e", "payload": NOON})) == NOON


@binary_codecs
def test_a_string_is_not_taken_for_bytes(wire):
    with pytest.raises(SocketFault) as caught:
        payload_of(wire, written(wire, {"event": "e", "payload": "YQ=="}), payload_type(bytes))
    assert caught.value.details == [{"path": "$", "expected": "bytes", "got": "str"}]


@binary_codecs
@pytest.mark.parametrize("key", ["null", "list", "map", "bool"])
def test_keys_that_json_cannot_write_are_refused_where_the_type_leaves_them_open(wire, key):
    keys = {
        "msgpack": {"null": b"\xc0", "list": b"\x91\x01", "map": b"\x81\x01\x01", "bool": b"\xc3"},
        "cbor": {"null": b"\xf6", "list": b"\x81\x01", "map": b"\xa1\x01\x01", "bool": b"\xf5"},
    }
    item = {"msgpack": b"\x81", "cbor": b"\xa1"}[wire.name] + keys[wire.name][key] + b"\x01"
    refusal(wire, in_payload(wire, item))
    with pytest.raises(SocketFault):
        payload_of(wire, in_payload(wire, item), payload_type(dict[str, int]))


@binary_codecs
def test_open_maps_have_keys_that_json_can_write(wire):
    payload = {"a": 1, 2: 3, 1.5: 4, b"b": 5}
    assert payload_of(wire, written(wire, {"event": "e", "payload": payload})) == payload


def test_uuids_big_integers_and_indefinite_lengths_are_read_in_cbor():
    wire = CODECS["cbor"]
    for value in (UUID(int=5), 2**70, -(2**70), 2**1024 - 1, -(2**64), datetime(1970, 1, 1, tzinfo=UTC)):
        assert payload_of(wire, written(wire, {"event": "e", "payload": value})) == value
    assert payload_of(wire, in_payload(wire, b"\xbf\x61a\x9f\x01\x7f\x61a\x61b\xff\xff\xff")) == {
        "a": [1, "ab"]
    }


def test_undefined_is_null_in_cbor_wherever_it_stands():
    wire = CODECS["cbor"]
    data = written(
        wire,
        {
            "event": "e",
            "id": cbor2.undefined,
            "payload": {"a": cbor2.undefined, "b": [1, cbor2.undefined, {"c": cbor2.undefined}]},
        },
    )
    assert wire.decode(data).id is None
    assert payload_of(wire, data) == {"a": None, "b": [1, None, {"c": None}]}
    assert payload_of(wire, in_payload(wire, b"\xf7")) is None


@binary_codecs
def test_infinities_and_nan_pass(wire):
    values = payload_of(wire, written(wire, {"event": "e", "payload": [math.inf, -math.inf, math.nan]}))
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


# The registry


@pytest.mark.parametrize("name", ["json", "msgpack", "cbor"])
def test_codecs_are_shared_by_name(name):
    assert codec(name) is CODECS[name]
    assert codec(name).name == name
    assert codec(name).binary is (name != "json")


def test_an_unknown_codec_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"unknown codec 'msgpak'; did you mean 'msgpack'\? \(accepted: json, "
    ):
        codec("msgpak")
    with pytest.raises(ValueError, match=r"unknown codec 'xml' \(accepted: json, msgpack, cbor\)"):
        codec("xml")
