"""Serves controllers in a test, as the application does: the router, its services, and a client that calls it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp

from aquilia.controller import Controller, RequestCtx
from aquilia.di import Scope, Services
from aquilia.faults import FaultEngine
from aquilia.http import HttpApp, HttpRouter
from aquilia.middleware import split


def router_of(
    *controllers: type[Controller], middleware: Sequence[Any] = (), faults: FaultEngine | None = None
) -> HttpRouter:
    app = HttpApp("main", controllers, split(middleware).chain)
    return HttpRouter.build([app], faults or FaultEngine())


@asynccontextmanager
async def started(router: HttpRouter, services: Sequence[Any] = ()) -> AsyncIterator[HttpRouter]:
    assert not router.problems, router.problems
    provided = {Scope.REQUEST: [RequestCtx]}
    async with Services.build(services, router.consumers(), provided=provided) as built:
        router.prepare(built)
        async with await built.root.enter(Scope.APP) as container:
            await router.startup({"main": container})
            yield router
            await router.shutdown()


def client_of(app: ASGIApp, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, **options), base_url="http://test")


@asynccontextmanager
async def serving(
    *controllers: type[Controller],
    services: Sequence[Any] = (),
    middleware: Sequence[Any] = (),
    faults: FaultEngine | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    router = router_of(*controllers, middleware=middleware, faults=faults)
    async with started(router, services), client_of(router) as client:
        yield client
