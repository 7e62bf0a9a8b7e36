"""The upgrade of the native transport: from a request whose head was read to an open connection on picows."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from picows import WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # its stubs leave it out

from aquilia.sockets.deflate import Agreement
from aquilia.sockets.transports.compressed import compressed
from aquilia.sockets.transports.frames import NativeTransport

__all__ = ["upgrade"]

MIN_RECEIVE_BUFFER, MAX_RECEIVE_BUFFER = 1 << 16, 1 << 20
"""Bytes that the kernel keeps for a connection. picows' buffer becomes as large as what one read gives, for ever."""

if importlib.util.find_spec("aiofastnet") is None:
    # picows looks for it at every connection, and not finding it costs a tenth of the handshake.
    sys.modules["aiofastnet"] = None  # type: ignore[assignment]  # which means that it is not there

_WHEN_IDLE = 1  # picows wants a strategy for the pings that it does not send
_MINIMAL_HEAD = (
    b"GET / HTTP/1.1\r\nHost: _\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)


class _QuietLogger(logging.LoggerAdapter[logging.Logger]):
    """picows makes a logger for each connection unless it is given an adapter, and reports a peer's mistakes as
    errors of ours."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return self.logger.isEnabledFor(logging.DEBUG)


_LOGGER = _QuietLogger(logging.getLogger("aquilia.sockets.native"), {})


class _Wire:
    """What picows has of a wire: its words, but for the socket, which it would ask a dozen things to log them.

    Nor does it write to the socket beside the wire, which TLS would not survive: it is told that there is TLS. Nor
    does the kernel acknowledge at once (TCP_QUICKACK), a packet of its own for what our answer acknowledges.
    TCP_NODELAY is set by asyncio and uvloop themselves.

    It writes the answer to the handshake. By itself it otherwise only writes a close frame, and closes the wire 10 ms
    later: both are for the transport to do.
    """

    __slots__ = ("_transport", "_write", "abort", "close", "get_write_buffer_size")

    def __init__(self, wire: asyncio.Transport, transport: NativeTransport) -> None:
        self.abort, self.close = wire.abort, transport.leave
        self.get_write_buffer_size = wire.get_write_buffer_size
        self._write: Callable[[bytes], object] | None = wire.write
        self._transport = transport

    def write(self, data: bytes) -> None:
        if self._write is not None:
            self._write(data)
            self._write = None
        else:
            self._transport.on_goodbye()

    def get_extra_info(self, name: str) -> Any:
        return self if name in ("socket", "ssl_object") else None

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *option: int) -> None:
        """Nothing of what picows sets is wanted."""

    def getsockopt(self, *option: int) -> int:
        return 0


def upgrade(
    wire: asyncio.Transport,
    key: str,
    headers: Sequence[tuple[str, str]],
    *,
    max_size: int,
    max_fragments: int | None,
    behind: bytes,
    agreement: Agreement | None,
    on_gone: Callable[[NativeTransport], None],
) -> NativeTransport:
    """Answer a handshake with 101, and give the wire to picows. Nothing is read before the transport's `start`.

    `behind` are bytes that came with the request's head, and `agreement` is that on compression. `on_gone` is called
    once, with the transport, when the wire is gone.
    """
    if agreement is None:
        transport = NativeTransport(wire, max_size, on_gone)
    else:
        transport = compressed(wire, max_size, on_gone, agreement)
    transport.max_fragments = max_fragments
    receive_buffer = max(MIN_RECEIVE_BUFFER, min(max_size, MAX_RECEIVE_BUFFER))
    wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    response = WSUpgradeResponse.create_101_response(headers)
    websocket = WSProtocol(
        host_port=None,
        ws_path=None,
        is_client_side=False,
        ws_listener_factory=lambda request: WSUpgradeResponseWithListener(response, transport),
        logger=_LOGGER,
        disconnect_on_exception=True,
        websocket_handshake_timeout=None,
        enable_auto_ping=False,
        auto_ping_idle_timeout=0,
        auto_ping_reply_timeout=0,
        auto_ping_strategy=_WHEN_IDLE,
        enable_auto_pong=False,
        max_frame_size=transport.max_size,
        extra_headers=None,
        read_buffer_init_size=0,
    )
    websocket.connection_made(_Wire(wire, transport))
    # The head that picows answers is one of our own: only the key matters to it, and long ones overflow it.
    _feed(websocket, _MINIMAL_HEAD % key.encode())
    wire.pause_reading()
    wire.set_protocol(websocket)
    if behind:
        transport.read_behind = partial(_feed, websocket, behind)
    # Of the two heads nobody reads again, picows keeps a kilobyte each.
    websocket.transport.request.headers.clear()
    response.headers.clear()
    return transport


def _feed(websocket: Any, data: bytes) -> None:
    """Give bytes to picows; its buffer may be smaller than they are."""
    rest = memoryview(data)
    while rest:
        buffer = websocket.get_buffer(-1)
        taken = min(len(buffer), len(rest))
        buffer[:taken] = rest[:taken]
        websocket.buffer_updated(taken)
        rest = rest[taken:]
