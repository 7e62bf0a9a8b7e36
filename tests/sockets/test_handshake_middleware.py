"""Handshake middleware that does odd things: nobody is let in by mistake, and nothing is held for ever."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response
from visit import Visit

from aquilia import Fault, RequestCtx
from aquilia.middleware import CallNext
from aquilia.sockets import AquilaSockets, Event, Socket, SocketController
from aquilia.sockets.namespaces import LINGER
from aquilia.testing import sockets_test

NOTHING = {"connections": 0, "namespaces": 0, "rooms": 0, "tasks": 0}


@Socket("/hall")
class Hall(SocketController):
    @Event("echo")
    async def echo(self, conn: Any, payload: Any) -> Any:
        return payload


def app_with(*middleware: Any) -> AquilaSockets:
    return AquilaSockets.from_controllers([Hall], middleware=middleware)


async def twice(ctx: RequestCtx, call_next: CallNext) -> Response:
    await call_next(ctx)
    return await call_next(ctx)


async def second_thoughts(ctx: RequestCtx, call_next: CallNext) -> Response:
    await call_next(ctx)
    return PlainTextResponse("changed my mind", 403)


async def late_error(ctx: RequestCtx, call_next: CallNext) -> Response:
    await call_next(ctx)
    raise Fault("LATE", "too late", status=409)


async def lets_in_itself(ctx: RequestCtx, call_next: CallNext) -> Response:
    return Response(status_code=101)


async def passes_another(ctx: RequestCtx, call_next: CallNext) -> Response:
    await call_next(ctx)
    return Response(status_code=101, headers={"x-mine": "1"})


async def adds_headers(ctx: RequestCtx, call_next: CallNext) -> Response:
    response = await call_next(ctx)
    response.headers["x-seen"] = ctx.kind
    response.set_cookie("visited", "yes")
    return response


async def says_who(ctx: RequestCtx, call_next: CallNext) -> Response:
    assert (ctx.kind, ctx.path) == ("websocket", "/hall")
    return await call_next(ctx)


async def given_back(app: AquilaSockets) -> None:
    """Namespaces are held by nobody."""
    for home in app.hub.homes.values():
        assert home.users == 0
    await app.shutdown()
    assert app.live() == NOTHING


@pytest.mark.parametrize(
    ("middleware", "status"), [(second_thoughts, 403), (late_error, 409), (lets_in_itself, 500)]
)
async def test_a_middleware_that_refuses_however_late_refuses(
    middleware: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(middleware)
    async with Visit(app, "/hall") as visit:
        assert visit.status == status
    await given_back(app)


async def test_a_middleware_that_asks_twice_holds_the_namespace_once() -> None:
    async with sockets_test(Hall, middleware=[twice]) as t:
        await (await t.connect("/hall")).disconnect()
        await t.clock.advance(LINGER + 1)
        assert t.application.sockets.live() == NOTHING


async def test_headers_and_cookies_are_sent_with_the_upgrade() -> None:
    app = app_with(adds_headers, says_who)
    async with Visit(app, "/hall") as visit:
        assert visit.accepted
        headers = dict(visit.first["headers"])
        assert headers[b"x-seen"] == b"websocket"
        assert headers[b"set-cookie"].startswith(b"visited=yes")
        assert b"content-length" not in headers
    await app.shutdown()


async def test_an_admission_may_be_passed_on_in_a_response_of_its_own() -> None:
    app = app_with(passes_another)
    async with Visit(app, "/hall") as visit:
        assert visit.accepted
        assert dict(visit.first["headers"]) == {b"x-mine": b"1"}
        assert (await visit.request("echo", 1))["data"] == 1
    await app.shutdown()


async def test_each_refusal_is_counted_with_its_cause() -> None:
    app = app_with(second_thoughts)
    async with Visit(app, "/hall"):
        pass
    assert app.recorder.counts["handshake", "/hall", "HTTP 403"] == 1  # type: ignore[attr-defined]
    await app.shutdown()
    app = app_with(late_error)
    async with Visit(app, "/hall"):
        pass
    assert app.recorder.counts["handshake", "/hall", "LATE"] == 1  # type: ignore[attr-defined]
    await app.shutdown()
