"""How a wire of the native transport ends: the closing handshake (RFC 6455 section 7), and what waits for it.

First it is known how it ends, and nothing of the peer is taken any more. Then our close frame is written, behind all
that is said before it; then the peer's comes, or nobody waits for it; and the wire is closed. What takes too long is
cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import uniform
from typing import Any

from picows import WSListener

from aquilia.sockets.faults import CloseCode
from aquilia.sockets.transports.base import TransportEvents
from aquilia.sockets.transports.framing import CLOSE, close_body, frame_header

__all__ = ["ClosingTransport"]

CLOSE_TIMEOUT = 5.0
"""Seconds that the peer may take to answer a close frame, before the connection is cut: up to a fifth more.

1,000 that are shown out at once would hold the loop for 13 ms if they were cut at once.
"""


class ClosingTransport(WSListener):
    """The half of `NativeTransport` that ends it."""

    __slots__ = ("_close_timer", "_closing", "_events", "_leaving", "_line", "_said", "_wire", "gone")

    def __init__(self, wire: asyncio.Transport) -> None:
        self._wire = wire
        self._events: TransportEvents | None = None
        self._line: Callable[[bytes], object] | None = None
        """See `Transport`: there is none any more once the close frame has been written."""
        self._closing: tuple[int, str] | None = None
        """How it ends. Nothing of the peer is taken any more,"""
        self._said = False
        """but what is for the peer goes out until the close frame has been written."""
        self._leaving = False
        """Whether the wire ends with our close frame, and does not wait for the peer's."""
        self._close_timer: asyncio.TimerHandle | None = None
        self.gone = False

    def _await_close(self) -> None:
        """Read on, whatever stopped it: the peer's close frame is to come."""
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        """See `Transport`."""
        if not self._said and not self.gone:
            self._closing = (code, reason)
            self._write_close(close_body(code, reason))

    def _answer_close(self, transport: Any) -> None:
        handshake = transport.close_handshake.recv
        code = int(handshake.code) if handshake is not None else 0
        reason = (handshake.reason or "") if handshake is not None else ""
        if (
            code == CloseCode.ABNORMAL
        ):  # of those that may not be sent (section 7.4.1), picows lets this one pass
            code, reason = int(CloseCode.PROTOCOL_ERROR), "the close code 1006 is not to be sent"
        self._leaving = True
        self._close_behind_answers(
            code or CloseCode.NO_STATUS, reason, code.to_bytes(2, "big") if code else b""
        )

    def _close_behind_answers(self, code: int, reason: str, body: bytes) -> None:
        """Nothing of the peer is taken any more. What it sent before may have answers that wait for nothing.

        Handlers run in the next turn of the loop, and what they say is written in the one behind, at the latest.
        """
        self._closing = (code, reason)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._write_close, body)

    def _write_close(self, body: bytes) -> None:
        if self._said or self.gone:
            return
        self._said = True
        self._line = None
        self._await_close()
        self._wire.write(frame_header(CLOSE, len(body)) + body)
        self._set_timer(self._wire.abort)
        if self._leaving:
            self._wire.close()

    def _set_timer(self, at_last: Callable[[], object]) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        patience = CLOSE_TIMEOUT * uniform(1, 1.2)
        self._close_timer = asyncio.get_running_loop().call_later(patience, at_last)

    def leave(self) -> None:
        """End the wire, once our close frame has been written."""
        self._leaving = True
        if self._said or self._events is None:
            self._wire.close()

    def abort(self) -> None:
        """See `Transport`."""
        if self._closing is None:
            self._closing = (CloseCode.ABNORMAL, "")
        self._said = True
        self._line = None
        self._wire.abort()
