"""Dispatch: one message, one answer. And the two ends of a connection, which take the same way as its messages.

A message is decoded when it arrives. Acks and control frames are handled at once; events wait in the connection's
inbox for its pump, a task that lives as long as there is something to handle, so events of one connection are
handled in order, and an idle connection has no task.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any, Protocol

import msgspec

from aquilia.di import ScopeContainer, Services
from aquilia.faults import Fault, FaultEngine
from aquilia.sockets.connection import INBOX_BYTES, INBOX_LIMIT, Connection, ConnectionState, DisconnectReason
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import (
    ClientFault,
    CloseCode,
    SocketFault,
    ws_connection_timeout,
    ws_handshake_failed,
    ws_internal_error,
    ws_message_invalid,
    ws_overloaded,
    ws_payload_too_large,
    ws_rate_limit_exceeded,
    ws_unsupported_event,
)
from aquilia.sockets.limits import Strikes
from aquilia.sockets.pump import Pump
from aquilia.sockets.routes import Hook, RouteCompiler, connection_container
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import TaskSet, own_error

__all__ = ["Dispatcher"]

logger = logging.getLogger("aquilia.sockets")

STRIKES = 20
STRIKE_WINDOW = 10.0
"""So many refusals by the rate limit within so many seconds end the connection."""
RATE_LIMIT_PAUSE_MS = 10_000
HANDLER_GRACE = 10.0
"""Seconds that a handler may still run after it closed its own connection."""

_CONNECT = object()
_CONNECTING = ConnectionState.CONNECTING
_CLOSE_FOR_STATUS = {
    401: CloseCode.UNAUTHENTICATED,
    403: CloseCode.FORBIDDEN,
    404: CloseCode.NO_NAMESPACE,
    503: CloseCode.OVERLOADED,
}


class Ends(Protocol):
    """What dispatch needs of the hub at the end of a connection."""

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
        development: bool,
    ) -> None:
        self.contract = contract
        self._node = node
        self._engine = engine
        self._tasks = tasks
        self._pump = Pump(tasks, self._handle)
        self._ends = ends
        self._development = development
        self._pattern = contract.declaration.path
        self._max_size = contract.settings.max_message_size
        compiler = RouteCompiler(contract, services, node.handler_timeout)
        self._routes = {name: compiler.route(event) for name, event in contract.events.items()}
        self._on_connect = [compiler.hook(hook) for hook in contract.on_connect]
        self._on_disconnect = [compiler.hook(hook) for hook in contract.on_disconnect]

    # The opening

    def on_open(self, conn: Connection) -> None:
        """The upgrade is done. A plain client is connected; one of protocol v1 speaks first."""
        if conn._profile.v1:
            conn._timer = asyncio.get_running_loop().call_later(
                self._node.handshake_timeout, self._hello_missing, conn
            )
        else:
            self._connected(conn)

    def _hello_missing(self, conn: Connection) -> None:
        conn._timer = None
        self._answer(conn, ws_connection_timeout("no hello came"), None)

    def _hello(self, conn: Connection, data: bytes) -> None:
        """The first frame of protocol v1: whatever it is but `hello`, it ends the connection."""
        try:
            asked = _hello_payload(conn, conn._codec.decode(data))
        except SocketFault as fault:
            self._answer(conn, ws_handshake_failed(fault.message), None)
            return
        conn._cancel_timer()
        conn._system("welcome", {"connection": conn.id, "heartbeat": self._node.heartbeat})
        if asked.get("resume") is not None:
            # Nothing is resumable here: no room was joined again, and the client has to know.
            conn._system("resumed", {"rooms": {}})
        self._connected(conn)

    def _connected(self, conn: Connection) -> None:
        conn.phase = ConnectionState.CONNECTED
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
        conn._heard_at = now = monotonic()
        codec = conn._codec
        if size > self._max_size:
            self._answer(conn, ws_payload_too_large(size, self._max_size), None)
        elif binary is not codec.binary:
            wanted = "binary" if codec.binary else "text"
            conn._end(CloseCode.UNSUPPORTED_DATA, f"this subprotocol has {wanted} frames")
        elif conn.phase is _CONNECTING:
            self._hello(conn, data)
        else:
            try:
                envelope = codec.decode(data)
            except SocketFault as fault:
                bucket = conn._bucket
                over = bucket is not None and not bucket.take(now)
                self._answer(conn, _limited(conn, now) if over else fault, _sender(conn, data))
                return
            try:
                self._take(conn, envelope, now)
            except SocketFault as fault:
                self._answer(conn, fault, envelope)

    def _take(self, conn: Connection, envelope: MessageEnvelope, now: float) -> None:
        kind = envelope.type
        if kind == "ack":
            self._acked(conn, envelope, now)
            return
        bucket = conn._bucket
        if bucket is not None and not bucket.take(now):
            raise _limited(conn, now)
        if kind != "event":
            self._control(conn, envelope)
            return
        name = envelope.event or ""
        route = self._routes.get(name)
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
            raise ws_unsupported_event("auth")
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
            limited = _limited(conn, now)
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
        if len(inbox) >= INBOX_LIMIT or conn.bytes_received - conn._inbox_since > INBOX_BYTES:
            conn._balance_reading()

    async def _handle(self, conn: Connection) -> None:
        """Handle what is in the inbox, and what comes meanwhile."""
        while inbox := conn._inbox:
            if conn._paused and conn._outbox.answers_half_full:
                await conn._drained()  # whoever does not read answers gets no more of them
                continue
            item = inbox.pop(0)
            if not inbox:
                conn._inbox = None
            if conn._paused:
                conn._balance_reading()
            if item is _CONNECT:
                await self._greet(conn)
                continue
            route, envelope = item
            try:
                data = await route.handle(conn, envelope)
                if envelope.ack or route.acks:
                    _ack(conn, envelope, data)
            except (Exception, asyncio.CancelledError) as error:
                fault = self._engine.process(own_error(error), route.where, internal=ws_internal_error)
                self._answer(conn, fault, envelope)

    async def _greet(self, conn: Connection) -> None:
        conn._started = True
        for hook in self._on_connect:
            try:
                await self._run_hook(conn, hook)
            except (Exception, asyncio.CancelledError) as error:
                fault = self._engine.process(
                    own_error(error), hook.where, internal=_internal_error_in_opening
                )
                self._refuse_opening(conn, fault)
                return

    def _refuse_opening(self, conn: Connection, fault: Fault) -> None:
        conn._home.recorder.fault(self._pattern, _label(fault))
        code = getattr(fault, "close_code", None)
        if code is None:
            code = _CLOSE_FOR_STATUS.get(fault.status, CloseCode.INTERNAL)
        conn._end(code, _close_text(fault))

    async def _run_hook(self, conn: Connection, hook: Hook, reason: DisconnectReason | None = None) -> None:
        arguments = {}
        if hook.injection.needed:
            arguments = await hook.injection.resolve(await connection_container(conn, hook.injection.scope))
        more = (reason,) if hook.takes_reason else ()
        await hook.function(conn._controller, conn, *more, **arguments)

    # The answer

    def _answer(self, conn: Connection, fault: Fault, envelope: MessageEnvelope | None) -> None:
        """Tell a client of a fault: as an error ack, an error event, or by closing. The one place that decides."""
        conn._home.recorder.fault(self._pattern, _label(fault))
        if isinstance(fault, SocketFault) and fault.close_code is not None:
            conn._end(fault.close_code, _close_text(fault))
            return
        try:
            conn._push_urgent(_error_message(fault, envelope))
        except TypeError as error:  # the application's own fault, with details that the codec cannot write
            fault = self._engine.process(error, f"the answer {fault.code}", internal=ws_internal_error)
            conn._push_urgent(_error_message(fault, envelope))

    # The end

    def on_writable(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        conn._writable()

    def on_shutdown(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        conn._end(CloseCode.RESTART, "the server restarts")

    def on_closed(self, conn: Connection, code: int, reason: str) -> None:
        """See `TransportEvents`."""
        by_server = conn._close is not None
        ended = conn._closed(code, reason)
        conn._home.recorder.closed(self._pattern, ended.code)
        self._tasks.start(self._finish(conn, ended, by_server=by_server), conn._context)

    async def _finish(self, conn: Connection, reason: DisconnectReason, *, by_server: bool) -> None:
        try:
            await self._end_pump(conn, by_server=by_server)
            for hook in self._on_disconnect if conn._started else ():
                try:
                    await self._run_hook(conn, hook, reason)
                except (Exception, asyncio.CancelledError) as error:
                    self._engine.process(own_error(error), hook.where, internal=ws_internal_error)
        finally:  # also when the process waits for the application no longer
            conn._finished = True
            await self._close_scope(conn._scope)
            conn._scope = None
            await self._ends.gone(conn)

    async def _end_pump(self, conn: Connection, *, by_server: bool) -> None:
        pump = conn._pump
        if isinstance(pump, asyncio.Task):
            await asyncio.sleep(0)  # a handler whose request has failed with the connection learns that first
            if by_server:
                # The handler that closed the connection may still have something to do.
                await asyncio.wait([pump], timeout=HANDLER_GRACE)
            pump.cancel()
            await asyncio.wait([pump])

    async def _close_scope(self, scope: ScopeContainer | None) -> None:
        if scope is not None:
            try:
                await scope.aclose()
            except Exception as error:
                self._engine.process(error, "cleanup of the connection scope", internal=ws_internal_error)


def _limited(conn: Connection, now: float) -> SocketFault:
    assert conn._bucket is not None
    if conn._strikes is None:
        conn._strikes = Strikes(STRIKES, STRIKE_WINDOW)
    return ws_rate_limit_exceeded(
        f"more than {conn._bucket.rate:g} messages a second", close=conn._strikes.strike(now)
    )


def _ack(conn: Connection, envelope: MessageEnvelope, data: Any) -> None:
    answer: dict[str, Any] = {"status": "ok"}
    if data is not None:
        answer["data"] = data
    conn._push_urgent(MessageEnvelope(type="ack", id=envelope.id, payload=answer))


def _hello_payload(conn: Connection, envelope: MessageEnvelope) -> dict[str, Any]:
    if envelope.type != "control" or envelope.event != "hello":
        raise ws_handshake_failed("the first frame must be the control frame hello")
    asked = conn._codec.plain(envelope.payload)
    if not isinstance(asked, dict | None):
        raise ws_handshake_failed("the payload of hello is a map")
    asked = asked or {}
    if asked.get("token") is not None:
        raise ws_handshake_failed("this server checks no tokens: it has no AuthManager")
    if not isinstance(asked.get("resume"), dict | None):
        raise ws_handshake_failed("resume in hello is a map of token and rooms")
    return asked


def _error_message(fault: Fault, envelope: MessageEnvelope | None) -> MessageEnvelope:
    """The error ack for a message with an id, else the error event."""
    error = fault.as_dict()
    if envelope is not None and envelope.id is not None:
        return MessageEnvelope(type="ack", id=envelope.id, payload={"status": "error", "error": error})
    if envelope is not None and envelope.event is not None:
        error["event"] = envelope.event
    return MessageEnvelope(event="error", payload=error)


def _label(fault: Fault) -> str:
    """What is counted. A client's own codes would be labels without end."""
    return "WS_CLIENT_ERROR" if isinstance(fault, ClientFault) else fault.code


def _sender(conn: Connection, data: bytes) -> MessageEnvelope | None:
    """Of a message that is no envelope, its id and event as far as they can be read: the answer carries them."""
    try:
        broken = conn._codec.plain(msgspec.Raw(data))
    except SocketFault:
        return None
    if not isinstance(broken, dict):
        return None
    id, event = broken.get("id"), broken.get("event")
    return MessageEnvelope(
        id=id if isinstance(id, str) and 1 <= len(id) <= 64 else None,
        event=event if isinstance(event, str) and 1 <= len(event) <= 128 else None,
    )


def _internal_error_in_opening(incident: str) -> SocketFault:
    return ws_internal_error(incident, close=True)


def _close_text(fault: Fault) -> str:
    if fault.code == "WS_RATE_LIMIT_EXCEEDED":
        return msgspec.json.encode({"after": RATE_LIMIT_PAUSE_MS}).decode()
    return f"{fault.code}: {fault.message}".encode()[:123].decode(errors="ignore")
