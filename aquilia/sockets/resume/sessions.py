"""Resumption: sessions of v1 clients that outlive their connections, kept in the store for any node to take up.

What is kept of one is its `Record`. It is written when its client is welcomed, before a room is joined and after it
is left, behind a handler that changed `conn.state`, when the connection ends, and now and then between, so that the
record of a node that died expires by itself. Every write is a compare-and-swap: it fails once a newer connection has
the session, on whatever node, and then the older one ends with 4410. The writes of one connection go one after the
other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.connection import Connection, ConnectionState
from aquilia.sockets.faults import (
    CloseCode,
    SocketFault,
    ws_connection_closed,
    ws_taken_over,
)
from aquilia.sockets.history import Position
from aquilia.sockets.hub_port import HubPort
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.resume.claims import ResumeClaims, record_key
from aquilia.sockets.resume.direct_log import Continued, DirectLogs
from aquilia.sockets.resume.durable_events import DurableEvent, DurableEvents
from aquilia.sockets.resume.records import (
    RESUME_WINDOW,
    VERSION,
    Record,
    packed_presence,
    packed_state,
    unpacked_presence,
    unpacked_state,
)
from aquilia.sockets.resume.renewals import REFRESH, Renewals
from aquilia.sockets.resume.session import Resumable
from aquilia.sockets.tasks import TaskSet

__all__ = ["FOR_GOOD", "Resumption", "Succession"]

logger = logging.getLogger("aquilia.sockets")

LIVE_TTL = RESUME_WINDOW + REFRESH
TOGETHER = 0.01
"""Seconds in which sessions that are taken over are told of together."""
MAX_UNFIT = 1000
"""Keys of `conn.state` of which is remembered that they were reported."""
FOR_GOOD = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.NOT_UTF8,
        CloseCode.POLICY,
        CloseCode.TOO_BIG,
        CloseCode.BAD_HELLO,
        CloseCode.FORBIDDEN,
        CloseCode.NO_NAMESPACE,
        CloseCode.KICKED,
        CloseCode.OVER_QUOTA,
    }
)
"""Close codes behind which nobody comes back. Behind 4401 a client may, with another token for its identity."""


class Succession(NamedTuple):
    """A session that was taken up."""

    record: Record
    """As it was before."""
    vacated: tuple[str, ...]
    """The rooms in this process that the former connection left empty."""
    direct: Continued


class Resumption:
    """Opens sessions, keeps their records, and hands them to the newest connection. One per process."""

    def __init__(
        self,
        adapter: Adapter,
        hub: HubPort,
        recorder: Recorder,
        *,
        clock: Clock,
        tasks: TaskSet,
    ) -> None:
        self.clock = clock
        self.logs = DirectLogs()
        self._store = adapter.store
        self._durable = DurableEvents(adapter.broker)
        self._hub = hub
        self._recorder = recorder
        self._tasks = tasks
        self._claims = ResumeClaims(adapter.store, clock)
        self._renewals = Renewals(self.logs, clock, tasks, self._renew)
        self._unfit: set[tuple[str, str]] = set()
        self._news: dict[str, dict[str, str]] = {}
        """Who has which session now, by namespaces, of which other nodes are still to be told."""
        hub.on_taken_over = self._heard

    # Opening

    async def open(self, conn: Connection) -> str | None:
        """Begin a session. The token to come back with; None while the store cannot be reached."""
        record = Record(VERSION, "live", 0, conn.id)
        data = record.pack()
        try:
            await self._claims.prepare()
            if not await self._store.compare_and_swap(record_key(conn.id), None, data, LIVE_TTL):
                return None
        except SocketFault as fault:
            logger.warning("a client cannot come back: the store does not answer: %s", fault)
            return None
        self._own(conn, Resumable(self, conn.id, 0, data))
        return self._claims.token(conn, 1)

    async def holder(self, conn: Connection, token: str) -> Connection | None:
        """The connection of this process that has the session of a token, if the token is of this client."""
        ticket = await self._claims.ticket(conn, token)
        return None if ticket is None else self._hub.find(conn.namespace, ticket.session)

    async def take_up(self, conn: Connection, token: str, position: Position | None) -> Succession | None:
        """Give a connection the session of its token, and its name. None: there is nothing to come back to.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        owner = conn.id
        found = await self._claims.claim(conn, token, LIVE_TTL)
        if isinstance(found, str):
            self._recorder.resumed(conn._home.pattern, found)
            return None
        session, record, claimed = found
        former = self._hub.find(conn.namespace, session)
        vacated: tuple[str, ...] = ()
        log, known = self.logs.fetch(session), record.phase == "away"
        if former is not None:
            kept = former._resumable
            if kept is not None and kept.owner == record.owner:
                known = True
                log, kept.log = kept.log, None
            vacated = self._dispossess(former)
        self._hub.rename(conn, session)
        resumable = Resumable(self, owner, claimed.generation, claimed.pack())
        resumable.state, resumable.entering = record.state, record.rooms
        resumable.entered = record.entered
        self._own(conn, resumable)
        conn.resumed = True
        if record.presence:
            resumable.presence = unpacked_presence(record.presence)
        if record.state:
            conn._state = unpacked_state(record.state)
        now = self.clock.monotonic()
        kind = conn._variant
        direct = self.logs.go_on(log, record, position, owner=owner, kind=kind, known=known, now=now)
        resumable.log = direct.log
        try:
            if not direct.recovered and conn._home.durable:
                direct = await self._redeliver(conn, resumable, position)
        finally:
            if not known:  # its owner is on another node, even if an older one was here
                # Also if this connection has ended meanwhile: who took over from it told nobody there.
                self._tell(conn.namespace, session, owner)
        self._recorder.resumed(conn._home.pattern, "resumed")
        return Succession(record, vacated, direct)

    async def _redeliver(
        self, conn: Connection, resumable: Resumable, position: Position | None
    ) -> Continued:
        """Send the durable events again that the client has not seen, at new places: of the others nobody knows."""
        session = conn.id
        events = await self._durable.behind(conn.namespace, session, position)
        log = resumable._log(conn)
        start = Position(log.epoch, log.head)
        await self._durable.begin(conn.namespace, session, start)
        frames = []
        for told in events:
            place = resumable.next_place(conn)
            await self._durable.write(conn.namespace, session, told._replace(place=place))
            frame = conn._event(
                told.event, told.payload, place={"offset": place.offset, "epoch": place.epoch}
            )
            self.logs.append(log, frame, self.clock.monotonic())
            frames.append(frame)
        return Continued(log, False, frames, start)

    async def keep(self, conn: Connection, resumable: Resumable, event: str, payload: Any) -> None:
        """Write a durable event to the broker, as the next of the session's direct log.

        Raises:
            SocketFault: see `Resumable.send`.
        """
        if conn._resumable is not resumable:
            raise ws_connection_closed()
        ts = int(self.clock.time() * 1000)
        told = DurableEvent(uuid4().hex, resumable.next_place(conn), event, payload, ts)
        await self._durable.write(conn.namespace, conn.id, told)
        found = await self._store.get(record_key(conn.id))
        record = None if found is None else Record.read(found)
        if record is None or record.owner != resumable.owner:
            self.lose(conn)  # who has the session now may have read before this was written
            raise ws_connection_closed()

    def token(self, conn: Connection) -> str:
        """The token for the connection behind this one."""
        resumable = conn._resumable
        return self._claims.token(conn, resumable.generation + 1)

    # Keeping

    def _own(self, conn: Connection, resumable: Resumable) -> None:
        conn._resumable = resumable
        self._renewals.add(conn)

    def _disown(self, conn: Connection) -> None:
        conn._resumable = None
        self._renewals.remove(conn)

    async def save(self, conn: Connection, *, anew: bool = False) -> None:
        """Write what has changed; `anew`: write in any case, so that the record lives on.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE; WS_CONNECTION_CLOSED, if another connection has the session.
        """
        resumable: Resumable | None = conn._resumable
        if resumable is None:
            return
        while resumable.saving:
            await self._turn(resumable)
        if conn._resumable is not resumable:
            raise ws_connection_closed()
        data = self._record(conn, resumable).pack()
        if data == resumable.stored and not anew:
            return
        resumable.saving = True
        try:
            written = await self._write(conn.id, resumable, data, LIVE_TTL)
        finally:
            resumable.wake()
        if not written:
            self.lose(conn)
            raise ws_connection_closed()

    async def _turn(self, resumable: Resumable) -> None:
        waiter: asyncio.Future[None] = self._tasks.loop.create_future()
        if resumable.waiters is None:
            resumable.waiters = []
        resumable.waiters.append(waiter)
        await waiter

    def _record(self, conn: Connection, resumable: Resumable) -> Record:
        if conn._state is not None:
            resumable.state, unfit = packed_state(conn._state)
            if unfit:
                self._report_unfit(conn, unfit)
        rooms = tuple(sorted({*conn._rooms, *resumable.entering}))
        of = resumable
        presence = b""
        if conn._home.presence is not None:
            presence = packed_presence({**of.presence, **self._hub.attendance.kept(conn)})
        entered = of.entered if rooms else 0.0
        return Record(VERSION, "live", of.generation, of.owner, rooms, of.state, None, presence, entered)

    def _report_unfit(self, conn: Connection, keys: Sequence[str]) -> None:
        """Say what of `conn.state` is left out: each key once, and in one line what comes together."""
        pattern, room = conn._home.pattern, MAX_UNFIT - len(self._unfit)
        # A key may be what a client made up, of any length.
        new = [key for key in dict.fromkeys(key[:64] for key in keys) if (pattern, key) not in self._unfit]
        if not new or room <= 0:
            return
        self._unfit.update((pattern, key) for key in new[:room])
        named = ", ".join(f"conn.state[{key!r}]" for key in new[:3])
        logger.warning(
            "%s of %s is not kept for a client that comes back: only None, bool, int, float, str, "
            "bytes, lists and dicts are, up to 64 KiB",
            named if len(new) <= 3 else f"{named} and {len(new) - 3} more",
            pattern,
        )

    async def _write(self, session: str, resumable: Resumable, data: bytes, ttl: float) -> bool:
        """Whether the record is still ours, and written."""
        key = record_key(session)
        if await self._store.compare_and_swap(key, resumable.stored, data, ttl):
            resumable.stored = data
            return True
        found = await self._store.get(key)
        if found is not None:  # else the store has lost it
            record = Record.read(found)
            if record is None or record.owner != resumable.owner:
                return False
        # Our own, of a write whose answer was lost.
        if await self._store.compare_and_swap(key, found, data, ttl):
            resumable.stored = data
            return True
        return False

    async def keep_state(self, conn: Connection) -> None:
        """A handler has run that may have changed `conn.state`. What cannot be written now is, a while later."""
        try:
            await self.save(conn)
        except SocketFault as fault:
            if conn._close is None:
                logger.warning("conn.state of %s waits to be kept: %s", conn.id, fault)

    async def _renew(self, conn: Connection) -> None:
        """Keep a record alive, and find out whether it is still ours."""
        resumable = conn._resumable
        if resumable is None:
            return
        if resumable.log is not None:
            self.logs.trim(resumable.log, self.clock.monotonic())
        try:
            await self.save(conn, anew=True)
        except SocketFault as fault:
            if conn._close is None:
                logger.warning("the session of %s could not be written: %s", conn.id, fault)

    # The end

    async def leave(self, conn: Connection, code: int) -> None:
        """A connection has ended: by its close code its session ends as well, or waits for its client."""
        resumable: Resumable | None = conn._resumable
        if resumable is None:
            return
        record = self._record(conn, resumable)
        self._disown(conn)
        ended = code in FOR_GOOD
        log, direct = resumable.log, None
        if log is not None:
            direct = Position(log.epoch, log.head)
            if ended:
                self.logs.drop(log)
            else:
                self.logs.put_away(conn.id, log, self.clock.monotonic())
        session = conn.id
        last = record.left(direct, for_good=ended)
        try:
            while resumable.saving:
                await self._turn(resumable)
            if ended and resumable.generation == 0:  # no other connection had it
                await self._store.get_and_delete(record_key(session))
            else:  # a former one that has not heard of it yet finds its end, not nothing
                await self._write(session, resumable, last.pack(), RESUME_WINDOW)
        except SocketFault as fault:
            logger.warning("the end of the session %s could not be written: %s", session, fault)

    def lose(self, conn: Connection) -> None:
        """A newer connection has the session, elsewhere."""
        rooms = self._dispossess(conn)
        if rooms:
            self._tasks.start(self._hub.vacate(conn._home, rooms))

    def _dispossess(self, conn: Connection) -> tuple[str, ...]:
        """End a connection with 4410. The rooms that it left empty here."""
        resumable: Resumable | None = conn._resumable
        self._disown(conn)
        if resumable is not None and resumable.log is not None:
            self.logs.drop(resumable.log)
        conn._discard()
        fault = ws_taken_over()
        conn._end(CloseCode.TAKEN_OVER, fault.message)
        if conn._blocked and conn.phase is not ConnectionState.CLOSED:  # there is nothing to wait for
            conn._transport.close(CloseCode.TAKEN_OVER, fault.message)
        return tuple(self._hub.forget(conn))

    def _tell(self, namespace: str, session: str, owner: str) -> None:
        """Other nodes may have the former connection: they look at their record now, else they do so in a while."""
        news = self._news.setdefault(namespace, {})
        if not news:
            self._tasks.start(self._spread(namespace))
        news[session] = owner

    async def _spread(self, namespace: str) -> None:
        """Tell them of all that come back at once in few words."""
        await asyncio.sleep(TOGETHER)
        news = self._news.pop(namespace)
        try:
            await self._hub.tell_taken_over(namespace, news)
        except SocketFault as fault:
            logger.warning("the former connections of %d sessions hear of it later: %s", len(news), fault)

    def _heard(self, namespace: str, news: Mapping[str, str]) -> None:
        if not isinstance(news, Mapping):  # from the broker, where somebody else may write
            return
        for session, owner in news.items():
            conn = self._hub.find(namespace, session)
            resumable = None if conn is None else conn._resumable
            if resumable is not None and resumable.owner != owner:
                self._tasks.start(self._renew(conn))

    def stop(self) -> None:
        """The process ends."""
        self._renewals.stop()
