"""The outbox of a connection under the strategy `spool`: what does not fit stands in its queue as blocks, on disk.

Pure: a `Disk` is asked to write and to read, and whoever does it says later how that ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final, cast

from aquilia.sockets.outbox.blocks import Block, Disk, Record, Where
from aquilia.sockets.outbox.queue import _DROPPABLE, Backpressure, Outbox, Strategy, _Entry, _Gap, _Marked

__all__ = ["BLOCK_BYTES", "SpoolingOutbox"]

BLOCK_BYTES = 1 << 16
"""Bytes that are gathered before they are written, about. They are read back as they were written."""


class _Spoolable(_Marked):
    """A message that may go to disk, in the outbox of a connection that has another strategy."""

    __slots__ = ()


class SpoolingOutbox(Outbox):
    """An `Outbox` that takes messages of the strategy `spool`, and puts on disk what is beyond its bound.

    The bound of the outbox is one of memory. A message of `spool` that does not fit goes into a block at the end of
    the queue, and so do all that follow it until no block is left. One of another strategy sends those of `spool`
    to disk before it asks anything else to give way. At most `spool_bytes` are on disk: beyond them the newest are
    lost, with a gap.
    """

    __slots__ = (
        "_blocks", "_gathered", "_gathered_bytes", "_marked_spoolable", "_most_gathered", "_spool_bytes", "_spooled",
        "_spooled_bytes", "disk", "stalled",
    )  # fmt: skip

    def __init__(self, limits: Backpressure, spool_bytes: int) -> None:
        super().__init__(limits)
        self._spool_bytes: Final = spool_bytes
        self._most_gathered: Final = max(limits.buffer_bytes, 2 * BLOCK_BYTES)
        self._blocks = 0
        self._gathered: deque[Block] = deque()
        """Those that the disk has yet to take, in order."""
        self._gathered_bytes = 0
        self._spooled = 0
        """Messages in blocks, wherever these are."""
        self._spooled_bytes = 0
        self._marked_spoolable = 0
        self.disk: Disk
        """Whom it asks. To be set before the first message."""
        self.stalled = False
        """Nothing could be taken, for what is next is on disk."""

    def __len__(self) -> int:
        return self._size + self._spooled

    @property
    def spooled_bytes(self) -> int:
        """Bytes on disk, and on their way there."""
        return self._spooled_bytes

    @property
    def mean_bytes(self) -> int:
        """See `Outbox`."""
        if not self._size and isinstance(first := self._first(), Block):
            return first.bytes // first.count
        return super().mean_bytes

    def holds(self, frame: bytes, strategy: Strategy | None = None) -> bool:
        """False: `buffer` or `spool`, and this frame would be beyond the bound."""
        if (strategy or self._limits.strategy) == "spool":
            return self._has_room_for(frame)
        return super().holds(frame, strategy)

    # What comes

    def push(self, frame: bytes) -> bool:
        """See `Outbox`."""
        if not self._blocks:
            return super().push(frame)
        strategy = self._limits.strategy
        return self._spool(frame) if strategy == "spool" else self.push_as(frame, strategy)

    def push_as(self, frame: bytes, strategy: Strategy, key: Hashable = None) -> bool:
        """See `Outbox`."""
        if strategy != "spool":
            if self._size and self._too_full_for(frame):
                self._to_blocks()
                if self._is_cut_by(frame, strategy, key):
                    self._count_lost(self._queue())
                    return False
            return super().push_as(frame, strategy, key)
        if not self._has_room_for(frame):
            return self._spool(frame)
        if self._limits.strategy == "spool":
            return super().push_as(frame, strategy)
        self._append_marked(self._queue(), _Spoolable(frame, False, None))
        self._marked_spoolable += 1
        self._size += 1
        self.waiting_bytes += len(frame)
        self._look()
        return True

    def _is_cut_by(self, frame: bytes, strategy: Strategy, key: Hashable) -> bool:
        """Whether older ones would have to give way to it between blocks, and it would begin another itself.

        So all blocks would be of one message, if such an event came after each of `spool`.
        """
        if not self._blocks or strategy not in _DROPPABLE or not self._size or not self._too_full_for(frame):
            return False
        return strategy != "conflate" or key is None or key not in (self._latest or ())

    def _has_room_for(self, frame: bytes) -> bool:
        return not self._blocks and (not self._size or not self._too_full_for(frame))

    def _spool(self, frame: bytes) -> bool:
        size = len(frame)
        if self._gathered_bytes + size > self._most_gathered:
            self._submit()  # the disk may take more by now
        waiting = self._gathered_bytes
        if self._spooled_bytes + size > self._spool_bytes or (
            waiting and waiting + size > self._most_gathered
        ):
            self.unspooled += 1
            self._mark_lost(self._queue())
            return False
        self._open_block().add(frame)
        self._spooled += 1
        self._spooled_bytes += size
        self._gathered_bytes += size
        self._aside += size
        self.waiting_bytes += size
        self.half_full = True
        if self._gathered_bytes >= BLOCK_BYTES:
            self._submit()
        return True

    def _mark_lost(self, queue: deque[_Entry]) -> None:
        ending: Any = queue or self._passed
        if ending and isinstance(last := ending[-1], Block) and last.where is Where.GATHERED:
            last.lose(1)
        else:
            super()._mark_lost(queue)

    def _open_block(self) -> Block:
        """The block at the end of the queue, to which one more may be added."""
        queue = self._queue()
        ending: Any = queue or self._passed
        block = self._gathered[-1] if self._gathered else None
        if block is not None and ending and ending[-1] is block and block.bytes < BLOCK_BYTES:
            return block
        block = Block()
        queue.append(cast(_Entry, block))
        self._gathered.append(block)
        self._blocks += 1
        return block

    def _submit(self) -> None:
        """Hand to the disk what it takes."""
        gathered = self._gathered
        while gathered and self.disk.write(block := gathered[0]):
            gathered.popleft()
            block.where = Where.LEAVING
            self._gathered_bytes -= block.bytes
            self._aside -= block.bytes
            self.waiting_bytes -= block.bytes

    def _to_blocks(self) -> None:
        """Put all into blocks that may be, each in its place."""
        bare = self._limits.strategy == "spool"
        if not (self._size - self._marked if bare else self._marked_spoolable):
            return
        if self._spooled_bytes + self._plain_bytes > self._spool_bytes:
            return
        found: deque[Block] = deque()
        if self._passed:
            self._passed = self._in_blocks(self._passed, found, bare)
        self._frames = self._in_blocks(self._queue(), found, bare)
        self._blocks += len(found)
        self._gathered.extendleft(reversed(found))
        self._submit()
        self._look()

    def _in_blocks(self, queue: deque[_Entry], found: deque[Block], bare: bool) -> deque[_Entry]:
        made: deque[_Entry] = deque()
        block: Block | None = None
        for entry in queue:
            if bare and isinstance(entry, bytes):
                frame = entry
            elif isinstance(entry, _Spoolable):
                frame = self._unmarked(entry)
            elif block is not None and isinstance(entry, _Gap):
                block.lose(entry.dropped)
                self._gaps -= 1
                continue
            else:
                block = None
                made.append(entry)
                continue
            if block is None or block.bytes >= BLOCK_BYTES:
                block = Block()
                found.append(block)
                made.append(cast(_Entry, block))
            block.add(frame)
            size = len(frame)
            self._size -= 1
            self._spooled += 1
            self._spooled_bytes += size
            self._gathered_bytes += size
            self._aside += size
        return made

    def _unmarked(self, marked: _Marked) -> bytes:
        if isinstance(marked, _Spoolable):
            self._marked_spoolable -= 1
        return super()._unmarked(marked)

    # What the disk says

    def written(self, block: Block) -> None:
        """A block is on disk."""
        block.where = Where.STORED
        block.records = None
        if self._gathered_bytes >= BLOCK_BYTES:
            self._submit()

    def returned(self, block: Block, records: list[Record]) -> None:
        """All records of a block have been read."""
        block.where = Where.BACK
        block.records = records[block.taken :]
        self._aside += block.bytes
        self.waiting_bytes += block.bytes

    def failed(self, block: Block) -> None:
        """A block could not be written or read: a gap stands in its place."""
        self._spooled_bytes -= block.size
        self._put_gap(block)

    def _put_gap(self, block: Block) -> None:
        block.where = Where.GONE
        block.records = None
        self._spooled -= block.count
        self._blocks -= 1
        if self._passed:
            self._passed = self._with_gap(self._passed, block)
        self._frames = self._with_gap(self._queue(), block)
        self._look()

    def _with_gap(self, queue: deque[_Entry], block: Block) -> deque[_Entry]:
        """A queue where the block was lost; gaps that meet are one, or else they would have no bound."""
        made: deque[_Entry] = deque()
        lost: object = block
        for entry in queue:
            if entry is lost:
                entry = _Gap(block.count + block.lost)
                self._gaps += 1
            if isinstance(entry, _Gap) and made and isinstance(last := made[-1], _Gap):
                last.dropped += entry.dropped
                self._gaps -= 1
            else:
                made.append(entry)
        return made

    # What goes

    def take(self, max_bytes: int, gap: Callable[[int], bytes]) -> list[bytes]:
        """See `Outbox`. Nothing, and `stalled`, where what is next has yet to be read from disk."""
        self.stalled = False
        if not self._blocks:
            return super().take(max_bytes, gap)
        taken: list[bytes] = []
        total = 0
        while (entry := self._first()) is not None and (not taken or total < max_bytes):
            if not isinstance(entry, Block):
                frames = super().take(0, gap)
            elif entry.records is not None:
                frames = self._from_block(entry, max_bytes - total, gap)
            else:
                break
            taken += frames
            total += sum(map(len, frames))
        self.stalled = not taken
        # Not ahead of that: it would take memory while the client reads nothing.
        if not taken and isinstance(entry, Block) and entry.where is Where.STORED:
            entry.where = Where.COMING
            self.disk.read(entry)
        self._look()
        return taken

    def _first(self) -> object:
        queue = self._passed or self._queue()
        return queue[0] if queue else None

    def _from_block(self, block: Block, max_bytes: int, gap: Callable[[int], bytes]) -> list[bytes]:
        """The next frames of the block that stands first, at least one."""
        records = cast(list[Record], block.records)
        taken: list[bytes] = []
        total = count = size = 0
        while len(taken) < len(records) and (not taken or total < max_bytes):
            record = records[len(taken)]
            if isinstance(record, int):
                block.lost -= record
                taken.append(gap(record))
            else:
                count += 1
                size += len(record)
                taken.append(record)
            total += len(taken[-1])
        block.records = records[len(taken) :]
        self._count_taken(block, len(taken), count, size)
        if not block.records:
            self._drop_first(block)
        return taken

    def _count_taken(self, block: Block, records: int, count: int, size: int) -> None:
        block.count -= count
        block.bytes -= size
        self._spooled -= count
        if block.where is Where.GATHERED:
            block.size -= size
            self._gathered_bytes -= size
            self._spooled_bytes -= size
        else:
            block.taken += records
        if block.where is not Where.LEAVING:  # what is there is counted by the disk
            self._aside -= size
            self.waiting_bytes -= size

    def _drop_first(self, block: Block) -> None:
        """All of the block that stands first has been taken."""
        if block.where is Where.GATHERED:
            self._gathered.popleft()
        else:
            self._spooled_bytes -= block.size
            self.disk.free(block)
        block.where = Where.GONE
        (self._passed or self._queue()).popleft()
        self._blocks -= 1

    def _unread(self) -> None:
        """Drop what was read and not taken at once, and is on disk as well."""
        block = self._first()  # no other is read
        if isinstance(block, Block) and block.where is Where.BACK:
            block.where = Where.STORED
            block.records = None
            self._aside -= block.bytes
            self.waiting_bytes -= block.bytes

    def spill(self) -> bool:
        """Hand to the disk all that may be. False: it does not take all."""
        self._unread()
        self._to_blocks()
        self._submit()
        return not self._gathered

    def give_way(self, volume: int) -> bool:
        """Hand to the disk what it takes; drop about so many bytes less than that, oldest first. False: neither."""
        before = self.waiting_bytes
        self.spill()
        if (left := volume - (before - self.waiting_bytes)) > 0:
            super().give_way(left)
        while self._gathered and before - self.waiting_bytes < volume:
            block = self._gathered.popleft()
            self.dropped += block.count
            self._gathered_bytes -= block.bytes
            self._aside -= block.bytes
            self.waiting_bytes -= block.bytes
            self.failed(block)
        return self.waiting_bytes < before

    def clear(self) -> None:
        """See `Outbox`. The disk is told to forget the blocks that it has."""
        if self._blocks:
            for entry in (*(self._passed or ()), *self._queue()):
                if isinstance(entry, Block):
                    if entry.where is not Where.GATHERED:
                        self.disk.free(entry)
                    entry.where = Where.GONE
        self._gathered.clear()
        self._blocks = self._gathered_bytes = self._spooled = self._spooled_bytes = self._aside = 0
        self._marked_spoolable = 0
        self.stalled = False
        super().clear()

    def _look(self) -> None:
        super()._look()
        if self._blocks:
            self.half_full = True
