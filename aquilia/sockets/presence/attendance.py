"""Attendance: presence in this process. Who is in its rooms, and what their members are told of it.

What changes marks its room. While there is a marked one, all of them are looked at once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import copy_context
from math import inf
from time import perf_counter
from typing import Any

import msgspec

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.codecs.base import WRITE_FAILURES, as_builtins, settle
from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import ws_message_invalid, ws_not_subscribed
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.presence.hooks import PresenceHooks
from aquilia.sockets.presence.peers import PRESENCE, Peers
from aquilia.sockets.presence.room import AttendedRoom, Key
from aquilia.sockets.presence.roster import Kept, Roster
from aquilia.sockets.presence.showing import SLICE
from aquilia.sockets.presence.values import Difference, Presence, PresencePage

__all__ = ["PRESENCE", "Attendance"]

logger = logging.getLogger("aquilia.sockets")

LOOK = 1.0
"""Seconds between two looks at what has changed."""
META_DEPTH = 4
"""Of metadata in a frame: beneath the envelope, its payload, and `joins`."""
HELD = 2.0
"""Seconds for which whoever has lost its connection has not left."""


class Attendance:
    """See the head of this module. One per process."""

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock,
        cluster: Cluster | None,
        stopwatch: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        self._stopwatch = stopwatch
        self._rooms: dict[Key, AttendedRoom] = {}
        self._due: dict[Key, AttendedRoom] = {}
        self._leaving = False
        self._at_once = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._context = copy_context()
        self._hooks = PresenceHooks()
        self._peers = Peers(
            broker,
            clock=clock,
            cluster=cluster,
            rooms=self._rooms,
            changed=self._mark,
            hurry=lambda: self._at_once.set(),
        )
        self.deliver = self._peers.deliver
        """Called by the hub with what was published to a namespace of presence."""
        self.lost_touch = self._peers.lost_touch
        """Called by the hub: the broker was away, and is back."""

    def start(self) -> None:
        """The process begins, perhaps anew."""
        self._leaving = False
        self._at_once = asyncio.Event()

    def leave(self) -> None:
        """This node leaves: its clients will be back elsewhere, and have not left."""
        self._leaving = True

    async def end(self, home: Home) -> None:
        """A namespace closes: what its controller does yet has a while."""
        await self._hooks.end(home)

    async def stop(self) -> None:
        """Look no more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])
        await self._peers.stop()
        await self._hooks.stop()
        self._looking = None
        self._rooms.clear()
        self._due.clear()

    # What the hub tells

    async def open(self, home: Home, name: str) -> None:
        """Somebody is about to be in a room.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        key = (home.namespace.path, name)
        while True:
            room = self._rooms.get(key)
            if room is None:
                large = 1 if home.presence is None else home.presence.large
                roster = Roster(self._peers.next_life(), large)
                room = self._rooms[key] = AttendedRoom(home, key, roster, self._stopwatch)
            async with room.lock:
                if self._rooms.get(key) is not room:
                    continue  # it was closed while we waited
                room.home = home
                if not room.subscribed:
                    try:
                        await self._peers.open(room)
                    except BaseException:
                        del self._rooms[key]
                        raise
                self._mark(room)  # where nobody comes after all, it is closed
                return

    def enter(self, conn: Connection, name: str, *, again: bool = False) -> None:
        """A connection is in an open room. One that comes `again` is greeted later."""
        room = self._rooms[conn._home.namespace.path, name]
        kept = conn._resumable.presence.pop(name, None) if conn._resumable is not None else None
        id, now = _id_of(conn, conn.identity), self._clock.time()
        room.roster.enter(conn.id, id, now, again=again, kept=kept)
        self._mark(room)
        if not again:
            room.showing.greet(conn)

    def greet(self, conn: Connection, name: str) -> None:
        """One that has come again has what it missed: it is told who is there."""
        room = self._rooms.get((conn._home.namespace.path, name))
        if room is not None:
            room.showing.greet(conn, again=True)
            self._mark(room)

    def part(self, conn: Connection, name: str, *, lost: bool) -> None:
        """A connection is in a room no more; if it is `lost`, its client may come back."""
        room = self._rooms.get((conn._home.namespace.path, name))
        if room is None:
            return
        now = self._clock.monotonic()
        room.roster.part(conn.id, now if not lost else inf if self._leaving else now + HELD)
        room.showing.forget(conn)
        self._mark(room)

    def identify(self, conn: Connection, identity: Any) -> None:
        """A connection is about to be of another identity."""
        for name in conn._rooms:
            room = self._rooms.get((conn._home.namespace.path, name))
            id = _id_of(conn, identity)
            if room is None or room.roster.id_of(conn.id) == id:
                continue
            room.roster.enter(conn.id, id, self._clock.time(), kept=room.roster.meta_of(conn.id))
            self._mark(room)

    def kept(self, conn: Connection) -> dict[str, Kept]:
        """See `Attending`."""
        found = {}
        for name in conn._rooms:
            room = self._rooms.get((conn._home.namespace.path, name))
            if room is not None and (meta := room.roster.meta_of(conn.id)) is not None:
                found[name] = meta
        return found

    # What users ask

    def update(self, conn: Connection, name: str, meta: Any) -> None:
        """See `Connection.update_presence`."""
        presence = _presence_of(conn._home, name)
        checked = _checked(meta, presence.meta_bytes)
        room = self._rooms.get((conn._home.namespace.path, name))
        if room is None or not room.roster.update(conn.id, checked, self._clock.time()):
            raise ws_not_subscribed(name)
        self._mark(room)

    async def page(self, namespace: str, name: str, limit: int, after: str | None) -> PresencePage:
        """See `SocketController.presence`."""
        room = self._rooms.get((namespace, name))
        if room is None or not room.subscribed:
            return (await self._peers.roster((namespace, name))).page(limit, after)
        await self._peers.synced(room)
        return room.roster.page(limit, after)

    def counts(self) -> list[tuple[str, int]]:
        """For each room its path pattern, and how many are there."""
        return [(room.home.pattern, len(room.roster.shown)) for room in self._rooms.values()]

    # Looks

    def _mark(self, room: AttendedRoom) -> None:
        self._due[room.key] = room
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.create_task(self._look_on(), context=self._context.copy())

    async def _look_on(self) -> None:
        try:
            while self._due:
                try:
                    async with asyncio.timeout(LOOK):
                        await self._at_once.wait()
                except TimeoutError:
                    pass
                self._at_once.clear()
                due, self._due = self._due, {}
                ends = self._stopwatch() + SLICE
                for room in due.values():
                    await self._look_safely(room)
                    if self._stopwatch() >= ends:
                        await asyncio.sleep(0)
                        ends = self._stopwatch() + SLICE
        finally:
            self._looking = None

    async def _look_safely(self, room: AttendedRoom) -> None:
        try:
            await self._look(room)
        except Exception:
            logger.exception("presence in the room %r of %s", room.key[1], room.key[0])
        if room.waits and self._rooms.get(room.key) is room:
            self._due[room.key] = room

    async def _look(self, room: AttendedRoom) -> None:
        room.showing.look(self._peers.is_whole(room))
        told = Difference()
        more = True
        while more:
            look = room.roster.look(self._clock.monotonic())
            if look.change is not None:
                await self._peers.tell(room, look.change)
            told.add(look.joins, look.leaves, look.new)
            more = look.more
            if more:
                await asyncio.sleep(0)
        if room.untold:
            await self._peers.tell(room, room.roster.nothing())
        if told and room.home.on_presence:
            self._hooks.tell(room.home, room.key[1], told)
        said = await room.showing.tell(told.joins, told.leaves, self._clock.monotonic())
        room.home.recorder.presence(room.home.pattern, *said)
        if room.roster.idle:
            await self._close(room)

    async def _close(self, room: AttendedRoom) -> None:
        async with room.lock:
            if not room.roster.idle or self._rooms.get(room.key) is not room:
                return
            await self._peers.close(room)
            del self._rooms[room.key]
            room.missing.clear()
            room.synced.set()


def _id_of(conn: Connection, identity: Any) -> str:
    if identity is None:
        return conn.id
    # What no codec can write would hide all others of the room.
    return str(identity.id).encode(errors="backslashreplace").decode()


def _presence_of(home: Home, room: object) -> Presence:
    presence = home.presence
    if presence is None or not isinstance(room, str) or not presence.has(room):
        raise ValueError(f"the room {room!r} has no presence: declare it by @Socket(…, presence=…)")
    return presence


def _checked(meta: Any, most: int) -> dict[str, Any]:
    """Metadata as what its JSON would be read as."""
    try:
        data = msgspec.json.encode(meta, enc_hook=as_builtins)
        checked = msgspec.json.decode(data)
        msgspec.msgpack.encode(checked)  # which has no numbers of more than 64 bits
    except WRITE_FAILURES as error:
        raise ws_message_invalid(f"the metadata of presence cannot be written: {error}") from error
    if not isinstance(checked, dict):
        raise ws_message_invalid(f"the metadata of presence is a map, not {meta!r}"[:200])
    if len(data) > most:
        raise ws_message_invalid(f"the metadata of presence has {len(data)} bytes as JSON: {most} at most")
    settle(checked, META_DEPTH)
    return checked
