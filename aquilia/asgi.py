"""The application: the controllers of all manifests, HTTP and sockets, as one ASGI callable with its lifespan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from starlette.middleware import Middleware as AsgiMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from aquilia.aquilary import BootError, Problem, Registry
from aquilia.controller import Controller, RequestCtx
from aquilia.di import DIError, Scope, ScopeContainer, Services
from aquilia.faults import FaultEngine
from aquilia.http import HttpApp, HttpRouter
from aquilia.lifespan import serve_lifespan, undone_by
from aquilia.middleware import split, wrap
from aquilia.sockets.controller import SocketController
from aquilia.sockets.endpoints import live_path
from aquilia.sockets.handshake.refusal import note_response
from aquilia.sockets.plan import PROVIDED, SocketPlan
from aquilia.sockets.runtime import AquilaSockets

__all__ = ["Application"]


class Application:
    """Boots a registry and serves it.

    `overrides` puts ready objects in the place of services, by the type that they provide: for tests. Without
    `to_run` it may be looked at only, and needs no secrets of the environment. Files and folders of the machine that
    serves are looked for at `startup`.

    Raises:
        BootError: with every problem of manifests, controllers, routes and services.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        environment: Literal["production", "development"] = "production",
        overrides: Mapping[Any, Any] | None = None,
        to_run: bool = True,
    ) -> None:
        self.registry = registry
        self.faults = FaultEngine()
        problems: list[Problem] = registry.boot_problems() if to_run else []
        plan = SocketPlan.read(registry, problems)
        wrappers: list[AsgiMiddleware] = []
        self.http = HttpRouter.build(self._http_apps(plan, problems, wrappers), self.faults)
        problems += self.http.problems
        problems += self._hidden("metrics", plan.node.metrics)
        problems += self._hidden("health", plan.node.health)
        problems += self._hidden("health", live_path(plan.node))
        problems += self._hidden("tickets", plan.node.tickets)
        try:
            self.services = Services.build(
                [service for app in registry.apps for service in app.services],
                [*self.http.consumers(), *plan.consumers()],
                provided={**PROVIDED, Scope.REQUEST: [*PROVIDED[Scope.REQUEST], RequestCtx]},
                overrides=overrides,
            )
            self.http.prepare(self.services)
            for authenticator in plan.authenticators.values():
                authenticator.prepare(self.services)
        except DIError as error:
            problems += [
                Problem(problem.chain[0].where if problem.chain else "services", str(problem))
                for problem in error.problems
            ]
        except BootError as error:
            problems += error.problems
        if problems:
            raise BootError(problems)
        self.sockets = AquilaSockets(
            registry,
            plan=plan,
            services=self.services,
            engine=self.faults,
            development=environment == "development",
        )
        self.http.on_refused = self._refused
        self._apps: dict[str, ScopeContainer] = {}
        self._asgi: ASGIApp = wrap(self._serve, wrappers)

    def _http_apps(
        self, plan: SocketPlan, problems: list[Problem], wrappers: list[AsgiMiddleware]
    ) -> list[HttpApp]:
        apps = []
        for app in self.registry.apps:
            where = f"manifest {app.manifest.name!r}"
            found = split(app.middleware, f"{where}: middleware")
            problems += found.problems
            wrappers += found.asgi
            controllers: list[type[Controller]] = []
            for controller in app.controllers:
                if not issubclass(controller, Controller):
                    problems.append(Problem(where, f"{controller.__qualname__} does not extend Controller"))
                elif not issubclass(controller, SocketController):
                    controllers.append(controller)
            auth = plan.authenticators.get(app.manifest.name)
            apps.append(HttpApp(app.manifest.name, controllers, [*found.chain, *([auth] if auth else [])]))
        return apps

    def _hidden(self, setting: str, path: str | None) -> list[Problem]:
        """HTTP routes that nobody could reach, for what a setting serves is there."""
        return [
            Problem(
                route.where,
                f"{path} is where the setting {setting} serves: give one of the two another path",
            )
            for route in self.http.routes
            if route.pattern == path
        ]

    async def startup(self) -> None:
        """Open the services, and start HTTP controllers and sockets. What fails is undone, and raised."""
        await self.services.open()
        async with undone_by(self.shutdown):
            for app in self.registry.apps:
                self._apps[app.manifest.name] = await self.services.root.enter(
                    Scope.APP, self.sockets.provided
                )
            await self.sockets.plan.start(self._apps)
            await self.http.startup(self._apps)
            await self.sockets.startup(self._apps)

    async def shutdown(self) -> None:
        """End the connections, then the controllers, then the services; all of it, whatever fails."""
        failures: list[Exception] = []
        steps = [self.sockets.shutdown, self.http.shutdown]
        steps += [container.aclose for container in reversed(self._apps.values())]
        for step in [*steps, self.services.aclose]:
            try:
                await step()
            except Exception as error:
                failures.append(error)
        self._apps = {}
        if failures:
            raise ExceptionGroup("the application did not stop cleanly", failures)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] == "lifespan":
            await serve_lifespan(self.startup, self.shutdown, receive, send)
        elif await self.sockets.knows_client(scope, receive, send):
            await self._asgi(scope, receive, send)

    def _refused(self, ctx: RequestCtx, response: Response, pattern: str) -> None:
        note_response(self.sockets.audit, ctx.request.scope, response, pattern=pattern, identity=ctx.identity)

    async def _serve(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self.sockets(scope, receive, send)
        elif (endpoint := self.sockets.endpoint_for(scope)) is not None:
            await endpoint(scope, receive, send)
        else:
            await self.http(scope, receive, send)
