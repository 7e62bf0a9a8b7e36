"""A client, as a function that has its whole connection sees it: the handshake, and raw messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.datastructures import Address, Headers, QueryParams

from aquilia.sockets.connection import INBOX_LIMIT, MESSAGE_OVERHEAD, Connection, ConnectionState
from aquilia.sockets.faults import CloseCode, SocketFault, ws_connection_closed, ws_forbidden
from aquilia.sockets.handshake.request import Handshake
from aquilia.sockets.metrics.figures import OTHER

__all__ = ["FlowRequest"]


class FlowRequest:
    """A client, as a function of a `Flow` sees it: its handshake, and once that is accepted its messages.

    A function that ends before it has accepted refuses the client with HTTP 403; later, it ends the connection.
    `async for message in request` gives texts as `str` and binary messages as `bytes`, until the client leaves.
    """

    def __init__(self, handshake: Handshake, offered: Sequence[str]) -> None:
        self.state: dict[str, Any] = {}
        """The application's own values for this connection."""
        self._handshake = handshake
        self._offered = offered
        loop = asyncio.get_running_loop()
        self._decided: asyncio.Future[None] = loop.create_future()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._conn: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._end: tuple[int, str] | None = None
        self._abandoned = False
        self._messages: list[str | bytes] = []
        self._arrival: asyncio.Future[None] | None = None

    # The handshake

    @property
    def path(self) -> str:
        """The concrete path, like `/chat/acme`."""
        return self._handshake.namespace

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What the path's pattern captured."""
        return self._handshake.path_params

    @property
    def query_params(self) -> QueryParams:
        """The query of the URL."""
        return self._handshake.query_params

    @property
    def headers(self) -> Headers:
        """The headers of the handshake."""
        return self._handshake.headers

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies of the handshake."""
        return self._handshake.cookies

    @property
    def client(self) -> Address | None:
        """The peer's `host` and `port`."""
        return self._handshake.connection.client

    @property
    def identity(self) -> Any:
        """What the handshake middleware found; else None."""
        return self._handshake.identity

    @property
    def session(self) -> Any:
        """What the handshake middleware found; else None."""
        return self._handshake.session

    async def accept(self, subprotocol: str | None = None) -> None:
        """Let the client in, with one of the subprotocols that it offered, or with none. Waits for the upgrade.

        Raises:
            ValueError: for a subprotocol that the client did not offer (RFC 6455 section 4.2.2).
            RuntimeError: if the client was accepted or refused before.
        """
        if subprotocol is not None and subprotocol not in self._offered:
            offered = ", ".join(self._offered) or "none"
            raise ValueError(
                f"the client did not offer the subprotocol {subprotocol!r} (it offered: {offered})"
            )
        if self._decided.done():
            raise RuntimeError("the handshake is over: the client was accepted or refused already")
        self._handshake.subprotocol = subprotocol
        self._decided.set_result(None)
        await self._opened

    # Messages

    def __aiter__(self) -> FlowRequest:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        return message

    async def receive_text(self) -> str:
        """The next message, which must be text.

        Raises:
            SocketFault: WS_CONNECTION_CLOSED at the end; WS_MESSAGE_INVALID for a binary message, which closes with
                1003 if it is not caught.
        """
        message = await self._received()
        if not isinstance(message, str):
            raise _unsuitable("a text message is expected here, not a binary one", CloseCode.UNSUPPORTED_DATA)
        return message

    async def receive_bytes(self) -> bytes:
        """The next message, which must be binary. Raises what `receive_text` does."""
        message = await self._received()
        if not isinstance(message, bytes):
            raise _unsuitable("a binary message is expected here, not a text", CloseCode.UNSUPPORTED_DATA)
        return message

    async def receive_json(self) -> Any:
        """The value of the next message, text or binary.

        Raises:
            SocketFault: WS_CONNECTION_CLOSED at the end; WS_MESSAGE_INVALID for what is no JSON, which closes with
                1007 if it is not caught.
        """
        message = await self._received()
        try:
            return msgspec.json.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _unsuitable(f"this message is no JSON: {error}", CloseCode.NOT_UTF8) from None

    async def send_text(self, text: str) -> None:
        """Send a text. Waits while the client reads too slowly.

        Raises:
            SocketFault: WS_CONNECTION_CLOSED.
        """
        await self._send(text.encode(), binary=False)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message. Waits and raises as `send_text` does; TypeError for what has no bytes."""
        await self._send(bytes(memoryview(data)), binary=True)  # bytes(5) would be five bytes of zero

    async def send_json(self, value: Any) -> None:
        """Send a value as JSON text. Waits and raises as `send_text` does; TypeError for what JSON cannot say."""
        await self._send(msgspec.json.encode(value), binary=False)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection, after what was sent before. Before `accept`: refuse the client with HTTP 403.

        Raises:
            ValueError: as `Connection.disconnect` does.
        """
        if self._conn is not None:
            await self._conn.disconnect(code, reason)
            self._messages.clear()
        elif not self._decided.done():
            self._decided.set_exception(ws_forbidden(reason or "not allowed"))

    async def _received(self) -> str | bytes:
        message = await self._next()
        if message is None:
            raise ws_connection_closed()
        return message

    async def _next(self) -> str | bytes | None:
        """The next message; None at the end."""
        conn = self._accepted()
        while not self._messages:
            if conn._close is not None:
                return None
            if self._arrival is not None:
                raise RuntimeError("another task waits for this connection's messages already")
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        message = self._messages.pop(0)
        if conn._inbox is not None:  # else the connection has ended, and all of it is counted out
            conn._unhandled -= _size(message)
            if conn._intake or self._messages:  # what came with it waits for what the function does now
                conn._hub.weigh_inbox(conn)
        if not self._messages:
            conn._inbox = None
        if conn._paused:
            conn._balance_reading()
        return message

    async def _send(self, message: bytes, *, binary: bool) -> None:
        conn = self._accepted()
        conn._require_open()
        meter = conn._home.meter
        if meter is not None:
            meter.sent_kinds[OTHER].add(len(message))
        conn._push(conn._transport.frame(message, binary=binary))
        while conn._outbox.half_full and conn.phase is not ConnectionState.CLOSED:
            await conn._drained()

    def _accepted(self) -> Connection:
        if self._conn is None:
            raise RuntimeError("nobody has accepted this client: `await request.accept()` comes first")
        return self._conn

    # The machinery

    def _open(self, conn: Connection) -> None:
        """The upgrade is done."""
        self._conn = conn
        conn._state = self.state
        if not self._opened.done():
            self._opened.set_result(None)
        if self._end is not None:
            conn._end(*self._end)

    def _abandon(self) -> None:
        """There will be no connection."""
        self._abandoned = True
        self._decided.cancel()
        if self._task is not None:
            self._task.cancel()

    def _over(self, error: Exception | None, end: tuple[int, str]) -> None:
        """The function has ended: so does the connection, or the handshake by its error."""
        if self._conn is not None:
            self._conn._end(*end)
        elif self._decided.done():
            self._end = end  # while the upgrade is under way
        else:
            self._decided.set_exception(error or ws_forbidden())

    def _put(self, conn: Connection, message: str | bytes) -> None:
        self._messages.append(message)
        conn._unhandled += _size(message)
        if conn._inbox is None:
            conn._inbox = self._messages
            conn._inbox_since = conn.bytes_received
        if self._arrival is None:  # the function does something else
            conn._hub.weigh_inbox(conn)
        if conn._inbox_full(INBOX_LIMIT):
            conn._balance_reading()
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


def _size(message: str | bytes) -> int:
    return message.__sizeof__() + MESSAGE_OVERHEAD


def _unsuitable(message: str, code: CloseCode) -> SocketFault:
    return SocketFault("WS_MESSAGE_INVALID", message, retryable=True, close_code=code)
