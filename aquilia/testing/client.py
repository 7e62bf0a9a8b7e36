"""The client of a test: it sends what a client would, and waits for what comes, never for longer than it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from aquilia.sockets.codecs import codec as codec_named
from aquilia.sockets.connection import DisconnectReason
from aquilia.sockets.envelope import PLAIN_JSON, PROFILES, MessageEnvelope, MessageType
from aquilia.sockets.faults import SocketFault
from aquilia.testing.clock import TIMEOUT, ControlledClock
from aquilia.testing.handshake import HandshakeRefused, Upgrade

__all__ = ["QUIET", "TIMEOUT", "Client"]

QUIET = 0.1
"""Seconds within which nothing is to come."""
_SHOWN = 10

T = TypeVar("T")


class Client:
    """One connection, from the client's side. `SocketsTest.connect` makes it.

    What a wait looks for is taken, and everything else is left for later waits. One that ends without what it looks
    for raises an `AssertionError`, which shows what did arrive.
    """

    def __init__(self, upgrade: Upgrade, clock: ControlledClock) -> None:
        self._clock = clock
        self._wire = upgrade.wire
        self._wire.on_news = self._take
        self._profile = PROFILES.get(upgrade.subprotocol or "", PLAIN_JSON)
        self._codec = codec_named(self._profile.codec)
        self._inbox: list[MessageEnvelope] = []
        self._news = asyncio.Event()
        self._requests = 0
        self.subprotocol = upgrade.subprotocol
        """The subprotocol that was agreed on."""
        self.headers = upgrade.headers
        """The headers that came with the upgrade."""
        self._take()  # what was sent at once, before there was somebody to tell

    async def _hello(self, timeout: float, token: str | None = None) -> None:
        """Speak first, as protocol v1 wants it: `connect` has done this.

        Raises:
            HandshakeRefused: the server ended the connection instead.
        """
        if not self._profile.v1:
            return
        payload = None if token is None else {"token": token}
        self._send(MessageEnvelope(type="control", event="hello", payload=payload))
        try:
            await self.expect("welcome", type="system", timeout=timeout)
        except AssertionError:
            if self._wire.ended is None:
                raise
            raise HandshakeRefused.by_close(*self._wire.ended) from None

    async def send(self, event: str, payload: Any = None) -> None:
        """Send an event that wants no ack. It may have been handled only when something of it is seen."""
        self._require_open(f"send {event!r}")
        self._send(MessageEnvelope(event=event, payload=payload))
        await asyncio.sleep(0)

    async def request(self, event: str, payload: Any = None, *, timeout: float = TIMEOUT) -> Any:
        """Send an event that wants an ack, and return the ack's data.

        Raises:
            SocketFault: the ack tells of an error: its code, message, `retryable` and details.
            AssertionError: no ack came within `timeout` seconds, or the connection ended before.
        """
        __tracebackhide__ = True
        self._require_open(f"send {event!r}")
        self._requests += 1
        id = f"t{self._requests}"
        self._send(MessageEnvelope(event=event, payload=payload, id=id, ack=True))
        answer = await self._next(
            lambda message: message.type == "ack" and message.id == id, f"no ack of {event!r}", timeout
        )
        told = answer.payload if isinstance(answer.payload, dict) else {}
        if told.get("status") == "error":
            raise _fault(told.get("error"))
        return told.get("data")

    async def expect(
        self, event: str, *, type: MessageType = "event", timeout: float = TIMEOUT
    ) -> MessageEnvelope:
        """The first message with this event that no wait has taken yet; its payload is plain data.

        `type="system"` looks for the protocol's own words, such as `gap`, which clients of v1 get.
        """
        __tracebackhide__ = True
        label = f"no {event!r}" if type == "event" else f"no {event!r} of type {type}"
        return await self._next(
            lambda message: message.event == event and message.type == type, label, timeout
        )

    async def expect_nothing(self, event: str | None = None, *, within: float = QUIET) -> None:
        """Fail if an event is there that no wait has taken, or comes within so many seconds; `event`: that alone."""
        __tracebackhide__ = True
        try:
            async with asyncio.timeout(within):
                while not any(
                    message.type == "event" and event in (None, message.event) for message in self._inbox
                ):
                    await self._wait_for_news()
        except TimeoutError:
            return
        raise AssertionError(f"nothing was to come{f' of {event!r}' if event else ''}, but {self._story()}")

    async def ack(
        self, message: MessageEnvelope, data: Any = None, *, error: Mapping[str, Any] | None = None
    ) -> None:
        """Answer an event that the server sent by `conn.request`; `error` has a code and a message."""
        if not message.ack:
            raise ValueError(f"{message.event!r} wants no ack")
        answer = (
            {"status": "ok", "data": data} if error is None else {"status": "error", "error": dict(error)}
        )
        self._send(MessageEnvelope(type="ack", id=message.id, payload=answer))
        await asyncio.sleep(0)

    async def closed(self, *, timeout: float = TIMEOUT) -> DisconnectReason:
        """Wait until the connection has ended, and tell its code and text."""
        __tracebackhide__ = True
        return await self._until(lambda: self._wire.ended, "the connection is still open", timeout)

    async def disconnect(self, code: int = 1000, reason: str = "", *, timeout: float = TIMEOUT) -> None:
        """Leave, and wait until the server is done with the connection, `@OnDisconnect` included.

        Raises:
            ValueError: for a code that no connection ends with.
        """
        __tracebackhide__ = True
        if not isinstance(code, int) or not 1000 <= code <= 4999:
            raise ValueError(f"a connection ends with a code from 1000 to 4999, not {code!r}")
        self._wire.leave(code, reason)
        try:
            async with asyncio.timeout(timeout):
                await self._wire.gone.wait()
        except TimeoutError:
            raise AssertionError(
                f"the server was not done with the connection within {timeout:g} s: "
                "does a handler not end when it is cancelled, or @OnDisconnect take that long?"
            ) from None

    def stop_reading(self) -> None:
        """Be a client that is too slow: what it is sent waits in its outbox, whose policy applies."""
        self._wire.stop_reading()

    def read_on(self) -> None:
        """Read what has come since `stop_reading`, and go on."""
        self._wire.read_on()

    # What comes

    def _take(self) -> None:
        for data in self._wire.received():
            message = self._codec.decode(data)
            self._inbox.append(msgspec.structs.replace(message, payload=self._codec.plain(message.payload)))
        self._news.set()

    async def _wait_for_news(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _next(
        self, wanted: Callable[[MessageEnvelope], bool], label: str, timeout: float
    ) -> MessageEnvelope:
        __tracebackhide__ = True

        def taken() -> MessageEnvelope | None:
            for place, message in enumerate(self._inbox):
                if wanted(message):
                    return self._inbox.pop(place)
            return None

        return await self._until(taken, label, timeout)

    async def _until(self, found: Callable[[], T | None], label: str, timeout: float) -> T:
        __tracebackhide__ = True
        loop = asyncio.get_running_loop()
        waited = f"within {timeout:g} s"
        try:
            async with asyncio.timeout_at(loop.time() + timeout):
                while True:
                    if (result := found()) is not None:
                        return result
                    if self._wire.ended is not None:
                        waited = f"before the connection ended with {self._wire.ended}"
                        break
                    await self._wait_for_news()
        except TimeoutError:
            pass
        held = ", while the application's clock stood still" if self._clock.frozen else ""
        raise AssertionError(f"{label} {waited}{held}; {self._story()}")

    def _story(self) -> str:
        """What has come and was not taken."""
        if not self._inbox:
            return "nothing else came"
        more = f"\n  and {len(self._inbox) - _SHOWN} more" if len(self._inbox) > _SHOWN else ""
        return "there came" + "".join(f"\n  {_shown(message)}" for message in self._inbox[:_SHOWN]) + more

    # What goes

    def _require_open(self, what: str) -> None:
        __tracebackhide__ = True
        if self._wire.ended is not None:
            raise AssertionError(f"cannot {what}: the connection ended with {self._wire.ended}")

    def _send(self, envelope: MessageEnvelope) -> None:
        self._wire.send(self._codec.encode(envelope), binary=self._codec.binary)


def _fault(error: Any) -> SocketFault:
    told = error if isinstance(error, dict) else {}
    return SocketFault(
        str(told.get("code", "")),
        str(told.get("message", "")),
        retryable=told.get("retryable") is True,
        details=told.get("details", ()),
    )


def _shown(message: MessageEnvelope) -> str:
    kind = "" if message.type == "event" else f"{message.type} "
    room = f" in {message.room!r}" if message.room is not None else ""
    return f"{kind}{message.event or message.id!r}{room}: {message.payload!r:.500}"
