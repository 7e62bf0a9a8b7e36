"""`AquilaSockets` within other applications, and what it refuses to be given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from wire import TRANSPORTS, Client, serving

from aquilia import GET, Controller
from aquilia.aquilary import BootError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
)

ENDED: list[str] = []


@Socket("/echo/:room")
class Echo(SocketController):
    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        await conn.send_event("hi", self.namespace)

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @OnDisconnect()
    async def note(self, conn: Connection) -> None:
        ENDED.append(self.namespace)


class Pages(Controller):
    @GET("/")
    async def index(self) -> str:
        return ""


async def page(request: Any) -> PlainTextResponse:
    return PlainTextResponse("a page")


def fastapi(sockets: AquilaSockets, **options: Any) -> Any:
    app = FastAPI(**options)
    app.mount("/live", sockets)
    app.get("/page")(lambda: "a page")
    return app


def starlette(sockets: AquilaSockets, **options: Any) -> Any:
    return Starlette(routes=[Mount("/live", sockets), Route("/page", page)], **options)


@pytest.fixture
def sockets() -> AquilaSockets:
    ENDED.clear()
    return AquilaSockets.from_controllers([Echo])


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
@pytest.mark.parametrize("host", [fastapi, starlette])
async def test_a_host_application_serves_the_sockets_beside_its_own(
    host: Any, ws: Any, sockets: AquilaSockets
) -> None:
    async with serving(host(sockets, lifespan=sockets.lifespan), ws=ws) as url:
        async with Client.connect(f"{url}/live/echo/a") as client:
            assert (await client.expect("hi"))["payload"] == "/echo/a"  # without the prefix of the mount
            assert await client.request("echo", 1) == {"status": "ok", "data": 1}
        async with httpx.AsyncClient(base_url=url.replace("ws", "http", 1), trust_env=False) as http:
            assert "a page" in (await http.get("/page")).text

    assert ENDED == ["/echo/a"]
    assert sockets.live() == {"connections": 0, "namespaces": 0, "rooms": 0, "tasks": 0}


@pytest.mark.parametrize("host", [fastapi, starlette])
async def test_without_a_lifespan_the_first_connection_starts_the_sockets(
    host: Any, sockets: AquilaSockets
) -> None:
    async with serving(host(sockets)) as url, Client.connect(f"{url}/live/echo/a") as client:
        await client.expect("hi")
    await sockets.shutdown()


async def test_a_lifespan_of_the_hosts_own_can_enter_that_of_the_sockets(sockets: AquilaSockets) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with sockets.lifespan(app):
            yield

    async with (
        serving(starlette(sockets, lifespan=lifespan)) as url,
        Client.connect(f"{url}/live/echo/a") as client,
    ):
        await client.expect("hi")


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_a_root_path_of_the_server_is_no_part_of_the_namespace(ws: Any, sockets: AquilaSockets) -> None:
    async with (
        serving(sockets, root_path="/behind", ws=ws) as url,
        Client.connect(f"{url}/echo/b") as client,
    ):
        assert (await client.expect("hi"))["payload"] == "/echo/b"


async def test_alone_it_answers_http_with_404(sockets: AquilaSockets) -> None:
    transport = httpx.ASGITransport(sockets)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.get("/echo/a")

    assert (answer.status_code, answer.json()["code"]) == (404, "HTTP_NOT_FOUND")


async def not_a_middleware(ctx: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"controllers": [Echo, Pages]}, "Pages is no SocketController"),
        ({"controllers": [Echo, str]}, "str is no SocketController"),
        ({"middleware": [Middleware(GZipMiddleware)]}, "pure ASGI middleware: give it to the host"),
        ({"middleware": [not_a_middleware]}, "must take two arguments"),
        ({"heartbeet": 3}, "did you mean 'heartbeat'?"),
    ],
)
def test_what_it_would_have_to_leave_out_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(BootError, match=problem.replace("?", r"\?")):
        AquilaSockets.from_controllers(given.pop("controllers", [Echo]), **given)


def test_an_application_may_live_again_in_another_loop() -> None:
    sockets = AquilaSockets.from_controllers([Echo])

    async def live() -> dict[str, Any]:
        async with serving(sockets) as url, Client.connect(f"{url}/echo/a") as client:
            await client.expect("hi")
            return await client.request("echo", 1)

    for _ in range(2):
        with closing(asyncio.new_event_loop()) as loop:
            assert loop.run_until_complete(live()) == {"status": "ok", "data": 1}


def test_a_loop_that_ended_without_a_shutdown_is_named_in_the_next() -> None:
    sockets = AquilaSockets.from_controllers([Echo])
    with closing(asyncio.new_event_loop()) as first:
        first.run_until_complete(sockets.startup())
    with closing(asyncio.new_event_loop()) as second, pytest.raises(RuntimeError, match="another event loop"):
        second.run_until_complete(sockets.startup())
