"""The router: which handler answers a request, what clients are told of errors, and the life of controllers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from http_app import client_of, router_of, serving, started
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount

from aquilia.controller import DELETE, GET, HEAD, POST, Controller, RequestCtx
from aquilia.di import service
from aquilia.faults import Fault, FaultEngine


class Rooms(Controller):
    prefix = "/rooms"

    @GET()
    async def index(self) -> object:
        return ["lobby"]

    @GET("/:room")
    async def show(self, room: str) -> object:
        return {"room": room}

    @GET("/featured")
    async def featured(self) -> str:
        return "featured"

    @POST("/:room", status=201)
    async def write(self, room: str) -> object:
        return {"room": room}

    @DELETE("/:room")
    async def remove(self, room: str) -> None: ...

    @GET("/old")
    async def old(self) -> Response:
        return RedirectResponse("/rooms")


class Files(Controller):
    prefix = "/files"

    @GET("/*path")
    async def read(self, path: str) -> bytes:
        return path.encode()

    @HEAD("/*path")
    async def check(self, path: str) -> Response:
        return Response(headers={"x-path": path})


@pytest.fixture
async def client():
    async with serving(Rooms, Files) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/rooms", 200, '["lobby"]'),
        ("GET", "/rooms/", 200, '["lobby"]'),
        ("GET", "/rooms/a", 200, '{"room":"a"}'),
        ("GET", "/rooms/featured", 200, "featured"),
        ("POST", "/rooms/featured", 201, '{"room":"featured"}'),
        ("DELETE", "/rooms/a", 204, ""),
        ("GET", "/rooms/old", 307, ""),
        ("GET", "/files/a/b", 200, "a/b"),
    ],
)
async def test_a_request_is_answered_by_the_handler_of_its_method_and_path(
    client, method, path, status, text
):
    response = await client.request(method, path)
    assert (response.status_code, response.text) == (status, text)


async def test_a_path_that_nobody_serves_is_a_404(client):
    response = await client.get("/nowhere")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "code": "HTTP_NOT_FOUND",
        "message": "nothing is served at '/nowhere'",
        "retryable": False,
    }


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/rooms", "GET, HEAD"), ("/rooms/a", "DELETE, GET, HEAD, POST"), ("/files/a", "GET, HEAD")],
)
async def test_a_method_that_a_path_does_not_have_is_a_405(client, path, allowed):
    response = await client.patch(path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json()["code"] == "HTTP_METHOD_NOT_ALLOWED"


async def test_a_head_is_answered_for_a_get_without_the_body(client):
    response = await client.head("/rooms")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "9"


async def test_a_head_of_ones_own_comes_first(client):
    assert (await client.head("/files/a")).headers["x-path"] == "a"


async def test_a_path_that_could_be_two_places_is_none(client):
    for path in ("/rooms/%2E%2E", "/rooms/%00"):
        assert (await client.get(path)).status_code == 404


async def test_the_prefix_of_a_mount_is_left_out():
    router = router_of(Rooms)
    async with started(router), client_of(Starlette(routes=[Mount("/api", router)])) as client:
        assert (await client.get("/api/rooms/a")).json() == {"room": "a"}
        assert (await client.get("/api/nowhere")).json()["message"] == "nothing is served at '/nowhere'"


class Failing(Controller):
    @GET("/fault")
    async def fault(self) -> None:
        raise Fault("ROOM_FULL", "the room is full", status=409, retryable=True, details=[{"size": 5}])

    @GET("/bug")
    async def bug(self) -> None:
        raise ValueError("secret")

    @GET("/known")
    async def known(self) -> None:
        raise KeyError("x")

    @GET("/http")
    async def http(self) -> None:
        raise HTTPException(401, "who are you?", headers={"www-authenticate": "Bearer"})

    @GET("/not-modified")
    async def not_modified(self) -> None:
        raise HTTPException(304, headers={"etag": "1"})

    @GET("/unspeakable")
    async def unspeakable(self) -> None:
        raise Fault("ODD", "odd", details=[object()])

    @GET("/file")
    async def file(self) -> Response:
        return FileResponse("does/not/exist")

    @GET("/half")
    async def half(self) -> Response:
        async def chunks() -> AsyncIterator[str]:
            yield "half"
            raise ValueError("secret")

        return StreamingResponse(chunks())

    @GET("/background")
    async def background(self) -> Response:
        return Response("done", background=BackgroundTask(int, "secret"))


@pytest.fixture
def seen() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def faults(seen) -> FaultEngine:
    engine = FaultEngine()
    engine.translate(LookupError, lambda error: Fault("NO_SUCH_THING", str(error), status=410))
    engine.observe(lambda fault, where: seen.append((fault.code, where)))
    return engine


@pytest.fixture
async def failing(faults):
    async with serving(Failing, faults=faults) as client:
        yield client


async def test_a_fault_is_told_to_the_client(failing, seen):
    response = await failing.get("/fault")
    assert response.status_code == 409
    assert response.json() == {
        "code": "ROOM_FULL",
        "message": "the room is full",
        "details": [{"size": 5}],
        "retryable": True,
    }
    assert seen == [("ROOM_FULL", "Failing.fault")]


async def test_an_unforeseen_error_is_told_by_its_incident_only(failing, caplog):
    response = await failing.get("/bug")
    assert (response.status_code, response.json()["code"]) == (500, "HTTP_INTERNAL_ERROR")
    assert "secret" not in response.text
    incident = response.json()["message"].rpartition(" ")[2]
    assert f"Failing.bug failed, incident {incident}" in caplog.text
    assert "ValueError: secret" in caplog.text


async def test_an_exception_is_translated_as_the_application_says(failing):
    response = await failing.get("/known")
    assert (response.status_code, response.json()["code"]) == (410, "NO_SUCH_THING")


async def test_an_http_exception_keeps_its_status_and_headers(failing):
    response = await failing.get("/http")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json() == {"code": "HTTP_UNAUTHORIZED", "message": "who are you?", "retryable": False}


async def test_an_http_exception_of_a_status_without_a_body_has_none(failing):
    response = await failing.get("/not-modified")
    assert (response.status_code, response.headers["etag"], response.content) == (304, "1", b"")


async def test_refusals_of_the_router_are_observed_as_well(failing, seen):
    await failing.get("/nowhere")
    await failing.post("/bug")
    assert seen == [("HTTP_NOT_FOUND", "no route"), ("HTTP_METHOD_NOT_ALLOWED", "no route")]


@pytest.mark.parametrize("path", ["/unspeakable", "/file"])
async def test_a_response_that_cannot_begin_is_a_500(failing, path):
    response = await failing.get(path)
    assert (response.status_code, response.json()["code"]) == (500, "HTTP_INTERNAL_ERROR")


async def test_a_response_that_breaks_off_is_left_to_the_server(failing, caplog):
    with pytest.raises(ValueError, match="secret"):
        await failing.get("/half")
    assert "Failing.half failed, incident" in caplog.text


async def test_a_failing_background_task_is_logged(failing, caplog):
    assert (await failing.get("/background")).text == "done"
    assert "Failing.background failed, incident" in caplog.text


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
                    await asyncio.sleep(0)
            finally:
                self.ended.set()

        return StreamingResponse(chunks())


def http_scope(method: str, path: str, version: str = "2.4") -> dict[str, object]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": version},
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [],
    }


async def test_a_client_that_leaves_while_it_sends_is_no_error(caplog, faults, seen):
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async with started(router_of(Slow, faults=faults)) as router:
        await router(http_scope("POST", "/upload"), receive, send)
    assert (sent, seen, caplog.text) == ([], [], "")


@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_a_client_that_leaves_while_it_reads_ends_the_stream(caplog, faults, seen, version):
    left = asyncio.Event()
    gone = iter([False, False, True])

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if next(gone, True):
            left.set()
            if version == "2.4":
                raise OSError

    async with started(router_of(Slow, faults=faults)) as router, asyncio.timeout(5):
        await router(http_scope("GET", "/endless", version), receive, send)
    assert (seen, caplog.text) == ([], "")


async def test_a_client_that_leaves_before_an_error_is_told_is_no_error():
    async def send(message):
        raise OSError

    async with started(router_of(Failing)) as router:
        await router(http_scope("GET", "/file"), None, send)


class Cleanup:
    def __init__(self) -> None:
        self.ended_with: list[BaseException | None] = []


cleanup = Cleanup()


@service(scope="request")
async def watched(ctx: RequestCtx) -> AsyncIterator[Cleanup]:
    try:
        yield cleanup
    except BaseException as error:
        cleanup.ended_with.append(error)
        raise
    raise ValueError("cleanup")


class Watched(Controller):
    @GET("/watched")
    async def read(self, cleanup: Cleanup) -> str:
        return "read"


async def test_services_end_when_sending_is_cancelled():
    async def send(message):
        raise asyncio.CancelledError

    async with started(router_of(Watched), [watched]) as router:
        with pytest.raises(asyncio.CancelledError):
            await router(http_scope("GET", "/watched"), None, send)
    assert [type(error) for error in cleanup.ended_with] == [asyncio.CancelledError]


async def test_a_cleanup_that_fails_is_logged_behind_the_response(caplog):
    async with serving(Watched, services=[watched]) as client:
        assert (await client.get("/watched")).text == "read"
    assert "the cleanup after Watched.read failed, incident" in caplog.text


def test_an_answer_to_nobody_is_not_made():
    with pytest.raises(ClientDisconnect):
        router_of(Slow).answer(ClientDisconnect(), "here")
