"""A namespace that is open in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Any

from aquilia.auth import Authenticator
from aquilia.di import ScopeContainer
from aquilia.faults import Fault
from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.audience import Audience, Policy
from aquilia.sockets.connection import Connection
from aquilia.sockets.emits import Emits, conflation_key
from aquilia.sockets.guards import Check, passes
from aquilia.sockets.hub_port import Namespace
from aquilia.sockets.identities import Identities
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.presence.values import Difference
from aquilia.sockets.settings import SocketSettings, spools

__all__ = ["Home"]


class Home:
    """A namespace that is open in this process: its controller's instance, connections and rooms."""

    __slots__ = (
        "arriving", "auth", "connections", "container", "controller", "durable", "emits", "identities", "linger",
        "meter", "namespace", "on_presence", "pattern", "presence", "recorder", "room_checks", "rooms", "settings",
        "spools", "uniform", "users",
    )  # fmt: skip

    def __init__(
        self, namespace: Namespace, pattern: str, settings: SocketSettings, recorder: Recorder
    ) -> None:
        self.namespace = namespace
        self.pattern = pattern
        self.settings = settings
        self.recorder = recorder
        self.meter = recorder.meter(pattern)
        self.controller: Any = None
        self.emits: Mapping[str, Emits[Any]] = {}
        self.durable: Set[str] = frozenset()
        """The names of those that are durable."""
        self.uniform = True
        """Whether all that is sent is queued as its connection has it."""
        self.spools = False
        """Whether anything that is sent may wait on disk."""
        self.container: ScopeContainer | None = None
        self.auth: Authenticator | None = None
        self.identities = Identities()
        self.connections = Audience(None, self.meter, self.identities)
        self.arriving: dict[str, Connection] = {}
        """Clients of v1 that have not been welcomed yet: nothing is published to them."""
        self.rooms: dict[str, Audience] = {}
        self.room_checks: tuple[Check, ...] = ()
        """What guards say of who enters a room, in their order."""
        self.presence = settings.presence
        self.on_presence: tuple[Callable[[Home, str, Difference], Awaitable[None]], ...] = ()
        """What its controller does when somebody comes to a room, or leaves it."""
        self.users = 0
        self.linger: asyncio.TimerHandle | None = None

    def declare(self, emits: Mapping[str, Emits[Any]]) -> None:
        """What its controller sends."""
        self.emits = emits
        self.durable = frozenset(name for name, own in emits.items() if own.durable)
        self.uniform = self.settings.backpressure.strategy != "conflate" and all(
            own.strategy is None for own in emits.values()
        )
        self.spools = spools(self.settings, emits)

    async def ask_guards(self, conn: Connection, room: str) -> None:
        """Ask who may refuse that a connection enters a room.

        Raises:
            Fault: it may not.
        """
        for check in self.room_checks:
            await passes(check, conn, room)

    async def takes_back(self, conn: Connection, room: str) -> bool:
        """Whether a client that comes back may still be where it was; a guard's no is counted."""
        try:
            await self.ask_guards(conn, room)
        except Fault as fault:
            self.recorder.fault(self.pattern, fault.code)
            return False
        return True

    def policy(self, publication: Publication) -> Policy:
        """By which strategy and key a publication is queued.

        Raises:
            SocketFault: WS_PUBLISH_FAILED, if the key cannot be had from its payload.
        """
        if self.uniform:
            return None, None
        if publication.position is None:
            return self.policy_of(publication.event, publication.room, publication.payload)
        emits = self.emits.get(publication.event)
        strategy = None if emits is None else emits.strategy
        # What is in a log keeps the log's order: nothing takes the place of an older one.
        return "drop_oldest" if (
            strategy or self.settings.backpressure.strategy
        ) == "conflate" else strategy, None

    def policy_of(self, event: str, room: str | None, payload: Any) -> Policy:
        """The strategy and the key by which an event is queued, None where that is as the connection has it.

        Raises:
            SocketFault: WS_PUBLISH_FAILED, if the key cannot be had from this payload.
        """
        if self.uniform:
            return None, None
        emits = self.emits.get(event)
        strategy, key = (None, None) if emits is None else (emits.strategy, emits.key)
        if strategy is None and (own := self.settings.backpressure).strategy == "conflate":
            strategy, key = "conflate", own.key
        if strategy != "conflate":
            return strategy, None
        if emits is not None and callable(key):  # what came from another node has no type any more
            payload = emits.payload.convert(payload)
        return strategy, conflation_key(event, room, key, payload)

    def everyone(self) -> list[Connection]:
        """All connections that are open here, welcomed or not."""
        return [*self.connections.members.values(), *self.arriving.values()]

    def find(self, id: str) -> Connection | None:
        """One of `everyone`."""
        return self.connections.members.get(id) or self.arriving.get(id)
