"""Whether the other side of a link is alive: what is heard of it, and when it is asked."""

from __future__ import annotations

__all__ = ["Pulse"]

PING_AFTER = 1.5
"""Heartbeats of silence after which `ping` is sent."""
DEAD_AFTER = 0.5
"""Heartbeats of silence after the `ping` that make a link dead."""
LATE = 0.2
"""Heartbeats behind its time at which a look says nothing: this program was held up, its ping perhaps too."""


class Pulse:
    """That of one link. `heartbeat` is in seconds; 0: the link is not watched."""

    def __init__(self, now: float) -> None:
        self.heartbeat = 0.0
        self._heard = now
        self._pinged_at: float | None = None
        self._paused = False

    def heard(self, now: float) -> None:
        """Anything came: it lives."""
        self._heard = now
        self._pinged_at = None

    def pause(self) -> None:
        """The link is not read for now, so that silence says nothing."""
        self._paused = True

    def read_on(self, now: float) -> None:
        """The link is read again."""
        self._paused = False
        self.heard(now)

    def due(self) -> float | None:
        """When silence has a meaning; None: it has none."""
        if self.heartbeat <= 0 or self._paused:
            return None
        if self._pinged_at is None:
            return self._heard + PING_AFTER * self.heartbeat
        return self._pinged_at + DEAD_AFTER * self.heartbeat

    def asked(self, now: float) -> bool:
        """It is due: True where it is to be asked now; False where it was, and did not answer."""
        due = self.due()
        if self._pinged_at is not None and due is not None and now - due < LATE * self.heartbeat:
            return False
        self._pinged_at = now
        return True
