"""A handler gets its services for one request, which end behind the response, or with the handler's error."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from http_app import client_of, router_of, serving, started
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from aquilia.aquilary import BootError
from aquilia.controller import GET, POST, Body, Controller, RequestCtx
from aquilia.di import DIError, Scope, Services, service
from aquilia.faults import Fault

journal: list[str] = []


@pytest.fixture(autouse=True)
def empty_journal():
    journal.clear()


class Session:
    def __init__(self, ctx: RequestCtx) -> None:
        self.path = ctx.path


@service(scope="request")
async def session(ctx: RequestCtx) -> AsyncIterator[Session]:
    journal.append("open")
    try:
        yield Session(ctx)
    except BaseException as error:
        journal.append(f"rolled back for {error!r}")
        raise
    journal.append("committed")


@service(scope="request")
async def careless() -> AsyncIterator[bytes]:
    yield b""
    raise OSError("the disk is full")


@service
class Clock:
    now = 12


class Wish(msgspec.Struct):
    name: str


class Works(Controller):
    def __init__(self) -> None:
        self.met = asyncio.Barrier(3)
        self.waiting = asyncio.Event()

    @GET("/value")
    async def value(self, session: Session) -> object:
        return {"path": session.path}

    @GET("/stream")
    async def stream(self, session: Session) -> Response:
        async def chunks() -> AsyncIterator[str]:
            journal.append("streaming")
            yield session.path

        return StreamingResponse(chunks(), background=BackgroundTask(journal.append, "background"))

    @GET("/fault")
    async def fault(self, session: Session) -> object:
        raise Fault("NO", "no", status=409)

    @GET("/no-data")
    async def no_data(self, session: Session) -> object:
        return object()

    @GET("/wait")
    async def wait(self, session: Session) -> object:
        self.waiting.set()
        return await asyncio.Event().wait()

    @GET("/meet/:name")
    async def meet(self, name: str, session: Session) -> object:
        await self.met.wait()
        return session.path

    @GET("/clock")
    async def clock(self, ctx: RequestCtx, clock: Clock) -> object:
        return [clock.now, ctx.container is None]

    @POST("/wrong")
    async def wrong(self, body: dict, session: Session) -> object:
        return body

    @POST("/inferred")
    async def inferred(self, wish: Wish) -> object:
        return wish

    @GET("/careless")
    async def careless(self, data: bytes) -> object:
        return "done"


@pytest.fixture
async def client():
    async with serving(Works, services=[session, careless, Clock]) as client:
        yield client


async def test_a_service_lives_for_one_request_and_sees_its_context(client):
    assert (await client.get("/value")).json() == {"path": "/value"}
    assert journal == ["open", "committed"]


async def test_services_end_behind_the_response_and_its_background_task(client):
    assert (await client.get("/stream")).text == "/stream"
    assert journal == ["open", "streaming", "background", "committed"]


async def test_services_end_with_the_error_of_the_handler(client):
    assert (await client.get("/fault")).status_code == 409
    assert journal == ["open", "rolled back for Fault('NO', 'no')"]


async def test_services_end_with_an_error_where_the_answer_cannot_be_written(client):
    response = await client.get("/no-data")
    assert (response.status_code, response.json()["code"]) == (500, "HTTP_INTERNAL_ERROR")
    assert journal[1].startswith("rolled back for TypeError(")


async def test_services_end_when_the_request_is_cancelled():
    router = router_of(Works)
    async with started(router, [session, careless, Clock]), client_of(router) as client:
        request = asyncio.create_task(client.get("/wait"))
        async with asyncio.timeout(5):
            (works,) = router.controllers
            await works.waiting.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
    assert journal == ["open", "rolled back for CancelledError()"]


async def test_requests_at_the_same_time_have_their_own_services(client):
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(client.get(f"/meet/{name}") for name in "abc"))
    assert [answer.text for answer in answers] == ["/meet/a", "/meet/b", "/meet/c"]
    assert sorted(journal) == ["committed"] * 3 + ["open"] * 3


async def test_a_middleware_that_tries_again_ends_the_services_of_its_first_try():
    async def twice(ctx, call_next):
        await call_next(ctx)
        return await call_next(ctx)

    async with serving(Works, services=[session, careless, Clock], middleware=[twice]) as client:
        assert (await client.get("/value")).json() == {"path": "/value"}
    assert journal == ["open", "committed", "open", "committed"]


async def test_no_container_is_made_for_services_of_the_app(client):
    assert (await client.get("/clock")).json() == [12, True]


async def test_no_service_is_made_for_a_request_that_is_wrong(client):
    assert (await client.post("/wrong", json=[])).status_code == 422
    assert journal == []


async def test_a_failing_cleanup_is_logged_and_does_not_spoil_the_response(client, caplog):
    assert (await client.get("/careless")).text == "done"
    assert "the cleanup after Works.careless failed, incident" in caplog.text
    assert "the disk is full" in caplog.text


async def test_a_record_that_no_service_provides_is_the_body(client):
    assert (await client.post("/inferred", json={"name": "x"})).json() == {"name": "x"}


class Settings(msgspec.Struct):
    level: int


@service
def settings() -> Settings:
    return Settings(1)


class Ambiguous(Controller):
    @POST("/one")
    async def one(self, settings: Settings) -> None: ...

    @POST("/two")
    async def two(self, settings: Settings | None = None) -> None: ...


class Clear(Controller):
    @POST("/marked")
    async def marked(self, settings: Body[Settings]) -> object:
        return settings

    @POST("/named")
    async def named(self, body: Settings) -> object:
        return body


async def test_what_could_be_the_body_or_a_service_is_refused():
    router = router_of(Ambiguous)
    services = Services.build([settings], router.consumers(), provided={Scope.REQUEST: [RequestCtx]})
    with pytest.raises(BootError) as caught:
        router.prepare(services)
    assert [problem.message for problem in caught.value.problems] == [
        f"Ambiguous.{name}: parameter 'settings' has the type of a body, and a service provides it too: "
        "annotate it Body[…], or take the service in the constructor"
        for name in ("one", "two")
    ]
    assert caught.value.problems[0].where == f"{__file__}:{Ambiguous.one.__code__.co_firstlineno}"


async def test_what_is_said_to_be_the_body_is_not_ambiguous():
    async with serving(Clear, services=[settings]) as client:
        for path in ("/marked", "/named"):
            assert (await client.post(path, json={"level": 5})).json() == {"level": 5}


@service(scope="namespace")
class Board: ...


@service(scope="connection")
class Cursor: ...


class Misplaced(Controller):
    @GET()
    async def board(self, board: Board, cursor: Cursor) -> None: ...


def test_a_handler_has_no_namespace_and_no_connection():
    router = router_of(Misplaced)
    with pytest.raises(DIError) as caught:
        Services.build([Board, Cursor], router.consumers(), provided={Scope.REQUEST: [RequestCtx]})
    assert [problem.kind for problem in caught.value.problems] == ["absent", "absent"]


async def test_a_handler_that_was_not_started_says_so(caplog):
    async with client_of(router_of(Works)) as client:
        assert (await client.get("/value")).status_code == 500
    assert "Works.value is called before its controller was started" in caplog.text
