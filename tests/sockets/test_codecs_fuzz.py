"""Whatever an envelope holds comes back, and whatever bytes come do no harm."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
from coding import (
    ANY,
    TEXT,
    Model,
    Node,
    Note,
    binary_codecs,
    every_codec,
    in_payload,
)
from hypothesis import example, given
from hypothesis import strategies as st

from aquilia.sockets.codecs import Codec
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.schema import payload_type

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
