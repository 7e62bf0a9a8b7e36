"""One connection to one Redis server, in RESP3: commands go out in one write for a turn of the loop, answers and
publications come back on it. hiredis reads and writes the protocol: that takes a twentieth of the time of a client of
Redis, and this is the way of every message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis

__all__ = ["ENDED", "Answered", "Link", "Refusal", "Word", "packed"]

Answered = Callable[[Any], None]
"""Called with what the server answered, which may be a `Refusal`; with `ENDED`, if the link has ended before."""
Word = bytes | str | int
packed: Callable[[tuple[Word, ...]], bytes] = cast("Any", hiredis.pack_command)
"""A command's words as bytes on the wire."""

_SUBSCRIBE, _UNSUBSCRIBE = b"ssubscribe", b"sunsubscribe"
_HELLO = packed((b"HELLO",))


class Refusal(Exception):
    """What Redis answers in the place of a result: a code in capitals, and words."""


class Link(asyncio.Protocol):
    """See the head of this module."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(notEnoughData=_MORE, replyError=Refusal)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._turn: asyncio.Handle | None = None
        self._waiting: deque[tuple[Answered, bytes | None]] = deque()
        """Who is answered next; with a channel, by a word of the server beside the answers."""
        self._error: Exception | None = None
        self.heard = 0
        """How often something came."""
        self.ended = False
        self.on_end: Callable[[], None] = _no_end
        """Called once it is over, before those who wait for an answer are told."""
        self.on_message: Callable[[bytes, bytes], None] = _nobody
        """Called with the channel and the bytes of each publication."""
        self.on_taken: Callable[[bytes], None] = _nobody_either
        """Called with each channel that the server has ended by itself: it is another server's now."""

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no base of asyncio's
        self._end_turn()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard += 1
        reader, message = self._reader, self.on_message
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except hiredis.ProtocolError as error:
                return self._end(ConnectionError(f"what it says is not Redis' protocol: {error}"))
            if reply is _MORE:
                return None
            if reply.__class__ is not hiredis.PushNotification:
                if not self._waiting:
                    return self._end(
                        ConnectionError(f"it says something that nobody asked for: {reply!r:.80}")
                    )
                self._waiting.popleft()[0](reply)
            elif reply[0] == b"smessage":
                message(reply[1], reply[2])
            else:
                self._told(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(error)

    # Its life

    @property
    def alive(self) -> bool:
        """Whether something can be said."""
        return self._transport is not None and not self.ended

    @property
    def owed(self) -> bool:
        """Whether an answer is due."""
        return bool(self._waiting)

    def end(self) -> None:
        """End it at once. What was said may have arrived."""
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self.ended:
            return
        self.ended = True
        self._error = error
        if self._transport is not None:
            self._transport.abort()
        if self._turn is not None:
            self._turn.cancel()
        self.on_end()
        waiting, self._waiting = self._waiting, deque()
        for answered, _ in waiting:
            answered(ENDED)

    # Saying

    def say(self, command: bytes, answered: Answered) -> None:
        """Say a command at the end of this turn of the loop."""
        self._say(command, answered, None)

    def listen(self, channel: bytes, answered: Answered) -> None:
        """Have what is published to a channel; answered with True, or a `Refusal`."""
        self._say(packed((b"SSUBSCRIBE", channel)), answered, channel)

    def unlisten(self, channel: bytes) -> None:
        """The opposite."""
        self._say(packed((b"SUNSUBSCRIBE", channel)) + _HELLO, self._unlistened, channel)

    async def ask(self, *words: bytes | str | int) -> Any:
        """The answer to one command.

        Raises:
            Refusal: the server says no.
            ConnectionError: the link has ended.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            if future.done():
                return
            if reply is ENDED:
                future.set_exception(self._error or ConnectionResetError("the connection was lost"))
            elif isinstance(reply, Refusal):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.say(packed(tuple(words)), answered)
        return await future

    def _say(self, command: bytes, answered: Answered, channel: bytes | None) -> None:
        if self.ended:
            answered(ENDED)
            return
        self._waiting.append((answered, channel))
        self._out.append(command)
        if self._turn is None:
            self._end_turn()

    def _end_turn(self) -> None:
        self._turn = asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._turn = None
        if self._out and self._transport is not None:
            out, self._out = self._out, []
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    # Words beside the answers

    def _told(self, told: Sequence[Any]) -> None:
        kind, channel = told[0], told[1] if len(told) > 1 else None
        answered, due = self._waiting[0] if self._waiting else (None, None)
        if kind == _SUBSCRIBE and due == channel:
            self._waiting.popleft()[0](True)
            return
        ours = due == channel and answered == self._unlistened
        if kind == _UNSUBSCRIBE and channel is not None and not ours:
            self.on_taken(channel)

    def _unlistened(self, reply: Any) -> None:
        """What HELLO answers, which stands behind SUNSUBSCRIBE and is never refused.

        That one is answered by a word beside, as it comes from the server by itself too, or by a refusal.
        """
        if isinstance(reply, Refusal):
            self._waiting.appendleft((self._unlistened, None))


ENDED: Final = object()
"""In the place of an answer."""
_MORE: Final = object()
"""What hiredis says while a reply is not whole."""


def _no_end() -> None:
    """Nobody is told yet."""


def _nobody(channel: bytes, data: bytes) -> None:
    """Nobody listens yet."""


def _nobody_either(channel: bytes) -> None:
    """The same."""
