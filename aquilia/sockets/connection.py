"""One client, as handlers see it. The underscored half is the machinery of dispatch and hub, in this package only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from contextvars import Context, copy_context
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from starlette.datastructures import Headers, QueryParams

from aquilia.auth import Identity
from aquilia.clock import Clock
from aquilia.di import Scope, ScopeContainer
from aquilia.sockets.codecs import Codec
from aquilia.sockets.emits import Emits, emitted
from aquilia.sockets.envelope import Profile
from aquilia.sockets.faults import ClientFault, SocketFault, ws_ack_timeout, ws_connection_closed
from aquilia.sockets.hub_port import HubPort
from aquilia.sockets.limits.buckets import Strikes, require_timeout
from aquilia.sockets.outbound import ConnectionState, DisconnectReason, Outbound, Variant
from aquilia.sockets.outbox.queue import Outbox, Strategy

if TYPE_CHECKING:
    from aquilia.sockets.handshake.request import Handshake
    from aquilia.sockets.transports.base import Transport

__all__ = ["Connection", "ConnectionState", "DisconnectReason", "Variant"]

INBOX_LIMIT = 64
INBOX_BYTES = 1 << 18
"""So many messages of one connection wait for its handlers, or so many bytes came behind the first of them, before
reading pauses."""
MESSAGE_OVERHEAD = 512
"""Bytes of memory that a message takes beside its own, about."""

T = TypeVar("T")
Payload = TypeVar("Payload")


class Owed(Protocol):
    """What waits for an ack: a future, or what stands in the place of one."""

    def done(self) -> bool:
        """Whether it waits no longer."""

    def set_result(self, result: Any, /) -> None:
        """The ack has come, with this data."""

    def set_exception(self, fault: SocketFault, /) -> None:
        """The ack tells of an error, or will not come."""


class Connection(Outbound):
    """A client's connection. Handlers get it as `conn`; it is made by the runtime.

    Methods that write raise `WS_CONNECTION_CLOSED` once the client has gone.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_bucket",
        "_context",
        "_controller",
        "_created",
        "_finished",
        "_good_until",
        "_head",
        "_heard_at",
        "_held_back",
        "_identity",
        "_in_hand",
        "_inbox",
        "_inbox_since",
        "_intake",
        "_pending",
        "_pump",
        "_query",
        "_requests",
        "_resumable",
        "_rooms",
        "_scope",
        "_scope_lock",
        "_started",
        "_state",
        "_strikes",
        "_subprotocol",
        "_unhandled",
        "bytes_received",
        "messages_received",
        "resumed",
        "session",
    )  # fmt: skip

    def __init__(
        self,
        *,
        id: str,
        handshake: Handshake,
        profile: Profile,
        codec: Codec,
        transport: Transport,
        outbox: Outbox,
        hub: HubPort,
        home: Any,
    ) -> None:
        super().__init__(id, profile, codec, transport, outbox, hub, home)
        self._identity: Any = handshake.identity
        self._good_until = _end_of(handshake.identity, hub.clock)
        """The identity need not be looked at before, as `_heard_at` is counted: what asks at each message reads no
        clock for it. One of an application's own may change at any time."""
        self.session: Any = handshake.session
        self.resumed = False
        """Whether it goes on with the session of a former connection: see `aquilia.sockets.resume.sessions`."""
        self._resumable: Any = None
        self.messages_received = self.bytes_received = 0
        scope = handshake.connection.scope
        self._head = b"\r\n".join([name + b":" + value for name, value in scope["headers"]])
        self._address: str = (scope.get("client") or ("",))[0]
        self._query: bytes = scope.get("query_string", b"")
        self._subprotocol = handshake.subprotocol
        self._controller = home.controller
        self._bucket: Any = None  # see `aquilia.sockets.limits.rates`
        self._strikes: Strikes | None = None
        self._context: Context = copy_context()
        self._created = hub.clock.time()
        self._heard_at = hub.clock.monotonic()
        self._rooms: set[str] = set()
        self._state: dict[str, Any] | None = None
        self._inbox: list[Any] | None = None
        self._inbox_since = 0  # the value of bytes_received when it was last empty
        self._unhandled = 0  # bytes of what is in the inbox
        self._in_hand = 0  # and of the message that was taken from it last
        self._intake = 0  # bytes that the process's bound counts for it: see `Intake`
        self._held_back = False
        self._pump: Any = None
        self._pending: dict[str, Owed] | None = None
        self._requests = 0
        self._scope: ScopeContainer | None = None
        self._scope_lock: asyncio.Lock | None = None
        self._started = self._finished = False

    # What a handler may ask

    @property
    def identity(self) -> Any:
        """Who the client is, None if it is anonymous: an `aquilia.Identity`, or what a middleware has set."""
        return self._identity

    @identity.setter
    def identity(self, identity: Any) -> None:
        self._hub.identify(self, identity)
        self._identity = identity
        self._good_until = _end_of(identity, self._hub.clock)

    @property
    def namespace(self) -> str:
        """The concrete path, like `/chat/acme`."""
        path: str = self._home.namespace.path
        return path

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What the path's pattern captured."""
        params: Mapping[str, Any] = self._home.namespace.params
        return params

    @property
    def query_params(self) -> QueryParams:
        """The query of the handshake's URL, without a token or ticket."""
        return QueryParams(self._query)

    @property
    def headers(self) -> Headers:
        """The headers of the handshake."""
        # Kept as the bytes they were: a browser's, taken apart, are three kilobytes for each connection.
        lines = self._head.split(b"\r\n") if self._head else []
        pairs = (line.partition(b":") for line in lines)
        return Headers(raw=[(name, value) for name, _, value in pairs])

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, None for a plain client that offered none."""
        return self._subprotocol

    @property
    def rooms(self) -> Set[str]:
        """The rooms that it is in."""
        return frozenset(self._rooms)

    @property
    def state(self) -> dict[str, Any]:
        """The application's own values for this connection."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def created_at(self) -> datetime:
        """When it was opened."""
        return datetime.fromtimestamp(self._created, UTC)

    @property
    def last_activity(self) -> datetime:
        """When its client was last heard."""
        clock = self._hub.clock
        return datetime.fromtimestamp(clock.time() - (clock.monotonic() - self._heard_at), UTC)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.namespace} {self.phase.value}>"

    # What a handler may do

    @overload
    async def send_event(self, event: str, payload: Any = None) -> None: ...
    @overload
    async def send_event(self, event: Emits[Payload], payload: Payload) -> None: ...
    async def send_event(self, event: str | Emits[Any], payload: Any = None) -> None:
        """Send an event to this client alone. Waits while the client reads too slowly; under `spool`, while the disk
        does.

        Raises:
            SocketFault: WS_CONNECTION_CLOSED, or WS_PUBLISH_FAILED if the payload does not fit an `Emits`.
        """
        name, value = emitted(event, payload, self._home.emits)
        if self._close is not None:
            raise ws_connection_closed()
        home = self._home
        strategy, key = (None, None) if home.uniform else home.policy_of(name, None, value)
        resumable = self._resumable
        if resumable is None:
            self._push(self._event(name, value), strategy, key)
        elif home.durable:
            await resumable.send(self, name, value, strategy)
        else:
            resumable.push(self, name, value, strategy)
        if self._outbox.half_full:
            await self._wait_for_room(strategy)

    async def _wait_for_room(self, strategy: Strategy | None) -> None:
        """Wait until there is room for more of what was sent."""
        outbox = self._outbox
        if (strategy or outbox.strategy) == "spool":
            await self._hub.keep_pace()
            return
        while outbox.half_full and self.phase is not ConnectionState.CLOSED:
            await self._drained()

    async def request(self, event: str | Emits[Any], payload: Any = None, *, timeout: float = 10.0) -> Any:
        """Send an event that the client must ack, and return the ack's data.

        Raises:
            SocketFault: WS_ACK_TIMEOUT after `timeout` seconds, WS_CONNECTION_CLOSED, or the client's own fault.
            ValueError: for a timeout that is not a number.
        """
        require_timeout(timeout)
        name, value = emitted(event, payload, self._home.emits)
        self._require_open()
        self._requests += 1
        id = f"s{self._requests}"
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._pending is None:
            self._pending = {}
        self._pending[id] = future
        try:
            self._balance_reading()  # the ack must get through, even if the inbox is full
            self._push(self._event(name, value, id))
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise ws_ack_timeout(name, timeout) from None
        finally:
            self._pending.pop(id, None)
            self._balance_reading()

    async def join(self, room: str) -> None:
        """Enter a room; being there already is no error.

        Raises:
            Fault: what a guard of the room refuses with: WS_FORBIDDEN, if it returned False.
            SocketFault: WS_ROOM_FULL, WS_QUOTA_EXCEEDED above `max_rooms`, WS_CONNECTION_CLOSED.
        """
        await self._hub.join(self, room)

    async def leave(self, room: str) -> None:
        """Leave a room; not being there is no error."""
        await self._hub.leave(self, room)

    async def update_presence(self, room: str, meta: Mapping[str, Any]) -> None:
        """Set the metadata with which this client is present in a room: a map that JSON can write.

        It takes the place of what was set before. Of several connections of one identity, the newest to set it wins.

        Raises:
            SocketFault: WS_NOT_SUBSCRIBED, if it is not in the room; WS_MESSAGE_INVALID for what is no such map, or
                is too large.
            ValueError: the room has no presence.
        """
        self._hub.attendance.update(self, room, meta)
        if self._resumable is not None:
            await self._resumable.keep_presence(self)

    async def disconnect(self, code: int = 1000, reason: str = "") -> None:
        """End the connection, after what was sent before. A second call changes nothing.

        Raises:
            ValueError: for a code that RFC 6455 does not let an application send, or a reason above 123 bytes.
        """
        if code not in (1000, 1001, 1008, 1009, 1011, 1012, 1013) and not 3000 <= code <= 4999:
            raise ValueError(f"an application closes with 1000 or a code from 3000 to 4999, not {code}")
        if len(reason.encode()) > 123:
            raise ValueError("a close reason has at most 123 bytes of UTF-8")
        self._end(code, reason)

    async def resolve(self, type: type[T]) -> T:
        """A service of connection scope or wider, from this connection's container."""
        return await (await self._connection_scope()).get(type)

    # The machinery: the end

    def _end(self, code: int, reason: str) -> None:
        super()._end(code, reason)
        self._drop_inbox()

    def _closed(self, code: int, reason: str) -> DisconnectReason:
        ended = super()._closed(code, reason)
        self._drop_inbox()
        for future in list((self._pending or {}).values()):  # which some leave when they are told
            if not future.done():
                future.set_exception(ws_connection_closed())
        return ended

    # The machinery: inbound

    def _drop_inbox(self) -> None:
        self._inbox = None
        self._unhandled = 0
        if self._intake:
            self._hub.weigh_inbox(self)

    def _balance_reading(self) -> None:
        """Read while there is room for what comes and for its answers.

        An ack that is awaited must get through, even if the inbox is full; not so if the client reads nothing.
        """
        if self.phase is ConnectionState.CLOSED:
            return
        limit = INBOX_LIMIT // 4 if self._paused else INBOX_LIMIT
        pause = self._outbox.answers_half_full or (not self._pending and self._inbox_full(limit))
        if pause is not self._paused:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _inbox_full(self, limit: int) -> bool:
        inbox = self._inbox
        if not inbox:
            return False
        return self._held_back or len(inbox) >= limit or self.bytes_received - self._inbox_since > INBOX_BYTES

    def _settle(self, id: str, payload: Any) -> bool:
        """Give an ack to the request that waits for it. False: nobody does."""
        future = self._pending.get(id) if self._pending else None
        if future is None or future.done():
            return False
        if isinstance(payload, dict) and payload.get("status") == "error":
            future.set_exception(_client_fault(payload.get("error")))
        else:
            future.set_result(payload.get("data") if isinstance(payload, dict) else payload)
        return True

    async def _connection_scope(self) -> ScopeContainer:
        if self._scope is None:
            if self._scope_lock is None:
                self._scope_lock = asyncio.Lock()
            async with self._scope_lock:
                if self._scope is None:
                    if self._finished:
                        raise ws_connection_closed()
                    self._scope = await self._home.container.enter(Scope.CONNECTION, {Connection: self})
        return self._scope


def _end_of(identity: Any, clock: Clock) -> float:
    if not isinstance(identity, Identity):
        return 0.0
    moment = identity.expires_at
    return inf if moment is None else clock.monotonic() + (moment - clock.time())


def _client_fault(error: Any) -> ClientFault:
    fields = error if isinstance(error, dict) else {}
    return ClientFault(
        str(fields.get("code", "WS_CLIENT_ERROR"))[:64],
        str(fields.get("message", "the client answered with an error"))[:500],
        retryable=fields.get("retryable") is True,
    )
