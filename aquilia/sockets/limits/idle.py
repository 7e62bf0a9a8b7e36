"""Connections whose client says nothing for too long: one timer for all of a controller, nothing at a message."""

from __future__ import annotations

import asyncio

from aquilia.sockets.answers import close_with
from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import ws_connection_timeout
from aquilia.sockets.heartbeat import HeartbeatWheel

__all__ = ["IdleWatch"]

SLOTS = 16
LOOKS = 8
"""How often a connection is looked at within its time: it ends by an eighth of that too late at most."""


class _Said:
    """How many messages of a client were seen, when the latest came, and how many were pings."""

    __slots__ = ("at", "messages", "pings")

    def __init__(self, at: float) -> None:
        self.at = at
        self.messages = self.pings = 0


class IdleWatch:
    """Ends connections whose client has sent nothing but pings for `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._step = timeout / LOOKS / SLOTS
        self._wheel: HeartbeatWheel[Connection] = HeartbeatWheel(SLOTS)
        self._said: dict[Connection, _Said] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, conn: Connection) -> None:
        """It is open."""
        said = self._said[conn] = _Said(conn._hub.clock.monotonic())
        said.messages = conn.messages_received
        self._wheel.add(conn)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._step, self._turn)

    def remove(self, conn: Connection) -> None:
        """It has ended; one that is not there is no error."""
        if self._said.pop(conn, None) is not None:
            self._wheel.remove(conn)
        if not self._said and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pinged(self, conn: Connection) -> None:
        """The message that came was a ping of the protocol, which is no sign of use."""
        if (said := self._said.get(conn)) is not None:
            said.pings += 1

    def _turn(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._step, self._turn)
        for conn in self._wheel.turn():
            self._look(conn, self._said[conn])

    def _look(self, conn: Connection, said: _Said) -> None:
        now = conn._hub.clock.monotonic()
        messages = conn.messages_received - said.pings
        if messages != said.messages or conn._paused:  # while we do not read, its silence says nothing
            said.messages = messages
            said.at = now if conn._paused else conn._heard_at
        elif now - said.at >= self._timeout and conn._close is None:
            home = conn._home
            home.recorder.limited(home.pattern, "idle_timeout")
            close_with(conn, ws_connection_timeout(f"no message came for {self._timeout:g} s"))
