"""One connection to NATS, which comes back by itself, and the calls over it.

nats-py brings the protocol. What it does after a disconnect is ours, for it replays what it has buffered at a time
when nobody waits for it any more, and gives up for good on errors that pass.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable
from itertools import count
from secrets import token_hex
from typing import Any

from aquilia.sockets.adapters.nats_calls import Call, Reply
from aquilia.sockets.adapters.nats_dial import MISSING, DialError, abort, close, dial
from aquilia.sockets.adapters.nats_url import Target
from aquilia.sockets.faults import ws_adapter_unavailable, ws_publish_failed

__all__ = ["NatsConnection"]

logger = logging.getLogger("aquilia.sockets.nats")

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
UNREACHABLE, REFUSED = "unreachable", "refused"
"""What `trouble` says."""
BACKOFF = (0.05, 2.0)
"""Seconds between attempts to connect: the first, and the longest; each is cut by chance to half of it at most."""


_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class NatsConnection:
    """See the head of this module."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on_lost: Callable[[], None] | None = None
        self._client: Any = None
        self.connected = False
        self.cut = False
        """From a loss until `on_lost` is called: what comes meanwhile is incomplete."""
        self.trouble: str | None = None
        """See the head of `adapters.base`."""
        self.links = 0
        """How often it was connected."""
        self._stopped = True
        self._calls: dict[str, Call] = {}
        self._numbers = count()
        self._inbox = ""
        self._subscribers: dict[str, Callable[[Any], None]] = {}
        self._subscriptions: dict[str, int] = {}
        """Their numbers on this connection."""
        self._denied: dict[str, str] = {}
        """What the server said against subscriptions, by subjects in lower case, as nats-py has them."""
        self._unconfirmed: list[asyncio.Future[Any]] = []
        """Who waits to hear that the server has all that was said until now."""
        self._turn: asyncio.Handle | None = None
        """At the end of this turn, what was said in it is written."""
        self._restoring: asyncio.Task[None] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._heard = self._silent = 0
        """What had come at the last look, and for how many looks nothing has."""
        self._repeating: asyncio.Task[None] | None = None

    # Its life

    async def start(self) -> None:
        """Connect.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do: unreachable, or the login is refused.
        """
        self._stopped = self.cut = False
        self.trouble = None
        self._inbox = f"_INBOX.{token_hex(11)}"
        try:
            await self._restore(await dial(self.target, self._complaint))
        except ImportError as error:
            raise ws_adapter_unavailable(MISSING) from error
        except (DialError, ConnectionError) as error:
            raise ws_adapter_unavailable(str(error)) from error

    async def stop(self) -> None:
        """End it, and every call on it. Safe to call twice."""
        self._stopped = True
        self.connected = False
        if self._unconfirmed:
            self._echo()  # it ends with the others
        for call in self._calls.values():
            call.fail("the connection to NATS was closed")
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait([self._restoring])
        self.connected = False
        client, self._client = self._client, None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._repeating is not None:
            self._repeating.cancel()
        self._subscribers.clear()
        self._subscriptions.clear()
        if client is not None:
            await close(client)

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes in one message, headers included."""
        return int(self._client.max_payload) if self._client is not None else 1 << 20

    async def _restore(self, client: Any) -> None:
        """Take up a new connection: the subscriptions first, then what waits, in the order in which it was said."""
        self._client = client
        self.links += 1
        self._denied.clear()
        # The one sign that comes whatever the reason is: nats-py's callbacks are left out when its own end fails.
        client._reading_task.add_done_callback(lambda _: self._lost(client))
        client.listen(f"{self._inbox}.*", self._answered)
        self._subscriptions.clear()
        while True:  # while that is said, others come to listen
            for subject, receive in self._subscribers.items():
                if subject not in self._subscriptions:
                    self._subscriptions[subject] = client.listen(subject, receive)
            self._end_turn()
            unsent = [call for call in self._calls.values() if not call.sent and not call.future.done()]
            if not unsent:
                break
            for call in unsent:
                if not call.future.done():
                    await self._write_waiting(client, call)
            if client is not self._client or client.is_closed:  # it broke meanwhile
                raise ConnectionError("the connection was lost again")
        self.connected = client is self._client

    def _lost(self, client: Any) -> None:
        if self._stopped or client is not self._client:
            return
        self.connected = False
        self.cut = True
        self.trouble = self.trouble or UNREACHABLE
        self._client = None
        logger.warning("the connection to NATS at %s is lost; connecting again", self.target)
        for call in self._calls.values():
            if call.sent and not call.again:
                call.fail("the connection to NATS was lost: whether it has the message is not known")
            call.sent, call.resent = False, call.resent or call.sent
            call.replies.clear()
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.get_running_loop().create_task(self._come_back(client))

    async def _come_back(self, old: Any) -> None:
        await close(old)
        wait, longest = BACKOFF
        told = ""
        while True:
            try:
                await self._restore(await dial(self.target, self._complaint))
                await self.confirm()  # only then does the server know what we listen to
            except Exception as error:  # whatever it was, the next attempt may go well
                refused = isinstance(error, DialError) and error.weight > 0
                self.trouble = REFUSED if refused else UNREACHABLE
                news = refused and str(error) != told
                told = str(error) if news else told
                logger.log(logging.WARNING if news else logging.DEBUG, "no connection to NATS yet: %s", error)
                broken = self._client
                if broken is not None:
                    self._lost(broken)
                    await close(broken)
            else:
                if self.connected:
                    break
            if self._stopped:  # while it waits for a server to read, nats-py swallows a cancellation
                return
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(longest, wait * 2)
        logger.warning("connected to NATS at %s again", self.target)
        for words in self._denied.values():  # since the connection before
            logger.warning("%s", words)
        self.cut = False
        self.trouble = None
        if self.on_lost is not None:
            self.on_lost()

    # Calls

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
        return ELECTION if again and self.target.replicas > 1 else OUTAGE

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
        self._require_open()
        self._require_size(data, headers)
        token = str(next(self._numbers))
        own = asyncio.get_running_loop().time() + self._patience(again=again)
        until = own if until is None else until if again else min(own, until)
        call = Call(subject, data, headers, f"{self._inbox}.{token}", until, again=again, batch=batch)
        self._calls[token] = call
        self._watch()
        try:
            if self.connected:
                await self._say(self._client, call)
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
            self._watching = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        self._watching = None
        now = asyncio.get_running_loop().time()
        unanswered = [call for call in self._calls.values() if not call.future.done()]
        for call in unanswered:
            if now >= call.until:
                call.fail(self._late(call))
        if self.connected and self._repeating is None:
            silent = [call for call in unanswered if call.again and call.sent and now - call.said >= RETRY]
            if silent:
                self._repeating = asyncio.get_running_loop().create_task(self._repeat(self._client, silent))
        self._require_life(unanswered)
        if self._calls:
            self._watch()

    def _require_life(self, unanswered: list[Call]) -> None:
        """Give a server up that has fallen silent: nats-py notices it after 10 to 15 s."""
        client = self._client
        heard = client.heard if self.connected else 0
        echoes = self._echoes
        due = self.connected and any(call.sent and call.subject == echoes for call in unanswered)
        self._silent = self._silent + 1 if due and heard == self._heard else 0
        self._heard = heard
        if self._silent >= SILENCE:
            self._silent = 0
            abort(client)
            self._lost(client)

    def _late(self, call: Call) -> str:
        return f"NATS at {self.target} did not answer within {round(call.until - call.began, 1):g} s"

    async def _repeat(self, client: Any, calls: list[Call]) -> None:
        try:
            for call in calls:
                if client is self._client and not call.future.done():
                    call.resent = True
                    await self._write_waiting(client, call)
        finally:
            self._repeating = None

    async def send(self, subject: str, data: bytes) -> None:
        """Publish without an answer; returns when the server has it. The same faults as `call`."""
        self._require_open()
        self._require_size(data, None)
        token = str(next(self._numbers))
        until = asyncio.get_running_loop().time() + OUTAGE
        call = self._calls[token] = Call(subject, data, None, "", until, again=False, batch=False)
        self._watch()
        try:
            if self.connected:
                await self._say(self._client, call)
            await call.future  # when it is not connected, its turn comes with that of all who wait
        except TimeoutError:
            raise ws_adapter_unavailable(f"NATS at {self.target} cannot be reached") from None
        finally:
            del self._calls[token]

    async def confirm(self) -> None:
        """Wait until the server has all that was said before."""
        self._require_open()
        confirmed = asyncio.get_running_loop().create_future()
        self._unconfirmed.append(confirmed)
        self._end_turn()
        await confirmed

    def _require_open(self) -> None:
        if self._stopped:
            raise ws_adapter_unavailable("the connection to NATS is not open")

    def _end_turn(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._write_turn)

    def _write_turn(self) -> None:
        """Write what was said in a turn, and behind it one echo for all who wait for the server."""
        self._turn = None
        if self._unconfirmed and not self._stopped:
            self._echo()
        if self._client is not None:
            self._client.write_now()

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
        if self.connected:
            call.begin()
            self._client.say(call.subject, call.reply, call.data)

    @property
    def _echoes(self) -> str:
        return f"{self._inbox}.echo"

    async def subscribe(self, subject: str, receive: Callable[[Any], None]) -> None:
        """Receive what is published there, from now on and on every later connection; at once, in order."""
        self._require_open()
        self._subscribers[subject] = receive
        try:
            if self.connected:
                self._subscriptions[subject] = self._client.listen(subject, receive)
            await self.confirm()
            if denied := self._denied.get(subject.lower()):
                raise ws_adapter_unavailable(denied)
        except BaseException:
            await self.unsubscribe(subject)
            raise

    async def unsubscribe(self, subject: str) -> None:
        """The opposite."""
        self._subscribers.pop(subject, None)
        self._denied.pop(subject.lower(), None)
        number = self._subscriptions.pop(subject, None)
        if number is not None and self._client is not None:
            self._client.unlisten(number)
            self._end_turn()

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
            raise ws_adapter_unavailable(f"NATS at {self.target}: {error}") from error
        if not call.reply:
            self._unconfirmed.append(call.future)
        self._end_turn()

    def _complaint(self, error: Exception) -> None:
        """What the server says between two answers: that something is not allowed is the one thing to act on."""
        found = _DENIED.search(str(error))
        if found is None:
            logger.debug("NATS at %s: %s", self.target, error)
            return
        verb, subject = found.groups()  # nats-py has it in lower case
        calls = [call for call in self._calls.values() if call.sent]
        if verb == "publish":
            calls = [call for call in calls if call.subject.lower() == subject]
            words = self._not_allowed("publish", calls[0].subject if calls else subject)
        elif subject.startswith(self._inbox.lower()):  # nobody will be answered
            words = self._not_allowed("subscribe", "_INBOX.>")
        else:
            known = next((known for known in self._subscribers if known.lower() == subject), subject)
            self._denied[subject] = self._not_allowed("subscribe", known)
            return
        for call in calls:
            call.fail(words)

    def _not_allowed(self, verb: str, subject: str) -> str:
        return (
            f"NATS at {self.target} does not allow this login to {verb} to {subject!r}: allow it to publish and to "
            f"subscribe to {self.target.prefix}.> and _INBOX.>, and to publish to $JS.API.>"
        )

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
        if size > self.max_payload:
            raise ws_publish_failed(
                f"a publication of {len(data)} bytes is above what NATS takes, {self.max_payload} (max_payload)"
            )
