"""The codecs: what they read, what they write, and that no bytes whatever do them harm."""

from __future__ import annotations

import enum
import math
import random
import struct
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import cbor2
import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aquilia.sockets.codecs import CODECS, Codec, codec
from aquilia.sockets.envelope import MAX_NESTING, MessageEnvelope
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


class Colour(enum.Enum):
    RED = "red"


class Note(msgspec.Struct):
    text: str


@dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    url: pydantic.AnyUrl
    when: datetime
    name: str = pydantic.Field(alias="Name")


class Opaque:
    pass


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


# Bytes that are no message


@every_codec
def test_nothing_and_garbage_behind_a_message_are_refused(wire):
    data = written(wire, SENT)
    for broken in (b"", data[:-1], data + b"x", data + data, data + b"\xff", data + b"\xf6", data + b"\x00"):
        assert "not valid" in refusal(wire, broken).message


JSON_GARBAGE = [
    b'{"event":"e"',
    b"{'event':'e'}",
    b'{"event":"e","payload":NaN}',
    b'{"event":"e","payload":[Infinity]}',
    b'{"event":"e","payload":{"a" 1}}',
    b'{"event":"e","x":{"a" 1}}',
    b'{"event":"\xff"}',
    b'{"event":"\\ud800"}',
    b'{"event":"e","payload":"\\ud800"}',
    b'{"event":"e","payload":"\xff"}',
    b'{"event":"e","payload":{"\xff":1}}',
    b'{"event":"e","payload":1e999}',
    b'{"event":"e","payload":' + b"9" * 5000 + b"}",
    b'\xef\xbb\xbf{"event":"e"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", JSON_GARBAGE, ids=range(len(JSON_GARBAGE)))
def test_malformed_json_is_refused(data):
    refusal(CODECS["json"], data)
    with pytest.raises(SocketFault):
        payload_of(CODECS["json"], data, TEXT)


MSGPACK_GARBAGE = [
    b"\xc1",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 100_000,
    b"\x81\xa5event\xa1\xff",
    b"\x82\xa5event\xa1e\x01\x01",
    in_payload(CODECS["msgpack"], b"\xc1"),
    in_payload(CODECS["msgpack"], b"\xa1\xff"),
    in_payload(CODECS["msgpack"], b"\xa3\xed\xa0\x80"),
    in_payload(CODECS["msgpack"], b"\xd4\x05\x01"),
    in_payload(CODECS["msgpack"], b"\xc6\xff\xff\xff\xff"),
    in_payload(CODECS["msgpack"], b"\xdd\xff\xff\xff\xff"),
    in_payload(CODECS["msgpack"], b"\xc7\x0c\xff" + b"\xff" * 12),
    in_payload(CODECS["msgpack"], b"\x81\x81\x01\x01\x01"),
    b"\x82\xa5event\xa1e\xa4meta\x81\xa1a\xd4\x05\x01",
]


@pytest.mark.parametrize("data", MSGPACK_GARBAGE, ids=range(len(MSGPACK_GARBAGE)))
def test_malformed_messagepack_is_refused(data):
    refusal(CODECS["msgpack"], data)
    with pytest.raises(SocketFault):
        payload_of(CODECS["msgpack"], data, TEXT)


CBOR_GARBAGE = [
    b"\xff",
    b"\x1c",
    b"\x81" * 1_000_000,
    in_payload(CODECS["cbor"], b"\x61\xff"),
    in_payload(CODECS["cbor"], b"\x82\x01\xff"),
    in_payload(CODECS["cbor"], b"\xff"),
    in_payload(CODECS["cbor"], b"\x5b\x10" + bytes(7)),
    in_payload(CODECS["cbor"], b"\x7b\x10" + bytes(7)),
    in_payload(CODECS["cbor"], b"\x9b\x10" + bytes(7)),
    in_payload(CODECS["cbor"], b"\xbb\x10" + bytes(7)),
    in_payload(CODECS["cbor"], b"\x9b" + b"\xff" * 8),
    in_payload(CODECS["cbor"], b"\xe5"),
    in_payload(CODECS["cbor"], b"\x81\xf8\x50"),
    in_payload(CODECS["cbor"], b"\xf8\x14"),
    in_payload(CODECS["cbor"], b"\xc0\x61x"),
    in_payload(CODECS["cbor"], b"\xc1\x1b\x7f" + b"\xff" * 7),
    in_payload(CODECS["cbor"], b"\xc2\x58\x81" + b"\x01" * 129),
    in_payload(CODECS["cbor"], b"\xc3\x01"),
    in_payload(CODECS["cbor"], b"\xd8\x1c\x81\xd8\x1d\x00"),
    b"\x81" * 10 + b"\x9f",
]


@pytest.mark.parametrize("data", CBOR_GARBAGE, ids=range(len(CBOR_GARBAGE)))
def test_malformed_cbor_is_refused(data):
    refusal(CODECS["cbor"], data)


def test_every_cbor_tag_is_refused_but_five():
    wire = CODECS["cbor"]
    for tag in [*range(400), 1004, 1040, 43000, 43001, 55799, 2**32 + 1, 2**64 - 1]:
        head = struct.pack(">BQ", 0xDB, tag)
        for item in (b"\x81\x01", b"\x01", b"\x41\x01", b"\x61a"):
            if tag not in (0, 1, 2, 3, 37):
                assert "tags are not accepted" in refusal(wire, in_payload(wire, head + item)).message


def test_what_cbor_quotes_of_a_message_is_cut():
    fault = refusal(CODECS["cbor"], in_payload(CODECS["cbor"], b"\xc0\x79\x27\x10" + b"x" * 10_000))
    assert len(fault.message) < 300


def test_a_header_that_claims_the_world_allocates_nothing():
    heads = [
        head + size
        for head in (b"\x5b", b"\x7b", b"\x9b", b"\xbb")
        for size in (b"\x00\x00\x00\x40" + bytes(4),)
    ]
    heads += [bytes([head & 0xE0 | 26]) + b"\x7f\xff\xff\xff" for head in b"\x40\x60\x80\xa0"]
    bombs = [("cbor", in_payload(CODECS["cbor"], head)) for head in heads]
    bombs += [("cbor", in_payload(CODECS["cbor"], b"\x9a\x00\xff\xff\xff" * 60))]
    bombs += [
        ("msgpack", in_payload(CODECS["msgpack"], head + b"\x7f\xff\xff\xff"))
        for head in (b"\xc6", b"\xc9", b"\xdb", b"\xdd", b"\xdf")
    ]
    tracemalloc.start()
    try:
        for name, data in bombs:
            refusal(CODECS[name], data)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


# Nesting


def nested(wire: Codec, depth: int, *, key: str = "payload", maps: bool = False, leaf: Any = None) -> bytes:
    """A message that nests this deep, the envelope being the first; the innermost container may hold a leaf."""
    tree: Any = {} if maps else []
    if leaf is not None:
        tree = {"k": leaf} if maps else [leaf]
    for _ in range(depth - 2):
        tree = {"k": tree} if maps else [tree]
    return written(wire, {"event": "e", key: tree})


@every_codec
@pytest.mark.parametrize("key", ["payload", "x", "meta"])
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("leaf", [None, 1, '[[[{{{\\"', NOON.isoformat()])
def test_sixty_four_containers_nest_and_sixty_five_do_not(wire, key, maps, leaf):
    if key == "meta":
        maps = True
    wire.decode(nested(wire, MAX_NESTING, key=key, maps=maps, leaf=leaf))
    fault = refusal(wire, nested(wire, MAX_NESTING + 1, key=key, maps=maps, leaf=leaf))
    assert fault.message == "nested deeper than 64"


@every_codec
@pytest.mark.parametrize("depth", [66, 200, 5_000, 60_000])
def test_much_deeper_is_refused_as_well(wire, depth):
    opening, closing = {"json": (b"[", b"]"), "msgpack": (b"\x91", b""), "cbor": (b"\x81", b"")}[wire.name]
    core = {"json": b"1", "msgpack": b"\x01", "cbor": b"\x01"}[wire.name]
    fault = refusal(wire, in_payload(wire, opening * depth + core + closing * depth))
    assert fault.message == "nested deeper than 64"


@every_codec
def test_many_containers_beside_each_other_are_fine(wire):
    payload = [{"id": index, "tags": [], 'quo"ted\\': "]}[{\\"} for index in range(100)]
    assert payload_of(wire, written(wire, {"event": "e", "payload": payload})) == payload


@pytest.mark.parametrize(
    "string",
    [
        '""',
        '"["',
        '"]"',
        r'"\\"',
        r'"\""',
        r'"\\\"["',
        r'"\"\\"',
        '"[","]"',
        r'"[\\","\"]"',
        r'"\u005b"',
        ' "{" ',
    ],
)
def test_brackets_within_strings_do_not_count(string):
    def message(depth: int) -> bytes:
        levels = depth - 2
        return in_payload(CODECS["json"], (f"[{string}," * levels + "[]" + "]" * levels).encode())

    CODECS["json"].decode(message(MAX_NESTING))
    assert refusal(CODECS["json"], message(MAX_NESTING + 1)).message == "nested deeper than 64"


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


TRICKY = st.text(alphabet='[]{}"\\,:aé\x80', max_size=6)
DEEP = st.recursive(
    TRICKY | st.binary(max_size=3).map(list),
    lambda inner: (
        st.builds(
            lambda value, wraps, beside: _wrapped(value, wraps, beside),
            inner,
            st.integers(0, 30),
            st.lists(TRICKY, max_size=2),
        )
        | st.dictionaries(TRICKY, inner, max_size=3)
    ),
    max_leaves=12,
)


def _wrapped(value: Any, wraps: int, beside: list[str]) -> Any:
    for _ in range(wraps):
        value = [*beside, value]
    return value


@every_codec
@given(payload=DEEP)
def test_the_bound_of_nesting_is_exact_for_any_shape(wire, payload):
    data = written(wire, {"event": "e", "payload": payload})
    if 1 + depth_of(payload) <= MAX_NESTING:
        assert wire.plain(wire.decode(data).payload) == payload
    else:
        assert refusal(wire, data).message == "nested deeper than 64"


@pytest.mark.parametrize("depth", [64, 65])
def test_dates_do_not_count_as_nesting_in_cbor(depth):
    wire = CODECS["cbor"]
    data = in_payload(wire, b"\x81" * (depth - 1) + b"\xc1\x01")
    if depth == 64:
        wire.decode(data)
    else:
        assert refusal(wire, data).message == "nested deeper than 64"


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


# Writing


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


# Whatever comes

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
PAYLOADS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
ENVELOPES = st.builds(
    MessageEnvelope,
    type=st.sampled_from(["event", "ack", "system", "control"]),
    event=st.text(min_size=1, max_size=128),
    payload=PAYLOADS,
    id=st.text(min_size=1, max_size=64),
    ack=st.booleans(),
    room=st.none() | st.text(),
    meta=st.none() | st.dictionaries(st.text(max_size=8), SCALARS, max_size=3),
)
TYPES = [ANY, TEXT, payload_type(Node), payload_type(dict[int, float]), payload_type(list[Note] | str | None)]
TYPES += [payload_type(Model), payload_type(bytes)]


@every_codec
@given(envelope=ENVELOPES)
def test_every_envelope_comes_back_as_it_went(wire, envelope):
    received = wire.decode(wire.encode(envelope))
    for field in ("type", "event", "id", "ack", "room", "meta"):
        assert getattr(received, field) == getattr(envelope, field)
    assert wire.plain(received.payload) == envelope.payload
    assert wire.payload_decoder(ANY)(received.payload) == envelope.payload
    assert wire.plain(wire.decode(wire.encode(received)).payload) == envelope.payload


def fault_of(read: Callable[[Any], Any], data: Any) -> SocketFault | None:
    """The fault that reading raises; any other exception fails the test."""
    try:
        read(data)
    except SocketFault as fault:
        return fault
    return None


def survives(wire: Codec, data: bytes) -> None:
    """Whatever the bytes are, nothing but a fault is raised, at any stage."""
    faults = [fault_of(wire.decode, data)]
    if faults == [None]:
        raw = wire.decode(data).payload
        faults += [fault_of(wire.payload_decoder(type_), raw) for type_ in TYPES]
        faults += [fault_of(wire.plain, raw), fault_of(wire.plain, msgspec.Raw(data))]
    for fault in filter(None, faults):
        assert (fault.code, fault.close_code) == ("WS_MESSAGE_INVALID", None)
        assert 0 < len(msgspec.json.encode(fault.as_dict())) < 20_000


@every_codec
@given(data=st.binary(max_size=200))
@example(b"")
def test_arbitrary_bytes_do_no_harm(wire, data):
    survives(wire, data)
    survives(wire, in_payload(wire, data))


@every_codec
@given(envelope=ENVELOPES, seed=st.integers(0, 2**32), changes=st.integers(1, 6))
def test_mutated_messages_do_no_harm(wire, envelope, seed, changes):
    data = bytearray(wire.encode(envelope))
    chance = random.Random(seed)
    for _ in range(changes):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randrange(1, 8)]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 8))
            case _:
                data[at:at] = data[chance.randrange(len(data) + 1) :][:16]
    survives(wire, bytes(data))


@binary_codecs
@given(
    heads=st.lists(
        st.sampled_from(
            [*b"\x80\x81\x82\x90\x91\xa1\xbf\x9f\xff\xc0\xc1\xc2\xc4\xc7\xd4\xd6\xd8\xd9\xdc\xdf\xf7\xf8\xfb"]
        )
        | st.integers(0, 255),
        max_size=80,
    )
)
def test_strings_of_heads_do_no_harm(wire, heads):
    survives(wire, in_payload(wire, bytes(heads)))


def test_a_recursion_limit_of_a_deep_stack_is_no_different():
    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        else:
            for wire in CODECS.values():
                survives(wire, nested(wire, 60))

    deeper(sys.getrecursionlimit() - 300)
