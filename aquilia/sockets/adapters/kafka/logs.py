"""The logs of rooms with history: the topic that has them, of which this node replays the partitions that it uses.

What is published comes back by the partition, and only then is it known whether it is new. So every node has the same
order, and the same idea of what is a repeat.

An epoch is the life of a partition. It begins with a record in the partition itself, which says what life it follows:
of several nodes that begin one at once, the first is believed by all. A compacted topic has the newest for each
partition, for those who begin to read behind that record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from secrets import token_urlsafe
from typing import Any

from aquilia.clock import Clock
from aquilia.sockets.adapters.kafka.connection import CALL, KafkaConnection
from aquilia.sockets.adapters.kafka.dial import LOG
from aquilia.sockets.adapters.kafka.epochs import Epoch, Epochs
from aquilia.sockets.adapters.kafka.partition import Partition, Take
from aquilia.sockets.adapters.kafka.plain import SETTLE, SLICE, WAIT, settled
from aquilia.sockets.adapters.kafka.records import Records
from aquilia.sockets.adapters.kafka.replay import MARGIN
from aquilia.sockets.adapters.kafka.writer import Writer
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["Logs"]

logger = logging.getLogger("aquilia.sockets.kafka")

DATA = 256 << 20
"""Bytes of publications that a node keeps of all logs together. The others are read from Kafka when needed."""
OPENING = 60.0
"""Seconds that anything waits for a partition that is being replayed."""
IDLE = 600.0
"""Seconds after which a partition that nobody uses is replayed no more."""
TEND = 30.0
"""Seconds between two looks at what can be let go of."""
_LIFE_KEY = b"life"


class Logs:
    """See the head of this module."""

    def __init__(self, connection: KafkaConnection, records: Records, clock: Clock, take: Take) -> None:
        self._connection = connection
        self._records = records
        self._clock = clock
        self._take = take
        target = connection.target
        self.topic = target.topic(LOG)
        self._epochs = Epochs(target, records.plain)
        self.writer = Writer(connection, self.topic)
        self._partitions: dict[int, Partition] = {}
        self._reading: set[int] = set()
        """The leaders that are read from."""

    def clear(self) -> None:
        """Forget everything."""
        self._partitions.clear()
        self._reading.clear()

    def all(self) -> list[Partition]:
        """The partitions that are in use."""
        return list(self._partitions.values())

    # Partitions

    def use(self, number: int, ttl: float) -> Partition:
        """A partition, which will be able to answer for entries of this age."""
        part = self._partitions.get(number)
        if part is None:
            part = self._partitions[number] = Partition(number, self._records, self._take, self._tell_life)
        part.used = self._clock.monotonic()
        if ttl > part.reach:
            part.reach = ttl
            if part.replay is not None:  # replay it again, from further back; nothing is delivered twice
                part.live_from = max(part.live_from or 0, part.next)
                part.reset(None)
            self._open_soon(part)
        return part

    async def opened(self, part: Partition, until: float) -> float:
        """Wait until it is replayed, which may take longer; until when there is time then for what has to be done."""
        loop = asyncio.get_running_loop()
        if part.ready.is_set():
            return until
        await self._connection.ready(until)
        try:
            async with asyncio.timeout_at(max(until, loop.time() + OPENING)):
                await part.ready.wait()
                return max(until, loop.time() + CALL)
        except TimeoutError:
            raise ws_adapter_unavailable(
                f"the partition {part.number} of the topic {self.topic} is not replayed yet"
            ) from None

    async def caught_up(self, part: Partition, until: float) -> None:
        """Wait until all has come that was stored before this call.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError, RefusedError

        place = (self.topic, part.number)
        while True:
            until = await self.opened(part, until)
            link = await self._connection.ready(until)
            waiting: asyncio.Future[None] | None = None
            try:
                async with asyncio.timeout_at(until):
                    waiting = part.wait_for((await link.at(place, part.next, 4)).end)
                    await waiting
                    return
            except TimeoutError:
                raise ws_adapter_unavailable(
                    f"the topic {self.topic} on Kafka does not answer in time"
                ) from None
            except RefusedError as error:
                raise ws_adapter_unavailable(f"Kafka: {error}") from error
            except LinkBrokenError:
                continue
            finally:
                if waiting is not None:
                    waiting.cancel()

    def _open_soon(self, part: Partition) -> None:
        if (link := self._connection.link) is not None:
            self._connection.spawn(self._open(link, part, part.reach))

    async def _open(self, link: Any, part: Partition, reach: float) -> None:
        """Replay a partition from where it matters on, and see to it that it has a life."""
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError, RefusedError

        place = (self.topic, part.number)
        try:
            known = (await self._epochs.known(link)).get(part.number)
            end = (await link.ends([place]))[place]
            since = self._clock.time() - reach - MARGIN
            start = (await link.offsets([place], max(0, round(since * 1000))))[place]
            if link.broken or part.reach != reach or part.replay is not None:
                return
            replay = part.begin(end if start < 0 else min(start, end), end, known.name if known else "")
            self._read_soon(link)
            await part.wait_for(end)
            if link.broken or part.replay is not replay:
                return
            lost = known is None or end <= known.born or part.forced == replay.life
            if part.begun is None and lost:
                await self._begin_life(link, part, replay.life)
            if not link.broken and part.replay is replay:
                part.forced = None
                part.open()
        except LinkBrokenError:
            return  # it is opened again by the next link
        except RefusedError as error:
            logger.error(
                "the partition %d of the topic %s cannot be used: %s", part.number, self.topic, error
            )
            link.end(str(error))

    async def _begin_life(self, link: Any, part: Partition, behind: str) -> None:
        value = self._records.life(_LIFE_KEY, token_urlsafe(9), behind)
        offset = await link.produce((self.topic, part.number), [(_LIFE_KEY, value)])
        await part.wait_for(offset + 1)
        if behind or part.forced:
            logger.error(
                "the partition %d of the topic %s on Kafka is not the one that it was: what its rooms remembered "
                "is gone",
                *(part.number, self.topic),
            )

    def _tell_life(self, part: Partition, epoch: Epoch) -> None:
        """Another life has begun, or somebody else says so."""
        if (link := self._connection.link) is not None:
            self._connection.spawn(self._tell(link, part, epoch))

    async def _tell(self, link: Any, part: Partition, epoch: Epoch) -> None:
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError

        with contextlib.suppress(LinkBrokenError):
            await self._epochs.tell(link, part.number, epoch)

    # Reading

    async def prepare(self, link: Any, away: float) -> None:
        """See `Reader`. Whether each partition is still the one that we know."""
        self._reading.clear()
        await self._epochs.require_partitions(link)
        await link.ends([(self.topic, 0)])  # whether it may be read
        known = {
            (self.topic, part.number): part for part in self._partitions.values() if part.replay is not None
        }
        if not known:
            return
        ends = await settled(link, {place: part.next for place, part in known.items()})
        for place, part in known.items():
            replay = part.replay
            if replay is None:
                continue
            if not part.ready.is_set():
                part.reset(part.forced)
            elif part.next > ends[place] or not await self._same(link, place, part):
                part.reset(replay.life)
                part.live_from = 0  # all of it is new

    async def _same(self, link: Any, place: tuple[str, int], part: Partition) -> bool:
        """Whether the last record that came stands where it was."""
        if part.next == 0:
            return True
        found = await link.at(place, part.next - 1, 4)
        if found.error:  # its retention has let go of that record: all that we have is older
            return True
        return part.is_last([record for record in found.records if record.offset == part.next - 1])

    def run(self, link: Any) -> None:
        """See `Reader`."""
        for part in self._partitions.values():
            if part.replay is None:
                self._open_soon(part)
        self._read_soon(link)
        self._connection.spawn(self._tend(link))

    def lose(self) -> None:
        """See `Reader`."""
        self._reading.clear()

    def _read_soon(self, link: Any) -> None:
        for part in self._partitions.values():
            node = link.leaders.get((self.topic, part.number), -1)
            if part.replay is not None and node not in self._reading:
                self._reading.add(node)
                self._connection.spawn(self._read(link, node))

    def _parts_of(self, link: Any, node: int) -> dict[tuple[str, int], Partition]:
        return {
            (self.topic, part.number): part
            for part in self._partitions.values()
            if part.replay is not None and link.leaders.get((self.topic, part.number)) == node
        }

    async def _read(self, link: Any, node: int) -> None:
        """Feed the partitions that this broker leads, for as long as there are any."""
        from aquilia.sockets.adapters.kafka.link import LinkBrokenError, RefusedError

        loop = asyncio.get_running_loop()
        fine = loop.time()
        while parts := self._parts_of(link, node):
            asked = [(place, part.next) for place, part in parts.items()]
            replays = {place: part.replay for place, part in parts.items()}
            try:
                found = await link.fetch(node, "log", asked, WAIT)
            except LinkBrokenError:
                return
            except RefusedError as error:
                link.end(str(error))
                return
            if link.broken is not None:
                return
            behind = False
            for each in found:
                part = parts[each.place]
                if part.replay is not replays[each.place]:
                    continue
                if each.error or 0 <= each.end < part.next:
                    behind = True
                elif each.next > part.next:
                    for start in range(0, len(each.records), SLICE):
                        slice = each.records[start : start + SLICE]
                        part.feed(slice, slice[-1].offset + 1)
                        await asyncio.sleep(0)
                        if link.broken is not None:
                            return
                        if part.replay is not replays[each.place]:
                            break
                    else:
                        part.feed([], each.next)
            if self.held > DATA + DATA // 8:
                self.shed()
            if not behind:
                fine = loop.time()
            elif loop.time() - fine > SETTLE:
                link.end(f"the topic {self.topic} has lost records")
                return
        self._reading.discard(node)

    async def _tend(self, link: Any) -> None:
        """Let go of what is not needed any more."""
        while link.broken is None:
            await asyncio.sleep(TEND)
            now, wall = self._clock.monotonic(), self._clock.time()
            for number, part in list(self._partitions.items()):
                if part.replay is None:
                    continue
                if not part.busy() and now - part.used > IDLE:
                    del self._partitions[number]
                    continue
                part.replay.sweep(wall, part.keys.__contains__)
            self.shed()

    def shed(self) -> None:
        """Keep the data within its bound."""
        total = self.held
        if total > DATA:
            for part in self._partitions.values():
                if part.replay is not None:
                    part.replay.shed(part.replay.bytes * DATA // total)

    @property
    def held(self) -> int:
        """The bytes of data that are held."""
        return sum(part.replay.bytes for part in self._partitions.values() if part.replay is not None)
