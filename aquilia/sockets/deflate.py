"""Compression of messages, permessage-deflate (RFC 7692): what is agreed on at the handshake, and the machines.

Pure: offers, messages and bounds come in, bytes go out. Both directions are negotiated apart. Where no context is
kept from one message to the next, one compressed message is good for every connection with the same parameters.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Literal, get_args

from aquilia.sockets.faults import CloseCode

__all__ = ["Agreement", "Compression", "Deflater", "InflateError", "Inflater", "agree"]

Mode = Literal["shared", "context"]

EXTENSION = "permessage-deflate"
MAX_OFFERS = 32
"""Offers of one handshake that are looked at."""
RATIO_FREE = 65_536
"""Bytes to which a message may inflate whatever the ratio is: so much, it costs at most."""
MAX_FINAL_BLOCKS = 16
"""Blocks of one message that may end its stream (RFC 7692 section 7.2.3.4): each needs a machine of its own."""

_SMALLEST_WINDOW = 9
"""zlib makes no raw stream for a window of 256 bytes, the smallest that may be asked for."""
_FLUSHED = b"\x00\x00\xff\xff"
"""How every message ends, and what is left out of it (section 7.2.1)."""
_LAST_BLOCK = b"\x03\x00"
"""An empty block that ends the stream: it is understood only where the message was whole."""

_RANGES = {
    "window_bits": (_SMALLEST_WINDOW, 15),
    "memory_level": (1, 9),
    "level": (1, 9),
    "min_size": (0, (1 << 31) - 1),
    "max_ratio": (1, 1032),
}


@dataclass(frozen=True, slots=True)
class Compression:
    """How messages are compressed (RFC 7692): `@Socket(path, compression=Compression(level=1))`.

    `mode="shared"`: each message stands alone, and a publication is compressed once for all members with the same
    parameters. `mode="context"`: each refers to those before it, which makes small ones much smaller; each connection
    then has a compressor and a decompressor of its own, about 300 KB by default, and a publication is compressed for
    each member.

    `window_bits` (9 to 15), `memory_level` (1 to 9) and `level` (1 to 9) are zlib's. Messages below `min_size` bytes
    are sent as they are. One of a client that inflates to more than 64 KiB, and to more than `max_ratio` (1 to 1032)
    times its size, ends the connection with 1009.

    Raises:
        ValueError: for an unknown mode, or a number outside of its range.
        TypeError: for what is no whole number.
    """

    mode: Mode = "shared"
    window_bits: int = 15
    memory_level: int = 8
    level: int = 6
    min_size: int = 256
    max_ratio: int = 100

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            accepted = " or ".join(map(repr, get_args(Mode)))
            raise ValueError(f"Compression: mode: {accepted} is needed, not {self.mode!r}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Compression: {name}: a whole number is needed, not {value!r}")
            if not least <= value <= most:
                raise ValueError(f"Compression: {name}: {least} to {most} is needed, not {value!r}")


class InflateError(Exception):
    """A client's message that cannot be inflated, or may not be: `code` is that of the close that it gets."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Deflater:
    """Compresses the messages of one connection; where no context is kept, of any number of them."""

    __slots__ = ("_bits", "_compression", "_keeps", "_machine")

    def __init__(self, compression: Compression, bits: int, *, keeps: bool) -> None:
        self._compression = compression
        self._bits = bits
        self._keeps = keeps
        self._machine: Any = None

    def deflate(self, message: bytes) -> bytes:
        """The payload of its frames (section 7.2.1)."""
        machine = self._machine
        if machine is None:
            chosen = self._compression
            machine = zlib.compressobj(chosen.level, zlib.DEFLATED, -self._bits, chosen.memory_level)
            if self._keeps:
                self._machine = machine
        data: bytes = machine.compress(message) + machine.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(_FLUSHED)]


class Inflater:
    """Decompresses the messages of one client; where it keeps no context, of any number of them."""

    __slots__ = ("_bits", "_keeps", "_machine", "_max_ratio")

    def __init__(self, max_ratio: int, bits: int, *, keeps: bool) -> None:
        self._max_ratio = max_ratio
        self._bits = bits
        self._keeps = keeps
        self._machine: Any = None

    def inflate(self, data: bytes, max_size: int) -> bytes:
        """The message whose frames had this payload (section 7.2.2). Makes never more than a byte above the bound.

        Raises:
            InflateError: it is no such payload, or the message is too big.
        """
        if not data:  # some send an empty message so, and not as section 7.2.3.6 says
            return b""
        limit = min(max_size, max(RATIO_FREE, len(data) * self._max_ratio))
        end = _FLUSHED if self._keeps else _FLUSHED + _LAST_BLOCK
        try:
            machine, message = self._run(data + end, limit)
            whole = machine
            if self._keeps:
                self._machine = machine
                whole = machine.copy()  # a few microseconds, and the price of never handling half a message
                whole.decompress(_LAST_BLOCK, 1)
        except zlib.error as error:
            raise _corrupt() from error
        if not whole.eof:
            raise _corrupt()
        return message

    def _run(self, data: bytes, limit: int) -> tuple[Any, bytes]:
        machine = self._machine or zlib.decompressobj(-self._bits)
        message = _bounded(machine.decompress(data, limit + 1), limit)
        ended = 0
        while machine.eof and machine.unused_data:
            ended += 1
            if ended > MAX_FINAL_BLOCKS:
                raise _corrupt()
            rest = machine.unused_data
            machine = zlib.decompressobj(-self._bits, zdict=message[-(1 << self._bits) :])
            message = _bounded(message + machine.decompress(rest, limit + 1 - len(message)), limit)
        return machine, message


def _bounded(message: bytes, limit: int) -> bytes:
    if len(message) > limit:
        raise InflateError(CloseCode.TOO_BIG, "the message is too big when it is inflated")
    return message


def _corrupt() -> InflateError:
    return InflateError(CloseCode.NOT_UTF8, "the compressed data is corrupt")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a client and we have agreed on. Bits are of windows: the server's is that in which we look back."""

    compression: Compression
    server_bits: int
    client_bits: int
    server_context: bool
    """Whether our messages refer to those before; else all connections that agreed on the same share them."""
    client_context: bool
    answer: str
    """The header `Sec-WebSocket-Extensions` of the answer."""
    kind: str
    """Names the framing of what waits to be sent: equal kinds share their frames."""
    _deflater: Deflater = field(repr=False, compare=False)
    _inflater: Inflater = field(repr=False, compare=False)

    def deflater(self) -> Deflater:
        """That of a new connection."""
        if self.server_context:
            return Deflater(self.compression, self.server_bits, keeps=True)
        return self._deflater

    def inflater(self) -> Inflater:
        """That of a new connection."""
        if self.client_context:
            return Inflater(self.compression.max_ratio, self.client_bits, keeps=True)
        return self._inflater


def agree(compression: Compression, offered: str) -> Agreement | None:
    """What comes of a client's header `Sec-WebSocket-Extensions`: the first offer that can be accepted, if any.

    An offer that is malformed, or asks for what is not known or cannot be done, is declined (section 7.1), and the
    next is looked at.
    """
    for wanted in _offers(offered):
        server_bits = min(compression.window_bits, wanted.server_bits or 15)
        if server_bits >= _SMALLEST_WINDOW:
            return _agreement(compression, wanted)
    return None


@dataclass(frozen=True, slots=True)
class _Offer:
    server_alone: bool
    client_alone: bool
    server_bits: int | None
    client_bits: int | None
    """None: not to be spoken of. 15 also where the client leaves it to us."""


@cache
def _agreement(compression: Compression, wanted: _Offer) -> Agreement:
    alone = compression.mode == "shared"
    server_alone, client_alone = alone or wanted.server_alone, alone or wanted.client_alone
    server_bits = min(compression.window_bits, wanted.server_bits or 15)
    client_bits = min(compression.window_bits, wanted.client_bits) if wanted.client_bits else 15
    said = [EXTENSION]
    if server_alone:
        said.append("server_no_context_takeover")
    if client_alone:
        said.append("client_no_context_takeover")
    if wanted.server_bits is not None:  # unasked, some clients refuse it
        said.append(f"server_max_window_bits={server_bits}")
    if client_bits < 15:
        said.append(f"client_max_window_bits={client_bits}")
    looks_back = max(client_bits, _SMALLEST_WINDOW)
    chosen = (compression.level, compression.memory_level, compression.min_size)
    return Agreement(
        compression,
        server_bits,
        looks_back,
        server_context=not server_alone,
        client_context=not client_alone,
        answer="; ".join(said),
        kind=f"native deflate={server_bits},{','.join(map(str, chosen))}" if server_alone else "native",
        _deflater=Deflater(compression, server_bits, keeps=False),
        _inflater=Inflater(compression.max_ratio, looks_back, keeps=False),
    )


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"({_TOKEN})"))?'
_PARAMETERS = re.compile(_PARAMETER)
_OFFER = re.compile(rf"{EXTENSION}(?:{_PARAMETER})*")
_BITS = re.compile("[89]|1[0-5]")
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS = ("server_max_window_bits", "client_max_window_bits")


def _offers(header: str) -> Iterator[_Offer]:
    for written in islice(header.split(","), MAX_OFFERS):
        offer = _read(written.strip(" \t"))
        if offer is not None:
            yield offer


def _read(written: str) -> _Offer | None:
    """One offer; None, if it is not for us or is to be declined."""
    if not _OFFER.fullmatch(written):
        return None
    found: dict[str, str | None] = {}
    for name, plain, quoted in _PARAMETERS.findall(written):
        value = plain or quoted
        if name in found or not _is_valid(name, value):
            return None
        found[name] = value
    server_bits, client_bits = (found.get(name) for name in _WINDOWS)
    return _Offer(
        "server_no_context_takeover" in found,
        "client_no_context_takeover" in found,
        server_bits=int(server_bits) if server_bits else None,
        client_bits=None if client_bits is None else int(client_bits or 15),
    )


def _is_valid(name: str, value: str) -> bool:
    if name in _FLAGS:
        return not value
    if name not in _WINDOWS:
        return False
    return bool(_BITS.fullmatch(value)) or (not value and name == "client_max_window_bits")
