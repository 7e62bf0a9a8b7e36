"""`AquilaSockets`: the socket subsystem as an ASGI application, alone or mounted in another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.aquilary import App, BootError, Problem, Registry
from aquilia.auth import AuthManager
from aquilia.di import Scope, ScopeContainer, Services
from aquilia.faults import Fault, FaultEngine
from aquilia.lifespan import serve_lifespan
from aquilia.manifest import AppManifest
from aquilia.middleware import split
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.adapters.inmemory import InMemoryAdapter
from aquilia.sockets.connection import Connection
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import socket_declaration
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.faults import CloseCode
from aquilia.sockets.hub import Home, Hub
from aquilia.sockets.namespaces import Namespaces
from aquilia.sockets.opening import Entrance
from aquilia.sockets.plan import PROVIDED, SocketPlan
from aquilia.sockets.recorder import Counters, Recorder
from aquilia.sockets.refusal import refusal
from aquilia.sockets.tasks import TaskSet

__all__ = ["AquilaSockets"]

logger = logging.getLogger("aquilia.sockets")

SHUTDOWN_GRACE = 10.0
"""Seconds that clients may take to leave and handlers to end, when the application stops."""
CUT_GRACE = 1.0
"""Seconds until a connection that was cut off is known to be gone."""


class AquilaSockets:
    """Serves the socket controllers of a registry. An ASGI application for WebSocket scopes, and for lifespan.

    Alone: `uvicorn module:app`. Mounted in FastAPI, Starlette or any ASGI host: `app.mount("/ws", sockets)`; give
    the host `lifespan=sockets.lifespan`, or else it starts at the first connection.

    Raises:
        BootError: with every problem of the controllers.
        DIError: with every problem of their services.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        plan: SocketPlan | None = None,
        services: Services | None = None,
        engine: FaultEngine | None = None,
        recorder: Recorder | None = None,
        adapter: Adapter | None = None,
        development: bool = False,
    ) -> None:
        problems: list[Problem] = []
        self.plan = plan or SocketPlan.read(registry, problems)
        if problems:
            raise BootError(problems)
        self._owns_services = services is None
        self.services = services or Services.build(
            [service for app in registry.apps for service in app.services],
            self.plan.consumers(),
            provided=PROVIDED,
        )
        if self._owns_services:
            for authenticator in self.plan.authenticators.values():
                authenticator.prepare(self.services)
        self.recorder = recorder or Counters()
        self._adapter = adapter or InMemoryAdapter()
        self._engine = engine or FaultEngine()
        self.hub = Hub(self._adapter.broker)
        self._tasks = TaskSet()
        self._namespaces = Namespaces(
            self.hub, self.services, self.recorder, limit=self.plan.node.max_namespaces
        )
        self._entrance = Entrance(
            node=self.plan.node,
            hub=self.hub,
            namespaces=self._namespaces,
            engine=self._engine,
            recorder=self.recorder,
            tasks=self._tasks,
        )
        self.on_gone: Callable[[Connection], None] | None = None
        """Called when a connection has given back all that it held: for tests."""
        self._leaving: set[Connection] = set()
        self._left: asyncio.Future[None] | None = None
        self._starting = asyncio.Lock()
        for app, contract in self.plan.contracts:
            dispatcher = Dispatcher(
                contract,
                self.services,
                node=self.plan.node,
                engine=self._engine,
                tasks=self._tasks,
                ends=self,
                development=development,
            )
            self._entrance.serve(app, contract, dispatcher)

    @classmethod
    def from_controllers(
        cls,
        controllers: Sequence[type],
        *,
        services: Sequence[Any] = (),
        middleware: Sequence[Any] = (),
        auth: AuthManager | type[AuthManager] | str | None = None,
        development: bool = False,
        **settings: Any,
    ) -> AquilaSockets:
        """Serve these controllers without a manifest; `settings` are those of `AppManifest(websockets={…})`.

        Raises:
            BootError: also for what the host would have to serve: HTTP controllers, and pure ASGI middleware.
        """
        manifest = AppManifest(
            "sockets",
            controllers=controllers,
            services=services,
            middleware=middleware,
            auth=auth,
            websockets=settings,
        )
        registry = Registry.build([manifest])
        if problems := _misplaced(registry.apps[0]):
            raise BootError(problems)
        return cls(registry, development=development)

    # The life of the application

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Start and stop with the host application: `FastAPI(lifespan=sockets.lifespan)`."""
        await self.startup()
        try:
            yield
        finally:
            await self.shutdown()

    async def startup(self, apps: Mapping[str, ScopeContainer] | None = None) -> None:
        """Connect the broker. `apps` are the manifests' containers, where the host has opened them already.

        Raises:
            RuntimeError: if it was started in another event loop, and not shut down there.
        """
        async with self._starting:
            if self._entrance.open:
                self._require_same_loop()
                return
            if self._owns_services:
                await self.services.open()
                for app in self.plan.registry.apps:
                    self._entrance.apps[app.manifest.name] = await self.services.root.enter(Scope.APP)
                await self.plan.start(self._entrance.apps)
            else:
                self._entrance.apps = dict(apps or {})
            self._tasks.bind(asyncio.get_running_loop())
            await self.hub.start()
            self._entrance.open = True

    def _require_same_loop(self) -> None:
        if self._tasks.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "they were started in another event loop, and not shut down there: run them within their lifespan"
                " (in tests: with TestClient(app) as client)"
            )

    async def shutdown(self) -> None:
        """End every connection with 1012, let the handlers finish, and give everything back."""
        async with self._starting:
            if not self._entrance.open:
                return
            self._entrance.open = False
            async with contextlib.AsyncExitStack() as rest:  # which is done whatever fails
                if self._owns_services:
                    rest.push_async_callback(self.services.aclose)
                    for container in self._entrance.apps.values():
                        rest.push_async_callback(container.aclose)
                rest.push_async_callback(self.hub.stop)
                await self._end_connections()
                await self._namespaces.close()
            self._entrance.apps = {}

    async def _end_connections(self) -> None:
        """End all with 1012. When the time is over, who is still there is cut off, and the handlers cancelled."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SHUTDOWN_GRACE
        for home in self.hub.homes.values():
            self._leaving.update(home.connections.members.values())
        if self._leaving:
            for conn in self._leaving:
                conn._end(CloseCode.RESTART, "the server restarts")
            self._left = loop.create_future()
            await asyncio.wait([self._left], timeout=SHUTDOWN_GRACE)
            for conn in list(self._leaving):
                conn._transport.abort()
            await asyncio.wait([self._left], timeout=CUT_GRACE)
        await self._tasks.settle(max(0.0, deadline - loop.time()))

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] == "websocket":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await serve_lifespan(self.startup, self.shutdown, receive, send)
        else:
            fault = Fault("HTTP_NOT_FOUND", "only WebSockets are served here", status=404)
            await refusal(fault)(scope, receive, send)

    async def _serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            await self.startup()
        except Exception as error:
            logger.error("the sockets cannot start: %s", error)
            await self._entrance.turn_away(scope, receive, send, error)
        else:
            await self._entrance.enter(scope, receive, send)

    async def gone(self, conn: Connection) -> None:
        """The end of a connection, called by its dispatcher."""
        self._entrance.left(conn._home.pattern)
        await self._namespaces.gone(conn)
        if self.on_gone is not None:
            self.on_gone(conn)
        self._leaving.discard(conn)
        if self._left is not None and not self._leaving and not self._left.done():
            self._left.set_result(None)

    def live(self) -> dict[str, int]:
        """What is held now: for tests and diagnosis."""
        homes: Iterable[Home] = self.hub.homes.values()
        return {
            "connections": sum(len(home.connections.members) for home in homes),
            "namespaces": len(self.hub.homes),
            "rooms": sum(len(home.rooms) for home in homes),
            "tasks": len(self._tasks),
        }


def _misplaced(app: App) -> list[Problem]:
    """What is given to the sockets alone, and would be left out in silence."""
    where = "AquilaSockets.from_controllers"
    middleware = split(app.middleware, f"{where}: middleware")
    problems = [
        Problem(where, f"{each.__qualname__} is no SocketController with @Socket(path)")
        for each in app.controllers
        if socket_declaration(each) is None and not issubclass(each, SocketController)
    ]
    problems += middleware.problems
    for entry in middleware.asgi:
        problems.append(
            Problem(where, f"{entry.cls!r} is pure ASGI middleware: give it to the host application")
        )
    return problems
