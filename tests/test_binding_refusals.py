"""Signatures of handlers that cannot be served, refused at boot with their place."""

import datetime
import enum
import uuid
from typing import TypedDict

import msgspec
import pytest
from http_app import router_of

from aquilia.controller import GET, POST, Body, Controller, RequestCtx


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class NewMessage(msgspec.Struct):
    text: str


class Point(msgspec.Struct):
    x: int


class Range(TypedDict):
    low: int


class Plain: ...


class Refused(Controller):
    @GET("/1")
    def sync(self) -> None: ...

    @GET("/2")
    async def yields(self):
        yield b""

    @GET("/3")
    @staticmethod
    async def static() -> None: ...

    @GET("/4")
    @classmethod
    async def of_class(cls) -> None: ...

    @GET("/5")
    async def selfless() -> None: ...

    @GET("/6")
    async def unannotated(self, a, *args: int, **kwargs: int) -> None: ...

    @GET("/7")
    async def positional(self, a: int, /) -> None: ...

    @GET("/8/:id:int/:room/:ctx")
    async def path(self, id: str, room: NewMessage, ctx: RequestCtx) -> None: ...

    @GET("/9")
    async def body_of_get(self, body: NewMessage, a: Body[int], b: dict, c: Range) -> None: ...

    @POST("/10")
    async def bodies(self, a: NewMessage, b: Point) -> None: ...

    @POST("/11")
    async def mixed(self, a: int | NewMessage, b: int | list[int]) -> None: ...

    @POST("/12")
    async def unreadable(self, body: dict[str, Plain]) -> None: ...

    @GET("/13/:c")
    async def undecidable(self, a: uuid.UUID | datetime.date, c: uuid.UUID | datetime.date) -> None: ...

    @GET("/14/:id:uuid")
    async def converted(self, id: Colour) -> None: ...


@pytest.mark.parametrize(
    ("handler", "messages"),
    [
        ("sync", ["is not async: write `async def`, and run what blocks in `asyncio.to_thread`"]),
        ("yields", ["yields: return a starlette.responses.StreamingResponse instead"]),
        ("static", ["is a staticmethod: a handler is a plain `async def` method"]),
        ("of_class", ["is a classmethod: a handler is a plain `async def` method"]),
        ("selfless", ["takes no self: a handler is a plain `async def` method"]),
        ("unannotated", ["has no annotation for parameter 'a'", "takes *args", "takes **kwargs"]),
        ("positional", ["takes 'a' by position only"]),
        (
            "path",
            [
                "parameter 'id' is str, but ':id:int' in the path gives int",
                "parameter 'room' is a part of the path: it is a scalar, not NewMessage",
                "parameter 'ctx' is a part of the path: it is a scalar, not RequestCtx",
            ],
        ),
        (
            "body_of_get",
            [
                f"parameter '{name}' is a JSON body, but GET has none; POST, PUT and PATCH have"
                for name in ("body", *"abc")
            ],
        ),
        ("bodies", ["parameter 'b' is a second JSON body, beside 'a': there is one"]),
        (
            "mixed",
            [
                "parameter 'a' is int or NewMessage: a union is all scalars, or annotated Body[…]",
                "parameter 'b' is int or list[int]: a union is all scalars, or annotated Body[…]",
            ],
        ),
        ("unreadable", ["parameter 'body' cannot be a JSON body: Plain cannot be read from JSON"]),
        (
            "undecidable",
            ["parameter 'a' cannot be read from text: ", "parameter 'c' cannot be read from text: "],
        ),
        ("converted", ["parameter 'id' is one of 'red', 'blue', but ':id:uuid' in the path gives UUID"]),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_with_its_place(handler, messages):
    function = Refused.__dict__[handler]
    code = getattr(function, "__func__", function).__code__
    where = f"{__file__}:{code.co_firstlineno}"
    problems = [
        problem
        for problem in router_of(Refused).problems
        if problem.where == where and f"Refused.{handler}" in problem.message
    ]
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem.message


def test_nothing_that_is_refused_is_served():
    assert router_of(Refused).routes == []
