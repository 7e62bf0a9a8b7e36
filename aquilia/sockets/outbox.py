"""The outbox: what waits to be written to one connection, with a bound and a policy for what is beyond it.

Pure: it is fed with frames and asked for frames. Frames are shared bytes; the outbox never copies one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, cast

__all__ = ["Backpressure", "Outbox", "Strategy"]

Strategy = Literal["buffer", "disconnect", "drop_oldest", "drop_newest"]


@dataclass(frozen=True, slots=True)
class Backpressure:
    """What happens when a client reads more slowly than it is sent to.

    `buffer_size` is in messages, `buffer_bytes` in bytes, both of one connection. Beyond either, `buffer` and
    `disconnect` end the connection (`disconnect` says it by name, `buffer` after its buffer), and the other
    two drop messages, and put a gap in the place of the loss.
    """

    strategy: Strategy = "buffer"
    buffer_size: int = 1000
    buffer_bytes: int = 1 << 20


class _Gap:
    """Stands in the queue where messages were dropped."""

    __slots__ = ("dropped",)

    def __init__(self, dropped: int) -> None:
        self.dropped = dropped


class _Urgent:
    """A frame that no policy may drop."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes) -> None:
        self.frame = frame


class Outbox:
    """A bounded queue of frames, in order. One per connection; not safe for threads.

    A frame larger than the whole bound is let through an empty outbox: the bound limits what waits, not what
    may be said.
    """

    __slots__ = ("_bytes", "_frames", "_limits", "_marks", "_passed", "_size", "_urgent_bytes", "dropped")

    def __init__(self, limits: Backpressure) -> None:
        self._limits: Final = limits
        self._frames: deque[bytes | _Urgent | _Gap] = deque()
        self._passed: deque[bytes | _Urgent | _Gap] | None = None
        """What `drop_oldest` went past. It stands before the frames, and nothing in it can be dropped."""
        self._size = 0
        self._bytes = 0
        self._urgent_bytes = 0
        self._marks = 0
        """Entries that are no plain frame."""
        self.dropped = 0

    def __len__(self) -> int:
        """Messages that wait; gaps do not count."""
        return self._size

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes + self._urgent_bytes

    @property
    def half_full(self) -> bool:
        """Past the mark above which a direct sender waits."""
        limits = self._limits
        return self._size * 2 > limits.buffer_size or self.waiting_bytes * 2 > limits.buffer_bytes

    @property
    def answers_half_full(self) -> bool:
        """Past that mark in answers alone: whoever asked for them is not listened to until they are read."""
        return self._urgent_bytes * 2 > self._limits.buffer_bytes

    def push(self, frame: bytes) -> bool:
        """Queue a message. False: it does not fit, and the policy is to end the connection.

        Under the dropping strategies it is always True; what was lost is counted in `dropped`.
        """
        limits, size, waiting = self._limits, self._size, self._bytes + len(frame)
        if size and (size >= limits.buffer_size or waiting > limits.buffer_bytes):
            return self._overflow(frame)
        self._frames.append(frame)
        self._size = size + 1
        self._bytes = waiting
        return True

    def push_urgent(self, frame: bytes) -> None:
        """Queue a frame that no policy may drop: an answer, or word of the protocol itself.

        It counts in `waiting_bytes` but not against the bound: whoever causes answers is bounded by them,
        since a connection is not read from while `answers_half_full`.
        """
        self._frames.append(_Urgent(frame))
        self._marks += 1
        self._urgent_bytes += len(frame)

    def take(self, max_bytes: int, gap: Callable[[int], bytes]) -> list[bytes]:
        """The next frames, at least one if any waits, and up to about `max_bytes`.

        `gap` makes the frame that tells of so many lost messages; it is asked only when one is due.
        """
        if not self._marks and self._bytes <= max_bytes:
            everything = cast(list[bytes], list(self._frames))
            self.clear()
            return everything
        taken: list[bytes] = []
        total = 0
        while (queue := self._passed or self._frames) and (not taken or total < max_bytes):
            entry = queue.popleft()
            if isinstance(entry, _Gap):
                self._marks -= 1
                frame = gap(entry.dropped)
            elif isinstance(entry, _Urgent):
                self._marks -= 1
                frame = entry.frame
                self._urgent_bytes -= len(frame)
            else:
                frame = entry
                self._size -= 1
                self._bytes -= len(frame)
            taken.append(frame)
            total += len(frame)
        return taken

    @property
    def empty(self) -> bool:
        """Nothing waits, not even word of a gap."""
        return not self._frames and not self._passed

    def clear(self) -> None:
        """Forget all that waits: the connection is gone."""
        self._frames.clear()
        self._passed = None
        self._size = self._bytes = self._urgent_bytes = self._marks = 0

    def _too_full_for(self, frame: bytes) -> bool:
        limits = self._limits
        return self._size >= limits.buffer_size or self._bytes + len(frame) > limits.buffer_bytes

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._size += 1
        self._bytes += len(frame)

    def _overflow(self, frame: bytes) -> bool:
        if self._limits.strategy == "drop_newest":
            self._count_lost(self._frames)
            return True
        if self._limits.strategy == "drop_oldest":
            self._drop_oldest_for(frame)
            return True
        return False

    def _count_lost(self, queue: deque[bytes | _Urgent | _Gap]) -> None:
        """One more message is lost at the end of `queue`."""
        self.dropped += 1
        if queue and isinstance(last := queue[-1], _Gap):
            last.dropped += 1
        else:
            queue.append(_Gap(1))
            self._marks += 1

    def _drop_oldest_for(self, frame: bytes) -> None:
        # What cannot be dropped is gone past once, not again for each message: answers may be many.
        passed = self._passed
        if passed is None:
            passed = self._passed = deque()
        while self._size and self._too_full_for(frame):
            oldest = self._frames.popleft()
            if isinstance(oldest, bytes):
                self._size -= 1
                self._bytes -= len(oldest)
                self._count_lost(passed)
            else:
                passed.append(oldest)
        self._append(frame)
