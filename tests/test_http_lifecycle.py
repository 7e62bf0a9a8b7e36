"""The router before and behind its requests: what it refuses at boot, and the life of controllers."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import uvicorn
from http_app import client_of, router_of, serving, started
from starlette.responses import Response, StreamingResponse

from aquilia.aquilary import BootError
from aquilia.controller import GET, HEAD, POST, Controller, RequestCtx
from aquilia.di import DIError, Scope, Services, service
from aquilia.faults import FaultEngine
from aquilia.http import HttpApp, HttpRouter


class Rooms(Controller):
    prefix = "/rooms"

    @GET("/:room")
    @HEAD("/:room/check")
    async def show(self, room: str) -> object:
        return {"room": room}


class Slow(Controller):
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    @POST("/upload")
    async def upload(self, ctx: RequestCtx) -> object:
        return len(await ctx.body())

    @GET("/endless")
    async def endless(self) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)  # once the client has left, sending does not wait any more
            finally:
                self.ended.set()

        return StreamingResponse(chunks())


class Note(msgspec.Struct):
    text: str


class Doubtful(Controller):
    @POST()
    async def write(self, journal: Note) -> None: ...


@service
def note() -> Note:
    return Note("x")


def test_a_doubtful_parameter_is_refused_before_the_start():
    router = router_of(Doubtful)
    with pytest.raises(BootError, match="has the type of a body, and a service provides it too"):
        router.prepare(Services.build([note], router.consumers()))


class Clash(Controller):
    prefix = "/rooms"

    @GET("/:name")
    async def other(self) -> None: ...

    @POST("/:id:int")
    async def different(self) -> None: ...


def test_two_handlers_of_one_path_are_refused_with_both_places():
    router = HttpRouter.build([HttpApp("a", [Rooms]), HttpApp("b", [Clash])], FaultEngine())
    (problem,) = router.problems
    first = f"GET Rooms.show, {__file__}:{Rooms.show.__code__.co_firstlineno}"
    second = f"{__file__}:{Clash.other.__code__.co_firstlineno}"
    assert problem.where == second
    assert problem.message == (
        f"Clash.other: path pattern '/rooms/:name' (GET Clash.other, {second}) matches the same paths as "
        f"'/rooms/:room' ({first})"
    )


class Needy(Controller):
    prefix = "rooms"

    def __init__(self, unsaid) -> None: ...

    def on_startup(self) -> None: ...

    async def helper(self) -> None: ...


class Odd(Controller):
    @GET("rooms")
    async def relative(self) -> None: ...

    @GET("/:id:number")
    async def unknown(self) -> None: ...

    @GET("/status", status=99, max_body_size=-1)
    async def numbers(self) -> None: ...

    @GET("/types", status="ok", max_body_size="1 MB")
    async def types(self) -> None: ...


def test_every_problem_of_every_controller_is_told_with_its_place():
    problems = [str(problem) for problem in router_of(Needy, Odd, str, len).problems]
    place = f"{__file__}:"
    expected = [
        "Needy.prefix is 'rooms': a prefix begins with '/', or is empty",
        "Needy.on_startup is not async: write `async def on_startup(self)`",
        "Needy has no routes: decorate its methods with @GET, @POST, @PUT, @PATCH or @DELETE",
        "has no annotation for parameter 'unsaid'",
        "Odd.relative: the path 'rooms' begins with '/': write '/rooms'",
        "Odd.unknown: path pattern '/:id:number': ':id:number': there is no kind 'number'",
        "Odd.numbers: the status 99 is none of a response: 200 to 599",
        "Odd.numbers: max_body_size is -1: a number of bytes",
        "Odd.types: the status 'ok' is none of a response: 200 to 599",
        "Odd.types: max_body_size is '1 MB': a number of bytes",
        "<class 'str'> is no controller: extend aquilia.controller.Controller",
        "<built-in function len> is no controller: extend aquilia.controller.Controller",
    ]
    assert len(problems) == len(expected)
    for problem, message in zip(problems, expected, strict=True):
        assert message in problem
    assert all(problem.startswith(place) for problem in problems[:10])


def test_the_routes_are_listed():
    assert [(route.declaration.method, route.pattern) for route in router_of(Rooms).routes] == [
        ("GET", "/rooms/:room"),
        ("HEAD", "/rooms/:room/check"),
    ]


@service
class Journal:
    def __init__(self) -> None:
        self.lines: list[str] = []


class First(Controller):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    @GET("/first")
    @GET("/again")
    async def read(self, journal: Journal) -> object:
        return [*journal.lines, str(journal is self.journal)]

    async def on_startup(self) -> None:
        self.journal.lines.append("first starts")

    async def on_shutdown(self) -> None:
        self.journal.lines.append("first stops")


class Second(Controller):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    @GET("/second")
    async def read(self) -> object:
        return self.journal.lines

    async def on_startup(self) -> None:
        self.journal.lines.append("second starts")

    async def on_shutdown(self) -> None:
        self.journal.lines.append("second fails to stop")
        raise ValueError("second")


async def build(*apps: HttpApp) -> tuple[HttpRouter, Services]:
    router = HttpRouter.build(apps, FaultEngine())
    services = Services.build([Journal], router.consumers(), provided={Scope.REQUEST: [RequestCtx]})
    router.prepare(services)
    return router, services


async def test_a_controller_is_built_once_in_its_app_and_started():
    async with serving(First, services=[Journal]) as client:
        for path in ("/first", "/again"):
            assert (await client.get(path)).json() == ["first starts", "True"]


async def test_each_app_has_its_own_services():
    router, services = await build(HttpApp("a", [First]), HttpApp("b", [Second]))
    async with services:
        containers = {name: await services.root.enter(Scope.APP) for name in "ab"}
        await router.startup(containers)
        async with client_of(router) as client:
            assert (await client.get("/first")).json() == ["first starts", "True"]
            assert (await client.get("/second")).json() == ["second starts"]
        for container in containers.values():
            await container.aclose()


async def test_controllers_stop_in_the_reverse_order_even_where_one_fails():
    router, services = await build(HttpApp("a", [First, Second]))
    async with services, await services.root.enter(Scope.APP) as container:
        await router.startup({"a": container})
        with pytest.raises(ExceptionGroup, match="controllers failed to shut down") as caught:
            await router.shutdown()
        assert [str(error) for error in caught.value.exceptions] == ["second"]
        assert (await container.get(Journal)).lines == [
            "first starts",
            "second starts",
            "second fails to stop",
            "first stops",
        ]
        await router.shutdown()


class Broken(Controller):
    @GET("/broken")
    async def read(self) -> None: ...

    async def on_startup(self) -> None:
        raise ValueError("broken")


async def test_a_start_that_fails_stops_what_had_started():
    router, services = await build(HttpApp("a", [First, Broken]))
    async with services, await services.root.enter(Scope.APP) as container:
        with pytest.raises(ValueError, match="broken"):
            await router.startup({"a": container})
        assert (await container.get(Journal)).lines == ["first starts", "first stops"]


def test_consumers_are_named_once():
    consumers = router_of(First).consumers()
    assert [(consumer.target, consumer.scope) for consumer in consumers] == [
        (First, Scope.APP),
        (First.read, Scope.REQUEST),
    ]


def test_a_controller_whose_services_are_missing_is_refused():
    with pytest.raises(DIError, match="nothing provides Journal"):
        Services.build([], router_of(First).consumers())


async def test_a_real_server_serves_it():
    router = router_of(Rooms, Slow)
    async with started(router), asyncio.timeout(20):
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(router, lifespan="off", log_config=None, ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=base_url, trust_env=False) as client:
            assert (await client.get("/rooms/a")).json() == {"room": "a"}
            head = await client.head("/rooms/a")
            assert (head.headers["content-length"], head.content) == ("12", b"")
            assert (await client.post("/upload", content=b"x" * 2_000_000)).status_code == 413
            assert (await client.post("/upload", content=b"x" * 1_000_000)).json() == 1_000_000
            assert (await client.get("/nowhere")).status_code == 404
            async with client.stream("GET", "/endless") as response:
                assert response.status_code == 200
            slow = next(each for each in router.controllers if isinstance(each, Slow))
            await slow.ended.wait()
        server.should_exit = True
        await serving
