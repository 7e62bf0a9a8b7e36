"""What all codecs share: their promises, the envelope as it comes and as it goes, and what a message may hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Any, Protocol, get_args
from uuid import UUID

import msgspec

from aquilia.sockets.envelope import (
    MAX_EVENT_LENGTH,
    MAX_ID_LENGTH,
    MAX_NESTING,
    MessageEnvelope,
    MessageType,
)
from aquilia.sockets.faults import SocketFault, ws_message_invalid
from aquilia.sockets.payload import PayloadType, typed_payload
from aquilia.sockets.wording import kind_of

__all__ = ["Codec", "RawReceived", "Received"]

_Event = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_LENGTH)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]


class Codec(Protocol):
    """How envelopes become the bytes of a message, and back. Stateless: one instance serves all connections."""

    name: str
    binary: bool
    """Whether messages go in binary frames, or in text frames (as UTF-8)."""

    def decode(self, data: bytes) -> MessageEnvelope:
        """The envelope in a message, complete and at most `MAX_NESTING` deep; its payload is still raw.

        A `msgspec.Raw` payload is a view into `data` and keeps it alive, so `data` must own its memory: a view
        into a buffer that is used again would change under the payload.

        Raises:
            SocketFault: WS_MESSAGE_INVALID, whatever the bytes are.
        """
        ...

    def encode(self, envelope: MessageEnvelope) -> bytes:
        """The message that carries the envelope: always with its `type`, without absent keys.

        The payload may hold builtins, Structs, dataclasses, Pydantic models, dates, UUIDs, enums, decimals and
        sets, and be a `msgspec.Raw` that this codec decoded.

        Raises:
            TypeError: this codec cannot write the payload.
        """
        ...

    def payload_decoder(self, type: PayloadType) -> Callable[[Any], Any]:
        """What turns a payload, as `decode` left it, into the type.

        The decoder raises WS_MESSAGE_INVALID with every wrong field in `details`.
        """
        ...

    def plain(self, raw: Any) -> Any:
        """A payload, as `decode` left it, as builtins. A `msgspec.Raw` may be a whole message just as well.

        Raises:
            SocketFault: WS_MESSAGE_INVALID, where the bytes are not valid.
        """
        ...


class Received(MessageEnvelope, kw_only=True):
    """An envelope from a peer."""

    event: _Event | None = None
    id: _Id | None = None


class RawReceived(Received, kw_only=True):
    """An envelope from a peer, its payload not yet decoded."""

    payload: msgspec.Raw = None  # type: ignore[assignment]


_ENVELOPE = typed_payload(Received)
_TYPES = get_args(MessageType)
_SHOWN = 32


def require_complete(envelope: MessageEnvelope) -> None:
    """See to it that an envelope has what its type needs. No need to ask of one that has an event and an id.

    Raises:
        SocketFault: WS_MESSAGE_INVALID.
    """
    if envelope.type == "ack":
        if envelope.id is None:
            raise ws_message_invalid("an ack needs the id of what it answers")
    elif envelope.event is None:
        raise ws_message_invalid(f"a message of type {envelope.type!r} needs an event")
    elif envelope.ack and envelope.id is None:
        raise ws_message_invalid("a message that wants an ack needs an id")


def no_envelope(message: Any, refusal: Exception, *, text: bool) -> SocketFault:
    """Why a message, decoded to builtins, is no envelope."""
    if not isinstance(message, dict):
        return ws_message_invalid(f"a message is a map, this one is of type {kind_of(message)}")
    type_ = message.get("type", "event")
    if isinstance(type_, str) and type_ not in _TYPES:
        near = get_close_matches(type_[:_SHOWN], _TYPES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return ws_message_invalid(
            f"unknown message type {type_[:_SHOWN]!r}{hint} (accepted: {', '.join(_TYPES)})"
        )
    error = _ENVELOPE.error(message, refusal, text=text)
    return ws_message_invalid(f"the envelope is wrong: {error}", error.details)


def too_deep() -> SocketFault:
    """A message that nests too deep."""
    return ws_message_invalid(f"nested deeper than {MAX_NESTING}")


_KEYS = {str, int, float, bytes, datetime, UUID}
_SCALARS = {type(None), bool, int, float, str, bytes, datetime, UUID}


def settle(tree: Any, depth: int, void: object = None) -> None:
    """See to it that decoded builtins are within what all codecs can carry; `depth` is that of `tree` itself.

    `void` becomes null, in place. Iterative, since the depth is what it has to find out.

    Raises:
        SocketFault: WS_MESSAGE_INVALID.
    """
    level: list[Any] = [[tree]]
    depth -= 2
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise too_deep()
        inner: list[Any] = []
        for container in level:
            keyed = type(container) is dict
            for key, value in container.items() if keyed else enumerate(container):
                if keyed and type(key) is not str and type(key) not in _KEYS:
                    raise ws_message_invalid("a key of a map is no string, number, bytes, date or UUID")
                kind = type(value)
                if kind is dict or kind is list:
                    inner.append(value)
                elif kind not in _SCALARS:
                    if void is None or value is not void:
                        raise ws_message_invalid(f"a value of type {kind.__name__} can be in no message")
                    container[key] = None
        level = inner


def as_builtins(value: Any) -> Any:
    """What msgspec writes in the place of a value that it does not know: Pydantic's own JSON form."""
    kind = type(value)
    if hasattr(kind, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(kind, "__pydantic_serializer__"):
        return kind.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} can be in no payload")


WRITE_FAILURES = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def unwritable(label: str, error: Exception) -> TypeError:
    """What `encode` raises."""
    reason = "it is nested too deep, or in itself" if isinstance(error, RecursionError) else error
    return TypeError(f"the message cannot be written as {label}: {reason}")
