"""What waits for slow clients in the process as a whole, and who gives way when that is too much.

Only connections whose transport takes nothing more are counted, when the loop's turn is over: a client that reads
costs nothing here. A frame that waits for many counts for each of them, though it is in memory once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from aquilia.sockets.history_following import Following
from aquilia.sockets.outbound import Outbound
from aquilia.sockets.outbox.spooling import SpoolingOutbox

__all__ = ["Budget", "SpoolingBudget"]

SLICE = 0.001
"""Seconds that giving way may take from the loop at a stretch: it follows on the writing, which has its own."""


class Budget:
    """The bytes in the outboxes of blocked connections, `limit` at most. One per process.

    From seven eighths of it on, who can read a room's log later is put back to it; beyond it those who hold the
    most give way, down to seven eighths.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._mark = limit - limit // 8
        self._clock = clock
        self._holders: dict[Outbound, None] = {}
        self._warned = False
        self._relieving = False
        self._to_put_back: deque[Outbound] = deque()
        self._turns: Iterator[Outbound] | None = None
        """Whose turn to give way it is, while that is going on."""
        self.total = 0
        """Bytes that wait."""

    def weigh(self, conn: Outbound) -> None:
        """What waits for a connection has changed, or whether it counts has."""
        weight = conn._outbox.waiting_bytes if conn._blocked else 0
        self.total += weight - conn._weight
        if weight:
            self._holders[conn] = None
        elif conn._weight:
            self._holders.pop(conn, None)
        conn._weight = weight

    def keep(self) -> None:
        """Make the largest give way, if it is too much. Called when the loop's turn is over."""
        if self.total <= self._mark:
            self._warned = self._warned and self.total > self._limit // 2
        elif not self._warned:
            self._warned = True
            self._to_put_back.extend(self._holders)
        if (self._to_put_back or self.total > self._limit) and not self._relieving:
            self._relieving = True
            self._relieve()

    def _relieve(self) -> None:
        deadline = self._clock() + SLICE
        for _ in self._steps():
            if self._clock() >= deadline:
                asyncio.get_running_loop().call_soon(self._relieve)
                return
        self._relieving = False

    def _steps(self) -> Iterator[None]:
        while self._to_put_back:
            _put_back(self._to_put_back.popleft())
            yield
        if self._turns is None and self.total > self._limit:
            self._turns = iter(sorted(self._holders, key=_weight, reverse=True))
        for conn in self._turns or ():
            if self.total <= self._mark:
                break
            if conn._weight:
                conn._give_way(self.total - self._mark)
                self.weigh(conn)
            yield
        self._turns = None


class SpoolingBudget(Budget):
    """A `Budget` of a process that has a spool: from half of it on, what may go to disk does.

    An eighth of the bytes is for what is on its way there.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        super().__init__(limit - limit // 8, clock)
        self._spill_mark = limit // 2
        self._step = limit // 64
        """Bytes by which what waits has to grow, before it is worth going round again."""
        self._round: Iterator[bool] | None = None
        self._left = 0
        """Bytes that the last round left of those that were there when it began, or fewer that have been since."""

    @property
    def tight(self) -> bool:
        """What is published has to be weighed before more is."""
        return self.total > self._spill_mark // 2

    def keep(self) -> None:
        """See `Budget`."""
        if self.total > self._spill_mark:
            self._spill()
        else:
            self._left = 0
            if not self.tight:
                self._round = None  # it has connections that may be gone
        super().keep()

    def _spill(self) -> None:
        self._left = min(self._left, self.total)
        if self._round is None:
            if self._left and self.total < self._left + self._step:
                return  # nearly all of it cannot go to disk, as is known
            self._left = self.total
            self._round = self._go_round()
        deadline = self._clock() + SLICE
        for refused in self._round:
            if refused or self.total <= self._spill_mark or self._clock() >= deadline:
                return
        self._round = None

    def _go_round(self) -> Iterator[bool]:
        """Ask each, those who hold much first. True: the disk takes no more for now."""
        holders = list(self._holders)
        much = self.total / len(holders)
        for first in (True, False):
            for conn in holders:
                outbox = conn._outbox
                if (conn._weight >= much) is first and isinstance(outbox, SpoolingOutbox):
                    while conn._weight and not self._send(conn, outbox):
                        yield True
                yield False

    def _send(self, conn: Outbound, outbox: SpoolingOutbox) -> bool:
        before = self.total
        taken = outbox.spill()
        self.weigh(conn)
        self._left -= before - self.total
        return taken


def _weight(conn: Outbound) -> int:
    return conn._weight


def _put_back(conn: Any) -> None:
    """Let a member under `buffer` or `spool` read the logs of its rooms, rather than wait for more of them here."""
    outbox = conn._outbox
    if (
        outbox.strategy not in ("buffer", "spool")
        or not outbox.half_full
        or not conn._variant.v1
        or conn._close is not None
    ):
        return
    for name in conn._rooms:
        room = conn._home.rooms[name]
        # While a publication is on its way, it is not known here whether this one has it.
        if isinstance(room.tail, Following) and room.current is None and room.members.get(conn.id) is conn:
            room.tail.step_back(conn)
