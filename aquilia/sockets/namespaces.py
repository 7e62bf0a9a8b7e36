"""The namespaces that are open in this process: each is built on first use, and dropped a while after its last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from aquilia.di import Injection, Scope, ScopeContainer, Services
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.faults import ws_overloaded
from aquilia.sockets.hub import Home, Hub
from aquilia.sockets.hub_port import Namespace
from aquilia.sockets.recorder import Recorder
from aquilia.sockets.tasks import TaskSet

__all__ = ["LINGER", "Namespaces"]

logger = logging.getLogger("aquilia.sockets")

LINGER = 30.0
"""Seconds that a namespace without connections keeps its controller, so that a reconnect finds it."""


class Namespaces:
    """Opens and closes homes, within a quota: clients choose the paths."""

    def __init__(
        self, hub: Hub, services: Services, recorder: Recorder, tasks: TaskSet, *, limit: int
    ) -> None:
        self._hub = hub
        self._services = services
        self._recorder = recorder
        self._tasks = tasks
        self._limit = limit
        self._opening: dict[str, asyncio.Task[Home]] = {}
        self._injections: dict[type, Injection] = {}

    def prepare(self, contract: SocketContract) -> None:
        """Look up, at boot, what a controller's constructor needs."""
        self._injections[contract.controller] = self._services.injector(contract.constructor, Scope.NAMESPACE)

    async def acquire(
        self, contract: SocketContract, app: ScopeContainer, path: str, params: Mapping[str, Any]
    ) -> Home:
        """The home of a namespace, held until `release`. Concurrent callers get the same one.

        Raises:
            SocketFault: WS_OVERLOADED above `max_namespaces`.
        """
        while True:
            home = self._hub.homes.get(path)
            if home is not None and home.controller is not None:
                home.users += 1
                if home.linger is not None:
                    home.linger.cancel()
                    home.linger = None
                return home
            opening = self._opening.get(path)
            if opening is None:
                self._make_room()
                namespace = Namespace(path, params)
                opening = asyncio.get_running_loop().create_task(self._open(contract, app, namespace))
                self._opening[path] = opening
                opening.add_done_callback(lambda _: self._opening.pop(path, None))
            # Shielded: one client that leaves must not fail the others that wait for the same namespace.
            await asyncio.shield(opening)

    async def _open(self, contract: SocketContract, app: ScopeContainer, namespace: Namespace) -> Home:
        home = Home(namespace, contract.declaration.path, contract.settings, self._recorder)
        home.container = await app.enter(Scope.NAMESPACE, {Namespace: namespace})
        try:
            injection = self._injections[contract.controller]
            container = app if injection.scope in (Scope.SINGLETON, Scope.APP) else home.container
            arguments = await injection.resolve(container)
            controller = contract.controller.__new__(contract.controller)
            controller.namespace, controller.path_params = namespace.path, namespace.params
            controller._hub = self._hub
            controller.__init__(**arguments)  # type: ignore[misc]
            await self._hub.enter(home)
        except BaseException:
            await home.container.aclose()
            raise
        home.controller = controller
        self._linger(home)
        return home

    def release(self, home: Home) -> None:
        """The opposite of `acquire`."""
        home.users -= 1
        if home.users == 0:
            self._linger(home)

    def _linger(self, home: Home) -> None:
        loop = asyncio.get_running_loop()
        home.linger = loop.call_later(LINGER, lambda: self._tasks.start(self._drop(home)))

    async def _drop(self, home: Home) -> None:
        if home.users or self._hub.homes.get(home.namespace.path) is not home:
            return
        if home.linger is not None:
            home.linger.cancel()
        await self._hub.exit(home)
        if home.container is not None:
            try:
                await home.container.aclose()
            except Exception:
                logger.exception("cleanup of the namespace %s failed", home.namespace.path)

    def _make_room(self) -> None:
        """At the quota, a namespace that only lingers gives way to one that is wanted."""
        if len(self._hub.homes) + len(self._opening) < self._limit:
            return
        for home in self._hub.homes.values():
            if not home.users:
                self._tasks.start(self._drop(home))
                return
        raise ws_overloaded("too many namespaces are open")

    async def gone(self, conn: Connection) -> None:
        """Give back what a connection held; the dispatcher calls this last."""
        home: Home = conn._home
        for room in self._hub.forget(conn):
            await self._hub.close_room(home, room)
        self.release(home)

    async def close(self) -> None:
        """Drop every namespace: the process ends."""
        for home in list(self._hub.homes.values()):
            home.users = 0
            await self._drop(home)
