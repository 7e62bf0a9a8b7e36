"""Presence: which rooms tell who is in them, what users are told of it, and what nodes tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from aquilia.sockets.history import fits

__all__ = ["Change", "Difference", "Entry", "Presence", "PresencePage", "Present", "Whole", "copied"]

META_BYTES = 16 << 10
"""A room whose entries have more metadata each would not get through brokers."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Which rooms tell who is in them: `@Socket(path, presence=Presence(rooms=("team:*",), large=500))`.

    `rooms` are patterns, with `*` for any characters. Rooms of more than `large` entries tell their members how many
    there are, and not who. An entry has at most `meta_bytes` bytes of metadata, as JSON.

    Raises:
        ValueError: for no pattern, or a bound that cannot be.
        TypeError: for what is no pattern or number.
    """

    rooms: tuple[str, ...] = ("*",)
    large: int = 500
    meta_bytes: int = 1024

    def __post_init__(self) -> None:
        rooms: Any = self.rooms
        if isinstance(rooms, str) or not isinstance(rooms, Sequence):
            raise TypeError(f"Presence: rooms: a list of room patterns is needed, not {rooms!r}")
        if not rooms or not all(isinstance(pattern, str) and pattern for pattern in rooms):
            raise ValueError(f"Presence: rooms: patterns like 'team:*' are needed, not {rooms!r}")
        object.__setattr__(self, "rooms", tuple(rooms))
        for name, most in (("large", 10_000), ("meta_bytes", META_BYTES)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Presence: {name}: a whole number is needed, not {value!r}")
            if not 1 <= value <= most:
                raise ValueError(f"Presence: {name}: at least 1 and at most {most} is needed, not {value!r}")

    def has(self, room: str) -> bool:
        """Whether this room tells who is in it."""
        return any(pattern == "*" or fits(room, pattern) for pattern in self.rooms)


def copied(meta: Any) -> Any:
    """Metadata for users, who may write into it."""
    if isinstance(meta, dict):
        return {key: copied(value) for key, value in meta.items()}
    return [copied(value) for value in meta] if isinstance(meta, list) else meta


@dataclass(frozen=True, slots=True)
class Present:
    """Who is in a room: `id` is that of the identity, or of the connection where there is none."""

    id: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0
    """Seconds since 1970."""
    connections: int = 1
    """How many it has there, on all nodes. 0: it has just lost the last, and may come back."""


@dataclass(frozen=True, slots=True)
class PresencePage:
    """Some of those who are in a room, by their ids."""

    count: int
    """Of all entries."""
    entries: Sequence[Present]
    next: str | None = None
    """What to pass as `after` for those that follow; None: there are none."""


class Difference:
    """What of a room differs from what somebody was told last. Who came and went in between is no part of it."""

    __slots__ = ("joins", "leaves", "new")

    def __init__(self) -> None:
        self.joins: dict[str, dict[str, Any]] = {}
        """Who has come, or has other metadata, with that."""
        self.new: set[str] = set()
        """Those of them who have come."""
        self.leaves: dict[str, dict[str, Any]] = {}
        """Who has gone, with the last metadata."""

    def __bool__(self) -> bool:
        return bool(self.joins or self.leaves)

    def add(
        self, joins: Mapping[str, dict[str, Any]], leaves: Mapping[str, dict[str, Any]], new: Set[str]
    ) -> None:
        """Something has changed since. `new` are those of `joins` who were not there before it."""
        for id, meta in leaves.items():
            self.joins.pop(id, None)
            if id in self.new:
                self.new.discard(id)
            else:
                self.leaves[id] = meta
        for id, meta in joins.items():
            self.joins[id] = meta
            if id in new and self.leaves.pop(id, None) is None:
                self.new.add(id)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An identity in a room, on one node."""

    id: str
    meta: dict[str, Any]
    since: float
    stamp: float
    """When the metadata was set; 0: never."""
    connections: Annotated[int, msgspec.Meta(ge=0)]


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What has changed among the entries of one node."""

    life: int
    """Of the room on that node: each time that it opens there, a higher one."""
    number: Annotated[int, msgspec.Meta(ge=1)]
    """Within that life, from 1."""
    put: list[Entry]
    gone: list[str]


class Whole(msgspec.Struct, frozen=True, array_like=True):
    """All entries of one node, with its changes up to a number."""

    life: int
    number: int
    entries: list[Entry]
