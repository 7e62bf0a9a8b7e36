"""`AquilaSockets`: the socket subsystem as an ASGI application, alone or mounted in another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.aquilary import App, BootError, Problem, Registry
from aquilia.controller import RequestCtx
from aquilia.di import Scope, ScopeContainer, Services
from aquilia.exchange import route_path
from aquilia.faults import Fault, FaultEngine
from aquilia.manifest import AppManifest
from aquilia.middleware import Endpoint, compose, split
from aquilia.patterns import PatternTable
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.adapters.inmemory import InMemoryAdapter
from aquilia.sockets.codecs import codec as codec_named
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import socket_declaration
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.envelope import Profile
from aquilia.sockets.faults import (
    CloseCode,
    ws_internal_error,
    ws_namespace_not_found,
    ws_overloaded,
)
from aquilia.sockets.guards import Check, guard_checks, passes
from aquilia.sockets.handshake import (
    Handshake,
    check_host,
    check_origin,
    choose_profile,
    origin_allowed,
    wants_v1,
)
from aquilia.sockets.hub import Home, Hub
from aquilia.sockets.limits import TokenBucket
from aquilia.sockets.namespaces import Namespaces
from aquilia.sockets.outbox import Outbox
from aquilia.sockets.plan import PROVIDED, SocketPlan
from aquilia.sockets.recorder import Counters, Recorder
from aquilia.sockets.refusal import admitted, code_of, refusal, refuse, upgrade_headers
from aquilia.sockets.tasks import TaskSet, own_error
from aquilia.sockets.transports.asgi import ASGITransport
from aquilia.sockets.transports.base import NATIVE, Transport

__all__ = ["AquilaSockets"]

logger = logging.getLogger("aquilia.sockets")

SHUTDOWN_GRACE = 10.0
"""Seconds that clients may take to leave and handlers to end, when the application stops."""
CUT_GRACE = 1.0
"""Seconds until a connection that was cut off is known to be gone."""

_ADMISSION = "aquilia.admission"


@dataclass(slots=True)
class _Served:
    """A controller, ready to be connected to."""

    app: App
    contract: SocketContract
    dispatcher: Dispatcher
    checks: list[Check]
    chain: Endpoint
    connections: int = 0


@dataclass(slots=True)
class _Admission:
    """A handshake on its way, as the chain's endpoint leaves it."""

    handshake: Handshake
    served: _Served
    home: Home | None = None


@dataclass(frozen=True, slots=True)
class _Door:
    """A handshake that has not been answered yet."""

    scope: ASGIScope
    receive: Receive
    send: Send
    pattern: str

    @property
    def offered(self) -> list[str]:
        return self.scope.get("subprotocols") or []


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
        self.recorder = recorder or Counters()
        self._adapter = adapter or InMemoryAdapter()
        self._engine = engine or FaultEngine()
        self.hub = Hub(self._adapter.broker)
        self._tasks = TaskSet()
        self._namespaces = Namespaces(
            self.hub, self.services, self.recorder, limit=self.plan.node.max_namespaces
        )
        self._table: PatternTable[_Served] = PatternTable()
        self._served: dict[str, _Served] = {}
        self._apps: dict[str, ScopeContainer] = {}
        self._connections = 0
        self._leaving: set[Connection] = set()
        self._left: asyncio.Future[None] | None = None
        self._started = False
        self._starting = asyncio.Lock()
        for app, contract in self.plan.contracts:
            self._serve_contract(app, contract, development)
        self._origins = {contract.settings.allowed_origins for _, contract in self.plan.contracts}

    @classmethod
    def from_controllers(
        cls,
        controllers: Sequence[type],
        *,
        services: Sequence[Any] = (),
        middleware: Sequence[Any] = (),
        development: bool = False,
        **settings: Any,
    ) -> AquilaSockets:
        """Serve these controllers without a manifest; `settings` are those of `AppManifest(websockets={…})`.

        Raises:
            BootError: also for what the host would have to serve: HTTP controllers, and pure ASGI middleware.
        """
        manifest = AppManifest(
            "sockets", controllers=controllers, services=services, middleware=middleware, websockets=settings
        )
        registry = Registry.build([manifest])
        if problems := _misplaced(registry.apps[0]):
            raise BootError(problems)
        return cls(registry, development=development)

    def _serve_contract(self, app: App, contract: SocketContract, development: bool) -> None:
        dispatcher = Dispatcher(
            contract,
            self.services,
            node=self.plan.node,
            engine=self._engine,
            tasks=self._tasks,
            ends=self,
            development=development,
        )
        checks = guard_checks(contract.declaration.guards, "check_handshake")
        served = self._served[contract.declaration.path] = _Served(
            app,
            contract,
            dispatcher,
            [check for _, check in sorted(checks, key=lambda entry: entry[0])],
            compose(split(app.middleware).chain, self._admit, answer=self._refusal),
        )
        self._namespaces.prepare(contract)
        self._table.add(contract.declaration.path, served, where=str(contract.location))

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
        """Connect the broker. `apps` are the manifests' containers, where the host has opened them already."""
        async with self._starting:
            if self._started:
                return
            if self._owns_services:
                await self.services.open()
                for app in self.plan.registry.apps:
                    self._apps[app.manifest.name] = await self.services.root.enter(Scope.APP)
            else:
                self._apps = dict(apps or {})
            self._tasks.bind(asyncio.get_running_loop())
            await self.hub.start()
            self._started = True

    async def shutdown(self) -> None:
        """End every connection with 1012, let the handlers finish, and give everything back."""
        async with self._starting:
            if not self._started:
                return
            self._started = False
            async with contextlib.AsyncExitStack() as rest:  # which is done whatever fails
                if self._owns_services:
                    rest.push_async_callback(self.services.aclose)
                    for container in self._apps.values():
                        rest.push_async_callback(container.aclose)
                rest.push_async_callback(self.hub.stop)
                await self._end_connections()
                await self._namespaces.close()
            self._apps = {}

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
            await self._open(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            fault = Fault("HTTP_NOT_FOUND", "only WebSockets are served here", status=404)
            await refusal(fault)(scope, receive, send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.startup()
        except Exception as error:
            logger.exception("the sockets cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    # The opening of a connection

    async def _open(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """One handshake, in the order: origin and host, path, limits, middleware, guards, upgrade."""
        await receive()  # websocket.connect
        try:
            await self.startup()
        except Exception as error:
            logger.error("the sockets cannot start: %s", error)
            await self._turn_away(_Door(scope, receive, send, "none"), error, by_close=False)
            return
        connection = HTTPConnection(scope)
        path = route_path(scope)
        match = self._table.match(path)
        door = _Door(scope, receive, send, match.pattern.source if match else "none")
        try:
            check_host(connection, self.plan.node.allowed_hosts)
            if match is not None:
                check_origin(connection, match.value.contract.settings.allowed_origins)
            elif not any(origin_allowed(connection, origins) for origins in self._origins):
                check_origin(connection, None)
        except Fault as fault:
            await self._turn_away(door, fault, by_close=False)
            return
        if match is None:
            await self._turn_away(door, ws_namespace_not_found(path[:200]))
        elif self._is_full(match.value):
            await self._turn_away(door, ws_overloaded("too many connections"), by_close=False)
        else:
            await self._enter(
                door, match.value, RequestCtx(connection, path=match.path, path_params=match.params)
            )

    async def _enter(self, door: _Door, served: _Served, ctx: RequestCtx) -> None:
        """Ask middleware and guards, upgrade, and serve."""
        try:
            profile, subprotocol = choose_profile(door.offered, served.contract.settings.subprotocols)
        except Fault as fault:
            await self._turn_away(door, fault)
            return
        handshake = Handshake(ctx.request, ctx.path, ctx.path_params, subprotocol)
        admission = ctx.state[_ADMISSION] = _Admission(handshake, served)
        conn = None
        self._count(served, 1)
        try:
            response = await served.chain(ctx)
            if response.status_code == 101 and admission.home is None:
                error = RuntimeError("a middleware answered 101, which only `call_next` can")
                response = self._refusal(error, "handshake")
            if response.status_code != 101:
                self.recorder.handshake(door.pattern, code_of(response))
                await refuse(door.scope, door.send, response, by_close=wants_v1(door.offered))
                return
            native = (door.scope.get("extensions") or {}).get(NATIVE)
            if native is not None:
                native.max_message_size = served.contract.settings.max_message_size
            await door.send(
                {
                    "type": "websocket.accept",
                    "subprotocol": subprotocol,
                    "headers": upgrade_headers(response),
                }
            )
            self.recorder.handshake(door.pattern, "accepted")
            if not self._started:  # the end came while the upgrade was being sent
                await door.send({"type": "websocket.close", "code": int(CloseCode.RESTART)})
                return
            binary = codec_named(profile.codec).binary
            transport: Any = (
                ASGITransport(door.receive, door.send, binary=binary, tasks=self._tasks)
                if native is None
                else native.attach()
            )
            conn = self._connect(admission, profile, transport)
        finally:
            if conn is None:  # else it is counted out, and its namespace released, when it has gone
                self._count(served, -1)
                self._release(admission)
        if native is None:
            await transport.serve(served.dispatcher, conn)
        else:
            transport.start(served.dispatcher, conn)

    async def _turn_away(self, door: _Door, error: Exception, *, by_close: bool = True) -> None:
        response = self._refusal(error, "handshake")
        self.recorder.handshake(door.pattern, code_of(response))
        await refuse(door.scope, door.send, response, by_close=by_close and wants_v1(door.offered))

    def _is_full(self, served: _Served) -> bool:
        limit = served.contract.settings.max_connections
        return self._connections >= self.plan.node.max_connections or (
            limit is not None and served.connections >= limit
        )

    def _count(self, served: _Served, change: int) -> None:
        self._connections += change
        served.connections += change

    async def _admit(self, ctx: RequestCtx) -> Response:
        """The end of the handshake middleware: open the namespace, and ask the guards."""
        admission: _Admission = ctx.state[_ADMISSION]
        self._release(admission)  # a middleware may ask twice
        served, handshake = admission.served, admission.handshake
        handshake.identity, handshake.session = ctx.identity, ctx.session
        try:
            for check in served.checks:
                await passes(check, handshake)
            self._require_started()
            admission.home = await self._namespaces.acquire(
                served.contract,
                self._apps[served.app.manifest.name],
                handshake.namespace,
                handshake.path_params,
            )
            self._require_started()
            for guard in served.contract.guards:
                if guard.declaration.on == "handshake":
                    await passes(getattr(admission.home.controller, guard.handler.attribute), handshake)
        except (Exception, asyncio.CancelledError) as error:
            return self._refusal(own_error(error), f"handshake of {served.contract.controller.__qualname__}")
        return admitted()

    def _release(self, admission: _Admission) -> None:
        home, admission.home = admission.home, None
        if home is not None:
            self._namespaces.release(home)

    def _require_started(self) -> None:
        if not self._started:
            raise ws_overloaded("the server stops")

    def _refusal(self, error: Exception, where: str) -> Response:
        return refusal(self._engine.process(error, where, internal=ws_internal_error))

    def _connect(self, admission: _Admission, profile: Profile, transport: Transport) -> Connection:
        """The upgrade is done: from here on the connection is counted, and its dispatcher has it."""
        home = admission.home
        assert home is not None
        settings = home.settings
        rate = settings.message_rate_limit
        conn = Connection(
            id=secrets.token_urlsafe(12),
            handshake=admission.handshake,
            profile=profile,
            codec=codec_named(profile.codec),
            transport=transport,
            outbox=Outbox(settings.backpressure),
            hub=self.hub,
            home=home,
            bucket=TokenBucket(rate, max(1.0, 2 * rate), monotonic()) if rate else None,
        )
        self.hub.add(conn)
        self.recorder.opened(home.pattern)
        admission.served.dispatcher.on_open(conn)
        return conn

    async def gone(self, conn: Connection) -> None:
        """The end of a connection, called by its dispatcher."""
        self._count(self._served[conn._home.pattern], -1)
        await self._namespaces.gone(conn)
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
