"""The spool: one file of a process, in which waits what slow clients have yet to read.

The file has no name, and is gone with the process. One thread writes and reads it; the event loop only hands over
and takes back. A block of messages has a few slots of the file, wherever these are, and a checksum that stays in
memory: what comes back is what was written, or it is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import threading
from array import array
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter
from typing import Any
from zlib import crc32

from aquilia.sockets.connection import Connection
from aquilia.sockets.outbox.blocks import Block, Record
from aquilia.sockets.outbox.spooling import SpoolingOutbox

__all__ = ["Spool"]

logger = logging.getLogger("aquilia.sockets")

SLOT = 4096
"""Bytes in which the file is given out: what a file system has as a block, mostly."""
PATIENCE = 1.0
"""Seconds that publishers wait for a disk that is behind, at most, before they see that it moves again."""
STOP_PATIENCE = 5.0
"""Seconds that an application that ends waits for the disk."""
QUIET = 60.0
"""Seconds between two complaints of the disk, at least."""
LOST = 1 << 31
"""Set in the head of a record that has no frame, but a number of lost messages."""
SLICE = 0.004
"""Seconds of a turn of the loop that what has been read and written may take."""


@dataclass(slots=True, eq=False)
class _Stored:
    """Where a block is in the file."""

    outbox_disk: OutboxDisk
    block: Block
    slots: list[tuple[int, int]]
    """The first of some, and behind their last one."""
    count: int
    """Of records."""
    size: int
    checksum: int = 0
    """Set by the thread when it has written."""
    busy: bool = True
    """The thread has it."""
    forgotten: bool = False


@dataclass(slots=True)
class _Job:
    """What the thread is asked to do, and how it ended."""

    stored: _Stored | None
    """None: to cut the file to `length`."""
    records: list[Record] | None = None
    """What to write; what was read."""
    writes: bool = False
    length: int = 0
    error: Exception | None = field(default=None)


class OutboxDisk:
    """The disk, as the outbox of one connection has it."""

    def __init__(self, spool: Spool, conn: Connection, outbox: SpoolingOutbox) -> None:
        self._spool = spool
        self._conn = conn
        self._outbox = outbox

    def write(self, block: Block) -> bool:
        """See `Disk`."""
        return self._spool._write(self, block)

    def read(self, block: Block) -> None:
        """See `Disk`."""
        self._spool._read(block.place)

    def free(self, block: Block) -> None:
        """See `Disk`."""
        self._spool._forget(block.place)

    def written(self, block: Block) -> None:
        """A block is on disk."""
        self._outbox.written(block)
        self._go_on()

    def returned(self, block: Block, records: list[Record]) -> None:
        """A block has been read."""
        self._outbox.returned(block, records)
        self._go_on()

    def failed(self, block: Block) -> None:
        """A block is lost."""
        home = self._conn._home
        home.recorder.dropped(home.pattern, "spool_failed", block.count)
        self._outbox.failed(block)
        self._go_on()

    def _go_on(self) -> None:
        if self._outbox.stalled:
            self._conn._writable()
        elif not self._conn._dirty:
            self._conn._mark_dirty()  # it is weighed, and so is the process, when the loop's turn is over


class Spool:
    """The disk behind the outboxes. One per process, of which at most `limit` bytes are in use.

    `folder` is where the file is to be, None for the system's temporary one. Nothing is opened and no thread is
    started before something is to be written.
    """

    def __init__(self, folder: str | None, *, limit: int, unwritten_limit: int) -> None:
        self._folder = folder
        self._limit = limit // SLOT
        self.unwritten_limit = unwritten_limit
        """Bytes that may be in memory on their way to the disk."""
        self._taken = bytearray()
        """Which slots are in use: a byte for each."""
        self._used = 0
        self._lowest = 0
        """No slot below this one is free."""
        self._length = 0
        """Slots that the file has."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[_Job] = deque()
        self._told = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._quiet_until = 0.0
        self._caught_up: asyncio.Future[None] | None = None
        self._hangs = False
        """It was waited for in vain, and has said nothing since."""
        self.unwritten = 0
        """Bytes on their way to the disk."""

    def require_folder(self) -> None:
        """Make a file once, which is gone again, to learn at the start what fails later.

        Raises:
            OSError: if none can be made in the folder.
        """
        with self._open():
            pass

    def _open(self) -> Any:
        return tempfile.TemporaryFile(dir=self._folder, prefix="aquilia-spool-", buffering=0)

    def attach(self, conn: Connection) -> None:
        """Be the disk of this connection's outbox, which must be a `SpoolingOutbox`."""
        outbox = conn._outbox
        assert isinstance(outbox, SpoolingOutbox)
        outbox.disk = OutboxDisk(self, conn, outbox)

    async def caught_up(self) -> bool:
        """Wait while the disk is far behind; not for ever, since what hangs may be the disk.

        Whether it was behind, and is no more.
        """
        if self.unwritten > self.unwritten_limit // 2 and not self._hangs:
            if self._caught_up is None:
                self._caught_up = self._loop.create_future()
            done, _ = await asyncio.wait([self._caught_up], timeout=PATIENCE)
            self._hangs = not done
            return bool(done)
        return False

    async def stop(self) -> None:
        """End the thread, which takes the file with it."""
        if self._thread is not None:
            self._jobs.put(None)
            # Not in the loop, which others need.
            await asyncio.to_thread(self._thread.join, STOP_PATIENCE)
            if self._thread.is_alive():
                logger.error("the disk of the spool does not answer; its thread is left behind")
            self._thread = None
            self._settle()
            self._taken.clear()
            self._used = self._lowest = self._length = 0

    # What outboxes ask, in the loop's thread

    def _write(self, outbox_disk: OutboxDisk, block: Block) -> bool:
        records = block.records or []
        size = 4 * len(records) + block.bytes
        if self.unwritten and self.unwritten + size > self.unwritten_limit:
            return False
        slots = self._allot(-(-size // SLOT))
        if slots is None:
            return False
        block.place = stored = _Stored(outbox_disk, block, slots, len(records), size)
        self.unwritten += size
        self._ask(_Job(stored, records, writes=True))
        return True

    def _read(self, stored: _Stored) -> None:
        stored.busy = True
        self._ask(_Job(stored))

    def _forget(self, stored: _Stored) -> None:
        stored.forgotten = True
        if not stored.busy:
            self._release(stored)

    def _ask(self, job: _Job) -> None:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._jobs = SimpleQueue()  # not that of a thread which was left behind
            self._thread = threading.Thread(
                target=self._work, args=(self._jobs,), name="aquilia-spool", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)

    # The slots

    def _allot(self, count: int) -> list[tuple[int, int]] | None:
        """So many slots, the first that are free."""
        if self._used + count > self._limit:
            return None
        self._used += count
        taken = self._taken
        found: list[tuple[int, int]] = []
        place = self._lowest
        while count:
            start = taken.find(0, place)
            if start < 0:
                start = len(taken)
                taken.extend(bytes(count))
            end = taken.find(1, start, start + count)
            if end < 0:
                end = min(start + count, len(taken))
            taken[start:end] = b"\1" * (end - start)
            found.append((start, end))
            count -= end - start
            place = end
        self._lowest = place
        self._length = max(self._length, len(taken))
        return found

    def _release(self, stored: _Stored) -> None:
        taken = self._taken
        for start, end in stored.slots:
            taken[start:end] = bytes(end - start)
            self._used -= end - start
            self._lowest = min(self._lowest, start)
        if not taken[-1]:
            del taken[taken.rfind(1) + 1 :]
            # What is given back to the file system is much, or all there is.
            if self._thread is not None and (not taken or len(taken) < self._length // 2):
                self._length = len(taken)
                self._ask(_Job(None, length=self._length * SLOT))

    # What the thread has done

    def _settle(self) -> None:
        self._told = self._hangs = False
        deadline = perf_counter() + SLICE
        while self._done:
            if perf_counter() >= deadline:
                self._told = True
                self._loop.call_soon(self._settle)
                break
            job = self._done.popleft()
            if job.error is not None:
                self._complain(job)
            if job.stored is None:
                continue
            if job.writes:
                self.unwritten -= job.stored.size
            self._settle_block(job.stored, job)
        if self._caught_up is not None and self.unwritten <= self.unwritten_limit // 4:
            self._caught_up.set_result(None)
            self._caught_up = None

    def _settle_block(self, stored: _Stored, job: _Job) -> None:
        stored.busy = False
        outbox_disk, block = stored.outbox_disk, stored.block
        if stored.forgotten or job.error is not None:
            self._release(stored)
        if stored.forgotten:
            return
        if job.error is not None:
            outbox_disk.failed(block)
        elif job.writes:
            outbox_disk.written(block)
        else:
            assert job.records is not None
            outbox_disk.returned(block, job.records)

    def _complain(self, job: _Job) -> None:
        """Say it now and then, not for each block."""
        now = perf_counter()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            what = "written to" if job.writes else "read"
            logger.error("the spool cannot be %s, and messages are lost: %s", what, job.error)

    # The thread

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        with contextlib.ExitStack() as files:
            file = -1
            while (job := jobs.get()) is not None:
                try:
                    if job.stored is None or not job.stored.forgotten:
                        if file < 0:
                            file = files.enter_context(self._open()).fileno()
                        _do(job, file)
                except Exception as error:  # whatever it is, somebody waits for its end
                    job.error = error
                self._done.append(job)
                if not self._told:
                    self._told = True
                    # The loop may have been closed before the application ended.
                    with contextlib.suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._settle)


def _do(job: _Job, file: int) -> None:
    stored = job.stored
    if stored is None:
        os.ftruncate(file, job.length)
    elif job.writes:
        records, job.records = job.records or [], None
        frames = (record for record in records if isinstance(record, bytes))
        data = b"".join((array("I", map(_head, records)).tobytes(), *frames))
        stored.checksum = crc32(data)
        _write_all(file, memoryview(data), stored.slots)
    else:
        job.records = _records_of(_read_all(file, stored), stored)


def _head(record: Record) -> int:
    return LOST | record if isinstance(record, int) else len(record)


def _write_all(file: int, data: memoryview, slots: list[tuple[int, int]]) -> None:
    for start, end in slots:
        place = start * SLOT
        part = data[: (end - start) * SLOT]
        data = data[len(part) :]
        while part:
            written = os.pwrite(file, part, place)
            place += written
            part = part[written:]


def _read_all(file: int, stored: _Stored) -> bytes:
    parts: list[bytes] = []
    left = stored.size
    for start, end in stored.slots:
        place, stop = start * SLOT, start * SLOT + min(left, (end - start) * SLOT)
        left -= stop - place
        while place < stop:
            part = os.pread(file, stop - place, place)
            if not part:
                raise OSError("its file is shorter than what was written")
            parts.append(part)
            place += len(part)
    return b"".join(parts)


def _records_of(data: bytes, stored: _Stored) -> list[Record]:
    if crc32(data) != stored.checksum:
        raise OSError("its file does not hold what was written")
    heads = array("I")
    heads.frombytes(data[: 4 * stored.count])
    records: list[Record] = []
    place = 4 * stored.count
    for head in heads:
        if head & LOST:
            records.append(head ^ LOST)
        else:
            records.append(data[place : place + head])
            place += head
    return records
