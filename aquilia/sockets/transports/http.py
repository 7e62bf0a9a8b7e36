"""uvicorn's HTTP protocol, with what it lacks: a bound and a timer on a request's head, and the bytes behind it.

`aq serve` uses it; elsewhere it is `uvicorn.Config(http=HTTPProtocol)`. Bytes that came in one read behind the head
of a WebSocket handshake are handed on; uvicorn's own class drops them.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import is_ssl

from aquilia.sockets.transports.borrowed import ends

__all__ = ["HEAD_TIMEOUT", "MAX_HEAD", "HTTPProtocol"]

MAX_HEAD = 65_536
"""Bytes of a request's line and headers together, unless uvicorn's `h11_max_incomplete_event_size` says otherwise."""
HEAD_TIMEOUT = 10.0
"""Seconds in which they must have come."""


class HTTPProtocol(HttpToolsProtocol):
    """One connection, from its first request on."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_size: int | None = 0
    """Bytes of the head so far; None while no head is being read."""
    _refused = False
    _behind: bytes | None = None
    """What came behind a WebSocket's handshake that stands in a queue."""
    _context: Context | None = None

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        # Not uvicorn's own, which asks uvloop's stand-in for the socket: it makes and closes a duplicate each time.
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.client, self.server = ends(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._refused:
            return
        if self._behind is not None:
            self._behind += data
            self.flow.pause_reading()
            return
        if self._head_size is not None:
            self._head_size += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._refused:
                self.send_400_response("Invalid HTTP request received.")
        else:
            if self._head_size is not None and self._head_size > self._most():
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._head_size is None:
            self._head_size = 0
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._stop_head_timer()
        self._head_size = None
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._most():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise ValueError("the head is too large")  # ends the parsing
        super().on_headers_complete()

    def _most(self) -> int:
        return self.config.h11_max_incomplete_event_size or MAX_HEAD

    def _upgrade(self, behind: bytes) -> None:
        self._stop_head_timer()
        if not self._should_upgrade():
            self._unsupported_upgrade_warning()
        elif self.cycle is not None and not self.cycle.response_complete:
            # Answers stand in the order of their requests (RFC 9112 section 9.3.2).
            self._behind, self._context = behind, copy_context()
            self.flow.pause_reading()
        else:
            self._hand_on(behind)

    def on_response_complete(self) -> None:
        """An answer is written; perhaps the last one before a handshake."""
        super().on_response_complete()
        if self._behind is not None and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.loop.call_soon(self._hand_on_late, context=self._context)

    def _hand_on_late(self) -> None:
        if not self.transport.is_closing():
            self._hand_on(self._behind or b"")

    def _hand_on(self, behind: bytes) -> None:
        websockets: Any = self.ws_protocol_class
        if hasattr(websockets, "take_request"):
            self.connections.discard(self)
            websockets(self.config, self.server_state, self.app_state).take_request(self)
        else:
            self.handle_websocket_upgrade()
        if behind:
            self.transport.get_protocol().data_received(behind)  # type: ignore[attr-defined]
        # The parser and its protocol hold each other, and would be garbage by the kilobyte until it is collected.
        self.__dict__.clear()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: HTTPStatus) -> None:
        self._refused = True
        self._stop_head_timer()
        if not self.transport.is_closing():
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode())
            self.transport.close()
