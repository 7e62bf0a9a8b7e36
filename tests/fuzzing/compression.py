"""Compression against the RFC: what is agreed on, and what arbitrary bytes are inflated to, and what that costs."""

from __future__ import annotations

import re
import tracemalloc
import zlib

from rawsocket import BINARY, CONTINUATION, PING, frame

from aquilia.sockets.deflate import MAX_OFFERS, RATIO_FREE, Agreement, Compression, InflateError, agree
from fuzzing.choices import Choices
from fuzzing.memory_wire import MAX_SIZE, Visit

COMPRESSIONS = [
    Compression(min_size=0),
    Compression(mode="context", min_size=0),
    Compression(mode="context", window_bits=9, memory_level=1, level=1, max_ratio=2, min_size=0),
]
OFFERS = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits; server_no_context_takeover",
    "permessage-deflate; client_max_window_bits=9; client_no_context_takeover",
]
VALUES = ["=8", "=9", "=15", "=7", "=16", "=010", "=", '="10"', '="', " = 12", "=x"]
SIGNS = [",", ";", "=", '"', " ", "\t", "x", "permessage-deflate"]
SIZES = [MAX_SIZE, 1, 70_000, 1 << 20]
LEAST_MEMORY = 400_000
"""Bytes that three machines of zlib have, whatever comes."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_KNOWN = {
    "server_no_context_takeover": "flag",
    "client_no_context_takeover": "flag",
    "server_max_window_bits": "bits",
    "client_max_window_bits": "bits or flag",
}
_BITS = {str(bits): bits for bits in range(8, 16)}

Parameters = dict[str, int | None]


def understood(written: str) -> Parameters | None:
    """One offer or answer, read by RFC 7692 section 7.1; None, if it is to be declined."""
    name, *parameters = (part.strip(" \t") for part in written.split(";"))
    if name != "permessage-deflate":
        return None
    found: Parameters = {}
    for parameter in parameters:
        key, assigned, value = (part.strip(" \t") for part in parameter.partition("="))
        if len(value) > 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        kind = _KNOWN.get(key)
        if kind is None or key in found or (assigned and not _TOKEN.match(value)):
            return None
        if (value and kind == "flag") or (not value and kind == "bits") or (value and value not in _BITS):
            return None
        found[key] = _BITS.get(value)
    return found


def _answers(answer: Parameters, offer: Parameters) -> bool:
    """Whether this answer is one to that offer (sections 7.1.1 and 7.1.2)."""
    server, client = answer.get("server_max_window_bits"), answer.get("client_max_window_bits")
    return (
        ("server_no_context_takeover" in answer or "server_no_context_takeover" not in offer)
        and (
            "server_max_window_bits" not in offer or (server or 16) <= (offer["server_max_window_bits"] or 15)
        )
        and (
            "client_max_window_bits" not in answer
            or (
                "client_max_window_bits" in offer
                and (client or 16) <= (offer["client_max_window_bits"] or 15)
            )
        )
    )


def offers(data: bytes) -> None:
    """Any `Sec-WebSocket-Extensions`: what is agreed on was offered, is what the RFC allows, and works both ways."""
    _are_met(data.decode("latin-1"))
    _are_met(_offered(Choices(data)))


def _offered(choices: Choices) -> str:
    """A header that is nearly right."""
    said = ""
    for _ in range(choices.number(6)):
        said += choices.of(["permessage-deflate", "permessage-deflate", "x-other"])
        for _ in range(choices.number(4)):
            said += "; " + choices.of([*_KNOWN])
            said += choices.of(VALUES) if choices.once_in(2) else ""
        said += choices.of(SIGNS) if choices.once_in(8) else ""
        said += ", "
    return said


def _are_met(header: str) -> None:
    heard = [
        offer
        for each in header.split(",")[:MAX_OFFERS]
        if (offer := understood(each.strip(" \t"))) is not None
    ]
    for compression in COMPRESSIONS:
        agreement = agree(compression, header)
        possible = [offer for offer in heard if offer.get("server_max_window_bits") != 8]
        assert (agreement is not None) is bool(possible), "an offer is declined, or made up"
        if agreement is not None:
            answer = understood(agreement.answer)
            assert answer is not None, "the answer is none"
            assert _answers(answer, possible[0]), f"{agreement.answer} is not what was offered"
            _is_kept(agreement, answer)


def _is_kept(agreement: Agreement, answer: Parameters) -> None:
    """Both sides can read each other, by what the answer says alone."""
    said = [b"x" * 300 + bytes(range(256)) * 3, b"", b"abc" * 99]
    theirs = zlib.decompressobj(-(answer.get("server_max_window_bits") or 15))
    bits = max(9, answer.get("client_max_window_bits") or 15)
    mine, packer = agreement.inflater(), zlib.compressobj(wbits=-bits)
    deflater = agreement.deflater()
    for message in said:
        if "server_no_context_takeover" in answer:
            theirs = zlib.decompressobj(-(answer.get("server_max_window_bits") or 15))
        if "client_no_context_takeover" in answer:
            packer = zlib.compressobj(wbits=-bits)
        assert theirs.decompress(deflater.deflate(message) + b"\x00\x00\xff\xff") == message
        assert mine.inflate(_packed(packer, message), 10_000) == message


def _packed(packer: zlib._Compress, message: bytes) -> bytes:
    return (packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflation(data: bytes) -> None:
    """Any compressed messages, one behind the other: within the bound, or refused, in bounded memory either way."""
    tracemalloc.start()  # once: each time it leaves a little behind
    try:
        _inflated(Choices(data))
    finally:
        tracemalloc.stop()


def _inflated(choices: Choices) -> None:
    compression = choices.of(COMPRESSIONS)
    agreement = agree(compression, choices.of(OFFERS))
    assert agreement is not None
    inflater, packer = agreement.inflater(), zlib.compressobj(wbits=-9)
    most = choices.of(SIZES)
    while choices:
        message = choices.some(200) * choices.of([1, 1, 2, 40, 20_000])
        sent = _packed(packer, message) if choices.once_in(2) else choices.some(200)
        whole = damaged(sent, choices)
        limit = min(most, max(RATIO_FREE, len(whole) * compression.max_ratio))
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        try:
            assert len(inflater.inflate(whole, most)) <= limit, "the message is larger than may be"
        except InflateError as error:
            assert error.code in (1007, 1009)
            return
        finally:
            used = tracemalloc.get_traced_memory()[1] - before
            assert used <= LEAST_MEMORY + 4 * (limit + len(whole)), f"{used} bytes were taken to make {limit}"


def damaged(data: bytes, choices: Choices) -> bytes:
    """The same, or without a part of it, or with another byte in it."""
    if not choices.once_in(4):
        return data
    at = choices.number(len(data) + 1)
    return data[:at] + choices.some(2) + data[at + choices.number(3) :]


async def compressed_frames(data: bytes) -> None:
    """Compressed messages, whole and damaged, in fragments, in any pieces: what was whole comes up as it was said."""
    choices = Choices(data)
    compression = choices.of(COMPRESSIONS)
    agreement = agree(compression, choices.of(OFFERS))
    assert agreement is not None
    visit = Visit(agreement=agreement)
    packer = zlib.compressobj(wbits=-9)
    said: list[tuple[bytes, bool]] = []
    spoilt, step = False, choices.number(64)
    while choices and not visit.ends:
        message = choices.some(60) * choices.of([1, 1, 2, 30])
        if not agreement.client_context:
            packer = zlib.compressobj(wbits=-9)
        plain = choices.once_in(4)
        packed = message if plain else _packed(packer, message)
        sent = packed if plain else damaged(packed, choices)
        spoilt = spoilt or sent != packed or len(message) > MAX_SIZE // 2
        wire = b"".join(_fragments(sent, 0 if plain else 4, choices))
        if choices.once_in(8):
            wire, spoilt = damaged(wire, choices), True
        if not spoilt:
            said.append((message, True))
        for at in range(0, len(wire), step or len(wire)):
            await visit.feed(wire[at : at + (step or len(wire))])
            fragments = visit.transport._fragments
            held = 0 if fragments is None else fragments.size
            assert held <= visit.transport.max_size, f"{held} bytes of fragments are kept"
    await visit.lose()
    assert visit.messages[: len(said)] == said, "what was sent whole did not come up as it was"
    assert len(visit.ends) == visit.gone == 1
    assert spoilt or visit.ends == [(1006, "")], visit.ends
    assert all(len(message) <= visit.transport.max_size for message, _ in visit.messages)
    assert not visit.errors, visit.errors


def _fragments(payload: bytes, rsv: int, choices: Choices) -> list[bytes]:
    """The frames of one message; now and then with a ping between them."""
    parts = [payload]
    while choices.once_in(3) and len(parts) < 5:
        at = choices.number(len(parts[-1]) + 1)
        parts[-1:] = [parts[-1][:at], parts[-1][at:]]
    frames = []
    for place, part in enumerate(parts):
        final = place == len(parts) - 1
        frames.append(frame(CONTINUATION if place else BINARY, part, final=final, rsv=0 if place else rsv))
        if choices.once_in(5):
            frames.append(frame(PING, b"x"))
    return frames
