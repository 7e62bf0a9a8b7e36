"""JSON becomes typed values, or a list of every mistake in it."""

import dataclasses
import enum
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from aquilia.faults import Fault
from aquilia.validation import InvalidValue, JsonReader, describe, is_pydantic, is_record, mistakes

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Author(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=2)]
    id: uuid.UUID | None = None


class Post(msgspec.Struct, rename="camel"):
    first_author: Author
    tags: list[int] = []
    colours: dict[str, Colour] = {}


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    a: int = 0


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str]


class Even(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("the number must be even")


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Range(TypedDict):
    low: int
    high: NotRequired[int]


class Options(TypedDict, total=False):
    name: Required[str]
    size: int


class Pair(NamedTuple):
    left: int
    right: str


class Row(msgspec.Struct, array_like=True):
    a: int


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Tree(msgspec.Struct):
    child: "Tree | None" = None
    value: int = 0


class Form(pydantic.BaseModel):
    email: str
    ages: list[int] = []


UserId = NewType("UserId", int)


def mistakes_of(expected: Any, data: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidValue) as caught:
        JsonReader(expected).read(msgspec.json.encode(data))
    return [(each["path"], each["expected"], each["got"]) for each in caught.value.mistakes]


@pytest.mark.parametrize(
    ("expected", "json", "value"),
    [
        (int, b"1", 1),
        (Point, b'{"x":1}', Point(1)),
        (Range, b'{"low":1}', {"low": 1}),
        (list[Author], b'[{"name":"Al"}]', [Author("Al")]),
        (Cat | Dog, b'{"type":"Cat","lives":9}', Cat(9)),
        (Form, b'{"email":"e"}', Form(email="e")),
        (list[Form], b'[{"email":"e"}]', [Form(email="e")]),
        (dict[int, str], b'{"1":"a"}', {1: "a"}),
        (Any, b'{"a":null}', {"a": None}),
    ],
)
def test_json_is_read_as_the_type(expected, json, value):
    assert JsonReader(expected).read(json) == value


@pytest.mark.parametrize(
    ("expected", "data", "found"),
    [
        (int, "1", [("body", "int", "str")]),
        (Annotated[int, msgspec.Meta(ge=1, le=9)], 0, [("body", "int (ge=1, le=9)", "another int")]),
        (Colour, "green", [("body", "one of 'red', 'blue'", "another str")]),
        (Literal["a", 1], 2, [("body", "one of 'a', 1", "another int")]),
        (uuid.UUID, "x", [("body", "UUID", "another str")]),
        (datetime | None, "x", [("body", "datetime or null", "another str")]),
        (UserId, None, [("body", "int", "null")]),
        (int | msgspec.UnsetType, "a", [("body", "int", "str")]),
        (
            Post,
            {"firstAuthor": {"name": "A", "id": 3}, "tags": [1, "x", 2.5], "colours": {"sky": "green"}},
            [
                ("body.firstAuthor.name", "str (min_length=2)", "another str"),
                ("body.firstAuthor.id", "UUID or null", "another int"),
                ("body.tags[1]", "int", "str"),
                ("body.tags[2]", "int", "float"),
                ("body.colours.sky", "one of 'red', 'blue'", "another str"),
            ],
        ),
        (Post, {}, [("body.firstAuthor", "Author", "missing")]),
        (Post, [], [("body", "Post", "list")]),
        (Closed, {"a": "x", "b": 1}, [("body.a", "int", "str"), ("body.b", "no such field", "int")]),
        (Closed, {"b": 1}, [("body.b", "no such field", "int")]),
        (Cat | Dog, {"type": "Dog", "tricks": [1]}, [("body.tricks[0]", "str", "int")]),
        (Cat | Dog, {"type": "Cow"}, [("body", "Cat or Dog", "map")]),
        (
            Cat,
            {"type": "Dog", "lives": "x"},
            [("body.lives", "int", "str"), ("body.type", "one of 'Cat'", "another str")],
        ),
        (Point, {"y": "x"}, [("body.x", "int", "missing"), ("body.y", "int", "str")]),
        (Range, {"high": "x"}, [("body.low", "int", "missing"), ("body.high", "int", "str")]),
        (Options, {"size": None}, [("body.name", "str", "missing"), ("body.size", "int", "null")]),
        (tuple[int, str], ["a", 1], [("body[0]", "int", "str"), ("body[1]", "str", "int")]),
        (tuple[int, ...], [1, "a"], [("body[1]", "int", "str")]),
        (set[int], [1, "a"], [("body[1]", "int", "str")]),
        (Mapping[str, int], {"a": "x"}, [("body.a", "int", "str")]),
        (Page[int], {"items": ["x"]}, [("body.items[0]", "int", "str")]),
        (Pair, ["a", 1], [("body", "Pair", "list")]),
        (Row, ["a"], [("body", "Row", "list")]),
        (list, 1, [("body", "list", "int")]),
        (Even, {"number": 3}, [("body", "the number must be even", "another map")]),
        (
            Annotated[list[int], msgspec.Meta(min_length=3)],
            [1],
            [("body", "Expected `array` of length >= 3", "another list")],
        ),
        (
            Form,
            {"ages": ["x", 2]},
            [
                ("body.email", "Field required", "missing"),
                (
                    "body.ages[0]",
                    "Input should be a valid integer, unable to parse string as an integer",
                    "str",
                ),
            ],
        ),
    ],
)
def test_every_mistake_is_found(expected, data, found):
    assert mistakes_of(expected, data) == found


def test_no_value_is_quoted():
    assert "hunter2" not in str(mistakes_of(Post, {"firstAuthor": "hunter2", "tags": ["hunter2"]}))


def test_the_whole_value_has_the_name_that_the_reader_was_given():
    with pytest.raises(InvalidValue) as caught:
        JsonReader(Point, "settings").read(b"{}")
    assert caught.value.mistakes == [{"path": "settings.x", "expected": "int", "got": "missing"}]


@pytest.mark.parametrize("expected", [Post, Form])
@pytest.mark.parametrize("data", [b"{", b"", b'"\xff"', b"[" * 60_000, b"{}{}"])
def test_what_is_no_json_is_refused_as_such(expected, data):
    with pytest.raises(Fault) as caught:
        JsonReader(expected).read(data)
    assert (caught.value.code, caught.value.status) == ("HTTP_INVALID_JSON", 400)


def test_the_search_ends_after_a_number_of_mistakes():
    assert len(mistakes_of(list[int], ["x"] * 1000)) == 32


def test_a_large_value_is_not_searched():
    ((path, expected, got),) = mistakes_of(list[int], ["x"] * 30_000)
    assert (path, expected, got) == ("body", "Expected `int`, got `str` - at `$[0]`", "another value")


def test_the_search_ends_at_a_depth():
    data: Any = {"value": "x"}
    for _ in range(30):
        data = {"child": data}
    ((path, expected, got),) = mistakes_of(Tree, data)
    assert path == "body" + ".child" * 16
    assert (expected, got) == ("Tree or null", "map")


def test_what_fits_has_no_mistakes():
    assert list(mistakes(Post, {"firstAuthor": {"name": "Al"}}, "body")) == []


class Custom: ...


class Holder(msgspec.Struct):
    custom: list[Custom]


@pytest.mark.parametrize("expected", [Custom, Holder, dict[str, Custom]])
def test_a_type_that_is_no_data_is_refused(expected):
    with pytest.raises(TypeError, match="Custom cannot be read from JSON"):
        JsonReader(expected)


def test_a_pydantic_model_within_a_struct_is_refused():
    with pytest.raises(TypeError, match="Form cannot be read from JSON"):
        JsonReader(msgspec.defstruct("Outer", [("form", Form)]))


@pytest.mark.parametrize("record", [Post, Point, Range, Pair, Form, Page[int], Annotated[Post, "noted"]])
def test_types_with_named_fields_are_records(record):
    assert is_record(record)


@pytest.mark.parametrize("other", [int, list[Post], dict, Custom, Colour, None, Post | None])
def test_other_types_are_none(other):
    assert not is_record(other)


def test_pydantic_models_are_found_within_other_types():
    assert is_pydantic(list[Form] | None)
    assert not is_pydantic(list[Post] | None)


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (None, "null"),
        (Any, "Any"),
        (list[int], "list[int]"),
        (tuple[int, ...], "tuple[int]"),
        (dict[str, int | None], "dict[str, int or null]"),
        (Annotated[str, "noted"], "str"),
        (TypeAliasType("Number", int | float), "int or float"),
    ],
)
def test_types_are_told_in_words(expected, words):
    assert describe(expected) == words
