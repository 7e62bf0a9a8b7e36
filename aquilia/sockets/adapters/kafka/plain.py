"""Plain rooms: all that is published to any of them, as it comes, of which each node takes what it is subscribed to.

A node reads all partitions of their topic, from its start on: so a subscription changes nothing in what is asked of
the broker. What that costs is a look at the key of each record. What was said before a subscription may still be on
its way to this node: so it asks for the end of the room's partition, and takes what is behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from aquilia.sockets.adapters.base import Deliver
from aquilia.sockets.adapters.kafka.connection import KafkaConnection
from aquilia.sockets.adapters.kafka.dial import PLAIN
from aquilia.sockets.adapters.kafka.records import Records, key_of, partition_of
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["SLICE", "WAIT", "PlainRooms", "settled"]

logger = logging.getLogger("aquilia.sockets.kafka")

WAIT = 0.1
"""Seconds that a broker may keep a question for records that has no answer yet."""
SLICE = 100
"""Records that are handled in one turn of the loop."""
STALE = 30.0
"""Seconds of a loss behind which what was missed is passed over: nobody wants it any more."""
SETTLE = 2.0
"""Seconds that a broker which has just come back may know of less than it has."""


@dataclass(slots=True)
class _Room:
    namespace: str
    room: str | None
    place: tuple[str, int]
    start: int
    """The first offset that is delivered."""


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
        self._rooms: dict[bytes, _Room] = {}
        self.deliver: Deliver | None = None

    async def listen(self, namespace: str, room: str | None, until: float) -> None:
        """Deliver what comes for this room from now on.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError, RefusedError

        place = self._places[partition_of(namespace, room, len(self._places))]
        while True:
            link = await self._connection.ready(until)
            try:
                async with asyncio.timeout_at(until):
                    found = await link.at(place, self._positions[place], 4)
            except TimeoutError:
                raise ws_adapter_unavailable(
                    f"the topic {self._topic} on Kafka does not answer in time"
                ) from None
            except RefusedError as error:
                raise ws_adapter_unavailable(f"Kafka: {error}") from error
            except LinkBrokenError:
                continue
            if link is self._connection.link:  # else that end may be one of another life of the topic
                self._rooms[key_of(namespace, room)] = _Room(namespace, room, place, found.end)
                return

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
            for room in self._rooms.values():
                room.start = 0
            return
        ends = await settled(link, self._positions)
        starts = await link.offsets(self._places, -2)
        for place, position in self._positions.items():
            if not starts[place] <= position <= ends[place]:  # it is another one, or we lag too far behind
                self._positions[place] = ends[place]
                for room in self._rooms.values():
                    if room.place == place:
                        room.start = 0

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
                if not await self._take(link, part):
                    return
            if not behind:
                fine = loop.time()
            elif loop.time() - fine > SETTLE:
                link.end(f"the topic {self._topic} has lost records")
                return

    async def _take(self, link: Any, part: Any) -> bool:
        """What came of one partition. Whether it is still to be read by this link."""
        for start in range(0, len(part.records), SLICE):
            slice = part.records[start : start + SLICE]
            for record in slice:
                room = self._rooms.get(record.key)
                if room is not None and record.offset >= room.start and self.deliver is not None:
                    self._receive(room, record.value)
            self._positions[part.place] = slice[-1].offset + 1
            await asyncio.sleep(0)  # what comes is not all that this process has to do
            if self._connection.link is not link:
                return False
        self._positions[part.place] = part.next
        return True

    def _receive(self, room: _Room, value: bytes | None) -> None:
        try:
            if value is None:
                raise ValueError("a record without value")
            publication = self._messages.read(value, None, None)
            if (publication.namespace, publication.room) != (room.namespace, room.room):
                raise ValueError("a publication for another room")
        except ValueError as error:
            self._messages.ignore(error)
            return
        assert self.deliver is not None
        try:
            self.deliver(publication)
        except Exception:  # it would end the reading
            logger.exception("a publication from Kafka could not be delivered")
