"""Dispatch: one message, one answer. And the two ends of a connection, which take the same way as its messages.

A message is decoded when it arrives. Acks and control frames are handled at once; events wait in the connection's
inbox until the pump handles the connection, so they are handled in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

from aquilia.auth import expiry
from aquilia.clock import Clock
from aquilia.di import Services
from aquilia.faults import Fault, FaultEngine
from aquilia.sockets.answers import (
    ack,
    close_code,
    close_text,
    error_message,
    hello_payload,
    internal_error_in_opening,
    label,
    sender,
)
from aquilia.sockets.authentication import Arrival
from aquilia.sockets.connection import INBOX_LIMIT, Connection, ConnectionState, DisconnectReason
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.credentials import Credentials
from aquilia.sockets.envelope import MessageEnvelope, Profile
from aquilia.sockets.faults import (
    CloseCode,
    SocketFault,
    ws_connection_timeout,
    ws_handshake_failed,
    ws_internal_error,
    ws_message_invalid,
    ws_overloaded,
    ws_payload_too_large,
    ws_unsupported_event,
)
from aquilia.sockets.handshake import choose_profile
from aquilia.sockets.pump import Pump
from aquilia.sockets.rates import over_rate
from aquilia.sockets.routes import Hook, RouteCompiler
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import TaskSet, own_error, pass_on

__all__ = ["Dispatcher"]

logger = logging.getLogger("aquilia.sockets")

HANDLER_GRACE = 10.0
"""Seconds that a handler may still run after it closed its own connection."""

_CONNECT = object()
_CONNECTING = ConnectionState.CONNECTING


class _Hello:
    """A `hello` whose token is to be looked at."""

    __slots__ = ("arrival", "asked")

    def __init__(self, asked: dict[str, Any], arrival: Arrival) -> None:
        self.asked = asked
        self.arrival = arrival


class Ends(Protocol):
    """What dispatch needs of the process at the end of a connection."""

    async def gone(self, conn: Connection) -> None:
        """Give back what the connection held."""


class Dispatcher:
    """Handles all messages of one controller's connections; implements `TransportEvents`.

    Everything that can be decided at boot is: an event's name indexes one callable, composed of middleware,
    guards, schema and method.
    """

    def __init__(
        self,
        contract: SocketContract,
        services: Services,
        *,
        node: NodeSettings,
        engine: FaultEngine,
        tasks: TaskSet,
        ends: Ends,
        clock: Clock,
        development: bool,
        sessions: bool,
    ) -> None:
        self.contract = contract
        self._node = node
        self._engine = engine
        self._tasks = tasks
        self._pump = Pump(tasks, self._handle)
        self._ends = ends
        self._monotonic = clock.monotonic
        self._development = development
        self._pattern = contract.declaration.path
        self._name = contract.controller.__qualname__
        self._arrivals: dict[Connection, Arrival] = {}
        """Clients whose `hello` is to come, and may say who they are."""
        self._credentials = Credentials(contract, engine, tasks, self._answer)
        self._max_size = contract.settings.max_message_size
        compiler = RouteCompiler(contract, services, node.handler_timeout, sessions=sessions)
        self._routes = {name: compiler.route(event) for name, event in contract.events.items()}
        self._on_connect = [compiler.hook(hook) for hook in contract.on_connect]
        self._on_disconnect = [compiler.hook(hook) for hook in contract.on_disconnect]

    # The opening

    def negotiate(self, offered: Sequence[str]) -> tuple[Profile, str | None]:
        """What is spoken with a client that offers these subprotocols: see `choose_profile`."""
        return choose_profile(offered, self.contract.settings.subprotocols)

    def on_open(self, conn: Connection, arrival: Arrival | None = None) -> None:
        """The upgrade is done. A plain client is connected; one of protocol v1 speaks first, by its `arrival`."""
        if conn._profile.v1:
            if arrival is not None:
                self._arrivals[conn] = arrival
            conn._timer = asyncio.get_running_loop().call_later(
                self._node.handshake_timeout, self._hello_missing, conn
            )
        else:
            self._connected(conn)

    def _hello_missing(self, conn: Connection) -> None:
        conn._timer = None
        what = "no hello came" if conn._pump is None else "the authentication took too long"
        self._answer(conn, ws_connection_timeout(what), None)

    def _hello(self, conn: Connection, data: bytes) -> None:
        """The first frame of protocol v1: whatever it is but `hello`, it ends the connection."""
        if conn._pump is not None:  # hello came, and its token is being looked at: the rest waits for that
            self._enqueue(conn, data)
            return
        self._count(conn, "control", len(data))
        try:
            has_auth = self.contract.auth is not None
            asked = hello_payload(conn._codec, conn._codec.decode(data), has_auth=has_auth)
        except SocketFault as fault:
            self._answer(conn, ws_handshake_failed(fault.message), None)
            return
        arrival = self._arrivals.pop(conn, None)
        if arrival is not None and asked.get("token") is not None:
            self._enqueue(conn, _Hello(asked, arrival))
        elif arrival is not None and arrival.verdict is not None:
            where = f"hello of {self._name}"
            verdict = self._engine.process(arrival.verdict, where, internal=internal_error_in_opening)
            self._refuse_opening(conn, verdict)
        else:
            self._welcome(conn, asked)

    async def _arrive(self, conn: Connection, hello: _Hello) -> None:
        """Authenticate by the token in `hello`, in the place of the connection's first handler."""
        try:
            await hello.arrival.identify(hello.asked["token"])
        except (Exception, asyncio.CancelledError) as error:
            own = own_error(error, meant=conn._close is not None)
            fault = self._engine.process(own, f"hello of {self._name}", internal=internal_error_in_opening)
            if conn._close is None:
                self._refuse_opening(conn, fault)
            pass_on(error)
            return
        if conn._close is not None:  # its time was up
            return
        conn.identity = hello.arrival.handshake.identity
        conn.session = hello.arrival.handshake.session
        waiting, conn._inbox = conn._inbox or (), None
        if conn._paused:
            conn._balance_reading()
        self._welcome(conn, hello.asked)
        for data in waiting:
            if conn._close is not None:
                break
            # It was counted when it came, and is so again.
            conn.messages_received -= 1
            conn.bytes_received -= len(data)
            self.on_message(conn, data, binary=conn._codec.binary)

    def _welcome(self, conn: Connection, asked: dict[str, Any]) -> None:
        conn._cancel_timer()
        told: dict[str, Any] = {"connection": conn.id, "heartbeat": self._node.heartbeat}
        moment = expiry(conn.identity)
        if moment is not None:
            told["expires"] = int(moment * 1000)
        conn._system("welcome", told)
        if asked.get("resume") is not None:
            # Nothing is resumable here: no room was joined again, and the client has to know.
            conn._system("resumed", {"rooms": {}})
        self._connected(conn)

    def _connected(self, conn: Connection) -> None:
        conn.phase = ConnectionState.CONNECTED
        if conn.identity is not None:
            self._credentials.watch(conn)
            if conn._close is not None:
                return
        if conn._profile.v1:  # a plain client was let in when it came
            conn._hub.add(conn)
        if self._on_connect:
            self._enqueue(conn, _CONNECT)
        else:
            conn._started = True

    # One message

    def on_message(self, conn: Connection, data: bytes, *, binary: bool) -> None:
        """See `TransportEvents`."""
        if conn._close is not None:
            return
        size = len(data)
        conn.messages_received += 1
        conn.bytes_received += size
        conn._heard_at = now = self._monotonic()
        codec = conn._codec
        if size > self._max_size:
            self._count(conn, "invalid", size)
            self._answer(conn, ws_payload_too_large(size, self._max_size), None)
        elif binary is not codec.binary:
            self._count(conn, "invalid", size)
            wanted = "binary" if codec.binary else "text"
            conn._end(CloseCode.UNSUPPORTED_DATA, f"this subprotocol has {wanted} frames")
        elif conn.phase is _CONNECTING:
            self._hello(conn, data)
        else:
            try:
                envelope = codec.decode(data)
            except SocketFault as fault:
                self._count(conn, "invalid", size)
                bucket = conn._bucket
                answer = fault if bucket is None or bucket.take(now) else over_rate(conn, bucket.rate, now)
                self._answer(conn, answer, sender(conn._codec, data))
                return
            try:
                self._take(conn, envelope, now, size)
            except SocketFault as fault:
                self._answer(conn, fault, envelope)

    def _count(self, conn: Connection, kind: str, size: int) -> None:
        """A message has come that no handler is for; metrics may want to know of it."""

    def _take(self, conn: Connection, envelope: MessageEnvelope, now: float, size: int) -> None:
        """One message that could be read; it had `size` bytes."""
        kind = envelope.type
        route = self._routes.get(envelope.event or "") if kind == "event" else None
        if route is None:
            self._count(conn, kind, size)
        elif (tally := route.received) is not None:
            tally.messages += 1
            tally.bytes += size
        if kind == "ack":
            self._acked(conn, envelope, now)
            return
        bucket = conn._bucket
        if bucket is not None and not bucket.take(now):
            raise over_rate(conn, bucket.rate, now)
        if kind != "event":
            self._control(conn, envelope)
            return
        name = envelope.event or ""
        if route is None:
            raise ws_unsupported_event(name, self._routes if self._development else ())
        if route.acks and envelope.id is None:
            raise ws_message_invalid(f"{name!r} is acked: it needs an id")
        if conn._pending and conn._inbox_full(INBOX_LIMIT):
            raise ws_overloaded("too many events wait behind one that waits for your ack")
        self._enqueue(conn, (route, envelope))

    def _control(self, conn: Connection, envelope: MessageEnvelope) -> None:
        if envelope.type != "control" or not conn._profile.v1:
            raise ws_message_invalid(
                f"a message of type {envelope.type!r} is not for clients of this subprotocol to send"
            )
        if envelope.event == "ping":
            conn._system("pong")
        elif envelope.event == "hello":
            raise ws_message_invalid("hello came already")
        elif envelope.event == "auth":
            self._credentials.renew(conn, envelope)
        else:
            raise ws_message_invalid(
                f"unknown control frame {envelope.event!r} (accepted: hello, auth, ping)"
            )

    def _acked(self, conn: Connection, envelope: MessageEnvelope, now: float) -> None:
        payload = conn._codec.plain(envelope.payload)
        if conn._settle(envelope.id or "", payload):
            return
        conn._home.recorder.unmatched_ack(self._pattern)
        bucket = conn._bucket
        if bucket is not None and not bucket.take(now):  # nobody asked for it: it counts like an event
            limited = over_rate(conn, bucket.rate, now)
            if limited.close_code is not None:
                raise limited

    # The handling

    def _enqueue(self, conn: Connection, item: Any) -> None:
        inbox = conn._inbox
        if inbox is None:
            conn._inbox = [item]
            conn._inbox_since = conn.bytes_received
            if conn._pump is None:
                self._pump.add(conn)
            return
        inbox.append(item)
        if conn._inbox_full(INBOX_LIMIT):
            conn._balance_reading()

    async def _handle(self, conn: Connection) -> None:
        """Handle what is in the inbox, and what comes meanwhile."""
        begun: float | None = None
        while inbox := conn._inbox:
            if conn._paused and conn._outbox.answers_half_full:
                await conn._drained()  # whoever does not read answers gets no more of them
                begun = None
                continue
            item = inbox.pop(0)
            if not inbox:
                conn._inbox = None
            if conn._paused:
                conn._balance_reading()
            if item.__class__ is not tuple:
                await (self._greet(conn) if item is _CONNECT else self._arrive(conn, item))
                begun = None
                continue
            route, envelope = item
            if route.handling is not None and begun is None:
                begun = perf_counter()
            try:
                data = await route.handle(conn, envelope)
                if envelope.ack or route.acks:
                    conn._push_urgent(ack(envelope, data))
            except (Exception, asyncio.CancelledError) as error:
                own = own_error(error, meant=conn._close is not None)
                self._answer(conn, self._fault(conn, own, route.where, envelope), envelope)
                pass_on(error)
            finally:
                if begun is not None:
                    ended = perf_counter()
                    route.handling.observe(ended - begun)
                    begun = ended  # of the next, if there is one: reading the clock is not for nothing

    async def _greet(self, conn: Connection) -> None:
        conn._started = True
        for hook in self._on_connect:
            try:
                await hook.run(conn, None)
            except (Exception, asyncio.CancelledError) as error:
                own = own_error(error, meant=conn._close is not None)
                fault = self._fault(conn, own, hook.where, internal=internal_error_in_opening)
                self._refuse_opening(conn, fault)
                pass_on(error)
                return

    def _refuse_opening(self, conn: Connection, fault: Fault) -> None:
        conn._home.recorder.fault(self._pattern, label(fault))
        conn._end(close_code(fault), close_text(fault))

    # The answer

    def _fault(
        self,
        conn: Connection,
        error: Exception,
        where: str,
        envelope: MessageEnvelope | None = None,
        *,
        internal: Callable[[str], Fault] = ws_internal_error,
    ) -> Fault:
        """The fault that answers an error; if nobody foresaw it, the log says whose it was."""
        about = {"connection": conn.id, "namespace": conn.namespace, "pattern": self._pattern}
        if envelope is not None:
            about["event"] = envelope.event or ""
        return self._engine.process(error, where, internal=internal, about=about)

    def _answer(self, conn: Connection, fault: Fault, envelope: MessageEnvelope | None) -> None:
        """Tell a client of a fault: as an error ack, an error event, or by closing. The one place that decides."""
        conn._home.recorder.fault(self._pattern, label(fault))
        if isinstance(fault, SocketFault) and fault.close_code is not None:
            conn._end(fault.close_code, close_text(fault))
            return
        try:
            conn._push_urgent(error_message(fault, envelope))
        except TypeError as error:  # the application's own fault, with details that the codec cannot write
            fault = self._fault(conn, error, f"the answer {fault.code}", envelope)
            conn._push_urgent(error_message(fault, envelope))

    # The end

    def on_writable(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        conn._writable()

    def on_shutdown(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        conn._end(CloseCode.RESTART, "the server restarts")

    def on_closed(self, conn: Connection, code: int, reason: str) -> None:
        """See `TransportEvents`."""
        self._arrivals.pop(conn, None)
        self._credentials.forget(conn)
        by_server = conn._close is not None
        ended = conn._closed(code, reason)
        conn._home.recorder.closed(self._pattern, ended.code)
        self._tasks.start(self._finish(conn, ended, by_server=by_server), conn._context)

    async def _finish(self, conn: Connection, reason: DisconnectReason, *, by_server: bool) -> None:
        try:
            await self._end_pump(conn, by_server=by_server)
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
        fault = self._fault(conn, error, hook.where)
        if fault.code != "WS_INTERNAL_ERROR":  # which has been logged, with its incident
            logger.log(fault.severity.log_level, "%s (%s) ended with %s", hook.where, hook.location, fault)

    async def _end_pump(self, conn: Connection, *, by_server: bool) -> None:
        pump = conn._pump
        if isinstance(pump, asyncio.Task):
            await asyncio.sleep(0)  # a handler whose request has failed with the connection learns that first
            if by_server and conn._started:
                # The handler that closed the connection may still have something to do.
                await asyncio.wait([pump], timeout=HANDLER_GRACE)
            pump.cancel()
            await asyncio.wait([pump])

    async def _close_scope(self, conn: Connection) -> None:
        scope, conn._scope = conn._scope, None
        if scope is not None:
            try:
                await scope.aclose()
            except Exception as error:
                self._fault(conn, error, "cleanup of the connection scope")
