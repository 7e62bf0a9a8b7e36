"""Figures: what happens in a process, counted in plain integers. They are read when somebody asks for metrics.

What every message passes is found at boot and only added to: no lookup by labels, and no lock. Names that are not
known at boot are counted under their own up to a number, and together from there on, so that there is no end of
series whatever clients send.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from aquilia.sockets import faults
from aquilia.sockets.faults import CloseCode

__all__ = ["Deflated", "Distribution", "FanOutFigures", "Figures", "Meter", "Tally"]

SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
MEMBERS = (0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

MAX_EVENTS = 100
"""Events that a controller sends without an `Emits`, and that are still counted by name."""
MAX_CODES = 100
"""Codes of an application's own faults, in a process, that are counted by name."""
OTHER = "other"

_FAULT_CODES = frozenset(name.upper() for name in faults.__all__ if name.startswith("ws_"))
_CLOSE_CODES = frozenset(map(int, CloseCode))


class Tally:
    """Messages, and their bytes."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = self.bytes = 0

    def add(self, size: int, messages: int = 1) -> None:
        """Count messages of so many bytes in all."""
        self.messages += messages
        self.bytes += size


class Deflated:
    """Bytes of messages that were compressed: as they are handled, and as they are on the wire."""

    __slots__ = ("plain", "wire")

    def __init__(self) -> None:
        self.plain = self.wire = 0

    def add(self, plain: int, wire: int) -> None:
        """Count a message."""
        self.plain += plain
        self.wire += wire


class Distribution:
    """How often values fell between which bounds. The last count is of those above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; it belongs to the first bound that it does not exceed."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class FanOutFigures:
    """The publications of one event."""

    __slots__ = ("members", "seconds", "tally")

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.members = Distribution(MEMBERS)
        self.seconds = Distribution(SECONDS)


class Meter:
    """The messages of one path pattern: `events` are those that it handles, `emits` those that it says it sends."""

    def __init__(self, events: Iterable[str], emits: Iterable[str]) -> None:
        self.received = {name: Tally() for name in events}
        self.received_kinds = {kind: Tally() for kind in ("ack", "control", "invalid", OTHER)}
        self.sent = {name: Tally() for name in (*emits, "error")}
        self.sent_kinds = {kind: Tally() for kind in ("ack", "system", OTHER)}
        self.deflated = {"received": Deflated(), "sent": Deflated()}
        self.handling = {name: Distribution(SECONDS) for name in self.received}
        self.spans: dict[tuple[str, str], Distribution] = {}
        self.fanout: dict[str, FanOutFigures] = {}
        self._most = len(self.sent) + MAX_EVENTS

    def sending(self, event: str) -> Tally:
        """The tally of an event that is sent."""
        tally = self.sent.get(event)
        if tally is None:
            if len(self.sent) >= self._most:
                return self.sent_kinds[OTHER]
            tally = self.sent[event] = Tally()
        return tally

    def span(self, name: str, event: str) -> Distribution:
        """The seconds of a span of an event's handling."""
        key = name, event
        found = self.spans.get(key)
        if found is None:
            found = self.spans[key] = Distribution(SECONDS)
        return found

    def published(self, event: str, members: int, size: int, seconds: float) -> None:
        """A publication has gone to so many members, in so many bytes, so long after it came."""
        found = self.fanout.get(event) or self._fanning_out(event)
        tally = found.tally
        tally.messages += members
        tally.bytes += size
        found.members.observe(members)
        found.seconds.observe(seconds)

    def ended(self) -> None:
        """An audience is none any more: there is nothing to measure in that."""

    def _fanning_out(self, event: str) -> FanOutFigures:
        tally = self.sending(event)
        name = OTHER if tally is self.sent_kinds[OTHER] else event
        return self.fanout.setdefault(name, FanOutFigures(tally))


class Figures:
    """A `Recorder` that keeps all figures of a process; `add` each pattern before anything happens."""

    def __init__(self) -> None:
        self.meters: dict[str, Meter] = {}
        self.handshakes: Counter[tuple[str, str]] = Counter()
        self.limits: Counter[tuple[str, str]] = Counter()
        self.connections: Counter[str] = Counter()
        self.opens: Counter[str] = Counter()
        self.closes: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[tuple[str, str]] = Counter()
        self.drops: Counter[tuple[str, str]] = Counter()
        self.resumes: Counter[tuple[str, str]] = Counter()
        self.unmatched: Counter[str] = Counter()
        self.presences: Counter[tuple[str, str]] = Counter()
        self.presence_frames: Counter[str] = Counter()
        self.actions: Counter[tuple[str, str]] = Counter()
        self._codes: set[str] = set()

    def add(self, pattern: str, events: Iterable[str], emits: Iterable[str]) -> None:
        """Count for a pattern. What is known of it is there with 0 from the start."""
        self.meters[pattern] = Meter(events, emits)
        for counter in (self.connections, self.opens, self.unmatched):
            counter[pattern] = 0
        self.handshakes[pattern, "accepted"] = 0
        self.resumes[pattern, "resumed"] = 0
        self.drops[pattern, "slow_consumer"] = self.drops[pattern, "disconnected"] = 0

    def meter(self, pattern: str) -> Meter | None:
        """See `Recorder`."""
        return self.meters.get(pattern)

    def handshake(self, pattern: str, outcome: str) -> None:
        """See `Recorder`."""
        self.handshakes[pattern, outcome if outcome == "accepted" else self._bounded(outcome)] += 1

    def limited(self, pattern: str, limit: str) -> None:
        """See `Recorder`."""
        self.limits[pattern, limit] += 1

    def opened(self, pattern: str) -> None:
        """See `Recorder`."""
        self.opens[pattern] += 1
        self.connections[pattern] += 1

    def closed(self, pattern: str, code: int) -> None:
        """See `Recorder`. A code is the client's to choose: those that mean nothing here are counted together."""
        self.closes[pattern, str(int(code)) if code in _CLOSE_CODES else OTHER] += 1
        self.connections[pattern] -= 1

    def fault(self, pattern: str, code: str) -> None:
        """See `Recorder`."""
        self.faults[pattern, self._bounded(code)] += 1

    def dropped(self, pattern: str, cause: str, count: int) -> None:
        """See `Recorder`."""
        self.drops[pattern, cause] += count

    def resumed(self, pattern: str, outcome: str) -> None:
        """See `Recorder`."""
        self.resumes[pattern, outcome] += 1

    def unmatched_ack(self, pattern: str) -> None:
        """See `Recorder`."""
        self.unmatched[pattern] += 1

    def presence(self, pattern: str, joins: int, leaves: int, frames: int) -> None:
        """See `Recorder`."""
        self.presences[pattern, "join"] += joins
        self.presences[pattern, "leave"] += leaves
        self.presence_frames[pattern] += frames

    def acted(self, action: str, result: str) -> None:
        """See `Recorder`."""
        self.actions[action, result] += 1

    def _bounded(self, code: str) -> str:
        if code in _FAULT_CODES or code in self._codes:
            return code
        if len(self._codes) >= MAX_CODES:
            return OTHER
        self._codes.add(code)
        return code
