"""A message whose frames come one by one (RFC 6455 section 5.4)."""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder

from aquilia.sockets.transports.framing import BINARY, FRAME_OVERHEAD

__all__ = ["Fragments"]

MAX_FRAGMENTS = 4096
"""Frames of one message, unless told otherwise, or they have MIN_FRAGMENT bytes on average: each takes 50 more."""
MIN_FRAGMENT = 16

_UTF8 = getincrementaldecoder("utf-8")


class Fragments:
    """What has come of one message."""

    __slots__ = ("_decoder", "_parts", "binary", "compressed", "size")

    def __init__(self, opcode: int, *, compressed: bool) -> None:
        self.binary = opcode == BINARY
        self.compressed = compressed
        self.size = 0
        """Bytes on the wire, without the heads of the frames."""
        self._parts: list[bytes] = []
        self._decoder: IncrementalDecoder | None = None if self.binary or compressed else _UTF8()

    def add(self, data: bytes) -> bool:
        """Take the next frame's. False: the text cannot be UTF-8 any more (section 8.1).

        So the connection ends at the first byte that is wrong, and not when the message is complete.
        """
        if self._decoder is not None:
            try:
                self._decoder.decode(data)
            except UnicodeDecodeError:
                return False
        self._parts.append(data)
        self.size += len(data)
        return True

    def exceed(self, max_size: int, max_fragments: int | None) -> bool:
        """Whether the message is too big, or in too many frames."""
        most = max_fragments or max(MAX_FRAGMENTS, self.size // MIN_FRAGMENT)
        return self.size > max_size or len(self._parts) > most

    @property
    def weight(self) -> int:
        """Bytes of memory that they take, about."""
        return self.size + FRAME_OVERHEAD * len(self._parts)

    def join(self) -> bytes:
        """The whole of it."""
        return b"".join(self._parts)
