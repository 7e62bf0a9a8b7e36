"""What the members of a room here are told of who is present.

Each has the state with the first look behind its coming, itself included, and from there on what changes. Whoever
does not read for a while is left out, and has the state anew when it reads again: a `count`, which takes the place of
all that it knew, and the entries behind that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
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

    __slots__ = (
        "_counted", "_counted_at", "_due", "_entries", "_late", "_members", "_room", "_roster", "_stopwatch",
    )  # fmt: skip

    def __init__(self, room: str, roster: Roster, stopwatch: Callable[[], float]) -> None:
        self._room = room
        self._roster = roster
        self._stopwatch = stopwatch
        self._members: dict[Connection, None] = {}
        self._late: dict[Connection, bool] = {}
        """Those who have to be told the state, and whether that is in the place of what they knew."""
        self._due: dict[Connection, bool] = {}
        """Those of them who are told it with this look."""
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
        """A member is to be told the state, for the first time or in the place of what it knew."""
        if conn._profile.v1 and conn._close is None:
            self._members[conn] = None
            self._late[conn] = again

    def forget(self, conn: Connection) -> None:
        """It is not there any more."""
        for members in (self._members, self._late, self._due):
            members.pop(conn, None)

    def look(self, whole: bool) -> None:
        """What is told next has all who are in the room now: who waits for the state has it, if it is the `whole`."""
        self._due = dict(self._late) if whole else {}

    async def tell(self, joins: Metas, leaves: Metas, now: float) -> tuple[int, int, int]:
        """Tell the members of a change: of so many that came, and left, in so many frames, but for the state's."""
        counted, size = self._counted, len(self._roster.shown)
        if not self._roster.counting:
            self._counted = None
        elif counted is None or self._is_worth_telling(size, counted, now):
            self._counted, self._counted_at = size, now
        if joins or leaves or counted != self._counted:
            self._entries.clear()
        members = [conn for conn in self._members if conn not in self._late]
        if self._counted is not None:
            payloads = [] if counted == self._counted else [{"room": self._room, "count": size}]
        elif counted is not None:  # it is small again
            self._late |= dict.fromkeys(members, True)
            self._due |= dict.fromkeys(members, True)
            payloads = []
        else:
            payloads = list(self._payloads(joins, leaves))
        sent = await self._send(members, payloads) if payloads else 0
        async for conn in self._in_turns(list(self._due)):
            if conn in self._due and not conn._blocked:
                conn._push_all(self._state(conn, again=self._late.pop(conn)))
        return len(joins), len(leaves), sent

    def _is_worth_telling(self, size: int, counted: int, now: float) -> bool:
        """A count of many is told at once if it is quite another one, else now and then."""
        return abs(size - counted) * 10 > counted or (now - self._counted_at) * COUNTED >= size

    async def _send(self, members: list[Connection], payloads: list[dict[str, Any]]) -> int:
        frames: dict[Variant, list[bytes]] = {}
        sent = 0
        async for conn in self._in_turns(members):
            if conn not in self._members or conn in self._late:  # it may have gone, and be back
                continue
            if conn._blocked:
                self._late[conn] = True
                continue
            known = frames.get(conn._variant)
            if known is None:
                known = frames[conn._variant] = [_frame(conn, payload) for payload in payloads]
            conn._push_all(known)
            sent += len(known)
        return sent

    async def _in_turns(self, members: list[Connection]) -> AsyncIterator[Connection]:
        ends = self._stopwatch() + SLICE
        for number, conn in enumerate(members):
            if number % CLOCK_EVERY == CLOCK_EVERY - 1 and self._stopwatch() >= ends:
                await asyncio.sleep(0)
                ends = self._stopwatch() + SLICE
            yield conn

    def _state(self, conn: Connection, *, again: bool) -> list[bytes]:
        """A count is what all others were told last: so it comes to nobody twice."""
        known = self._entries.get(conn._variant)
        if known is None:
            count = len(self._roster.shown) if self._counted is None else self._counted
            payloads: list[dict[str, Any]] = [{"room": self._room, "count": count}]
            if self._counted is None:
                payloads += self._payloads(self._roster.shown, {})
            known = self._entries[conn._variant] = [_frame(conn, payload) for payload in payloads]
        return known if again or self._counted is not None else known[1:]

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
