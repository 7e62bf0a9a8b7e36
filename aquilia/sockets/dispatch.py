"""Dispatch: one message, one answer. The two ends of a connection (`lifecycle`) take the same way as its messages.

A message is decoded when it arrives. Acks and control frames are handled at once; events wait in the connection's
inbox until the pump handles the connection, so they are handled in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from aquilia.clock import Clock
from aquilia.di import Services
from aquilia.faults import Fault, FaultEngine
from aquilia.sockets.answers import (
    ack,
    close_with,
    error_message,
    fault_of,
    note_fault,
    sender,
)
from aquilia.sockets.connection import (
    INBOX_LIMIT,
    MESSAGE_OVERHEAD,
    Connection,
    ConnectionState,
)
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.credentials import Credentials
from aquilia.sockets.envelope import MessageEnvelope, Profile
from aquilia.sockets.faults import (
    CloseCode,
    SocketFault,
    ws_message_invalid,
    ws_overloaded,
    ws_payload_too_large,
    ws_unsupported_event,
)
from aquilia.sockets.handshake.authentication import Arrival
from aquilia.sockets.handshake.hello import HelloExchange
from aquilia.sockets.handshake.request import choose_profile
from aquilia.sockets.idempotence import Promises
from aquilia.sockets.lifecycle import Ends, Lifecycle
from aquilia.sockets.limits.idle import IdleWatch
from aquilia.sockets.limits.rates import over_limit
from aquilia.sockets.metrics.figures import OTHER, Meter, Tally
from aquilia.sockets.pump import Pump
from aquilia.sockets.resume.sessions import Resumption
from aquilia.sockets.routes import RouteCompiler
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import TaskSet, own_error, pass_on

__all__ = ["Dispatcher"]

NOTICED = 40_000
"""Bytes of one connection that need not be counted before its handlers had their turn: 64 messages of a hundred."""

_CONNECTING = ConnectionState.CONNECTING


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
        promises: Promises,
        ends: Ends,
        clock: Clock,
        development: bool,
        sessions: bool,
        meter: Meter | None = None,
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
        self._hello = HelloExchange(
            contract,
            node,
            engine,
            enqueue=self._enqueue,
            connected=self._connected,
            messages=self,
        )
        self._sessions_expire = sessions and node.revocation
        self._credentials = Credentials(
            contract,
            engine,
            tasks,
            self._answer,
            patience=node.handshake_timeout,
            sessions=self._sessions_expire,
        )
        idle = contract.settings.idle_timeout
        self._idle = None if idle is None else IdleWatch(idle)
        self._max_size = contract.settings.max_message_size
        compiler = RouteCompiler(
            contract, services, node.handler_timeout, promises=promises, engine=engine, sessions=sessions
        )
        self._routes = {name: compiler.route(event) for name, event in contract.events.items()}
        self._kinds: dict[str, Tally] | None = None
        if meter is not None:
            self._measure(meter)
        self._life = Lifecycle(contract, compiler, engine=engine, promises=promises, ends=ends)

    def _measure(self, meter: Meter) -> None:
        """Count what comes, by event, and the seconds that handling it takes."""
        kinds = meter.received_kinds
        # An event that nobody handles; and `system`, which is not for clients to send.
        self._kinds = {**kinds, "event": kinds[OTHER], "system": kinds["invalid"]}
        for name, route in self._routes.items():
            self._routes[name] = replace(route, received=meter.received[name], handling=meter.handling[name])

    def keep_sessions(self, resumption: Resumption) -> None:
        """Let clients of v1 come back to their sessions. Before the first connection."""
        self._hello.resumption = resumption

    # The opening

    def negotiate(self, offered: Sequence[str]) -> tuple[Profile, str | None]:
        """What is spoken with a client that offers these subprotocols: see `choose_profile`."""
        return choose_profile(offered, self.contract.settings.subprotocols)

    def on_open(self, conn: Connection, arrival: Arrival | None = None) -> None:
        """The upgrade is done. A plain client is connected; one of protocol v1 speaks first, by its `arrival`."""
        if conn._profile.v1:
            self._hello.expect(conn, arrival)
        else:
            self._connected(conn)

    def _connected(self, conn: Connection) -> None:
        conn.phase = ConnectionState.CONNECTED
        if conn.identity is not None or self._sessions_expire:
            self._credentials.watch(conn)
            if conn._close is not None:
                return
        if conn._profile.v1:  # a plain client was let in when it came
            conn._hub.add(conn)
        if self._idle is not None:
            self._idle.add(conn)
        if self._life.greets:
            self._enqueue(conn, self._life.greet)
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
            if conn._pump is None:  # else it waits for the answer to hello, and is counted behind that
                self._count(conn, "control", size)
            self._hello.take(conn, data)
        else:
            try:
                envelope = codec.decode(data)
            except SocketFault as fault:
                self._count(conn, "invalid", size)
                bucket = conn._bucket
                passes = bucket is None or bucket.take(now)
                # Under no second name: its traceback leads back to this frame, and both would keep the data.
                self._answer(conn, fault if passes else over_limit(conn, now), sender(conn._codec, data))
                return
            try:
                self._take(conn, envelope, now, size)
            except SocketFault as fault:
                self._answer(conn, fault, envelope)

    def _count(self, conn: Connection, kind: str, size: int) -> None:
        """A message has come that no handler is for."""
        if self._kinds is not None:
            self._kinds[kind].add(size)

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
            raise over_limit(conn, now)
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
        size += MESSAGE_OVERHEAD
        self._enqueue(conn, (route, envelope, size), size)

    def _control(self, conn: Connection, envelope: MessageEnvelope) -> None:
        if envelope.type != "control" or not conn._profile.v1:
            raise ws_message_invalid(
                f"a message of type {envelope.type!r} is not for clients of this subprotocol to send"
            )
        if envelope.event == "ping":
            if self._idle is not None:
                self._idle.pinged(conn)
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
            limited = over_limit(conn, now)
            if limited.close_code is not None:
                raise limited

    # The handling

    def _enqueue(self, conn: Connection, item: Any, size: int = 0) -> None:
        """Let something wait for the connection's turn, that takes so many bytes of memory."""
        inbox = conn._inbox
        conn._unhandled += size
        if inbox is None:
            conn._inbox = [item]
            conn._inbox_since = conn.bytes_received
            if conn._pump is None:
                self._pump.add(conn)
            if not conn._intake and size <= NOTICED:
                return
        else:
            inbox.append(item)
        if conn._intake or conn._unhandled > NOTICED:
            conn._hub.weigh_inbox(conn)
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
            if item.__class__ is not tuple:  # it belongs to the opening
                conn._in_hand = MESSAGE_OVERHEAD
                await item(conn)
                begun = None
                continue
            route, envelope, size = item
            conn._unhandled -= size
            conn._in_hand = size
            if conn._intake:
                conn._hub.weigh_inbox(conn)
            if route.handling is not None and begun is None:
                begun = perf_counter()
            try:
                data = await route.handle(conn, envelope)
                if conn._state is not None and conn._resumable is not None:
                    await conn._resumable.keeper.keep_state(conn)
                if envelope.ack or route.acks:
                    conn._push_urgent(ack(envelope, data))
            except (Exception, asyncio.CancelledError) as error:
                own = own_error(error, meant=conn._close is not None)
                self._answer(conn, fault_of(self._engine, own, route.where, conn, envelope), envelope)
                del own  # whose traceback leads back to this frame: both would keep the message
                pass_on(error)
            finally:
                if begun is not None:
                    ended = perf_counter()
                    route.handling.observe(ended - begun)
                    begun = ended  # of the next, if there is one: reading the clock is not for nothing

    # The answer

    def _answer(self, conn: Connection, fault: Fault, envelope: MessageEnvelope | None) -> None:
        """Tell a client of a fault: as an error ack, an error event, or by closing. The one place that decides."""
        if isinstance(fault, SocketFault) and fault.close_code is not None:
            close_with(conn, fault, envelope)
            return
        note_fault(conn, fault, envelope)
        try:
            conn._push_urgent(error_message(fault, envelope))
        except TypeError as error:  # the application's own fault, with details that the codec cannot write
            fault = fault_of(self._engine, error, f"the answer {fault.code}", conn, envelope)
            conn._push_urgent(error_message(fault, envelope))

    # The end

    def on_writable(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        conn._writable()

    def on_held(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        conn._hub.weigh_inbox(conn)

    def on_shutdown(self, conn: Connection) -> None:
        """See `TransportEvents`."""
        self._ends.stopping()

    def on_closed(self, conn: Connection, code: int, reason: str) -> None:
        """See `TransportEvents`."""
        self._hello.forget(conn)
        self._credentials.forget(conn)
        if self._idle is not None:
            self._idle.remove(conn)
        by_server = conn._close is not None
        ended = conn._closed(code, reason)
        conn._home.recorder.closed(self._pattern, ended.code)
        self._tasks.start(self._life.finish(conn, ended, by_server=by_server), conn._context)
