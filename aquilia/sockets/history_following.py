"""A room with history, as this process follows its log: the live end, and the members that are catching up.

What arrives from the broker is made into one unbroken sequence (`history.Follower`), and fanned out. A member that
comes with a position, or reads too slowly, is not served by fan-out: it reads the log, at its own outbox's pace, till
it has what fan-out has begun; one step without a wait then makes it live. So nobody gets anything twice, and nobody
misses anything that the log still holds; what it does not is told by `gap`.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.audience import Audience, Delivery, Policy
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.fanout import CLOCK_EVERY, SLICE, FanOut
from aquilia.sockets.faults import SocketFault, ws_messages_dropped
from aquilia.sockets.history import Follower, Gap, History, Position
from aquilia.sockets.hub_port import Recovery
from aquilia.sockets.outbound import Outbound

__all__ = ["Following"]

logger = logging.getLogger("aquilia.sockets")

PAGE = 256
"""Entries that are read from the log at a time."""
HELD = 1 << 17
"""Bytes of entries, about, that wait for a member to take more: beyond them, they are read again."""
RECENT = 4096
RECENT_BYTES = 8 << 20
"""Entries, and bytes of their frames, that are shared by those who catch up at the same time, at most."""
LINGER = 5.0
"""Seconds that these are kept for others, who lost their connections with the last one."""
PAUSE = 0.5
"""Seconds until a broker that could not be read, or answered of an older time, is asked again,"""
TRIES = 6
"""and how often the latter is asked."""


class Following:
    """The log of one room, and who has which part of it. See the head of this module."""

    __slots__ = (
        "_arrived", "_audience", "_before", "_bytes", "_fanout", "_follower", "_lock", "_loop", "_losses", "_marks",
        "_most", "_most_bytes", "_namespace", "_policy", "_read", "_reading", "_recent", "_release",
        "_since", "_tasks", "_users", "history", "reached",
    )  # fmt: skip

    def __init__(
        self,
        audience: Audience,
        namespace: str,
        history: History,
        head: Position,
        *,
        policy: Callable[[Publication], Policy],
        broker: Broker,
        fanout: FanOut,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.history = history
        self.reached = head
        """What fan-out has begun to send: who is live has everything up to here, or it is on its way."""
        self._before = head
        self._arrived: Position | None = None
        """The same, once it is an entry of this log: what is said of a log at first may be ahead of its last."""
        self._audience = audience
        self._namespace = namespace
        self._policy = policy
        self._read = partial(broker.read, namespace, audience.name or "", history, limit=PAGE)
        self._fanout = fanout
        self._loop = loop
        self._follower: Follower[Publication] = Follower(head)
        self._reading = False
        self._losses = 0
        """How often the broker was lost."""
        self._lock = asyncio.Lock()
        self._marks: dict[Connection, object] = {}
        self._recent: list[Delivery] = []
        """The end of the log, without a hole from `_since` to `reached`, while somebody is catching up."""
        self._since: Position | None = None
        self._bytes = 0
        self._most = min(RECENT, history.size)
        self._most_bytes = min(RECENT_BYTES, history.max_bytes)
        self._users = 0
        self._release: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Nobody follows any more."""
        for task in self._tasks:
            task.cancel()
        if self._release is not None:
            self._release.cancel()

    # The live end

    def arrived(self, publication: Publication) -> None:
        """The broker has delivered: fan it out, unless it came before, or something before it is missing."""
        if self._follower.offer(publication):
            self._fanout.deliver(self._audience, publication, self._policy(publication))
        elif self._follower.wants is not None:
            self._fetch()

    def lost_touch(self) -> None:
        """The broker was away: what it delivers may have holes, and the last of them would not show."""
        self._losses += 1
        self._follower.lost_touch()
        self._fetch()

    def begun(self, delivery: Delivery) -> None:
        """Fan-out begins with this: members that become live from now on get what is behind it."""
        place = delivery.publication.position
        assert place is not None
        self._before, self.reached, self._arrived = self.reached, place, place
        if self._since is None:
            return
        if place.epoch != self._before.epoch:
            self._forget()
            self._since = place if self._users else None
        else:
            self._recent.append(delivery)
            self._bytes += delivery.size
            if len(self._recent) > self._most + CLOCK_EVERY or self._bytes > self._most_bytes:
                self._trim()

    def _trim(self) -> None:
        """Keep no more for those who catch up than the log does."""
        self._bytes = sum(
            delivery.size for delivery in self._recent
        )  # more variants of frames came meanwhile
        gone = 0
        while self._bytes > self._most_bytes or len(self._recent) - gone > self._most:
            if gone == len(self._recent) - 1:
                break
            self._bytes -= self._recent[gone].size
            gone += 1
        if gone:
            self._since = self._recent[gone - 1].publication.position
            del self._recent[:gone]

    def _fetch(self) -> None:
        if not self._reading:
            self._reading = True
            self._start(self._fill())

    async def _fill(self) -> None:
        """Read what is missing, until nothing is."""
        follower = self._follower
        try:
            while (wants := follower.wants) is not None:
                losses = self._losses
                try:
                    page = await self._read(since=wants)
                except SocketFault as fault:
                    logger.warning("the log of a room cannot be read: %s", fault)
                    await asyncio.sleep(PAUSE)
                    continue
                found, gap = follower.fill(page.publications, page.head, complete=page.complete)
                if losses != self._losses:  # it may have been read before the broker was lost
                    follower.lost_touch()
                if gap is not None:
                    self._fanout.enqueue(self._audience, _GapDelivery(self._audience.name or "", gap))
                for publication in found:
                    self._fanout.deliver(self._audience, publication, self._policy(publication))
                    await self._fanout.keep_pace(self._audience)
        finally:
            self._reading = False

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # Not by the loop's factory: an eager one would begin in the middle of a fan-out.
        task = asyncio.Task(work, loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            told = {"namespace": self._namespace}
            logger.error("a room with history cannot be followed", exc_info=error, extra=told)

    # Catching up

    def put_back(self, conn: Connection) -> None:
        """A live member reads too slowly for what fan-out is about to send: let it read the log instead."""
        self._hold_back(conn, self._before)

    def step_back(self, conn: Connection) -> None:
        """A live member reads too slowly, and fan-out has begun nothing that it has not: let it read the log."""
        self._hold_back(conn, self.reached)

    def _hold_back(self, conn: Connection, position: Position) -> None:
        self._audience.remove(conn)
        self._audience.waiting[conn.id] = conn
        self._start(self.catch_up(conn, position))

    async def judge(self, position: Position | None) -> Recovery:
        """Whether nothing behind a client's position is lost, and from where on it is to catch up.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        self._use()
        try:
            whole = position is not None and (
                position == self.reached or self._covers(position) or await self._page(position) is not None
            )
            return Recovery(whole, position if whole else self.reached)
        finally:
            self._unuse()

    async def catch_up(self, conn: Connection, position: Position) -> None:
        """Send a waiting member what is behind its position, then make it live; returns early if it has left."""
        waiting = self._audience.waiting
        pending: deque[Delivery] = deque()
        limit = PAGE
        self._use()
        # One that left and joined meanwhile has another such call, and this one is of no use any more.
        mark = self._marks[conn] = object()
        try:
            turn_ends = self._fanout.clock() + SLICE
            while waiting.get(conn.id) is conn and self._marks.get(conn) is mark and conn._close is None:
                if conn._outbox.half_full:
                    conn._flush()
                    if conn._outbox.half_full:
                        limit = _affordable(conn)
                        while len(pending) > limit:
                            pending.pop()
                        await conn._drained()
                        continue
                if pending:
                    position = self._push(conn, pending)
                elif position.epoch == self.reached.epoch and position.offset >= self.reached.offset:
                    del waiting[conn.id]
                    self._audience.members[conn.id] = conn
                    return
                elif self._covers(position):
                    first = bisect_right(self._recent, position.offset, key=_offset)
                    pending.extend(self._recent[first : first + CLOCK_EVERY])
                else:
                    position = await self._next_page(conn, position, pending, limit)
                    limit = min(PAGE, 2 * limit)  # till it is held up again
                if self._fanout.clock() >= turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = self._fanout.clock() + SLICE
        finally:
            if self._marks.get(conn) is mark:
                del self._marks[conn]
                if waiting.get(conn.id) is conn:
                    del waiting[conn.id]
            self._unuse()

    def _push(self, conn: Connection, pending: deque[Delivery]) -> Position:
        """Queue some of what a member waits for. Its position behind that."""
        place: Position | None = None
        for _ in range(min(len(pending), CLOCK_EVERY)):
            delivery = pending.popleft()
            place = delivery.publication.position
            if delivery.publication.exclude != conn.id:
                conn._push(delivery.frame(conn))
            if conn._outbox.half_full:
                break
        assert place is not None
        return place

    async def _next_page(
        self, conn: Connection, position: Position, pending: deque[Delivery], limit: int
    ) -> Position:
        """Read on. A member's position, which is another one where something is lost."""
        before = self.reached  # what comes behind this while we read may not be in what is read
        try:
            page = await self._page(position, limit)
            if page is not None:
                pending.extend(page)
                return position if page or self._covers(position) else before
            rest = await self._read()
        except SocketFault as fault:
            logger.warning("the log of a room cannot be read: %s", fault)
            await asyncio.sleep(PAUSE)
            return position
        reached = self.reached
        known = position.offset if position.epoch == reached.epoch else 0
        pending.extend(delivery for delivery in self._begun(rest.publications) if _offset(delivery) > known)
        behind = Position(reached.epoch, _offset(pending[0]) - 1) if pending else reached
        cause = "history_expired" if position.epoch == reached.epoch else "epoch_changed"
        conn._home.recorder.dropped(conn._home.pattern, cause, 1)
        conn._push_urgent(_gap(cause, self._audience.name or "", behind))
        return behind

    def _begun(self, publications: Sequence[Publication]) -> list[Delivery]:
        """Those that fan-out has begun: what is behind them comes by that road."""
        epoch, offset = self.reached
        return [
            Delivery(told)
            for told in publications
            if told.position is not None and told.position.epoch == epoch and told.position.offset <= offset
        ]

    async def _page(self, position: Position, limit: int = PAGE) -> list[Delivery] | None:
        """What fan-out has begun of the entries behind a position, from the first; None where some are lost."""
        async with self._lock:
            if self._covers(position):  # somebody else has read it meanwhile
                return []
            for _ in range(TRIES):
                arrived, recent = self._arrived, self._recent
                page = await self._read(since=position, limit=limit)
                if not page.complete or position.epoch != self.reached.epoch:
                    return None
                found = self._begun(page.publications)
                if found or arrived is None or arrived.epoch != page.head.epoch or arrived <= page.head:
                    if recent is self._recent:  # else it was emptied meanwhile
                        self._share(position, found)
                    return found
                await asyncio.sleep(PAUSE)
            logger.warning(
                "the log of a room is said to end before what has arrived of it: a part is given up"
            )
            return None

    def _share(self, position: Position, found: list[Delivery]) -> None:
        """Keep for others what was read, if it reaches to what is kept already."""
        since = self._since
        if since is None or since.epoch != position.epoch or position.offset >= since.offset:
            return
        end = _offset(found[-1]) if found else position.offset
        if (
            end < since.offset
            or len(self._recent) + len(found) > self._most
            or self._bytes > self._most_bytes
        ):
            return
        before = [delivery for delivery in found if _offset(delivery) <= since.offset]
        self._recent[:0] = before
        self._bytes += sum(delivery.size for delivery in before)
        self._since = position

    def _covers(self, position: Position) -> bool:
        since = self._since
        if since is None or not since.epoch == position.epoch == self.reached.epoch:
            return False
        return since.offset <= position.offset <= self.reached.offset

    def _use(self) -> None:
        self._users += 1
        if self._since is None:
            self._since = self.reached
        if self._release is not None:
            self._release.cancel()
            self._release = None

    def _unuse(self) -> None:
        self._users -= 1
        if not self._users:
            self._release = self._loop.call_later(LINGER, self._forget)

    def purge(self) -> None:
        """The log was emptied: what is kept of it for those who catch up is not for them any more."""
        self._forget()
        self._since = self.reached if self._users else None

    def _forget(self) -> None:
        self._recent = []
        self._since = None
        self._bytes = 0


def _affordable(conn: Connection) -> int:
    """How many entries may wait for a member, going by the size of what waits for it already."""
    return min(PAGE, max(1, HELD // max(1, conn._outbox.mean_bytes)))


def _offset(delivery: Delivery) -> int:
    place = delivery.publication.position
    return 0 if place is None else place.offset


def _gap(cause: str, room: str, position: Position) -> MessageEnvelope:
    told = {"cause": cause, "room": room, "epoch": position.epoch, "offset": position.offset}
    return MessageEnvelope(type="system", event="gap", payload=told)


class _GapDelivery(Delivery):
    """Word to all members that something of the log is lost, at the place of the loss."""

    __slots__ = ("_gap",)

    def __init__(self, room: str, gap: Gap) -> None:
        self._gap = _gap(gap.cause, room, gap.position)
        super().__init__(
            Publication(
                id="", namespace="", event="gap", payload=None, ts=0, room=room, position=gap.position
            )
        )

    def _encode(self, conn: Connection) -> bytes:
        if conn._variant.v1:
            return Outbound._encode(conn, self._gap)
        return Outbound._encode(conn, MessageEnvelope(event="error", payload=ws_messages_dropped().as_dict()))
