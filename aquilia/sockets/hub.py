"""The hub: the namespaces and connections of this process, and what is published to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from secrets import token_hex
from time import perf_counter
from typing import Any

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.audience import Audience
from aquilia.sockets.audit.trail import AuditTrail
from aquilia.sockets.broker_losses import losses
from aquilia.sockets.cluster.membership import CONTROL, Cluster
from aquilia.sockets.cluster.reach import Reach
from aquilia.sockets.connection import Connection
from aquilia.sockets.fanout import FanOut
from aquilia.sockets.history import History, Position
from aquilia.sockets.history_following import Following
from aquilia.sockets.hub_port import HistoryMessage, HistoryPage
from aquilia.sockets.limits.intake import Intake
from aquilia.sockets.mass_closing import Endings
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.outbox.spool import Spool
from aquilia.sockets.outbox.writing import Writing
from aquilia.sockets.presence.attendance import PRESENCE, Attendance
from aquilia.sockets.room_names import require_name
from aquilia.sockets.rooms import Rooms
from aquilia.sockets.settings import INBOX_BYTES, OUTBOX_BYTES

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
        self.attendance = Attendance(broker, clock=self.clock, cluster=cluster, stopwatch=stopwatch)
        """See `HubPort`."""
        self._rooms = rooms = Rooms(broker, self._fanout, self.attendance, self.clock)
        self.purges = rooms.purges
        """See `Rooms`."""
        self.join = rooms.join
        """See `HubPort`."""
        self.leave = rooms.leave
        """See `HubPort`."""
        self.review = rooms.review
        """See `HubPort`."""
        self.vacate = rooms.vacate
        """See `HubPort`."""
        self.close_room = rooms.close_room
        """Give back a room that is empty, and still is when its turn comes."""
        self.rejoin = rooms.rejoin
        """See `HubPort`."""
        self.replay = rooms.replay
        """See `HubPort`."""
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
            await self._rooms.subscribe(home, home.connections)
        except BaseException:
            del self.homes[path]
            raise

    async def exit(self, home: Home) -> None:
        """Close a namespace that has no connection."""
        self.homes.pop(home.namespace.path, None)
        if home.on_presence:
            await self.attendance.end(home)
        await self._rooms.unsubscribe(home, home.connections)

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
        return self._rooms.forget(conn)

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

    async def tell_taken_over(self, namespace: str, owners: Mapping[str, str]) -> None:
        """See `HubPort`."""
        ts = int(self.clock.time() * 1000)
        publication = Publication(
            id=token_hex(16), namespace=namespace, event=TAKEN_OVER, payload=owners, ts=ts
        )
        await self._broker.publish(publication)

    # Publications

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
            id=id or token_hex(16),
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
