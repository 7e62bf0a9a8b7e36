"""The decorators of a socket controller. They record what was said, and leave the method as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args

from aquilia.sockets.declaration import (
    ConnectDeclaration,
    Delivery,
    DisconnectDeclaration,
    EventDeclaration,
    GuardDeclaration,
    HandlerDeclaration,
    PresenceDeclaration,
    SocketDeclaration,
    declare_handler,
    declare_socket,
)
from aquilia.sockets.deflate import Compression
from aquilia.sockets.emits import event_name
from aquilia.sockets.guards import is_priority
from aquilia.sockets.presence.values import Presence

__all__ = [
    "AckEvent",
    "Event",
    "Guard",
    "OnConnect",
    "OnDisconnect",
    "OnPresence",
    "Socket",
    "Subscribe",
    "Unsubscribe",
]

AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Awaitable[Any]])
AnyGuard = TypeVar("AnyGuard", bound=Callable[..., Any])
ControllerClass = TypeVar("ControllerClass", bound=type)


def Socket(  # noqa: N802 - the decorators are named like the declarations that they make
    path: str,
    *,
    allowed_origins: Sequence[str] | None = None,
    max_connections: int | None = None,
    max_connections_per_namespace: int | None = None,
    message_rate_limit: float | None = None,
    byte_rate_limit: float | None = None,
    idle_timeout: float | None = None,
    max_message_size: int | None = None,
    compression: bool | Compression | None = None,
    max_fragments: int | None = None,
    subprotocols: Sequence[str] = (),
    require_auth: bool | None = None,
    guards: Sequence[Any] = (),
    middleware: Sequence[Any] = (),
    backpressure: Mapping[str, Any] | None = None,
    history: Any = None,
    presence: bool | Presence = False,
    resume: bool | None = None,
    max_rooms: int = 100,
    room_size: int | None = None,
) -> Callable[[ControllerClass], ControllerClass]:
    """Declare the namespace that a `SocketController` serves.

    `path` is a pattern, like `/chat/:namespace`; each concrete path is a namespace of its own, with its own
    controller instance and rooms. What is left out here is taken from the manifest. Sizes are in bytes, rates in
    messages or bytes per second and connection. Values are checked at boot.

    Raises:
        TypeError: for `@Socket` without a path.
    """
    if isinstance(path, type):
        raise TypeError(f"@Socket needs a path, as in @Socket('/chat/:room'), above {path.__qualname__}")

    def declare(controller: ControllerClass) -> ControllerClass:
        declare_socket(
            controller,
            SocketDeclaration(
                path=path,
                allowed_origins=_frozen(allowed_origins),
                max_connections=max_connections,
                max_connections_per_namespace=max_connections_per_namespace,
                message_rate_limit=message_rate_limit,
                byte_rate_limit=byte_rate_limit,
                idle_timeout=idle_timeout,
                max_message_size=max_message_size,
                max_fragments=max_fragments,
                compression=compression,
                subprotocols=() if subprotocols is None else _frozen(subprotocols),
                require_auth=require_auth,
                guards=_listed(guards),
                middleware=_listed(middleware),
                backpressure=backpressure,
                history=history,
                presence=presence,
                resume=resume,
                max_rooms=max_rooms,
                room_size=room_size,
            ),
        )
        return controller

    return declare


def _frozen(names: Sequence[str] | None) -> Any:
    """A tuple; what is no list stays as it is, for boot to refuse by name."""
    return tuple(names) if isinstance(names, list | tuple | set | frozenset) else names


def _listed(entries: Sequence[Any]) -> Any:
    """The same for guards and middleware, which are in an order."""
    return tuple(entries) if isinstance(entries, Sequence) and not isinstance(entries, str) else entries


def OnConnect() -> Callable[[AnyHandler], AnyHandler]:  # noqa: N802
    """Run `async def f(self, conn)` when a connection has opened, before its first message."""
    return _handler(ConnectDeclaration())


def OnDisconnect() -> Callable[[AnyHandler], AnyHandler]:  # noqa: N802
    """Run `async def f(self, conn)`, or `(self, conn, reason)`, when a connection is over."""
    return _handler(DisconnectDeclaration())


def OnPresence() -> Callable[[AnyHandler], AnyHandler]:  # noqa: N802
    """Run `async def f(self, room, joins, leaves)` when somebody has come to a room with presence, or left it.

    `joins` and `leaves` are maps of ids to metadata; who has changed its metadata is in `joins`. Further parameters
    are injected: services of any scope but the connection's. Each node runs it for the rooms in which it has members,
    with those of all nodes: in a room one change after the other, and what changes meanwhile as one.
    """
    return _handler(PresenceDeclaration())


def Event(  # noqa: N802
    name: str,
    *,
    schema: Any = None,
    ack: bool = False,
    guards: Sequence[Any] = (),
    middleware: Sequence[Any] = (),
    delivery: Delivery = "at_most_once",
    backpressure: Mapping[str, Any] | None = None,
) -> Callable[[AnyHandler], AnyHandler]:
    """Handle the event `name` with `async def f(self, conn, payload)`; what it returns is the ack's data.

    `schema` is a `Schema`, or any type that the payload's annotation could be. With `ack=True` every message
    needs an id, and is acked.

    `delivery` is what a client may rely on that sends a message again until it has its ack. "at_least_once": it is
    acked once the handler is done, which is not cancelled when the client leaves. "effectively_once" as well: a
    repeat gets the first answer, and does not run the handler again. Both imply `ack=True`.

    Raises:
        ValueError: for a name, a delivery or an `ack` that cannot be.
    """
    if not isinstance(ack, bool):
        raise ValueError(f"{name}: ack is True or False, not {ack!r}")
    return _handler(
        EventDeclaration(
            event_name(name),
            schema=schema,
            ack=ack or delivery != "at_most_once",
            guards=_listed(guards),
            middleware=_listed(middleware),
            delivery=_delivery(delivery),
            backpressure=backpressure,
        )
    )


def AckEvent(  # noqa: N802
    name: str,
    *,
    schema: Any = None,
    guards: Sequence[Any] = (),
    middleware: Sequence[Any] = (),
    delivery: Delivery = "at_most_once",
) -> Callable[[AnyHandler], AnyHandler]:
    """`Event(name, ack=True)`: a message without an id is refused."""
    return Event(name, schema=schema, ack=True, guards=guards, middleware=middleware, delivery=delivery)


def Subscribe(  # noqa: N802
    name: str, *, schema: Any = None, guards: Sequence[Any] = (), middleware: Sequence[Any] = ()
) -> Callable[[AnyHandler], AnyHandler]:
    """Handle an event that joins rooms: the method returns a room, several, or None if it joined by itself."""
    return _moving("subscribe", name, schema, guards, middleware)


def Unsubscribe(  # noqa: N802
    name: str, *, schema: Any = None, guards: Sequence[Any] = (), middleware: Sequence[Any] = ()
) -> Callable[[AnyHandler], AnyHandler]:
    """Handle an event that leaves rooms: the method returns a room, several, or None."""
    return _moving("unsubscribe", name, schema, guards, middleware)


def _moving(
    kind: Literal["subscribe", "unsubscribe"],
    name: str,
    schema: Any,
    guards: Sequence[Any],
    middleware: Sequence[Any],
) -> Callable[[AnyHandler], AnyHandler]:
    return _handler(
        EventDeclaration(
            event_name(name), kind=kind, schema=schema, guards=_listed(guards), middleware=_listed(middleware)
        )
    )


def Guard(  # noqa: N802
    *, priority: int = 50, on: Literal["message", "handshake", "room"] = "message"
) -> Callable[[AnyGuard], AnyGuard]:
    """Make a method a guard: `f(self, conn, envelope)` on messages, `f(self, handshake)` on the handshake, and
    `f(self, conn, room)` on the rooms that a connection is to enter.

    It refuses by returning False or raising a fault. Lower priorities run first; it may be async or not.
    """
    if on not in ("message", "handshake", "room"):
        raise ValueError(f"a guard is on 'message', 'handshake' or 'room', not {on!r}")
    if not is_priority(priority):
        raise ValueError(f"a guard's priority is a number, not {priority!r}")

    def declare(function: AnyGuard) -> AnyGuard:
        declare_handler(function, GuardDeclaration(priority, on))
        return function

    return declare


def _handler(declaration: HandlerDeclaration) -> Callable[[AnyHandler], AnyHandler]:
    def declare(function: AnyHandler) -> AnyHandler:
        declare_handler(function, declaration)
        return function

    return declare


def _delivery(delivery: Delivery) -> Delivery:
    accepted = get_args(Delivery)
    if delivery not in accepted:
        near = get_close_matches(str(delivery), accepted, n=1, cutoff=0)
        raise ValueError(f"unknown delivery {delivery!r}; did you mean {near[0]!r}?")
    return delivery
