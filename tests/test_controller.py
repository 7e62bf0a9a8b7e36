"""Controllers declare routes; handlers get the request through their context."""

import uuid

import httpx
import pytest
from http_app import serving
from starlette.requests import HTTPConnection

from aquilia.controller import (
    DELETE,
    GET,
    HEAD,
    MAX_BODY_SIZE,
    OPTIONS,
    PATCH,
    POST,
    PUT,
    Controller,
    RequestCtx,
    RouteDeclaration,
    routes_of,
)


class Rooms(Controller):
    prefix = "/rooms/"

    @GET()
    async def index(self) -> None: ...

    @POST("/:room", status=201, max_body_size=10)
    @PUT("/:room")
    async def write(self, room: str) -> None: ...

    async def helper(self) -> None: ...


def declared(controller):
    return [(route.attribute, route.declaration.method, route.pattern) for route in routes_of(controller)]


def test_routes_are_listed_in_the_order_of_definition():
    assert declared(Rooms) == [
        ("index", "GET", "/rooms/"),
        ("write", "POST", "/rooms/:room"),
        ("write", "PUT", "/rooms/:room"),
    ]


def test_a_declaration_is_data():
    _, post, _ = routes_of(Rooms)
    assert post.declaration == RouteDeclaration("POST", "/:room", status=201, max_body_size=10)
    assert routes_of(Rooms)[0].declaration == RouteDeclaration("GET", "/", 200, MAX_BODY_SIZE)


def test_a_route_says_its_name_and_its_place():
    route = routes_of(Rooms)[0]
    assert route.name == "Rooms.index"
    assert route.where == f"{__file__}:{Rooms.index.__code__.co_firstlineno}"


@pytest.mark.parametrize("decorator", [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS])
def test_a_decorator_leaves_the_function_as_it_is(decorator):
    async def handler(self) -> None: ...

    assert decorator("/x")(handler) is handler


def test_each_method_has_its_decorator():
    class Every(Controller):
        @GET()
        @HEAD()
        @POST()
        @PUT()
        @PATCH()
        @DELETE()
        @OPTIONS()
        async def any(self) -> None: ...

    assert [method for _, method, _ in declared(Every)] == [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
    ]


def test_a_decorator_without_its_parentheses_is_refused():
    with pytest.raises(TypeError, match=r"write @GET\(\) or @GET\('/path'\)"):

        class _(Controller):
            @GET
            async def index(self) -> None: ...


def test_an_override_keeps_the_routes_unless_it_has_its_own():
    class Kept(Rooms):
        prefix = "/kept"

        async def index(self) -> None: ...

    class Moved(Rooms):
        @GET("/moved")
        async def index(self) -> None: ...

    assert ("index", "GET", "/kept/") in declared(Kept)
    assert routes_of(Kept)[0].function is Kept.index
    assert declared(Moved)[0] == ("index", "GET", "/rooms/moved")


def test_a_route_can_be_taken_out_of_a_subclass():
    class Less(Rooms):
        index = None

    assert [attribute for attribute, *_ in declared(Less)] == ["write", "write"]


def test_a_plain_controller_has_no_prefix_and_no_routes():
    assert Controller.prefix == ""
    assert routes_of(Controller) == []


async def test_the_hooks_of_a_controller_do_nothing_by_themselves():
    await Controller().on_startup()
    await Controller().on_shutdown()


class Mirror(Controller):
    @GET("/mirror/:id:uuid")
    async def show(self, ctx: RequestCtx) -> dict:
        return {
            "kind": ctx.kind,
            "method": ctx.method,
            "path": ctx.path,
            "params": ctx.path_params,
            "query": ctx.query_params.multi_items(),
            "header": ctx.headers["X-Test"],
            "cookies": ctx.cookies,
            "client": ctx.client,
            "state": ctx.state,
            "identity": ctx.identity,
            "session": ctx.session,
        }

    @POST("/json")
    async def json(self, ctx: RequestCtx) -> object:
        return [await ctx.json()]

    @POST("/body")
    async def body(self, ctx: RequestCtx) -> bytes:
        return await ctx.body() + await ctx.body()

    @POST("/stream")
    async def stream(self, ctx: RequestCtx) -> list:
        return [chunk.decode() async for chunk in ctx.stream()]

    @POST("/form")
    async def form(self, ctx: RequestCtx) -> dict:
        form = await ctx.form()
        return {key: value if isinstance(value, str) else await value.read() for key, value in form.items()}

    @POST("/small", max_body_size=4)
    async def small(self, ctx: RequestCtx) -> bytes:
        return await ctx.body()


@pytest.fixture
async def client():
    async with serving(Mirror) as client:
        yield client


async def test_the_context_shows_the_request(client):
    id = str(uuid.uuid4())
    response = await client.get(
        f"/mirror//{id}/?a=1&a=2&b=%C3%A9", headers={"x-test": "yes", "cookie": "theme=dark"}
    )
    assert response.json() == {
        "kind": "http",
        "method": "GET",
        "path": f"/mirror/{id}",
        "params": {"id": id},
        "query": [["a", "1"], ["a", "2"], ["b", "é"]],
        "header": "yes",
        "cookies": {"theme": "dark"},
        "client": ["127.0.0.1", 123],
        "state": {},
        "identity": None,
        "session": None,
    }


async def test_the_context_reads_json_of_any_shape(client):
    assert (await client.post("/json", content=b'{"a": [1]}')).json() == [{"a": [1]}]


async def test_malformed_json_is_a_400(client):
    response = await client.post("/json", content=b"{")
    assert (response.status_code, response.json()["code"]) == (400, "HTTP_INVALID_JSON")


async def test_the_body_can_be_read_again(client):
    assert (await client.post("/body", content=b"ab")).content == b"abab"


async def test_the_body_can_be_read_as_it_arrives(client):
    async def chunks():
        yield b"a"
        yield b"b"

    assert (await client.post("/stream", content=chunks())).json() == ["a", "b"]


async def test_a_form_gives_its_fields(client):
    assert (await client.post("/form", data={"name": "Ann"})).json() == {"name": "Ann"}


async def test_a_form_gives_its_files(client):
    response = await client.post("/form", files={"file": ("a.txt", b"text")})
    assert response.json() == {"file": "dGV4dA=="}


async def test_what_is_no_form_is_a_415(client):
    response = await client.post("/form", json={})
    assert (response.status_code, response.json()["code"]) == (415, "HTTP_UNSUPPORTED_MEDIA_TYPE")


async def test_a_malformed_form_is_a_400(client):
    headers = {"content-type": "multipart/form-data"}
    response = await client.post("/form", content=b"x", headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "HTTP_INVALID_FORM")


@pytest.mark.parametrize("chunks", [1, 5])
async def test_a_body_above_its_bound_is_a_413(client, chunks):
    async def body():
        for _ in range(chunks):
            yield b"x" * (5 // chunks)

    for content in (body(), b"x" * 5):
        response = await client.post("/small", content=content)
        assert (response.status_code, response.json()["code"]) == (413, "HTTP_PAYLOAD_TOO_LARGE")
    assert (await client.post("/small", content=b"xxxx")).content == b"xxxx"


async def test_a_body_has_a_bound_of_a_mebibyte_by_itself(client: httpx.AsyncClient):
    assert (await client.post("/body", content=b"x" * MAX_BODY_SIZE)).status_code == 200
    assert (await client.post("/body", content=b"x" * (MAX_BODY_SIZE + 1))).status_code == 413


def handshake() -> RequestCtx:
    scope = {"type": "websocket", "path": "/chat/acme", "query_string": b"", "headers": []}
    return RequestCtx(HTTPConnection(scope), path_params={"namespace": "acme"})


def test_a_handshake_has_a_context_too():
    ctx = handshake()
    assert (ctx.kind, ctx.method, ctx.path) == ("websocket", "GET", "/chat/acme")
    assert ctx.path_params == {"namespace": "acme"}
    assert ctx.client is None


async def test_a_handshake_has_no_body():
    with pytest.raises(RuntimeError, match="a WebSocket handshake has no body"):
        await handshake().body()
