"""Fan-out: publications on their way to the local members of their audience.

It runs without await, in slices: it looks at the clock every `CLOCK_EVERY` members, and gives the loop back after
`SLICE` seconds. An audience finishes one publication before its next, so its members agree on the order. A
publication is encoded once for each variant of connection, and is shared bytes from there on. Where nothing waits
before it, it is written at once; what else is published in the same turn of the loop is joined into one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from math import inf
from operator import length_hint

from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.audience import Audience, Delivery, Policy
from aquilia.sockets.connection import Connection, Variant

__all__ = ["CLOCK_EVERY", "SLICE", "FanOut"]

CLOCK_EVERY = 64
"""Members between two looks at the clock."""
SLICE = 0.004
"""Seconds after which the loop is given back."""
BACKLOG = 64
"""Publications that an audience may be behind before its publishers wait."""
BACKLOG_BYTES = 1 << 22
"""The same in bytes, each publication in its first encoding."""
TURN_BYTES = 1 << 16
"""Bytes that may be published in one turn of the loop: they have to be written before more come."""


class FanOut:
    """Brings publications to audiences. One per process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._behind: deque[Audience] = deque()
        self._slicing = False
        self._turn = 0
        self._turn_ends: float | None = None
        self._published = 0
        self._slice_ends = -inf
        """When the last slice had to be over."""

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that it shares."""
        self._loop = loop

    # What publishers wait for

    async def turn(self) -> None:
        """Wait for the loop's next turn if this one has seen enough: else a burst would overrun its readers."""
        while self._turn_ends is not None and (  # noqa: ASYNC110 - what is waited for is the turn itself
            self._published >= TURN_BYTES or self.clock() >= self._turn_ends
        ):
            await asyncio.sleep(0)
        if self._turn_ends is None:
            self._turn_ends = self.clock() + SLICE
            self._loop.call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._turn += 1
        self._turn_ends = None
        self._published = 0

    async def keep_pace(self, audience: Audience) -> None:
        """Wait while an audience is far behind."""
        if len(audience.backlog) >= BACKLOG or audience.backlog_bytes >= BACKLOG_BYTES:
            if audience.caught_up is None:
                audience.caught_up = self._loop.create_future()
            await asyncio.shield(audience.caught_up)

    # The work

    def deliver(
        self,
        audience: Audience,
        publication: Publication,
        policy: Policy = (None, None),
    ) -> None:
        """Send a publication to an audience, at once as far as the slice goes.

        Raises:
            SocketFault: WS_PUBLISH_FAILED, if it cannot be encoded.
        """
        self.enqueue(audience, Delivery(publication, policy))

    def enqueue(self, audience: Audience, delivery: Delivery) -> None:
        """See `deliver`."""
        if audience.meter is not None:
            delivery.measure(self.clock())
        if audience.members:
            first = next(iter(audience.members.values()))
            # What is in a log already cannot be refused any more.
            kept = delivery.publication.position is not None
            delivery.weight = len(delivery.frame(first)) if kept else delivery.check(first)
            self._published += delivery.weight
            audience.backlog_bytes += delivery.weight
        audience.backlog.append(delivery)
        if audience.current is None and len(audience.backlog) == 1:
            self._behind.append(audience)
            if not self._slicing:
                self._run_slice()

    def enqueue_all(self, deliveries: Iterable[tuple[Audience, Delivery]]) -> None:
        """One for each of many audiences, behind what they wait for already; they are encoded in their slices."""
        for audience, delivery in deliveries:
            if audience.meter is not None:
                delivery.measure(self.clock())
            audience.backlog.append(delivery)
            if audience.current is None and len(audience.backlog) == 1:
                self._behind.append(audience)
        if self._behind and not self._slicing:
            self._slicing = True
            self._loop.call_soon(self._run_slice)

    def _run_slice(self) -> None:
        """Fan out until nothing is left or the slice is over; the rest follows in the loop's next turn."""
        self._slicing = True
        deadline = self._slice_ends = self.clock() + SLICE
        try:
            while self._behind:
                audience = self._behind[0]
                done = self._advance(audience, deadline)
                self._behind.popleft()
                if not done or audience.backlog:
                    self._behind.append(audience)  # the others come first: none waits for a large room's end
                if self._behind and (not done or self.clock() >= deadline):
                    self._loop.call_soon(self._run_slice)
                    return
        except BaseException:
            self._slicing = False
            raise
        self._slicing = False

    def rest_of_slice(self, now: float) -> float:
        """Until when others may write in this turn: a slice, or what fan-out has left of it, a quarter at least."""
        if now >= self._slice_ends + SLICE:
            return now + SLICE
        return max(self._slice_ends, now + SLICE / 4)

    def _advance(self, audience: Audience, deadline: float) -> bool:
        """Bring one publication of an audience to its end. False: the time is up before that."""
        if audience.current is None:
            audience.current = audience.backlog.popleft()
            audience.backlog_bytes -= audience.current.weight
            wanted = audience.current.publication.identity
            if wanted is None or audience.identities is None:
                audience.rest = iter(tuple(audience.members.values()))
            else:
                audience.rest = iter(audience.identities.of(wanted))
            audience.joined = bool(audience.backlog) or audience.turn == self._turn
            audience.turn = self._turn
            if audience.tail is not None:
                audience.tail.begun(audience.current)
        delivery = audience.current
        tail = audience.tail
        identity = delivery.publication.identity
        excluded = audience.members.get(delivery.publication.exclude or "")
        joined, gone = audience.joined, audience.gone
        counted, queued = audience.meter is not None, 0
        variant: Variant | None = None
        frame, size = b"", 0
        batch = _Batch()
        while True:
            pushed = 0
            for conn in islice(audience.rest, CLOCK_EVERY):
                pushed += 1
                if conn is excluded or (gone and conn in gone):
                    continue
                if identity is not None and (conn.identity is None or conn.identity.id != identity):
                    continue
                if conn._variant is not variant:
                    if counted and variant is not None:
                        delivery.count(len(batch) + queued, size)
                        queued = 0
                    batch.write(frame)
                    variant = conn._variant
                    frame = delivery.frame(conn)
                    size = len(frame)
                if conn._idle and not joined and (line := conn._transport.line) is not None:
                    conn.messages_sent += 1
                    conn.bytes_sent += size
                    batch.add(conn, line)
                elif conn._close is None:
                    if tail is not None and conn._variant.v1 and not conn._holds(frame, delivery.strategy):
                        tail.put_back(conn)
                        continue
                    queued += 1
                    conn._push(frame, delivery.strategy, delivery.key)
            if counted:
                delivery.count(len(batch) + queued, size)
                queued = 0
            batch.write(frame)
            if pushed < CLOCK_EVERY:
                self._finish(audience)
                return True
            if self.clock() >= deadline:
                return False

    def _finish(self, audience: Audience) -> None:
        if audience.meter is not None and (done := audience.current) is not None:
            seconds = self.clock() - done.begun
            audience.meter.published(done.publication.event, done.members, done.bytes, seconds)
        audience.current = None
        audience.rest = iter(())
        audience.gone.clear()
        if audience.caught_up is not None and (
            len(audience.backlog) < BACKLOG // 2 and audience.backlog_bytes < BACKLOG_BYTES // 2
        ):
            audience.caught_up.set_result(None)
            audience.caught_up = None


class _Batch:
    """Members to which one frame is written at once, after they were chosen: between system calls, code is short."""

    __slots__ = ("_lines", "_members")

    def __init__(self) -> None:
        self._lines: list[Callable[[bytes], object]] = []
        self._members: list[Connection] = []

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, conn: Connection, line: Callable[[bytes], object]) -> None:
        self._lines.append(line)
        self._members.append(conn)

    def write(self, frame: bytes) -> None:
        rest = iter(self._lines)
        while True:
            try:
                for line in rest:
                    line(frame)
                break
            except Exception:  # one broken wire must not stop the others
                self._members[len(self._lines) - length_hint(rest) - 1]._broken()
        self._lines.clear()
        self._members.clear()
