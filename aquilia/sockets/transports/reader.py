"""picows on one wire: it finds frames in what is read, for the native transport, in a buffer whose size is known."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from picows import WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # its stubs leave it out

from aquilia.sockets.transports.frames import NativeTransport

__all__ = ["PicowsReader"]

if importlib.util.find_spec("aiofastnet") is None:
    # picows looks for it at every connection, and not finding it costs a tenth of the handshake.
    sys.modules["aiofastnet"] = None  # type: ignore[assignment]  # which means that it is not there

_WHEN_IDLE = 1  # picows wants a strategy for the pings that it does not send
_MINIMAL_HEAD = (
    b"GET / HTTP/1.1\r\nHost: _\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)
_ANY_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
_MUCH = 1 << 20

_updated: Callable[[Any, int], None] = WSProtocol.buffer_updated


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

    It writes the answer to the handshake, which is passed on if the wire waits for one. By itself it otherwise only
    writes a close frame, and closes the wire 10 ms later: both are for the transport to do.
    """

    __slots__ = ("_answers", "_transport", "_wire", "abort", "close", "get_write_buffer_size")

    def __init__(self, wire: asyncio.Transport, transport: NativeTransport, *, answers: bool) -> None:
        self.abort, self.close = wire.abort, transport.leave
        self.get_write_buffer_size = wire.get_write_buffer_size
        self._wire: asyncio.Transport | None = wire
        self._answers = answers
        self._transport = transport

    def write(self, data: bytes) -> None:
        if self._wire is None:
            self._transport.on_goodbye()
            return
        if self._answers:
            self._wire.write(data)
        self._wire = None

    def get_extra_info(self, name: str) -> Any:
        return self if name in ("socket", "ssl_object") else None

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *option: int) -> None:
        """Nothing of what picows sets is wanted."""

    def getsockopt(self, *option: int) -> int:
        return 0


class PicowsReader(WSProtocol):  # type: ignore[misc]  # of which no types are known
    """The protocol of the wire. Implements `Reader`.

    The buffer never shrinks, and picows does not say how large it is. What is read comes behind what it has left
    over; once little is free, it is doubled, before frames are looked for. So it is looked at when so much has come
    that this may have happened.
    """

    __slots__ = ("_first", "_left", "_size", "_wire")

    _first: int
    _left: int
    _size: int

    def __init__(self, wire: asyncio.Transport, transport: NativeTransport, **options: Any) -> None:
        super().__init__(
            host_port=None,
            ws_path=None,
            is_client_side=False,
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
            **options,
        )
        self._wire = wire

    @classmethod
    def begin(
        cls,
        wire: asyncio.Transport,
        transport: NativeTransport,
        *,
        key: str = _ANY_KEY,
        headers: Sequence[tuple[str, str]] = (),
        answers: bool = True,
    ) -> PicowsReader:
        """That of a wire on which a handshake is to be answered, or was."""
        response = WSUpgradeResponse.create_101_response(headers)
        reader = cls(
            wire,
            transport,
            ws_listener_factory=lambda request: WSUpgradeResponseWithListener(response, transport),
        )
        reader._left = _MUCH
        reader.connection_made(_Wire(wire, transport, answers=answers))
        # The head that picows answers is one of our own: only the key matters to it, and long ones overflow it.
        reader.feed(_MINIMAL_HEAD % key.encode())
        # Of the two heads nobody reads again, picows keeps a kilobyte each.
        reader.transport.request.headers.clear()
        response.headers.clear()
        reader._size = reader._first = len(reader.get_buffer(-1))
        reader._rest()
        return reader

    @property
    def buffer(self) -> int:
        """See `Reader`."""
        return self._size - self._first

    def renew(self) -> PicowsReader:
        """See `Reader`."""
        if len(self.get_buffer(-1)) < self._size:
            return self
        reader = PicowsReader.begin(self._wire, self.listener, answers=False)
        self._wire.set_protocol(reader)
        return reader

    def feed(self, data: bytes) -> None:
        """Read bytes that are here already; the buffer may be smaller than they are."""
        rest = memoryview(data)
        while rest:
            buffer = self.get_buffer(-1)
            taken = min(len(buffer), len(rest))
            buffer[:taken] = rest[:taken]
            self.buffer_updated(taken)
            rest = rest[taken:]

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._left -= nbytes
        if self._left >= 0:
            _updated(self, nbytes)
        else:
            self._look(nbytes)

    def _look(self, nbytes: int) -> None:
        size = self._size
        filled = size - len(self.get_buffer(-1)) + nbytes
        _updated(self, nbytes)
        # Where it was full and is as free as it was large, it is the double that holds all of that.
        if filled >= size or len(self.get_buffer(-1)) > size:
            self._size = 2 * size
            self.listener.hold()
        self._rest()

    def _rest(self) -> None:
        """So many bytes may come before the buffer can be doubled: picows does it at nine tenths."""
        free = len(self.get_buffer(-1))
        self._left = min(free - self._size // 8, free - 512)
