"""Every wrong field of a payload is told, in words, without quoting values and with bounded work."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from time import perf_counter
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta

from aquilia.sockets.explanation import MAX_DETAILS, MAX_VISITS
from aquilia.sockets.schema import payload_type


class Circle(msgspec.Struct, tag="circle"):
    radius: float


class Group(msgspec.Struct, tag="group"):
    shapes: list[Circle | Group]


class Numbered(msgspec.Struct, tag_field="n", tag=1):
    a: int


class Renumbered(msgspec.Struct, tag_field="n", tag=2):
    a: str


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class Tree(msgspec.Struct):
    value: int
    child: Tree | None = None


class Pair(msgspec.Struct, array_like=True):
    left: int
    right: Pair | None = None


class TaggedPair(msgspec.Struct, array_like=True, tag=True):
    left: int


class Exact(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    left: int


class Place(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Range:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be above high")


class Named(msgspec.Struct, rename="camel"):
    full_name: str


class Colour(enum.Enum):
    RED = "red"


def told(type_: Any, value: Any, *, text: bool = False) -> list[tuple[str, str, str]]:
    details = payload_type(type_).explain(value, text=text)
    return [(detail["path"], detail["expected"], detail["got"]) for detail in details]


@pytest.mark.parametrize(
    ("type_", "value", "expected", "got"),
    [
        (int, "5", "int", "str"),
        (int, True, "int", "bool"),
        (int, 1.0, "int", "float"),
        (bool, 1, "bool", "int"),
        (float, None, "float", "null"),
        (str, [], "str", "list"),
        (str, {}, "str", "map"),
        (bytes, 1, "bytes", "int"),
        (bytearray, 1, "bytes", "int"),
        (None | Literal["a"], 1, "null or 'a'", "int"),
        (type(None), 1, "null", "int"),
        (datetime, "noon", "datetime (RFC 3339)", "another str"),
        (date, 1, "date (RFC 3339)", "int"),
        (time, "x", "time (RFC 3339)", "another str"),
        (timedelta, "x", "duration (ISO 8601)", "another str"),
        (UUID, "x", "UUID", "another str"),
        (Decimal, "x", "decimal", "another str"),
        (Colour, "blue", "'red'", "another str"),
        (Literal["a", "b", 1], "c", "one of 1, 'a', 'b'", "another str"),
        (Annotated[int, Meta(ge=1, le=9)], 10, "int from 1 to 9", "int above 9"),
        (Annotated[int, Meta(ge=1)], 0, "int of at least 1", "int below 1"),
        (Annotated[int, Meta(gt=1, lt=9)], 1, "int above 1 and below 9", "int not above 1"),
        (Annotated[float, Meta(lt=9)], 9, "float below 9", "int not below 9"),
        (Annotated[int, Meta(le=9)], 10, "int of at most 9", "int above 9"),
        (Annotated[int, Meta(multiple_of=5)], 7, "int a multiple of 5", "another int"),
        (Annotated[str, Meta(min_length=1)], "", "str of length at least 1", "str of length 0"),
        (Annotated[str, Meta(max_length=1)], "ab", "str of length at most 1", "str of length 2"),
        (Annotated[str, Meta(min_length=2, max_length=2)], "a", "str of length 2", "str of length 1"),
        (Annotated[str, Meta(pattern="^a")], "b", "str matching '^a'", "another str"),
        (Annotated[bytes, Meta(max_length=1)], b"ab", "bytes of length at most 1", "bytes of length 2"),
        (
            Annotated[datetime, Meta(tz=True)],
            "2030-01-01T00:00:00",
            "datetime (RFC 3339) with a time zone",
            "another str",
        ),
        (
            Annotated[datetime, Meta(tz=False)],
            "2030-01-01T00:00:00Z",
            "datetime (RFC 3339) without a time zone",
            "another str",
        ),
        (
            Annotated[list[int], Meta(min_length=1, max_length=2)],
            [],
            "list of length 1 to 2",
            "list of length 0",
        ),
        (list[int], {}, "list", "map"),
        (set[int], "a", "list", "str"),
        (tuple[int, str], [1], "list of length 2", "list of length 1"),
        (tuple[int, str], 1, "list of length 2", "int"),
        (Place, [], "list of length 1 to 2", "list of length 0"),
        (Exact, [1, 2], "list of length 1", "list of length 2"),
        (TaggedPair, ["TaggedPair", "x"], "list", "another list"),
        (Annotated[dict[str, int], Meta(min_length=1)], {}, "map of size at least 1", "map of size 0"),
        (dict[str, int], [], "map", "list"),
        (Tree, [], "map", "list"),
        (str | int | None, [], "str or int or null", "list"),
    ],
)
def test_a_wrong_value_is_told_in_words(type_, value, expected, got):
    assert told(type_, value) == [("$", expected, got)]


def test_no_value_is_quoted():
    secret = "hunter2-and-more"
    types = [
        int,
        Literal["a"],
        Annotated[str, Meta(max_length=2)],
        Annotated[str, Meta(pattern="^a")],
        UUID,
        Tree,
    ]
    for type_ in types:
        assert secret not in str(told(type_, secret))
    assert "4711" not in str(told(Annotated[int, Meta(le=10)], 4711))


def test_structs_tell_missing_and_renamed_fields():
    assert told(Named, {"full_name": "a"}) == [("$.fullName", "str", "missing")]


def test_a_closed_struct_tells_every_unknown_key():
    assert told(Closed, {"text": 1, "txt": "a", "user name": "b"}) == [
        ("$.text", "str", "int"),
        ("$.txt", "no such key", "str"),
        ("$['user name']", "no such key", "str"),
    ]


def test_long_keys_are_cut_in_paths():
    assert told(dict[str, int], {"k" * 1000: "x"}) == [(f"$.{'k' * 40}", "int", "str")]


def test_a_recursive_type_is_walked_as_deep_as_the_value_goes():
    assert told(Tree, {"value": "a", "child": {"value": 1, "child": {"child": 3}}}) == [
        ("$.value", "int", "str"),
        ("$.child.child.value", "int", "missing"),
        ("$.child.child.child", "map or null", "int"),
    ]
    assert told(Pair, ["a", [1, ["b"]]]) == [("$[0]", "int", "str"), ("$[1][1][0]", "int", "str")]


def test_tagged_structs_are_told_by_their_tag():
    assert told(Circle | Group, {}) == [("$.type", "one of 'circle', 'group'", "missing")]
    assert told(Circle | Group, {"type": "square"}) == [("$.type", "one of 'circle', 'group'", "another str")]
    assert told(Circle | Group, {"type": []}) == [("$.type", "one of 'circle', 'group'", "another list")]
    shapes = [
        {"type": "circle", "radius": "x"},
        {"type": "group", "shapes": 1},
        {"type": "circle", "radius": 1},
    ]
    assert told(Circle | Group | None, {"type": "group", "shapes": shapes}) == [
        ("$.shapes[0].radius", "float", "str"),
        ("$.shapes[1].shapes", "list", "int"),
    ]
    assert told(Numbered | Renumbered, {"n": 2, "a": 1}) == [("$.a", "str", "int")]


def test_a_single_tagged_struct_tells_a_wrong_tag():
    assert told(Circle, {"type": "square", "radius": 1}) == [("$.type", "'circle'", "another str")]


def test_in_a_union_the_member_of_the_values_kind_is_told():
    assert told(Tree | list[int] | None, {"value": "x"}) == [("$.value", "int", "str")]
    assert told(list[Tree | list[int] | None], [{"value": 1}, [1, "b"], None]) == [("$[1][1]", "int", "str")]
    assert told(list[int | float], [1, 1.5, "x"]) == [("$[2]", "int or float", "str")]
    assert told(list[list[int | None] | None], [None, 3]) == [("$[1]", "list or null", "int")]


def test_maps_tell_keys_and_values():
    assert told(dict[int, int], {"1": 1, 2: 2, "b": "x"}) == [
        ("$.b", "key: int", "key: str"),
        ("$.b", "int", "str"),
    ]
    assert told(dict[int | UUID, int], {"1": "x", "b": 1}) == [
        ("$['1']", "int", "str"),
        ("$.b", "key: int", "key: str"),
    ]


def test_a_classs_own_check_is_told_once_its_fields_are_right():
    assert told(list[Range], [{"low": 2, "high": 1}, {"low": "x", "high": 1}, {"low": 1, "high": 2}]) == [
        ("$[0]", "low must not be above high", "map"),
        ("$[1].low", "int", "str"),
    ]


def test_instances_among_the_builtins_are_right():
    value = [Range(1, 2), {"low": "x", "high": 1}]
    assert told(list[Range], value) == [("$[1].low", "int", "str")]
    assert told(list[Pair], [Pair(1), ["x"]]) == [("$[1][0]", "int", "str")]
    assert told(Range | None, Range(1, 2)) == []


def test_what_the_walk_does_not_find_is_told_in_msgspecs_words():
    many = [0] * (MAX_VISITS + 10) + ["x"]
    assert told(list[int], many) == [(f"$[{MAX_VISITS + 10}]", "int", "str")]
    assert told(TaggedPair | None, {"a": 1}) == [("$", "list or null", "map")]
    assert told(Tree, {None: 1, "value": 1}) == [("key in $", "str", "another value")]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (list[int], ["x"] * 100_000),
        (list[tuple[int, int]], [["x", "x", "x"]] * 1_000),
        (dict[int, int], {f"k{index}": "x" for index in range(100_000)}),
        (Closed, {f"k{index}": 1 for index in range(100_000)}),
        (list[Tree], [{}] * 1000),
        (tuple[int, ...], ["x"] * 1000),
    ],
)
def test_the_details_and_the_work_are_bounded(type_, value):
    started = perf_counter()
    details = told(type_, value)
    assert len(details) == MAX_DETAILS
    assert perf_counter() - started < 1


def test_a_row_with_more_places_than_details_stops():
    type_ = tuple[tuple(int for _ in range(60))]  # type: ignore[misc]
    assert len(told(type_, ["x"] * 60)) == MAX_DETAILS


def test_a_record_with_more_fields_than_details_stops():
    wide = msgspec.defstruct("Wide", [(f"f{index}", int) for index in range(60)])
    assert len(told(wide, {})) == MAX_DETAILS


def test_a_value_that_contains_itself_ends_in_an_error():
    loop: dict[str, Any] = {"value": 1}
    loop["child"] = loop
    assert len(told(Tree, loop)) == 1


def test_anything_goes_where_anything_is_declared():
    assert told(dict[str, Any], {"a": object()}) == []
    assert told(tuple[Any, int], [object(), "x"]) == [("$[1]", "int", "str")]
    assert told(tuple[Any | int, int], [object(), "x"]) == [("$[1]", "int", "str")]


def test_a_union_within_a_union_is_one_of_its_members():
    inner = Annotated[str | list[int], Meta(description="either")]
    assert told(inner | None, ["x"]) == [("$[0]", "int", "str")]
    assert told(inner | None, {}) == [("$", "str or list or null", "map")]
