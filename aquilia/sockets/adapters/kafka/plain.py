"""Plain rooms: all that is published to any of them, as it comes, of which each node takes what it is subscribed to.

A node reads all partitions of their topic, from its start on: so a subscription needs no word with the broker, and
misses nothing. What that costs is a look at the key of each record.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from aquilia.sockets.adapters.base import Deliver
from aquilia.sockets.adapters.kafka.connection import KafkaConnection
from aquilia.sockets.adapters.kafka.dial import PLAIN
from aquilia.sockets.adapters.kafka.records import Records, key_of

__all__ = ["WAIT", "PlainRooms", "settled"]

WAIT = 0.1
"""Seconds that a broker may keep a question for records that has no answer yet."""
STALE = 30.0
"""Seconds of a loss behind which what was missed is passed over: nobody wants it any more."""
SETTLE = 2.0
"""Seconds that a broker which has just come back may know of less than it has."""


async def settled(link: Any, positions: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
    """The ends of partitions, once they are behind these positions, or are not for so long that they will not be."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SETTLE
    while True:
        ends: dict[tuple[str, int], int] = await link.ends(list(positions))
        if all(ends[place] >= position for place, position in positions.items()) or loop.time() >= until:
            return ends
        await asyncio.sleep(0.1)


class PlainRooms:
    """See the head of this module."""

    def __init__(self, connection: KafkaConnection, records: Records) -> None:
        self._connection = connection
        self._messages = records.plain
        self._topic = connection.target.topic(PLAIN)
        self._places = [(self._topic, number) for number in range(connection.target.partitions)]
        self._positions: dict[tuple[str, int], int] = {}
        self._rooms: dict[bytes, tuple[str, str | None]] = {}
        self.deliver: Deliver | None = None

    def listen(self, namespace: str, room: str | None) -> None:
        """Deliver what comes for this room from now on."""
        self._rooms[key_of(namespace, room)] = (namespace, room)

    def unlisten(self, namespace: str, room: str | None) -> None:
        """The opposite."""
        self._rooms.pop(key_of(namespace, room), None)

    def clear(self) -> None:
        """Forget everything."""
        self._positions.clear()
        self._rooms.clear()

    async def prepare(self, link: Any, away: float) -> None:
        """See `Reader`."""
        if not self._positions or away > STALE:
            self._positions = await link.ends(self._places)
            return
        ends = await settled(link, self._positions)
        starts = await link.offsets(self._places, -2)
        for place, position in self._positions.items():
            if not starts[place] <= position <= ends[place]:  # it is another one, or we lag too far behind
                self._positions[place] = ends[place]

    def run(self, link: Any) -> None:
        """See `Reader`."""
        by_leader: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for place in self._places:
            by_leader[link.leaders[place]].append(place)
        for node, places in by_leader.items():
            self._connection.spawn(self._read(link, node, places))

    def lose(self) -> None:
        """See `Reader`."""

    async def _read(self, link: Any, node: int, places: list[tuple[str, int]]) -> None:
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError, RefusedError

        loop = asyncio.get_running_loop()
        fine = loop.time()
        while True:
            try:
                parts = await link.fetch(
                    node, "plain", [(place, self._positions[place]) for place in places], WAIT
                )
            except LinkBrokenError:
                return
            except RefusedError as error:
                link.end(str(error))
                return
            if self._connection.link is not link:
                return
            behind = False
            for part in parts:
                if part.error or 0 <= part.end < self._positions[part.place]:
                    behind = True
                    continue
                self._positions[part.place] = part.next
                for record in part.records:
                    if record.key in self._rooms and self.deliver is not None:
                        self._receive(record.key, record.value)
            if not behind:
                fine = loop.time()
            elif loop.time() - fine > SETTLE:
                link.end(f"the topic {self._topic} has lost records")
                return

    def _receive(self, key: bytes, value: bytes | None) -> None:
        try:
            if value is None:
                raise ValueError("a record without value")
            publication = self._messages.read(value, None, None)
            if (publication.namespace, publication.room) != self._rooms[key]:
                raise ValueError("a publication for another room")
        except ValueError as error:
            self._messages.ignore(error)
            return
        assert self.deliver is not None
        self.deliver(publication)
