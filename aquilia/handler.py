"""One route's handler at work: from the context of a request to the response, with its services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from aquilia.aquilary import BootError, Problem
from aquilia.binding import Binding
from aquilia.controller import Controller, RequestCtx, Route
from aquilia.di import Consumer, Dependency, Injection, Scope, ScopeContainer, Services
from aquilia.middleware import Answer
from aquilia.responses import response_of

__all__ = ["Handler"]

_ABSENT: frozenset[Any] = frozenset({Scope.NAMESPACE, Scope.CONNECTION})


class Handler:
    """Answers the requests of one route. `prepare` comes at boot, and `start` before the first request.

    `answer` makes the response for an error, so that calling a handler does not raise.
    """

    def __init__(self, route: Route, binding: Binding, answer: Answer) -> None:
        self.route = route
        self._binding = binding
        self._answer = answer
        self._injection: Injection | None = None
        self._container: ScopeContainer | None = None
        self._method: Callable[..., Awaitable[Any]] | None = None

    def consumer(self) -> Consumer:
        """What it asks of DI."""
        dependencies = tuple(self._binding.dependencies)
        return Consumer(self.route.function, Scope.REQUEST, dependencies, self.route.where, _ABSENT)

    def prepare(self, services: Services) -> None:
        """Look up what it needs. Raises `BootError` for a parameter that may be the body or a service."""
        doubtful = self._binding.inferred
        if doubtful is not None:
            wish = Dependency(doubtful.name, doubtful.type, required=False)
            if services.injector([wish], Scope.REQUEST).needed:
                message = (
                    f"{self.route.name}: parameter {doubtful.name!r} has the type of a body, and a service "
                    "provides it too: annotate it Body[…], or take the service in the constructor"
                )
                raise BootError([Problem(self.route.where, message)])
        self._injection = services.injector(self._binding.dependencies, Scope.REQUEST, without=_ABSENT)

    def start(self, controller: Controller, container: ScopeContainer) -> None:
        """Serve from now on with this controller, in its app's container."""
        self._method = getattr(controller, self.route.attribute)
        self._container = container

    async def __call__(self, ctx: RequestCtx) -> Response:
        """The response for one request. Leaves an open container in `ctx.container` if it needed one."""
        try:
            return await self._respond(ctx)
        except Exception as error:
            return self._answer(error, self.route.name)

    async def _respond(self, ctx: RequestCtx) -> Response:
        if self._method is None or self._injection is None or self._container is None:
            raise RuntimeError(f"{self.route.name} is called before its controller was started")
        arguments = await self._binding.arguments(ctx)
        if self._injection.scope <= Scope.APP:  # nothing in it lives as short as a request
            arguments |= await self._injection.resolve(self._container)
            return await self._result(self._method, arguments)
        if ctx.container is not None:  # a middleware tries again: it has dropped the first response
            await ctx.container.aclose()
        container = await self._container.enter(Scope.REQUEST, {RequestCtx: ctx})
        try:
            arguments |= await self._injection.resolve(container)
            response = await self._result(self._method, arguments)
        except BaseException as error:
            await container.aclose(error)
            raise
        ctx.container = container
        return response

    async def _result(self, method: Callable[..., Awaitable[Any]], arguments: dict[str, Any]) -> Response:
        return response_of(await method(**arguments), self.route.declaration.status)
