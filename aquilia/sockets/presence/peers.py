"""Presence among nodes: what this one tells the others of its rooms, and what it learns from them.

Nodes tell each other what has changed in a namespace of their own, which no client can open, and ask for what they
have missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from typing import Any
from uuid import uuid4

import msgspec

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.cluster.nodes import BEAT, LEASE, VERSION, Happening, Name
from aquilia.sockets.faults import SocketFault, ws_adapter_unavailable, ws_message_invalid
from aquilia.sockets.presence.room import AttendedRoom, Key
from aquilia.sockets.presence.roster import Roster
from aquilia.sockets.presence.values import Change, Whole

__all__ = ["PRESENCE", "Peers"]

logger = logging.getLogger("aquilia.sockets")

PRESENCE = "\0presence"
"""What its namespaces begin with: no client's does."""
TRAVEL = 5.0
"""Seconds for the way of clients to another node, beyond those that their own has named."""
ASKED = 64
"""Rooms of which one question is."""
PATIENCE = LEASE + 2 * BEAT
"""Seconds that an answer is waited for."""
PAUSE = 1.0
"""Seconds before a node is asked again that did not answer."""


class Peers:
    """The other nodes, to the `rooms` of this one. `changed` is called for a room of which something was learnt, and
    `hurry` where members are to be told at once.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock,
        cluster: Cluster | None,
        rooms: Mapping[Key, AttendedRoom],
        changed: Callable[[AttendedRoom], None],
        hurry: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._cluster = cluster
        self._rooms = rooms
        self._changed = changed
        self._hurry = hurry
        self._apart: bool = cluster is None or getattr(broker, "alone", False)
        """Whether there can be no other node."""
        self._lives = 0
        self._leaving: dict[str, float] = {}
        """Nodes that leave, and until when their clients are awaited."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._context = copy_context()
        if cluster is not None:
            cluster.on("presence", self._answer)
            cluster.on_node(self._happened)

    async def stop(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._asking.clear()
        self._leaving.clear()

    # The rooms of this node

    def next_life(self) -> int:
        """The life of a room that opens."""
        self._lives += 1
        return self._lives

    async def open(self, room: AttendedRoom) -> None:
        """Hear of a room from now on, and ask for what was before.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        if not self._apart:
            await self._broker.subscribe(PRESENCE + room.key[0], room.key[1])
        room.subscribed = True
        self._miss(room, self._others)
        if not room.missing:
            room.synced.set()

    async def close(self, room: AttendedRoom) -> None:
        """Hear of a room no more."""
        try:
            if not self._apart:
                await self._broker.unsubscribe(PRESENCE + room.key[0], room.key[1])
        except SocketFault:
            logger.exception("the broker could not be told that nobody is in a room any more")

    @property
    def _others(self) -> list[str]:
        return [] if self._apart or self._cluster is None else self._cluster.others

    # Telling

    async def tell(self, room: AttendedRoom, change: Change) -> None:
        """Tell of a change. Where it may be lost, the room is `untold`."""
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

    # Hearing

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
        self._await_clients(room, node)
        self._changed(room)

    def lost_touch(self) -> None:
        """The broker was away, and is back: neither side knows what the other has told."""
        for room in self._rooms.values():
            room.untold = True
            self._miss(room, self._others)
            self._changed(room)

    def _happened(self, happening: Happening) -> None:
        now = self._clock.monotonic()
        node = happening.node
        told = None if self._cluster is None else self._cluster.nodes().get(node)
        if happening.what == "leaving":
            self._leaving[node] = now + TRAVEL + (0.0 if told is None else told.awaited)
        elif happening.what != "came":
            self._leaving.pop(node, None)
        for room in self._rooms.values():
            if happening.what == "came":
                self._miss(room, [node])
            elif happening.what == "leaving":
                self._await_clients(room, node)
            else:
                room.roster.lose(node, now)
                room.knows(node)
            if room.roster.waits:
                self._changed(room)
        if happening.what in ("left", "died"):
            self._hurry()

    def _await_clients(self, room: AttendedRoom, node: str) -> None:
        """Also of a room that learns of them while their node leaves."""
        if (until := self._leaving.get(node)) is not None:
            room.roster.leaving(node, until)

    # Asking

    def is_whole(self, room: AttendedRoom) -> bool:
        """Whether the entries of all nodes are known, or were waited for long enough."""
        return not room.missing or self._clock.monotonic() - room.missing_since >= PATIENCE

    async def synced(self, room: AttendedRoom) -> None:
        """Wait until the entries of all nodes are known.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: a node lives and does not answer.
        """
        if room.missing:
            try:
                async with asyncio.timeout(PATIENCE):
                    await room.synced.wait()
            except TimeoutError:
                raise _unknown(room.key[1], room.missing) from None

    async def roster(self, key: Key) -> Roster:
        """Who is in a room in which nobody of this node is.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: other nodes cannot be asked, or one lives and does not answer.
        """
        roster = Roster(0, 1)
        if self._others and self._cluster is not None:
            told = await self._cluster.ask("presence", [key], timeout=PATIENCE, here=list)
            known = told.gone | told.ignorant
            if silent := [node for node in told.silent if node not in known] + [*told.faults]:
                raise _unknown(key[1], silent)
            for node, answer in told.by_node.items():
                for whole in msgspec.convert(answer, list[Whole]):
                    roster.learn(node, whole)
        return roster

    def _miss(self, room: AttendedRoom, nodes: Iterable[str]) -> None:
        """The entries of these nodes have to be asked for."""
        for node in nodes:
            if not room.missing:
                room.missing_since = self._clock.monotonic()
            room.missing.add(node)
            room.synced.clear()
            if node not in self._asking:
                asking = self._ask(node)
                loop = asyncio.get_running_loop()
                self._asking[node] = loop.create_task(asking, context=self._context.copy())

    async def _ask(self, node: str) -> None:
        """Ask a node for its entries in all rooms where they are missing."""
        try:
            await asyncio.sleep(0)  # others may be missing in this turn
            while rooms := [room for room in self._rooms.values() if node in room.missing][:ASKED]:
                if self._cluster is None or node not in self._cluster:
                    for room in rooms:
                        room.knows(node)
                elif not await self._learn(node, rooms):
                    await asyncio.sleep(PAUSE)
        finally:
            self._asking.pop(node, None)

    async def _learn(self, node: str, rooms: list[AttendedRoom]) -> bool:
        assert self._cluster is not None
        try:
            told = await self._cluster.ask(
                "presence", [room.key for room in rooms], timeout=PATIENCE, node=node
            )
            if node in told.ignorant:  # it has no presence
                for room in rooms:
                    room.knows(node)
                return True
            wholes = msgspec.convert(told.by_node[node], list[Whole])
        except (SocketFault, KeyError, msgspec.ValidationError) as error:
            logger.debug("the presence of node %s is not known: %s", node, error)
            return False
        for room, whole in zip(rooms, wholes, strict=False):
            if node in self._cluster:
                room.roster.learn(node, whole, self._leaving.get(node))
            room.knows(node)
            self._changed(room)
        self._hurry()
        return len(wholes) == len(rooms)


def _unknown(room: str, silent: Iterable[str]) -> SocketFault:
    shown = "not all servers answer now: try again later"
    return ws_adapter_unavailable(
        f"who is present in {room!r} is not known: no answer of node {', '.join(sorted(silent))}", shown
    )
