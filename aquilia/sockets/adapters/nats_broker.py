"""Publications over NATS: plain rooms by core subjects, rooms with history by JetStream.

Every room has one subject to listen on. What is stored comes there too, from the server (RePublish), with its place.

All rooms of one `History` share a stream, so offsets are the stream's sequences: they increase, and have holes. The
epoch stands in the stream's own subject, which ties each publication and each entry to the life of its stream: a
stream that was deleted and made anew by another node takes nothing that was meant for the old one.

Where JetStream promises less than the port asks:

- `History.max_bytes` is kept for a stream as a whole, never for one room: `STREAM_BYTES` for all its rooms together.
- An entry may outlive its `ttl` by moments, and a `ttl` below 0.1 s is 0.1 s.
- `read` says that it is incomplete where it cannot prove the contrary: when the entry at the position is gone, the
  stream has since let go of others by age or bytes, and this node has not been subscribed all the time.
- In a cluster, a subscription needs a moment to be known on every server: what a reader misses by that it finds by
  `previous`. The newest entries of all may be those that one server has, which lags: what comes behind a position is
  read till the leader's last is seen.
- Where a stream in a cluster loses its leader, publications that wait for their answer at that moment are stored
  once, and perhaps in another order than that of their calls.
- A machine that loses its power loses what the server has not yet synced (its `sync_interval`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from secrets import token_urlsafe
from typing import Any

import msgspec

from aquilia.sockets.adapters.base import Deliver, Page, Publication
from aquilia.sockets.adapters.jetstream import Failure, JetStream, StreamInfo, acknowledged, persist, refused
from aquilia.sockets.adapters.nats_calls import Reply
from aquilia.sockets.adapters.nats_connection import RETRY, NatsConnection
from aquilia.sockets.adapters.nats_names import message_id, token
from aquilia.sockets.adapters.signing import BUS_SECRET, HEAD, SignatureError, Signer
from aquilia.sockets.adapters.stored import decode, encode
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position

__all__ = ["NatsBroker"]

logger = logging.getLogger("aquilia.sockets.nats")

STREAM_BYTES = 256 << 20
"""What the rooms of one `History` may hold together, unless its own `max_bytes` is more."""
HELD = 1 << 12
"""Publications that wait, while the way is found again, until the loss before them is told; the oldest go."""
UNSIGNED_EVERY = 60.0
"""Seconds between two lines in the log of what is not signed."""
TRIES = 3
"""So often the stream is looked for when it is not there any more."""


@dataclass(slots=True)
class _Log:
    """The stream of one `History`, as this node knows it."""

    stream: str
    epoch: str
    subjects: str
    """What all subjects of its rooms begin with."""

    def subject(self, namespace: str, room: str) -> str:
        return f"{self.subjects}.{token(namespace)}.{token(room)}"


@dataclass(slots=True)
class _Listening:
    namespace: str
    room: str | None
    subject: str
    position: Position | None = None
    """The newest that arrived, while the subscription has had no hole."""


class NatsBroker:
    """See `Broker`, and the head of this module for what differs.

    A publication into a room with history waits for a lost server for `publish_timeout` seconds; for one that does
    not answer as well, and at least `RETRY`. With None that is 5 seconds, 15 where streams are replicated. With a
    `signer`, all publications are signed, and others are ignored.
    """

    def __init__(
        self,
        connection: NatsConnection,
        on_start: Callable[[], Awaitable[None]] | None = None,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._connection = connection
        self._on_start = on_start
        self._publish_timeout = publish_timeout
        self._signer = signer
        self._unsigned = 0
        """Since that was last said."""
        self._unsigned_said = -inf
        self._streams = JetStream(connection)
        self._prefix = connection.target.prefix
        self._deliver: Deliver | None = None
        self._logs: dict[History, _Log] = {}
        self._listening: dict[tuple[str, str | None], _Listening] = {}
        self._opening = asyncio.Lock()
        self._waiting = 0
        self._held: deque[Publication] = deque(maxlen=HELD)
        """Came by a new connection, of which not all subscriptions are known to be in effect."""
        self._held_link = 0
        self._told = False
        self.on_lost: Callable[[], None] | None = None
        """See `Broker`."""
        self.on_foreign: Callable[[], None] | None = None
        """See `Broker`."""

    @property
    def connected(self) -> bool:
        """See `Broker`."""
        return self._connection.connected and not self._connection.cut

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`. Also finds out what the server can do.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        self._deliver = deliver
        self._connection.on_lost = self._lost
        await self._connection.start()
        try:
            if self._on_start is not None:
                await self._on_start()
            await self._require_permissions()
        except BaseException:
            await self.stop()
            raise

    async def _require_permissions(self) -> None:
        """Say once what is said later, where nobody listens and nothing is stored: what is denied is told now."""
        prefix, api = self._prefix, "$JS.API"
        roads = (f"{prefix}.plain.check.check", f"{prefix}.stored.*.check.check")
        said = (roads[0], f"{prefix}.log.check.check.check.check")
        asked = (f"{api}.STREAM.CREATE.{prefix}_log_check", f"{api}.DIRECT.GET.{prefix}_log_check")
        try:
            await asyncio.gather(
                *(self._connection.subscribe(road, lambda message: None) for road in roads),
                *(self._connection.send(subject, b"") for subject in said + asked),
            )
        finally:
            for road in roads:
                await self._connection.unsubscribe(road)

    async def stop(self) -> None:
        """See `Broker`."""
        self._deliver = None
        self._listening.clear()
        self._logs.clear()
        self._held.clear()
        await self._connection.stop()

    def _lost(self) -> None:
        for listening in self._listening.values():
            listening.position = None
        if self.on_lost is not None:
            self.on_lost()
        held = list(self._held) if self._held_link == self._connection.links else []
        self._held.clear()
        for publication in held:
            if self._deliver is not None:
                self._deliver(publication)

    def _hold(self, publication: Publication) -> None:
        if (
            self._held_link != self._connection.links
        ):  # what came by a link that was lost again is lost with the rest
            self._held_link = self._connection.links
            self._held.clear()
        self._held.append(publication)

    # Subscriptions

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        """See `Broker`."""
        key = (namespace, room)
        logged = history is not None and room is not None
        if key not in self._listening:
            road = "stored.*" if logged else "plain"
            subject = f"{self._prefix}.{road}.{token(namespace)}.{token(room)}"
            listening = _Listening(namespace, room, subject)
            self._listening[key] = listening
            try:
                await self._connection.subscribe(subject, lambda message: self._receive(listening, message))
            except BaseException:
                self._listening.pop(key, None)
                raise
        if history is None or room is None:
            return None
        head = await self._head(await self._open(history), namespace, room)
        listening = self._listening[key]
        if listening.position is None or listening.position < head:
            listening.position = head
        return head

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        listening = self._listening.pop((namespace, room), None)
        if listening is not None:
            await self._connection.unsubscribe(listening.subject)

    def _receive(self, listening: _Listening, message: Any) -> None:
        position: Position | None = None
        previous: int | None = None
        headers: Mapping[str, str] = message.headers or {}
        try:
            if listening.subject.startswith(f"{self._prefix}.stored."):
                offset = int(headers["Nats-Sequence"])
                position = Position(message.subject.split(".")[2], offset)
                previous = int(headers.get("Nats-Last-Sequence", "0"))
            publication = self._read(message.data, position, previous)
            if (publication.namespace, publication.room) != (listening.namespace, listening.room):
                raise ValueError("a publication for another room")
        except (ValueError, KeyError) as error:
            self._ignore(error)
            return
        listening.position = position
        if self._connection.cut:
            self._hold(publication)
        elif self._deliver is not None:
            self._deliver(publication)

    def _read(self, data: bytes, position: Position | None, previous: int | None) -> Publication:
        if self._signer is not None:
            data = self._signer.verified(data, self._prefix, "plain" if position is None else "log")
        try:
            return decode(data, position, previous)
        except ValueError:
            if data.startswith(HEAD):
                raise SignatureError(f"it is signed, and {BUS_SECRET} is not set here") from None
            raise

    def _ignore(self, error: Exception) -> None:
        if self.on_foreign is not None:
            self.on_foreign()
        if isinstance(error, SignatureError):
            self._unsigned += 1
            now = asyncio.get_running_loop().time()
            if now - self._unsigned_said >= UNSIGNED_EVERY:
                logger.warning(
                    "publications below %s.> on NATS are not signed by our %s, and ignored: %d since this was last "
                    "said; of the newest, %s",
                    *(self._prefix, BUS_SECRET, self._unsigned, error),
                )
                self._unsigned, self._unsigned_said = 0, now
        elif not self._told:
            self._told = True
            logger.warning(
                "something below %s.> on NATS is no publication of ours, and is ignored (said once): %s",
                self._prefix,
                error,
            )

    # Publishing

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        """See `Broker`."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the NATS broker is not running")
        data = encode(publication)
        namespace, room = publication.namespace, publication.room
        if self._signer is not None:
            data = self._signer.sign(
                data, self._prefix, "plain" if history is None or room is None else "log"
            )
        if history is None or room is None:
            await self._connection.send(f"{self._prefix}.plain.{token(namespace)}.{token(room)}", data)
            return None
        id = message_id(f"{namespace}\n{room}", publication.id)
        until = self._publish_deadline()

        async def store() -> tuple[_Log, int | Failure | None]:
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

        log, answer = await persist(store, lambda stored: stored[1] is None, until)
        if answer is None:
            raise ws_adapter_unavailable(f"the stream {log.stream} has no leader")
        if isinstance(answer, Failure):
            raise refused(answer)
        return Position(log.epoch, answer)

    def _publish_deadline(self) -> float:
        patience = self._publish_timeout
        if patience is None:
            return self._connection.deadline()
        if self._connection.connected:
            patience = max(patience, RETRY)
        elif not patience:
            raise ws_adapter_unavailable(f"the connection to NATS at {self._connection.target} is lost")
        return asyncio.get_running_loop().time() + patience

    # Logs

    async def _in_turn(self, history: History, until: float) -> _Log:
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

    async def _open(self, history: History, until: float | None = None) -> _Log:
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
            log = self._logs[history] = _Log(name, known, f"{root}.{known}")
        return log

    async def _head(self, log: _Log, namespace: str, room: str) -> Position:
        """The newest entry; in a room without any, the newest of the stream: behind it, nothing can be missing."""
        found = await self._streams.info(log.stream, log.subject(namespace, room))
        if found is None or found.config.metadata.get("aquilia.epoch") != log.epoch:
            self._forget(log)
            return Position(log.epoch, 0)
        return Position(log.epoch, found.state.last_seq)

    def _forget(self, log: _Log) -> None:
        for history, known in list(self._logs.items()):
            if known is log:
                del self._logs[history]

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        """See `Broker`."""
        until = self._connection.deadline()
        for _ in range(TRIES):
            log = await self._open(history, until)
            subject = log.subject(namespace, room)
            state = await self._streams.info(log.stream, subject, until)
            if state is not None and state.config.metadata.get("aquilia.epoch") == log.epoch:
                break
            self._forget(log)
        else:
            raise ws_adapter_unavailable(f"the stream {log.stream} was deleted, and cannot be made anew")
        if since is None:
            return await self._newest(log, subject, state, limit)
        if since.epoch != log.epoch or since.offset > state.state.last_seq:
            return Page((), await self._last(log, subject), False)
        known = self._listening.get((namespace, room))
        followed = known is not None and known.position == since
        if followed:
            await self._connection.confirm()  # all that was stored before has arrived by then
            followed = known is not None and known.position == since
        # One more than asked for: the entry at the position itself comes first, if it is still there.
        replies, last = await self._behind(log, subject, since.offset, limit + 1, until)
        entries = self._entries(log, replies, since)
        head = Position(log.epoch, last or state.state.last_seq)
        if not await self._unbroken(log, subject, history, since, until, followed=followed):
            return Page((), head, False)
        return Page(entries[:limit], max(head, entries[-1].position or head) if entries else head, True)

    async def _behind(
        self, log: _Log, subject: str, offset: int, count: int, until: float
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
        self, log: _Log, subject: str, history: History, since: Position, until: float, *, followed: bool
    ) -> bool:
        """Whether nothing behind a position had gone until now: entries go oldest first, in each room."""
        if since.offset:
            # Its very entry, or an older one, is left.
            oldest = await self._streams.first(log.stream, subject, until)
            if oldest is not None and oldest.seq <= since.offset:
                return True
        # Or the stream has let go of nothing behind it by age or bytes, or of nothing of this room, of which we
        # have seen all; nor has the room by its size.
        found = await self._streams.info(log.stream, subject, until)
        if found is None or found.config.metadata.get("aquilia.epoch") != log.epoch:
            return False
        left = found.state.subjects.get(subject, 0)
        return (followed or found.state.first_seq <= since.offset + 1) and left < history.size

    async def _newest(self, log: _Log, subject: str, found: StreamInfo, limit: int) -> Page:
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

    async def _start_of_last(self, log: _Log, subject: str, low: int, high: int, limit: int) -> int:
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

    async def _last(self, log: _Log, subject: str) -> Position:
        last = await self._streams.last(log.stream, subject)
        if last is not None:
            return Position(log.epoch, last.seq)
        found = await self._streams.info(log.stream)
        return Position(log.epoch, found.state.last_seq if found else 0)

    def _entries(self, log: _Log, replies: list[Reply], since: Position | None) -> list[Publication]:
        entries: list[Publication] = []
        before = None if since is None else since.offset
        for reply in replies:
            offset = _sequence(reply)
            if since is not None and offset <= since.offset:
                continue
            try:
                entries.append(self._read(reply.data, Position(log.epoch, offset), before))
            except (ValueError, msgspec.MsgspecError) as error:
                self._ignore(error)
                continue
            before = offset
        return entries


def _sequence(reply: Reply) -> int:
    return int(reply.headers["Nats-Sequence"])
