"""The native transport: a WebSocket server on picows, as uvicorn's protocol class for WebSockets.

    uvicorn app:app --ws aquilia.sockets.transports.native:NativeProtocol

It runs the whole ASGI application for the handshake, so mounts, proxy headers and everybody's middleware work. An
application that finds `scope["extensions"]["aquilia.native"]` may, after its `websocket.accept`, take the live
connection over by `attach`: from then on there is no ASGI task and no ASGI message. Any other gets ordinary ASGI.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from aquilia.sockets.deflate import Compression, agree
from aquilia.sockets.faults import CloseCode
from aquilia.sockets.heartbeat import HeartbeatWheel
from aquilia.sockets.metrics.figures import Deflated
from aquilia.sockets.transports.base import NATIVE
from aquilia.sockets.transports.borrowed import Address, ends
from aquilia.sockets.transports.bridge import ASGIBridge
from aquilia.sockets.transports.frames import NativeTransport
from aquilia.sockets.transports.upgrade import upgrade

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["NativeHandover", "NativeProtocol"]

DEFAULT_MAX_SIZE = 16 * 1024 * 1024
PULSE_SLOTS = 50
MAX_BEHIND = 65_536
"""Bytes that a client may send before its handshake is answered, until reading pauses."""


class _Household:
    """The open connections of one server: uvicorn tells them when it stops, and one timer is there for their pings.

    A wheel spreads those over the interval. A peer is given up `timeout` seconds after a ping, if nothing came behind
    it; without, after two intervals.
    """

    def __init__(self, connections: set[Any], interval: float | None, timeout: float | None) -> None:
        self._connections = connections
        self._wheel: HeartbeatWheel[NativeTransport] = HeartbeatWheel(PULSE_SLOTS)
        self._step = interval / PULSE_SLOTS if interval else None
        turns = 2 * PULSE_SLOTS
        if self._step is not None and timeout is not None:
            turns = max(1, math.ceil(timeout / self._step))
        self._late = turns % PULSE_SLOTS
        """So many turns behind a ping, its peer is looked at: whether it has been silent since the ping,"""
        self._silent = (turns - 1) // PULSE_SLOTS
        """and for so many pings before that one."""
        self._timer: asyncio.TimerHandle | None = None
        self.leave = self._remove  # one bound method for all

    def add(self, transport: NativeTransport) -> None:
        self._connections.add(transport)
        if self._step is not None:
            self._wheel.add(transport)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._step, self._turn)

    def _remove(self, transport: NativeTransport) -> None:
        self._connections.discard(transport)
        self._wheel.remove(transport)
        if not self._wheel and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        assert self._step is not None
        self._timer = asyncio.get_running_loop().call_later(self._step, self._turn)
        for transport in self._wheel.behind(self._late):
            transport.look(self._silent)
        for transport in self._wheel.turn():
            transport.beat()


class NativeHandover:
    """`scope["extensions"]["aquilia.native"]`: how an application takes an accepted connection over."""

    __slots__ = ("_protocol", "compression", "counted", "max_fragments", "max_message_size", "ping_timeout")

    def __init__(self, protocol: NativeProtocol, max_message_size: int) -> None:
        self._protocol: NativeProtocol | None = protocol
        self.max_message_size = max_message_size
        """Bytes; to be set before `websocket.accept`."""
        self.compression: Compression | None = None
        """How to compress if the client wants it; to be set before `websocket.accept`, too."""
        self.counted: Mapping[str, Deflated] | None = None
        """Counts what is compressed, `received` and `sent`; likewise."""
        self.max_fragments: int | None = None
        """Frames of one message; likewise."""
        self.ping_timeout: float | None = None
        """Seconds from a ping that nothing follows to the end; likewise. None: two intervals of the pings."""

    def attach(self) -> NativeTransport:
        """The connection's transport, to be started at once. Call it right after `websocket.accept`."""
        protocol, self._protocol = self._protocol, None  # which keeps the whole handshake alive
        if protocol is None:
            raise RuntimeError("the connection was attached to already")
        return protocol._hand_over()


class NativeProtocol(asyncio.Protocol):
    """The handshake of one connection: uvicorn makes it, feeds it the request's head, and forgets it."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._head = b""
        self._behind = b""
        self._task: asyncio.Task[None] | None = None
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._connected = False
        self._denial: dict[str, Any] | None = None
        self._denied = False
        self._transport: NativeTransport | None = None
        self._bridge: ASGIBridge | None = None
        self._handed_over = False
        self._scope: dict[str, Any] = {}
        self._key = ""
        self._ends: tuple[Address | None, Address | None] | None = None
        """The addresses of client and server, where they are known."""

    def take_request(self, http: Any) -> None:
        """Go on with the request that uvicorn's `HttpToolsProtocol` has read, without reading its head again."""
        wire = http.transport
        self.connection_made(wire)
        self._ends = http.client, http.server
        self._open(http.scope["method"].encode(), http.url, http.scope["headers"])
        wire.set_protocol(self)

    # The protocol, up to the upgrade

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._wire = cast(asyncio.Transport, transport)
        self._state.connections.add(cast(Any, self))

    def data_received(self, data: bytes) -> None:
        """The request's head; what comes behind it waits for the upgrade."""
        if self._task is not None:
            self._behind += data
            if len(self._behind) > MAX_BEHIND:
                self._wire.pause_reading()
            return
        self._head += data
        head, end, self._behind = self._head.partition(b"\r\n\r\n")
        if end:
            self._begin(head)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""

    def connection_lost(self, error: Exception | None) -> None:
        """The client left before the upgrade."""
        self._state.connections.discard(cast(Any, self))
        self._lose()

    def shutdown(self) -> None:
        """The server stops: it answers by itself, and for the application its client has gone."""
        self._respond(503, [], b"")
        self._lose()

    def _lose(self) -> None:
        self._gone = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].split(b" ", 2)
        headers = []
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers.append((name.strip().lower(), value.strip()))
        self._open(method, target, headers)

    def _open(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        problem = self._check(method, headers)
        if problem is not None:
            status, text, extra = problem
            self._respond(status, [(b"content-type", b"text/plain; charset=utf-8"), *extra], text.encode())
            return
        self._scope = self._make_scope(target, headers)
        # Not by the loop's factory: an eager one could hand the wire over while its first bytes are still read.
        self._task = asyncio.Task(self._run(), loop=self._loop)
        self._state.tasks.add(self._task)
        self._task.add_done_callback(self._state.tasks.discard)

    def _check(
        self, method: bytes, headers: list[tuple[bytes, bytes]]
    ) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        """What RFC 6455 section 4.2.1 asks of a handshake."""
        found = dict(headers)
        if method != b"GET":
            return 405, "a WebSocket handshake is a GET request", [(b"allow", b"GET")]
        if found.get(b"sec-websocket-version") != b"13":
            return 426, "the WebSocket version must be 13", [(b"sec-websocket-version", b"13")]
        keys = [value for name, value in headers if name == b"sec-websocket-key"]
        try:
            valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
        except (binascii.Error, ValueError):
            valid = False
        if not valid:
            return 400, "Sec-WebSocket-Key must be 16 bytes in base64", []
        self._key = keys[0].decode()
        return None

    def _make_scope(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        raw_path, _, query = target.partition(b"?")
        root_path = self._config.root_path
        subprotocols = [
            entry.strip()
            for name, value in headers
            if name == b"sec-websocket-protocol"
            for entry in value.decode("latin-1").split(",")
        ]
        limit = min(self._config.ws_max_size or DEFAULT_MAX_SIZE, 1 << 40)
        secure = self._wire.get_extra_info("sslcontext") is not None
        client, server = self._ends or ends(self._wire)
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if secure else "ws",
            "server": server,
            "client": client,
            "root_path": root_path,
            "path": root_path + unquote(raw_path.decode("ascii", "replace")),
            "raw_path": root_path.encode() + raw_path,
            "query_string": query,
            "headers": headers,
            "subprotocols": [entry for entry in subprotocols if entry],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, NATIVE: NativeHandover(self, limit)},
        }

    # The application

    async def _run(self) -> None:
        try:
            await self._config.loaded_app(cast(Any, self._scope), self._receive, self._send)
        except Exception as error:
            # An application is told by an OSError that its client has gone (ASGI 2.4): nothing is wrong with it.
            gone = self._gone or (self._transport is not None and self._transport.gone)
            if not (isinstance(error, OSError) and gone):
                logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
            self._end_unfinished(500, CloseCode.INTERNAL)
        else:
            if self._handed_over:
                # uvloop keeps the first protocol of a wire as long as that lives: this one, with all it holds.
                self.__dict__.clear()
            else:
                self._end_unfinished(500, CloseCode.NORMAL)

    def _end_unfinished(self, status: int, code: int) -> None:
        if self._transport is not None:
            if not self._handed_over:
                self._bridged()  # else nobody reads the client's answer to the close, and it is waited for
            self._transport.close(code, "")
        elif not self._denied:
            self._respond(status, [(b"content-type", b"text/plain; charset=utf-8")], b"Internal Server Error")

    async def _receive(self) -> dict[str, Any]:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._transport is not None:
            return await self._bridged().receive()
        if not self._gone:
            self._waiter = self._loop.create_future()
            await self._waiter
        return {"type": "websocket.disconnect", "code": int(CloseCode.ABNORMAL), "reason": ""}

    def _bridged(self) -> ASGIBridge:
        """The application goes on by ordinary ASGI: nobody has attached."""
        if self._handed_over or self._transport is None:
            raise RuntimeError("the WebSocket was taken over by attach")
        if self._bridge is None:
            self._bridge = ASGIBridge(self._transport)
            self._transport.start(self._bridge, None)
        return self._bridge

    async def _send(self, message: dict[str, Any]) -> None:
        if self._transport is not None and not self._handed_over:
            await self._bridged().send(message)
            return
        if self._gone and not self._handed_over:
            raise OSError("the client has gone")
        if self._handed_over or self._denied:
            raise RuntimeError(
                f"unexpected ASGI message {message['type']!r}: the WebSocket is no longer ours"
            )
        match message["type"]:
            case "websocket.accept":
                self._accept(message)
            case "websocket.close":
                self._respond(403, [], b"")
            case "websocket.http.response.start":
                self._denial = {**message, "body": b""}
            case "websocket.http.response.body" if self._denial is not None:
                self._denial["body"] += message.get("body", b"")
                if not message.get("more_body", False):
                    self._respond(
                        self._denial["status"], list(self._denial.get("headers", ())), self._denial["body"]
                    )
            case other:
                raise RuntimeError(f"unexpected ASGI message {other!r} before the WebSocket was accepted")

    def _accept(self, message: dict[str, Any]) -> None:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())
        ]
        if message.get("subprotocol"):
            headers.append(("Sec-WebSocket-Protocol", message["subprotocol"]))
        headers += [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in self._state.default_headers
        ]
        handover: NativeHandover = self._scope["extensions"][NATIVE]
        agreement = None
        if handover.compression is not None:
            agreement = agree(handover.compression, self._extensions())
        if agreement is not None:
            headers.append(("Sec-WebSocket-Extensions", agreement.answer))
        household = _household(self._config, self._state, handover.ping_timeout)
        self._transport = upgrade(
            self._wire,
            self._key,
            headers,
            max_size=handover.max_message_size,
            max_fragments=handover.max_fragments,
            behind=self._behind,
            agreement=agreement,
            on_gone=household.leave,
            counted=handover.counted,
        )
        self._behind = b""
        self._state.connections.discard(cast(Any, self))
        household.add(self._transport)

    def _extensions(self) -> str:
        values = [value for name, value in self._scope["headers"] if name == b"sec-websocket-extensions"]
        return b",".join(values).decode("latin-1")

    def _hand_over(self) -> NativeTransport:
        if self._transport is None or self._bridge is not None:
            raise RuntimeError("attach comes after websocket.accept, and before anything else")
        self._handed_over = True
        return self._transport

    def _respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if self._denied or self._wire.is_closing():
            return
        self._denied = True
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
        given = {name.lower() for name, _ in headers}
        headers = [*headers, *self._state.default_headers]
        if b"content-length" not in given:
            headers.append((b"content-length", str(len(body)).encode()))
        lines += [name + b": " + value for name, value in [*headers, (b"connection", b"close")]]
        self._wire.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self._wire.close()


_households: WeakKeyDictionary[Any, dict[float | None, _Household]] = WeakKeyDictionary()


def _household(config: Config, state: ServerState, timeout: float | None) -> _Household:
    found = _households.setdefault(state, {})
    if timeout not in found:
        found[timeout] = _Household(cast(Any, state.connections), config.ws_ping_interval, timeout)
    return found[timeout]
