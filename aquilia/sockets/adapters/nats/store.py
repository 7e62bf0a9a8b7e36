"""The store over JetStream: a stream that keeps one message for each key.

Each value says how long it lives, counted from the moment at which the server stored it, by the server's own clock:
a node knows that clock from the server's answers, within half a round trip. The server removes what has expired
(Nats-TTL, in whole seconds); until it has, we judge. Swaps and takes are decided by the server: it stores only
behind the revision that was read. What was read or written a moment ago need not be read for that, and neither
what was never there: the server says if it is not so any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import struct
from functools import partial
from itertools import count
from secrets import token_bytes
from typing import NamedTuple

from aquilia.clock import Clock
from aquilia.sockets.adapters.names import token
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.adapters.nats.jetstream import (
    WRONG_LAST,
    Failure,
    JetStream,
    acknowledged,
    persist,
    refused,
)
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["NatsStore"]

logger = logging.getLogger("aquilia.sockets.nats")

_HEAD = struct.Struct(">B12sd")
"""What the bytes are, who wrote them, and the seconds that they live; 0 for ever."""
_VALUE, _GONE = 1, 2
TOMBSTONE = 60.0
"""Seconds for which a value that was taken is remembered to be gone, so that its taker can be told again."""
RECENT = 1024
"""Entries that are remembered, at most,"""
RECENT_BYTES = 4096
"""each of a value no larger than this."""
SET_CLOCK_EVERY = 60.0
"""Seconds between two looks at the server's clock."""


class _Entry(NamedTuple):
    value: bytes | None
    revision: int
    writer: bytes
    expires: float = math.inf
    """By the server's clock."""


_NOTHING = _Entry(None, 0, b"")


class NatsStore:
    """See `Store`. It works between its broker's `start` and `stop`."""

    def __init__(self, connection: NatsConnection, clock: Clock) -> None:
        self._connection = connection
        self._link = 0
        self._streams = JetStream(connection)
        self._target = connection.target
        self._stream = f"{self._target.prefix}_store"
        self._us = token_bytes(8)
        """This store among all; with a number, it is a name that nobody else gives."""
        self._numbers = count(1)
        self._clock = clock
        self._ahead = 0.0
        """Seconds that the server's clock is ahead of ours."""
        self._set_at = -math.inf
        self._making = asyncio.Lock()
        self._recent: dict[str, _Entry] = {}
        """The newest entries that we know of, the oldest first."""

    async def start(self) -> None:
        """Make the stream, and read the server's clock.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do: no JetStream, or one that is too old.
        """
        await self._open(self._connection.deadline())
        self._set_at = -math.inf
        self._recent.clear()
        await self._set_clock(self._connection.deadline())
        # What is not allowed is told now: one reads nothing, and the other is meant for no stream.
        subject = f"{self._target.prefix}.store.check"
        await self._streams.last(self._stream, subject)
        await self._streams.store(subject, b"", {"Nats-Expected-Stream": "check"})

    async def _open(self, until: float) -> None:
        subjects = [f"{self._target.prefix}.store.*"]
        found = await self._streams.open_stream(
            self._stream,
            {
                "subjects": subjects,
                "max_msgs_per_subject": 1,
                "allow_msg_ttl": True,
                "num_replicas": self._target.replicas,
            },
            until,
        )
        made = found.config
        if made.subjects != subjects or made.max_msgs_per_subject != 1 or not made.allow_msg_ttl:
            raise ws_adapter_unavailable(
                f"the stream {self._stream} on NATS is not Aquilia's: give the adapter's URL another prefix, as in "
                "nats://host/myapp"
            )

    async def _make_anew(self, until: float) -> None:
        """Nobody has the stream: it was deleted, or its cluster has yet to find it another leader."""
        async with self._making:
            if await self._streams.info(self._stream, until=until) is not None:
                return
            logger.error(
                "the stream %s on NATS was deleted, and is made anew: what it held is gone, such as the sessions of "
                "clients that are away",
                self._stream,
            )
            await self._open(until)
            self._recent.clear()

    async def _set_clock(self, until: float) -> None:
        before = self._clock.monotonic()
        if before - self._set_at < SET_CLOCK_EVERY:
            return
        self._set_at = before
        found = await self._streams.info(self._stream, until=until)
        if found is None:
            await self._make_anew(until)
            found = await self._streams.info(self._stream, until=until)
        if found is None or found.ts is None:
            raise ws_adapter_unavailable(f"the stream {self._stream} was deleted, and cannot be made anew")
        half = (self._clock.monotonic() - before) / 2
        self._ahead = found.ts.timestamp() - (self._clock.time() - half)

    async def get(self, key: str) -> bytes | None:
        """See `Store`."""
        return (await self._read(self._subject(key), self._connection.deadline())).value

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """See `Store`."""
        await self._write(
            self._subject(key), _VALUE, self._unique(), value, ttl, None, self._connection.deadline()
        )

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        """See `Store`."""
        subject, writer, until = self._subject(key), self._unique(), self._connection.deadline()
        now = self._presumed(subject)
        if now.value == expected and await self._write(
            subject, _VALUE, writer, value, ttl, now.revision, until
        ):
            return True
        while True:
            now = await self._read(subject, until)
            if now.value != expected:
                return False
            if await self._write(subject, _VALUE, writer, value, ttl, now.revision, until):
                return True

    async def get_and_delete(self, key: str) -> bytes | None:
        """See `Store`."""
        subject, writer, until = self._subject(key), self._unique(), self._connection.deadline()
        while True:
            now = await self._read(subject, until)
            if now.value is None or await self._write(
                subject, _GONE, writer, b"", TOMBSTONE, now.revision, until
            ):
                return now.value

    def _unique(self) -> bytes:
        return self._us + (next(self._numbers) % (1 << 32)).to_bytes(4, "big")

    def _subject(self, key: str) -> str:
        return f"{self._target.prefix}.store.{token(key)}"

    def _presumed(self, subject: str) -> _Entry:
        """What is there as far as we know; nothing, if we know nothing."""
        if self._link != self._connection.links:
            # It may be another server behind it, or one that has lost all.
            self._link = self._connection.links
            self._recent.clear()
        entry = self._recent.pop(subject, _NOTHING)
        return entry if self._time() < entry.expires else _NOTHING

    def _remember(self, subject: str, entry: _Entry) -> _Entry:
        self._recent.pop(subject, None)
        if entry.value is None or len(entry.value) <= RECENT_BYTES:
            self._recent[subject] = entry
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        return entry

    def _time(self) -> float:
        """The server's."""
        return self._clock.time() + self._ahead

    async def _read(self, subject: str, until: float) -> _Entry:
        await self._set_clock(until)
        kept = await self._streams.last(self._stream, subject, until)
        if kept is None:
            return _NOTHING
        try:
            kind, writer, ttl = _HEAD.unpack_from(kept.data)
        except struct.error:
            raise ws_adapter_unavailable(f"{subject} in {self._stream} was not written by Aquilia") from None
        expires = kept.time.timestamp() + ttl if ttl else math.inf
        if kind != _VALUE or self._time() >= expires:
            return self._remember(subject, _Entry(None, kept.seq, writer))
        return self._remember(subject, _Entry(kept.data[_HEAD.size :], kept.seq, writer, expires))

    async def _store(
        self, subject: str, data: bytes, headers: dict[str, str], until: float
    ) -> tuple[int | Failure | None, bool]:
        """What an acknowledgement says, and whether this was said more than once."""
        reply, repeated = await self._streams.store(subject, data, headers, until)
        return acknowledged(reply), repeated

    async def _write(
        self,
        subject: str,
        kind: int,
        writer: bytes,
        value: bytes,
        ttl: float | None,
        revision: int | None,
        until: float,
    ) -> bool:
        """Whether it was stored; with a `revision`, only behind that one."""
        headers = {"Nats-Expected-Stream": self._stream, "Nats-Msg-Id": self._unique().hex()}
        if ttl is not None:
            headers["Nats-TTL"] = f"{max(1, math.ceil(ttl))}s"
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        data = _HEAD.pack(kind, writer, ttl or 0.0) + value
        expires = math.inf if ttl is None else self._time() + ttl
        answer, repeated = await self._store(subject, data, headers, until)
        if answer is None:
            await self._make_anew(until)
            again = partial(self._store, subject, data, headers, until)
            answer, repeated = await persist(again, lambda said: said[0] is None, until)
        if answer is None:
            raise ws_adapter_unavailable(f"the stream {self._stream} has no leader")
        if not isinstance(answer, Failure):
            self._remember(subject, _Entry(value if kind == _VALUE else None, answer, writer, expires))
            return True
        if revision is None or answer.err_code != WRONG_LAST:
            raise refused(answer)
        if not repeated:
            return False
        # The first try may have been stored, and only its answer lost. What is there says who wrote it.
        now = await self._read(subject, until)
        if now.writer == writer:
            return True
        if now.revision == revision:
            return False
        raise ws_adapter_unavailable(
            "the connection to NATS broke in a swap: whether it was done is not known"
        )
