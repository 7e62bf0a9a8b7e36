"""Where messages wait for those who read them: bounded buffers, and the table of handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from aquilia.client.faults import ConnectionEnded, PayloadInvalid
from aquilia.client.notices import Message
from aquilia.sockets.codecs import Codec
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.payload import typed_payload

__all__ = ["Arrival", "Decode", "Signal", "Stream", "decoded", "decoder_for"]

T_co = TypeVar("T_co", covariant=True)
Decode = Callable[[Any], Any]


class Signal:
    """Wakes all who wait."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def fire(self) -> None:
        """Wake them."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def next(self) -> asyncio.Future[None]:
        """The next `fire`, from this very moment on."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def wait(self) -> None:
        """Until the next `fire`."""
        waiter = self.next()
        try:
            await waiter
        finally:
            if not waiter.done() or waiter.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)


def decoder_for(codec: Codec, type: Any) -> Decode:
    """What makes a payload of a type, or plain data where no type is asked for."""
    return codec.plain if type is None else codec.payload_decoder(typed_payload(type))


def decoded(event: str, payload: Any, decode: Decode) -> Any:
    """What came, as its reader wants it.

    Raises:
        PayloadInvalid: it is of another type.
    """
    try:
        return decode(payload)
    except SocketFault as error:
        raise PayloadInvalid(event, error.message, error.details) from None


class Arrival:
    """A message on its way to its readers, each of which may want its payload as another type."""

    __slots__ = ("envelope", "link")

    def __init__(self, envelope: MessageEnvelope, link: int) -> None:
        self.envelope = envelope
        self.link = link

    def message(self, decode: Decode) -> Message[Any]:
        """As one reader wants it.

        Raises:
            PayloadInvalid: its payload is of another type.
        """
        envelope = self.envelope
        return Message(
            event=envelope.event or "",
            payload=decoded(envelope.event or "", envelope.payload, decode),
            room=envelope.room,
            id=envelope.id if envelope.ack else None,
            meta=envelope.meta or {},
        )


class Stream(Generic[T_co]):
    """What came, in order, for one reader: `async for`. A full one stops the reading of the connection.

    Leave it with `close`, or as a context manager; one that nobody holds any more is forgotten by itself.
    """

    def __init__(self, wanted: frozenset[Any], decode: Decode, bound: int, taken: Callable[[], None]) -> None:
        self._wanted = wanted
        self._decode = decode
        self._bound = bound
        self._taken = taken
        self._items: deque[Any] = deque()
        self._news = Signal()
        self._over = False
        self._fault: ConnectionEnded | None = None

    def _wants(self, what: Any) -> bool:
        return not self._over and (what in self._wanted or (not self._wanted and isinstance(what, str)))

    def _offer(self, item: Any) -> None:
        self._items.append(item)
        self._news.fire()

    def _backlog(self) -> float:
        return 0.0 if self._over else len(self._items) / self._bound

    def _end(self, fault: ConnectionEnded | None) -> None:
        self._over = True
        self._fault = None if fault is None or fault.clean else fault
        self._news.fire()

    def close(self) -> None:
        """Take no more, and drop what is left."""
        self._items.clear()
        self._end(None)
        self._taken()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        while not self._items:
            if self._fault is not None:
                raise self._fault.with_traceback(None)  # it is raised often, and would keep all its frames
            if self._over:
                raise StopAsyncIteration
            await self._news.wait()
        item = self._items.popleft()
        self._taken()
        return cast("T_co", item.message(self._decode) if isinstance(item, Arrival) else item)
