"""The two ends of a connection: what a controller does there, and what is given back at the last.

What `@OnConnect` raises ends the connection. Of what `@OnDisconnect` raises there is nobody left to tell but the log.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from aquilia.faults import FaultEngine
from aquilia.sockets.answers import close_with, fault_of, internal_error_in_opening
from aquilia.sockets.connection import Connection, DisconnectReason
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.idempotence import Promises
from aquilia.sockets.routes import Hook, RouteCompiler
from aquilia.sockets.tasks import own_error, pass_on

__all__ = ["HANDLER_GRACE", "Ends", "Lifecycle"]

logger = logging.getLogger("aquilia.sockets")

HANDLER_GRACE = 10.0
"""Seconds that a handler may still run after it closed its own connection."""


class Ends(Protocol):
    """What dispatch needs of the process at the end of a connection."""

    async def gone(self, conn: Connection) -> None:
        """Give back what the connection held."""

    def stopping(self) -> None:
        """The server stops."""


class Lifecycle:
    """The ends of one controller's connections."""

    def __init__(
        self,
        contract: SocketContract,
        compiler: RouteCompiler,
        *,
        engine: FaultEngine,
        promises: Promises,
        ends: Ends,
    ) -> None:
        self._on_connect = [compiler.hook(hook) for hook in contract.on_connect]
        self._on_disconnect = [compiler.hook(hook) for hook in contract.on_disconnect]
        self.greets = bool(self._on_connect)
        """Whether it does anything when a connection opens."""
        self._engine = engine
        self._promises = promises
        self._ends = ends

    async def greet(self, conn: Connection) -> None:
        """Let the controller meet a connection, before its first message."""
        conn._started = True
        for hook in self._on_connect:
            try:
                await hook.run(conn, None)
                if conn._state is not None and conn._resumable is not None:
                    await conn._resumable.keeper.keep_state(conn)
            except (Exception, asyncio.CancelledError) as error:
                own = own_error(error, meant=conn._close is not None)
                fault = fault_of(self._engine, own, hook.where, conn, internal=internal_error_in_opening)
                close_with(conn, fault)
                del own, fault  # whose tracebacks lead back to this frame
                pass_on(error)
                return

    async def finish(self, conn: Connection, reason: DisconnectReason, *, by_server: bool) -> None:
        """Let its handlers come to their end, and the controller take leave; then give all back."""
        try:
            if conn._resumable is not None:
                await conn._resumable.keeper.leave(conn, reason.code)
            await self._end_pump(conn, by_server=by_server)
            if conn._resumable is not None:  # its session was written while it ended
                await conn._resumable.keeper.leave(conn, reason.code)
            for hook in self._on_disconnect if conn._started else ():
                try:
                    await hook.run(conn, reason)
                except (Exception, asyncio.CancelledError) as error:
                    self._note(conn, hook, own_error(error))
        finally:  # also when the process waits for the application no longer
            conn._finished = True
            await self._close_scope(conn)
            await self._ends.gone(conn)

    def _note(self, conn: Connection, hook: Hook, error: Exception) -> None:
        """Log what an `@OnDisconnect` raised: there is nobody left to tell."""
        fault = fault_of(self._engine, error, hook.where, conn)
        if fault.code != "WS_INTERNAL_ERROR":  # which has been logged, with its incident
            logger.log(fault.severity.log_level, "%s (%s) ended with %s", hook.where, hook.location, fault)

    async def _end_pump(self, conn: Connection, *, by_server: bool) -> None:
        pump = conn._pump
        if isinstance(pump, asyncio.Task):
            await asyncio.sleep(0)  # a handler whose request has failed with the connection learns that first
            if by_server and conn._started:
                # The handler that closed the connection may still have something to do.
                await asyncio.wait([pump], timeout=HANDLER_GRACE)
            if self._promises.holds(conn):
                await asyncio.wait([pump])
            pump.cancel()
            await asyncio.wait([pump])

    async def _close_scope(self, conn: Connection) -> None:
        scope, conn._scope = conn._scope, None
        if scope is not None:
            try:
                await scope.aclose()
            except Exception as error:
                fault_of(self._engine, error, "cleanup of the connection scope", conn)
