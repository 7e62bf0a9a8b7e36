"""A connection that one function has as a whole: what runs that function, and hands messages to it.

They are raw, no envelopes. All else is as for a controller: the way in, the outbox, the bounds, the end.
`aquilia.sockets.compat` is where such functions are declared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aquilia.clock import Clock
from aquilia.di import Services
from aquilia.faults import FaultEngine
from aquilia.sockets.answers import (
    close_code,
    close_text,
    close_with,
    fault_of,
    internal_error_in_opening,
    note_fault,
)
from aquilia.sockets.connection import Connection, ConnectionState
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.envelope import PLAIN_JSON, Profile
from aquilia.sockets.faults import (
    CloseCode,
    SocketFault,
    ws_overloaded,
    ws_payload_too_large,
    ws_rate_limit_exceeded,
)
from aquilia.sockets.flow_request import FlowRequest
from aquilia.sockets.handshake.authentication import Arrival
from aquilia.sockets.handshake.request import Handshake
from aquilia.sockets.idempotence import Promises
from aquilia.sockets.lifecycle import HANDLER_GRACE, Ends
from aquilia.sockets.limits.idle import IdleWatch
from aquilia.sockets.limits.rates import excess
from aquilia.sockets.metrics.figures import OTHER, Meter
from aquilia.sockets.session_saving import saving
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import TaskSet

__all__ = ["FlowDispatcher"]


class FlowDispatcher:
    """Runs a function for each connection of its path; implements `TransportEvents`, whose `conn` is the request."""

    def __init__(
        self,
        contract: SocketContract,
        services: Services,
        *,
        node: NodeSettings,
        engine: FaultEngine,
        tasks: TaskSet,
        promises: Promises,
        ends: Ends,
        clock: Clock,
        development: bool,
        sessions: bool,
        meter: Meter | None = None,
    ) -> None:
        function = contract.declaration.function
        assert function is not None
        self.contract = contract
        self._function = saving(function) if sessions else function
        self._timeout = node.handshake_timeout
        self._engine = engine
        self._tasks = tasks
        self._ends = ends
        self._monotonic = clock.monotonic
        self._received = None if meter is None else meter.received_kinds[OTHER]
        self._pattern = contract.declaration.path
        self._where = function.__qualname__
        idle = contract.settings.idle_timeout
        self._idle = None if idle is None else IdleWatch(idle)
        self._max_size = contract.settings.max_message_size

    # The opening

    def negotiate(self, offered: Sequence[str]) -> tuple[Profile, str | None]:
        """The function chooses the subprotocol itself. If others publish to its clients, it is as plain JSON."""
        return PLAIN_JSON, None

    def begin(self, handshake: Handshake, offered: Sequence[str]) -> FlowRequest:
        """Start the function."""
        request = FlowRequest(handshake, offered)
        request._task = self._tasks.start(self._run(request))
        return request

    async def decided(self, request: FlowRequest) -> None:
        """Wait until the function has accepted the client.

        Raises:
            Exception: what refuses the client.
        """
        try:
            async with asyncio.timeout(self._timeout) as timer:
                await request._decided
        except TimeoutError:
            if not timer.expired():
                raise
            raise ws_overloaded(f"{self._where} did not accept within {self._timeout:g} s") from None

    def on_open(self, conn: Connection, arrival: Arrival | None = None) -> None:
        """The upgrade is done; a raw client says no more in some `hello`, so it has no `arrival`."""
        conn.phase = ConnectionState.CONNECTED
        conn._started = True
        if self._idle is not None:
            self._idle.add(conn)

    async def _run(self, request: FlowRequest) -> None:
        failed: Exception | None = None
        try:
            await self._function(request)
        except asyncio.CancelledError as error:
            conn = request._conn
            if request._abandoned or (conn is not None and conn._close is not None):
                raise  # by us, since the client has gone
            failed = RuntimeError(f"{self._where} was cancelled while its client was there")
            failed.__cause__ = error
        except Exception as error:
            failed = error
        except GeneratorExit:
            raise  # the loop is over
        except BaseException as error:
            told = RuntimeError(f"{self._where} ended with {type(error).__qualname__}")
            request._over(told, (CloseCode.INTERNAL, ""))  # else the client would wait for nobody
            raise
        request._over(failed, self._ended_by(request, failed))
        del failed  # whose traceback leads back to this frame

    def _ended_by(self, request: FlowRequest, error: Exception | None) -> tuple[int, str]:
        """How a connection ends whose function did so."""
        conn = request._conn
        if error is None or not request._decided.done():
            return CloseCode.NORMAL, ""  # an error before the decision is told by the handshake
        if conn is not None and conn._close is not None and _says_closed(error):
            return CloseCode.NORMAL, ""  # it heard so of the end
        if conn is None:  # the upgrade is under way
            fault = self._engine.process(error, self._where, internal=internal_error_in_opening)
        else:
            fault = fault_of(self._engine, error, self._where, conn, internal=internal_error_in_opening)
            note_fault(conn, fault, closes=True)
        return close_code(fault), close_text(fault)

    # Messages

    def on_message(self, request: FlowRequest, data: bytes, *, binary: bool) -> None:
        """See `TransportEvents`."""
        conn = request._conn
        if conn is None or conn._close is not None:
            return
        size = len(data)
        conn.messages_received += 1
        conn.bytes_received += size
        conn._heard_at = now = self._monotonic()
        if self._received is not None:
            self._received.add(size)
        bucket = conn._bucket
        if size > self._max_size:
            close_with(conn, ws_payload_too_large(size, self._max_size))
        elif bucket is not None and not bucket.take(now):
            # A raw client cannot be told that one of its messages was refused.
            close_with(conn, ws_rate_limit_exceeded(excess(conn), close=True))
        else:
            request._put(conn, data if binary else data.decode())

    def on_writable(self, request: FlowRequest) -> None:
        """See `TransportEvents`."""
        request._accepted()._writable()

    def on_held(self, request: FlowRequest) -> None:
        """See `TransportEvents`."""
        conn = request._accepted()
        conn._hub.weigh_inbox(conn)

    def on_shutdown(self, request: FlowRequest) -> None:
        """See `TransportEvents`."""
        self._ends.stopping()

    # The end

    def on_closed(self, request: FlowRequest, code: int, reason: str) -> None:
        """See `TransportEvents`."""
        conn = request._accepted()
        if self._idle is not None:
            self._idle.remove(conn)
        by_server = conn._close is not None
        ended = conn._closed(code, reason)
        conn._home.recorder.closed(self._pattern, ended.code)
        if by_server:
            request._messages.clear()
        # Who waits for a message hears so of the end, and may still have something to do.
        patient = by_server or request._arrival is not None
        request._wake()
        self._tasks.start(self._finish(request, conn, patient=patient), conn._context)

    async def _finish(self, request: FlowRequest, conn: Connection, *, patient: bool) -> None:
        try:
            task = request._task
            if task is not None:
                await asyncio.sleep(0)
                if patient:
                    await asyncio.wait([task], timeout=HANDLER_GRACE)
                task.cancel()
                await asyncio.wait([task])
        finally:
            conn._finished = True
            await self._ends.gone(conn)


def _says_closed(error: Exception) -> bool:
    return isinstance(error, SocketFault) and error.code == "WS_CONNECTION_CLOSED"
