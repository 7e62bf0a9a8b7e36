"""The rooms of this process: who is in which, the audience that each of them is, and who comes back to them.

A room is made by its first member, who subscribes it at the broker, and given back by its last. All of that happens
under the room's lock, and who waited for it looks whether the room is still the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker
from aquilia.sockets.audience import Audience
from aquilia.sockets.connection import Connection
from aquilia.sockets.fanout import FanOut
from aquilia.sockets.faults import CloseCode, SocketFault, ws_quota_exceeded, ws_room_full
from aquilia.sockets.history import Position
from aquilia.sockets.history_following import Following
from aquilia.sockets.hub_port import Recovery
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.presence.attendance import Attendance
from aquilia.sockets.purges import Purges
from aquilia.sockets.room_names import require_name, require_text

__all__ = ["Rooms"]

logger = logging.getLogger("aquilia.sockets")

SHOWN_OUT = frozenset({CloseCode.FORBIDDEN, CloseCode.KICKED, CloseCode.OVER_QUOTA})
"""Close codes of the server behind which presence waits for nobody. Behind 4401 a client may bring another token."""


class Rooms:
    """Who is in the rooms of all namespaces that are open here. One per hub, of whose port it is a part."""

    def __init__(self, broker: Broker, fanout: FanOut, attendance: Attendance, clock: Clock) -> None:
        self._broker = broker
        self._fanout = fanout
        self._attendance = attendance
        self._clock = clock
        self.purges = Purges()
        """Who was in a room that was purged does not come back into it."""
        self._returning: dict[Connection, dict[str, Position | None]] = {}
        """Those that were put into rooms again, and from where on they are to be served."""

    # Coming

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
            await self.subscribe(home, room)
            if conn._resumable is not None and not again:
                await conn._resumable.enter(conn, name)
            if room.present:
                await self._attendance.open(home, name)
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
                self._attendance.enter(conn, name, again=True)
            return True
        joined: dict[str, Any] = {"room": name}
        if isinstance(room.tail, Following):
            joined["epoch"], joined["offset"] = room.tail.reached
        conn._system("joined", joined)
        room.members[conn.id] = conn
        if room.present:
            self._attendance.enter(conn, name)
        return True

    # Leaving

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
            self._attendance.part(conn, room, lost=False)
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

    def forget(self, conn: Connection) -> Sequence[str]:
        """Take a connection out of its rooms, at once; those that it left empty are for `close_room`."""
        home: Home = conn._home
        lost = conn._close is None or conn._close.code not in SHOWN_OUT
        emptied = []
        for name in conn._rooms:
            room = home.rooms[name]
            room.remove(conn)
            if room.present:
                self._attendance.part(conn, name, lost=lost)
            if not len(room):
                emptied.append(name)
        conn._rooms.clear()
        self._returning.pop(conn, None)
        return emptied

    async def vacate(self, home: Home, rooms: Sequence[str]) -> None:
        """See `HubPort`."""
        for room in rooms:
            await self.close_room(home, room)

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
        await self.unsubscribe(home, room)
        del home.rooms[room.name or ""]

    # Coming back

    async def rejoin(self, conn: Connection, rooms: Mapping[str, Position | None]) -> dict[str, Recovery]:
        """See `HubPort`."""
        joined: dict[str, Recovery] = {}
        for room, position in rooms.items():
            if not await conn._home.takes_back(conn, room):
                continue
            if self.purges.bar(conn.namespace, room, conn._resumable, self._clock.time()):
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
                self._attendance.greet(conn, room)

    # Subscriptions

    async def subscribe(self, home: Home, audience: Audience) -> None:
        """Have what is published to an audience delivered here; where it keeps history, follow its log."""
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
                loop=asyncio.get_running_loop(),
            )
            early, audience.early = audience.early, []
            for publication in early:
                audience.tail.arrived(publication)
        audience.subscribed = True

    async def unsubscribe(self, home: Home, audience: Audience) -> None:
        """The opposite. Never an error: what a broker still sends finds no audience here."""
        if audience.subscribed:
            audience.subscribed = False
            try:
                await self._broker.unsubscribe(home.namespace.path, audience.name)
            except Exception:
                logger.exception("the broker could not be told that nobody listens any more")
        if audience.meter is not None:
            audience.meter.ended()
