"""The hub: the namespaces, rooms and members of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any
from uuid import uuid4

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.attendance import PRESENCE, Attendance
from aquilia.sockets.audit_trail import AuditTrail
from aquilia.sockets.cluster import CONTROL, Cluster
from aquilia.sockets.connection import Connection
from aquilia.sockets.endings import Endings
from aquilia.sockets.fanout import Audience, FanOut
from aquilia.sockets.faults import SocketFault, ws_quota_exceeded, ws_room_full
from aquilia.sockets.following import Following
from aquilia.sockets.history import History, Position
from aquilia.sockets.home import Home
from aquilia.sockets.hub_port import HistoryMessage, HistoryPage, Recovery
from aquilia.sockets.intake import Intake
from aquilia.sockets.losses import losses
from aquilia.sockets.reach import Reach
from aquilia.sockets.room_names import require_name, require_text
from aquilia.sockets.settings import INBOX_BYTES, OUTBOX_BYTES
from aquilia.sockets.spool import Spool
from aquilia.sockets.writing import Writing

__all__ = ["Hub"]

logger = logging.getLogger("aquilia.sockets")

TAKEN_OVER = "\0taken over"
"""The event of publications from node to node. No user's event has such a name: see `emitted`."""


class Hub:
    """Implements the hub port on a broker. One per process."""

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock | None = None,
        stopwatch: Callable[[], float] = perf_counter,
        outbox_bytes: int = OUTBOX_BYTES,
        inbox_bytes: int = INBOX_BYTES,
        spool: Spool | None = None,
        audit: AuditTrail | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.clock = clock or Clock()
        """See `HubPort`."""
        self.audit = audit or AuditTrail(self.clock)
        """See `HubPort`."""
        self._broker = broker
        self._fanout = FanOut(stopwatch)
        self.spool = spool
        """The disk behind the outboxes, where any controller has the strategy `spool`."""
        self._writing = Writing(self._fanout, outbox_bytes, stopwatch, spool)
        self.weigh = self._writing.weigh
        """See `HubPort`."""
        self.intake = Intake(inbox_bytes, stopwatch)
        """What has been read and is not handled yet."""
        self.weigh_inbox = self.intake.weigh
        """See `HubPort`."""
        self.keep_pace = self._writing.keep_pace
        """See `HubPort`."""
        self.mark_dirty = self._writing.mark_dirty
        """See `HubPort`."""
        self.hold = self._writing.hold
        """See `HubPort`."""
        self.release = self._writing.release
        """See `HubPort`."""
        self.show_out = Endings(stopwatch).add
        """See `HubPort`."""
        self.homes: dict[str, Home] = {}
        self._cluster = cluster
        reach = Reach(self.homes, self.audit, lambda: self._fanout.clock(), cluster)
        self.ask = reach.ask
        """See `HubPort`."""
        self.members = reach.members
        """See `HubPort`."""
        self.kick = reach.kick
        """See `HubPort`."""
        self.attendance = Attendance(broker, clock=self.clock, cluster=cluster)
        """See `HubPort`."""
        self._returning: dict[Connection, dict[str, Position | None]] = {}
        """Those that were put into rooms again, and from where on they are to be served."""
        self._loop: asyncio.AbstractEventLoop
        self.on_taken_over: Callable[[str, Mapping[str, str]], None] = lambda namespace, owners: None
        """See `HubPort`."""

    async def start(self) -> None:
        """Connect to the broker."""
        self._loop = asyncio.get_running_loop()
        self._fanout.bind(self._loop)
        self._writing.bind(self._loop)
        self._broker.on_lost = self.lost_touch
        await self._broker.start(self.deliver)
        self.attendance.start()

    async def stop(self) -> None:
        """Leave the broker, and the disk."""
        try:
            await self.attendance.stop()
            await self._broker.stop()
        finally:
            if self.spool is not None:
                await self.spool.stop()

    # Namespaces and connections

    async def enter(self, home: Home) -> None:
        """Open a namespace: from here on it gets what is published to it as a whole."""
        path = home.namespace.path
        self.homes[path] = home
        try:
            await self._subscribe(home, home.connections)
        except BaseException:
            del self.homes[path]
            raise

    async def exit(self, home: Home) -> None:
        """Close a namespace that has no connection."""
        self.homes.pop(home.namespace.path, None)
        await self._unsubscribe(home, home.connections)

    def expect(self, conn: Connection) -> None:
        """Count a connection in whose client has yet to say hello: until `add` it is in no audience."""
        home: Home = conn._home
        home.arriving[conn.id] = conn

    def add(self, conn: Connection) -> None:
        """See `HubPort`."""
        home: Home = conn._home
        home.arriving.pop(conn.id, None)
        home.connections.members[conn.id] = conn
        if conn.identity is not None:
            home.identities.add(conn.identity, conn)

    def forget(self, conn: Connection) -> Sequence[str]:
        """Take a connection out of everything, at once; the rooms that it left empty are for `close_room`."""
        home: Home = conn._home
        if home.arriving.get(conn.id) is conn:
            del home.arriving[conn.id]
        home.connections.remove(conn)
        if conn.identity is not None:
            home.identities.remove(conn.identity, conn)
        emptied = []
        for name in conn._rooms:
            room = home.rooms[name]
            room.remove(conn)
            if room.present:
                self.attendance.part(conn, name, lost=True)
            if not len(room):
                emptied.append(name)
        conn._rooms.clear()
        self._returning.pop(conn, None)
        return emptied

    async def close_room(self, home: Home, name: str) -> None:
        """Give back a room that is empty, and still is when its turn comes."""
        room = home.rooms.get(name)
        if room is None:
            return
        async with room.lock:
            if len(room) or home.rooms.get(name) is not room:
                return
            await self._drop(home, room)

    async def _drop(self, home: Home, room: Audience) -> None:
        if isinstance(room.tail, Following):
            room.tail.close()
        await self._unsubscribe(home, room)
        del home.rooms[room.name or ""]

    # The port

    def bind(self, conn: Connection, session: str | None) -> None:
        """See `HubPort`. Nobody looks here."""

    def identify(self, conn: Connection, identity: Any) -> None:
        """See `HubPort`."""
        home: Home = conn._home
        if conn.id in home.connections.members:
            hash(getattr(identity, "id", None))  # what cannot be a key is refused before anything changes
            home.identities.remove(conn.identity, conn)
            home.identities.add(identity, conn)
            if home.presence is not None:
                self.attendance.identify(conn, identity)

    async def join(self, conn: Connection, room: str) -> bool:
        """See `HubPort`."""
        require_name(room)
        if room in conn._rooms:
            return False
        self._require_place(conn)
        whose = conn.identity
        await conn._home.ask_guards(conn, room)
        entered = await self._enter_room(conn, room)
        if conn.identity is not whose:  # another token came meanwhile: they were asked of who it was
            try:
                await conn._home.ask_guards(conn, room)
            except BaseException:
                await self.leave(conn, room)
                raise
        return entered

    async def _enter_room(self, conn: Connection, room: str, *, again: bool = False) -> bool:
        """Put a connection into a room; one that comes `again` has to catch up before it is live."""
        home: Home = conn._home
        while True:
            audience = home.rooms.get(room)
            if audience is None:
                audience = home.rooms[room] = Audience(room, home.meter)
                audience.present = home.presence is not None and home.presence.has(room)
            async with audience.lock:
                if home.rooms.get(room) is not audience:
                    continue  # it was given back while we waited
                return await self._join(conn, home, audience, again=again)

    def _require_place(self, conn: Connection) -> None:
        limit = conn._home.settings.max_rooms
        if len(conn._rooms) >= limit:
            raise ws_quota_exceeded(f"at most {limit} rooms at a time", close=False)

    async def _join(self, conn: Connection, home: Home, room: Audience, *, again: bool) -> bool:
        name = room.name or ""
        try:
            conn._require_open()
            if name in conn._rooms:
                return False
            if home.settings.room_size is not None and len(room) >= home.settings.room_size:
                raise ws_room_full(name, home.settings.room_size)
            await self._subscribe(home, room)
            if conn._resumable is not None and not again:
                await conn._resumable.enter(conn, name)
            if room.present:
                await self.attendance.open(home, name)
            conn._require_open()  # it may have gone meanwhile
            self._require_place(conn)  # or joined others
        except BaseException:
            if not len(room):
                await self._drop(home, room)
            raise
        conn._rooms.add(name)
        if again:
            room.waiting[conn.id] = conn
            if room.present:
                self.attendance.enter(conn, name, again=True)
            return True
        joined: dict[str, Any] = {"room": name}
        if isinstance(room.tail, Following):
            joined["epoch"], joined["offset"] = room.tail.reached
        conn._system("joined", joined)
        room.members[conn.id] = conn
        if room.present:
            self.attendance.enter(conn, name)
        return True

    async def leave(self, conn: Connection, room: str) -> bool:
        """See `HubPort`."""
        require_text(room)
        if room not in conn._rooms:
            return False
        self._part(conn, room)
        await self.vacate(conn._home, [room])
        if conn._resumable is not None:
            await conn._resumable.save(conn)
        return True

    def _part(self, conn: Connection, room: str) -> None:
        conn._rooms.discard(room)
        audience = conn._home.rooms[room]
        audience.remove(conn)
        if audience.present:
            self.attendance.part(conn, room, lost=False)
        conn._system("left", {"room": room})

    async def review(self, conn: Connection) -> None:
        """See `HubPort`."""
        parted = []
        try:
            for room in sorted(conn._rooms) if conn._home.room_checks else ():
                if not await conn._home.takes_back(conn, room) and room in conn._rooms:
                    self._part(conn, room)
                    parted.append(room)
        finally:  # also where a guard fails: who has left a room does not give it back at its end
            await self.vacate(conn._home, parted)
        if parted and conn._resumable is not None:
            with suppress(SocketFault):  # it is written a while later, and who comes back is asked again
                await conn._resumable.save(conn)

    # Sessions that are resumed

    def find(self, namespace: str, id: str) -> Connection | None:
        """See `HubPort`."""
        home = self.homes.get(namespace)
        return home.find(id) if home else None

    def rename(self, conn: Connection, id: str) -> None:
        """See `HubPort`."""
        home: Home = conn._home
        home.arriving.pop(conn.id, None)
        conn.id = id
        home.arriving[id] = conn

    async def vacate(self, home: Home, rooms: Sequence[str]) -> None:
        """See `HubPort`."""
        for room in rooms:
            await self.close_room(home, room)

    async def tell_taken_over(self, namespace: str, owners: Mapping[str, str]) -> None:
        """See `HubPort`."""
        ts = int(self.clock.time() * 1000)
        publication = Publication(
            id=uuid4().hex, namespace=namespace, event=TAKEN_OVER, payload=owners, ts=ts
        )
        await self._broker.publish(publication)

    async def rejoin(self, conn: Connection, rooms: Mapping[str, Position | None]) -> dict[str, Recovery]:
        """See `HubPort`."""
        joined: dict[str, Recovery] = {}
        for room, position in rooms.items():
            if not await conn._home.takes_back(conn, room):
                continue
            try:
                await self._enter_room(conn, room, again=True)
            except SocketFault as fault:
                if fault.code not in ("WS_ROOM_FULL", "WS_QUOTA_EXCEEDED"):
                    raise
            else:
                tail = conn._home.rooms[room].tail
                follows = isinstance(tail, Following)
                joined[room] = await tail.judge(position) if follows else Recovery(False, None)
        self._returning[conn] = {room: recovery.position for room, recovery in joined.items()}
        return joined

    async def replay(self, conn: Connection) -> None:
        """See `HubPort`."""
        for room, position in self._returning.pop(conn, {}).items():
            audience = conn._home.rooms.get(room)
            if audience is None or audience.waiting.get(conn.id) is not conn:
                continue  # it has left meanwhile
            if position is not None and isinstance(audience.tail, Following):
                await audience.tail.catch_up(conn, position)
            else:
                del audience.waiting[conn.id]
                audience.members[conn.id] = conn
            if audience.present:
                self.attendance.greet(conn, room)

    async def publish(
        self,
        namespace: str,
        event: str,
        payload: Any,
        *,
        room: str | None = None,
        identity: str | None = None,
        exclude: str | None = None,
        history: History | None = None,
        id: str | None = None,
    ) -> None:
        """See `HubPort`. Waits while the room's fan-out is behind, and gives the loop its turn to write.

        `id` is for who looks for it where it arrives.
        """
        if room is not None:
            require_name(room)
        home = self.homes.get(namespace)
        await (self.keep_pace() if home is not None and home.spools else self._fanout.turn())
        publication = Publication(
            id=id or uuid4().hex,
            namespace=namespace,
            event=event,
            payload=payload,
            ts=int(self.clock.time() * 1000),
            room=room,
            identity=identity,
            exclude=exclude,
        )
        if history is None and not self._broker.connected:
            self.deliver(publication)
        else:
            await self._broker.publish(publication, history)
        audience = self._audience(publication)
        if audience is not None:
            await self._fanout.keep_pace(audience)

    async def read(
        self,
        namespace: str,
        room: str,
        history: History,
        *,
        since: Position | None = None,
        limit: int = 100,
    ) -> HistoryPage:
        """See `HubPort`."""
        require_name(room)
        page = await self._broker.read(namespace, room, history, since=since, limit=limit)
        messages = [
            HistoryMessage(told.event, told.payload, told.ts, told.position)
            for told in page.publications
            if told.position is not None
        ]
        return HistoryPage(messages, page.head, page.complete)

    # Fan-out

    def deliver(self, publication: Publication) -> None:
        """Called by the broker: send a publication to the local part of its audience."""
        if publication.event == TAKEN_OVER:
            self.on_taken_over(publication.namespace, publication.payload)
            return
        audience = self._audience(publication)
        if audience is None:
            if publication.namespace == CONTROL and self._cluster is not None:
                self._cluster.deliver(publication)
            elif publication.namespace.startswith(PRESENCE):
                self.attendance.deliver(publication)
            return
        if publication.position is not None and isinstance(audience.tail, Following):
            audience.tail.arrived(publication)
        elif publication.position is not None and audience.name is not None:
            audience.early.append(publication)
        else:
            policy = self.homes[publication.namespace].policy(publication)
            self._fanout.deliver(audience, publication, policy)

    def lost_touch(self) -> None:
        """Called by the broker: it was away, and is back."""
        for home in self.homes.values():
            for room in home.rooms.values():
                if isinstance(room.tail, Following):
                    room.tail.lost_touch()
        if self._cluster is not None:
            self._cluster.lost_touch()
        self._fanout.enqueue_all(losses(self.homes.values()))
        self.attendance.lost_touch()

    def _audience(self, publication: Publication) -> Audience | None:
        home = self.homes.get(publication.namespace)
        if home is None:
            return None
        return home.connections if publication.room is None else home.rooms.get(publication.room)

    # Subscriptions

    async def _subscribe(self, home: Home, audience: Audience) -> None:
        if audience.subscribed:
            return
        path, name = home.namespace.path, audience.name
        history = None if name is None else home.settings.history.of(name)
        head = await self._broker.subscribe(path, name, history)
        if history is not None and head is not None:
            audience.tail = Following(
                audience,
                path,
                history,
                head,
                policy=home.policy,
                broker=self._broker,
                fanout=self._fanout,
                loop=self._loop,
            )
            early, audience.early = audience.early, []
            for publication in early:
                audience.tail.arrived(publication)
        audience.subscribed = True

    async def _unsubscribe(self, home: Home, audience: Audience) -> None:
        """Never an error: what a broker still sends finds no audience here."""
        if audience.subscribed:
            audience.subscribed = False
            try:
                await self._broker.unsubscribe(home.namespace.path, audience.name)
            except Exception:
                logger.exception("the broker could not be told that nobody listens any more")
