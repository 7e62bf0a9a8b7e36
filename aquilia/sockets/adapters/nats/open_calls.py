"""What is said on a connection to NATS, and what comes back: the calls that wait for an answer, or for its return.

What is said in one turn of the loop is one write, and behind it goes one echo for all who wait for the server.
"""

from __future__ import annotations

import asyncio
from itertools import count
from secrets import token_hex
from typing import Any, Protocol

from aquilia.sockets.adapters.nats.calls import Call, Reply
from aquilia.sockets.adapters.nats.dial import abort
from aquilia.sockets.adapters.nats.url import Target
from aquilia.sockets.faults import ws_adapter_unavailable, ws_publish_failed

__all__ = ["RETRY", "OpenCalls"]

OUTAGE = 5.0
"""Seconds that a call waits for its answer, or for the connection to be back."""
ELECTION = 15.0
"""The same in a cluster, for what may be said twice: it takes up to 9 s to find that a leader is gone."""
RETRY = 1.0
"""Seconds after which what may be said twice is said again."""
LOOK = 0.25
"""Seconds between two looks at what was not answered yet."""
SILENCE = 16
"""Looks in a row at which nothing has come, though the server has an echo to send: then it counts as lost. They are
counted, so that a process that stood still itself does not blame the server."""
ROOM = 1 << 20
"""Bytes that may wait to be sent without anybody waiting for the server to read."""


class Line(Protocol):
    """What they go over."""

    target: Target
    client: Any
    """None while there is none. Before the line is `connected`, it says only what waited."""
    connected: bool
    stopped: bool

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes in one message, headers included."""

    def lost(self, client: Any) -> None:
        """This client is of no use any more."""


class OpenCalls:
    """See the head of this module."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._calls: dict[str, Call] = {}
        self._numbers = count()
        self._inbox = ""
        self._unconfirmed: list[asyncio.Future[Any]] = []
        """Who waits to hear that the server has all that was said until now."""
        self._turn: asyncio.Handle | None = None
        """At the end of this turn, what was said in it is written."""
        self._watching: asyncio.TimerHandle | None = None
        self._heard = self._silent = 0
        """What had come at the last look, and for how many looks nothing has."""
        self._look_due = 0.0
        self._late_look = False
        self._repeating: asyncio.Task[None] | None = None

    # The life of the line

    def start(self) -> None:
        """The line is opened: answers come to an address of their own."""
        self._inbox = f"_INBOX.{token_hex(11)}"

    def stop(self) -> None:
        """End all of them: the line has `stopped`."""
        if self._unconfirmed:
            self._echo()  # it ends with the others
        for call in self._calls.values():
            call.fail("the connection to NATS was closed")
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._repeating is not None:
            self._repeating.cancel()

    def listen(self, client: Any) -> None:
        """Hear the answers by a new client."""
        client.listen(f"{self._inbox}.*", self._answered)

    async def say_unsent(self, client: Any) -> bool:
        """Say what waits, in the order in which it was to be said. Whether there was anything."""
        unsent = [call for call in self._calls.values() if not call.sent and not call.future.done()]
        for call in unsent:
            if not call.future.done():
                await self._write_waiting(client, call)
        return bool(unsent)

    def lose(self) -> None:
        """The line is lost. What may be said again waits for the next client; the rest fails, once it was said."""
        for call in self._calls.values():
            if call.sent and not call.again:
                call.fail("the connection to NATS was lost: whether it has the message is not known")
            call.sent, call.resent = False, call.resent or call.sent
            call.replies.clear()

    def said(self) -> list[Call]:
        """Those that the server has been told."""
        return [call for call in self._calls.values() if call.sent]

    def answered_at(self, subject: str) -> bool:
        """Whether answers come by this subject, which is in lower case."""
        return subject.startswith(self._inbox.lower())

    # Saying

    async def call(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        again: bool = False,
        batch: bool = False,
        until: float | None = None,
    ) -> list[Reply]:
        """Say something, and return the answers; several, up to the server's own last word, in a `batch`.

        What may be said `again` is, until it is answered, or until a `deadline`.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: no answer in time; WS_PUBLISH_FAILED: it is too large.
        """
        return (await self._call(subject, data, headers, until, again=again, batch=batch)).replies

    async def call_telling(
        self, subject: str, data: bytes, headers: dict[str, str], until: float
    ) -> tuple[Reply, bool]:
        """Like `call` with `again`: its answer, and whether it was said more than once."""
        call = await self._call(subject, data, headers, until, again=True, batch=False)
        return call.replies[0], call.resent

    def deadline(self) -> float:
        """Until when, by the loop's time, something that begins now and may be said again is tried: all of it."""
        return asyncio.get_running_loop().time() + self._patience(again=True)

    def _patience(self, *, again: bool) -> float:
        return ELECTION if again and self._line.target.replicas > 1 else OUTAGE

    async def _call(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        until: float | None,
        *,
        again: bool,
        batch: bool,
    ) -> Call:
        self.require_open()
        self._require_size(data, headers)
        token = str(next(self._numbers))
        own = asyncio.get_running_loop().time() + self._patience(again=again)
        until = own if until is None else until if again else min(own, until)
        call = Call(subject, data, headers, f"{self._inbox}.{token}", until, again=again, batch=batch)
        self._calls[token] = call
        self._watch()
        try:
            if self._line.connected:
                await self._say(self._line.client, call)
            await call.future
        except TimeoutError:
            raise ws_adapter_unavailable(self._late(call)) from None
        finally:
            del self._calls[token]
        return call

    async def _say(self, client: Any, call: Call) -> None:
        if client.pending_data_size + len(call.data) < ROOM:
            await self._write(client, call)
            return
        async with asyncio.timeout_at(call.until):  # nats-py waits for a server that does not read
            await self._write(client, call)

    def _watch(self) -> None:
        """Look after the calls, as long as there are any: one timer for all of them."""
        if self._watching is None:
            loop = asyncio.get_running_loop()
            self._look_due = loop.time() + LOOK
            self._watching = loop.call_later(LOOK, self._look)

    def _excused(self, now: float) -> bool:
        """Whether this process stood still: then answers may have come that it has not read yet."""
        self._late_look = not self._late_look and now > self._look_due + LOOK
        return self._late_look

    def _look(self) -> None:
        self._watching = None
        now = asyncio.get_running_loop().time()
        excused = self._excused(now)
        unanswered = [call for call in self._calls.values() if not call.future.done()]
        for call in unanswered:
            if now >= call.until and not excused:
                call.fail(self._late(call))
        if self._line.connected and self._repeating is None:
            silent = [call for call in unanswered if call.again and call.sent and now - call.said >= RETRY]
            if silent:
                self._repeating = asyncio.get_running_loop().create_task(
                    self._repeat(self._line.client, silent)
                )
        self._require_life(unanswered)
        if self._calls:
            self._watch()

    def _require_life(self, unanswered: list[Call]) -> None:
        """Give a server up that has fallen silent: nats-py notices it after 10 to 15 s."""
        client = self._line.client
        heard = client.heard if self._line.connected else 0
        echoes = self._echoes
        due = self._line.connected and any(call.sent and call.subject == echoes for call in unanswered)
        self._silent = self._silent + 1 if due and heard == self._heard else 0
        self._heard = heard
        if self._silent >= SILENCE:
            self._silent = 0
            abort(client)
            self._line.lost(client)

    def _late(self, call: Call) -> str:
        return f"NATS at {self._line.target} did not answer within {round(call.until - call.began, 1):g} s"

    async def _repeat(self, client: Any, calls: list[Call]) -> None:
        try:
            for call in calls:
                if client is self._line.client and not call.future.done():
                    call.resent = True
                    await self._write_waiting(client, call)
        finally:
            self._repeating = None

    async def send(self, subject: str, data: bytes) -> None:
        """Publish without an answer; returns when the server has it. The same faults as `call`."""
        self.require_open()
        self._require_size(data, None)
        token = str(next(self._numbers))
        until = asyncio.get_running_loop().time() + OUTAGE
        call = self._calls[token] = Call(subject, data, None, "", until, again=False, batch=False)
        self._watch()
        try:
            if self._line.connected:
                await self._say(self._line.client, call)
            await call.future  # when it is not connected, its turn comes with that of all who wait
        except TimeoutError:
            raise ws_adapter_unavailable(f"NATS at {self._line.target} cannot be reached") from None
        finally:
            del self._calls[token]

    async def confirm(self) -> None:
        """Wait until the server has all that was said before."""
        self.require_open()
        confirmed = asyncio.get_running_loop().create_future()
        self._unconfirmed.append(confirmed)
        self.end_turn()
        await confirmed

    def require_open(self) -> None:
        """Refuse what is asked of a line that is not open, with WS_ADAPTER_UNAVAILABLE."""
        if self._line.stopped:
            raise ws_adapter_unavailable("the connection to NATS is not open")

    def end_turn(self) -> None:
        """Write what is said in this turn of the loop, at its end."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._write_turn)

    def _write_turn(self) -> None:
        """Write what was said in a turn, and behind it one echo for all who wait for the server."""
        self._turn = None
        if self._unconfirmed and not self._line.stopped:
            self._echo()
        if self._line.client is not None:
            self._line.client.write_now()

    def _echo(self) -> None:
        # nats-py's own flush overtakes what is buffered. An answer to ourselves does not.
        waiting, self._unconfirmed = self._unconfirmed, []
        token = str(next(self._numbers))
        until = asyncio.get_running_loop().time() + OUTAGE
        reply = f"{self._inbox}.{token}"
        call = Call(self._echoes, b"", None, reply, until, again=False, batch=False)
        self._calls[token] = call
        self._watch()

        def heard(future: asyncio.Future[list[Reply]]) -> None:
            del self._calls[token]
            error = future.exception()
            for each in waiting:
                if not each.done():
                    each.set_result([]) if error is None else each.set_exception(error)

        call.future.add_done_callback(heard)
        if self._line.connected and not self._line.client.is_closed:  # which is noticed a moment later
            call.begin()
            self._line.client.say(call.subject, call.reply, call.data)

    @property
    def _echoes(self) -> str:
        return f"{self._inbox}.echo"

    async def _write_waiting(self, client: Any, call: Call) -> None:
        """Write for a call that waits already, and is told of what goes wrong."""
        try:
            await self._write(client, call)
        except Exception as error:
            call.give_up(error)

    async def _write(self, client: Any, call: Call) -> None:
        call.begin()
        try:
            if client.pending_data_size < ROOM:
                client.say(call.subject, call.reply, call.data, call.headers)
            else:
                await client.publish(call.subject, call.data, reply=call.reply, headers=call.headers)
        except Exception as error:
            if call.again and client.is_closed:
                call.sent = False  # the next connection says it
                return
            raise ws_adapter_unavailable(f"NATS at {self._line.target}: {error}") from error
        if not call.reply:
            self._unconfirmed.append(call.future)
        self.end_turn()

    def _answered(self, message: Any) -> None:
        token = message.subject.rpartition(".")[2]
        headers = message.headers or {}
        if token == "echo":  # of our own; whose it is stands in the subject for its answer
            token = message.reply.rpartition(".")[2]
        call = self._calls.get(token)
        if call is None or call.future.done():
            return
        reply = Reply(headers, message.data)
        call.replies.append(reply)
        if not call.batch or reply.status:
            call.future.set_result(call.replies)

    def _require_size(self, data: bytes, headers: dict[str, str] | None) -> None:
        size = len(data) + 12
        if headers is not None:
            size += sum(len(key) + len(value) + 4 for key, value in headers.items())
        if size > self._line.max_payload:
            raise ws_publish_failed(
                f"a publication of {len(data)} bytes is above what NATS takes, {self._line.max_payload} (max_payload)"
            )
