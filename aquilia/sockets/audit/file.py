"""The audit file: one thread that appends to it, and what it does about torn lines, full disks and other processes.

A batch of records is one write, and fsync follows once a second and at the end: what was written outlives the
process however that ends, and a power cut takes a second of it at most.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec

from aquilia.sockets.audit.chain import BEGINNING, Chain, read_line
from aquilia.sockets.audit.records import AuditEvent, AuditRecord, safe

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["AuditFile", "AuditFileError", "stamp"]

logger = logging.getLogger("aquilia.audit")

QUEUE = 10_000
"""Records that wait for the disk; beyond, the newest are lost, and counted."""
BATCH = 500
FILES = 64
"""Processes that may share a folder."""
LAST_LINE = 1 << 16
"""Bytes at the end of a file in which its last line is looked for; ours have about two thousand at most."""
RETRY = 1.0
SYNC = 1.0
FAREWELL = 5.0
"""Seconds that the end of the process waits for the disk."""


class AuditFileError(Exception):
    """The file cannot be had; the message says why."""


class _Torn(AuditRecord, frozen=True, kw_only=True, omit_defaults=True):
    """`torn` is the SHA-256 of what stands between the last whole line and this one."""

    torn: str = ""


def stamp(seconds: float) -> str:
    """ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AuditFile:
    """Appends records to the chain at `path`; where another process has that file, to `NAME.2.SUFFIX` and so on.

    `clock` tells the seconds since 1970.
    """

    def __init__(self, path: Path, secret: bytes | None, clock: Callable[[], float]) -> None:
        self.wanted = path
        self.path = path
        self._secret = secret
        self._clock = clock
        self._chain = Chain(secret)
        self._descriptor = -1
        self._end = 0
        """Where the last whole line ends."""
        self._queue: deque[AuditRecord] = deque()
        self._lost = 0
        self._failing = False
        self._changed = threading.Condition()
        self._closing: AuditRecord | None = None
        self._abandoned = False
        self._thread: threading.Thread | None = None

    @property
    def head(self) -> str:
        """The hash of the last line that was written."""
        return self._chain.head

    @property
    def lines(self) -> int:
        """How many there are."""
        return self._chain.seq

    # The event loop's side

    def open(self) -> None:
        """Take the file, look at its last line, and begin.

        Raises:
            AuditFileError: it cannot be written to, or all of its names are taken.
        """
        if fcntl is None:
            raise AuditFileError("the setting audit needs a system with flock: leave the file out")
        try:
            self.wanted.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._taken()
            self._go_on()
        except AuditFileError:
            self._release()
            raise
        except OSError as error:
            self._release()
            raise AuditFileError(f"{self.path} cannot be written to ({error.strerror})") from error
        self._thread = threading.Thread(target=self._run, name="aquilia-audit", daemon=True)
        self._thread.start()

    def append(self, record: AuditRecord) -> None:
        """Queue a record; it is lost, and counted, where too many wait."""
        with self._changed:
            if len(self._queue) < QUEUE:
                self._queue.append(record)
                self._changed.notify()
                return
            self._lost += record.count
            first = self._lost == record.count
        if first:
            logger.error("the audit file %s is too slow, or fails: records are lost from now on", self.path)

    def close(self, last: AuditRecord) -> None:
        """Write what waits, and `last`, and give the file back. It blocks for five seconds at most."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._closing = last
            self._changed.notify()
        thread.join(FAREWELL)
        self._abandoned = True
        if thread.is_alive() or self._queue:
            logger.error("%d audit records could not be written to %s", len(self._queue), self.path)
        if not thread.is_alive():  # else it has the file until the process has gone
            self._release()

    # Taking the file over

    def _taken(self) -> int:
        for number in range(1, FILES + 1):
            named = f"{self.wanted.stem}.{number}{self.wanted.suffix}"
            self.path = self.wanted if number == 1 else self.wanted.with_name(named)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
            if not _is_ours(descriptor):
                os.close(descriptor)
                raise AuditFileError(f"{self.path} is there, and no audit file: choose another path")
            if _locked(descriptor):
                os.fchmod(descriptor, 0o600)
                return descriptor
            os.close(descriptor)
        raise AuditFileError(f"{self.wanted} and {FILES - 1} others beside it are taken by other processes")

    def _go_on(self) -> None:
        """Follow on the last line. One that does not verify is kept, in another file, and a new chain begins."""
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, LAST_LINE, max(0, size - LAST_LINE))
        whole, _, torn = tail.rpartition(b"\n")
        self._end = size - len(torn)
        if torn and not isinstance(read_line(torn, self._secret), str):
            whole, torn = torn, b""  # all of the line but its newline
            self._end = os.write(self._descriptor, b"\n") + size
        if not whole:
            unclean, problem = False, "" if size == len(torn) else "its last line is too long"
        else:
            last = read_line(whole.rpartition(b"\n")[2], self._secret)
            if isinstance(last, str):
                problem, unclean = last, False
            else:
                problem, unclean = "", last.content.get("event") != "audit.closed"
                self._chain = Chain(self._secret, seq=last.seq, head=last.hash)
        if problem:
            self._put_aside(problem)
            return
        if torn:
            self._seal(torn)
        self._begin("the process before did not close it" if unclean or torn else "")

    def _put_aside(self, problem: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.unverified-{int(self._clock())}-{os.getpid()}")
        os.rename(self.path, aside)
        logger.error(
            "the last line of the audit file %s does not verify (%s): it is kept as %s, and a new chain begins",
            self.path,
            problem,
            aside.name,
        )
        self._release()
        self._descriptor = self._taken()
        self._chain, self._end = Chain(self._secret), 0
        self._begin(f"the file before does not verify: it is {aside.name}")

    def _seal(self, torn: bytes) -> None:
        logger.warning(
            "the audit file %s ended in the middle of a line: %d bytes are sealed", self.path, len(torn)
        )
        sealed = _Torn(
            time=stamp(self._clock()),
            event="audit.sealed",
            outcome="done",
            reason=f"a torn line of {len(torn)} bytes",
            torn=hashlib.sha256(torn).hexdigest(),
        )
        line = self._chain.line(msgspec.json.encode(sealed))
        os.write(self._descriptor, b"\n" + line)
        self._end += len(torn) + 1 + len(line)

    def _begin(self, reason: str) -> None:
        told = f"process {os.getpid()}" + (f"; {reason}" if reason else "")
        self._queue.appendleft(self._own("audit.opened", told))

    def _own(self, event: AuditEvent, reason: str, count: int = 1) -> AuditRecord:
        when = stamp(self._clock())
        return AuditRecord(time=when, event=event, outcome="done", reason=safe(reason), count=count)

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    # The thread's side

    def _run(self) -> None:
        synced, unsynced = 0.0, False
        while True:
            with self._changed:
                if not self._queue and self._closing is None:
                    self._changed.wait(SYNC if unsynced else None)
                batch, last, lost = list(islice(self._queue, BATCH)), self._closing, self._lost
                ending = last is not None and len(batch) == len(self._queue)
            try:
                if batch or lost or ending:
                    self._write(batch, lost, last if ending else None)
                    self._written(len(batch), lost)
                    unsynced = True
                if unsynced and (ending or time.monotonic() - synced >= SYNC):
                    os.fsync(self._descriptor)
                    synced, unsynced = time.monotonic(), False
            except OSError as error:
                self._tell_failure(error)
                if self._abandoned:
                    return
                self._pause()
                continue
            if self._failing:
                self._failing = False
                logger.warning("the audit file %s is written to again; %d records are lost", self.path, lost)
            if ending or self._abandoned:
                return

    def _written(self, records: int, lost: int) -> None:
        with self._changed:
            for _ in range(records):
                self._queue.popleft()
            self._lost -= lost

    def _write(self, batch: Sequence[AuditRecord], lost: int, last: AuditRecord | None) -> None:
        records = [*batch, *([last] if last else [])]
        if lost:
            records.insert(0, self._own("audit.lost", "too many waited for the disk", lost))
        chain = Chain(self._secret, seq=self._chain.seq, head=self._chain.head)
        text = b"".join([chain.line(msgspec.json.encode(record)) for record in records])
        if os.fstat(self._descriptor).st_size > self._end:
            os.ftruncate(self._descriptor, self._end)  # what a failed write has left
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(text)
        self._chain = chain

    def _tell_failure(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            logger.error(
                "the audit file %s cannot be written (%s): up to %d records wait, and are lost beyond that",
                self.path,
                error.strerror,
                QUEUE,
            )

    def _pause(self) -> None:
        """Give the disk a second, or as long as the end of the process lets us."""
        with self._changed:
            if self._closing is None:
                self._changed.wait_for(lambda: self._closing is not None, RETRY)
            else:
                self._changed.wait(RETRY / 5)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_ours(descriptor: int) -> bool:
    """Whether nobody's file would be renamed, or appended to, who never heard of audits."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    begins = os.pread(descriptor, len(BEGINNING), 0).rstrip(b"\0")  # which is what a power cut may leave
    return BEGINNING.startswith(begins)
