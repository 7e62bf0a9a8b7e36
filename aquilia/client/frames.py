"""The server's words in protocol v1, read from envelopes. What does not read is the server's mistake."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import msgspec

from aquilia.client.advice import LONGEST
from aquilia.client.faults import ServerFault
from aquilia.client.notices import Position
from aquilia.sockets.codecs import Codec
from aquilia.sockets.codecs import codec as codec_named
from aquilia.sockets.envelope import MAX_EVENT_LENGTH
from aquilia.sockets.explanation import READ_FAILURES
from aquilia.sockets.faults import ws_message_invalid
from aquilia.sockets.payload import typed_payload

__all__ = ["AckWord", "ErrorWord", "Words", "named", "position_of", "words_in"]

LAST_OFFSET = 2**63 - 1
_Offset = Annotated[int, msgspec.Meta(ge=0, le=LAST_OFFSET)]
_Time = Annotated[float, msgspec.Meta(ge=0)]
"""Not a NaN either."""


class WelcomeWord(msgspec.Struct):
    """The payload of `welcome`."""

    connection: str
    heartbeat: _Time = 0
    resume: str | None = None
    expires: _Time | None = None


class RenewedWord(msgspec.Struct):
    """The data in the ack of `auth`."""

    expires: _Time | None = None


class PlaceWord(msgspec.Struct):
    """The payload of `joined` and `left`."""

    room: str
    epoch: str | None = None
    offset: _Offset | None = None


class RecoveryWord(msgspec.Struct):
    """One room in `resumed`."""

    recovered: bool
    epoch: str | None = None
    offset: _Offset | None = None


class ResumedWord(msgspec.Struct):
    """The payload of `resumed`."""

    rooms: dict[str, RecoveryWord] = {}


class GapWord(msgspec.Struct):
    """The payload of `gap`."""

    cause: str
    room: str | None = None
    dropped: int | None = None
    epoch: str | None = None
    offset: _Offset | None = None


class PresenceWord(msgspec.Struct):
    """The payload of `presence`."""

    room: str
    joins: dict[str, Any] = {}
    leaves: dict[str, Any] = {}
    count: int | None = None


class GoAwayWord(msgspec.Struct):
    """The payload of `goaway`. Nobody is sent away for longer than LONGEST."""

    reason: str = ""
    reconnect_in: _Time = 0

    def __post_init__(self) -> None:
        self.reconnect_in = min(self.reconnect_in, LONGEST * 1000)


class ErrorWord(msgspec.Struct):
    """What an error ack and an error event tell."""

    code: str
    message: str = ""
    details: list[Any] = []
    retryable: bool = False
    event: str | None = None

    def fault(self) -> ServerFault:
        """As what a call raises."""
        return ServerFault(self.code, self.message, retryable=self.retryable, details=self.details)


class AckWord(msgspec.Struct):
    """The payload of an ack. `data` is as the codec left it."""

    status: str
    data: Any = None
    error: ErrorWord | None = None


class _RawAck(AckWord):
    data: msgspec.Raw = None  # type: ignore[assignment]


@cache
def words_in(name: str) -> Words:
    """The readers for the codec of that name, which all clients share: making them takes milliseconds."""
    return Words(codec_named(name))


class Words:
    """Reads payloads as one codec leaves them. Each reader raises WS_MESSAGE_INVALID."""

    def __init__(self, codec: Codec) -> None:
        def reader(word: Any) -> Callable[[Any], Any]:
            return codec.payload_decoder(typed_payload(word))

        self.system: dict[str, Callable[[Any], Any]] = {
            "welcome": reader(WelcomeWord),
            "joined": reader(PlaceWord),
            "left": reader(PlaceWord),
            "resumed": reader(ResumedWord),
            "gap": reader(GapWord),
            "presence": reader(PresenceWord),
            "goaway": reader(GoAwayWord),
        }
        self.renewed: Callable[[Any], RenewedWord | None] = reader(RenewedWord | None)
        self.error: Callable[[Any], ErrorWord] = reader(ErrorWord)
        self._ack: Callable[[Any], AckWord] = _ACKS[codec.name]

    def ack(self, payload: Any) -> AckWord:
        """An ack, its data left raw where the codec can."""
        try:
            word = self._ack(payload)
        except READ_FAILURES as error:
            raise ws_message_invalid(f"the ack is wrong: {error}") from None
        if word.status != "ok" and word.error is None:
            raise ws_message_invalid(f"an ack of status {word.status!r} tells no error")
        return word


_ACKS: dict[str, Callable[[Any], AckWord]] = {
    "json": msgspec.json.Decoder(_RawAck).decode,
    "msgpack": msgspec.msgpack.Decoder(_RawAck).decode,
    "cbor": lambda tree: msgspec.convert(tree, AckWord),
}


def position_of(epoch: Any, offset: Any) -> Position | None:
    """The position that a word or the `meta` of a message names, if it is one."""
    if type(epoch) is str and type(offset) is int and 0 <= offset <= LAST_OFFSET:
        return Position(epoch, offset)
    return None


def named(event: object) -> str:
    """The name of an event that a user gave.

    Raises:
        ValueError: it is none.
    """
    if isinstance(event, str) and 1 <= len(event) <= MAX_EVENT_LENGTH:
        return event
    raise ValueError(f"the name of an event is a string of 1 to {MAX_EVENT_LENGTH} characters, not {event!r}")
