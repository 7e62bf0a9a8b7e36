"""The half of a client that listens: handlers, answers and streams."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar, get_args, overload

from aquilia.client.desk import Desk
from aquilia.client.frames import named
from aquilia.client.notices import Message, Notice, State
from aquilia.client.options import whole
from aquilia.client.session import Session
from aquilia.client.streams import Decode, Signal, Stream, decoder_for
from aquilia.sockets.codecs import Codec

__all__ = ["Listening"]

T = TypeVar("T")
R = TypeVar("R")
N = TypeVar("N", bound=Notice)
H = TypeVar("H", bound=Callable[[Message[Any]], Any])


def subject(what: Any) -> None:
    """See to it that something can be listened to.

    Raises:
        ValueError: it is neither an event's name nor a kind of notice.
    """
    if isinstance(what, type):
        if what not in get_args(Notice):
            kinds = ", ".join(kind.__name__ for kind in get_args(Notice))
            raise ValueError(f"{what.__name__} is no kind of notice: {kinds}")
    elif named(what) == "error":
        raise ValueError("the event 'error' is the server's: refusals come as the notice Rejected")


class Listening:
    """What a client's users register for what comes."""

    _codec: Codec
    _session: Session
    _buffer: int
    _desk: Desk
    _read: Signal
    _streams: weakref.WeakSet[Stream[Any]]

    @overload
    def on(self, what: type[N]) -> Callable[[Callable[[N], R]], Callable[[N], R]]: ...

    @overload
    def on(
        self, what: str, *, type: type[T]
    ) -> Callable[[Callable[[Message[T]], R]], Callable[[Message[T]], R]]: ...

    @overload
    def on(self, what: str) -> Callable[[H], H]: ...

    def on(self, what: Any, *, type: Any = None) -> Any:
        """Decorate a handler of an event, by its name, or of a kind of notice, such as `Gap` or `State`.

        Handlers run one after another, in the order of what came; they may be coroutines.
        """
        subject(what)
        decode = decoder_for(self._codec, type)

        def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._desk.add(what, handler, decode)
            return handler

        return register

    def off(self, what: Any, handler: Callable[[Any], Any] | None = None) -> None:
        """Take a handler back, or all of `what`."""
        self._desk.remove(what, handler)

    @overload
    def answers(
        self, event: str, *, type: type[T]
    ) -> Callable[[Callable[[Message[T]], R]], Callable[[Message[T]], R]]: ...

    @overload
    def answers(self, event: str) -> Callable[[H], H]: ...

    def answers(self, event: str, *, type: Any = None) -> Any:
        """Decorate what answers the server's requests of this name: its return value, or the fault that it raises."""
        named(event)
        decode = decoder_for(self._codec, type)

        def register(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._desk.answer_with(event, handler, decode)
            return handler

        return register

    @overload
    def messages(self, *events: str, type: type[T], buffer: int | None = None) -> Stream[Message[T]]: ...

    @overload
    def messages(self, *events: str, buffer: int | None = None) -> Stream[Message[Any]]: ...

    def messages(self, *events: str, type: Any = None, buffer: int | None = None) -> Stream[Any]:
        """The messages with these events from now on, or all; at most `buffer` wait, then reading stops."""
        return self._stream(frozenset(events), decoder_for(self._codec, type), buffer)

    def stream(self, *what: str | type[Notice], buffer: int | None = None) -> Stream[Any]:
        """Messages and notices in one order, so that a `Gap` stands where something is missing."""
        if not what:
            raise ValueError("stream() needs names of events, or kinds of notices")
        return self._stream(frozenset(what), decoder_for(self._codec, None), buffer)

    def states(self) -> Stream[State]:
        """The states from now on."""
        return self._stream(frozenset([State]), decoder_for(self._codec, None), None)

    def _stream(self, wanted: frozenset[Any], decode: Decode, buffer: int | None) -> Stream[Any]:
        for what in wanted:
            subject(what)
        bound = self._buffer if buffer is None else buffer
        whole("buffer", bound)
        stream: Stream[Any] = Stream(wanted, decode, bound, self._read.fire)
        self._streams.add(stream)
        if self._session.ended is not None:
            stream._end(self._session.ended)
        return stream
