"""The heartbeat wheel: who is due for a ping, so that one timer serves all connections.

Pure: whoever owns it calls `turn` at even intervals; after as many calls as it has slots, everyone was due once.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["HeartbeatWheel"]

T = TypeVar("T", bound=Hashable)


class HeartbeatWheel(Generic[T]):
    """Spreads its members over its slots; members are told apart by identity or equality."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a wheel has at least one slot, not {slots}")
        self._slots: list[dict[T, None]] = [{} for _ in range(slots)]
        self._places: dict[T, int] = {}
        self._spread = 0
        self._at = 0

    def __len__(self) -> int:
        return len(self._places)

    def add(self, member: T) -> None:
        """Add a member. It is due for the first time in the last quarter of a full round."""
        if member in self._places:
            return
        # Many that come at once are not to be due at once for ever after.
        self._spread = (self._spread + 1) % max(1, len(self._slots) // 4)
        place = (self._at - 1 - self._spread) % len(self._slots)
        self._slots[place][member] = None
        self._places[member] = place

    def remove(self, member: T) -> None:
        """Take a member out; one that is not there is no error."""
        place = self._places.pop(member, None)
        if place is not None:
            del self._slots[place][member]

    def behind(self, turns: int) -> list[T]:
        """The members that were due so many turns before the next; 0: those that are due then."""
        return list(self._slots[(self._at - turns) % len(self._slots)])

    def turn(self) -> list[T]:
        """The members that are due now."""
        due = list(self._slots[self._at])
        self._at = (self._at + 1) % len(self._slots)
        return due
