"""JSON Schemas in short."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated, Any, Literal, Optional

import msgspec
import pytest
from msgspec import Meta, Struct

from aquilia.cli.shape import shape
from aquilia.sockets.schema import Schema, payload_type


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(Struct):
    text: Annotated[str, Meta(min_length=1, max_length=5)]
    stars: Annotated[int, Meta(ge=1)] = 1


class Tree(Struct):
    name: str
    children: list[Tree] = []


class Pair(Struct):
    left: Line
    right: Line


class Cat(Struct, tag="cat"):
    lives: int


class Dog(Struct, tag="dog"):
    name: str


@pytest.mark.parametrize(
    ("source", "short"),
    [
        (None, "any"),
        (int, "integer"),
        (str, "string"),
        (bool, "boolean"),
        (Any, "any"),
        (Optional[int], "integer | null"),  # noqa: UP045
        (list[str], "[string]"),
        (list, "[]"),
        (tuple[int, str], "[integer, string]"),
        (dict[str, int], "{…: integer}"),
        (dict, "object"),
        (Literal["a", 1, None], 'null | 1 | "a"'),
        (Literal["a"], '"a"'),
        (Colour, '"blue" | "red"'),
        (Annotated[datetime, Meta(tz=True)], "string date-time"),
        (bytes, "string base64"),
        (Annotated[str, Meta(pattern="^a")], "string /^a/"),
        (Annotated[float, Meta(gt=0, lt=1)], "number > 0 < 1"),
        (Annotated[int, Meta(multiple_of=5, le=10)], "integer ..10 multiple of 5"),
        (Annotated[list[int], Meta(min_length=1, max_length=9)], "[integer] 1..9"),
        (Line, "{text: string 1..5, stars?: integer 1..}"),
        (Tree, "{name: string, children?: [Tree]}"),
        (
            Pair,
            "{left: {text: string 1..5, stars?: integer 1..}, right: {text: string 1..5, stars?: integer 1..}}",
        ),
        (Cat | Dog, '{type: "cat", lives: integer} | {type: "dog", name: string}'),
        (Schema({"to": [str], "on?": {"day": int}}), "{on?: {day: integer}, to: [string]}"),
    ],
)
def test_a_payload_is_told_in_one_line(source: Any, short: str) -> None:
    assert shape(payload_type(source).json_schema()) == short


@pytest.mark.parametrize(
    ("schema", "short"),
    [
        ({"type": ["string", "null"], "maxLength": 3}, "string ..3 | null ..3"),
        ({"type": "array", "items": True}, "[any]"),
        ({"type": "object", "properties": {"never": False}}, "{never?: nothing}"),
        ({"$ref": "#/$defs/Gone"}, "Gone"),
        ({"const": 3}, "3"),
        ({"oneOf": [{"type": "string"}, {"type": "string"}]}, "string"),
    ],
)
def test_schemas_that_pydantic_or_a_hand_may_write_are_told_too(schema: dict[str, Any], short: str) -> None:
    assert shape(schema) == short


def test_names_and_values_are_as_in_json() -> None:
    source = msgspec.defstruct("Odd", [("a", Literal["ü"])], rename={"a": "ä"})

    assert shape(payload_type(source).json_schema()) == '{ä: "ü"}'
