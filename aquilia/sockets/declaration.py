"""What the decorators record: plain data that the compiler, the runtime and the generators read.

Nothing here runs a handler. A declaration is attached to the decorated function or class, so that importing a
controller has no side effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aquilia.source import SourceLocation

__all__ = [
    "ConnectDeclaration",
    "Delivery",
    "DisconnectDeclaration",
    "EventDeclaration",
    "EventKind",
    "GuardDeclaration",
    "PresenceDeclaration",
    "SocketDeclaration",
    "handler_declaration",
    "socket_declaration",
]

Delivery = Literal["at_most_once", "at_least_once", "effectively_once"]
EventKind = Literal["event", "subscribe", "unsubscribe"]

_HANDLER = "__aquilia_handler__"
_SOCKET = "__aquilia_socket__"


@dataclass(frozen=True, slots=True)
class SocketDeclaration:
    """`@Socket(path, …)`: the namespace that a controller serves. None means: as the manifest or default says."""

    path: str
    allowed_origins: tuple[str, ...] | None = None
    max_connections: int | None = None
    max_connections_per_namespace: int | None = None
    message_rate_limit: float | None = None
    byte_rate_limit: float | None = None
    idle_timeout: float | None = None
    max_message_size: int | None = None
    compression: Any = None
    max_fragments: int | None = None
    subprotocols: tuple[str, ...] = ()
    require_auth: bool | None = None
    guards: tuple[Any, ...] = ()
    middleware: tuple[Any, ...] = ()
    backpressure: Mapping[str, Any] | None = None
    history: Any = None
    presence: Any = False
    resume: bool | None = None
    max_rooms: int = 100
    room_size: int | None = None
    function: Callable[..., Any] | None = None
    """What has each connection as a whole, in the place of handlers: see `aquilia.sockets.compat`."""


@dataclass(frozen=True, slots=True)
class EventDeclaration:
    """`@Event`, `@AckEvent`, `@Subscribe` or `@Unsubscribe`: a message that clients may send."""

    name: str
    kind: EventKind = "event"
    schema: Any = None
    ack: bool = False
    guards: tuple[Any, ...] = ()
    middleware: tuple[Any, ...] = ()
    delivery: Delivery = "at_most_once"
    backpressure: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ConnectDeclaration:
    """`@OnConnect()`."""


@dataclass(frozen=True, slots=True)
class DisconnectDeclaration:
    """`@OnDisconnect()`."""


@dataclass(frozen=True, slots=True)
class PresenceDeclaration:
    """`@OnPresence()`."""


@dataclass(frozen=True, slots=True)
class GuardDeclaration:
    """`@Guard(priority=…, on=…)`: a method that may refuse. Lower priorities run first."""

    priority: int = 50
    on: Literal["message", "handshake", "room"] = "message"


HandlerDeclaration = (
    EventDeclaration | ConnectDeclaration | DisconnectDeclaration | PresenceDeclaration | GuardDeclaration
)


@dataclass(frozen=True, slots=True)
class Handler:
    """A declared method of a controller class."""

    attribute: str
    function: Callable[..., Any] = field(repr=False)
    declaration: HandlerDeclaration

    @property
    def location(self) -> SourceLocation:
        """Where the method is defined."""
        return SourceLocation.of(self.function)


def declare_handler(function: Callable[..., Any], declaration: HandlerDeclaration) -> None:
    """Attach a declaration to a method; one method may carry several."""
    declared = function.__dict__.setdefault(_HANDLER, [])
    declared.insert(0, declaration)  # decorators apply from the bottom up


def handler_declaration(function: Any) -> tuple[HandlerDeclaration, ...]:
    """What the decorators said of this function, top to bottom; empty if it is no handler."""
    return tuple(getattr(function, "__dict__", {}).get(_HANDLER, ()))


def declare_socket(controller: type, declaration: SocketDeclaration) -> None:
    """Attach `@Socket`'s declaration to a controller class."""
    setattr(controller, _SOCKET, declaration)


def socket_declaration(controller: type) -> SocketDeclaration | None:
    """The class's own `@Socket`; a subclass must say its own."""
    declared = controller.__dict__.get(_SOCKET)
    return declared if isinstance(declared, SocketDeclaration) else None


def handlers_of(controller: type) -> list[Handler]:
    """Every declared method of a class, in the order of definition, base classes first.

    A method overridden without a decorator keeps the declaration of the one that it overrides.
    """
    found: dict[str, list[HandlerDeclaration]] = {}
    for owner in reversed(controller.__mro__):
        for attribute, value in vars(owner).items():
            declared = handler_declaration(value)
            if declared:
                found[attribute] = list(declared)
    return [
        Handler(attribute, getattr(controller, attribute), declaration)
        for attribute, declarations in found.items()
        if callable(getattr(controller, attribute, None))
        for declaration in declarations
    ]
