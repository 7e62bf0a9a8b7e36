"""The namespaces that are open in this process: each is built on first use, and dropped a while after its last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from aquilia.di import Injection, Scope, ScopeContainer, Services
from aquilia.faults import FaultEngine
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.controller import SocketController
from aquilia.sockets.faults import ws_overloaded
from aquilia.sockets.hub import Hub
from aquilia.sockets.hub_port import Namespace
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.presence.hooks import PresenceHook
from aquilia.sockets.revocation import Revocations

__all__ = ["LINGER", "Namespaces"]

logger = logging.getLogger("aquilia.sockets")

LINGER = 30.0
"""Seconds that a namespace without connections keeps its controller, so that a reconnect finds it."""


def _start(change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a change that several may wait for, or nobody any more."""
    # Not by the loop's factory: an eager one could end the change before it is noted as under way, and so for good.
    task = asyncio.Task(change, loop=asyncio.get_running_loop())
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


class _Opening(NamedTuple):
    home: Home
    task: asyncio.Task[None]


class Namespaces:
    """Opens and closes homes, within a quota: clients choose the paths."""

    def __init__(
        self,
        hub: Hub,
        services: Services,
        recorder: Recorder,
        *,
        limit: int,
        revocations: Revocations,
        engine: FaultEngine,
        handler_timeout: float | None,
    ) -> None:
        self._hub = hub
        self._revocations = revocations
        self._services = services
        self._recorder = recorder
        self._engine = engine
        self._handler_timeout = handler_timeout
        self._limit = limit
        self._opening: dict[str, _Opening] = {}
        self._dropping: dict[str, asyncio.Task[None]] = {}
        self._injections: dict[type, Injection] = {}
        self._on_presence: dict[type, tuple[PresenceHook, ...]] = {}

    def prepare(self, contract: SocketContract) -> None:
        """Look up, at boot, what a controller's constructor and its `@OnPresence` methods need."""
        self._injections[contract.controller] = self._services.injector(contract.constructor, Scope.NAMESPACE)
        self._on_presence[contract.controller] = tuple(
            PresenceHook(contract, hook, self._services, timeout=self._handler_timeout, engine=self._engine)
            for hook in contract.on_presence
        )

    async def acquire(
        self, contract: SocketContract, app: ScopeContainer, path: str, params: Mapping[str, Any]
    ) -> Home:
        """The home of a namespace, held until `release`. Concurrent callers get the same one.

        Raises:
            SocketFault: WS_OVERLOADED above `max_namespaces`.
        """
        while (dropping := self._dropping.get(path)) is not None:
            await asyncio.shield(dropping)
        opening = self._opening.get(path)
        home = opening.home if opening is not None else self._hub.homes.get(path)
        if home is None:
            self._make_room()
            home = Home(Namespace(path, params), contract.declaration.path, contract.settings, self._recorder)
            opening = self._opening[path] = _Opening(home, _start(self._open(home, contract, app)))
        home.users += 1
        if home.linger is not None:
            home.linger.cancel()
            home.linger = None
        if opening is not None:
            try:
                # Shielded: one client that leaves must not fail the others that wait for the same namespace.
                await asyncio.shield(opening.task)
            except BaseException:
                self.release(home)
                raise
        return home

    async def _open(self, home: Home, contract: SocketContract, app: ScopeContainer) -> None:
        try:
            home.container = await app.enter(Scope.NAMESPACE, {Namespace: home.namespace})
            try:
                home.controller = await self._build(home, contract, app)
                await self._hub.enter(home)
            except BaseException:
                await home.container.aclose()
                raise
        finally:
            del self._opening[home.namespace.path]
        self._linger(home)

    async def _build(self, home: Home, contract: SocketContract, app: ScopeContainer) -> SocketController:
        injection = self._injections[contract.controller]
        container = app if injection.scope in (Scope.SINGLETON, Scope.APP) else home.container
        arguments = await injection.resolve(container)
        controller = contract.controller.__new__(contract.controller)
        controller.namespace, controller.path_params = home.namespace.path, home.namespace.params
        controller._hub, controller._emits = self._hub, contract.emits
        controller._histories, controller._presence = home.settings.history, home.presence
        home.room_checks = contract.room_checks(controller)
        home.on_presence = self._on_presence[contract.controller]
        controller._revocations = self._revocations
        home.declare(contract.emits)
        home.auth = contract.auth
        controller.__init__(**arguments)  # type: ignore[misc]
        return controller

    def release(self, home: Home) -> None:
        """The opposite of `acquire`."""
        home.users -= 1
        self._linger(home)

    def _linger(self, home: Home) -> None:
        path = home.namespace.path
        if not home.users and self._hub.homes.get(path) is home and path not in self._opening:
            home.linger = asyncio.get_running_loop().call_later(LINGER, self._drop, home)

    def _drop(self, home: Home) -> None:
        """Take a namespace that nobody uses out of service, and give it back."""
        path = home.namespace.path
        if home.users or self._hub.homes.get(path) is not home:
            return
        if home.linger is not None:
            home.linger.cancel()
        del self._hub.homes[path]
        # Until that is done, it is not opened anew: the broker hears of both, and of one after the other.
        self._dropping[path] = _start(self._give_back(home))

    async def _give_back(self, home: Home) -> None:
        path = home.namespace.path
        try:
            await self._hub.exit(home)
            if home.container is not None:
                await home.container.aclose()
        except Exception:
            told = {"namespace": path, "pattern": home.pattern}
            logger.exception("cleanup of the namespace %s failed", path, extra=told)
        finally:
            del self._dropping[path]

    def _make_room(self) -> None:
        """At the quota, a namespace that only lingers gives way to one that is wanted."""
        homes = self._hub.homes
        if len(homes) + sum(path not in homes for path in self._opening) < self._limit:
            return
        for path, home in homes.items():
            if not home.users and path not in self._opening:
                self._drop(home)
                return
        raise ws_overloaded("too many namespaces are open")

    async def gone(self, conn: Connection) -> None:
        """Give back what a connection held; the dispatcher calls this last."""
        home: Home = conn._home
        try:
            for room in self._hub.forget(conn):
                await self._hub.close_room(home, room)
        finally:
            self.release(home)

    async def close(self) -> None:
        """Drop every namespace: the process ends."""
        while self._opening:
            await asyncio.wait([opening.task for opening in self._opening.values()])
        for home in list(self._hub.homes.values()):
            home.users = 0
            self._drop(home)
        while self._dropping:
            await asyncio.wait(self._dropping.values())
