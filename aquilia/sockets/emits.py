"""Outgoing events: their names and payload types, declared on the controller and checked where they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from aquilia.sockets.envelope import MAX_EVENT_LENGTH
from aquilia.sockets.faults import ws_publish_failed
from aquilia.sockets.schema import PayloadType, payload_type

__all__ = ["Emits", "emitted", "event_name"]

Payload = TypeVar("Payload")


class Emits(Generic[Payload]):
    """Declares an event that a controller sends: its name and payload type stand in the contract.

    Pass it in the place of the event's name, and the payload is checked, by the type checker and at run time::

        received = Emits("message.receive", MessageReceive)
        ...
        await self.publish_room("general", self.received, MessageReceive(text="hi"))
    """

    def __init__(
        self,
        name: str,
        payload: type[Payload],
        *,
        backpressure: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        if backpressure is not None or durable:
            raise ValueError(
                f"Emits({name!r}): backpressure and durable are planned, and not in this version yet"
            )
        self.name = event_name(name)
        self.payload: PayloadType = payload_type(payload)

    def __repr__(self) -> str:
        return f"Emits({self.name!r}, {self.payload.annotation!r})"


def emitted(event: str | Emits[Any], payload: Any, declared: Mapping[str, Emits[Any]]) -> tuple[str, Any]:
    """The event's name, and its payload as `Emits` declares it, also where it is `declared` and named by a string.

    Raises:
        SocketFault: WS_PUBLISH_FAILED if it does not.
    """
    if isinstance(event, str):
        if event == "error" or not event or event[0] == "\0":
            raise ws_publish_failed(f"an event cannot be called {event!r}")
        if event not in declared:
            return event, payload
        event = declared[event]
    try:
        return event.name, event.payload.convert(payload)
    except ValueError as error:
        raise ws_publish_failed(
            f"the payload of {event.name!r} does not fit its declaration: {error}"
        ) from error


def event_name(name: str) -> str:
    """The name, if an event can be called so. Raises ValueError."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_EVENT_LENGTH:
        raise ValueError(f"an event's name has 1 to {MAX_EVENT_LENGTH} characters, {name!r} does not")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"an event's name is text, which {name!r} is not: surrogates have no UTF-8")
    if name[0] == "\0":
        raise ValueError(f"an event's name begins with no NUL, as {name!r} does: those are the house's own")
    if name == "error":
        raise ValueError("the event name 'error' is reserved: error events carry it")
    return name
