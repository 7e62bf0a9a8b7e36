"""The logs of all rooms in one partition, as a machine: fed with its records in order, every node has the same.

A record that repeats the id of one that its room's log still has is passed over. What a log has is bounded by the
`History` that its newest record brought along, with the records' own timestamps as the time, which never goes back
here. Places are Kafka's offsets plus one, so that 0 is before the first.

A replay need not begin with the partition's first record: all that is left from before `MARGIN` seconds before the
longest time to live makes no difference, unless a publication is sent again later than that.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from aquilia.sockets.history import History

__all__ = ["MARGIN", "Kept", "Part", "Replay", "Stored"]

MARGIN = 60.0
"""Seconds by which a replay begins before what it has to have. A repeat comes within that time of its first."""


class Kept:
    """What a log has of one publication."""

    __slots__ = ("at", "data", "id", "place", "previous", "size")

    def __init__(self, place: int, previous: int, at: float, id: bytes, data: bytes) -> None:
        self.place = place
        self.previous = previous
        """The place of the one before it, 0 if none is known of."""
        self.at = at
        self.id = id
        self.data: bytes | None = data
        """None once it was let go of to save memory: then Kafka still has it."""
        self.size = len(data)


class Stored(NamedTuple):
    """What became of one record."""

    place: int
    """That of the first with its id."""
    entry: Kept | None
    """None: it is a repeat."""


class Part(NamedTuple):
    """What was read of a room's log."""

    entries: Sequence[Kept]
    head: int
    complete: bool
    """Nothing behind the place that was asked for is lost. Where it is not, there are no entries."""


class _Room:
    __slots__ = ("bytes", "entries", "history", "ids", "last", "lost")

    def __init__(self, history: History, lost: int) -> None:
        self.history = history
        self.entries: deque[Kept] = deque()
        self.ids: dict[bytes, int] = {}
        self.bytes = 0
        self.last = 0
        """The newest place, still there or not."""
        self.lost = lost
        """The newest that the bounds, or `forget`, have let go of; up to here it may have had anything."""


class Replay:
    """See the head of this module. `start` is the place before the first record that it will be fed with."""

    def __init__(self, start: int, life: str = "") -> None:
        self.place = start
        """That of the newest record, whatever it was."""
        self.life = life
        """The epoch; "" while there is none."""
        self.time = 0.0
        """Of the newest record, in seconds since 1970."""
        self.bytes = 0
        """Of what it holds the data of."""
        self._floor = start
        """Nothing is known of rooms that are not here, up to this place."""
        self._rooms: dict[bytes, _Room] = {}
        self._loaded: OrderedDict[bytes, _Room] = OrderedDict()
        """Those with data, least lately written first."""

    def __len__(self) -> int:
        return len(self._rooms)

    # Records, in order

    def store(self, place: int, at: float, key: bytes, id: bytes, history: History, data: bytes) -> Stored:
        """A publication into a room."""
        self._pass(place, at)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = _Room(history, self._floor)
        room.history = history
        self._expire(room, self.time)
        known = room.ids.get(id)
        if known is not None:
            return Stored(known, None)
        entry = Kept(place, room.last, self.time, id, data)
        room.entries.append(entry)
        room.ids[id] = room.last = place
        room.bytes += entry.size
        self.bytes += entry.size
        self._loaded[key] = room
        self._loaded.move_to_end(key)
        while len(room.entries) > history.size or (room.bytes > history.max_bytes and len(room.entries) > 1):
            self._drop_oldest(room)
        return Stored(place, entry)

    def forget(self, place: int, at: float, key: bytes) -> int:
        """The mark that a room's log is emptied. How many entries that was."""
        self._pass(place, at)
        room = self._rooms.get(key)
        if room is None:
            return 0
        self._expire(room, self.time)
        gone = len(room.entries)
        while room.entries:
            self._drop_oldest(room)
        return gone

    def begin(self, place: int, at: float, life: str, behind: str) -> bool:
        """The mark that the life `life` follows the one called `behind`. Whether it does: of several, the first."""
        self._pass(place, at)
        if behind != self.life or not life:
            return False
        self.life = life
        return True

    def skip(self, place: int, at: float) -> None:
        """A record that is none of ours."""
        self._pass(place, at)

    def _pass(self, place: int, at: float) -> None:
        if place <= self.place:
            raise ValueError(f"the record at {place} comes behind that at {self.place}")
        self.place = place
        self.time = max(self.time, at)

    # What there is

    def head(self, key: bytes) -> int:
        """A room's newest place; in one that has none, a place before all that it will have."""
        room = self._rooms.get(key)
        return room.last if room is not None and room.last else self.place

    def count(self, key: bytes, now: float) -> int:
        """How many entries a room has."""
        return len(self.read(key, None, 1 << 53, now).entries)

    def read(self, key: bytes, since: int | None, limit: int, now: float) -> Part:
        """The first `limit` entries behind the place `since`; without one, the newest `limit`."""
        room, head = self._rooms.get(key), self.head(key)
        if since is not None and since > self.place:
            return Part((), head, False)
        if room is None:
            return Part((), head, since is None or since >= self._floor)
        gone, lost = 0, room.lost
        oldest = max(now, self.time) - room.history.ttl
        for entry in room.entries:
            if entry.at > oldest:
                break
            gone, lost = gone + 1, entry.place
        if since is None:
            return Part(list(islice(room.entries, max(gone, len(room.entries) - limit), None)), head, True)
        if since < lost:
            return Part((), head, False)
        behind = (entry for entry in islice(room.entries, gone, None) if entry.place > since)
        return Part(list(islice(behind, limit)), head, True)

    # Bounds

    def sweep(self, now: float, needed: Callable[[bytes], bool]) -> None:
        """Forget rooms in which nothing is left and that nobody needs, by the time `now`, less `MARGIN`."""
        time = max(self.time, now - MARGIN)
        for key, room in list(self._rooms.items()):
            self._expire(room, time)
            if not room.entries:
                self._loaded.pop(key, None)
                if not needed(key):
                    self._floor = max(self._floor, room.last)
                    del self._rooms[key]

    def shed(self, most: int) -> None:
        """Let go of data, of the rooms least lately written first, until no more than so many bytes are held."""
        while self.bytes > most and self._loaded:
            _, room = self._loaded.popitem(last=False)
            for entry in room.entries:
                if entry.data is not None:
                    self.bytes -= entry.size
                    entry.data = None

    def _expire(self, room: _Room, time: float) -> None:
        oldest = time - room.history.ttl
        while room.entries and room.entries[0].at <= oldest:
            self._drop_oldest(room)

    def _drop_oldest(self, room: _Room) -> None:
        entry = room.entries.popleft()
        del room.ids[entry.id]
        room.bytes -= entry.size
        room.lost = entry.place
        if entry.data is not None:
            self.bytes -= entry.size
