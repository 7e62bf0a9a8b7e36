"""The session of a connection whose client may come back, as its node knows it."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any, Protocol

from aquilia.clock import Clock
from aquilia.sockets.connection import Connection
from aquilia.sockets.history import Position
from aquilia.sockets.outbox.queue import Strategy
from aquilia.sockets.presence.roster import Kept
from aquilia.sockets.resume.direct_log import DirectLog, DirectLogs

__all__ = ["Resumable"]


KEPT_EVERY = 10.0
"""Seconds between two writes of a session for nothing but the metadata of presence."""


class Keeper(Protocol):
    """What keeps the sessions of a process: see `Resumption`."""

    clock: Clock
    logs: DirectLogs

    async def save(self, conn: Connection, *, anew: bool = False) -> None:
        """Write what has changed."""

    async def keep_state(self, conn: Connection) -> None:
        """Write what has changed; what cannot be written now is, a while later."""

    async def keep(self, conn: Connection, resumable: Resumable, event: str, payload: Any) -> None:
        """Write a durable event."""


class Resumable:
    """The session that a connection has, as its node knows it: `conn._resumable`."""

    __slots__ = (
        "entered", "entering", "generation", "keeper", "log", "owner", "presence", "presence_kept", "saving",
        "sending", "state", "stored", "waiters",
    )  # fmt: skip

    def __init__(self, keeper: Keeper, owner: str, generation: int, stored: bytes) -> None:
        self.keeper = keeper
        self.owner = owner
        self.generation = generation
        self.stored = stored
        self.state = b""
        self.log: DirectLog | None = None
        self.entering: tuple[str, ...] = ()
        """Rooms that count as joined already."""
        self.entered = 0.0
        """See `Record`."""
        self.presence: dict[str, Kept] = {}
        """What was kept of its presence, until it is in those rooms again."""
        self.presence_kept = -inf
        self.sending: asyncio.Lock | None = None
        self.saving = False
        self.waiters: list[asyncio.Future[None]] | None = None

    async def enter(self, conn: Connection, room: str) -> None:
        """Note that the connection is about to be in a room.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE; WS_CONNECTION_CLOSED, if another connection has the session.
        """
        self.entering = (*self.entering, room)
        self.entered = self.keeper.clock.time()
        try:
            await self.keeper.save(conn)
        finally:
            self.entering = tuple(name for name in self.entering if name != room)

    async def save(self, conn: Connection) -> None:
        """See `Resumption.save`."""
        await self.keeper.save(conn)

    async def keep_presence(self, conn: Connection) -> None:
        """Note that metadata has changed. What changes all the time is written now and then."""
        now = self.keeper.clock.monotonic()
        if now - self.presence_kept >= KEPT_EVERY:
            self.presence_kept = now
            await self.keeper.keep_state(conn)

    def push(self, conn: Connection, event: str, payload: Any, strategy: Strategy | None = None) -> None:
        """Send an event, and keep it in the direct log."""
        log = self._log(conn)
        place = {"offset": log.head + 1, "epoch": log.epoch}
        frame = conn._event(event, payload, place=place)
        self.keeper.logs.append(log, frame, self.keeper.clock.monotonic())
        # What has a place in a log keeps the log's order.
        conn._push(frame, "drop_oldest" if strategy == "conflate" else strategy)

    async def send(
        self, conn: Connection, event: str, payload: Any, strategy: Strategy | None = None
    ) -> None:
        """The same where some events are durable: nothing goes before one that is being written.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, WS_PUBLISH_FAILED; WS_CONNECTION_CLOSED, also where another
                connection has the session.
        """
        if self.sending is None:
            self.sending = asyncio.Lock()
        async with self.sending:
            if event in conn._home.durable:
                conn._event(event, payload)  # what cannot be written is not kept either
                await self.keeper.keep(conn, self, event, payload)
            conn._require_open()
            self.push(conn, event, payload, strategy)

    def _log(self, conn: Connection) -> DirectLog:
        if self.log is None:
            self.log = DirectLog(self.owner, conn._variant, self.owner)
        return self.log

    def next_place(self, conn: Connection) -> Position:
        """Where in the direct log the next event will stand."""
        log = self._log(conn)
        return Position(log.epoch, log.head + 1)

    def wake(self) -> None:
        """A write has ended."""
        self.saving = False
        waiters, self.waiters = self.waiters or (), None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
