"""The hub: the namespaces, rooms and members of this process, and the fan-out to them.

Fan-out runs without await, in slices: it looks at the clock every `CLOCK_EVERY` pushes, and gives the loop back
after `SLICE` seconds. An audience finishes one publication before its next, so its members agree on the order. A
publication is encoded once for each variant of connection, and a member costs one push of shared bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from operator import length_hint
from time import perf_counter, time
from typing import Any
from uuid import uuid4

from aquilia.di import ScopeContainer
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.codecs import codec as codec_named
from aquilia.sockets.connection import Connection, Variant
from aquilia.sockets.emits import Emits
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import (
    CloseCode,
    ws_message_invalid,
    ws_publish_failed,
    ws_quota_exceeded,
    ws_room_full,
)
from aquilia.sockets.hub_port import Member, Namespace
from aquilia.sockets.recorder import Recorder
from aquilia.sockets.settings import SocketSettings

__all__ = ["Audience", "Home", "Hub"]

logger = logging.getLogger("aquilia.sockets")

CLOCK_EVERY = 64
SLICE = 0.004
BACKLOG = 64
"""Publications that an audience may be behind before its publishers wait."""
TURN_BYTES = 1 << 16
"""Bytes that may be published in one turn of the loop: they have to be written before more come."""
MAX_ROOM_LENGTH = 256


class Audience:
    """Connections that get the same publications: a room's members, or all of a namespace."""

    __slots__ = (
        "backlog", "caught_up", "current", "gone", "joined", "lock", "members", "name", "rest", "subscribed", "turn",
    )  # fmt: skip

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.members: dict[str, Connection] = {}
        self.backlog: deque[_Delivery] = deque()
        self.current: _Delivery | None = None
        self.rest: Iterator[Connection] = iter(())
        self.gone: set[Connection] = set()
        """Who left while the current publication is on its way: it is not for them any more."""
        self.joined = False
        """Whether the current publication waits for others, to be written with them."""
        self.turn = -1
        """The loop's turn in which a publication last began."""
        self.caught_up: asyncio.Future[None] | None = None
        self.lock = asyncio.Lock()
        self.subscribed = False

    def remove(self, conn: Connection) -> None:
        """Take a member out; one that is not there is no error."""
        if self.members.pop(conn.id, None) is not None and self.current is not None:
            self.gone.add(conn)


class Home:
    """A namespace that is open in this process: its controller's instance, connections and rooms."""

    __slots__ = (
        "connections", "container", "controller", "emits", "linger", "namespace", "pattern", "recorder",
        "rooms", "settings", "users",
    )  # fmt: skip

    def __init__(
        self, namespace: Namespace, pattern: str, settings: SocketSettings, recorder: Recorder
    ) -> None:
        self.namespace = namespace
        self.pattern = pattern
        self.settings = settings
        self.recorder = recorder
        self.controller: Any = None
        self.emits: Mapping[str, Emits[Any]] = {}
        self.container: ScopeContainer | None = None
        self.connections = Audience(None)
        self.rooms: dict[str, Audience] = {}
        self.users = 0
        self.linger: asyncio.TimerHandle | None = None


class _Delivery:
    """A publication on its way to one audience, with its frames."""

    __slots__ = ("_frames", "publication")

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self._frames: dict[Variant, bytes] = {}

    def frame(self, conn: Connection) -> bytes:
        """The frame for a member, as its transport wants it."""
        variant = conn._variant
        frame = self._frames.get(variant)
        if frame is None:
            try:
                frame = self._encode(conn)
            except Exception:
                logger.exception("event %r cannot be written as %s", self.publication.event, variant.codec)
                frame = self._apology(conn)
            self._frames[variant] = frame
        return frame

    def check(self, conn: Connection) -> int:
        """Encode for one member where the publisher still hears of it: its payload may be unfit. The bytes of it.

        Raises:
            SocketFault: WS_PUBLISH_FAILED.
        """
        try:
            frame = self._frames[conn._variant] = self._encode(conn)
        except (TypeError, ValueError, OverflowError) as error:
            raise ws_publish_failed(f"{self.publication.event!r} cannot be encoded: {error}") from error
        return len(frame)

    def _apology(self, conn: Connection) -> bytes:
        """What a member gets whose codec cannot write what others could be sent: no loss is silent."""
        fault = ws_publish_failed(f"an event {self.publication.event!r} cannot be written in this codec")
        return conn._encode(MessageEnvelope(event="error", payload=fault.as_dict()))

    def _encode(self, conn: Connection) -> bytes:
        publication = self.publication
        codec = codec_named(conn._variant.codec)
        envelope = MessageEnvelope(
            type="event",
            event=publication.event,
            payload=publication.payload,
            room=publication.room,
            meta={"ts": publication.ts} if conn._variant.v1 else None,
        )
        return conn._transport.frame(codec.encode(envelope), binary=codec.binary)


class Hub:
    """Implements the hub port on a broker. One per process."""

    def __init__(self, broker: Broker, *, clock: Callable[[], float] = perf_counter) -> None:
        self._broker = broker
        self._clock = clock
        self.homes: dict[str, Home] = {}
        self._dirty: deque[Connection] = deque()
        self._behind: deque[Audience] = deque()
        self._slicing = False
        self._flushing = False
        self._turn_ends: float | None = None
        self._turn_number = 0
        self._published = 0
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        """Connect to the broker."""
        self._loop = asyncio.get_running_loop()
        await self._broker.start(self.deliver)

    async def stop(self) -> None:
        """Leave the broker."""
        await self._broker.stop()

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

    def add(self, conn: Connection) -> None:
        """Count a connection in."""
        conn._home.connections.members[conn.id] = conn

    def forget(self, conn: Connection) -> Sequence[str]:
        """Take a connection out of everything, at once; the rooms that it left empty are for `close_room`."""
        home: Home = conn._home
        home.connections.remove(conn)
        emptied = []
        for name in conn._rooms:
            room = home.rooms[name]
            room.remove(conn)
            if not room.members:
                emptied.append(name)
        conn._rooms.clear()
        return emptied

    async def close_room(self, home: Home, name: str) -> None:
        """Give back a room that is empty, and still is when its turn comes."""
        room = home.rooms.get(name)
        if room is None:
            return
        async with room.lock:
            if room.members or home.rooms.get(name) is not room:
                return
            await self._unsubscribe(home, room)
            del home.rooms[name]

    # The port

    async def join(self, conn: Connection, room: str) -> bool:
        """See `HubPort`."""
        if not isinstance(room, str) or not 1 <= len(room) <= MAX_ROOM_LENGTH:
            raise ws_message_invalid(f"a room's name is a string of 1 to {MAX_ROOM_LENGTH} characters")
        if room in conn._rooms:
            return False
        home: Home = conn._home
        self._require_place(conn)
        while True:
            audience = home.rooms.get(room)
            if audience is None:
                audience = home.rooms[room] = Audience(room)
            async with audience.lock:
                if home.rooms.get(room) is not audience:
                    continue  # it was given back while we waited
                return await self._join(conn, home, audience)

    def _require_place(self, conn: Connection) -> None:
        limit = conn._home.settings.max_rooms
        if len(conn._rooms) >= limit:
            raise ws_quota_exceeded(f"at most {limit} rooms at a time", close=False)

    async def _join(self, conn: Connection, home: Home, room: Audience) -> bool:
        name = room.name or ""
        try:
            conn._require_open()
            if name in conn._rooms:
                return False
            if home.settings.room_size is not None and len(room.members) >= home.settings.room_size:
                raise ws_room_full(name, home.settings.room_size)
            await self._subscribe(home, room)
            conn._require_open()  # it may have gone meanwhile
            self._require_place(conn)  # or joined others
        except BaseException:
            if not room.members:
                await self._unsubscribe(home, room)
                del home.rooms[name]
            raise
        conn._system("joined", {"room": name})
        conn._rooms.add(name)
        room.members[conn.id] = conn
        return True

    async def leave(self, conn: Connection, room: str) -> bool:
        """See `HubPort`."""
        if room not in conn._rooms:
            return False
        home: Home = conn._home
        conn._rooms.discard(room)
        home.rooms[room].remove(conn)
        conn._system("left", {"room": room})
        if not home.rooms[room].members:
            await self.close_room(home, room)
        return True

    async def publish(
        self,
        namespace: str,
        event: str,
        payload: Any,
        *,
        room: str | None = None,
        identity: str | None = None,
        exclude: str | None = None,
    ) -> None:
        """See `HubPort`. Waits while the room's fan-out is behind, and gives the loop its turn to write."""
        await self._turn()
        publication = Publication(
            id=uuid4().hex,
            namespace=namespace,
            event=event,
            payload=payload,
            ts=int(time() * 1000),
            room=room,
            identity=identity,
            exclude=exclude,
        )
        await self._broker.publish(publication)
        audience = self._audience(publication)
        if audience is not None and len(audience.backlog) >= BACKLOG:
            if audience.caught_up is None:
                audience.caught_up = self._loop.create_future()
            await asyncio.shield(audience.caught_up)

    async def _turn(self) -> None:
        """Wait for the loop's next turn if this one has seen enough: else a burst would overrun its readers."""
        while self._turn_ends is not None and (  # noqa: ASYNC110 - what is waited for is the turn itself
            self._published >= TURN_BYTES or self._clock() >= self._turn_ends
        ):
            await asyncio.sleep(0)
        if self._turn_ends is None:
            self._turn_ends = self._clock() + SLICE
            self._loop.call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._turn_ends = None
        self._turn_number += 1
        self._published = 0

    async def members(self, namespace: str, room: str) -> Sequence[Member]:
        """See `HubPort`."""
        home = self.homes.get(namespace)
        audience = home.rooms.get(room) if home else None
        if audience is None:
            return []
        return [
            Member(conn.id, conn.identity.id if conn.identity is not None else None)
            for conn in audience.members.values()
        ]

    async def kick(self, namespace: str, connection: str) -> bool:
        """See `HubPort`."""
        home = self.homes.get(namespace)
        conn = home.connections.members.get(connection) if home else None
        if conn is None or conn._close is not None:
            return False
        conn._end(CloseCode.KICKED, "kicked")
        return True

    # Fan-out

    def deliver(self, publication: Publication) -> None:
        """Called by the broker: send a publication to the local part of its audience."""
        audience = self._audience(publication)
        if audience is None:
            return
        delivery = _Delivery(publication)
        if audience.members:
            self._published += delivery.check(next(iter(audience.members.values())))
        audience.backlog.append(delivery)
        if audience.current is None and len(audience.backlog) == 1:
            self._behind.append(audience)
            if not self._slicing:
                self._run_slice()

    def _audience(self, publication: Publication) -> Audience | None:
        home = self.homes.get(publication.namespace)
        if home is None:
            return None
        return home.connections if publication.room is None else home.rooms.get(publication.room)

    def _run_slice(self) -> None:
        """Fan out until nothing is left or the slice is over; the rest follows in the loop's next turn."""
        self._slicing = True
        deadline = self._clock() + SLICE
        try:
            while self._behind:
                audience = self._behind[0]
                done = self._advance(audience, deadline)
                self._behind.popleft()
                if not done or audience.backlog:
                    self._behind.append(audience)  # the others come first: none waits for a large room's end
                if self._behind and (not done or self._clock() >= deadline):
                    self._loop.call_soon(self._run_slice)
                    return
        except BaseException:
            self._slicing = False
            raise
        self._slicing = False

    def _advance(self, audience: Audience, deadline: float) -> bool:
        """Bring one publication of an audience to its end. False: the time is up before that."""
        if audience.current is None:
            audience.current = audience.backlog.popleft()
            audience.rest = iter(tuple(audience.members.values()))
            audience.joined = bool(audience.backlog) or audience.turn == self._turn_number
            audience.turn = self._turn_number
        delivery = audience.current
        identity = delivery.publication.identity
        excluded = audience.members.get(delivery.publication.exclude or "")
        joined, gone = audience.joined, audience.gone
        variant: Variant | None = None
        frame, size = b"", 0
        batch = _Batch()
        while True:
            pushed = 0
            for conn in islice(audience.rest, CLOCK_EVERY):
                pushed += 1
                if conn is excluded or (gone and conn in gone):
                    continue
                if identity is not None and (conn.identity is None or conn.identity.id != identity):
                    continue
                if conn._variant is not variant:
                    batch.write(frame)
                    variant = conn._variant
                    frame = delivery.frame(conn)
                    size = len(frame)
                if conn._clear and not joined and (line := conn._transport.line) is not None:
                    conn.messages_sent += 1
                    conn.bytes_sent += size
                    batch.add(conn, line)
                elif conn._close is None:
                    conn._push(frame)
            batch.write(frame)
            if pushed < CLOCK_EVERY:
                self._finish(audience)
                return True
            if self._clock() >= deadline:
                return False

    def _finish(self, audience: Audience) -> None:
        audience.current = None
        audience.rest = iter(())
        audience.gone.clear()
        if audience.caught_up is not None and len(audience.backlog) < BACKLOG // 2:
            audience.caught_up.set_result(None)
            audience.caught_up = None

    def mark_dirty(self, conn: Connection) -> None:
        """See `HubPort`."""
        self._dirty.append(conn)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write for the connections that are dirty now, and give the loop back after a slice of them."""
        deadline = self._clock() + SLICE
        dirty = self._dirty
        for turn in range(len(dirty)):
            dirty.popleft()._flush()
            if turn % CLOCK_EVERY == CLOCK_EVERY - 1 and self._clock() >= deadline:
                break
        if dirty:
            self._loop.call_soon(self._flush)
        else:
            self._flushing = False

    # Subscriptions

    async def _subscribe(self, home: Home, audience: Audience) -> None:
        if not audience.subscribed:
            await self._broker.subscribe(home.namespace.path, audience.name)
            audience.subscribed = True

    async def _unsubscribe(self, home: Home, audience: Audience) -> None:
        """Never an error: what a broker still sends finds no audience here."""
        if audience.subscribed:
            audience.subscribed = False
            try:
                await self._broker.unsubscribe(home.namespace.path, audience.name)
            except Exception:
                logger.exception("the broker could not be told that nobody listens any more")


class _Batch:
    """Members to which one frame is written at once, after they were chosen: between system calls, code is short."""

    __slots__ = ("_lines", "_members")

    def __init__(self) -> None:
        self._lines: list[Callable[[bytes], object]] = []
        self._members: list[Connection] = []

    def add(self, conn: Connection, line: Callable[[bytes], object]) -> None:
        self._lines.append(line)
        self._members.append(conn)

    def write(self, frame: bytes) -> None:
        rest = iter(self._lines)
        while True:
            try:
                for line in rest:
                    line(frame)
                break
            except Exception:  # one broken wire must not stop the others
                self._members[len(self._lines) - length_hint(rest) - 1]._broken()
        self._lines.clear()
        self._members.clear()
