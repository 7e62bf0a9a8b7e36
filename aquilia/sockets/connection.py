"""One client, as handlers see it. The underscored half is the machinery of dispatch and hub, in this package only."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Mapping, Set
from contextvars import Context, copy_context
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, overload

from aquilia.di import Scope, ScopeContainer
from aquilia.sockets.codecs import Codec
from aquilia.sockets.emits import Emits, emitted
from aquilia.sockets.envelope import MessageEnvelope, Profile
from aquilia.sockets.faults import (
    ClientFault,
    CloseCode,
    ws_ack_timeout,
    ws_connection_closed,
    ws_messages_dropped,
    ws_slow_consumer,
)
from aquilia.sockets.hub_port import HubPort
from aquilia.sockets.limits import Strikes, TokenBucket
from aquilia.sockets.outbox import Outbox

if TYPE_CHECKING:
    from starlette.datastructures import Headers, QueryParams

    from aquilia.sockets.handshake import Handshake
    from aquilia.sockets.transports.base import Transport

logger = logging.getLogger("aquilia.sockets")

__all__ = ["Connection", "ConnectionState", "DisconnectReason", "Variant"]

INBOX_LIMIT = 64
INBOX_BYTES = 1 << 18
"""So many messages of one connection wait for its handlers, or so many bytes came behind the first of them, before
reading pauses."""
FLUSH_BYTES = 1 << 16
CLOSE_GRACE = 5.0
"""Seconds that a closing connection may take to write what waits, before the rest is dropped."""

T = TypeVar("T")
Payload = TypeVar("Payload")


class ConnectionState(enum.StrEnum):
    """The life of a connection; it only moves forward."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"


class DisconnectReason(NamedTuple):
    """Why a connection ended: the close code and text, ours if we closed it."""

    code: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


class Variant(NamedTuple):
    """What decides how an event is written: connections with equal variants share its frame."""

    codec: str
    v1: bool
    transport: str


class Connection:
    """A client's connection. Handlers get it as `conn`; it is made by the runtime.

    Methods that write raise `WS_CONNECTION_CLOSED` once the client has gone.
    """

    __slots__ = (
        "__weakref__",
        "_blocked",
        "_bucket",
        "_close",
        "_codec",
        "_context",
        "_controller",
        "_created",
        "_dirty",
        "_finished",
        "_handshake",
        "_home",
        "_hub",
        "_inbox",
        "_inbox_since",
        "_last_activity",
        "_outbox",
        "_paused",
        "_pending",
        "_profile",
        "_pump",
        "_requests",
        "_rooms",
        "_scope",
        "_scope_lock",
        "_started",
        "_state",
        "_strikes",
        "_timer",
        "_transport",
        "_variant",
        "_waiters",
        "bytes_received",
        "bytes_sent",
        "id",
        "identity",
        "messages_received",
        "messages_sent",
        "phase",
        "resumed",
        "session",
    )

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
        bucket: TokenBucket | None,
    ) -> None:
        self.id: Final = id
        self.identity: Any = handshake.identity
        self.session: Any = handshake.session
        self.phase = ConnectionState.CONNECTING
        self.resumed = False
        self.messages_received = self.messages_sent = 0
        self.bytes_received = self.bytes_sent = 0
        self._handshake = handshake
        self._profile = profile
        self._codec = codec
        self._transport = transport
        self._variant = Variant(profile.codec, profile.v1, transport.kind)
        self._outbox = outbox
        self._hub = hub
        self._home = home
        self._controller = home.controller
        self._bucket = bucket
        self._strikes: Strikes | None = None
        self._context: Context = copy_context()
        self._created = self._last_activity = time()
        self._rooms: set[str] = set()
        self._state: dict[str, Any] | None = None
        self._inbox: deque[Any] | None = None
        self._inbox_since = 0  # the value of bytes_received when it was last empty
        self._pump: asyncio.Task[None] | None = None
        self._pending: dict[str, asyncio.Future[Any]] | None = None
        self._requests = 0
        self._scope: ScopeContainer | None = None
        self._scope_lock: asyncio.Lock | None = None
        # For what ends the connection: no hello, a slow goodbye.
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._close: DisconnectReason | None = None
        self._dirty = self._blocked = self._paused = self._started = self._finished = False

    # What a handler may ask

    @property
    def namespace(self) -> str:
        """The concrete path, like `/chat/acme`."""
        return self._handshake.namespace

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What the path's pattern captured."""
        return self._handshake.path_params

    @property
    def query_params(self) -> QueryParams:
        """The query of the handshake's URL."""
        return self._handshake.query_params

    @property
    def headers(self) -> Headers:
        """The headers of the handshake."""
        return self._handshake.headers

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, None for a plain client that offered none."""
        return self._handshake.subprotocol

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
        return datetime.fromtimestamp(self._last_activity, UTC)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.namespace} {self.phase.value}>"

    # What a handler may do

    @overload
    async def send_event(self, event: str, payload: Any = None) -> None: ...
    @overload
    async def send_event(self, event: Emits[Payload], payload: Payload) -> None: ...
    async def send_event(self, event: str | Emits[Any], payload: Any = None) -> None:
        """Send an event to this client alone. Waits while the client reads too slowly.

        Raises:
            SocketFault: WS_CONNECTION_CLOSED, or WS_PUBLISH_FAILED if the payload does not fit an `Emits`.
        """
        name, value = emitted(event, payload, self._home.emits)
        self._require_open()
        self._push(self._encode(MessageEnvelope(event=name, payload=value, meta=self._meta())))
        while self._outbox.half_full and self.phase is not ConnectionState.CLOSED:
            await self._drained()

    async def request(self, event: str | Emits[Any], payload: Any = None, *, timeout: float = 10.0) -> Any:
        """Send an event that the client must ack, and return the ack's data.

        Raises:
            SocketFault: WS_ACK_TIMEOUT after `timeout` seconds, WS_CONNECTION_CLOSED, or the client's own fault.
        """
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
            self._push(
                self._encode(MessageEnvelope(event=name, payload=value, id=id, ack=True, meta=self._meta()))
            )
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
            SocketFault: WS_ROOM_FULL, WS_QUOTA_EXCEEDED above `max_rooms`, WS_CONNECTION_CLOSED.
        """
        await self._hub.join(self, room)

    async def leave(self, room: str) -> None:
        """Leave a room; not being there is no error."""
        await self._hub.leave(self, room)

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

    # The machinery: outbound

    def _meta(self) -> dict[str, Any] | None:
        return {"ts": int(time() * 1000)} if self._profile.v1 else None

    def _encode(self, envelope: MessageEnvelope) -> bytes:
        codec = self._codec
        return self._transport.frame(codec.encode(envelope), binary=codec.binary)

    def _push(self, frame: bytes) -> None:
        """Queue an event's frame, under the backpressure policy."""
        if self._dirty and not self._blocked and self._outbox.half_full:
            self._flush()  # the transport takes more: only the loop's turn is too long
        if not self._outbox.push(frame):
            self._overflow()
        elif not self._dirty:
            self._dirty = True
            self._hub.mark_dirty(self)

    def _push_urgent(self, envelope: MessageEnvelope) -> None:
        """Queue an answer or a word of the protocol."""
        if self.phase is ConnectionState.CLOSED or self._close is not None:
            return
        self._outbox.push_urgent(self._encode(envelope))
        if not self._dirty:
            self._dirty = True
            self._hub.mark_dirty(self)
        self._balance_reading()

    def _system(self, event: str, payload: Any = None) -> None:
        """Tell a v1 client; a plain one sees no system frames."""
        if self._profile.v1:
            self._push_urgent(MessageEnvelope(type="system", event=event, payload=payload))

    def _overflow(self) -> None:
        fault = ws_slow_consumer()
        self._home.recorder.dropped(self._home.pattern, "slow_consumer", len(self._outbox) + 1)
        self._outbox.clear()
        self._end(CloseCode.TOO_SLOW, fault.message)
        # It reads nothing: there is nothing to wait for.
        self._transport.close(CloseCode.TOO_SLOW, fault.message)

    def _gap_frame(self, dropped: int) -> bytes:
        self._home.recorder.dropped(self._home.pattern, "slow_consumer", dropped)
        if self._profile.v1:
            payload: dict[str, Any] = {"cause": "slow_consumer", "dropped": dropped}
            return self._encode(MessageEnvelope(type="system", event="gap", payload=payload))
        return self._encode(MessageEnvelope(event="error", payload=ws_messages_dropped(dropped).as_dict()))

    def _flush(self) -> None:
        """Hand what waits to the transport, as far as it takes it."""
        self._dirty = False
        if self._blocked or self.phase is ConnectionState.CLOSED:
            return
        outbox = self._outbox
        while not outbox.empty and not self._blocked:
            frames = outbox.take(FLUSH_BYTES, self._gap_frame)
            self.messages_sent += len(frames)
            self.bytes_sent += sum(map(len, frames))
            try:
                self._blocked = not self._transport.write(frames)
            except Exception:  # one broken wire must not stop the others that are written in this turn
                logger.exception("connection %s cannot be written to", self.id)
                self._blocked = True
                self._transport.abort()
        if self._close is not None and outbox.empty:
            self._transport.close(*self._close)
        if self._waiters:
            self._wake()
        if self._paused:
            self._balance_reading()

    def _writable(self) -> None:
        self._blocked = False
        self._flush()

    async def _drained(self) -> None:
        """Wait until something has been written, or there is nobody left to write to."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters or (), None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # The machinery: the end

    def _require_open(self) -> None:
        if self._close is not None or self.phase is ConnectionState.CLOSED:
            raise ws_connection_closed()

    def _end(self, code: int, reason: str) -> None:
        if self._close is not None or self.phase is ConnectionState.CLOSED:
            return
        self._close = DisconnectReason(code, reason)
        self.phase = ConnectionState.CLOSING
        self._inbox = None
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_GRACE, self._transport.close, code, reason)
        if not self._dirty:
            self._dirty = True
            self._hub.mark_dirty(self)

    def _closed(self, code: int, reason: str) -> DisconnectReason:
        """The transport is gone. The reason is ours if we closed."""
        if self._close is None:
            self._close = DisconnectReason(code, reason)
        self.phase = ConnectionState.CLOSED
        self._cancel_timer()
        self._inbox = None
        self._outbox.clear()
        self._wake()
        for future in (self._pending or {}).values():
            if not future.done():
                future.set_exception(ws_connection_closed())
        return self._close

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The machinery: inbound

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
        return len(inbox) >= limit or self.bytes_received - self._inbox_since > INBOX_BYTES

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


def _client_fault(error: Any) -> ClientFault:
    fields = error if isinstance(error, dict) else {}
    return ClientFault(
        str(fields.get("code", "WS_CLIENT_ERROR"))[:64],
        str(fields.get("message", "the client answered with an error"))[:500],
        retryable=fields.get("retryable") is True,
    )
