"""The chain before handlers and handshakes: its order, its refusals, its errors, and what may stand in it."""

import asyncio
import functools

import pytest
from http_app import client_of, router_of, serving, started
from starlette.middleware import Middleware as AsgiMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from aquilia.aquilary import Problem
from aquilia.controller import GET, Controller, RequestCtx
from aquilia.faults import Fault
from aquilia.middleware import compose, split, wrap


class Rooms(Controller):
    @GET("/rooms/:room")
    async def show(self, ctx: RequestCtx, room: str) -> object:
        return [*ctx.state.get("seen", []), room]

    @GET("/bug")
    async def bug(self) -> object:
        raise ValueError("secret")


class Tag:
    """Notes the way in, in the context, and the way out, in a header."""

    def __init__(self, name: str = "class") -> None:
        self.name = name

    async def __call__(self, ctx, call_next):
        ctx.state.setdefault("seen", []).append(self.name)
        response = await call_next(ctx)
        response.headers.append("x-way-out", f"{self.name} {response.status_code}")
        return response


async def refuse(ctx, call_next):
    return PlainTextResponse(f"no {ctx.path_params}", 403)


async def fail(ctx, call_next):
    await call_next(ctx)
    raise ValueError("secret")


async def raise_fault(ctx, call_next):
    raise Fault("WHO", "who are you?", status=401)


async def forget(ctx, call_next):
    await call_next(ctx)


async def test_the_first_middleware_is_the_outermost():
    async with serving(Rooms, middleware=[Tag("a"), Tag("b"), Tag]) as client:
        response = await client.get("/rooms/x")
    assert response.json() == ["a", "b", "class", "x"]
    assert response.headers.get_list("x-way-out") == ["class 200", "b 200", "a 200"]


async def test_a_function_can_be_a_middleware_and_know_the_path():
    async with serving(Rooms, middleware=[Tag("a"), refuse, Tag("b")]) as client:
        response = await client.get("/rooms/x")
    assert (response.status_code, response.text) == (403, "no {'room': 'x'}")
    assert response.headers.get_list("x-way-out") == ["a 403"]


@pytest.mark.parametrize(
    ("inner", "status", "code"),
    [(raise_fault, 401, "WHO"), (fail, 500, "HTTP_INTERNAL_ERROR"), (forget, 500, "HTTP_INTERNAL_ERROR")],
)
async def test_an_error_in_a_middleware_is_a_response_to_those_before_it(inner, status, code):
    async with serving(Rooms, middleware=[Tag("a"), inner]) as client:
        response = await client.get("/rooms/x")
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers.get_list("x-way-out") == [f"a {status}"]


async def test_an_error_in_the_outermost_middleware_is_a_response_too(caplog):
    async with serving(Rooms, middleware=[fail]) as client:
        response = await client.get("/rooms/x")
    assert (response.status_code, response.json()["code"]) == (500, "HTTP_INTERNAL_ERROR")
    assert "middleware fail failed, incident" in caplog.text


async def test_a_middleware_that_returns_no_response_is_named(caplog):
    async with serving(Rooms, middleware=[forget]) as client:
        await client.get("/rooms/x")
    assert "middleware forget returned None: it must return a Response" in caplog.text


async def test_an_error_of_the_handler_is_a_response_to_the_chain():
    async with serving(Rooms, middleware=[Tag("a")]) as client:
        assert (await client.get("/bug")).headers.get_list("x-way-out") == ["a 500"]


async def test_the_chain_sees_wrong_methods_of_its_paths_and_no_foreign_paths():
    async with serving(Rooms, middleware=[Tag("a")]) as client:
        assert (await client.post("/bug")).headers.get_list("x-way-out") == ["a 405"]
        assert "x-way-out" not in (await client.get("/nowhere")).headers


async def test_each_request_has_its_own_state():
    async with serving(Rooms, middleware=[Tag("a")]) as client, asyncio.timeout(5):
        answers = await asyncio.gather(*(client.get(f"/rooms/{number}") for number in range(20)))
    assert [answer.json() for answer in answers] == [["a", str(number)] for number in range(20)]


def handshake() -> RequestCtx:
    scope = {"type": "websocket", "path": "/chat", "query_string": b"", "headers": []}
    return RequestCtx(HTTPConnection(scope))


async def admit(ctx):
    return Response(status_code=101)


async def test_a_handshake_goes_through_the_same_chain():
    async def only_websockets(ctx, call_next):
        response = await call_next(ctx)
        response.headers["x-kind"] = ctx.kind
        return response

    response = await compose([Tag("a"), only_websockets], admit)(handshake())
    assert (response.status_code, response.headers["x-kind"]) == (101, "websocket")
    assert response.headers["x-way-out"] == "a 101"


async def test_a_handshake_can_be_refused():
    response = await compose([Tag("a"), refuse], admit)(handshake())
    assert response.status_code == 403


async def test_without_an_answer_errors_pass_through_the_chain():
    with pytest.raises(Fault) as caught:
        await compose([Tag("a"), raise_fault], admit)(handshake())
    assert caught.value.code == "WHO"


async def test_an_empty_chain_is_the_endpoint_itself():
    assert compose([], admit) is admit


class Needy:
    def __init__(self, secret: str, *args: str, level: int, mode: str = "") -> None: ...

    async def __call__(self, ctx, call_next): ...


class Sync:
    def __call__(self, ctx, call_next): ...


class Failing:
    def __init__(self) -> None:
        raise ValueError("no secret")

    async def __call__(self, ctx, call_next): ...


class Any:
    def __init__(self, *args: object, **kwargs: object) -> None: ...

    async def __call__(self, ctx, call_next): ...


def sync(ctx, call_next): ...


async def one_argument(ctx): ...


def test_entries_are_sorted_by_their_kind():
    entry = AsgiMiddleware(GZipMiddleware, minimum_size=10)
    tag = Tag()
    partial = functools.partial(refuse)
    found = split([refuse, entry, tag, Tag, Any, partial])
    assert found.asgi == [entry]
    assert found.chain[:2] == [refuse, tag]
    assert [type(each) for each in found.chain[2:]] == [Tag, Any, functools.partial]
    assert found.problems == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "cors",
            "'cors' is no middleware: expected an async function (ctx, call_next), an instance or class with an "
            "async __call__, or starlette.middleware.Middleware(…)",
        ),
        (str, "str is no middleware: expected"),
        (object(), "object is no middleware: expected"),
        (sync, "sync is not async: a middleware is `async def (ctx, call_next)`"),
        (Sync(), "Sync is not async"),
        (Sync, "Sync is not async"),
        (one_argument, "one_argument(ctx) must take two arguments, (ctx, call_next)"),
        (Needy, "class Needy needs secret, level: pass an instance, Needy(…)"),
        (Failing, "class Failing cannot be made: no secret"),
        (
            CORSMiddleware,
            "CORSMiddleware is ASGI middleware: write starlette.middleware.Middleware(CORSMiddleware, …)",
        ),
    ],
)
def test_what_is_no_middleware_is_refused_by_name(entry, message):
    found = split([refuse, entry], "manifest 'chat': middleware")
    assert found.chain == [refuse]
    (problem,) = found.problems
    assert isinstance(problem, Problem)
    assert problem.where == "manifest 'chat': middleware[1]"
    assert problem.message.startswith(message)


async def test_asgi_middleware_wraps_the_whole_application():
    entries = [
        AsgiMiddleware(CORSMiddleware, allow_origins=["https://a.example"]),
        AsgiMiddleware(GZipMiddleware, minimum_size=1),
    ]
    router = router_of(Rooms)
    async with started(router), client_of(wrap(router, split(entries).asgi)) as client:
        found = await client.get("/rooms/x", headers={"origin": "https://a.example"})
        missing = await client.get("/nowhere", headers={"origin": "https://a.example"})
    for response in (found, missing):
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert response.headers["content-encoding"] == "gzip"


async def test_the_first_asgi_middleware_is_the_outermost():
    order = []

    def noting(app, name):
        async def noted(scope, receive, send):
            order.append(name)
            await app(scope, receive, send)

        return noted

    async def app(scope, receive, send):
        order.append("app")

    wrapped = wrap(app, [AsgiMiddleware(noting, "a"), AsgiMiddleware(noting, name="b")])
    await wrapped({"type": "http"}, None, None)
    assert order == ["a", "b", "app"]
