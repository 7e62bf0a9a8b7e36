"""Frames as they are on the wire (RFC 6455 section 5.2), and as they are kept."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FRAME_OVERHEAD",
    "PING",
    "PING_FRAME",
    "PONG",
    "SHORT_BINARY",
    "SHORT_TEXT",
    "TEXT",
    "KeptFrame",
    "close_body",
    "frame_header",
]

FRAME_OVERHEAD = 128
"""Bytes of memory that a frame takes that is kept, beside its own, about."""

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA
MAX_REASON = 123
"""Bytes of a close frame's reason (RFC 6455 section 5.5)."""


def frame_header(opcode: int, length: int) -> bytes:
    """The head of a final, unmasked frame (RFC 6455 section 5.2)."""
    if length < 126:
        return bytes((0x80 | opcode, length))
    if length < 65_536:
        return bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big")
    return bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big")


def close_body(code: int, reason: str) -> bytes:
    """What a close frame says, its reason cut to what it may have."""
    text = reason.encode()[:MAX_REASON].decode(errors="ignore")  # a whole number of characters
    return code.to_bytes(2, "big") + text.encode()


class KeptFrame:
    """What `on_ws_frame` needs of a frame, for later."""

    __slots__ = ("_payload", "fin", "last_in_buffer", "msg_type", "rsv1", "rsv2", "rsv3", "weight")

    def __init__(self, frame: Any) -> None:
        self.msg_type, self.fin = frame.msg_type, frame.fin
        self.rsv1, self.rsv2, self.rsv3 = frame.rsv1, frame.rsv2, frame.rsv3
        self.last_in_buffer = False
        self._payload: bytes = frame.get_payload_as_bytes()
        self.weight = len(self._payload) + FRAME_OVERHEAD

    def get_payload_as_bytes(self) -> bytes:
        """Named as picows has it."""
        return self._payload


PING_FRAME = frame_header(PING, 0)
SHORT_TEXT = [frame_header(TEXT, length) for length in range(126)]
SHORT_BINARY = [frame_header(BINARY, length) for length in range(126)]
