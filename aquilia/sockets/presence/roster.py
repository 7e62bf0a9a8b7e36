"""The roster: who is in one room over all nodes, as one of them knows it. Pure: times are passed in.

There is one entry for each identity, however many connections it has, on whatever nodes. A node tells the others what
has changed among its own, numbered without holes. Whoever finds a hole asks that node for its whole state, which says
up to which number it goes. What is late or comes twice has a number that is known, and changes nothing.

A leave is told only when it has lasted: who is back before has not been away. What a node that leaves has told stays
until its clients have come back elsewhere, or for as long as it said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from heapq import nsmallest
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from aquilia.sockets.presence.values import Change, Entry, PresencePage, Present, Whole, copied

__all__ = ["Kept", "Look", "Roster"]

MOST = 256
"""Entries that one change has at most."""
MOST_BYTES = 256 << 10
"""Bytes of their metadata, about: a message stays well below what brokers take."""


Kept = tuple[float, dict[str, Any]]
"""Metadata, behind the moment when it was set."""


class Look(NamedTuple):
    """What came of a look at a room."""

    change: Change | None
    """For the other nodes."""
    joins: dict[str, dict[str, Any]]
    """For the members here: who has come, or has other metadata, with that."""
    leaves: dict[str, dict[str, Any]]
    """And who has gone, with the last metadata."""
    more: bool
    """Whether another look is to follow at once."""
    new: Set[str] = frozenset()
    """Those of `joins` who have come."""


class _Tab:
    """A connection of this node."""

    __slots__ = ("id", "meta", "since", "stamp")

    def __init__(self, id: str, since: float) -> None:
        self.id = id
        self.since = since
        self.meta: dict[str, Any] = {}
        self.stamp = 0.0


class _Told:
    """What another node has told."""

    __slots__ = ("entries", "gone", "life", "number", "until")

    def __init__(self, life: int, number: int) -> None:
        self.life = life
        self.number = number
        self.entries: dict[str, Entry] = {}
        self.until: float | None = None
        """Of a node that is leaving: when its clients are awaited no longer."""
        self.gone = False


class Roster:
    """One room, as one node knows it. Moments are seconds of one clock that never goes back; `since` and `stamp` are
    seconds since 1970.
    """

    def __init__(self, life: int, large: int) -> None:
        self.life = life
        self.number = 0
        self.counting = False
        """Whether members are told how many there are, and not who."""
        self.shown: dict[str, dict[str, Any]] = {}
        """Who is there for the members here, with the metadata."""
        self._large = large
        self._tabs: dict[str, _Tab] = {}
        self._by_id: dict[str, dict[str, _Tab]] = {}
        self._held: dict[str, float] = {}
        """Who has gone here, and when that has lasted."""
        self._mine: dict[str, Entry] = {}
        """What this node has told of its own."""
        self._dirty: dict[str, None] = {}
        """Of its own, what may be other than told,"""
        self._touched: dict[str, None] = {}
        """and of all, what may be other than shown."""
        self._told: dict[str, _Told] = {}

    # The connections of this node

    def enter(
        self, connection: str, id: str, time: float, *, again: bool = False, kept: Kept | None = None
    ) -> None:
        """A connection is in the room; one that comes `again` has the metadata that was `kept`, or what is known if
        that is newer: what is kept may be of a while before.
        """
        self.part(connection, 0.0)
        tab = self._tabs[connection] = _Tab(id, time)
        known = self._entry(id) if again or id in self._held else None
        if known is not None:
            tab.since, tab.stamp, tab.meta = min(known.since, time), known.stamp, known.meta
        if kept is not None and kept[0] >= tab.stamp:
            tab.stamp, tab.meta = kept
        self._by_id.setdefault(id, {})[connection] = tab
        self._held.pop(id, None)
        self._dirty[id] = None
        self._came_back(id)

    def part(self, connection: str, until: float) -> None:
        """A connection is in the room no more; it is told as soon as that has lasted `until` a moment."""
        tab = self._tabs.pop(connection, None)
        if tab is None:
            return
        tabs = self._by_id[tab.id]
        del tabs[connection]
        if tabs:
            self._dirty[tab.id] = None
            return
        del self._by_id[tab.id]
        self._dirty.pop(tab.id, None)
        if tab.id in self._mine:
            self._held[tab.id] = until

    def update(self, connection: str, meta: dict[str, Any], time: float) -> bool:
        """A connection has other metadata. False: it is not in the room."""
        tab = self._tabs.get(connection)
        if tab is None:
            return False
        newest = max(each.stamp for each in self._by_id[tab.id].values())
        tab.meta, tab.stamp = meta, max(time, newest + 1e-6)
        self._dirty[tab.id] = None
        return True

    def id_of(self, connection: str) -> str | None:
        """Under which id a connection is in the room."""
        tab = self._tabs.get(connection)
        return None if tab is None else tab.id

    def meta_of(self, connection: str) -> Kept | None:
        """The metadata that a connection has set."""
        tab = self._tabs.get(connection)
        return (tab.stamp, tab.meta) if tab is not None and tab.stamp else None

    @property
    def local(self) -> int:
        """How many connections of this node are in the room."""
        return len(self._tabs)

    def _own(self, id: str) -> Entry | None:
        """The present entry of this node."""
        tabs = self._by_id.get(id)
        if not tabs:
            mine = self._mine.get(id) if id in self._held else None
            return mine and Entry(id, mine.meta, mine.since, mine.stamp, 0)
        newest = max(tabs.values(), key=lambda tab: tab.stamp)
        mine = self._mine.get(id)
        since = min(tab.since for tab in tabs.values())
        since = since if mine is None else min(since, mine.since)
        return Entry(id, newest.meta, since, newest.stamp, len(tabs))

    # The other nodes

    def heard(self, node: str, change: Change) -> bool:
        """Another node tells of a change. False: something before it is missing, and is to be asked for."""
        told = self._told.get(node)
        if told is not None and (change.life, change.number) <= (told.life, told.number):
            return True
        follows = (
            told is not None and change.life == told.life and change.number == told.number + 1
        ) or change.number == 1
        if not follows:
            return False
        if told is None or told.life != change.life:
            told = self._begin(node, change.life)
        told.number = change.number
        for entry in change.put:
            told.entries[entry.id] = entry
            self._touched[entry.id] = None
            self._came_back(entry.id, but=node)
        for id in change.gone:
            if told.entries.pop(id, None) is not None:
                self._touched[id] = None
        return True

    def learn(self, node: str, whole: Whole, until: float | None = None) -> None:
        """Another node tells all that it has. One that is leaving has those yet who are elsewhere by now; its clients
        are awaited `until` a moment.
        """
        told = self._told.get(node)
        if told is not None and (whole.life, whole.number) < (told.life, told.number):
            return
        told = self._begin(node, whole.life)
        told.number = whole.number
        told.entries = {entry.id: entry for entry in whole.entries}
        if until is not None:
            told.until = until
            here = self._by_id.keys() | {
                id for each in self._told.values() if each.until is None for id in each.entries
            }
            for id in told.entries.keys() & here:
                del told.entries[id]
        self._touched |= dict.fromkeys(told.entries)
        for id in told.entries:
            self._came_back(id, but=node)

    def _begin(self, node: str, life: int) -> _Told:
        before = self._told.get(node)
        told = self._told[node] = _Told(life, 0)
        if before is not None:
            told.until = before.until
            self._touched |= dict.fromkeys(before.entries)
        return told

    def _came_back(self, id: str, but: str | None = None) -> None:
        """Whoever comes is awaited no longer."""
        for node, told in self._told.items():
            if told.until is not None and node != but and told.entries.pop(id, None) is not None:
                self._touched[id] = None

    def leaving(self, node: str, until: float) -> None:
        """A node leaves: its clients are awaited elsewhere."""
        if (told := self._told.get(node)) is not None:
            told.until = until

    def lose(self, node: str, now: float) -> None:
        """A node has left, or died."""
        told = self._told.get(node)
        if told is None:
            return
        if told.until is not None and told.until > now and told.entries:
            told.gone = True
        else:
            del self._told[node]
            self._touched |= dict.fromkeys(told.entries)

    def whole(self) -> Whole:
        """What this node has told of its own, for one that asks."""
        return Whole(self.life, self.number, list(self._mine.values()))

    # Looks

    def look(self, now: float) -> Look:
        """What has changed since the last look, a bounded part of it."""
        self._expire(now)
        change = self._tell()
        joins: dict[str, dict[str, Any]] = {}
        leaves: dict[str, dict[str, Any]] = {}
        new = set()
        for id in [*islice(self._touched, MOST)]:
            del self._touched[id]
            entry = self._merged(id, [told.entries for told in self._told.values()], self._mine.get(id))
            before = self.shown.get(id)
            if entry is None and before is not None:
                leaves[id] = self.shown.pop(id)
            elif entry is not None and entry.meta != before:
                joins[id] = self.shown[id] = entry.meta
                if before is None:
                    new.add(id)
        more = bool(self._dirty or self._touched)
        size = len(self.shown)
        if size > self._large:
            self.counting = True
        elif not more and size <= self._large * 4 // 5:
            self.counting = False
        return Look(change, joins, leaves, more, new)

    def nothing(self) -> Change:
        """No change, which shows those who have missed one that they have."""
        self.number += 1
        return Change(self.life, self.number, [], [])

    @property
    def waits(self) -> bool:
        """Whether a later look may find something."""
        return bool(
            self._dirty or self._touched or self._held or any(told.gone for told in self._told.values())
        )

    @property
    def idle(self) -> bool:
        """Whether nobody of this node is in the room, or is still said to be."""
        return not self._tabs and not self._mine

    def _expire(self, now: float) -> None:
        for id in [id for id, until in self._held.items() if until <= now]:
            del self._held[id]
            self._dirty[id] = None
        for node in [node for node, told in self._told.items() if told.gone]:
            self.lose(node, now)

    def _tell(self) -> Change | None:
        put, gone, size = [], [], 0
        for id in [*islice(self._dirty, MOST)]:
            if size > MOST_BYTES:
                break
            del self._dirty[id]
            entry, mine = self._own(id), self._mine.get(id)
            if entry is not None and entry != mine:
                self._mine[id] = entry
                put.append(entry)
                size += len(msgspec.json.encode(entry))
            elif entry is None and mine is not None:
                del self._mine[id]
                gone.append(id)
            self._touched[id] = None
        if not put and not gone:
            return None
        self.number += 1
        return Change(self.life, self.number, put, gone)

    def _entry(self, id: str) -> Entry | None:
        return self._merged(id, [told.entries for told in self._told.values()], self._own(id))

    def _merged(self, id: str, told: Sequence[Mapping[str, Entry]], own: Entry | None) -> Entry | None:
        entries = [entry for entries in told if (entry := entries.get(id)) is not None]
        if own is not None:
            entries.append(own)
        if len(entries) < 2:
            return entries[0] if entries else None
        # Equal stamps are told apart by what is the same on all nodes.
        newest = max(
            entries, key=lambda entry: (entry.stamp, msgspec.json.encode(entry.meta, order="sorted"))
        )
        since = min(entry.since for entry in entries)
        return Entry(id, newest.meta, since, newest.stamp, sum(entry.connections for entry in entries))

    # Who is there

    def page(self, limit: int, after: str | None) -> PresencePage:
        """Who is there now."""
        ids = {id for told in self._told.values() for id in told.entries}
        ids.update(self._by_id, self._held)
        behind = ids if after is None else (id for id in ids if id > after)
        first = nsmallest(limit + 1, behind)
        rest = first.pop() if len(first) > limit else None
        return PresencePage(len(ids), list(self._present(first)), first[-1] if rest is not None else None)

    def _present(self, ids: Sequence[str]) -> Iterator[Present]:
        for id in ids:
            entry = self._entry(id)
            if entry is not None:
                connections = sum(
                    told.entries[id].connections
                    for told in self._told.values()
                    if id in told.entries and not told.gone
                )
                own = self._own(id)
                yield Present(
                    id, copied(entry.meta), entry.since, connections + (own.connections if own else 0)
                )
