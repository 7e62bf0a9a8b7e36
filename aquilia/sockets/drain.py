"""Leaving well: how a process that stops parts from its clients.

Nobody is let in any more. Each client of v1 is told `goaway`, with the moment at which it should come back: these
begin when the next process may be there, which boots once this one has left, or at once where others serve already;
and are spread, so that none is overrun. Clients of ours wait for the acks that are due, and leave. Whoever is left
half a second later is closed with 1012 and what remains of its delay, as soon as no handler works for it; plain
clients, which know no `goaway`, right away. Whoever does not take its close is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence

from aquilia.sockets.answers import come_back
from aquilia.sockets.boot_time import USUAL_BOOT
from aquilia.sockets.connection import Connection, ConnectionState
from aquilia.sockets.faults import CloseCode
from aquilia.sockets.hub import Hub
from aquilia.sockets.tasks import TaskSet

__all__ = ["SILENCE", "Drain", "reconnection_times"]

logger = logging.getLogger("aquilia.sockets")

SHUTDOWN_GRACE = 10.0
"""Seconds that clients may take to leave and handlers to end, when the application stops."""
GOAWAY_GRACE = 0.5
"""Seconds between `goaway` and the close for clients that do not leave by themselves. Ours leave within one round
trip, or when their acks have come."""
ACK_GRACE = 3.0
"""Seconds that a connection stays open for a handler that runs, so that its ack still gets through. The handler may
go on behind that, to the end of SHUTDOWN_GRACE."""
CLOSE_GRACE = 3.0
"""Seconds that a client may take for its close and what was sent before, until it is cut off."""
RATE = 500
"""Clients that come back each second, about: what one process accepts beside its work."""
LEAVING = 2_000
"""Clients that leave each second, about."""
SHORTEST, LONGEST = 1.0, 30.0
"""Bounds of the seconds over which they are spread."""
AT_ONCE = 0.2
"""Both that and GOAWAY_GRACE in development, where somebody waits for the reload."""
SILENCE = 1.0
"""Seconds of waiting for them after which the log says for whom."""
CUT_GRACE = 1.0
"""Seconds until a connection that was cut off is known to be gone."""
SHOWN = 5
"""So many connections are named in a line of the log."""
TURN = 0.05
"""Seconds between two looks at whose handlers are done: hooks for it would burden each message."""
_GOLDEN = 0.6180339887498949


def reconnection_times(count: int, *, within: float | None = None) -> list[float]:
    """When each of so many clients should come back, in seconds: evenly over `within`, 500 a second if None.

    They follow the golden ratio (an additive recurrence), so neighbours, such as the clients of one namespace, are
    spread as well as the whole.
    """
    window = min(LONGEST, max(SHORTEST, count / RATE)) if within is None else within
    return [window * (number * _GOLDEN % 1) for number in range(1, count + 1)]


class Drain:
    """The leaving of one process. `draining` says whether it is under way, or over."""

    def __init__(
        self, hub: Hub, tasks: TaskSet, *, leaving: Callable[[float], None], development: bool
    ) -> None:
        self.ready = True
        """Whether new clients should be sent here; what `health` answers by."""
        self.draining = False
        self._hub = hub
        self._tasks = tasks
        self._tell_nodes = leaving
        """Tells the other nodes, and for how many seconds these clients are to be awaited."""
        self._boot: float | None = None
        self._development = development
        self._within = AT_ONCE if development else None
        self._grace = AT_ONCE if development else GOAWAY_GRACE
        self._others_serve = development  # whoever waits for a reload has its port kept
        self._running: asyncio.Task[None] | None = None
        self._gone_at = 0.0
        """When this process has left, about: the next one begins then."""
        self._leaving: dict[Connection, float] = {}
        """With the seconds that each should wait once the next process serves."""
        self._left: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._told = False

    def reset(self) -> None:
        """The application starts, perhaps anew."""
        self.ready, self.draining = True, False
        self._running = self._left = None
        self._told = False

    def booted(self, seconds: float) -> None:
        """So long the process took until it served, and so will the next. Only its first start tells."""
        if self._boot is None:
            self._boot = seconds

    def begin(self, *, others_serve: bool = False) -> asyncio.Task[None]:
        """End all connections; a second call joins the first."""
        if self._running is None:
            self._others_serve = others_serve or self._development
            self.ready, self.draining = False, True
            loop = asyncio.get_running_loop()
            self._gone_at = loop.time() + self._grace
            self._running = loop.create_task(self._run())
        return self._running

    async def settle(self) -> None:
        """Let what still runs finish in the rest of the time, then cancel it."""
        await self._tasks.settle(max(0.0, self._deadline - asyncio.get_running_loop().time()))

    def absence(self) -> float | None:
        """Seconds until the next process serves, about; None while this one does."""
        return self._absence(asyncio.get_running_loop().time()) if self.draining else None

    def _absence(self, now: float) -> float:
        if self._others_serve:
            return 0.0
        boot = USUAL_BOOT if self._boot is None else self._boot
        return max(0.0, self._gone_at - now) + boot

    def gone(self, conn: Connection) -> None:
        """A connection has given back what it held."""
        self._leaving.pop(conn, None)
        if self._left is not None and not self._leaving and not self._left.done():
            self._left.set_result(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._deadline = now + SHUTDOWN_GRACE
        conns = [conn for home in self._hub.homes.values() for conn in home.everyone()]
        if not conns:
            self._tell_nodes(0.0)
            return
        self._gone_at = min(self._deadline, self._gone_at + len(conns) / LEAVING)
        times = reconnection_times(len(conns), within=self._within)
        self._tell_nodes(self._absence(now) + max(times))
        self._leaving = dict(zip(conns, times, strict=True))
        self._left = loop.create_future()
        timer = loop.call_later(SILENCE, self.tell_who_is_left)
        self._ask(now)
        await self._end_those_who_stay(now)
        timer.cancel()
        for conn in list(self._leaving):
            conn._transport.abort()
        await asyncio.wait([self._left], timeout=CUT_GRACE)

    def _ask(self, now: float) -> None:
        absence = self._absence(now)
        for conn, time in self._leaving.items():
            if _may_be_asked(conn):
                conn._system("goaway", {"reason": "restart", "reconnect_in": _milliseconds(absence + time)})

    async def _end_those_who_stay(self, begun: float) -> None:
        """Close each when its time has come, and cut it off where it does not go. Until all have gone, or the end."""
        assert self._left is not None
        loop = asyncio.get_running_loop()
        closed: dict[Connection, float] = {}
        now = begun
        while self._leaving and now < self._deadline:
            for conn in list(self._leaving):
                since = closed.get(conn)
                if since is not None:
                    if now >= since + CLOSE_GRACE:
                        conn._transport.abort()
                        closed[conn] = math.inf
                elif conn._close is not None or self._may_end(conn, now, begun):
                    conn._end(CloseCode.RESTART, come_back(self._absence(now) + self._leaving[conn]))
                    closed[conn] = now
            await asyncio.wait([self._left], timeout=TURN)
            now = loop.time()

    def _may_end(self, conn: Connection, now: float, begun: float) -> bool:
        """Whether it may be closed now: whoever was asked to go has its time, and handlers have theirs."""
        if now >= begun + ACK_GRACE:
            return True
        asked = now >= begun + self._grace
        if not asked and _may_be_asked(conn):
            return False
        working = conn._pump is not None or conn._inbox
        # A handler that waits for a client which does not read, or does not answer, could wait for ever.
        return not working or (asked and bool(conn._waiters or conn._pending))

    def tell_who_is_left(self) -> None:
        """Log for whom an application that stops still waits; once, and not at all if for nobody."""
        conns = [conn for home in self._hub.homes.values() for conn in home.everyone()]
        if conns and not self._told:
            self._told = True
            there = [conn for conn in conns if conn.phase is ConnectionState.CLOSING]
            gone = [conn for conn in conns if conn.phase is not ConnectionState.CLOSING]
            logger.warning(
                "stopping; it waits for %s",
                " and ".join(
                    [*_named(there, "to take its close"), *_named(gone, "whose handlers still run")]
                ),
            )


def _may_be_asked(conn: Connection) -> bool:
    """Whether it knows `goaway`, and has been welcomed."""
    return conn._profile.v1 and conn.phase is ConnectionState.CONNECTED


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _named(conns: Sequence[Connection], what: str) -> Iterable[str]:
    """Connections in words: how many, and which the first of them are."""
    if not conns:
        return []
    shown = ", ".join(f"{conn.id} at {conn.namespace}" for conn in conns[:SHOWN])
    more = f" and {len(conns) - SHOWN} more" if len(conns) > SHOWN else ""
    return [f"{len(conns)} connection{'s'[: len(conns) > 1]} {what} ({shown}{more})"]
