"""The logs of rooms with history on NATS: all rooms of one `History` share a stream. See `broker.py`.

A log that is to forget gets a mark, and loses what stands before that. The stream itself does not show that it is
gone: it moves on by its oldest entry, which may be another room's. While the mark is the oldest of its room, whoever
has a position before it may have lost something, but for who has followed the log; and once the bounds have let go of
the mark, the stream or the room's size shows that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from secrets import token_urlsafe

import msgspec

from aquilia.sockets.adapters.base import Page, Publication
from aquilia.sockets.adapters.messages import FORGOTTEN, Messages
from aquilia.sockets.adapters.names import token
from aquilia.sockets.adapters.nats.calls import Reply
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.adapters.nats.jetstream import (
    Failure,
    JetStream,
    Kept,
    StreamInfo,
    acknowledged,
    persist,
    refused,
)
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position

__all__ = ["Log", "Logs"]

STREAM_BYTES = 256 << 20
"""What the rooms of one `History` may hold together, unless its own `max_bytes` is more."""
TRIES = 3
"""So often the stream is looked for when it is not there any more."""


@dataclass(slots=True)
class Log:
    """The stream of one `History`, as this node knows it."""

    stream: str
    epoch: str
    subjects: str
    """What all subjects of its rooms begin with."""

    def subject(self, namespace: str, room: str) -> str:
        """That of a room."""
        return f"{self.subjects}.{token(namespace)}.{token(room)}"


class Logs:
    """Those of one application."""

    def __init__(self, connection: NatsConnection, messages: Messages) -> None:
        self._connection = connection
        self._messages = messages
        self._streams = JetStream(connection)
        self._prefix = connection.target.prefix
        self._logs: dict[History, Log] = {}
        self._opening = asyncio.Lock()
        self._waiting = 0

    def clear(self) -> None:
        """Forget what is known of the streams."""
        self._logs.clear()

    async def store(
        self, history: History, namespace: str, room: str, data: bytes, id: str, until: float
    ) -> tuple[Log, int | Failure]:
        """Store a message of a room once for its id: the log, and the offset, or why it was not stored.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """

        async def say() -> tuple[Log, int | Failure | None]:
            while True:
                log = await self._in_turn(history, until)
                headers = {"Nats-Msg-Id": id, "Nats-Expected-Stream": log.stream}
                reply, _ = await self._streams.store(log.subject(namespace, room), data, headers, until)
                if (answer := acknowledged(reply)) is not None:
                    return log, answer
                # Nobody has this stream: it was deleted, or its cluster has yet to find it another leader.
                self._logs.pop(history, None)
                if (await self._in_turn(history, until)).epoch == log.epoch:
                    return log, None

        log, answer = await persist(say, lambda stored: stored[1] is None, until)
        if answer is None:
            raise ws_adapter_unavailable(f"the stream {log.stream} has no leader")
        return log, answer

    async def _in_turn(self, history: History, until: float) -> Log:
        """The log; who has to wait for it goes on in the order of these calls, and so does who comes meanwhile."""
        log = self._logs.get(history)
        if log is not None and not self._waiting:
            return log
        self._waiting += 1
        try:
            async with self._opening:
                return await self._open(history, until)
        finally:
            self._waiting -= 1

    async def _open(self, history: History, until: float | None = None) -> Log:
        log = self._logs.get(history)
        if log is None:
            name = f"{self._prefix}_log_{history.size}_{round(history.ttl * 1000)}_{history.max_bytes}"
            root, epoch = f"{self._prefix}.log.{name}", token_urlsafe(9)
            age = max(100_000_000, round(history.ttl * 1e9))
            found = await self._streams.open_stream(
                name,
                {
                    "subjects": [f"{root}.{epoch}.*.*"],
                    "max_msgs_per_subject": history.size,
                    "max_age": age,
                    # A repeat is known for as long as its first may be in the log.
                    "duplicate_window": age,
                    "max_bytes": max(STREAM_BYTES, history.max_bytes),
                    "allow_direct": True,
                    "num_replicas": self._connection.target.replicas,
                    "republish": {
                        "src": f"{root}.{epoch}.>",
                        "dest": f"{self._prefix}.stored.{epoch}.>",
                    },
                    "metadata": {"aquilia.epoch": epoch},
                },
                until,
            )
            known = found.config.metadata.get("aquilia.epoch")
            if known is None:
                raise ws_adapter_unavailable(
                    f"the stream {name} on NATS is not Aquilia's: give the adapter's URL another prefix, "
                    "as in nats://host/myapp"
                )
            log = self._logs[history] = Log(name, known, f"{root}.{known}")
        return log

    async def head(self, history: History, namespace: str, room: str) -> Position:
        """The newest entry; in a room without any, the newest of the stream: behind it, nothing can be missing."""
        log = await self._open(history)
        found = await self._streams.info(log.stream, log.subject(namespace, room))
        if found is None or found.config.metadata.get("aquilia.epoch") != log.epoch:
            self._forget(log)
            return Position(log.epoch, 0)
        return Position(log.epoch, found.state.last_seq)

    def _forget(self, log: Log) -> None:
        for history, known in list(self._logs.items()):
            if known is log:
                del self._logs[history]

    async def read(
        self,
        namespace: str,
        room: str,
        history: History,
        *,
        since: Position | None,
        limit: int,
        arrived: Callable[[], Position | None],
    ) -> Page:
        """See `Broker`. `arrived` is the newest of the room that came by its subscription, without a hole."""
        until = self._connection.deadline()
        log, subject, state = await self._found(history, namespace, room, until)
        if since is None:
            return await self._newest(log, subject, state, limit)
        if since.epoch != log.epoch or since.offset > state.state.last_seq:
            return Page((), await self._last(log, subject), False)
        followed = arrived() == since
        if followed:
            await self._connection.confirm()  # all that was stored before has arrived by then
            followed = arrived() == since
        start = since.offset
        while True:
            # One more than asked for: the entry at the position itself comes first, if it is still there.
            replies, last = await self._behind(log, subject, start, limit + 1, until)
            entries = self._entries(log, replies, since)
            if entries or not replies or _sequence(replies[-1]) <= start:
                break
            start = _sequence(replies[-1])  # no publication of ours: what is behind it may be one
        head = Position(log.epoch, last or state.state.last_seq)
        if not await self._unbroken(log, subject, history, since, until, followed=followed):
            return Page((), head, False)
        return Page(entries[:limit], max(head, entries[-1].position or head) if entries else head, True)

    async def _found(
        self, history: History, namespace: str, room: str, until: float
    ) -> tuple[Log, str, StreamInfo]:
        """The log of a room, its subject there, and what its stream holds."""
        for _ in range(TRIES):
            log = await self._open(history, until)
            subject = log.subject(namespace, room)
            state = await self._streams.info(log.stream, subject, until)
            if state is not None and state.config.metadata.get("aquilia.epoch") == log.epoch:
                return log, subject, state
            self._forget(log)
        raise ws_adapter_unavailable(f"the stream {log.stream} was deleted, and cannot be made anew")

    async def forget(self, namespace: str, room: str, history: History, until: float) -> int:
        """See `Broker`, and the head of this module."""
        log, subject, state = await self._found(history, namespace, room, until)
        oldest = await self._streams.first(log.stream, subject, until)
        if oldest is None:
            return 0
        held = state.state.subjects.get(subject, 0) - self._is_mark(log, oldest)
        if not held:
            return 0
        mark, id = self._messages.mark(namespace, room), token_urlsafe(18)
        log, answer = await self.store(history, namespace, room, mark, id, until)
        if isinstance(answer, Failure):
            raise refused(answer)
        await self._streams.purge(log.stream, log.subject(namespace, room), answer, until)
        return held

    def _is_mark(self, log: Log, kept: Kept) -> bool:
        return self._messages.is_mark(kept.data, Position(log.epoch, kept.seq))

    async def _behind(
        self, log: Log, subject: str, offset: int, count: int, until: float
    ) -> tuple[list[Reply], int | None]:
        """What is stored at an offset and behind it, and the offset of the last; of that, the leader knows."""
        query = {"seq": max(1, offset), "batch": count, "next_by_subj": subject}

        async def look() -> tuple[list[Reply], int | None, bool]:
            last = await self._streams.last(log.stream, subject, until)
            replies = await self._streams.direct(log.stream, query, until)
            lags = last is not None and last.seq > offset
            lags = lags and not (replies and _sequence(replies[-1]) > offset)
            return replies, None if last is None else last.seq, lags

        replies, last, lags = await persist(look, itemgetter(2), until)
        if lags:
            raise ws_adapter_unavailable(f"a server that keeps the stream {log.stream} is behind its leader")
        return replies, last

    async def _unbroken(
        self, log: Log, subject: str, history: History, since: Position, until: float, *, followed: bool
    ) -> bool:
        """Whether nothing behind a position had gone until now: entries go oldest first, in each room."""
        oldest = await self._streams.first(log.stream, subject, until)
        if oldest is not None:
            # Its very entry, or an older one, is left.
            if oldest.seq <= since.offset:
                return True
            if self._is_mark(log, oldest):
                return followed
        # Or the stream has let go of nothing behind it by age or bytes, or of nothing of this room, of which we
        # have seen all; nor has the room by its size.
        found = await self._streams.info(log.stream, subject, until)
        if found is None or found.config.metadata.get("aquilia.epoch") != log.epoch:
            return False
        left = found.state.subjects.get(subject, 0)
        return (followed or found.state.first_seq <= since.offset + 1) and left < history.size

    async def _newest(self, log: Log, subject: str, found: StreamInfo, limit: int) -> Page:
        start, end = found.state.first_seq, found.state.last_seq
        more = limit + 1  # nats-server 2.11 counts a message among those behind it
        if found.state.subjects.get(subject, 0) > limit:
            start = await self._start_of_last(log, subject, start, end, more)
        replies = await self._streams.direct(
            log.stream, {"seq": max(1, start), "batch": more, "next_by_subj": subject}
        )
        entries = self._entries(log, replies, None)[-limit:]
        head = await self._last(log, subject)
        return Page(entries, head, True)

    async def _start_of_last(self, log: Log, subject: str, low: int, high: int, limit: int) -> int:
        """From which sequence on there are `limit` messages of a subject: JetStream cannot read backwards."""
        while low < high:
            middle = (low + high + 1) // 2
            found = await self._streams.direct(
                log.stream, {"seq": middle, "batch": 1, "next_by_subj": subject}
            )
            left = 1 + int(found[0].headers.get("Nats-Num-Pending", "0")) if found else 0
            if left >= limit:
                low = middle
            else:
                high = middle - 1
        return low

    async def _last(self, log: Log, subject: str) -> Position:
        last = await self._streams.last(log.stream, subject)
        if last is not None:
            return Position(log.epoch, last.seq)
        found = await self._streams.info(log.stream)
        return Position(log.epoch, found.state.last_seq if found else 0)

    def _entries(self, log: Log, replies: list[Reply], since: Position | None) -> list[Publication]:
        entries: list[Publication] = []
        before = None if since is None else since.offset
        for reply in replies:
            offset = _sequence(reply)
            if since is not None and offset <= since.offset:
                continue
            try:
                found = self._messages.read(reply.data, Position(log.epoch, offset), before)
            except (ValueError, msgspec.MsgspecError) as error:
                self._messages.ignore(error)
                continue
            if found.event != FORGOTTEN:
                entries.append(found)
                before = offset
        return entries


def _sequence(reply: Reply) -> int:
    return int(reply.headers["Nats-Sequence"])
