"""Which rooms a client is in, and how far it has read each of their logs."""

from __future__ import annotations

from typing import Any

from aquilia.client.notices import Gap, Left, Position, Recovery

__all__ = ["DIRECT", "Positions", "losses"]

DIRECT = ""
"""The name of the log of what is sent to this client directly."""


class Positions:
    """The rooms, each with a position where it keeps history. Within an epoch a position never goes back."""

    def __init__(self) -> None:
        self._at: dict[str, Position | None] = {}

    @property
    def rooms(self) -> dict[str, Position | None]:
        """A copy, without the direct log."""
        return {room: position for room, position in self._at.items() if room != DIRECT}

    def asked(self) -> dict[str, Any]:
        """What `resume` in `hello` tells: the rooms that have a position."""
        return {
            room: {"epoch": position.epoch, "offset": position.offset}
            for room, position in self._at.items()
            if position is not None
        }

    def joined(self, room: str, position: Position | None) -> None:
        """Be in a room. What has been read of the same epoch is not read again, and nothing behind it skipped."""
        known = self._at.get(room)
        if known is None or (position is not None and position.epoch != known.epoch):
            self._at[room] = position

    def left(self, room: str) -> None:
        """Forget a room."""
        self._at.pop(room, None)

    def pass_by(self, room: str, position: Position) -> bool:
        """Take a message at a position. False: it was there before. Only rooms that were joined are remembered."""
        known = self._at.get(room)
        if known is not None and known.epoch == position.epoch and position.offset <= known.offset:
            return False
        if room in self._at or room == DIRECT:
            self._at[room] = position
        return True

    def skip(self, room: str, position: Position | None) -> None:
        """Go on behind a gap, where the server says."""
        if position is not None:
            self.pass_by(room, position)

    def resumed(self, rooms: dict[str, Recovery], *, anew: bool = False) -> list[str]:
        """Take over what the server made of this client's rooms; those that it did not bring back, in order.

        A session that begins `anew` is in no room, whatever is told of them.
        """
        before, self._at = self._at, {}
        for room, recovery in rooms.items():
            if recovery.recovered:
                self._at[room] = _later(before.get(room), recovery.position)
            elif not anew or room == DIRECT:
                # Also if that is before what was seen: this is how far the log goes now.
                self._at[room] = recovery.position
        return [room for room in before if room not in self._at]


def _later(known: Position | None, told: Position | None) -> Position | None:
    if known is None or told is None:
        return told or known
    return known if known.epoch == told.epoch and known.offset > told.offset else told


def losses(rooms: dict[str, Recovery], lost: list[str]) -> list[Gap | Left]:
    """What the user is told behind a reconnection: what was not recovered, and which rooms it brought not back."""
    news: list[Gap | Left] = [
        Gap(cause="not_recovered", room=room, position=recovery.position)
        for room, recovery in rooms.items()
        if not recovery.recovered
    ]
    for room in lost:
        gone = Gap(cause="not_recovered", room=room) if room == DIRECT else Left(room=room, resumed=False)
        news.append(gone)
    return news
