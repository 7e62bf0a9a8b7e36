"""One life of the connections to Kafka: a few to each broker, and what is asked over them.

aiokafka brings connections, requests and record batches. Its producer and its consumer are not used: they repeat what
was sent without saying so, hide that a broker is gone, and ask a dead one again as fast as the loop turns.

Any connection that breaks, and any answer that does not come in time, is the end of the link as a whole: another one
is made, with all that is known of the brokers found out anew.

Imports aiokafka: import this where it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka.conn import create_conn
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from aquilia.sockets.adapters.kafka.records import Record

__all__ = ["EARLIEST", "LATEST", "Fetched", "Link", "LinkBrokenError", "RefusedError"]

ANSWER = 8.0
"""Seconds that an answer may take. That a broker says nothing at all is noticed before, by `connection.py`."""
LATEST, EARLIEST = -1, -2
"""What `offsets` may be asked for in the place of a time."""
BATCH = 900_000
"""Bytes of records in one batch, if it is more than one. Kafka accepts 1 MiB by default."""
FETCH = 2 << 20
"""Bytes that one answer has of records, about; of one partition, a quarter of that. It is taken apart in one go."""
AT_ONCE = 2
"""Milliseconds."""
OUT_OF_RANGE, TOO_LARGE, LIST_TOO_LARGE = 1, 10, 18
NOT_ENOUGH_REPLICAS, TOO_FEW_AFTER = 19, 20
_MOVED = (3, 5, 6, 7, 8, 9, 13, 14, 56, 72, 74, 75, 76)
"""Errors of a partition that is elsewhere, or not there now: the brokers have to be asked anew."""

_NEEDED = ((ProduceRequest, 3), (FetchRequest, 4), (OffsetRequest, 1), (MetadataRequest, 4))
"""The versions with record batches, and without topics that are made by asking for them."""

Place = tuple[str, int]
"""A topic and one of its partitions."""


class LinkBrokenError(Exception):
    """The link has ended, or could not be used. What was asked may have been done."""


class RefusedError(Exception):
    """The broker has answered that it does not do it."""

    def __init__(self, code: int, where: str) -> None:
        error: Any = for_code(code)
        super().__init__(f"{where}: {getattr(error, 'message', error.__name__)}: {error.description}")
        self.code = code


class Fetched(NamedTuple):
    """What came of one partition."""

    place: Place
    error: int
    end: int
    """The offset behind its last record."""
    records: Sequence[Record]
    next: int
    """The offset to go on at."""


class Link:
    """See the head of this module. `on_broken` is called once, when it has ended by itself."""

    def __init__(self, options: dict[str, Any], on_broken: Callable[[Link, str], None]) -> None:
        self._options = options
        self._on_broken = on_broken
        self.broken: str | None = None
        """Why it has ended."""
        self.brokers: dict[int, tuple[str, int]] = {}
        self.controller = -1
        self.leaders: dict[Place, int] = {}
        self.retention: float | None = None
        """Seconds that the log's topic keeps what it has; None: for ever, or nobody knows."""
        self._connections: dict[tuple[int, str], Any] = {}
        self._locks: dict[tuple[int, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    # Its life

    async def bootstrap(self, host: str, port: int) -> None:
        """Ask one of the brokers for the others.

        Raises:
            KafkaError, OSError, ssl.SSLError: it cannot be reached, or refuses.
        """
        connection = await self._dial(host.strip("[]"), port)
        try:
            _require_versions(connection._versions)
            told = await connection.send(MetadataRequest([], False))
        finally:
            connection.close()
        self._learn(told)

    def _learn(self, told: Any) -> None:
        self.brokers = {broker[0]: (broker[1], broker[2]) for broker in told.brokers}
        self.controller = told.controller_id

    def any_broker(self) -> int:
        """One by chance: one that has just died may still be named."""
        return random.choice(list(self.brokers))

    async def describe(self, topics: Sequence[str]) -> dict[str, int]:
        """Find out who leads the partitions of topics. Their errors, 0 if there is none."""
        told = await self.ask(self.any_broker(), "say", MetadataRequest(list(topics), False))
        self._learn(told)
        errors: dict[str, int] = {}
        for error, topic, _, partitions in told.topics:
            errors[topic] = error
            for partition in partitions:
                self.leaders[topic, partition[1]] = partition[2]
        return errors

    def count(self, topic: str) -> int:
        """How many partitions a topic has that somebody leads."""
        return sum(1 for (name, _), leader in self.leaders.items() if name == topic and leader >= 0)

    def end(self, reason: str) -> None:
        """It is of no use any more."""
        if self.broken is None:
            self.broken = reason
            for connection in list(self._connections.values()):
                connection.close()
            self._on_broken(self, reason)

    async def close(self) -> None:
        """End it in peace."""
        self.broken = self.broken or "it was closed"
        ends = [end for each in self._connections.values() if (end := each.close()) is not None]
        self._connections.clear()
        if ends:
            await asyncio.wait(ends, timeout=1)

    async def _dial(self, host: str, port: int, on_close: Any = None) -> Any:
        return await create_conn(
            host,
            port,
            client_id="aquilia",
            request_timeout_ms=round(ANSWER * 1000),
            on_close=on_close,
            **self._options,
        )

    async def ask(self, node: int, purpose: str, request: Any) -> Any:
        """Ask a broker, over its connection for this purpose.

        Raises:
            LinkBrokenError: no answer.
        """
        if self.broken is not None:
            raise LinkBrokenError(self.broken)
        try:
            connection = self._connections.get((node, purpose))
            if connection is None:
                connection = await self._connected(node, purpose)
            return await connection.send(request)
        except (KafkaError, OSError, asyncio.IncompleteReadError) as error:
            words = str(error) or "no answer in time"
            self.end(words)
            raise LinkBrokenError(words) from error

    async def _connected(self, node: int, purpose: str) -> Any:
        async with self._locks[node, purpose]:
            known = self._connections.get((node, purpose))
            if known is not None:
                return known
            if node not in self.brokers:
                raise ConnectionError("a partition has no leader")
            connection = await self._dial(*self.brokers[node], on_close=self._closed)
            if self.broken is not None:
                connection.close()
                raise LinkBrokenError(self.broken)
            self._connections[node, purpose] = connection
            return connection

    def _closed(self, connection: Any, reason: Any) -> None:
        if self.broken is None:
            self.end(f"the broker at {connection.host}:{connection.port} ended the connection")

    # What is asked

    async def produce(self, place: Place, records: Sequence[tuple[bytes, bytes]]) -> int:
        """Store records behind one another; the offset of the first.

        Raises:
            LinkBrokenError: it may have been done, or not.
            RefusedError: it was not done.
        """
        now = round(time.time() * 1000)
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 30)
        for number, (key, value) in enumerate(records):
            builder.append(number, now, key, value, [])
        data = bytes(builder.build())
        patience = round(ANSWER * 1000) - 500
        request = ProduceRequest(None, -1, patience, [(place[0], [(place[1], data)])])
        told = await self.ask(self.leaders[place], "say", request)
        _, code, offset = told.topics[0][1][0][:3]
        self._require(place, code)
        return int(offset)

    def _require(self, place: Place, code: int) -> None:
        if code in _MOVED:
            self.end(str(RefusedError(code, f"the topic {place[0]}")))
            raise LinkBrokenError(self.broken)
        if code:
            raise RefusedError(code, f"the topic {place[0]}")

    async def offsets(self, places: Iterable[Place], when: int, purpose: str = "say") -> dict[Place, int]:
        """The offsets of the first records at or behind a time, in milliseconds; -1 where there is none."""
        asked: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for topic, partition in places:
            asked[self.leaders[topic, partition]][topic].append((partition, when))

        async def ask(node: int, topics: dict[str, list[tuple[int, int]]]) -> Any:
            return await self.ask(node, purpose, OffsetRequest(-1, 0, list(topics.items())))

        found: dict[Place, int] = {}
        for told in await asyncio.gather(*(ask(*each) for each in asked.items())):
            for topic, partitions in told.topics:
                for partition, code, at, offset, *_ in partitions:
                    self._require((topic, partition), code)
                    found[topic, partition] = -1 if when >= 0 and at < 0 else offset
        return found

    async def fetch(
        self, node: int, purpose: str, wanted: Iterable[tuple[Place, int]], wait: float, most: int = FETCH
    ) -> list[Fetched]:
        """What partitions have from offsets on; it may wait so many seconds until there is something.

        With 0 it does not wait: but Tansu, which takes what is behind the time that it was given for nothing at all.
        """
        topics: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        starts = dict(wanted)
        for (topic, partition), offset in starts.items():
            topics[topic].append((partition, offset, most // 4))
        milliseconds, least = (round(wait * 1000), 1) if wait else (AT_ONCE, 0)
        request = FetchRequest(milliseconds, least, most, 0, list(topics.items()))
        told = await self.ask(node, purpose, request)
        found = []
        for topic, partitions in told.topics:
            for partition, code, end, *rest in partitions:
                place = (topic, partition)
                if code and code != OUT_OF_RANGE:
                    self._require(place, code)
                records, behind = _records(rest[-1] or b"", starts[place])
                found.append(Fetched(place, code, end, records, behind))
        return found

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offsets behind the last records.

        Tansu takes a batch for one record where it is asked for that alone; what it says beside records is right.
        """
        found = await self.offsets(places, LATEST)
        by_leader: dict[int, list[tuple[Place, int]]] = defaultdict(list)
        for place, offset in found.items():
            by_leader[self.leaders[place]].append((place, offset))
        for node, asked in by_leader.items():
            for part in await self._all_of(node, "say", asked, 4 * len(asked)):
                found[part.place] = max(found[part.place], part.end)
        return found

    async def _all_of(
        self, node: int, purpose: str, wanted: list[tuple[Place, int]], most: int = FETCH
    ) -> list[Fetched]:
        """What there is now, of all of them."""
        found: dict[Place, Fetched] = {}
        while left := [each for each in wanted if each[0] not in found]:
            for part in await self.fetch(node, purpose, left, 0, most):
                found[part.place] = part
        return list(found.values())

    async def at(self, place: Place, offset: int, most: int = FETCH, purpose: str = "say") -> Fetched:
        """What a partition has now from an offset on."""
        (found,) = await self._all_of(self.leaders[place], purpose, [(place, offset)], most)
        return found

    async def read_from(self, place: Place, offset: int, until: int | None = None) -> list[Record]:
        """All records from an offset on to the end, or before `until`."""
        found: list[Record] = []
        while True:
            part = await self.at(place, offset, purpose="read")
            if part.error:
                raise RefusedError(part.error, f"the topic {place[0]}")
            found += [record for record in part.records if until is None or record.offset < until]
            moved, offset = part.next > offset, part.next
            if offset >= (part.end if until is None else min(until, part.end)) or not moved:
                return found


def _require_versions(found: dict[int, tuple[int, int]]) -> None:
    for request, version in _NEEDED:
        name, newest = request.__name__, found.get(request.API_KEY, (0, -1))[1]
        if newest < version:
            raise IncompatibleBrokerVersion(f"{name} of version {newest} where {version} is needed")


def _records(data: bytes, start: int) -> tuple[list[Record], int]:
    found: list[Record] = []
    behind = start
    batches = MemoryRecords(data)
    while batches.has_next():
        batch: Any = batches.next_batch()
        if batch.is_control_batch:
            behind = max(behind, batch.next_offset)
            continue
        for record in batch:
            if record.offset >= start:
                found.append(Record(record.offset, record.timestamp / 1000, record.key, record.value))
        with contextlib.suppress(
            AttributeError
        ):  # messages of before Kafka 0.11, which nobody of ours writes
            behind = max(behind, batch.next_offset)
        if found:
            behind = max(behind, found[-1].offset + 1)
    return found, behind
