"""The upgrade of the native transport: from a request whose head was read to an open connection on picows."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from picows import WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # its stubs leave it out

from aquilia.sockets.transports.frames import NativeTransport

__all__ = ["upgrade"]

MIN_RECEIVE_BUFFER, MAX_RECEIVE_BUFFER = 1 << 16, 1 << 20
"""Bytes that the kernel keeps for a connection. picows' buffer becomes as large as what one read gives, for ever."""

_WHEN_IDLE = 1  # picows wants a strategy for the pings that it does not send
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
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


def upgrade(
    wire: asyncio.Transport,
    key: str,
    headers: Sequence[tuple[str, str]],
    *,
    max_size: int,
    behind: bytes,
    on_gone: Callable[[NativeTransport], None],
) -> NativeTransport:
    """Answer a handshake with 101, and give the wire to picows. Nothing is read before the transport's `start`.

    `behind` are bytes that came with the request's head. `on_gone` is called once, with the transport, when the
    wire is gone.
    """
    transport = NativeTransport(wire, max_size, on_gone)
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
        max_frame_size=max_size,
        extra_headers=None,
        read_buffer_init_size=0,
    )
    websocket.connection_made(wire)
    if _QUICKACK is not None:  # picows asks for it: an ACK of its own for what our answer would acknowledge
        wire.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)
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
