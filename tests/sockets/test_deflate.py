"""permessage-deflate without a wire: what is agreed on, and the machines, against zlib itself."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets import Compression
from aquilia.sockets.deflate import MAX_FINAL_BLOCKS, RATIO_FREE, Agreement, InflateError, agree

FLUSHED = b"\x00\x00\xff\xff"
PLENTY = 1 << 24


def agreed(offer: str = "permessage-deflate; client_max_window_bits", **fields: Any) -> Agreement:
    agreement = agree(Compression(**fields), offer)
    assert agreement is not None
    return agreement


def deflated(message: bytes, bits: int = 15, *, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    machine = zlib.compressobj(wbits=-bits)
    return (machine.compress(message) + machine.flush(flush)).removesuffix(FLUSHED)


def inflated(data: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(-bits).decompress(data + FLUSHED)


# The offers

SHARED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "shared", "context"),
    [
        ("permessage-deflate", SHARED, "permessage-deflate"),
        # What Chromium and Firefox offer.
        ("permessage-deflate; client_max_window_bits", SHARED, "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=11",
            f"{SHARED}; server_max_window_bits=12; client_max_window_bits=11",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=11",
        ),
        (
            "permessage-deflate; server_no_context_takeover",
            SHARED,
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            SHARED,
            "permessage-deflate; client_no_context_takeover",
        ),
        (
            'permessage-deflate;server_max_window_bits="10"',
            f"{SHARED}; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            f"{SHARED}; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=15",
        ),
        ("x-other; a=b, permessage-deflate", SHARED, "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            SHARED,
            "permessage-deflate",
        ),
        (
            "permessage-deflate; client_max_window_bits=8",
            f"{SHARED}; client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=8",
        ),
        ("permessage-deflate; unknown, permessage-deflate", SHARED, "permessage-deflate"),
        ("\tpermessage-deflate ;  server_no_context_takeover ", SHARED, None),
    ],
)
def test_the_first_offer_that_can_be_kept_is_accepted(offer: str, shared: str, context: str | None) -> None:
    assert agreed(offer).answer == shared
    if context is not None:
        assert agreed(offer, mode="context").answer == context


@pytest.mark.parametrize(
    "offer",
    [
        "",
        ",",
        "permessage-deflat",
        "permessage-deflate-2",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+10",
        "permessage-deflate; server_max_window_bits= ",
        'permessage-deflate; server_max_window_bits=""',
        'permessage-deflate; server_max_window_bits="10',
        "permessage-deflate; client_max_window_bits=1",
        "permessage-deflate; client_max_window_bits=99999999999999999999",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; whatever",
        "permessage-deflate;",
        "permessage-deflate; ;",
        "permessage-deflate server_no_context_takeover",
        "permessage-deflate=1",
        "permessage-deflate; server_max_window_bits=\u0661\u0660",
    ],
)
def test_what_is_malformed_unknown_or_cannot_be_done_is_declined(offer: str) -> None:
    assert agree(Compression(), offer) is None


@given(st.text(alphabet='permessage-deflate;=, "\t89150_windowbclx\\', max_size=120))
def test_no_header_is_an_error(offer: str) -> None:
    answer = agree(Compression(), f"permessage-deflate{offer}")
    assert answer is None or answer.answer.startswith("permessage-deflate")


def test_a_long_header_is_read_quickly_and_not_to_its_end() -> None:
    assert agree(Compression(), "permessage-deflate; x" + " " * 60_000) is None
    assert agree(Compression(), "permessage-deflate; x, " * 3000 + "permessage-deflate") is None


@pytest.mark.parametrize("bits", range(9, 16))
def test_our_windows_are_never_wider_than_either_side_wants(bits: int) -> None:
    offer = "permessage-deflate; server_max_window_bits=12; client_max_window_bits"
    answer = agreed(offer, window_bits=bits).answer
    assert f"server_max_window_bits={min(bits, 12)}" in answer
    assert (f"client_max_window_bits={bits}" in answer) is (bits < 15)


def test_those_who_agreed_on_the_same_share_frames_and_others_do_not() -> None:
    offers = [
        "permessage-deflate; server_max_window_bits=12",
        "permessage-deflate; server_max_window_bits=12; client_max_window_bits=9",
        "permessage-deflate; server_max_window_bits=11",
        "permessage-deflate",
    ]
    first, alike, narrow, wide = [agreed(offer).kind for offer in offers]
    assert first == alike
    assert len({first, narrow, wide, agreed(level=1).kind, agreed(min_size=1).kind, "native"}) == 6
    assert agreed(mode="context").kind == "native"  # what waits is as without compression


# The machines

BITS = st.integers(9, 15)
LEVELS = st.integers(1, 9)
MESSAGES = st.lists(
    st.one_of(st.binary(max_size=3000), st.text("ab {}", max_size=3000).map(str.encode)),
    min_size=1,
    max_size=8,
)


@given(MESSAGES, BITS, LEVELS, LEVELS)
def test_what_stands_alone_can_be_read_in_any_order(
    messages: list[bytes], bits: int, level: int, memory: int
) -> None:
    agreement = agreed(window_bits=bits, level=level, memory_level=memory)
    packed = [agreement.deflater().deflate(message) for message in messages]
    assert [inflated(data, bits) for data in reversed(packed)] == messages[::-1]
    assert [agreement.inflater().inflate(data, PLENTY) for data in reversed(packed)] == messages[::-1]


@given(MESSAGES, BITS, LEVELS)
def test_what_has_a_context_is_one_stream(messages: list[bytes], bits: int, level: int) -> None:
    agreement = agreed("permessage-deflate", mode="context", window_bits=bits, level=level)
    deflater, inflater = agreement.deflater(), agreement.inflater()
    reader, writer = zlib.decompressobj(-bits), zlib.compressobj(wbits=-15)
    for message in messages:
        assert reader.decompress(deflater.deflate(message) + FLUSHED) == message
        data = (writer.compress(message) + writer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(FLUSHED)
        assert inflater.inflate(data, PLENTY) == message


def test_a_context_makes_the_second_of_two_like_messages_tiny() -> None:
    message = bytes(range(256)) * 2
    deflater, other = agreed(mode="context").deflater(), agreed(mode="context").deflater()
    first, second = deflater.deflate(message), deflater.deflate(message)
    assert len(second) < 20 < len(first)
    assert other.deflate(message) == first  # which has a context of its own


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for agreement in (agreed(), agreed(mode="context")):
        try:
            assert len(agreement.inflater().inflate(data, 1000)) <= 1000
        except InflateError as error:
            assert error.code in (1007, 1009)


# The examples of RFC 7692, section 7.2.3


@pytest.mark.parametrize("mode", ["shared", "context"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("f2 48 cd c9 c9 07 00", b"Hello"),
        ("00 05 00 fa ff 48 65 6c 6c 6f 00", b"Hello"),  # a block with no compression
        ("f3 48 cd c9 c9 07 00 00", b"Hello"),  # a block with BFINAL set
        ("f2 48 05 00 00 00 ff ff ca c9 c9 07 00", b"Hello"),  # two blocks
        ("00", b""),  # an empty message
        ("", b""),
        ("02 00", b""),
    ],
)
def test_the_examples_of_the_standard(mode: Any, data: str, message: bytes) -> None:
    inflater = agreed(mode=mode).inflater()
    assert inflater.inflate(bytes.fromhex(data), PLENTY) == message
    assert inflater.inflate(deflated(b"and more"), PLENTY) == b"and more"


def test_a_context_reaches_into_the_message_before() -> None:
    inflater = agreed(mode="context").inflater()
    for data in ("f2 48 cd c9 c9 07 00", "f2 00 11 00 00"):
        assert inflater.inflate(bytes.fromhex(data), PLENTY) == b"Hello"
    with pytest.raises(InflateError, match="corrupt"):
        agreed().inflater().inflate(bytes.fromhex("f2 00 11 00 00"), PLENTY)


def test_a_message_may_have_a_few_final_blocks_and_no_more() -> None:
    for mode in ("shared", "context"):
        inflater = agreed(mode=mode).inflater()
        final = deflated(b"x", flush=zlib.Z_FINISH)
        assert inflater.inflate(final * MAX_FINAL_BLOCKS + b"\0", PLENTY) == b"x" * MAX_FINAL_BLOCKS
        with pytest.raises(InflateError, match="corrupt") as refused:
            inflater.inflate(final * 20_000 + b"\0", PLENTY)
        assert refused.value.code == 1007


# What is too much


@pytest.mark.parametrize("mode", ["shared", "context"])
@pytest.mark.parametrize("bound", [1, 100, 16_384, RATIO_FREE])
def test_the_bound_holds_to_the_byte(mode: Any, bound: int) -> None:
    assert agreed(mode=mode).inflater().inflate(deflated(b"x" * bound), bound) == b"x" * bound
    for more in (1, 2, 1 << 22):
        with pytest.raises(InflateError, match="too big") as refused:
            agreed(mode=mode).inflater().inflate(deflated(b"x" * (bound + more)), bound)
        assert refused.value.code == 1009


def test_the_bound_holds_behind_a_final_block() -> None:
    final = deflated(b"x" * 60, flush=zlib.Z_FINISH)
    with pytest.raises(InflateError, match="too big"):
        agreed().inflater().inflate(final + final + b"\0", 100)
    assert agreed().inflater().inflate(final + final + b"\0", 120) == b"x" * 120


def test_a_large_message_may_not_be_made_of_next_to_nothing() -> None:
    bomb = deflated(b"x" * (1 << 20))
    with pytest.raises(InflateError, match="too big") as refused:
        agreed().inflater().inflate(bomb, PLENTY)
    assert refused.value.code == 1009
    assert len(agreed(max_ratio=1032).inflater().inflate(bomb, PLENTY)) == 1 << 20
    # What costs little is not asked for its ratio.
    small = b"x" * RATIO_FREE
    assert agreed(max_ratio=1).inflater().inflate(deflated(small), PLENTY) == small


@given(st.binary(min_size=20, max_size=2000), st.data())
def test_a_message_that_was_cut_off_is_never_whole(message: bytes, data: st.DataObject) -> None:
    machine = zlib.compressobj(strategy=zlib.Z_FIXED, wbits=-15)
    whole = (machine.compress(message) + machine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(FLUSHED)
    cut = whole[: data.draw(st.integers(1, len(whole) - 2))]
    for mode in ("shared", "context"):
        try:
            shorter = agreed(mode=mode).inflater().inflate(cut, PLENTY)
        except InflateError as error:
            assert error.code == 1007
        else:  # its last bits happened to end a block
            assert len(shorter) < len(message) + 8


# The declaration


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mode": "both"}, "mode: 'shared' or 'context' is needed, not 'both'"),
        ({"window_bits": 8}, "window_bits: 9 to 15 is needed, not 8"),
        ({"window_bits": 16}, "window_bits: 9 to 15"),
        ({"memory_level": 0}, "memory_level: 1 to 9"),
        ({"level": 10}, "level: 1 to 9"),
        ({"min_size": -1}, "min_size: 0 to 2147483647"),
        ({"max_ratio": 0}, "max_ratio: 1 to 1032"),
        ({"level": "6"}, "level: a whole number is needed, not '6'"),
        ({"min_size": True}, "min_size: a whole number"),
        ({"max_ratio": 1.5}, "max_ratio: a whole number"),
    ],
)
def test_a_wrong_value_is_named(fields: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match="Compression") as refused:
        Compression(**fields)
    assert told in str(refused.value)
