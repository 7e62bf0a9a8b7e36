"""The direct log of a session, named "" on the wire: what was sent to one client alone, kept on its node in a ring.

Pure. It holds frames, ready to be sent again; so it is of use for a client of the same codec and transport.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, NamedTuple

from aquilia.sockets.history import Position
from aquilia.sockets.resume.records import RESUME_WINDOW, Record

__all__ = ["Continued", "DirectLog", "DirectLogs"]

DIRECT_SIZE = 256
DIRECT_BYTES = 1 << 18
DIRECT_TTL = RESUME_WINDOW + 60.0
"""Bounds of a direct log. A client may have been gone for a minute before that is noticed."""
TOTAL_BYTES = 64 << 20
"""What all direct logs of a process may hold together."""


class DirectLog:
    """The ring of what was sent to one session directly: frames, ready to be sent again to a client of its `kind`."""

    __slots__ = ("_entries", "bytes", "epoch", "head", "kind", "lost", "owner")

    def __init__(self, epoch: str, kind: Any, owner: str, head: int = 0) -> None:
        self.epoch = epoch
        self.kind = kind
        self.owner = owner
        """Names the connection that writes it, or did last."""
        self.head = self.lost = head
        self.bytes = 0
        self._entries: deque[tuple[bytes, float]] = deque()

    def append(self, frame: bytes, now: float) -> None:
        """Keep a frame that was numbered `head + 1`."""
        self.head += 1
        self._entries.append((frame, now))
        self.bytes += len(frame)
        while len(self._entries) > DIRECT_SIZE or (self.bytes > DIRECT_BYTES and len(self._entries) > 1):
            self.drop_oldest()
        self.expire(now)

    def expire(self, now: float) -> None:
        """Let go of what is too old."""
        while self._entries and self._entries[0][1] <= now - DIRECT_TTL:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Let go of the oldest frame."""
        self.bytes -= len(self._entries.popleft()[0])
        self.lost += 1

    def behind(self, offset: int, now: float) -> list[bytes] | None:
        """The frames behind an offset; None if one of them is lost, or it is none of this log's."""
        self.expire(now)
        if not self.lost <= offset <= self.head:
            return None
        return [frame for frame, _ in self._entries][offset - self.lost :]


class Continued(NamedTuple):
    """How the direct log of a session goes on."""

    log: DirectLog | None
    """None: nothing was sent yet."""
    recovered: bool
    missed: list[bytes]
    position: Position | None
    """Where the missed frames begin, or the head."""


class DirectLogs:
    """The direct logs of a process. Those of sessions that are away are held here while they may be wanted."""

    __slots__ = ("_away", "bytes", "limit")

    def __init__(self, limit: int = TOTAL_BYTES) -> None:
        self._away: OrderedDict[str, tuple[DirectLog, float]] = OrderedDict()
        self.limit = limit
        self.bytes = 0
        """Of all logs, away or not."""

    def __len__(self) -> int:
        return len(self._away)

    def append(self, log: DirectLog, frame: bytes, now: float) -> None:
        """See `DirectLog.append`. Beyond the limit of all, those who are away lose theirs first, then the sender."""
        before = log.bytes
        log.append(frame, now)
        self.bytes += log.bytes - before
        while self.bytes > self.limit and self._away:
            self._forget(next(iter(self._away)))
        while self.bytes > self.limit and log.bytes > len(frame):
            before = log.bytes
            log.drop_oldest()
            self.bytes += log.bytes - before

    def behind(self, log: DirectLog, offset: int, now: float) -> list[bytes] | None:
        """See `DirectLog.behind`."""
        self.trim(log, now)
        return log.behind(offset, now)

    def trim(self, log: DirectLog, now: float) -> None:
        """See `DirectLog.expire`."""
        before = log.bytes
        log.expire(now)
        self.bytes += log.bytes - before

    def put_away(self, session: str, log: DirectLog, now: float) -> None:
        """The session's connection has gone."""
        self.expire(now)
        if session in self._away:
            self._forget(session)
        self._away[session] = log, now

    def fetch(self, session: str) -> DirectLog | None:
        """The log of a session that comes back."""
        found = self._away.pop(session, None)
        return None if found is None else found[0]

    def drop(self, log: DirectLog) -> None:
        """A log that nobody comes back to."""
        self.bytes -= log.bytes

    def expire(self, now: float) -> None:
        """Forget the logs of who may not come back any more."""
        while self._away:
            session, (_, since) = next(iter(self._away.items()))
            if since > now - RESUME_WINDOW:
                return
            self._forget(session)

    def _forget(self, session: str) -> None:
        log, _ = self._away.pop(session)
        self.bytes -= log.bytes

    def go_on(
        self,
        log: DirectLog | None,
        record: Record,
        position: Position | None,
        *,
        owner: str,
        kind: Any,
        known: bool,
        now: float,
    ) -> Continued:
        """The log of a session that was taken up by `owner`, and what of it the client has not seen.

        `log` is what is left of it here, if that is still valid: its last writer is the former owner, or the record
        says the same head. `known`: the record, or the former connection here, says whether anything was ever sent.
        """
        if log is not None and log.owner != record.owner and record.direct != (log.epoch, log.head):
            self.drop(log)  # another node has written on
            log = None
        if log is None and known and record.direct is None and position is None:
            return Continued(None, True, [], None)
        if log is None and record.direct is not None:
            log = DirectLog(record.direct.epoch, kind, owner, record.direct.offset)
        missed = None
        if log is not None and (position is None or position.epoch == log.epoch):
            missed = self.behind(log, position.offset if position else 0, now)
        if log is None:
            log = DirectLog(owner, kind, owner)
        elif log.kind is not kind:  # its frames are not for this client
            self.drop(log)
            missed = None if missed else missed
            log = DirectLog(log.epoch, kind, owner, log.head)
        log.owner = owner
        place = Position(log.epoch, log.head - len(missed or ()))
        return Continued(log, missed is not None, missed or [], place)
