"""Rates of messages: what a guard or a middleware counts, for each connection by itself."""

from __future__ import annotations

from math import isfinite
from weakref import WeakKeyDictionary

from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import SocketFault, ws_rate_limit_exceeded
from aquilia.sockets.limits import Strikes, TokenBucket

__all__ = ["ConnectionRate", "over_rate"]

STRIKES = 20
STRIKE_WINDOW = 10.0
"""So many refusals by rates within so many seconds end the connection."""


class ConnectionRate:
    """A bucket for each connection that comes by, which is gone with it.

    `messages_per_second` refill it, up to `burst` messages; without, up to twice the messages of a second.

    Raises:
        ValueError: for values that would let nothing pass; `owner` is named.
    """

    def __init__(self, owner: str, messages_per_second: float, burst: float | None) -> None:
        if not _number(messages_per_second) or messages_per_second <= 0:
            raise ValueError(
                f"{owner}: messages_per_second: a number above 0 is needed, not {messages_per_second!r}"
            )
        if burst is not None and (not _number(burst) or burst < 1):
            raise ValueError(f"{owner}: burst: a number of at least 1 is needed, or None, not {burst!r}")
        self.messages_per_second = float(messages_per_second)
        self.burst = max(1.0, 2 * self.messages_per_second) if burst is None else float(burst)
        self._buckets: WeakKeyDictionary[Connection, TokenBucket] = WeakKeyDictionary()

    def take(self, conn: Connection) -> None:
        """Count one message.

        Raises:
            SocketFault: WS_RATE_LIMIT_EXCEEDED.
        """
        now = conn._hub.clock.monotonic()
        bucket = self._buckets.get(conn)
        if bucket is None:
            bucket = self._buckets[conn] = TokenBucket(self.messages_per_second, self.burst, now)
        if not bucket.take(now):
            raise over_rate(conn, self.messages_per_second, now)


def over_rate(conn: Connection, rate: float, now: float) -> SocketFault:
    """The refusal of a message above a rate; it ends the connection that had too many of them, by any rate."""
    if conn._strikes is None:
        conn._strikes = Strikes(STRIKES, STRIKE_WINDOW)
    return ws_rate_limit_exceeded(f"more than {rate:g} messages a second", close=conn._strikes.strike(now))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
