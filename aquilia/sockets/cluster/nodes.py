"""The nodes of an application, as one of them knows them: who lives, who leaves, who has died. Pure: the time, in
seconds, is passed in.

Each node tells all that it lives, itself included: once in a `BEAT`. One that was not heard for a `LEASE` is dead.
Whoever does not hear itself is out of touch, and knows nothing of the others: it takes nobody for dead, and once it
hears itself again they have a whole lease. So neither a frozen process nor a lost broker makes others seem dead. One
that was out of touch for longer than a lease may have missed what it was told, and been taken for dead: it says so,
by a higher `life`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

import msgspec

__all__ = ["BEAT", "LEASE", "VERSION", "Happening", "Node", "Nodes"]

VERSION = 1
"""Of all that nodes tell each other. What is added at the end of a message is no new one."""
BEAT = 1.0
"""Seconds between two beats of a node."""
LEASE = 4.0
"""Seconds after its last beat at which a node is dead."""
TOUCH = 2 * BEAT
"""Seconds for which a node may not hear itself, and is in touch all the same."""
MAX_NODES = 1000
"""More are not known: whoever can write to the broker could fill the memory with them."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Node(msgspec.Struct, frozen=True, array_like=True):
    """What a node tells of itself with each beat."""

    version: int
    id: Name
    """Of this start: a process that is started again is another node."""
    number: int
    """Of the beat: a late one says nothing new."""
    life: int
    """How often it was out of touch for longer than a lease."""
    phase: Literal["live", "leaving", "left"]
    started: float
    """Seconds since 1970, by its own clock."""
    host: Annotated[str, msgspec.Meta(max_length=256)]
    pid: int
    fingerprint: Annotated[str, msgspec.Meta(max_length=128)]
    """Of its registry: nodes with the same declare the same."""
    connections: int
    awaited: float = 0.0
    """Seconds for which its clients are to be awaited elsewhere, once it is leaving."""


class Happening(NamedTuple):
    """What became of a node."""

    node: str
    what: Literal["came", "leaving", "left", "died"]
    """One that `came` while it was there has been out of touch: what it was told meanwhile, it may not know."""


class _Known:
    __slots__ = ("heard", "told")

    def __init__(self, told: Node, heard: float) -> None:
        self.told = told
        self.heard = heard


class Nodes:
    """The others, as the node `me` knows them."""

    def __init__(self, me: str, now: float) -> None:
        self.me = me
        self.life = 0
        """To be told with each beat."""
        self._number = 0
        self._touched = now
        self._known: dict[str, _Known] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        """The last beats of those that have gone: what comes late does not bring them back."""

    @property
    def others(self) -> Mapping[str, Node]:
        """Who lives, with what it told last."""
        return MappingProxyType({id: known.told for id, known in self._known.items()})

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def __len__(self) -> int:
        return len(self._known)

    def heard(self, beat: Node, now: float) -> list[Happening]:
        """A beat came, from whomever.

        Raises:
            ValueError: it is of one node too many.
        """
        if beat.id == self.me:
            self._hear_myself(beat, now)
            return []
        known = self._known.get(beat.id)
        last = self._gone.get(beat.id, 0) if known is None else known.told.number
        if beat.number <= last:
            return []
        if beat.phase == "left":
            return self._part(beat)
        if known is None and len(self._known) >= MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} nodes")
        self._gone.pop(beat.id, None)
        self._known[beat.id] = _Known(beat, now)
        return list(_told(beat, None if known is None else known.told))

    def _part(self, beat: Node) -> list[Happening]:
        was_there = self._known.pop(beat.id, None) is not None
        self._forget(beat)
        return [Happening(beat.id, "left")] if was_there else []

    def _hear_myself(self, beat: Node, now: float) -> None:
        if beat.number <= self._number:
            return
        self._number = beat.number
        away = now - self._touched
        self._touched = now
        if away > TOUCH:
            for known in self._known.values():
                known.heard = now
        if away > LEASE:
            self.life += 1

    def check(self, now: float) -> list[Happening]:
        """Look who has died. To be called at least once in a `BEAT`."""
        if now - self._touched > TOUCH:
            return []
        dead = [known.told for known in self._known.values() if now - known.heard > LEASE]
        for told in dead:
            del self._known[told.id]
            self._forget(told)
        return [Happening(told.id, "died") for told in dead]

    def _forget(self, last: Node) -> None:
        self._gone[last.id] = last.number
        self._gone.move_to_end(last.id)
        if len(self._gone) > MAX_NODES:
            self._gone.popitem(last=False)


def _told(beat: Node, before: Node | None) -> Iterator[Happening]:
    if before is None or beat.life > before.life:
        yield Happening(beat.id, "came")
    if beat.phase == "leaving" and (before is None or before.phase != "leaving"):
        yield Happening(beat.id, "leaving")
