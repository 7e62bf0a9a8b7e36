"""Bytes that are no message, or one that nests too deep, do the codecs no harm."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from coding import (
    NOON,
    SENT,
    TEXT,
    every_codec,
    in_payload,
    payload_of,
    refusal,
    written,
)
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.codecs import CODECS, Codec
from aquilia.sockets.envelope import MAX_NESTING
from aquilia.sockets.faults import SocketFault

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
