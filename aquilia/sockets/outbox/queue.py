"""The outbox: what waits to be written to one connection, with a bound and a policy for what is beyond it.

Pure: it is fed with frames and asked for frames. Frames are shared bytes; the outbox never copies one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

__all__ = ["Backpressure", "Key", "Outbox", "Strategy"]

Strategy = Literal["buffer", "disconnect", "drop_oldest", "drop_newest", "conflate", "spool"]
Key = str | Callable[[Any], Hashable]
"""What tells apart the things that events are about: the name of a field of the payload, or a function of it."""

_DROPPABLE: Final = frozenset({"drop_oldest", "conflate"})
"""Strategies whose messages give way while they wait."""
_APART: Final = frozenset({"drop_newest", "spool"})
"""Strategies whose messages are told from those of all others, also where none may be dropped while it waits."""


@dataclass(frozen=True, slots=True)
class Backpressure:
    """What happens when a client reads more slowly than it is sent to.

    `buffer_size` is in messages, `buffer_bytes` in bytes, both of one connection. Beyond either, `buffer` and
    `disconnect` end the connection (`disconnect` says it by name, `buffer` after its buffer), and the others
    drop messages, and put a gap in the place of the loss. `conflate` keeps of what waits only the newest for each
    event, room and `key`, and drops the oldest if those are too many. `spool` puts what is beyond on disk: see
    `SpoolingOutbox`.
    """

    strategy: Strategy = "buffer"
    buffer_size: int = 1000
    buffer_bytes: int = 1 << 20
    key: Key | None = None


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


class _Marked:
    """A message that has another strategy than its connection, or one that a newer one may replace."""

    __slots__ = ("droppable", "frame", "key")

    def __init__(self, frame: bytes, droppable: bool, key: Hashable) -> None:
        self.frame = frame
        self.droppable = droppable
        self.key = key


_Entry = bytes | _Urgent | _Gap | _Marked


class Outbox:
    """A bounded queue of frames, in order. One per connection; not safe for threads.

    Each message may have a strategy of its own. Those of `drop_oldest` and `conflate` give way to any other but a
    `drop_newest`, before that one is lost itself or ends the connection.

    A frame larger than the whole bound is let through an empty outbox: the bound limits what waits, not what
    may be said.
    """

    __slots__ = (
        "_aside", "_bare_droppable", "_droppable", "_frames", "_gaps", "_half_bytes", "_half_size", "_latest",
        "_limits", "_marked", "_passed", "_size", "_urgent_bytes", "conflated", "dropped", "half_full",
        "overflowed", "unspooled", "waiting_bytes",
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
        self._aside = 0
        """Bytes that wait and do not count against the bound, apart from the urgent ones."""
        self._gaps = 0
        self._bare_droppable: Final = limits.strategy in _DROPPABLE
        self._marked = 0
        self._droppable = 0
        """Of those that are marked."""
        self._latest: dict[Hashable, _Marked] | None = None
        self.waiting_bytes = 0
        """Bytes that wait."""
        self.half_full = False
        """Past the mark above which a direct sender waits."""
        self.dropped = 0
        """Messages that the policy has dropped; whoever reports them may set it back."""
        self.conflated = 0
        """Messages that a newer one has replaced; the same."""
        self.unspooled = 0
        """Messages that were lost since there is no room on the disk, and are not in `dropped`; the same."""
        self.overflowed = False
        """A message did not fit whose strategy is to end the connection then."""

    def __len__(self) -> int:
        """Messages that wait; gaps do not count."""
        return self._size

    @property
    def mean_bytes(self) -> int:
        """Of a message that waits, about; answers do not count. 0 where that is not known."""
        return self._plain_bytes // self._size if self._size else 0

    @property
    def answers_half_full(self) -> bool:
        """Past that mark in answers alone: whoever asked for them is not listened to until they are read."""
        return self._urgent_bytes > self._half_bytes

    @property
    def empty(self) -> bool:
        """Nothing waits, not even word of a gap."""
        return not self._frames and not self._passed

    def holds(self, frame: bytes, strategy: Strategy | None = None) -> bool:
        """False: the strategy is `buffer`, and this frame would be beyond the bound."""
        return (
            (strategy or self._limits.strategy) != "buffer" or not self._size or not self._too_full_for(frame)
        )

    def push(self, frame: bytes) -> bool:
        """Queue a message. False: there was no room for all.

        Then something was lost, and counted in `dropped` or `unspooled`; or the message itself does not fit, and the
        policy is to end the connection, which `overflowed` says.
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

    def push_as(self, frame: bytes, strategy: Strategy, key: Hashable = None) -> bool:
        """Queue a message under a strategy of its own; `push` does it under that of the connection.

        With a `key`, under `conflate`, it takes the place of the one with the same key that waits: it stands where
        that one stood. False: see `push`.
        """
        if strategy != "conflate":
            key = None
        elif key is not None and self._latest is not None and (older := self._latest.get(key)) is not None:
            return self._replace(older, frame)
        frames = self._queue()
        fits = not self._size or not self._too_full_for(frame)
        if not fits:
            if strategy == "drop_newest":
                self._count_lost(frames)
                return False
            before = self.dropped
            limits = self._limits
            self._drop_oldest(frames, limits.buffer_size - 1, limits.buffer_bytes - len(frame), least=0)
            if self._size and self._too_full_for(frame):
                if strategy in _DROPPABLE:
                    self._count_lost(frames)
                else:
                    self.overflowed = True
                return False
            fits = self.dropped == before
        droppable = strategy in _DROPPABLE
        own = self._limits.strategy
        # Under `drop_newest`, what is bare may give way to the process's bound, and so others are marked.
        if key is None and (strategy == own or (droppable is self._bare_droppable and own not in _APART)):
            frames.append(frame)
        else:
            self._append_marked(frames, _Marked(frame, droppable, key))
        self._size += 1
        self.waiting_bytes += len(frame)
        self._look()
        return fits

    def _append_marked(self, frames: deque[_Entry], marked: _Marked) -> None:
        frames.append(marked)
        self._marked += 1
        self._droppable += marked.droppable
        if marked.key is not None:
            if self._latest is None:
                self._latest = {}
            self._latest[marked.key] = marked

    def _replace(self, older: _Marked, frame: bytes) -> bool:
        """Put a newer message into the place of an older one. False: others had to give way to what it is larger."""
        self.conflated += 1
        self.waiting_bytes += len(frame) - len(older.frame)
        older.frame = frame
        before = self.dropped
        limits = self._limits
        self._drop_oldest(self._queue(), limits.buffer_size, limits.buffer_bytes, least=1)
        self._look()
        return self.dropped == before

    def _push_beyond_half(self, frame: bytes) -> bool:
        return self.push_as(frame, self._limits.strategy)

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
        if (
            frames
            and not self._gaps
            and not self._passed
            and not self._marked
            and self.waiting_bytes <= max_bytes
        ):
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
                frame = entry if isinstance(entry, bytes) else self._unmarked(entry)
                self._size -= 1
                self.waiting_bytes -= len(frame)
            taken.append(frame)
            total += len(frame)
        self._look()
        return taken

    @property
    def spooled_bytes(self) -> int:
        """Bytes on disk, and on their way there."""
        return 0

    @property
    def strategy(self) -> Strategy:
        """That of the connection."""
        return self._limits.strategy

    def give_way(self, volume: int) -> bool:
        """Drop about so many bytes of what a strategy may drop, oldest first. False: there are none."""
        before = self.dropped
        dropping = self._limits.strategy not in ("buffer", "disconnect")
        left = max(0, self._plain_bytes - volume)
        self._drop_oldest(self._queue(), self._size, left, least=0, bare=dropping)
        self._look()
        return self.dropped != before

    def clear(self) -> None:
        """Forget all that waits: it was taken, or the connection is gone."""
        self._frames = self._passed = self._latest = None
        self._size = self._urgent_bytes = self._gaps = self._marked = self._droppable = self.waiting_bytes = 0
        self.half_full = False

    def _look(self) -> None:
        self.half_full = self._size > self._half_size or self.waiting_bytes > self._half_bytes

    def _unmarked(self, marked: _Marked) -> bytes:
        """The frame of one that has been taken out."""
        self._marked -= 1
        self._droppable -= marked.droppable
        if marked.key is not None and self._latest is not None:
            del self._latest[marked.key]
        return marked.frame

    def _too_full_for(self, frame: bytes) -> bool:
        limits = self._limits
        return self._size >= limits.buffer_size or self._plain_bytes + len(frame) > limits.buffer_bytes

    @property
    def _plain_bytes(self) -> int:
        """Those that count against the bound."""
        return self.waiting_bytes - self._urgent_bytes - self._aside

    def _queue(self) -> deque[_Entry]:
        """What waits, as what can be taken from its beginning."""
        frames = self._frames
        if type(frames) is not deque:
            frames = self._frames = deque(frames or ())
        return frames

    def _count_lost(self, queue: deque[_Entry]) -> None:
        """One more message is lost at the end of `queue`."""
        self.dropped += 1
        self._mark_lost(queue)

    def _mark_lost(self, queue: deque[_Entry]) -> None:
        if not queue and self._passed:
            queue = self._passed
        if queue and isinstance(last := queue[-1], _Gap):
            last.dropped += 1
        else:
            queue.append(_Gap(1))
            self._gaps += 1

    def _drop_oldest(
        self, frames: deque[_Entry], size: int, volume: int, *, least: int, bare: bool = False
    ) -> None:
        """Drop what may give way, oldest first, until so much is left or `least` messages."""
        bare = bare or self._bare_droppable
        exempt = self._urgent_bytes + self._aside
        # What cannot be dropped is gone past once, not again for each message: answers may be many.
        passed = self._passed
        if passed is None:
            passed = self._passed = deque()
        while (
            frames
            and self._size > least
            and (bare or self._droppable)
            and (self._size > size or self.waiting_bytes - exempt > volume)
        ):
            oldest = frames.popleft()
            if bare and isinstance(oldest, bytes):
                lost = oldest
            elif isinstance(oldest, _Marked) and oldest.droppable:
                lost = self._unmarked(oldest)
            else:
                self._pass(oldest, passed)
                continue
            self._size -= 1
            self.waiting_bytes -= len(lost)
            self._count_lost(passed)
        if frames and passed and isinstance(frames[0], _Gap) and isinstance(passed[-1], _Gap):
            self._pass(frames.popleft(), passed)

    def _pass(self, entry: _Entry, passed: deque[_Entry]) -> None:
        if isinstance(entry, _Gap) and passed and isinstance(last := passed[-1], _Gap):
            last.dropped += entry.dropped
            self._gaps -= 1
        else:
            passed.append(entry)
