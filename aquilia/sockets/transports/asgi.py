"""The ASGI transport: a WebSocket under any ASGI server (uvicorn, Hypercorn, Granian …).

ASGI gives every connection a task of its own, and `send` may wait. So each burst of frames is written by a coroutine,
which becomes a task where `send` does wait; once too much waits for it, `write` says False. What ASGI cannot do: cut
a connection, or notice at once that a client has left behind messages that wait because reading is paused.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from random import uniform
from typing import Any

from starlette.types import Receive, Send

from aquilia.sockets.faults import CloseCode
from aquilia.sockets.tasks import TaskSet, pass_on
from aquilia.sockets.transports.base import TransportEvents

__all__ = ["ASGITransport"]

logger = logging.getLogger("aquilia.sockets")

CLOSE_TIMEOUT = 5.0
"""Seconds that the closing handshake may take; up to a fifth more, lest many end in one turn of the loop."""
HIGH_WATER, LOW_WATER = 1 << 16, 1 << 14
"""Bytes that wait to be sent, above which `write` says False, and below which it may go on."""
TURN = 64
"""Messages of one connection that are handled in one turn of the loop."""

_STARTING: Any = object()
_TEXT, _BINARY = b"t", b"b"


class ASGITransport:
    """One connection; `serve` runs in the task that the server made for it, until it is over.

    Its messages are `binary`, or not; None: some are, and each frame begins with a byte that says so.
    """

    __slots__ = (
        "_aborted", "_binary", "_closing", "_conn", "_context", "_events", "_full", "_queue", "_queued", "_receive",
        "_resume", "_send", "_served", "_tasks", "_writer", "held", "kind",
    )  # fmt: skip

    def __init__(self, receive: Receive, send: Send, *, binary: bool | None, tasks: TaskSet) -> None:
        self.kind = "asgi" if binary is not None else "asgi.mixed"
        self._receive = receive
        self._send = send
        self._binary = binary
        self._tasks = tasks
        self._context = copy_context()
        self._events: TransportEvents | None = None
        self._conn: Any = None
        self._served: asyncio.Task[Any] | None = None
        self._resume: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._full = False
        self._closing: tuple[int, str] | None = None
        self._aborted = False
        self.held = 0
        """See `Transport`: the message in hand while reading is paused. The server's own are not known here."""

    # The upward half

    async def serve(self, events: TransportEvents, conn: Any) -> None:
        """Hand up messages until the connection is over, then `on_closed`."""
        self._events, self._conn = events, conn
        self._served = asyncio.current_task()
        code, reason = int(CloseCode.ABNORMAL), ""
        try:
            code, reason = await self._read(events, conn)
        except asyncio.CancelledError:
            if self._closing is None or self._served is None or self._served.uncancel() > 0:
                raise
            if not self._aborted:
                await self._say_goodbye(*self._closing)
        finally:
            self._served = None
            self.held = 0
            if self._writer is not None:
                self._writer.cancel()
            events.on_closed(conn, *(self._closing or (code, reason)))

    async def _read(self, events: TransportEvents, conn: Any) -> tuple[int, str]:
        messages = 0
        while True:
            message = await self._receive()
            if message["type"] == "websocket.receive":
                if self._resume is not None:
                    # With the message in hand: of the client's end we hear even so.
                    self._hold(len(message.get("text") or message.get("bytes") or b""))
                    await self._resume
                    self._hold(0)
                messages += 1
                if messages % TURN == 0:
                    await asyncio.sleep(0)  # a server that has them queued gives the loop no turn by itself
                text = message.get("text")
                if text is not None:
                    events.on_message(conn, text.encode(), binary=False)
                else:
                    events.on_message(conn, message["bytes"], binary=True)
            elif message["type"] == "websocket.disconnect":
                return int(message.get("code") or CloseCode.NO_STATUS), message.get("reason") or ""

    def _hold(self, size: int) -> None:
        self.held = size
        if self._events is not None:
            self._events.on_held(self._conn)

    # The downward half

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        """See `Transport`: the server does the framing."""
        return message if self._binary is not None else (_BINARY if binary else _TEXT) + message

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`."""
        self._queue += frames
        self._queued += sum(map(len, frames))
        if self._writer is None:
            self._start_writing()
        self._full = self._queued > HIGH_WATER
        return not self._full

    @property
    def line(self) -> Callable[[bytes], object] | None:
        """See `Transport`."""
        return self._write_one if self._writer is None and self._closing is None else None

    def _write_one(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._queued += len(frame)
        self._start_writing()

    def _start_writing(self) -> None:
        self._writer = _STARTING
        task = self._tasks.start(self._write(), self._context)
        if task is not None:
            self._writer = task

    async def _write(self) -> None:
        queue, send, binary = self._queue, self._send, self._binary
        try:
            while queue:
                frame = queue.popleft()
                try:
                    if binary is False:
                        await send({"type": "websocket.send", "text": frame.decode()})
                    elif binary:
                        await send({"type": "websocket.send", "bytes": frame})
                    elif frame.startswith(_BINARY):
                        await send({"type": "websocket.send", "bytes": frame[1:]})
                    else:
                        await send({"type": "websocket.send", "text": frame[1:].decode()})
                except Exception as error:
                    # Servers raise errors of many kinds when the client has gone; `receive` tells of it properly.
                    logger.debug("a write to a connection that is gone: %r", error)
                    self.resume_reading()
                self._queued -= len(frame)
                if self._full and self._queued <= LOW_WATER:
                    self._full = False
                    if self._served is not None and self._events is not None:
                        self._events.on_writable(self._conn)
        finally:
            self._writer = None

    def pause_reading(self) -> None:
        """See `Transport`."""
        if self._resume is None:
            self._resume = asyncio.get_running_loop().create_future()

    def resume_reading(self) -> None:
        """See `Transport`."""
        if self._resume is not None:
            if not self._resume.done():
                self._resume.set_result(None)
            self._resume = None

    def close(self, code: int, reason: str) -> None:
        """See `Transport`."""
        if self._closing is None and self._served is not None:
            self._closing = (code, reason)
            self._tasks.start(self._close())

    async def _close(self) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=CLOSE_TIMEOUT * uniform(1, 1.2))
        if self._served is not None:
            self._served.cancel()  # out of its `receive`: Granian sends no close while one is under way

    async def _say_goodbye(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (Exception, asyncio.CancelledError) as error:
            # It may be cut off meanwhile, by `abort`; and a server that stops may cancel what it was asked to send.
            if not (self._aborted and self._served is not None and self._served.uncancel() == 0):
                pass_on(error)
            logger.debug("a close of a connection that is gone: %r", error)

    def abort(self) -> None:
        """See `Transport`. Our task ends, and the server does with the connection what it does then."""
        self._aborted = True
        if self._closing is None:
            self._closing = (int(CloseCode.ABNORMAL), "")
        if self._served is not None:
            self._served.cancel()

    def trim(self) -> None:
        """See `Transport`. There is nothing but the message in hand."""

    def fail(self, code: int, reason: str) -> None:
        """See `Transport`."""
        self.close(code, reason)
