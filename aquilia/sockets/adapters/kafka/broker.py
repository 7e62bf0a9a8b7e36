"""Publications over Kafka: plain rooms by one topic, rooms with history by another that every node replays.

Where Kafka promises less than the port asks:

- Order is kept among the publications of one room, not among the rooms of a namespace, unless nodes speak to each
  other there.
- What a room's log has is known to a node from what it has replayed, which begins a little before the longest time to
  live: who comes back with an older position is told of a gap, even if nothing was said since.
- A publication whose id is sent again later than a minute after the first may be stored again.
- The times are those of Kafka's brokers: a node whose clock goes wrong by more than a minute lets go of entries too
  early, or keeps them too long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from secrets import token_urlsafe

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Deliver, Page, Publication
from aquilia.sockets.adapters.kafka.connection import CALL, KafkaConnection
from aquilia.sockets.adapters.kafka.dial import PLAIN
from aquilia.sockets.adapters.kafka.logs import Logs
from aquilia.sockets.adapters.kafka.partition import Expectation, Partition
from aquilia.sockets.adapters.kafka.plain import PlainRooms
from aquilia.sockets.adapters.kafka.records import Records, key_of, partition_of
from aquilia.sockets.adapters.kafka.replay import Kept, Part
from aquilia.sockets.adapters.kafka.writer import Lost
from aquilia.sockets.adapters.messages import OfMessages
from aquilia.sockets.adapters.signing import Signer
from aquilia.sockets.faults import ws_adapter_unavailable, ws_publish_failed
from aquilia.sockets.history import History, Position

__all__ = ["KafkaBroker"]

logger = logging.getLogger("aquilia.sockets.kafka")


class KafkaBroker(OfMessages):
    """See `Broker`, and the head of this module for what differs.

    A publication into a room with history waits for a lost broker for `publish_timeout` seconds, 5 with None. With a
    `signer`, all publications are signed, and others are ignored.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        clock: Clock,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._publish_timeout = CALL if publish_timeout is None else publish_timeout
        self._count = connection.target.partitions
        self._plain_topic = connection.target.topic(PLAIN)
        self._records = Records(connection.target.prefix, signer, logger)
        self._messages = self._records.plain
        self._plain = PlainRooms(connection, self._records)
        self._logs = Logs(connection, self._records, clock, self._take)
        self._writer = self._logs.writer
        connection.readers = [self._plain, self._logs]
        self._deliver: Deliver | None = None
        self._rooms: dict[bytes, tuple[str, str]] = {}
        """Those with history that are subscribed."""
        self.on_lost: Callable[[], None] | None = None
        """See `Broker`."""

    @property
    def connected(self) -> bool:
        """See `Broker`."""
        return self._connection.connected and not self._connection.cut

    @property
    def trouble(self) -> str | None:
        """See the head of `adapters.base`."""
        return self._connection.trouble

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`. Also makes the topics that are missing.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        self._connection.on_lost = self.on_lost
        await self._connection.start()
        self._deliver = self._plain.deliver = deliver

    async def stop(self) -> None:
        """See `Broker`."""
        self._deliver = self._plain.deliver = None
        await self._connection.stop()
        self._plain.clear()
        self._logs.clear()
        self._rooms.clear()

    # Subscriptions

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        """See `Broker`."""
        until = self._connection.deadline()
        if history is None or room is None:
            await self._plain.listen(namespace, room, until)
            return None
        key = key_of(namespace, room)
        part = self._part(namespace, room, history)
        self._rooms[key] = (namespace, room)
        part.keys.add(key)
        try:
            await self._connection.ready(until)
            self._require_retention(history)
            await self._logs.caught_up(part, until)
        except BaseException:
            await self.unsubscribe(namespace, room)
            raise
        assert part.replay is not None
        return Position(part.replay.life, part.replay.head(key))

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        self._plain.unlisten(namespace, room)
        key = key_of(namespace, room)
        if self._rooms.pop(key, None) is not None:
            for part in self._logs.all():
                part.keys.discard(key)

    def _part(self, namespace: str, room: str, history: History) -> Partition:
        if self._deliver is None:
            raise ws_adapter_unavailable("the Kafka broker is not running")
        return self._logs.use(partition_of(namespace, room, self._count), history.ttl)

    def _require_retention(self, history: History) -> None:
        link = self._connection.link
        if link is not None and link.retention is not None and link.retention < history.ttl:
            raise ws_adapter_unavailable(
                f"the topic {self._logs.topic} on Kafka keeps what it has for {link.retention:g} seconds, and "
                f"History(ttl={history.ttl:g}) is longer: kafka-configs --alter --entity-type topics --entity-name "
                f"{self._logs.topic} --add-config retention.ms={round(history.ttl * 1000)}"
            )

    def _take(self, key: bytes, entry: Kept, life: str) -> None:
        """A new entry has come."""
        room = self._rooms.get(key)
        if room is None or self._deliver is None:
            return
        publication = self._publication(entry, entry.data, room, life)
        if publication is not None:
            try:
                self._deliver(publication)
            except Exception:  # it would end the reading
                logger.exception("a publication from Kafka could not be delivered")

    def _publication(
        self, entry: Kept, data: bytes | None, room: tuple[str, str], life: str
    ) -> Publication | None:
        try:
            return self._records.publication(data or b"", *room, Position(life, entry.place), entry.previous)
        except ValueError as error:
            self._messages.ignore(error)
            return None

    # Publishing

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        """See `Broker`."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the Kafka broker is not running")
        namespace, room = publication.namespace, publication.room
        key = key_of(namespace, room)
        if history is None or room is None:
            data = self._messages.write(publication, logged=False)
            put = self._writer.put(self._plain_topic, partition_of(namespace, room, self._count), key, data)
            await self._stored(put, self._connection.deadline())
            return None
        data = self._records.stored(key, publication, history)
        loop = asyncio.get_running_loop()
        patience = max(self._publish_timeout, 1.0) if self._connection.connected else self._publish_timeout
        part = self._part(namespace, room, history)
        self._require_retention(history)
        id = self._records.id_of(publication.id)
        place = await self._through_log(part, key, id, data, loop.time() + patience)
        assert part.replay is not None
        return Position(part.replay.life, place)

    async def _stored(self, put: asyncio.Future[int], until: float) -> int:
        from aquilia.sockets.adapters.kafka.link import TOO_LARGE, RefusedError

        try:
            async with asyncio.timeout_at(until):
                return await put
        except TimeoutError:
            raise ws_adapter_unavailable(
                f"Kafka at {self._connection.target} does not answer in time"
            ) from None
        except Lost as error:
            raise ws_adapter_unavailable(f"Kafka at {self._connection.target}: {error}") from error
        except RefusedError as error:
            if error.code == TOO_LARGE:
                raise ws_publish_failed(f"Kafka did not take it: {error}") from error
            raise ws_adapter_unavailable(f"Kafka did not take it: {error}") from error

    async def _through_log(self, part: Partition, key: bytes, id: bytes, data: bytes, until: float) -> int:
        """Store a record, and wait until it has come back: what became of it."""
        expectation = part.expect(key, id)
        try:
            while True:
                put = self._writer.put(self._logs.topic, part.number, key, data)
                offset = await self._stored(put, until)
                until = await self._logs.opened(part, until)
                outcome = await self._outcome(part, expectation, offset, until)
                if outcome is not None:
                    await self._logs.opened(part, until)
                    return outcome
        finally:
            part.dismiss(key, id, expectation)

    async def _outcome(
        self, part: Partition, expectation: Expectation, offset: int, until: float
    ) -> int | None:
        """What became of a record at this offset; None: the log has lost it."""
        if offset in expectation.outcomes:
            return expectation.outcomes[offset]
        if offset < part.next:  # which we have passed: the log is another one
            if (link := self._connection.link) is not None:
                link.end(f"the topic {self._logs.topic} has lost records")
            return None
        expectation.offset = offset
        expectation.future = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(until):
                return await expectation.future
        except TimeoutError:
            raise ws_adapter_unavailable(
                f"the topic {self._logs.topic} on Kafka does not answer in time"
            ) from None

    # Logs

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        """See `Broker`."""
        until = self._connection.deadline()
        key = key_of(namespace, room)
        part = self._part(namespace, room, history)
        await self._logs.caught_up(part, until)
        replay = part.replay
        assert replay is not None
        head = Position(replay.life, replay.head(key))
        if since is not None and since.epoch != replay.life:
            return Page((), head, False)
        found = replay.read(key, None if since is None else since.offset, limit, self._clock.time())
        data = await self._data(part, found)
        entries = [
            publication
            for entry in found.entries
            if (
                publication := self._publication(
                    entry, entry.data or data.get(entry.place), (namespace, room), head.epoch
                )
            )
        ]
        return Page(entries, head, found.complete)

    async def _data(self, part: Partition, found: Part) -> dict[int, bytes]:
        """What is not in memory any more, from Kafka."""
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError, RefusedError

        missing = {entry.place for entry in found.entries if entry.data is None}
        if not missing:
            return {}
        link = await self._connection.ready(self._connection.deadline())
        try:
            records = await link.read_from((self._logs.topic, part.number), min(missing) - 1, max(missing))
        except (LinkBrokenError, RefusedError) as error:
            raise ws_adapter_unavailable(f"Kafka: {error}") from error
        return {
            record.offset + 1: self._records.read_log(record.key, record.value).data
            for record in records
            if record.offset + 1 in missing
        }

    async def forget(self, namespace: str, room: str, history: History) -> int:
        """See `Broker`."""
        until = self._connection.deadline()
        key = key_of(namespace, room)
        part = self._part(namespace, room, history)
        await self._logs.caught_up(part, until)
        if part.replay is None or not part.replay.count(key, self._clock.time()):
            return 0
        id = token_urlsafe(18)
        return await self._through_log(
            part, key, id.encode(), self._records.mark(key, id), self._connection.deadline()
        )
