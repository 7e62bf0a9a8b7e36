"""The client of protocol v1 on asyncio: a `Session` for the protocol, `websockets` for the wire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random as chance
import weakref
from collections.abc import Callable, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from aquilia.client.desk import Desk
from aquilia.client.driving import Driving, Ticket, Token
from aquilia.client.faults import AckTimeout, ConnectionEnded, ConnectionLost, QueueFull
from aquilia.client.link import Dialer
from aquilia.client.notices import Position, State
from aquilia.client.options import Options, positive, whole
from aquilia.client.session import Session
from aquilia.client.steps import Phase
from aquilia.client.streams import Signal, Stream, decoded, decoder_for
from aquilia.clock import Clock
from aquilia.sockets.codecs import codec as codec_named

__all__ = ["Client", "Token"]

logger = logging.getLogger("aquilia.client")

T = TypeVar("T")
R = TypeVar("R")

_DEFAULT = float("nan")  # this very object


class Client(Driving):
    """A connection to one namespace, which comes back by itself, and resumes where it was.

    `async with Client(url) as client:` connects, and waits for the server's welcome. What is registered before the
    first `await` behind that misses nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        codec: str = "json",
        token: Token = None,
        ticket: Ticket = None,
        headers: Mapping[str, str] | None = None,
        ssl: SSLContext | None = None,
        proxy: str | bool | None = True,
        call_timeout: float | None = 10.0,
        close_timeout: float = 5.0,
        open_timeout: float = 10.0,
        max_message_size: int = 4 << 20,
        buffer: int = 256,
        queue_size: int = 1000,
        queue_bytes: int = 1 << 20,
        backoff_base: float = 0.5,
        backoff_cap: float = 30.0,
        stable_after: float = 5.0,
        keep_trying: bool = False,
        rejoin_after_takeover: bool = False,
        random: Callable[[], float] = chance.random,
        clock: Clock | None = None,
    ) -> None:
        if codec in ("plain", "aquilia.plain.json"):
            raise ValueError("this client does not speak the plain profile: json, msgpack or cbor")
        self._codec = codec_named(codec)
        if ticket is not None and not callable(ticket):
            raise ValueError("a ticket is for one handshake: give a function that gets one for each attempt")
        if ticket is not None and token is not None:
            raise ValueError("a token or a ticket says who it is, not both")
        self._token = token
        self._ticket = ticket
        self._shown = None
        self._clock = clock or Clock()
        self._call_timeout = call_timeout
        self._close_timeout = close_timeout
        positive("close_timeout", close_timeout)
        if call_timeout is not None:
            positive("call_timeout", call_timeout)
        for name, value in (("buffer", buffer), ("max_message_size", max_message_size)):
            whole(name, value)
        self._buffer = buffer
        options = Options(
            open_timeout=open_timeout,
            backoff_base=backoff_base,
            backoff_cap=backoff_cap,
            stable_after=stable_after,
            queue_size=queue_size,
            queue_bytes=queue_bytes,
            keep_trying=keep_trying,
            rejoin_after_takeover=rejoin_after_takeover,
            renewable=callable(token) or ticket is not None,
        )
        self._dialer = Dialer(
            url,
            subprotocol=f"aquilia.v1.{codec}",
            headers=headers or {},
            ssl=ssl,
            proxy=proxy,
            open_timeout=open_timeout,
            close_timeout=close_timeout,
            max_message_size=max_message_size,
            clock=self._clock,
        )
        self._session = Session(self._codec, random=random, options=options, server=self._dialer.name)
        self._stirred, self._written, self._read = Signal(), Signal(), Signal()
        self._desk = Desk(self._session, buffer, self._read.fire, self._pump)
        self._streams: weakref.WeakSet[Stream[Any]] = weakref.WeakSet()
        self._calls = {}
        self._timer = None
        self._runner: asyncio.Task[None] | None = None
        self._conversation = None
        self._renewing = None
        self._failures = 0

    # Being connected

    @property
    def state(self) -> State:
        """Where this client stands."""
        return self._session.state

    @property
    def rooms(self) -> dict[str, Position | None]:
        """The rooms that it is in, with its position where a room keeps history."""
        return self._session.positions.rooms

    @property
    def ended(self) -> ConnectionEnded | None:
        """Why it has stopped."""
        return self._session.ended

    async def connect(self) -> None:
        """Connect, and wait for the welcome.

        Raises:
            ConnectionEnded: it came to nothing.
        """
        if self._runner is not None and not self._runner.done():
            raise RuntimeError("this client is connected, or about to be")
        self._session.start(self._now())
        self._desk.start()
        self._runner = asyncio.create_task(self._run(), name=f"aquilia client of {self._dialer.name}")
        try:
            await self.connected()
        except BaseException:
            await self.close()
            raise

    async def connected(self) -> None:
        """Wait until it is connected.

        Raises:
            ConnectionEnded: it has stopped.
        """
        while self.state is not State.CONNECTED:
            if self.state is State.CLOSED:
                self._session.require_open()
            await self._stirred.wait()

    async def close(self) -> None:
        """Send what waits, leave, and stop everything. Open calls fail; streams end.

        Each of these steps takes at most `close_timeout`. If it is cancelled, it ends at once.
        """
        runner = self._runner
        if runner is None:
            return
        try:
            await self._flush()
            self._session.close(self._now())
            self._pump()
            if self._session.phase is Phase.CLOSED:
                runner.cancel()
            await asyncio.wait([runner], timeout=self._close_timeout + 1)
            runner.cancel()
            await asyncio.wait([runner])
            if runner is self._runner:  # else somebody has connected it anew
                await self._desk.stop(self._close_timeout)
        except asyncio.CancelledError:
            self._session.close(self._now())
            self._session.lost(1000, "", self._now())
            runner.cancel()
            self._desk.abandon()
            self._pump()
            raise

    async def _flush(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._close_timeout):
                while self.state is State.CONNECTED and self._session.has_frames():
                    await self._written.wait()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Speaking

    async def send(self, event: str, payload: Any = None) -> None:
        """Send an event that wants no ack: at most once. While there is no connection, it waits in the queue.

        Raises:
            QueueFull: the queue is full, and there is no connection.
            ConnectionEnded: the client has stopped.
        """
        await self._place(lambda: self._session.send(event, payload))

    @overload
    async def call(
        self,
        event: str,
        payload: Any = None,
        *,
        type: type[T],
        timeout: float | None = ...,
        idempotent: bool = False,
    ) -> T: ...

    @overload
    async def call(
        self, event: str, payload: Any = None, *, timeout: float | None = ..., idempotent: bool = False
    ) -> Any: ...

    async def call(
        self,
        event: str,
        payload: Any = None,
        *,
        type: Any = None,
        timeout: float | None = _DEFAULT,
        idempotent: bool = False,
    ) -> Any:
        """Send an event that wants an ack, and return the ack's data, as `type` where that is given.

        `timeout` is in seconds, the client's `call_timeout` where it is not given. A call that is `idempotent` is
        sent again, with the same id, if the connection breaks before its answer.

        Raises:
            ServerFault: the server's answer is an error.
            PayloadInvalid: its data is not of that `type`.
            AckTimeout: there is none in time.
            ConnectionLost: the connection broke, and it is not known whether the server handled the event.
            QueueFull: there is no connection, and the queue is full.
            ConnectionEnded: the client has stopped.
        """
        decode = decoder_for(self._codec, type)
        seconds = self._call_timeout if timeout is _DEFAULT else timeout
        if seconds is not None:
            positive("timeout", seconds)
        return decoded(event, await self._outcome(event, payload, seconds, idempotent=idempotent), decode)

    async def authenticate(self, token: str) -> None:
        """Show a new token: in band where there is a connection, else in the next `hello`.

        A client that was stopped for want of a valid token (4401) connects again.

        Raises:
            ConnectionEnded: the server does not believe it.
            ServerFault: it was not tried, since the server cannot now.
            ConnectionLost: the connection ended before the answer, and comes back.
            AckTimeout: there is no answer in time.
        """
        if not callable(self._token):
            self._token = token
        if self.state is State.CONNECTED:
            try:
                await self._outcome("auth", {"token": token}, self._call_timeout, control=True)
            except ConnectionLost as lost:
                if self.ended is not None:
                    raise self.ended from lost
                raise
            return
        self._shown = token
        if self.ended is not None and (self.ended.close_code == 4401 or self.ended.http_status == 401):
            await self.close()
            await self.connect()

    async def _outcome(
        self,
        event: str,
        payload: Any,
        timeout: float | None,
        *,
        idempotent: bool = False,
        control: bool = False,
    ) -> Any:
        def place() -> str:
            return self._session.call(
                event, payload, now=self._now(), timeout=timeout, idempotent=idempotent, control=control
            )

        try:
            async with asyncio.timeout(timeout):
                id = await self._place(place)
        except TimeoutError:
            raise AckTimeout(event, timeout or 0, sent=False) from None
        self._calls[id] = answer = asyncio.get_running_loop().create_future()
        try:
            return await answer
        finally:
            self._calls.pop(id, None)
            self._session.give_up(id)

    async def _place(self, place: Callable[[], R]) -> R:
        while True:
            try:
                placed = place()
            except QueueFull:
                if self.state is not State.CONNECTED:
                    raise
                await self._written.wait()
            else:
                self._pump()
                return placed
