"""What has been read and is not handled yet, in the process as a whole, and who gives way when that is too much.

Counted are messages that wait for a handler that is slow, the one that it has, and what transports hold: fragments of
messages that are not whole, and receive buffers that have grown. Connections whose handlers end at once, and whose
messages come whole and are small, are never looked at here. What a function has taken is its own.

What is promised:

- Whoever holds more than an even part of what is left of the limit, and then until it is half of that, is read from
  only while none of its messages wait. So nobody is held back whose handlers keep up.
- Beyond the limit receive buffers that are empty are given back; then connections end with 1013, until an eighth is
  free: first those whose transport holds the most, which no handler can free, then those that hold the most at all.
- Whoever holds less than half of an even part of the limit is not ended.
- A connection that ends counts only with what its transport still holds, and with nothing when it has.

"Even" is among those who hold something. The limit may be exceeded by what one turn of the loop reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import CloseCode

__all__ = ["Intake"]

SLICE = 0.001
"""Seconds that it may take from the loop at a stretch."""
REASON = "WS_OVERLOADED: the server holds too much that is not handled yet"


class Intake:
    """The bytes that wait to be handled, `limit` at most. One per process."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._low = limit - limit // 8
        self._clock = clock
        self._holders: dict[Connection, None] = {}
        self._steps: Iterator[None] | None = None
        """What is under way, a slice in each turn of the loop."""
        self._again = False
        """Whether there was a reason to go on while it was."""
        self.total = 0
        """Bytes that wait."""

    @property
    def share(self) -> int:
        """Bytes with which nobody is ended."""
        return self._limit // (2 * max(1, len(self._holders)))

    def weigh(self, conn: Connection) -> None:
        """What is held for a connection has changed."""
        weight = conn._unhandled + conn._transport.held
        if conn._pump is not None and conn._close is None:
            weight += conn._in_hand
        before, conn._intake = conn._intake, weight
        self.total += weight - before
        if weight and not before:
            self._holders[conn] = None
        elif before and not weight:
            del self._holders[conn]
        even = (self._limit - self.total) // max(1, len(self._holders))
        if weight > before:
            if weight > even and not conn._held_back:
                conn._held_back = True
                conn._balance_reading()
        elif conn._held_back and weight <= max(0, even // 2):
            conn._held_back = False
            conn._balance_reading()
        if self.total > self._limit:
            self._go_on()

    def _go_on(self) -> None:
        """Not at once: this is called while a transport reads; and handlers may free it all in their turn."""
        if self._steps is None:
            self._steps = self._relieve()
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._run)
        else:
            self._again = True

    def _run(self) -> None:
        deadline = self._clock() + SLICE
        for _ in self._steps or ():
            if self._clock() >= deadline:
                asyncio.get_running_loop().call_soon(self._run)
                return
        self._steps = None
        if self._again:
            self._again = False
            self._go_on()

    def _relieve(self) -> Iterator[None]:
        if self.total > self._limit:
            for conn in self._largest(_held):
                conn._transport.trim()
                self.weigh(conn)
                yield
        if self.total > self._limit:
            for weight in (_held, _all):
                for conn in self._largest(weight):
                    if weight(conn) <= self.share:
                        break
                    self._end(conn)
                    yield

    def _largest(self, weight: Callable[[Connection], int]) -> Iterator[Connection]:
        """Those who hold the most, until there is enough room again."""
        for conn in sorted(self._holders, key=weight, reverse=True):
            if self.total <= self._low:
                return
            if conn._intake:
                yield conn

    def _end(self, conn: Connection) -> None:
        if conn._close is None:
            home = conn._home
            home.recorder.limited(home.pattern, "inbox_bytes")
            home.recorder.fault(home.pattern, "WS_OVERLOADED")
            conn._hub.audit.note(
                "limit.hit", conn, outcome="closed", code="WS_OVERLOADED", reason="inbox_bytes"
            )
            conn._end(CloseCode.OVERLOADED, REASON)
        assert conn._close is not None
        conn._transport.fail(*conn._close)
        self.weigh(conn)


def _held(conn: Connection) -> int:
    return conn._transport.held


def _all(conn: Connection) -> int:
    return conn._intake
