"""A controller's contract: its declarations, checked and typed. The runtime serves it, the compiler writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from aquilia.auth import Authenticator
from aquilia.di import Consumer, Dependency, Scope
from aquilia.patterns import Pattern
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import EventDeclaration, GuardDeclaration, Handler, SocketDeclaration
from aquilia.sockets.emits import Emits
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.guards import Check, guard_checks
from aquilia.sockets.handshake.tickets import Tickets
from aquilia.sockets.schema import PayloadType
from aquilia.sockets.settings import AppChain, SocketSettings
from aquilia.source import SourceLocation

__all__ = ["WITHOUT_CONNECTION", "EventContract", "HookContract", "SocketContract"]

WITHOUT_CONNECTION: frozenset[Any] = frozenset({Scope.CONNECTION, MessageEnvelope})
"""What there is nothing of where `@OnPresence` runs."""


@dataclass(frozen=True, slots=True)
class HookContract:
    """A method that runs when a connection opens or ends, or when somebody comes to a room or leaves it."""

    handler: Handler
    dependencies: tuple[Dependency, ...]
    takes_reason: bool = False


@dataclass(frozen=True, slots=True)
class GuardContract:
    """A `@Guard()` method."""

    handler: Handler
    declaration: GuardDeclaration


@dataclass(frozen=True, slots=True)
class EventContract:
    """A message that clients may send."""

    handler: Handler
    declaration: EventDeclaration
    payload: PayloadType
    takes_payload: bool
    answer: PayloadType | None
    """The ack's data, if the method says what it returns."""
    dependencies: tuple[Dependency, ...]


@dataclass(slots=True)
class SocketContract:
    """All that a controller class declares."""

    controller: type[SocketController]
    declaration: SocketDeclaration
    settings: SocketSettings
    pattern: Pattern
    location: SourceLocation
    chain: AppChain = field(default_factory=AppChain)
    """What its app puts before the guards and the middleware that it declares itself."""
    constructor: tuple[Dependency, ...] = ()
    events: dict[str, EventContract] = field(default_factory=dict)
    on_connect: list[HookContract] = field(default_factory=list)
    on_disconnect: list[HookContract] = field(default_factory=list)
    on_presence: list[HookContract] = field(default_factory=list)
    guards: list[GuardContract] = field(default_factory=list)
    emits: dict[str, Emits[Any]] = field(default_factory=dict)
    auth: Authenticator | None = None
    """That of its app; the plan knows it."""
    tickets: Tickets | None = None
    """Those of the process, if it gives any."""

    @property
    def name(self) -> str:
        """The class, as `module:Class`."""
        return f"{self.controller.__module__}:{self.controller.__qualname__}"

    def room_checks(self, controller: SocketController) -> tuple[Check, ...]:
        """What is asked before a connection enters a room, in its order."""
        checks = guard_checks((*self.chain.guards, *self.declaration.guards), "check_room")
        for guard in self.guards:
            if guard.declaration.on == "room":
                checks.append((guard.declaration.priority, getattr(controller, guard.handler.attribute)))
        return tuple(check for _, check in sorted(checks, key=itemgetter(0)))

    def consumers(self) -> list[Consumer]:
        """What DI has to provide, for its check at boot."""
        found = [Consumer(self.controller, Scope.NAMESPACE, self.constructor, str(self.location))]
        parts: list[HookContract | EventContract] = [*self.on_connect, *self.on_disconnect]
        for part in [*parts, *self.events.values()]:
            found.append(
                Consumer(
                    part.handler.function,
                    Scope.REQUEST if isinstance(part, EventContract) else Scope.CONNECTION,
                    part.dependencies,
                    str(part.handler.location),
                )
            )
        for hook in self.on_presence:
            function, where = hook.handler.function, str(hook.handler.location)
            found.append(Consumer(function, Scope.REQUEST, hook.dependencies, where, WITHOUT_CONNECTION))
        return found
