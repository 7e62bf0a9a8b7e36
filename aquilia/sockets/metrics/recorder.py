"""What the code reports of itself: a protocol that metrics implement, and plain counters for everyone else."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from aquilia.sockets.metrics.figures import Meter

__all__ = ["Counters", "Recorder"]


class Recorder(Protocol):
    """Told of each measured happening. `pattern` is the path pattern, never a client's own path.

    Calls come from the event loop's thread, on hot paths too: an implementation must neither block nor raise.
    """

    def meter(self, pattern: str) -> Meter | None:
        """What counts the messages of this pattern; None where they are not counted. Asked at boot."""

    def handshake(self, pattern: str, outcome: str) -> None:
        """A handshake ended: `accepted`, or the code of the fault that refused it."""

    def limited(self, pattern: str, limit: str) -> None:
        """A client was refused something by this setting."""

    def opened(self, pattern: str) -> None:
        """A connection was upgraded."""

    def closed(self, pattern: str, code: int) -> None:
        """A connection ended with this close code."""

    def fault(self, pattern: str, code: str) -> None:
        """A client was answered with a fault, or `@OnPresence` ended with one."""

    def dropped(self, pattern: str, cause: str, count: int) -> None:
        """Messages were lost for a client."""

    def resumed(self, pattern: str, outcome: str) -> None:
        """A client came with a token: `resumed`, or why there was nothing to resume."""

    def unmatched_ack(self, pattern: str) -> None:
        """A client acked what nobody had asked it."""

    def presence(self, pattern: str, joins: int, leaves: int, frames: int) -> None:
        """So many came, or have other metadata, and left; clients here were told in so many frames."""

    def acted(self, action: str, result: str) -> None:
        """An admin ordered something of this node: `done`, `incomplete` where nodes were silent, or `refused`."""


class Counters:
    """A `Recorder` that counts in memory, by happening and labels."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def meter(self, pattern: str) -> Meter | None:
        """See `Recorder`."""
        return None

    def handshake(self, pattern: str, outcome: str) -> None:
        """See `Recorder`."""
        self.counts["handshake", pattern, outcome] += 1

    def limited(self, pattern: str, limit: str) -> None:
        """See `Recorder`."""
        self.counts["limited", pattern, limit] += 1

    def opened(self, pattern: str) -> None:
        """See `Recorder`."""
        self.counts["opened", pattern] += 1

    def closed(self, pattern: str, code: int) -> None:
        """See `Recorder`."""
        self.counts["closed", pattern, str(code)] += 1

    def fault(self, pattern: str, code: str) -> None:
        """See `Recorder`."""
        self.counts["fault", pattern, code] += 1

    def dropped(self, pattern: str, cause: str, count: int) -> None:
        """See `Recorder`."""
        self.counts["dropped", pattern, cause] += count

    def resumed(self, pattern: str, outcome: str) -> None:
        """See `Recorder`."""
        self.counts["resumed", pattern, outcome] += 1

    def unmatched_ack(self, pattern: str) -> None:
        """See `Recorder`."""
        self.counts["unmatched_ack", pattern] += 1

    def presence(self, pattern: str, joins: int, leaves: int, frames: int) -> None:
        """See `Recorder`."""
        self.counts["presence", pattern] += frames

    def acted(self, action: str, result: str) -> None:
        """See `Recorder`."""
        self.counts["acted", action, result] += 1
