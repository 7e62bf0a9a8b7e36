"""Where each parameter of a handler comes from, what a request may get wrong, and what is refused at boot."""

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal, NewType, TypedDict

import msgspec
import pydantic
import pytest
from http_app import serving

from aquilia.controller import DELETE, GET, PATCH, POST, PUT, Body, Controller, RequestCtx
from aquilia.di import service


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class NewMessage(msgspec.Struct):
    text: str
    tags: list[int] = []


@dataclasses.dataclass
class Point:
    x: int


class Range(TypedDict):
    low: int


class Form(pydantic.BaseModel):
    email: str


@service(scope="app")
class Clock:
    now = 12


@service
@dataclasses.dataclass
class Settings:
    clock: Clock


class Plain: ...


UserId = NewType("UserId", int)
Short = Annotated[str, msgspec.Meta(max_length=3)]


class Paths(Controller):
    prefix = "/paths"

    @GET("/text/:value")
    async def read_text(self, value: str) -> object:
        return [value]

    @GET("/int/:value:int")
    async def read_int(self, value: int) -> object:
        return value + 1

    @GET("/limited/:value:int")
    async def read_limited(self, value: Annotated[int, msgspec.Meta(ge=10)]) -> object:
        return value

    @GET("/float/:value:float")
    async def read_float(self, value: float) -> object:
        return value

    @GET("/wider/:value:int")
    async def read_wider(self, value: float) -> object:
        return value

    @GET("/level/:value:int")
    async def read_level(self, value: Level) -> object:
        return [value.name]

    @GET("/uuid/:value:uuid")
    async def read_uuid(self, value: uuid.UUID) -> object:
        return value.int

    @GET("/rest/*value")
    async def read_rest(self, value: str) -> object:
        return [value]

    @GET("/id/:value")
    async def read_id(self, value: UserId) -> object:
        return value + 1

    @GET("/colour/:value")
    async def read_colour(self, value: Colour) -> object:
        return [value.name]

    @GET("/day/:value")
    async def read_day(self, value: datetime.date) -> object:
        return value.year

    @GET("/short/:value")
    async def read_short(self, value: Short) -> object:
        return [value]

    @GET("/body/:body")
    async def body(self, body: str) -> object:
        return [body]

    @GET("/unused/:value")
    async def unused(self, ctx: RequestCtx) -> object:
        return ctx.path_params


@pytest.fixture
async def paths():
    async with serving(Paths) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text/caf%C3%A9", ["café"]),
        ("int/41", 42),
        ("limited/10", 10),
        ("float/1.5", 1.5),
        ("wider/2", 2.0),
        ("level/1", ["LOW"]),
        (f"uuid/{uuid.UUID(int=7)}", 7),
        ("rest/a/b", ["a/b"]),
        ("id/41", 42),
        ("colour/red", ["RED"]),
        ("day/2024-02-29", 2024),
        ("short/abc", ["abc"]),
        ("body/x", ["x"]),
        ("unused/x", {"value": "x"}),
    ],
)
async def test_a_part_of_the_path_has_the_type_of_its_annotation(paths, path, value):
    assert (await paths.get(f"/paths/{path}")).json() == value


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("limited/9", "int (ge=10)"),
        ("level/2", "one of 1"),
        ("id/x", "int"),
        ("colour/green", "one of 'red', 'blue'"),
        ("day/2023-02-29", "date"),
        ("short/abcd", "str (max_length=3)"),
    ],
)
async def test_a_part_of_the_path_that_does_not_fit_is_a_422(paths, path, expected):
    response = await paths.get(f"/paths/{path}")
    assert response.status_code == 422
    assert response.json()["details"] == [{"path": "path.value", "expected": expected, "got": "another text"}]


async def test_what_the_converter_does_not_read_is_no_such_path(paths):
    assert (await paths.get("/paths/int/x")).status_code == 404


class Queries(Controller):
    @GET("/optional")
    async def optional(
        self,
        text: str = "none",
        limit: int = 20,
        day: datetime.date | None = None,
        tags: list[int] = [],  # noqa: B006
    ) -> object:
        return [text, limit, day, tags]

    @GET("/required")
    async def required(
        self,
        flag: bool,
        ratio: float,
        price: decimal.Decimal,
        id: uuid.UUID,
        colours: set[Colour],
        order: Literal["up", "down"],
        size: Annotated[int, msgspec.Meta(le=9)],
        pair: tuple[int, str],
    ) -> object:
        return [flag, ratio, str(price), id.int, len(colours), order, size, pair]

    @POST("/posted")
    async def posted(self, ids: list[int], body: NewMessage) -> object:
        return [ids, body.text]


@pytest.fixture
async def queries():
    async with serving(Queries) as client:
        yield client


async def test_a_parameter_with_a_default_may_be_absent(queries):
    assert (await queries.get("/optional")).json() == ["none", 20, None, []]


async def test_query_parameters_are_converted(queries):
    response = await queries.get("/optional?text=&limit=3&day=2024-02-29&tags=1&tags=2&unknown=x")
    assert response.json() == ["", 3, "2024-02-29", [1, 2]]


REQUIRED = {
    "flag": "true",
    "ratio": "0.5",
    "price": "1.10",
    "id": str(uuid.UUID(int=7)),
    "colours": ["red", "blue"],
    "order": "up",
    "size": "9",
    "pair": ["1", "x"],
}


async def test_every_scalar_is_read(queries):
    response = await queries.get("/required", params=REQUIRED)
    assert response.json() == [True, 0.5, "1.10", 7, 2, "up", 9, [1, "x"]]


async def test_every_wrong_parameter_is_told_at_once(queries):
    response = await queries.get(
        "/required?flag=maybe&ratio=nan&price=x&id=1&colours=red&colours=x&order=sideways&size=10"
    )
    assert response.status_code == 422
    assert response.json() == {
        "code": "HTTP_INVALID_INPUT",
        "message": "8 invalid inputs",
        "details": [
            {"path": "query.flag", "expected": "bool", "got": "another text"},
            {"path": "query.ratio", "expected": "float", "got": "another text"},
            {"path": "query.price", "expected": "Decimal", "got": "another text"},
            {"path": "query.id", "expected": "UUID", "got": "another text"},
            {"path": "query.colours", "expected": "set[one of 'red', 'blue']", "got": "another text"},
            {"path": "query.order", "expected": "one of 'up', 'down'", "got": "another text"},
            {"path": "query.size", "expected": "int (le=9)", "got": "another text"},
            {"path": "query.pair", "expected": "tuple[int, str]", "got": "missing"},
        ],
        "retryable": False,
    }


@pytest.mark.parametrize("number", ["1_0", "1e400", "inf", "٣", "9" * 5000, " 1"])
async def test_odd_numbers_are_refused(queries, number):
    for name in ("limit", "tags"):
        assert (await queries.get("/optional", params={name: number})).status_code == 422


async def test_a_parameter_that_is_no_list_is_given_once(queries):
    response = await queries.get("/optional?limit=1&limit=2")
    assert response.json()["details"] == [{"path": "query.limit", "expected": "int", "got": "2 values"}]


async def test_infinity_is_refused_in_lists_too():
    class Floats(Controller):
        @GET()
        async def floats(self, all: list[float]) -> object:
            return all

    async with serving(Floats) as client:
        assert (await client.get("/?all=1&all=-inf")).status_code == 422
        assert (await client.get("/?all=1&all=2.5")).json() == [1, 2.5]


async def test_mistakes_of_the_query_and_the_body_are_told_together(queries):
    response = await queries.post("/posted?ids=x", json={"tags": [1, "x"]})
    assert response.json()["details"] == [
        {"path": "query.ids", "expected": "list[int]", "got": "another text"},
        {"path": "body.text", "expected": "str", "got": "missing"},
        {"path": "body.tags[1]", "expected": "int", "got": "str"},
    ]


class Bodies(Controller):
    @POST("/struct")
    async def read_struct(self, message: NewMessage) -> object:
        return message

    @PUT("/dataclass")
    async def read_dataclass(self, point: Point) -> object:
        return point

    @PATCH("/typeddict")
    async def read_typeddict(self, range: Range) -> object:
        return range

    @POST("/pydantic")
    async def read_pydantic(self, form: Form) -> object:
        return form

    @POST("/dict")
    async def read_dict(self, data: dict[str, int]) -> object:
        return data

    @POST("/records")
    async def read_records(self, points: list[Point]) -> object:
        return points

    @POST("/anything")
    async def read_anything(self, items: list) -> object:
        return items

    @POST("/named")
    async def named(self, body: list[int]) -> object:
        return body

    @POST("/any")
    async def read_any(self, body: Any) -> object:
        return [body]

    @POST("/marked")
    async def marked(self, ids: Body[list[int]]) -> object:
        return ids

    @POST("/mixed")
    async def mixed(self, value: Body[Point | int]) -> object:
        return [value]

    @POST("/optional")
    async def optional(self, message: NewMessage | None = None) -> object:
        return [message]

    @POST("/marked-optional")
    async def marked_optional(self, ids: Body[list[int]] | None = None) -> object:
        return [ids]


@pytest.fixture
async def bodies():
    async with serving(Bodies) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "value"),
    [
        ("POST", "struct", {"text": "hi", "tags": [1]}),
        ("PUT", "dataclass", {"x": 1}),
        ("PATCH", "typeddict", {"low": 1}),
        ("POST", "pydantic", {"email": "a@b"}),
        ("POST", "dict", {"a": 1}),
        ("POST", "records", [{"x": 1}]),
        ("POST", "anything", [1, "a", None]),
        ("POST", "named", [1]),
        ("POST", "marked", [1]),
    ],
)
async def test_a_body_has_the_type_of_its_annotation(bodies, method, path, value):
    assert (await bodies.request(method, f"/{path}", json=value)).json() == value


@pytest.mark.parametrize(("path", "value"), [("any", {"a": 1}), ("mixed", 5), ("optional", None)])
async def test_a_body_may_be_of_several_types(bodies, path, value):
    assert (await bodies.post(f"/{path}", json=value)).json() == [value]


@pytest.mark.parametrize("path", ["optional", "marked-optional"])
async def test_a_body_with_a_default_may_be_absent(bodies, path):
    assert (await bodies.post(f"/{path}")).json() == [None]


async def test_a_body_without_a_default_is_missed(bodies):
    response = await bodies.post("/struct")
    assert response.status_code == 422
    assert response.json()["details"] == [{"path": "body", "expected": "NewMessage", "got": "missing"}]


@pytest.mark.parametrize("path", ["struct", "pydantic"])
async def test_malformed_json_is_a_400(bodies, path):
    headers = {"content-type": "application/json"}
    for content in (b"{", b'{"text": "\xff"}', b'{"text": 1,}'):
        response = await bodies.post(f"/{path}", content=content, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "HTTP_INVALID_JSON")


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]
)
async def test_json_says_that_it_is_json(bodies, media_type):
    headers = {"content-type": media_type}
    assert (await bodies.post("/named", content=b"[1]", headers=headers)).json() == [1]


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
async def test_what_does_not_say_that_it_is_json_is_a_415(bodies, headers):
    response = await bodies.post("/named", content=b"[1]", headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "HTTP_UNSUPPORTED_MEDIA_TYPE")


async def test_everything_else_is_injected():
    class Injected(Controller):
        @POST("/:id:int")
        async def all(
            self,
            id: int,
            clock: Clock,
            settings: Settings,
            ctx: RequestCtx,
            body: Range,
            absent: Plain | None = None,
            limit: int = 1,
        ) -> object:
            return [id, clock.now, settings.clock is clock, ctx.method, body, absent, limit]

    async with serving(Injected, services=[Clock, Settings]) as client:
        assert (await client.post("/5", json={"low": 1})).json() == [5, 12, True, "POST", {"low": 1}, None, 1]


async def test_a_record_is_injected_where_the_method_has_no_body():
    @service
    def point() -> Point:
        return Point(3)

    class Injected(Controller):
        @GET()
        async def get(self, point: Point) -> object:
            return point

        @DELETE()
        async def delete(self, point: Point) -> object:
            return point

    async with serving(Injected, services=[point]) as client:
        assert (await client.get("/")).json() == {"x": 3}
        assert (await client.delete("/")).json() == {"x": 3}
