"""The HTTP side of an application: every controller's routes, as one ASGI endpoint.

    router = HttpRouter.build([HttpApp("chat", [Rooms], chain)], faults)
    services = Services.build([…], router.consumers(), provided={Scope.REQUEST: [RequestCtx]})
    router.prepare(services)
    await router.startup({"chat": container})
    await router(scope, receive, send)
    await router.shutdown()

A request is routed first, goes through the middleware of the app that serves its path, and then to the
handler. What the handler's services hold open at request scope is closed when the response has been sent,
background tasks included; if the handler fails, at once, with its error.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from aquilia.aquilary import BootError, Problem
from aquilia.auth import TokenFault
from aquilia.binding import bind
from aquilia.controller import MAX_BODY_SIZE, Controller, RequestCtx, Route, RouteDeclaration, routes_of
from aquilia.di import (
    Constructor,
    Consumer,
    DIError,
    Scope,
    ScopeContainer,
    Services,
    constructor_dependencies,
)
from aquilia.exchange import Reply, bounded, route_path
from aquilia.faults import FaultEngine
from aquilia.handler import Handler
from aquilia.http_faults import http_exception, http_internal_error, http_method_not_allowed, http_not_found
from aquilia.lifespan import undone_by
from aquilia.middleware import Endpoint, Middleware, compose
from aquilia.patterns import PatternError, PatternTable, compile_pattern, normalise_path
from aquilia.responses import fault_response
from aquilia.source import SourceLocation

__all__ = ["HttpApp", "HttpRouter"]


@dataclass(frozen=True, slots=True)
class HttpApp:
    """What an app has for HTTP: its controllers with routes, and the chain that `middleware.split` made."""

    name: str
    controllers: Sequence[type[Controller]]
    middleware: Sequence[Middleware] = ()


class _Served(NamedTuple):
    """What a path of one method leads to; `refusal` is for the other methods."""

    name: str
    pattern: str
    endpoint: Endpoint
    refusal: Endpoint
    max_body_size: int


class HttpRouter:
    """All HTTP routes of a process, an ASGI application for the scope type http. Made by `build`.

    `problems` holds everything that is wrong with the controllers: do not go on unless it is empty.
    """

    def __init__(self, faults: FaultEngine) -> None:
        self.problems: list[Problem] = []
        self._faults = faults
        self._tables: dict[str, PatternTable[_Served]] = {}
        self._handlers: list[Handler] = []
        self._controllers: dict[type[Controller], str] = {}
        self._constructors: dict[type[Controller], Constructor[Controller]] = {}
        self._started: list[Controller] = []
        self.on_refused: Callable[[RequestCtx, Response, str], None] | None = None
        """Told of every response of status 400 to 499 before it is sent, with the pattern of its route."""
        faults.translate(HTTPException, http_exception)

    @classmethod
    def build(cls, apps: Sequence[HttpApp], faults: FaultEngine) -> HttpRouter:
        """Read the routes of all controllers. Raises nothing: see `problems`."""
        router = cls(faults)
        for app in apps:
            for controller in app.controllers:
                router._add_controller(app, controller)
        return router

    @property
    def routes(self) -> list[Route]:
        """Every route that is served."""
        return [handler.route for handler in self._handlers]

    @property
    def controllers(self) -> list[Controller]:
        """The controllers that have started."""
        return list(self._started)

    def consumers(self) -> list[Consumer]:
        """Who asks DI for services: the constructors and the handlers."""
        found = [Consumer(each, Scope.APP, constructor_dependencies(each)) for each in self._controllers]
        for handler in self._handlers:
            if (consumer := handler.consumer()) not in found:  # a handler may have several routes
                found.append(consumer)
        return found

    def prepare(self, services: Services) -> None:
        """Look up what controllers and handlers need. Raises `DIError`, and `BootError` for ambiguities."""
        problems: list[Problem] = []
        for handler in self._handlers:
            try:
                handler.prepare(services)
            except BootError as error:
                problems += error.problems
        if problems:
            raise BootError(problems)
        for controller in self._controllers:
            self._constructors[controller] = services.constructor(controller, Scope.APP)

    async def startup(self, containers: Mapping[str, ScopeContainer]) -> None:
        """Build every controller in its app's container, by the app's name, and run `on_startup`.

        If one fails, those already started are shut down and its error is raised.
        """
        async with undone_by(self.shutdown):
            for cls, constructor in self._constructors.items():
                container = containers[self._controllers[cls]]
                controller = await constructor.build(container)
                await controller.on_startup()
                self._started.append(controller)
                for handler in self._handlers:
                    if handler.route.controller is cls:
                        handler.start(controller, container)

    async def shutdown(self) -> None:
        """Run `on_shutdown` of every controller, the last started first, even where one fails.

        Raises an `ExceptionGroup` of what they raised.
        """
        failures = []
        while self._started:
            try:
                await self._started.pop().on_shutdown()
            except Exception as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup("controllers failed to shut down", failures)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = route_path(scope)
        served, params = self._find(scope["method"], path)
        request = Request(scope)
        request = Request(scope, bounded(receive, request.headers, served.max_body_size), send)
        ctx = RequestCtx(request, path=normalise_path(path), path_params=params)
        reply = Reply(send, head=ctx.method == "HEAD")
        error: BaseException | None = None
        try:
            response = await served.endpoint(ctx)
            if self.on_refused is not None and 400 <= response.status_code < 500:
                self.on_refused(ctx, response, served.pattern)
            await response(scope, receive, reply)
        except ClientDisconnect as gone:
            error = gone
        except Exception as failure:
            error = failure
            await self._recover(failure, served.name, scope, receive, reply)
        except BaseException as ended:
            error = ended
            raise
        finally:
            await self._finish(request, ctx, served.name, error)

    def answer(self, error: Exception, where: str) -> Response:
        """The response that tells the client of an error which came out of `where`."""
        if isinstance(error, ClientDisconnect):
            raise error  # nobody is there to be answered
        headers = error.headers if isinstance(error, HTTPException | TokenFault) else None
        return fault_response(self._faults.process(error, where, internal=http_internal_error), headers)

    def _add_controller(self, app: HttpApp, controller: type[Controller]) -> None:
        problems = list(_problems_of_controller(controller))
        if problems:
            self.problems += [Problem(str(SourceLocation.of(controller)), each) for each in problems]
            return
        self._controllers[controller] = app.name
        for route in routes_of(controller):
            try:
                self._add_route(app, route)
            except BootError as error:
                self.problems += error.problems
            except PatternError as error:
                self.problems.append(Problem(route.where, f"{route.name}: {error}"))

    def _add_route(self, app: HttpApp, route: Route) -> None:
        declaration = route.declaration
        problems = list(_problems_of_declaration(declaration))
        if problems:
            raise BootError(Problem(route.where, f"{route.name}: {each}") for each in problems)
        handler = Handler(route, bind(route, compile_pattern(route.pattern)), self.answer)
        served = _Served(
            route.name,
            route.pattern,
            compose(app.middleware, handler, answer=self.answer),
            compose(app.middleware, self._refuse_method, answer=self.answer),
            declaration.max_body_size,
        )
        table = self._tables.setdefault(declaration.method, PatternTable())
        table.add(route.pattern, served, where=f"{declaration.method} {route.name}, {route.where}")
        self._handlers.append(handler)

    def _find(self, method: str, path: str) -> tuple[_Served, dict[str, Any]]:
        for name in ("HEAD", "GET") if method == "HEAD" else (method,):
            if name in self._tables and (match := self._tables[name].match(path)):
                return match.value, match.params
        for table in self._tables.values():
            if match := table.match(path):
                return match.value._replace(endpoint=match.value.refusal), match.params
        return _Served("no route", "none", self._refuse_path, self._refuse_path, MAX_BODY_SIZE), {}

    async def _refuse_path(self, ctx: RequestCtx) -> Response:
        return self.answer(http_not_found(ctx.path), "no route")

    async def _refuse_method(self, ctx: RequestCtx) -> Response:
        allowed = {method for method, table in self._tables.items() if table.match(ctx.path)}
        listed = sorted(allowed | {"HEAD"} if "GET" in allowed else allowed)
        response = self.answer(http_method_not_allowed(ctx.method, listed), "no route")
        response.headers["allow"] = ", ".join(listed)
        return response

    async def _recover(
        self, failure: Exception, where: str, scope: AsgiScope, receive: Receive, reply: Reply
    ) -> None:
        """The response itself failed, or its background task."""
        response = self.answer(failure, where)
        if not reply.started:
            with contextlib.suppress(ClientDisconnect):
                await response(scope, receive, reply)
        elif not reply.finished:
            raise failure  # the server then cuts the connection: the client sees that the body is not whole

    async def _finish(
        self, request: Request, ctx: RequestCtx, where: str, error: BaseException | None
    ) -> None:
        try:
            try:
                await request.close()  # the files of a form
            finally:
                if ctx.container is not None:
                    await ctx.container.aclose(error)
        except Exception as failure:
            self._faults.process(failure, f"the cleanup after {where}", internal=http_internal_error)


def _problems_of_controller(controller: Any) -> Iterator[str]:
    if not (isinstance(controller, type) and issubclass(controller, Controller)):
        yield f"{controller!r} is no controller: extend aquilia.controller.Controller"
        return
    name = controller.__qualname__
    if not isinstance(controller.prefix, str) or controller.prefix[:1] not in ("", "/"):
        yield f"{name}.prefix is {controller.prefix!r}: a prefix begins with '/', or is empty"
    for hook in ("on_startup", "on_shutdown"):
        if not inspect.iscoroutinefunction(getattr(controller, hook)):
            yield f"{name}.{hook} is not async: write `async def {hook}(self)`"
    if not routes_of(controller):
        yield f"{name} has no routes: decorate its methods with @GET, @POST, @PUT, @PATCH or @DELETE"
    try:
        constructor_dependencies(controller)
    except DIError as error:
        yield from map(str, error.problems)


def _problems_of_declaration(declaration: RouteDeclaration) -> Iterator[str]:
    if not declaration.path.startswith("/"):
        yield f"the path {declaration.path!r} begins with '/': write {'/' + declaration.path!r}"
    if declaration.status not in range(200, 600):
        yield f"the status {declaration.status!r} is none of a response: 200 to 599"
    if not isinstance(declaration.max_body_size, int) or declaration.max_body_size < 0:
        yield f"max_body_size is {declaration.max_body_size!r}: a number of bytes"
