"""Attendance: presence in this process. Who is in its rooms, what their members are told of it, and the other nodes.

What changes marks its room. While there is a marked one, all of them are looked at once a second. Nodes tell each
other what has changed in a namespace of their own, which no client can open, and ask for what they have missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterable
from contextvars import copy_context
from math import inf
from time import perf_counter
from typing import Any
from uuid import uuid4

import msgspec

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.cluster import Cluster
from aquilia.sockets.codecs.base import WRITE_FAILURES, as_builtins
from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import (
    SocketFault,
    ws_adapter_unavailable,
    ws_message_invalid,
    ws_not_subscribed,
)
from aquilia.sockets.home import Home
from aquilia.sockets.nodes import BEAT, LEASE, VERSION, Happening, Name
from aquilia.sockets.presence import Change, Presence, PresencePage, Roster, Whole
from aquilia.sockets.showing import Showing

__all__ = ["PRESENCE", "Attendance"]

logger = logging.getLogger("aquilia.sockets")

PRESENCE = "\0presence"
"""What its namespaces begin with: no client's does."""
LOOK = 1.0
"""Seconds between two looks at what has changed."""
HELD = 2.0
"""Seconds for which whoever has lost its connection has not left."""
TRAVEL = 5.0
"""Seconds for the way of clients to another node, beyond those that their own has named."""
ASKED = 64
"""Rooms of which one question is."""
PATIENCE = LEASE + 2 * BEAT

Key = tuple[str, str]


class _Room:
    """A room with presence, while somebody of this node is in it."""

    __slots__ = ("home", "key", "lock", "missing", "roster", "showing", "subscribed", "synced", "untold")

    def __init__(self, home: Home, key: Key, roster: Roster) -> None:
        self.home = home
        self.key = key
        self.roster = roster
        self.showing = Showing(key[1], roster, perf_counter)
        self.lock = asyncio.Lock()
        self.subscribed = False
        self.missing: set[str] = set()
        """The nodes whose entries are not all known."""
        self.synced = asyncio.Event()
        self.untold = False
        """Whether a change may not have reached the others: they will see a hole."""


class Attendance:
    """See the head of this module. One per process."""

    def __init__(self, broker: Broker, *, clock: Clock, cluster: Cluster | None) -> None:
        self._broker = broker
        self._clock = clock
        self._cluster = cluster
        self._apart: bool = cluster is None or getattr(broker, "alone", False)
        """Whether there can be no other node."""
        self._rooms: dict[Key, _Room] = {}
        self._due: dict[Key, _Room] = {}
        self._lives = 0
        self._leaving = False
        self._at_once = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._hooks: dict[Home, deque[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = copy_context()
        if cluster is not None:
            cluster.on("presence", self._answer)
            cluster.on_node(self._happened)

    def start(self) -> None:
        """The process begins, perhaps anew."""
        self._leaving = False
        self._at_once = asyncio.Event()

    def leave(self) -> None:
        """This node leaves: its clients will be back elsewhere, and have not left."""
        self._leaving = True

    async def stop(self) -> None:
        """Look no more."""
        tasks = [*self._tasks, *self._asking.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._looking = None
        for held in (self._rooms, self._due, self._asking, self._hooks):
            held.clear()

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
                self._lives += 1
                large = 1 if home.presence is None else home.presence.large
                room = self._rooms[key] = _Room(home, key, Roster(self._lives, large))
            async with room.lock:
                if self._rooms.get(key) is not room:
                    continue  # it was closed while we waited
                room.home = home
                if not room.subscribed:
                    await self._subscribe(room)
                self._mark(room)  # where nobody comes after all, it is closed
                return

    async def _subscribe(self, room: _Room) -> None:
        if not self._apart:
            try:
                await self._broker.subscribe(PRESENCE + room.key[0], room.key[1])
            except BaseException:
                del self._rooms[room.key]
                raise
        room.subscribed = True
        for node in self._others:
            self._await(room, node)
        self._miss(room, self._others)
        if not room.missing:
            room.synced.set()

    def enter(self, conn: Connection, name: str, *, again: bool = False) -> None:
        """A connection is in an open room. One that comes `again` is greeted later."""
        room = self._rooms[conn._home.namespace.path, name]
        room.roster.enter(conn.id, _id_of(conn, conn.identity), self._clock.time())
        self._mark(room)
        if not again:
            room.showing.greet(conn)

    def greet(self, conn: Connection, name: str) -> None:
        """One that has come again has what it missed."""
        room = self._rooms.get((conn._home.namespace.path, name))
        if room is not None:
            room.showing.greet(conn, again=True)

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
            now, meta = self._clock.time(), room.roster.meta_of(conn.id)
            room.roster.enter(conn.id, id, now)
            if meta:
                room.roster.update(conn.id, meta, now)
            self._mark(room)

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
        if room is not None and room.subscribed:
            if room.missing:
                await self._synced(room)
            return room.roster.page(limit, after)
        roster = Roster(0, 1)
        if self._others and self._cluster is not None:
            told = await self._cluster.ask("presence", [(namespace, name)], timeout=PATIENCE, here=list)
            if silent := [node for node in told.silent if node not in told.gone] + [*told.faults]:
                raise _unknown(name, silent)
            for node, answer in told.by_node.items():
                for whole in msgspec.convert(answer, list[Whole]):
                    roster.learn(node, whole)
        return roster.page(limit, after)

    def counts(self) -> list[tuple[str, int]]:
        """For each room its path pattern, and how many are there."""
        return [(room.home.pattern, len(room.roster.shown)) for room in self._rooms.values()]

    async def _synced(self, room: _Room) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await room.synced.wait()
        except TimeoutError:
            raise _unknown(room.key[1], room.missing) from None

    # Looks

    def _mark(self, room: _Room) -> None:
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
                for room in due.values():
                    await self._look_safely(room)
        finally:
            self._looking = None

    async def _look_safely(self, room: _Room) -> None:
        try:
            await self._look(room)
        except Exception:
            logger.exception("presence in the room %r of %s", room.key[1], room.key[0])
        waits = room.roster.waits or room.untold or room.showing.waits or room.roster.idle
        if waits and self._rooms.get(room.key) is room:
            self._due[room.key] = room

    async def _look(self, room: _Room) -> None:
        joins: dict[str, dict[str, Any]] = {}
        leaves: dict[str, dict[str, Any]] = {}
        more = True
        while more:
            look = room.roster.look(self._clock.monotonic())
            if look.change is not None:
                await self._publish(room, look.change)
            for told, other in ((look.joins, leaves), (look.leaves, joins)):
                for id in told:
                    other.pop(id, None)
            joins |= look.joins
            leaves |= look.leaves
            more = look.more
            if more:
                await asyncio.sleep(0)
        if room.untold:
            await self._publish(room, room.roster.nothing())
        if joins or leaves:
            self._hook(room, joins, leaves)
        room.home.recorder.presence(room.home.pattern, *await room.showing.tell(joins, leaves))
        if room.roster.idle:
            await self._close(room)

    async def _close(self, room: _Room) -> None:
        async with room.lock:
            if not room.roster.idle or self._rooms.get(room.key) is not room:
                return
            try:
                if not self._apart:
                    await self._broker.unsubscribe(PRESENCE + room.key[0], room.key[1])
            except SocketFault:
                logger.exception("the broker could not be told that nobody is in a room any more")
            del self._rooms[room.key]
            room.missing.clear()
            room.synced.set()

    # What controllers do about it

    def _hook(self, room: _Room, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        """Tell the controller: of one change after the other, and without a wait for it."""
        home = room.home
        if not home.on_presence:
            return
        waiting = self._hooks.get(home)
        if waiting is not None:
            waiting.append((room.key[1], joins, leaves))
            return
        self._hooks[home] = deque([(room.key[1], joins, leaves)])
        self._start(self._run_hooks(home))

    async def _run_hooks(self, home: Home) -> None:
        waiting = self._hooks[home]
        try:
            while waiting:
                told = waiting.popleft()
                for hook in home.on_presence:
                    try:
                        await hook(*told)
                    except Exception:
                        about = {"namespace": home.namespace.path, "pattern": home.pattern}
                        logger.exception("@OnPresence of %s", home.namespace.path, extra=about)
        finally:
            self._hooks.pop(home, None)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # The other nodes

    @property
    def _others(self) -> list[str]:
        return [] if self._apart or self._cluster is None else self._cluster.others

    async def _publish(self, room: _Room, change: Change) -> None:
        room.untold = False
        if self._apart or self._cluster is None or self._cluster.alone:
            return  # whoever comes asks
        if not self._broker.connected:  # what is told here does not wait for it
            room.untold = True
            return
        told = Publication(
            id=uuid4().hex,
            namespace=PRESENCE + room.key[0],
            event="change",
            payload=[VERSION, self._cluster.id, change],
            ts=int(self._clock.time() * 1000),
            room=room.key[1],
        )
        try:
            await self._broker.publish(told)
        except SocketFault as fault:
            logger.debug("a change of presence was lost: %s", fault)
            room.untold = True

    def deliver(self, publication: Publication) -> None:
        """Called by the hub with what was published to a namespace of presence."""
        room = self._rooms.get((publication.namespace.removeprefix(PRESENCE), publication.room or ""))
        cluster = self._cluster
        if room is None or cluster is None:
            return
        try:
            version, node, change = msgspec.convert(publication.payload, tuple[int, Name, Change])
            if version != VERSION:
                raise ValueError(f"a change of version {version}; this is version {VERSION}")
        except (ValueError, msgspec.ValidationError) as error:
            logger.debug("a message of presence is ignored: %s", error)
            cluster.ignored()
            return
        if node not in cluster:
            return
        if not room.roster.heard(node, change):
            self._miss(room, [node])
        self._mark(room)

    def lost_touch(self) -> None:
        """The broker was away, and is back: neither side knows what the other has told."""
        for room in self._rooms.values():
            room.untold = True
            self._miss(room, self._others)
            self._mark(room)

    def _happened(self, happening: Happening) -> None:
        now = self._clock.monotonic()
        node = happening.node
        for room in self._rooms.values():
            if happening.what == "came":
                self._miss(room, [node])
            elif happening.what == "leaving":
                self._await(room, node)
            else:
                room.roster.lose(node, now)
                self._knows(room, node)
            if room.roster.waits:
                self._mark(room)
        if happening.what in ("left", "died"):
            self._at_once.set()

    def _await(self, room: _Room, node: str) -> None:
        """If a node leaves, its clients are awaited elsewhere."""
        told = None if self._cluster is None else self._cluster.nodes().get(node)
        if told is not None and told.phase == "leaving":
            room.roster.leaving(node, self._clock.monotonic() + TRAVEL + told.awaited)

    def _miss(self, room: _Room, nodes: Iterable[str]) -> None:
        """The entries of these nodes have to be asked for."""
        for node in nodes:
            room.missing.add(node)
            room.synced.clear()
            if node not in self._asking:
                self._asking[node] = self._start(self._ask(node))

    def _knows(self, room: _Room, node: str) -> None:
        room.missing.discard(node)
        if not room.missing:
            room.synced.set()

    async def _ask(self, node: str) -> None:
        """Ask a node for its entries in all rooms where they are missing."""
        try:
            await asyncio.sleep(0)  # others may be missing in this turn
            while rooms := [room for room in self._rooms.values() if node in room.missing][:ASKED]:
                if self._cluster is None or node not in self._cluster:
                    for room in rooms:
                        self._knows(room, node)
                elif not await self._learn(node, rooms):
                    await asyncio.sleep(LOOK)
        finally:
            self._asking.pop(node, None)

    async def _learn(self, node: str, rooms: list[_Room]) -> bool:
        assert self._cluster is not None
        try:
            told = await self._cluster.ask(
                "presence", [room.key for room in rooms], timeout=PATIENCE, node=node
            )
            wholes = msgspec.convert(told.by_node[node], list[Whole])
        except (SocketFault, KeyError, msgspec.ValidationError) as error:
            logger.debug("the presence of node %s is not known: %s", node, error)
            return False
        for room, whole in zip(rooms, wholes, strict=False):
            if node in self._cluster:
                room.roster.learn(node, whole)
            self._knows(room, node)
            self._mark(room)
        self._at_once.set()
        return len(wholes) == len(rooms)

    def _answer(self, asked: Any) -> list[Whole]:
        """What another node asks of rooms."""
        try:
            keys = msgspec.convert(asked, list[tuple[str, str]])
        except msgspec.ValidationError as error:
            raise ws_message_invalid(f"a question of another version: {error}") from error
        found = []
        for key in keys:
            room = self._rooms.get(key)
            # One that opens later has a higher number than this.
            found.append(Whole(self._lives + 1, 0, []) if room is None else room.roster.whole())
        return found


def _unknown(room: str, silent: Iterable[str]) -> SocketFault:
    shown = "not all servers answer now: try again later"
    return ws_adapter_unavailable(
        f"who is present in {room!r} is not known: no answer of node {', '.join(sorted(silent))}", shown
    )


def _id_of(conn: Connection, identity: Any) -> str:
    return conn.id if identity is None else str(identity.id)


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
    except WRITE_FAILURES as error:
        raise ws_message_invalid(f"the metadata of presence cannot be written as JSON: {error}") from error
    if not isinstance(checked, dict):
        raise ws_message_invalid(f"the metadata of presence is a map, not {meta!r}"[:200])
    if len(data) > most:
        raise ws_message_invalid(f"the metadata of presence has {len(data)} bytes as JSON: {most} at most")
    return checked
