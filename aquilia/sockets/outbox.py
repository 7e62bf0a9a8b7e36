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


_Entry = bytes | _Urgent | _Gap


class Outbox:
    """A bounded queue of frames, in order. One per connection; not safe for threads.

    A frame larger than the whole bound is let through an empty outbox: the bound limits what waits, not what
    may be said.
    """

    __slots__ = (
        "_frames", "_gaps", "_half_bytes", "_half_size", "_limits", "_passed", "_size", "_urgent_bytes", "dropped",
        "half_full", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, limits: Backpressure) -> None:
        self._limits: Final = limits
        self._half_size: Final = limits.buffer_size // 2
        self._half_bytes: Final = limits.buffer_bytes // 2
        self._frames: list[_Entry] | deque[_Entry] | None = None
        """A list while it is short: an empty deque takes half a kilobyte, and there are many connections."""
        self._passed: deque[_Entry] | None = None
        """What `drop_oldest` went past. It stands before the frames, and nothing in it can be dropped."""
        self._size = 0
        self._urgent_bytes = 0
        self._gaps = 0
        self.waiting_bytes = 0
        """Bytes that wait."""
        self.half_full = False
        """Past the mark above which a direct sender waits."""
        self.dropped = 0
        """Messages that the policy has dropped; whoever reports them may set it back."""

    def __len__(self) -> int:
        """Messages that wait; gaps do not count."""
        return self._size

    @property
    def answers_half_full(self) -> bool:
        """Past that mark in answers alone: whoever asked for them is not listened to until they are read."""
        return self._urgent_bytes > self._half_bytes

    @property
    def empty(self) -> bool:
        """Nothing waits, not even word of a gap."""
        return not self._frames and not self._passed

    def holds(self, frame: bytes) -> bool:
        """False: the strategy is `buffer`, and this frame would be beyond the bound."""
        return self._limits.strategy != "buffer" or not self._size or not self._too_full_for(frame)

    def push(self, frame: bytes) -> bool:
        """Queue a message. False: there was no room for all.

        Under the dropping strategies something was lost then, and counted in `dropped`; under the others it does
        not fit, and the policy is to end the connection.
        """
        size, waiting = self._size + 1, self.waiting_bytes + len(frame)
        if size > self._half_size or waiting > self._half_bytes:
            return self._push_beyond_half(frame)
        if self._frames is None:
            self._frames = [frame]
        else:
            self._frames.append(frame)
        self._size = size
        self.waiting_bytes = waiting
        return True

    def _push_beyond_half(self, frame: bytes) -> bool:
        strategy = self._limits.strategy
        frames = self._queue()
        fits = not self._size or not self._too_full_for(frame)
        if not fits:
            if strategy == "drop_newest":
                self._count_lost(frames)
            if strategy != "drop_oldest":
                return False
            self._drop_oldest_for(frame, frames)
        frames.append(frame)
        self._size += 1
        self.waiting_bytes += len(frame)
        self._look()
        return fits

    def push_urgent(self, frame: bytes) -> None:
        """Queue a frame that no policy may drop: an answer, or word of the protocol itself.

        It counts in `waiting_bytes` but not against the bound: whoever causes answers is bounded by them,
        since a connection is not read from while `answers_half_full`.
        """
        if self._frames is None:
            self._frames = [_Urgent(frame)]
        else:
            self._frames.append(_Urgent(frame))
        self._urgent_bytes += len(frame)
        self.waiting_bytes += len(frame)
        if self.waiting_bytes > self._half_bytes:
            self.half_full = True

    def take(self, max_bytes: int, gap: Callable[[int], bytes]) -> list[bytes]:
        """The next frames, at least one if any waits, and up to about `max_bytes`.

        `gap` makes the frame that tells of so many lost messages; it is asked only when one is due.
        """
        frames = self._frames
        if frames and not self._gaps and not self._passed and self.waiting_bytes <= max_bytes:
            if self._urgent_bytes:
                frames = [entry.frame if type(entry) is _Urgent else entry for entry in frames]
            elif type(frames) is not list:
                frames = list(frames)
            self.clear()
            return cast(list[bytes], frames)
        taken: list[bytes] = []
        total = 0
        waiting = self._queue()
        while (queue := self._passed or waiting) and (not taken or total < max_bytes):
            entry = queue.popleft()
            if isinstance(entry, _Gap):
                self._gaps -= 1
                frame = gap(entry.dropped)
            elif isinstance(entry, _Urgent):
                frame = entry.frame
                self._urgent_bytes -= len(frame)
                self.waiting_bytes -= len(frame)
            else:
                frame = entry
                self._size -= 1
                self.waiting_bytes -= len(frame)
            taken.append(frame)
            total += len(frame)
        self._look()
        return taken

    def clear(self) -> None:
        """Forget all that waits: it was taken, or the connection is gone."""
        self._frames = self._passed = None
        self._size = self._urgent_bytes = self._gaps = self.waiting_bytes = 0
        self.half_full = False

    def _look(self) -> None:
        self.half_full = self._size > self._half_size or self.waiting_bytes > self._half_bytes

    def _too_full_for(self, frame: bytes) -> bool:
        limits = self._limits
        plain = self.waiting_bytes - self._urgent_bytes
        return self._size >= limits.buffer_size or plain + len(frame) > limits.buffer_bytes

    def _queue(self) -> deque[_Entry]:
        """What waits, as what can be taken from its beginning."""
        frames = self._frames
        if type(frames) is not deque:
            frames = self._frames = deque(frames or ())
        return frames

    def _count_lost(self, queue: deque[_Entry]) -> None:
        """One more message is lost at the end of `queue`."""
        self.dropped += 1
        if queue and isinstance(last := queue[-1], _Gap):
            last.dropped += 1
        else:
            queue.append(_Gap(1))
            self._gaps += 1

    def _drop_oldest_for(self, frame: bytes, frames: deque[_Entry]) -> None:
        # What cannot be dropped is gone past once, not again for each message: answers may be many.
        passed = self._passed
        if passed is None:
            passed = self._passed = deque()
        while self._size and self._too_full_for(frame):
            oldest = frames.popleft()
            if isinstance(oldest, bytes):
                self._size -= 1
                self.waiting_bytes -= len(oldest)
                self._count_lost(passed)
            else:
                passed.append(oldest)
