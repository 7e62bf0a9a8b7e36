"""What the members of a room here are told of who is present.

Each has the present state first, and from there on what changes. Whoever does not read for a while is left out, and
has the state anew when it reads again: a `count`, which takes the place of all that it knew, and the entries behind
that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.outbound import Outbound, Variant
from aquilia.sockets.presence.roster import Roster

__all__ = ["SLICE", "Showing"]

SLICE = 0.004
"""Seconds of the loop's turn that are taken at most,"""
CLOCK_EVERY = 64
"""and after how many members that is looked at."""
FRAME_BYTES = 32 << 10
"""Bytes of entries that one frame has, about."""

COUNTED = 1000
"""Members to whom a count is sent in a second, about."""

Metas = Mapping[str, Mapping[str, Any]]


class Showing:
    """The members of one room that are told."""

    __slots__ = ("_counted", "_counted_at", "_entries", "_late", "_members", "_room", "_roster", "_stopwatch")

    def __init__(self, room: str, roster: Roster, stopwatch: Callable[[], float]) -> None:
        self._room = room
        self._roster = roster
        self._stopwatch = stopwatch
        self._members: dict[Connection, None] = {}
        self._late: dict[Connection, None] = {}
        """Those who have to be told the state anew."""
        self._counted: int | None = None
        """How many there were when that was told last; None where entries are told."""
        self._counted_at = 0.0
        self._entries: dict[Variant, list[bytes]] = {}
        """The frames of the state, until it changes."""

    @property
    def waits(self) -> bool:
        """Whether somebody has to be told later."""
        return bool(self._late) or self._counted not in (None, len(self._roster.shown))

    def greet(self, conn: Connection, *, again: bool = False) -> None:
        """Tell a member the state, for the first time or in the place of what it knew."""
        if not conn._profile.v1 or conn._close is not None:
            return
        self._members[conn] = None
        self._late.pop(conn, None)
        if again or self._counted is not None:
            conn._push_all([_frame(conn, {"room": self._room, "count": len(self._roster.shown)})])
        if self._counted is None:
            conn._push_all(self._state(conn))

    def forget(self, conn: Connection) -> None:
        """It is not there any more."""
        self._members.pop(conn, None)
        self._late.pop(conn, None)

    async def tell(self, joins: Metas, leaves: Metas, now: float) -> tuple[int, int, int]:
        """Tell the members of a change: of so many that came, and left, in so many frames, but for the state's."""
        counted, size = self._counted, len(self._roster.shown)
        if not self._roster.counting:
            self._counted = None
        elif counted is None or self._is_worth_telling(size, counted, now):
            self._counted, self._counted_at = size, now
        if joins or leaves or counted != self._counted:
            self._entries.clear()
        late, self._late = self._late, {}
        members = [conn for conn in self._members if conn not in late]
        if self._counted is not None:
            payloads = [] if counted == self._counted else [{"room": self._room, "count": size}]
        elif counted is not None:  # it is small again
            late |= dict.fromkeys(members)
            payloads = []
        else:
            payloads = list(self._payloads(joins, leaves))
        sent = await self._send(members, payloads) if payloads else 0
        for conn in late:
            if conn in self._members:
                if conn._blocked:
                    self._late[conn] = None
                else:
                    self.greet(conn, again=True)
        return len(joins), len(leaves), sent

    def _is_worth_telling(self, size: int, counted: int, now: float) -> bool:
        """A count of many is told at once if it is quite another one, else now and then."""
        return abs(size - counted) * 10 > counted or (now - self._counted_at) * COUNTED >= size

    async def _send(self, members: list[Connection], payloads: list[dict[str, Any]]) -> int:
        frames: dict[Variant, list[bytes]] = {}
        ends = self._stopwatch() + SLICE
        sent = 0
        for number, conn in enumerate(members):
            if number % CLOCK_EVERY == CLOCK_EVERY - 1 and self._stopwatch() >= ends:
                await asyncio.sleep(0)
                ends = self._stopwatch() + SLICE
            if conn not in self._members:
                continue
            if conn._blocked:
                self._late[conn] = None
                continue
            known = frames.get(conn._variant)
            if known is None:
                known = frames[conn._variant] = [_frame(conn, payload) for payload in payloads]
            conn._push_all(known)
            sent += len(known)
        return sent

    def _state(self, conn: Connection) -> list[bytes]:
        known = self._entries.get(conn._variant)
        if known is None:
            payloads = list(self._payloads(self._roster.shown, {})) or [
                {"room": self._room, "joins": {}, "leaves": {}}
            ]
            known = self._entries[conn._variant] = [_frame(conn, payload) for payload in payloads]
        return known

    def _payloads(self, joins: Metas, leaves: Metas) -> Iterator[dict[str, Any]]:
        """A change, in parts of a bounded size."""
        part: dict[str, dict[str, Any]] = {"joins": {}, "leaves": {}}
        size = 0
        for kind, metas in (("leaves", leaves), ("joins", joins)):
            for id, meta in metas.items():
                part[kind][id] = meta
                size += len(id) + len(msgspec.json.encode(meta))
                if size >= FRAME_BYTES:
                    yield {"room": self._room, **part}
                    part, size = {"joins": {}, "leaves": {}}, 0
        if size:
            yield {"room": self._room, **part}


def _frame(conn: Connection, payload: dict[str, Any]) -> bytes:
    return Outbound._encode(conn, MessageEnvelope(type="system", event="presence", payload=payload))
