"""Outgoing events: their names and payload types, declared on the controller and checked where they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, get_args

from aquilia.sockets.envelope import MAX_EVENT_LENGTH
from aquilia.sockets.faults import ws_publish_failed
from aquilia.sockets.outbox.queue import Key, Strategy
from aquilia.sockets.schema import PayloadType, payload_type

__all__ = ["Emits", "conflation_key", "emitted", "event_name", "key_problem", "strategy_problem"]

Payload = TypeVar("Payload")


class Emits(Generic[Payload]):
    """Declares an event that a controller sends: its name and payload type stand in the contract.

    Pass it in the place of the event's name, and the payload is checked, by the type checker and at run time::

        received = Emits("message.receive", MessageReceive)
        ...
        await self.publish_room("general", self.received, MessageReceive(text="hi"))

    `backpressure`, like `{"strategy": "conflate", "key": "symbol"}`, goes before that of the controller. `durable`
    events that `conn.send_event` has sent reach a client that comes back even if the node has died meanwhile.

    Raises:
        ValueError: for what can never be right.
    """

    def __init__(
        self,
        name: str,
        payload: type[Payload],
        *,
        backpressure: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        if not isinstance(durable, bool):
            raise ValueError(f"Emits({name!r}): durable is True or False, not {durable!r}")
        self.durable = durable
        """Whether what is sent to one client outlives the node that sent it."""
        self.name = event_name(name)
        self.payload: PayloadType = payload_type(payload)
        self.strategy: Strategy | None = None
        """What happens to this event for a client that reads too slowly; None: as its connection has it."""
        self.key: Key | None = None
        """What `conflate` tells apart."""
        if backpressure is not None:
            self._read(backpressure)

    def _read(self, backpressure: Mapping[str, Any]) -> None:
        where = f"Emits({self.name!r}): backpressure"
        if not isinstance(backpressure, Mapping) or "strategy" not in backpressure:
            raise ValueError(
                f"{where}: a mapping like {{'strategy': 'conflate', 'key': 'symbol'}} is needed, not {backpressure!r}"
            )
        for name in backpressure:
            if name in ("buffer_size", "buffer_bytes"):
                raise ValueError(f"{where}: {name} is of a connection as a whole: @Socket(backpressure=…)")
            if name not in ("strategy", "key"):
                raise ValueError(f"{where}: unknown setting {name!r} (accepted: key, strategy)")
        strategy, key = backpressure["strategy"], backpressure.get("key")
        if problem := strategy_problem(strategy) or key_problem(strategy, key):
            raise ValueError(f"{where}: {problem}")
        self.strategy, self.key = strategy, key

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


def strategy_problem(strategy: object) -> str | None:
    """What is wrong with the name of a strategy, if anything."""
    accepted = get_args(Strategy)
    if strategy in accepted:
        return None
    near = get_close_matches(str(strategy), accepted, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown strategy {strategy!r}{hint} (accepted: {', '.join(sorted(accepted))})"


def key_problem(strategy: object, key: object) -> str | None:
    """What is wrong with the key of a policy, if anything."""
    if key is None:
        return None
    if strategy != "conflate":
        return f"key is for the strategy 'conflate', not {strategy!r}"
    if not callable(key) and not (isinstance(key, str) and key):
        return f"key is the name of a field or a function of the payload, not {key!r}"
    return None


def conflation_key(event: str, room: str | None, key: Key | None, payload: Any) -> tuple[Any, ...]:
    """What a message has in common with those that it replaces. `key` None: all of that event and room are one.

    Raises:
        SocketFault: WS_PUBLISH_FAILED, if the key cannot be had from this payload.
    """
    if key is None:
        return event, room
    try:
        if callable(key):
            value: Any = key(payload)
        else:
            value = payload[key] if isinstance(payload, Mapping) else getattr(payload, key)
        hash(value)
    except Exception as error:
        name = key if isinstance(key, str) else getattr(key, "__qualname__", repr(key))
        said = f"{type(error).__name__}: {error}"
        raise ws_publish_failed(f"{event!r} cannot be conflated: its key {name!r} raised {said}") from error
    return event, room, value


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
