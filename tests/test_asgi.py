"""The application: HTTP, sockets and services of all manifests behind one ASGI callable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from wire import Client, serving

from aquilia import GET, AppManifest, Controller, RequestCtx, service
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.sockets import Connection, Event, Socket, SocketController

JOURNAL: list[str] = []


@service(scope="singleton")
class Shared:
    pass


@service(scope="app")
async def clock() -> AsyncIterator[list[str]]:
    JOURNAL.append("opened")
    yield JOURNAL
    JOURNAL.append("closed")


class Pages(Controller):
    def __init__(self, shared: Shared, journal: list[str]) -> None:
        self.shared = shared

    async def on_startup(self) -> None:
        JOURNAL.append("startup")

    async def on_shutdown(self) -> None:
        JOURNAL.append("shutdown")

    @GET("/hello")
    async def hello(self) -> str:
        return "hello"


@Socket("/live/:topic")
class Live(SocketController):
    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    @Event("where")
    async def where(self, conn: Connection) -> str:
        return self.namespace


class Stamp:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message["headers"] = [*message.get("headers", []), (b"x-stamp", b"1")]
            await send(message)

        await self.app(scope, receive, stamped)


async def door(ctx: RequestCtx, call_next: Any) -> Response:
    if ctx.query_params.get("bad"):
        return PlainTextResponse("no", 403)
    if ctx.query_params.get("broken"):
        raise RuntimeError("a secret")
    response: Response = await call_next(ctx)
    response.headers["x-seen"] = f"{ctx.kind} {ctx.path}"
    return response


def application(**changes: Any) -> Application:
    JOURNAL.clear()
    fields: dict[str, Any] = {
        "controllers": [Pages, Live],
        "services": [Shared, clock],
        "middleware": [door, Middleware(Stamp)],
    }
    return Application(Registry.build([AppManifest("app", **{**fields, **changes})]))


async def test_http_and_sockets_answer_side_by_side() -> None:
    async with serving(application()) as base:
        async with httpx.AsyncClient() as http:
            page = await http.get(base.replace("ws:", "http:") + "/hello")
        assert (page.text, page.headers["x-stamp"], page.headers["x-seen"]) == ("hello", "1", "http /hello")
        async with Client.connect(f"{base}/live/x") as client:
            assert client.socket.response.headers["x-stamp"] == "1"
            assert client.socket.response.headers["x-seen"] == "websocket /live/x"
            assert await client.request("where") == {"status": "ok", "data": "/live/x"}


async def test_the_middleware_refuses_a_handshake() -> None:
    async with serving(application()) as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/live/x?bad=1", proxy=None)
        assert refused.value.response.status_code == 403
        async with Client.connect(f"{base}/live/x?bad=1", "v1.json", hello=False) as client:
            assert (await client.closed())[0] == 4403


async def test_an_error_in_the_middleware_refuses_and_tells_nothing() -> None:
    async with serving(application()) as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/live/x?broken=1", proxy=None)
        assert refused.value.response.status_code == 500
        assert b"secret" not in refused.value.response.body


async def test_the_life_of_the_application() -> None:
    async with serving(application()):
        assert JOURNAL == ["opened", "startup"]
    assert JOURNAL == ["opened", "startup", "shutdown", "closed"]


async def test_a_start_that_fails_is_undone() -> None:
    class Broken(Controller):
        @GET("/broken")
        async def page(self) -> None: ...

        async def on_startup(self) -> None:
            raise RuntimeError("no disk")

    app = application(controllers=[Pages, Broken])
    with pytest.raises(RuntimeError, match="no disk"):
        await app.startup()
    assert JOURNAL == ["opened", "startup", "shutdown", "closed"]


async def test_a_server_is_told_that_the_start_failed() -> None:
    class Broken(Controller):
        @GET("/broken")
        async def page(self) -> None: ...

        async def on_startup(self) -> None:
            raise RuntimeError("no disk")

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await application(controllers=[Broken])({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "no disk"}]


async def test_a_stop_that_fails_in_part_goes_on_and_says_so() -> None:
    class Broken(Controller):
        @GET("/broken")
        async def page(self) -> None: ...

        async def on_shutdown(self) -> None:
            raise RuntimeError("stuck")

    app = application(controllers=[Pages, Broken])
    await app.startup()
    with pytest.raises(ExceptionGroup):
        await app.shutdown()
    assert JOURNAL[-1] == "closed"


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    class Stranger:
        pass

    @Socket("/a")
    class First(SocketController):
        def __init__(self, missing: Stranger) -> None: ...

    @Socket("/a")
    class Second(SocketController):
        @Event("x")
        async def wrong(self) -> None: ...

    class Sync(Controller):
        @GET("/")
        def page(self) -> str:
            return ""

    with pytest.raises(BootError) as refused:
        application(
            controllers=[First, Second, Sync],
            websockets={"adapter": "reddis", "heartbeet": 1},
            middleware=["json:loads"],
        )
    told = str(refused.value)
    for part in (
        "'reddis'",
        "'/a'",
        "(self, conn, payload)",
        "Stranger",
        "page",
        "middleware",
        "missing",
        "'heartbeat'",
    ):
        assert part in told, (part, told)


async def test_a_service_can_be_replaced_for_a_test() -> None:
    mine = Shared()
    app = Application(
        Registry.build([AppManifest("app", controllers=[Pages], services=[Shared, clock])]),
        overrides={Shared: mine},
    )
    await app.startup()
    assert next(iter(app.http.controllers)).shared is mine
    await app.shutdown()
