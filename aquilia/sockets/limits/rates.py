"""Rates of messages, of each connection by itself: what settings limit, and what a guard or a middleware counts."""

from __future__ import annotations

from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary, ref

from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import SocketFault, ws_rate_limit_exceeded
from aquilia.sockets.limits.buckets import ByteBucket, Strikes, TokenBucket

__all__ = ["Bucket", "ConnectionRate", "WeighedBucket", "bucket_for", "excess", "excess_of", "over_limit"]

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
            raise _refused(conn, _too_many(self.messages_per_second), now)


class WeighedBucket:
    """The bytes of a connection, and its messages where these are limited as well."""

    __slots__ = ("_bytes", "_conn", "_counted", "_messages", "_short")

    def __init__(self, conn: Connection, bytes_: ByteBucket, messages: TokenBucket | None) -> None:
        self._conn = ref(conn)  # which has the bucket
        self._bytes = bytes_
        self._messages = messages
        self._counted = 0
        self._short = False

    def take(self, now: float) -> bool:
        """Count a message, with all that has come since the one before: acks too."""
        conn = self._conn()
        received = conn.bytes_received if conn is not None else self._counted
        size, self._counted = received - self._counted, received
        self._short = not self._bytes.take(size, now)
        return not self._short and (self._messages is None or self._messages.take(now))

    @property
    def excess(self) -> tuple[str, str]:
        """The setting by which the last message was refused, and what the client is told."""
        if self._short:
            return "byte_rate_limit", f"more than {self._bytes.rate:g} bytes a second"
        assert self._messages is not None
        return "message_rate_limit", _too_many(self._messages.rate)


Bucket = TokenBucket | WeighedBucket


def bucket_for(conn: Connection, message_rate: float | None, byte_rate: float | None) -> Bucket | None:
    """What counts the messages of a connection; None where nothing limits them."""
    now = conn._hub.clock.monotonic()
    messages = TokenBucket(message_rate, max(1.0, 2 * message_rate), now) if message_rate else None
    if byte_rate is None:
        return messages
    return WeighedBucket(conn, ByteBucket(byte_rate, max(1.0, 2 * byte_rate), now), messages)


def excess(conn: Connection) -> str:
    """Count that a limit of the settings has refused a message. What the client is told."""
    limit, told = excess_of(conn._bucket)
    conn._home.recorder.limited(conn._home.pattern, limit)
    return told


def excess_of(bucket: Any) -> tuple[str, str]:
    """The setting by which a bucket has refused a message, and what the client is told."""
    if isinstance(bucket, TokenBucket):
        return "message_rate_limit", _too_many(bucket.rate)
    found: tuple[str, str] = bucket.excess
    return found


def over_limit(conn: Connection, now: float) -> SocketFault:
    """The refusal of a message above a limit of the settings."""
    return _refused(conn, excess(conn), now)


def _too_many(rate: float) -> str:
    return f"more than {rate:g} messages a second"


def _refused(conn: Connection, told: str, now: float) -> SocketFault:
    """The refusal of a message above a rate; it ends the connection that had too many of them, by any rate."""
    if conn._strikes is None:
        conn._strikes = Strikes(STRIKES, STRIKE_WINDOW)
    return ws_rate_limit_exceeded(told, close=conn._strikes.strike(now))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
