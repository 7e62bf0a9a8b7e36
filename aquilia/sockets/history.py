"""Rooms that remember: what `History` promises, the log of one room, and how a reader keeps up with one.

Pure: no broker, loop or clock inside. A log is an epoch, which names its life, and entries whose offsets increase
strictly. A position in it says everything up to there is known; the log alone judges whether all behind it is left.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

__all__ = [
    "Entry",
    "Excerpt",
    "Follower",
    "Gap",
    "Histories",
    "History",
    "Position",
    "RoomLog",
    "RoomLogs",
    "fits",
]


@dataclass(frozen=True, slots=True)
class History:
    """How much a room remembers: `@Socket(path, history=History(size=1000, ttl=300))`.

    `size` messages of a room are kept, for `ttl` seconds each, and never more than `max_bytes` of them; the oldest go
    first. Who comes back within these bounds misses nothing, and whoever comes later is told so.

    Raises:
        ValueError: for a bound below 1 message, 1 byte, or 0 seconds, or beyond what a broker can be told: 2**53, and
            a century.
        TypeError: for what is no number.
    """

    size: int = 1000
    ttl: float = 300.0
    max_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        for name in ("size", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"History: {name}: a whole number is needed, not {value!r}")
            if not 1 <= value <= LARGEST:
                raise ValueError(f"History: {name}: at least 1 and at most 2**53 is needed, not {value!r}")
        if isinstance(self.ttl, bool) or not isinstance(self.ttl, int | float):
            raise TypeError(f"History: ttl: a number of seconds is needed, not {self.ttl!r}")
        if not 0 < self.ttl <= CENTURY:
            said = f"a number of seconds above 0, and of at most a century ({CENTURY}), is needed"
            raise ValueError(f"History: ttl: {said}, not {self.ttl!r}")


LARGEST = 1 << 53
CENTURY = 36_525 * 86_400


class Histories(dict[str, History]):
    """Which rooms of a controller keep how much: by the first pattern that fits, with `*` for any characters."""

    __slots__ = ("_known",)

    def of(self, room: str) -> History | None:
        """How much this room keeps; None: nothing."""
        if not self:
            return None
        if not isinstance(room, str) or len(room) > MAX_ROOM_LENGTH:  # which is no room
            return None
        try:
            return self._known[room]
        except AttributeError:
            self._known: dict[str, History | None] = {}
        except KeyError:
            if len(self._known) >= KNOWN:
                self._known.clear()
        found = next((own for pattern, own in self.items() if fits(room, pattern)), None)
        self._known[room] = found
        return found

    def hidden(self) -> tuple[str, str] | None:
        """A pattern that no room ever meets, and the one before it that has all of them."""
        patterns = list(self)
        for place, pattern in enumerate(patterns):
            for before in patterns[:place]:
                if fits(pattern, before):  # a star of the later one is a character that only a star fits
                    return pattern, before
        return None


MAX_ROOM_LENGTH = 256
KNOWN = 10_000
"""Rooms whose pattern is remembered."""


def fits(room: str, pattern: str) -> bool:
    """Whether a room's name fits a pattern, in which only `*` is special."""
    first, *others = map(re.escape, pattern.split("*"))
    # What was found for one star is not looked for again: else a client finds names that take seconds.
    stars = "".join(f"(?>.*?{part})" for part in others[:-1]) + "".join(f".*{part}" for part in others[-1:])
    return re.fullmatch(first + stars, room, re.DOTALL) is not None


class Position(NamedTuple):
    """A place in a log: everything up to `offset` in the life that `epoch` names. Offset 0 is before the first."""

    epoch: str
    offset: int


class Entry(NamedTuple):
    """What a log holds of one publication."""

    offset: int
    id: str
    data: bytes
    at: float
    """When it came, in the seconds of whoever appended it."""


class Excerpt(NamedTuple):
    """What was read from a `RoomLog`."""

    entries: Sequence[Entry]
    complete: bool
    """Nothing behind the offset that was asked for is lost. Where it is not, there are no entries."""


class RoomLog:
    """The log of one room in memory, bounded by a `History`. Offsets begin at 1 and have no holes.

    Times are seconds of any clock that never goes back.
    """

    __slots__ = ("_entries", "_ids", "bytes", "epoch", "head", "history", "lost", "touched")

    def __init__(self, epoch: str, history: History) -> None:
        self.epoch = epoch
        self.history = history
        self.head = 0
        """The newest offset; 0 while there has been none."""
        self.lost = 0
        """The newest offset that the bounds have let go of."""
        self.bytes = 0
        self.touched = 0.0
        """When something was last appended, or its last follower left."""
        self._entries: deque[Entry] = deque()
        self._ids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, id: str, data: bytes, now: float) -> tuple[int, bool]:
        """Number and keep an entry, once for each `id`. Its offset, and whether it is new."""
        self.expire(now)
        known = self._ids.get(id)
        if known is not None:
            return known, False
        self.head += 1
        self._entries.append(Entry(self.head, id, data, now))
        self._ids[id] = self.head
        self.bytes += len(data)
        self.touched = now
        while len(self._entries) > self.history.size or (
            self.bytes > self.history.max_bytes and len(self._entries) > 1
        ):
            self.drop_oldest()
        return self.head, True

    def read(self, since: int | None, limit: int, now: float) -> Excerpt:
        """The first `limit` entries behind the offset `since`; without one, the newest `limit`."""
        self.expire(now)
        entries = self._entries
        if since is None:
            return Excerpt(list(islice(entries, max(0, len(entries) - limit), None)), True)
        if not self.lost <= since <= self.head:
            return Excerpt((), False)
        start = since - self.lost  # offsets have no holes
        return Excerpt(list(islice(entries, start, start + limit)), True)

    def expire(self, now: float) -> None:
        """Let go of what is older than the history's `ttl`."""
        entries, oldest = self._entries, now - self.history.ttl
        while entries and entries[0].at <= oldest:
            self.drop_oldest()

    def drop_oldest(self) -> int:
        """Let go of the oldest entry. The bytes that this gave back, 0 if there is none."""
        if not self._entries:
            return 0
        entry = self._entries.popleft()
        del self._ids[entry.id]
        self.lost = entry.offset
        self.bytes -= len(entry.data)
        return len(entry.data)


TOTAL_BYTES = 256 << 20
"""What all logs of a process may hold together, about: beyond it, the log that was least lately used goes."""
IDLE = 300.0
"""Seconds that an empty log that nobody follows is remembered after its last entry expired: until then its head
proves that nothing is missing."""
SWEEP_EVERY = 60.0


class RoomLogs:
    """All logs of a process, made when they are first asked for, and bounded together.

    A log that was given up begins a new life under another epoch.
    """

    __slots__ = ("_followed", "_logs", "_swept", "bytes", "limit")

    def __init__(self, limit: int = TOTAL_BYTES) -> None:
        self._logs: OrderedDict[Hashable, RoomLog] = OrderedDict()
        self._followed: set[Hashable] = set()
        self._swept = 0.0
        self.limit = limit
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._logs)

    def open(self, key: Hashable, history: History, now: float) -> RoomLog:
        """The log of a room."""
        if now - self._swept >= SWEEP_EVERY:
            self._sweep(now)
        log = self._logs.get(key)
        if log is None:
            log = self._logs[key] = RoomLog(secrets.token_urlsafe(6), history)
            log.touched = now
        else:
            self._logs.move_to_end(key)
        return log

    def follow(self, key: Hashable, history: History, now: float) -> RoomLog:
        """The log of a room that has members: it is not given up, however long nothing is said there."""
        self._followed.add(key)
        return self.open(key, history, now)

    def unfollow(self, key: Hashable, now: float) -> None:
        """The members have left, and may come back."""
        if key in self._followed:
            self._followed.discard(key)
            self._logs[key].touched = now

    def append(self, log: RoomLog, id: str, data: bytes, now: float) -> tuple[int, bool]:
        """See `RoomLog.append`."""
        before = log.bytes
        appended = log.append(id, data, now)
        self.bytes += log.bytes - before
        if self.bytes > self.limit:
            self._make_room(log, now)
        return appended

    def forget(self, key: Hashable, now: float) -> int:
        """Let go of all that a log holds. How many entries that was."""
        log = self._logs.get(key)
        if log is None:
            return 0
        before = log.bytes
        log.expire(now)
        gone = len(log)
        while len(log):
            log.drop_oldest()
        self.bytes -= before
        return gone

    def _make_room(self, wanted: RoomLog, now: float) -> None:
        self._sweep(now)
        for log in self._logs.values():
            while self.bytes > self.limit and (log is not wanted or len(log) > 1) and len(log):
                self.bytes -= log.drop_oldest()
            if self.bytes <= self.limit:
                return

    def _sweep(self, now: float) -> None:
        self._swept = now
        for key, log in list(self._logs.items()):
            log.expire(now)
            if not len(log) and now - log.touched > log.history.ttl + IDLE and key not in self._followed:
                del self._logs[key]
        self.bytes = sum(log.bytes for log in self._logs.values())


class Numbered(Protocol):
    """What a log delivers: a publication with its place."""

    @property
    def position(self) -> Position | None:
        """Its own place."""

    @property
    def previous(self) -> int | None:
        """The offset before it, if that is known."""


Item = TypeVar("Item", bound=Numbered)

GapCause = Literal["history_expired", "epoch_changed", "broker_lost"]


class Gap(NamedTuple):
    """Something of a log was lost before `position`, from where on nothing is missing."""

    cause: GapCause
    position: Position


WAITING = 1024
"""Entries that are kept while an earlier part is read; beyond that they are read as well."""


class Follower(Generic[Item]):
    """Makes one unbroken sequence of what a log delivers, live and by reading: nothing twice, nothing left out.

    Feed it with `offer`. When it `wants` something, read the log behind that position and give it to `fill`, until
    it wants nothing more. Both return what comes next, in order.
    """

    __slots__ = ("_waiting", "position", "wants")

    def __init__(self, position: Position) -> None:
        self.position = position
        """Everything up to here has been returned, or was told to be lost."""
        self.wants: Position | None = None
        """Behind this position something is missing."""
        self._waiting: deque[Item] | None = None

    def offer(self, item: Item) -> bool:
        """Something arrived. Whether it is what comes next; if not, it is old, or waits for what is missing."""
        place = item.position
        if place is None:
            return True
        if self.wants is None:
            if place.epoch == self.position.epoch:
                if place.offset <= self.position.offset:
                    return False
                # 0 is said of a log that was empty: what it held had expired, after it was delivered here.
                if item.previous is not None and item.previous <= self.position.offset:
                    self.position = place
                    return True
            self.wants = self.position
            self._waiting = deque()
        waiting = self._waiting
        assert waiting is not None
        waiting.append(item)
        if len(waiting) > WAITING:
            waiting.popleft()
        return False

    def lost_touch(self) -> None:
        """The way from the log was broken: what comes next may not be what was said next."""
        if self.wants is None:
            self.wants = self.position
            self._waiting = deque()

    def fill(self, items: Iterable[Item], head: Position, *, complete: bool) -> tuple[list[Item], Gap | None]:
        """What was read behind `wants`. What comes next, and what was lost before it."""
        assert self.wants is not None
        gap: Gap | None = None
        found: list[Item] = []
        if not complete:
            if head.epoch != self.position.epoch and self.wants.epoch != head.epoch:
                self.wants = Position(head.epoch, 0)  # another life began: read it from its beginning
                return [], None
            cause: GapCause = "history_expired" if head.epoch == self.position.epoch else "epoch_changed"
            self.position = head
            gap = Gap(cause, head)
        else:
            if self.wants.epoch != self.position.epoch:
                gap = Gap("epoch_changed", self.wants)
                self.position = self.wants
            for item in items:
                if item.position is not None and item.position.offset > self.position.offset:
                    self.position = item.position
                    found.append(item)
        if self.position.offset < head.offset and found:
            self.wants = self.position
            return found, gap
        self._splice(found)
        return found, gap

    def _splice(self, found: list[Item]) -> None:
        """What arrived meanwhile follows, as far as it does."""
        waiting = self._waiting
        assert waiting is not None
        foreign = False
        while waiting:
            item = waiting[0]
            place = item.position
            assert place is not None
            if place.epoch != self.position.epoch:
                foreign = True  # of a life before this one, or behind it: reading on will show
            elif place.offset > self.position.offset:
                if item.previous is None or item.previous > self.position.offset:
                    self.wants = self.position
                    return
                self.position = place
                found.append(item)
            waiting.popleft()
        self.wants = self.position if foreign else None
        if not foreign:
            self._waiting = None
