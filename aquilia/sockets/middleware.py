"""Message middleware: wraps the handling of one event. And what comes with the house."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import deepcopy
from time import perf_counter
from typing import Any, Protocol

import msgspec

from aquilia.faults import Fault
from aquilia.sockets.codecs import Codec
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ClientFault, SocketFault, ws_payload_too_large
from aquilia.sockets.limits.rates import ConnectionRate

__all__ = [
    "Handle",
    "LoggingMiddleware",
    "MessageValidationMiddleware",
    "MetricsMiddleware",
    "RateLimitMiddleware",
    "SocketMiddleware",
    "accepts",
    "middleware_problems",
    "span_problem",
    "wrap",
]

logger = logging.getLogger("aquilia.sockets.messages")

Handle = Callable[[Connection, MessageEnvelope], Awaitable[Any]]


class SocketMiddleware(Protocol):
    """`await next(conn, envelope)` goes on to the rest of the chain, and returns the ack's data."""

    async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
        """Handle one event. The envelope's payload is still raw."""


class MessageValidationMiddleware:
    """Refuses messages and payloads above these sizes, in bytes: WS_PAYLOAD_TOO_LARGE, which ends the connection.

    The bytes of a JSON or MessagePack payload are counted as they came. All else has been read when middleware is
    asked, and is counted as the codec of the connection writes it: a message with its `type`, without keys that the
    protocol does not know and without white space around the payload; a CBOR payload in its shortest form, dates and
    UUIDs as strings. The bytes of the frame itself are what the setting `max_message_size` bounds.

    Raises:
        ValueError: for a size that is no whole number of at least 1, or if there is none.
    """

    def __init__(self, max_message_size: int | None = None, max_payload_size: int | None = None) -> None:
        sizes = {"max_message_size": max_message_size, "max_payload_size": max_payload_size}
        for name, size in sizes.items():
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise ValueError(
                    f"MessageValidationMiddleware: {name}: a whole number of at least 1 is needed, not {size!r}"
                )
        if max_message_size is max_payload_size is None:
            raise ValueError(f"MessageValidationMiddleware: one of {' and '.join(sizes)} is needed")
        self.max_message_size = max_message_size
        self.max_payload_size = max_payload_size

    async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
        """See `SocketMiddleware`."""
        limit = self.max_payload_size
        if limit is not None and (size := _payload_size(conn._codec, envelope.payload)) > limit:
            raise ws_payload_too_large(size, limit, "payload")
        limit = self.max_message_size
        if limit is not None and (size := len(conn._codec.encode(envelope))) > limit:
            raise ws_payload_too_large(size, limit)
        return await next(conn, envelope)


def _payload_size(codec: Codec, payload: Any) -> int:
    if payload is None:
        return 0
    if isinstance(payload, msgspec.Raw):
        return memoryview(payload).nbytes
    return len(codec.encode(MessageEnvelope(payload=payload))) - len(codec.encode(_ONE_BYTE)) + 1


_ONE_BYTE = MessageEnvelope(payload=0)


class RateLimitMiddleware:
    """Lets each connection have so many events a second, and `burst` at once: by default twice as many.

    As `RateLimitGuard`, but before all guards: what those refuse counts as well.

    Raises:
        ValueError: for values that would let nothing pass.
    """

    def __init__(self, messages_per_second: float = 10, burst: float | None = None) -> None:
        self._rate = ConnectionRate("RateLimitMiddleware", messages_per_second, burst)

    async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
        """See `SocketMiddleware`."""
        self._rate.take(conn)
        return await next(conn, envelope)


class LoggingMiddleware:
    """Writes a record for each event, when it is done, to the logger `aquilia.sockets.messages`, with level INFO.

    The record has the attributes `connection` (its id), `namespace`, `event`, `outcome` and `milliseconds`. The
    outcome is "ok", the code of a fault, "cancelled", or the class of another exception. With `log_payloads` there
    is `payload` too: as it came, in builtins.
    """

    def __init__(self, log_payloads: bool = False) -> None:
        if not isinstance(log_payloads, bool):
            raise ValueError(
                f"LoggingMiddleware: log_payloads: True or False is needed, not {log_payloads!r}"
            )
        self.log_payloads = log_payloads

    async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
        """See `SocketMiddleware`."""
        if not logger.isEnabledFor(logging.INFO):
            return await next(conn, envelope)
        told = {"connection": conn.id, "namespace": conn.namespace, "event": envelope.event, "outcome": "ok"}
        more = {"payload": _readable(conn._codec, envelope.payload)} if self.log_payloads else {}
        begun = perf_counter()
        try:
            return await next(conn, envelope)
        except BaseException as error:
            told["outcome"] = _outcome(error)
            raise
        finally:
            _write(told, (perf_counter() - begun) * 1000, more)


class MetricsMiddleware:
    """Measures how long what stands inside of it takes, for each event: the metric `aquilia_span_seconds`.

    Where it stands is what it measures: on the app, around the guards and all else; as the last one of an event,
    guards, schema and method. `span` is its label, to tell several around one event apart. It needs no setting:
    where one stands, figures are kept. The whole handling of every event is in `aquilia_handler_seconds`.

    Raises:
        ValueError: for a span that is no string of 1 to 64 characters.
    """

    def __init__(self, span: str = "handler") -> None:
        if not isinstance(span, str) or not 1 <= len(span) <= 64:
            raise ValueError(
                f"MetricsMiddleware: span: a string of 1 to 64 characters is needed, not {span!r}"
            )
        self.span = span

    async def __call__(self, conn: Connection, envelope: MessageEnvelope, next: Handle) -> Any:
        """See `SocketMiddleware`."""
        begun = perf_counter()
        try:
            return await next(conn, envelope)
        finally:
            meter = conn._home.meter
            if meter is not None:
                meter.span(self.span, envelope.event).observe(perf_counter() - begun)


def span_problem(*chains: Sequence[Any]) -> str | None:
    """Why these, around one event, would measure something twice. What is no list has a problem of its own."""
    entries = [entry for chain in chains if isinstance(chain, tuple) for entry in chain]
    spans = [entry.span for entry in entries if isinstance(entry, MetricsMiddleware)]
    for span in spans:
        if spans.count(span) > 1:
            return (
                f"middleware: {spans.count(span)} of MetricsMiddleware({span!r}) are around it, and each would "
                "count it; give them spans of their own, or leave out all but one"
            )
    return None


def _outcome(error: BaseException) -> str:
    if isinstance(error, ClientFault):
        return "WS_CLIENT_ERROR"  # the code is the client's own text, which is for no log
    if isinstance(error, Fault):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__qualname__


def _readable(codec: Codec, payload: Any) -> Any:
    """The payload, apart from what the handler gets: that may change its own."""
    try:
        return codec.plain(payload) if isinstance(payload, msgspec.Raw) else deepcopy(payload)
    except SocketFault:  # the handler's decoder will say so, if it reads the payload
        return bytes(payload)


def _write(told: dict[str, Any], milliseconds: float, more: dict[str, Any]) -> None:
    text = "%s %r %s: %s in %.1f ms" + (", payload %r" if more else "")
    logger.info(
        text,
        *told.values(),
        milliseconds,
        *more.values(),
        extra={**told, "milliseconds": round(milliseconds, 3), **more},
    )


def wrap(middleware: SocketMiddleware, handle: Handle) -> Handle:
    """The handling with one middleware around it."""

    def handle_wrapped(conn: Connection, envelope: MessageEnvelope) -> Awaitable[Any]:
        return middleware(conn, envelope, handle)

    return handle_wrapped


def middleware_problems(middleware: Sequence[Any]) -> Iterator[str]:
    """Why these could not be called as middleware."""
    for entry in middleware:
        name = getattr(entry, "__qualname__", type(entry).__qualname__)
        if isinstance(entry, type):
            yield f"middleware: {name} is a class; write {name}()"
        elif not callable(entry):
            yield f"middleware: {entry!r} is not callable as (conn, envelope, next)"
        elif not (inspect.iscoroutinefunction(entry) or inspect.iscoroutinefunction(type(entry).__call__)):
            yield f"middleware: {name} is not async; write `async def (conn, envelope, next)`"
        elif not accepts(entry, 3):
            yield f"middleware: {name} must take (conn, envelope, next)"


def accepts(call: Callable[..., Any], arguments: int) -> bool:
    """Whether it can be called with so many positional arguments, as far as its signature tells."""
    try:
        inspect.signature(call).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # compiled code may have no signature
        return True
    return True
