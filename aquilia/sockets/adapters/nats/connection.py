"""One connection to NATS, which comes back by itself, with all that it listens to.

nats-py brings the protocol. What it does after a disconnect is ours, for it replays what it has buffered at a time
when nobody waits for it any more, and gives up for good on errors that pass.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

from aquilia.sockets.adapters.nats.dial import MISSING, DialError, close, dial
from aquilia.sockets.adapters.nats.open_calls import OpenCalls
from aquilia.sockets.adapters.nats.url import Target
from aquilia.sockets.adapters.outages import UNREACHABLE, Outage
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["NatsConnection"]

logger = logging.getLogger("aquilia.sockets.nats")


_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class NatsConnection:
    """See the head of this module."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on_lost: Callable[[], None] | None = None
        self.client: Any = None
        self.connected = False
        self.cut = False
        """From a loss until `on_lost` is called: what comes meanwhile is incomplete."""
        self.trouble: str | None = None
        """See the head of `adapters.base`."""
        self.links = 0
        """How often it was connected."""
        self.stopped = True
        calls = self._calls = OpenCalls(self)
        self.call, self.call_telling, self.send = calls.call, calls.call_telling, calls.send
        self.confirm, self.deadline = calls.confirm, calls.deadline
        self._subscribers: dict[str, Callable[[Any], None]] = {}
        self._subscriptions: dict[str, int] = {}
        """Their numbers on this connection."""
        self._denied: dict[str, str] = {}
        """What the server said against subscriptions, by subjects in lower case, as nats-py has them."""
        self._restoring: asyncio.Task[None] | None = None

    # Its life

    async def start(self) -> None:
        """Connect.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do: unreachable, or the login is refused.
        """
        self.stopped = self.cut = False
        self.trouble = None
        self._calls.start()
        try:
            await self._restore(await dial(self.target, self._complaint))
        except ImportError as error:
            raise ws_adapter_unavailable(MISSING) from error
        except (DialError, ConnectionError) as error:
            raise ws_adapter_unavailable(str(error)) from error

    async def stop(self) -> None:
        """End it, and every call on it. Safe to call twice."""
        self.stopped = True
        self.connected = False
        self._calls.stop()
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.wait([self._restoring])
        self.connected = False
        client, self.client = self.client, None
        self._subscribers.clear()
        self._subscriptions.clear()
        if client is not None:
            await close(client)

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes in one message, headers included."""
        return int(self.client.max_payload) if self.client is not None else 1 << 20

    async def _restore(self, client: Any) -> None:
        """Take up a new connection: the subscriptions first, then what waits, in the order in which it was said."""
        self.client = client
        self.links += 1
        self._denied.clear()
        # The one sign that comes whatever the reason is: nats-py's callbacks are left out when its own end fails.
        client._reading_task.add_done_callback(lambda _: self.lost(client))
        self._calls.listen(client)
        self._subscriptions.clear()
        while True:  # while that is said, others come to listen
            for subject, receive in self._subscribers.items():
                if subject not in self._subscriptions:
                    self._subscriptions[subject] = client.listen(subject, receive)
            self._calls.end_turn()
            if not await self._calls.say_unsent(client):
                break
            if client is not self.client or client.is_closed:  # it broke meanwhile
                raise ConnectionError("the connection was lost again")
        self.connected = client is self.client

    def lost(self, client: Any) -> None:
        """This client is of no use any more: connect again, if it is the one in use."""
        if self.stopped or client is not self.client:
            return
        self.connected = False
        self.cut = True
        self.trouble = self.trouble or UNREACHABLE
        self.client = None
        logger.warning("the connection to NATS at %s is lost; connecting again", self.target)
        self._calls.lose()
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.get_running_loop().create_task(self._come_back(client))

    async def _come_back(self, old: Any) -> None:
        await close(old)
        outage = Outage("NATS", logger)
        while True:
            try:
                await self._restore(await dial(self.target, self._complaint))
                await self.confirm()  # only then does the server know what we listen to
            except Exception as error:  # whatever it was, the next attempt may go well
                refused = isinstance(error, DialError) and error.weight > 0
                self.trouble = outage.failed(error, refused=refused)
                broken = self.client
                if broken is not None:
                    self.lost(broken)
                    await close(broken)
            else:
                if self.connected:
                    break
            if self.stopped:  # while it waits for a server to read, nats-py swallows a cancellation
                return
            await outage.pause()
        logger.warning("connected to NATS at %s again", self.target)
        for words in self._denied.values():  # since the connection before
            logger.warning("%s", words)
        self.cut = False
        self.trouble = None
        if self.on_lost is not None:
            self.on_lost()

    # Listening

    async def subscribe(self, subject: str, receive: Callable[[Any], None]) -> None:
        """Receive what is published there, from now on and on every later connection; at once, in order."""
        self._calls.require_open()
        self._subscribers[subject] = receive
        try:
            if self.connected and not self.client.is_closed:  # which is noticed a moment later
                self._subscriptions[subject] = self.client.listen(subject, receive)
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
        if number is not None and self.client is not None:
            self.client.unlisten(number)
            self._calls.end_turn()

    def _complaint(self, error: Exception) -> None:
        """What the server says between two answers: that something is not allowed is the one thing to act on."""
        found = _DENIED.search(str(error))
        if found is None:
            logger.debug("NATS at %s: %s", self.target, error)
            return
        verb, subject = found.groups()  # nats-py has it in lower case
        calls = self._calls.said()
        if verb == "publish":
            calls = [call for call in calls if call.subject.lower() == subject]
            words = self._not_allowed("publish", calls[0].subject if calls else subject)
        elif self._calls.answered_at(subject):  # nobody will be answered
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
