"""What a client has to say: what waits to be sent, and what was sent and awaits its ack."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from aquilia.client.faults import QueueFull

__all__ = ["Outgoing", "Outgoings"]


_STALE_AT_MOST = 256
"""Deadlines of calls that are over, before they are swept out."""


class Outgoing:
    """One message of the user's. `id` is set where an ack is wanted, `deadline` where that has a time."""

    __slots__ = ("control", "deadline", "event", "frame", "id", "idempotent", "sent", "timeout", "tried")

    def __init__(
        self,
        event: str,
        frame: bytes,
        *,
        id: str | None = None,
        idempotent: bool = False,
        control: bool = False,
        timeout: float | None = None,
        now: float = 0.0,
    ) -> None:
        self.event = event
        self.frame = frame
        self.id = id
        self.idempotent = idempotent
        self.control = control
        """An `auth`: a message of the user's is an event."""
        self.timeout = timeout
        self.deadline = None if timeout is None else now + timeout
        self.sent = False
        """On the link that there is now."""
        self.tried = False
        """On any link."""


class Outgoings:
    """The queue, bounded in messages and in bytes, and the calls that are open.

    One message is always taken, whatever its size.
    """

    def __init__(self, messages: int, size: int) -> None:
        self._most = messages
        self._most_bytes = size
        self._queue: deque[Outgoing] = deque()
        self._bytes = 0
        self._calls: dict[str, Outgoing] = {}
        self._deadlines: list[tuple[float, str]] = []
        self.awaited = 0
        """How many calls were sent, and not answered yet."""

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, message: Outgoing) -> None:
        """Queue a message.

        Raises:
            QueueFull: it is not taken.
        """
        size = self._bytes + len(message.frame)
        if self._queue and (len(self._queue) >= self._most or size > self._most_bytes):
            raise QueueFull(len(self._queue), self._bytes)
        self._queue.append(message)
        self._bytes = size
        if message.id is not None:
            self._calls[message.id] = message
            if message.deadline is not None:
                heapq.heappush(self._deadlines, (message.deadline, message.id))

    def next(self) -> bytes | None:
        """The next frame to be written, which counts as sent from now on."""
        if self._queue:
            message = self._queue.popleft()
            self._bytes -= len(message.frame)
            frame = message.frame
            message.sent = message.tried = True
            if message.id is not None:
                self.awaited += 1
            if not message.idempotent:
                message.frame = b""
            return frame
        return None

    def close_call(self, id: str | None) -> Outgoing | None:
        """Take out a call that was answered or given up; None if no such call is open."""
        call = self._calls.pop(id or "", None)
        if len(self._deadlines) > 2 * len(self._calls) + _STALE_AT_MOST:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._calls]
            heapq.heapify(self._deadlines)
        if call is not None and call.sent:
            self.awaited -= 1
        elif call is not None:
            self._queue.remove(call)
            self._bytes -= len(call.frame)
        return call

    def lost(self) -> list[Outgoing]:
        """The link broke: what was sent and may be repeated is queued again, first; the other calls are returned."""
        sent = [call for call in self._calls.values() if call.sent]
        again = [call for call in sent if call.idempotent]
        for call in again:
            call.sent = False
            self._bytes += len(call.frame)
        self._queue.extendleft(reversed(again))
        failed = [call for call in sent if not call.idempotent]
        for call in failed:
            del self._calls[call.id or ""]
        self.awaited = 0
        return failed

    def drop_all(self) -> Iterator[Outgoing]:
        """The client stops: all calls that are open."""
        calls, self._calls = list(self._calls.values()), {}
        self._queue.clear()
        self._deadlines.clear()
        self._bytes = self.awaited = 0
        return iter(calls)

    def deadline(self) -> float | None:
        """When the first call runs out of time."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now: float) -> list[Outgoing]:
        """Take out the calls whose time is over."""
        found = []
        while (moment := self.deadline()) is not None and moment <= now:
            call = self.close_call(self._deadlines[0][1])
            assert call is not None
            found.append(call)
        return found
