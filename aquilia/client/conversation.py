"""One link of a client, from its first frame to its end: what is read, what is written, and how it is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from websockets.exceptions import ConnectionClosed

from aquilia.client.link import Link
from aquilia.client.session import Session
from aquilia.client.steps import Phase
from aquilia.client.streams import Signal
from aquilia.clock import Clock

__all__ = ["READ_ON_FOR_ACKS", "Conversation"]

READ_ON_FOR_ACKS = 8
"""How many times its bound a buffer may hold while an ack is awaited, which would not come if nothing were read."""


class Conversation:
    """What a session says and hears on one link.

    `step` is called behind each message, `backlog` tells how full the fullest buffer of the readers is (1: full),
    `stirred`, `written` and `read` fire when the session has changed, when a frame is written, and when a reader has
    taken something.
    """

    def __init__(
        self,
        link: Link,
        session: Session,
        *,
        clock: Clock,
        step: Callable[[], None],
        backlog: Callable[[], float],
        stirred: Signal,
        written: Signal,
        read: Signal,
        leave_within: float,
    ) -> None:
        self._link = link
        self._session = session
        self._now = clock.monotonic
        self._today = clock.time
        self._step = step
        self._backlog = backlog
        self._stirred = stirred
        self._written = written
        self._read = read
        self._leave_within = leave_within
        self._writer: asyncio.Task[None] | None = None
        self._goodbye: asyncio.Task[None] | None = None
        self._too_late: asyncio.TimerHandle | None = None

    async def hold(self, token: str | None, ticket: str | None = None) -> None:
        """From `hello` to the end of the link, which the session is told of."""
        session = self._session
        self._link.on_bytes = lambda: session.pulse.heard(self._now())
        session.opened(token, self._now(), today=self._today(), ticket=ticket)
        self._writer = asyncio.create_task(self._write(), name="aquilia client: writer")
        self._step()
        try:
            while True:
                before = session.state
                session.received(await self._link.recv(), self._now())
                self._step()
                if session.state is not before:
                    await asyncio.sleep(0)  # who waits for this state has his turn before the next message
                await self._room_to_read()
        except ConnectionClosed as closed:
            self._tell_end(closed)
        finally:
            await self._end()
        self._step()

    def leave(self) -> None:
        """End the link, if the session wants that. It may be called again, and out of the middle of a write."""
        closing = self._session.closing
        if closing is None or self._writer is None:
            return
        if closing.abort:
            self._link.abort()
        elif self._goodbye is None:
            # A peer that takes nothing more holds up the close as it does all else.
            loop = asyncio.get_running_loop()
            self._too_late = loop.call_later(self._leave_within, self._link.abort)
            self._goodbye = asyncio.create_task(self._say_goodbye(closing.code, closing.reason))

    async def _say_goodbye(self, code: int, reason: str) -> None:
        assert self._writer is not None
        self._writer.cancel()
        with contextlib.suppress(ConnectionClosed):
            await self._link.close(code, reason)

    def _tell_end(self, closed: ConnectionClosed) -> None:
        ours = closed.sent is not None and not closed.rcvd_then_sent
        frame = closed.sent if ours else closed.rcvd
        code, reason = (1006, "") if frame is None else (frame.code, frame.reason)
        self._session.lost(code, reason, self._now(), ours=ours)

    async def _end(self) -> None:
        self._link.abort()
        if self._too_late is not None:
            self._too_late.cancel()
        tasks = [task for task in (self._writer, self._goodbye) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = self._session.next_frame()
                if frame is None:
                    await self._stirred.wait()
                else:
                    await self._link.send(frame, text=not self._session.codec.binary)
                    self._written.fire()

    async def _room_to_read(self) -> None:
        """Read no more while somebody has not read what came; the server's own policies apply then."""
        paused = False
        while self._session.phase is Phase.LIVE and self._full():
            if not paused:
                paused = True
                self._session.pulse.pause()
                self._step()
            # From now on, not from a task's first turn: its reader may take all there is before that.
            reading, stirred = self._read.next(), self._stirred.next()
            try:
                await asyncio.wait([reading, stirred], return_when=asyncio.FIRST_COMPLETED)
            finally:
                reading.cancel()
                stirred.cancel()
        if paused:
            self._session.pulse.read_on(self._now())
            self._step()

    def _full(self) -> bool:
        return self._backlog() >= (READ_ON_FOR_ACKS if self._session.outgoing.awaited else 1)
