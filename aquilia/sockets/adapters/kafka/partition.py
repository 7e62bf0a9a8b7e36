"""One partition of the log, as this node replays it: what has come, who waits for what, and whom it goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from zlib import crc32

from aquilia.sockets.adapters.kafka.epochs import Epoch
from aquilia.sockets.adapters.kafka.records import LIFE, MARK, Record, Records
from aquilia.sockets.adapters.kafka.replay import Kept, Replay

__all__ = ["Expectation", "Partition"]

Take = Callable[[bytes, Kept, str], None]


class Expectation:
    """What becomes of one record of ours, once it comes back by the log."""

    __slots__ = ("future", "offset", "outcomes")

    def __init__(self) -> None:
        self.outcomes: dict[int, int] = {}
        """By the offsets of all records with its id."""
        self.offset: int | None = None
        self.future: asyncio.Future[int | None] | None = None

    def came(self, offset: int, outcome: int) -> None:
        """A record with its id has come."""
        self.outcomes[offset] = outcome
        if self.future is not None and offset == self.offset and not self.future.done():
            self.future.set_result(outcome)

    def lost(self) -> None:
        """What came does not hold any more: the log is another one, or is replayed again."""
        self.outcomes.clear()
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Partition:
    """See the head of this module. `take` gets what is new, of rooms in `keys`, with the epoch;
    `on_life` is told of each epoch that begins.
    """

    def __init__(
        self, number: int, records: Records, take: Take, on_life: Callable[[Partition, Epoch], None]
    ) -> None:
        self.number = number
        self._records = records
        self._take = take
        self._on_life = on_life
        self.keys: set[bytes] = set()
        """Of the rooms that are subscribed."""
        self.reach = 0.0
        """The longest time to live that it can answer for."""
        self.used = 0.0
        """When anybody last asked for it."""
        self.replay: Replay | None = None
        self.next = 0
        """The offset of the next record."""
        self.live_from: int | None = None
        """The first offset that is delivered; None: that behind what there is when the replay begins."""
        self.begun: int | None = None
        """The offset at which the present life has begun, if that has been seen."""
        self.forced: str | None = None
        """The life that was lost: another one has to begin."""
        self.ready = asyncio.Event()
        """It has been replayed up to its end, and has a life."""
        self._last: tuple[int, int] | None = None
        """The offset of the last record, and a sum over it."""
        self._held: list[tuple[bytes, Kept]] = []
        self._expected: dict[tuple[bytes, bytes], list[Expectation]] = {}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    # Its beginnings

    def begin(self, start: int, end: int, life: str) -> Replay:
        """Replay it from an offset on to `end` and further, in the life that is said to go on."""
        replay = self.replay = Replay(start, life)
        self.next = start
        if self.live_from is None:
            self.live_from = end
        self.begun = None
        self._last = None
        return replay

    def open(self) -> None:
        """It is replayed, and what was held is delivered."""
        self.ready.set()
        held, self._held = self._held, []
        for key, entry in held:
            self._deliver(key, entry)

    def reset(self, forced: str | None) -> None:
        """What was known of it does not hold any more."""
        self.forced = forced
        self.replay = None
        self._last = None
        self._held.clear()
        self.ready.clear()
        for expectations in self._expected.values():
            for each in expectations:
                each.lost()

    # What comes

    def feed(self, records: list[Record], behind: int) -> None:
        """What was read of it from `next` on; it goes on at the offset `behind`."""
        replay = self.replay
        assert replay is not None
        for record in records:
            self._one(replay, record)
        if records:
            self._last = (records[-1].offset, _sum(records[-1]))
        self.next = behind
        if self._waiting:
            self._wake()

    def _one(self, replay: Replay, record: Record) -> None:
        offset, place = record.offset, record.offset + 1
        try:
            found = self._records.read_log(record.key, record.value)
        except ValueError as error:
            replay.skip(place, record.at)
            self._records.plain.ignore(error)
            return
        key = record.key
        assert key is not None
        if found.kind == LIFE:
            if replay.begin(place, record.at, found.id.decode(), found.data.decode()):
                self.begun = offset
                self._on_life(self, Epoch(replay.life, offset))
            return
        if found.kind == MARK:
            outcome = replay.forget(place, record.at, key)
        elif found.history is not None:
            stored = replay.store(place, record.at, key, found.id, found.history, found.data)
            outcome = stored.place
            if stored.entry is not None and offset >= (self.live_from or 0) and key in self.keys:
                if self.ready.is_set():
                    self._deliver(key, stored.entry)
                else:
                    self._held.append((key, stored.entry))
        else:
            replay.skip(place, record.at)
            return
        for expectation in self._expected.get((key, found.id), ()):
            expectation.came(offset, outcome)

    def _deliver(self, key: bytes, entry: Kept) -> None:
        if self.replay is not None and key in self.keys:
            self._take(key, entry, self.replay.life)

    def is_last(self, records: list[Record]) -> bool:
        """Whether the record that came last is still where it was."""
        return self._last is None or any(
            (record.offset, _sum(record)) == self._last for record in records[:1]
        )

    # Who waits

    def busy(self) -> bool:
        """Whether anybody needs it now."""
        return bool(self.keys or self._expected or self._waiting)

    def expect(self, key: bytes, id: bytes) -> Expectation:
        """Look out for a record."""
        expectation = Expectation()
        self._expected.setdefault((key, id), []).append(expectation)
        return expectation

    def dismiss(self, key: bytes, id: bytes, expectation: Expectation) -> None:
        """Do so no more."""
        left = self._expected[key, id]
        left.remove(expectation)
        if not left:
            del self._expected[key, id]

    def wait_for(self, offset: int) -> asyncio.Future[None]:
        """Done once everything before this offset has come."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((offset, future))
        self._wake()
        return future

    def _wake(self) -> None:
        left = []
        for offset, future in self._waiting:
            if future.done():
                continue
            if self.replay is not None and offset <= self.next:
                future.set_result(None)
            else:
                left.append((offset, future))
        self._waiting = left


def _sum(record: Record) -> int:
    return crc32(record.value or b"", crc32(record.key or b"", round(record.at * 1000) & 0xFFFFFFFF))
