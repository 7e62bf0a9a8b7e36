"""`AquilaSockets`: the socket subsystem as an ASGI application, alone or mounted in another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.aquilary import BootError, Problem, Registry
from aquilia.auth import AuthManager, Identity
from aquilia.clock import Clock
from aquilia.di import Scope, ScopeContainer, Services
from aquilia.exchange import route_path
from aquilia.faults import Fault, FaultEngine
from aquilia.forwarded import ForwardedError, TrustedProxies
from aquilia.lifespan import serve_lifespan, undone_by
from aquilia.manifest import AppManifest
from aquilia.sessions import Session, SessionEngine
from aquilia.sessions.life import heard, running
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.admin.access import AdminAccess
from aquilia.sockets.admin.operations import Admin
from aquilia.sockets.assembly import (
    adapter_of,
    admin_office_of,
    dispatchers_of,
    hub_of,
    recorder_of,
    registry_alone,
    require_disk,
    tickets_of,
)
from aquilia.sockets.audit.trail import AuditTrail
from aquilia.sockets.boot_time import boot_time
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.connection import Connection
from aquilia.sockets.drain import Drain
from aquilia.sockets.endpoints import endpoints
from aquilia.sockets.faults import ws_handshake_failed, ws_overloaded
from aquilia.sockets.handshake.opening import Entrance
from aquilia.sockets.handshake.refusal import note_cookie, refusal, unknown_client
from aquilia.sockets.handshake.ticket_endpoint import open_ticket_office
from aquilia.sockets.health import Health
from aquilia.sockets.limits.identity_rates import IdentityRates
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.namespaces import Namespaces
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.plan import PROVIDED, SocketPlan
from aquilia.sockets.resume.sessions import Resumption
from aquilia.sockets.revocation import Revocations
from aquilia.sockets.tasks import TaskSet

__all__ = ["AquilaSockets"]

logger = logging.getLogger("aquilia.sockets")


class AquilaSockets:
    """Serves the socket controllers of a registry. An ASGI application for WebSocket scopes, and for lifespan.

    Alone: `uvicorn module:app`. Mounted in FastAPI, Starlette or any ASGI host: `app.mount("/ws", sockets)`; give
    the host `lifespan=sockets.lifespan`, or else it starts at the first connection.

    Raises:
        BootError: with every problem of the controllers.
        DIError: with every problem of their services.
        TypeError: for what is no registry.
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
        if not isinstance(registry, Registry):
            raise TypeError(
                f"AquilaSockets takes a Registry, not {registry!r}; "
                "controllers go to AquilaSockets.from_controllers([…])"
            )
        problems: list[Problem] = registry.boot_problems() if plan is None else []
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
        self.proxies = TrustedProxies(self.plan.node.trusted_proxies)
        """Whose word on who their client is counts."""
        self.recorder, self.metrics = recorder_of(
            self.plan, recorder, lambda: self.hub.homes.values(), lambda: self.hub.attendance.counts()
        )
        """Who is told of what happens; and what serves the figures, if any are kept."""
        clock = Clock.current()
        self._adapter = adapter_of(self.plan, clock, adapter)
        self._engine = engine or FaultEngine()
        self.audit = AuditTrail(clock, self.plan.node.audit)
        """Is told what touches security: see `AuditLog.note`."""
        foreign = self._adapter.broker.on_foreign = partial(self.recorder.dropped, "none", "foreign", 1)
        self._tasks = TaskSet()
        self.cluster = Cluster(
            self._adapter.broker,
            self._tasks,
            clock,
            fingerprint=registry.fingerprint,
            connections=lambda: self._entrance.connections,
            ignored=foreign,
        )
        """This node among those of the same application."""
        self.revocations = Revocations(
            self._adapter.store, clock, self.audit, enabled=self.plan.node.revocation
        )
        """What takes access back."""
        self.provided: dict[Any, Any] = {Revocations: self.revocations}
        """What services of the scope APP may ask for."""
        self.hub = hub_of(
            self.plan, self._adapter.broker, self.revocations, self._tasks, clock, self.audit, self.cluster
        )
        self._resumption = Resumption(self._adapter, self.hub, self.recorder, clock=clock, tasks=self._tasks)
        self._namespaces = Namespaces(
            self.hub,
            self.services,
            self.recorder,
            limit=self.plan.node.max_namespaces,
            revocations=self.revocations,
            engine=self._engine,
            handler_timeout=self.plan.node.handler_timeout,
        )
        self._entrance = Entrance(
            node=self.plan.node,
            hub=self.hub,
            namespaces=self._namespaces,
            engine=self._engine,
            recorder=self.recorder,
            tasks=self._tasks,
            absence=lambda: self._drain.absence(),
            revocations=self.revocations if self.plan.node.revocation else None,
            identity_rates=IdentityRates.of(self.plan.node, self._adapter.store, self._tasks, clock),
        )
        self.on_gone: Callable[[Connection], None] | None = None
        """Called when a connection has given back all that it held: for tests."""
        self._drain = Drain(self.hub, self._tasks, leaving=self._leave, development=development)
        self.health = Health(
            self._drain,
            # A host without a lifespan starts it at the first client.
            trouble=lambda: self.cluster.trouble if self._started else None,
            connections=lambda: self._entrance.connections,
            store_trouble=lambda: self.cluster.store_trouble if self._started else None,
            store_asked=self.plan.node.revocation,
        )
        """Answers whether new clients should be sent here: an ASGI application."""
        tickets = tickets_of(self.plan, self._adapter.store, clock, self.revocations)
        self.admin = Admin(
            self.plan, self.hub, self._adapter.broker, self.cluster, self.audit, self.recorder, self.stopping
        )
        """What can be looked at and done on all nodes."""
        self._access = AdminAccess(
            clock,
            role=self.plan.node.admin_role,
            auth=self.plan.admin_auth,
            patience=self.plan.node.handshake_timeout,
        )
        self._endpoints = endpoints(
            self.plan.node,
            metrics=self.metrics,
            health=self.health,
            tickets=open_ticket_office(self.plan, tickets, self._engine, self._ready, self.audit),
            admin=admin_office_of(self.plan, self.admin, self._access, self._engine, self.audit, self._awake),
        )
        self._sessions = contextlib.AsyncExitStack()  # their stores, and who watches them
        self._starting = asyncio.Lock()
        self._started = False
        for app, contract, dispatcher in dispatchers_of(
            self.plan,
            self._adapter.store,
            self.services,
            engine=self._engine,
            recorder=self.recorder,
            resumption=self._resumption,
            tasks=self._tasks,
            ends=self,
            clock=clock,
            development=development,
        ):
            self._entrance.serve(app, contract, dispatcher)

    @classmethod
    def from_controllers(
        cls,
        controllers: Sequence[type],
        *,
        services: Sequence[Any] = (),
        middleware: Sequence[Any] = (),
        sessions: SessionEngine | None = None,
        auth: AuthManager | type[AuthManager] | str | None = None,
        development: bool = False,
        **settings: Any,
    ) -> AquilaSockets:
        """Serve these controllers without a manifest; `settings` are those of `AppManifest(websockets={…})`.

        Raises:
            BootError: also for what the host would have to serve: HTTP controllers, and pure ASGI middleware.
            TypeError: if `development` is neither True nor False.
        """
        if not isinstance(development, bool):
            raise TypeError(f"development is True or False, not {development!r}")
        manifest = AppManifest(
            "sockets",
            controllers=controllers,
            services=services,
            middleware=middleware,
            sessions=sessions,
            auth=auth,
            websockets=settings,
        )
        registry = registry_alone(manifest, "AquilaSockets.from_controllers")
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
            BootError: the setting `spool_dir` names no folder that takes files.
            SocketFault: WS_ADAPTER_UNAVAILABLE, if the broker cannot be used; WS_OVERLOADED, if the host has the
                containers and gives none: it is not running itself.
            RuntimeError: if it was started in another event loop, and not shut down there.
        """
        await self._start(apps)
        self._drain.booted(boot_time(self.hub.clock))

    async def _start(self, apps: Mapping[str, ScopeContainer] | None = None) -> None:
        async with self._starting:
            if self._started:
                self._require_same_loop()
                return
            if not self._owns_services and apps is None:
                raise ws_overloaded("the application is not running: was its lifespan run?")
            require_disk(self.hub.spool, self.plan.node)
            if self.plan.node.admin is not None:
                self._access.load()
            self.audit.start()
            if self._owns_services:
                await self.services.open()
                for app in self.plan.registry.apps:
                    self._entrance.apps[app.manifest.name] = await self.services.root.enter(
                        Scope.APP, self.provided
                    )
                await self.plan.start(self._entrance.apps)
            else:
                self._entrance.apps = dict(apps or {})
            self._tasks.bind(asyncio.get_running_loop())
            engines = [app.sessions for app in self.plan.registry.apps]
            await self._sessions.enter_async_context(running(engines))
            async with undone_by(self._sessions.aclose):
                await self.hub.start()
                async with undone_by(self.hub.stop):
                    watcher = self.revocations if self.plan.node.revocation else None
                    self._sessions.enter_context(
                        heard(engines, refused=partial(note_cookie, self.audit), watcher=watcher)
                    )
                    await self.cluster.start()
                    if self.metrics is not None:
                        async with undone_by(self.cluster.stop):
                            await self.metrics.start()
            self._drain.reset()
            self._entrance.open = self._started = True

    def _require_same_loop(self) -> None:
        if self._tasks.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "they were started in another event loop, and not shut down there: run them within their lifespan"
                " (in tests: with TestClient(app) as client)"
            )

    def not_ready(self) -> None:
        """Answer `health` with 503 from now on; clients may still come. Safe in a signal handler."""
        self._drain.ready = False

    async def drain(self, *, others_serve: bool = False) -> None:
        """Let nobody in any more, tell each client when to come back, and end all connections with 1012.

        `others_serve`: other processes do already, so nobody has to wait for the next one to boot.

        It takes as long as the last handler, at most eleven seconds. For servers that do not tell us when they
        begin to stop; `aq serve` and the native transport do it by themselves, `shutdown` where nobody did.
        """
        async with self._starting:
            if not self._started:
                return
            self._entrance.open = False
            draining = self._drain.begin(others_serve=others_serve)
        await asyncio.wait([draining])
        draining.result()

    def _leave(self, awaited: float) -> None:
        self.hub.attendance.leave()
        self.cluster.leave(awaited)

    def stopping(self) -> None:
        """The server stops, and says so to each of its connections."""
        if self._started:
            self._entrance.open = False
            self._drain.begin()

    def tell_who_is_left(self) -> None:
        """Log for whom an application that stops still waits; once, and not at all if for nobody."""
        self._drain.tell_who_is_left()

    async def shutdown(self) -> None:
        """Drain, let the handlers finish, and give everything back."""
        async with self._starting:
            if not self._started:
                return
            self._started = self._entrance.open = False
            async with contextlib.AsyncExitStack() as rest:  # which is done whatever fails
                if self._owns_services:
                    rest.push_async_callback(self.services.aclose)
                    for container in self._entrance.apps.values():
                        rest.push_async_callback(container.aclose)
                rest.push_async_callback(self.audit.stop)
                rest.push_async_callback(self._sessions.aclose)
                rest.push_async_callback(self.hub.stop)
                rest.push_async_callback(self.cluster.stop)
                if self.metrics is not None:
                    rest.push_async_callback(self.metrics.stop)
                await self._drain.begin()
                await self._drain.settle()
                self._resumption.stop()
                await self._namespaces.close()
            self._entrance.apps = {}
            self._drain.draining = False  # whoever comes now starts it anew

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] in ("http", "websocket") and not await self.knows_client(scope, receive, send):
            return
        if scope["type"] == "websocket":
            await self._serve(scope, receive, send)
        elif (endpoint := self.endpoint_for(scope)) is not None:
            await endpoint(scope, receive, send)
        elif scope["type"] == "lifespan":
            await serve_lifespan(self.startup, self.shutdown, receive, send)
        else:
            fault = Fault("HTTP_NOT_FOUND", "only WebSockets are served here", status=404)
            await refusal(fault)(scope, receive, send)

    async def knows_client(self, scope: ASGIScope, receive: Receive, send: Send) -> bool:
        """Put into the scope whom a trusted proxy tells of. False: it does not, and the client is refused."""
        try:
            self.proxies.apply(scope)
        except ForwardedError:
            told = "what proxies say of the client, in Forwarded or X-Forwarded-*, cannot be read"
            if scope["type"] == "websocket":
                await receive()  # websocket.connect
                await self._entrance.turn_away(scope, receive, send, ws_handshake_failed(told))
            else:
                await unknown_client(self.audit, scope, told)(scope, receive, send)
            return False
        return True

    def endpoint_for(self, scope: ASGIScope) -> ASGIApp | None:
        """What answers this request, if it is for a path of `metrics`, `health`, `tickets` or `admin`."""
        return self._endpoints.get(route_path(scope)) if self._endpoints and scope["type"] == "http" else None

    async def _ready(self) -> None:
        if self._drain.draining:
            raise ws_overloaded("the server stops")
        await self._start()  # nothing new, but in a host without a lifespan

    async def _awake(self) -> None:
        if not self._started:  # one that drains still has its admin
            await self._ready()

    async def _serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            await self._ready()
        except Exception as error:
            if not self._drain.draining:
                logger.error("the sockets cannot start: %s", error)
            await self._entrance.turn_away(scope, receive, send, error)
        else:
            await self._entrance.enter(scope, receive, send)

    def tell_of_compression(self, why: str) -> None:
        """Warn of controllers whose setting `compression` has no effect: a server does that knows of it."""
        self._entrance.tell_of_compression(why)

    async def gone(self, conn: Connection) -> None:
        """The end of a connection, called by its dispatcher."""
        self._entrance.left(conn)
        await self._namespaces.gone(conn)
        if self.on_gone is not None:
            self.on_gone(conn)
        self._drain.gone(conn)

    async def revoke(
        self,
        *,
        token_id: str | Identity | None = None,
        identity: str | Identity | None = None,
        session: str | Session | None = None,
        until: float | None = None,
    ) -> None:
        """Take back the access of a token, an identity or a session, on every node: see `Revocations.revoke`."""
        await self.revocations.revoke(token_id=token_id, identity=identity, session=session, until=until)

    def live(self) -> dict[str, int]:
        """What is held now: for tests and diagnosis."""
        homes: Iterable[Home] = self.hub.homes.values()
        return {
            "connections": sum(len(home.everyone()) for home in homes),
            "namespaces": len(self.hub.homes),
            "rooms": sum(len(home.rooms) for home in homes),
            "tasks": len(self._tasks),
        }
