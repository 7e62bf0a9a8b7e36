"""Payload types: which types payloads can have, conversion, and JSON Schema."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from pydantic import dataclasses as pydantic_dataclasses

from aquilia.sockets.faults import SocketFault
from aquilia.sockets.payload import PayloadError, typed_payload
from aquilia.sockets.schema import SchemaError, payload_type

T = TypeVar("T")


class Item(msgspec.Struct):
    id: int
    price: Decimal = Decimal(0)


class Order(msgspec.Struct, rename="camel"):
    order_items: list[Item]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Place(NamedTuple):
    x: int


class Named(TypedDict):
    name: str


class Box(msgspec.Struct, Generic[T]):
    content: T


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class Size(enum.IntEnum):
    SMALL = 1


class Model(pydantic.BaseModel):
    id: int
    when: datetime | None = None
    label: str = pydantic.Field(default="", alias="Label")


@pydantic_dataclasses.dataclass
class Checked:
    id: Annotated[int, pydantic.Field(gt=0)]


class Node(pydantic.BaseModel):
    next: Node | None = None


class Opaque:
    pass


class Holder(msgspec.Struct):
    things: list[Opaque]


class Ambiguous(msgspec.Struct):
    many: dict[str, list[int] | set[int]]


class Endless(msgspec.Struct):
    next: Endless | None
    many: Ambiguous


class Unresolved(msgspec.Struct):
    what: Missing  # type: ignore[name-defined]  # noqa: F821


class Mixed(TypedDict):
    model: Model


@pytest.mark.parametrize(
    ("source", "given", "expected"),
    [
        (None, {"a": [1]}, {"a": [1]}),
        (Any, 5, 5),
        (type(None), None, None),
        (int, 5, 5),
        (str | None, None, None),
        (Order, {"orderItems": [{"id": 1}]}, Order([Item(1)])),
        (Point, {"x": 1}, Point(1)),
        (Place, [1], Place(1)),
        (Named, {"name": "a", "more": 1}, {"name": "a"}),
        (Box[int], {"content": 1}, Box(1)),
        (Tree, {"value": 1, "children": [{"value": 2}]}, Tree(1, [Tree(2)])),
        (list[Item], [{"id": 1}, Item(2)], [Item(1), Item(2)]),
        (set[int], [1, 1], {1}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Size, 1, Size.SMALL),
        (Literal["a"], "a", "a"),
        (dict[int, str], {1: "a", "2": "b"}, {1: "a", 2: "b"}),
        (bytes, b"a", b"a"),
        (datetime, "2030-01-01T00:00:00Z", datetime(2030, 1, 1, tzinfo=UTC)),
        (datetime, datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)),
        (UUID, UUID(int=1).bytes, UUID(int=1)),
        (Decimal, "1.50", Decimal("1.50")),
        (Model, {"id": 1, "Label": "x"}, Model(id=1, Label="x")),
        (list[Model] | None, [{"id": 1}], [Model(id=1)]),
        (Checked, {"id": 1}, Checked(1)),
        (pydantic.AnyUrl, "http://a.example/", pydantic.AnyUrl("http://a.example/")),
    ],
)
def test_builtins_become_the_type(source, given, expected):
    assert payload_type(source).convert(given) == expected
    assert payload_type(source).received(given) == expected


@pytest.mark.parametrize(("source", "instance"), [(Item, Item(1)), (Point, Point(1)), (Model, Model(id=1))])
def test_an_instance_passes_untouched(source, instance):
    assert payload_type(source).convert(instance) is instance


def test_what_does_not_fit_is_an_error_of_the_publisher_and_a_fault_of_a_peer():
    with pytest.raises(PayloadError) as caught:
        payload_type(Item).convert({"id": "x"})
    assert caught.value.details == [{"path": "$.id", "expected": "int", "got": "str"}]
    assert str(caught.value) == "$.id: expected int, got str"
    with pytest.raises(SocketFault) as refused:
        payload_type(Item).received({"id": "x"})
    assert refused.value.code == "WS_MESSAGE_INVALID"
    assert refused.value.details == caught.value.details


def test_base64_stands_for_bytes_in_text_alone():
    assert payload_type(bytes).explain("YQ==", text=True) == []
    assert payload_type(bytes).explain("YQ==") == [{"path": "$", "expected": "bytes", "got": "str"}]


@pytest.mark.parametrize(
    ("source", "path", "words"),
    [
        (5, "$", "5 is no type that a payload can have; accepted: None, bool, int"),
        ("int", "$", "'int' is no type"),
        (Opaque, "$", "Opaque is no type"),
        (Holder, "$.things[]", "Opaque is no type"),
        (object, "$", "object is no type"),
        (complex, "$", "complex is no type"),
        (Callable[[int], str], "$", "is no type"),
        (tuple[int, Opaque], "$[1]", "Opaque is no type"),
        (dict[str, Opaque], "$[]", "Opaque is no type"),
        (int | Opaque, "$", "Opaque"),
        (list[int] | tuple[int, ...], "$", "more than one array-like"),
        (list[Ambiguous], "$[].many[]", "list[int] | set[int] can be no payload: Type unions may not"),
        (Endless, "$.many.many[]", "list[int] | set[int] can be no payload"),
        (Endless | None, "$.many.many[]", "list[int] | set[int] can be no payload"),
        (Annotated[int, msgspec.Meta(min_length=1)], "$", "Can only set `min_length`"),
        (Unresolved, "$", "Unresolved can be no payload: name 'Missing' is not defined"),
        (Item | msgspec.Raw, "$", "use Any"),
        (list[msgspec.msgpack.Ext], "$[]", "use Any"),
        (memoryview, "$", "use bytes"),
        (dict[tuple[int, int], str], "$", "keys are strings in JSON"),
        (list[dict[int | None, str]], "$[]", "keys are strings in JSON"),
        (Mixed, "$", "Mixed holds a Pydantic type: make it a Pydantic model too"),
        (Annotated[list[Model], msgspec.Meta(max_length=9)], "$", "use pydantic.Field"),
        (Opaque | Model, "$", "Opaque"),
    ],
)
def test_a_type_that_no_payload_can_have_is_refused_with_its_place(source, path, words):
    with pytest.raises(SchemaError) as caught:
        payload_type(source)
    assert (caught.value.path, words in caught.value.problem) == (path, True), caught.value


def test_a_pydantic_type_that_has_no_json_schema_is_refused():
    class Strange(pydantic.BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        opaque: Opaque

    with pytest.raises(SchemaError, match="Strange cannot be described"):
        payload_type(Strange)


def test_two_classes_of_one_name_are_refused():
    def made(type_: Any) -> Any:
        return msgspec.defstruct("Twin", [("value", type_)], module="twins")

    with pytest.raises(SchemaError, match=r"another class in it has the name of .*Twin"):
        payload_type(tuple[made(int), made(str)])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (str, "a"),
        (int, 1),
        (float, 1.5),
        (bytes, b"a"),
        (Size, Size.SMALL),
        (UUID, UUID(int=1)),
        (Decimal, Decimal("1.5")),
        (date, date(2030, 1, 1)),
        (time, time(1)),
        (timedelta, timedelta(1)),
        (datetime, datetime(2030, 1, 1)),
        (Annotated[str, msgspec.Meta(min_length=1)], "a"),
    ],
)
def test_every_accepted_type_of_key_goes_through_json(key, value):
    read = payload_type(dict[key, int]).json_decoder()
    assert read(msgspec.json.encode({value: 1})) == {value: 1}


@pytest.mark.parametrize(
    ("source", "loose"),
    [
        (None, True),
        (dict[str, int], False),
        (dict[int, int], True),
        (Order, False),
        (Tree, False),
        (Box, True),
        (list[Any], True),
        (Model, True),
    ],
)
def test_a_type_knows_whether_it_leaves_something_open(source, loose):
    assert payload_type(source).loose is loose


def test_the_json_schema_has_the_type_in_the_open_and_its_classes_beside():
    schema = payload_type(Order).json_schema()
    assert schema["properties"] == {"orderItems": {"type": "array", "items": {"$ref": "#/$defs/Item"}}}
    assert list(schema["$defs"]) == ["Item"]
    assert payload_type(int).json_schema() == {"type": "integer"}
    assert "$defs" not in payload_type(Item).json_schema()


def test_the_json_schema_of_a_recursive_type_refers_to_itself():
    schema = payload_type(Tree).json_schema()
    assert schema["$ref"] == "#/$defs/Tree"
    assert schema["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}


def test_the_json_schema_of_a_model_is_pydantics_own():
    assert payload_type(Model).json_schema() == Model.model_json_schema()


def test_each_caller_gets_a_json_schema_of_its_own():
    type_ = payload_type(Order)
    type_.json_schema()["$defs"].clear()
    assert type_.json_schema()["$defs"]


PROGRAM = """
import json
from typing import Literal, TypedDict
from aquilia.sockets.schema import Schema, payload_type
schema = Schema({"b": {"x": int}, "a?": Literal["z", "y", 1], "c": [{"q": str, "p": set[str]}]})
print(json.dumps(payload_type(schema).json_schema()))
"""


def test_the_json_schema_is_the_same_in_every_process():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["required"] == ["b", "c"]


def test_pydantics_errors_are_told_in_our_words():
    assert payload_type(list[Model]).explain([{"id": "x", "when": "?"}, {}, 4], text=True) == [
        {
            "path": "$[0].id",
            "expected": "a valid integer, unable to parse string as an integer",
            "got": "str",
        },
        {"path": "$[0].when", "expected": "a valid datetime or date, input is too short", "got": "str"},
        {"path": "$[1].id", "expected": "a value", "got": "missing"},
        {"path": "$[2]", "expected": "an object", "got": "int"},
    ]


def test_pydantic_tells_at_most_fifty_errors():
    assert len(payload_type(list[Model]).explain([{}] * 80)) == 50


def test_a_model_that_finds_something_else_too_deep_is_told_as_one_error():
    loop: dict[str, Any] = {}
    loop["next"] = loop
    assert len(payload_type(Node).explain(loop)) == 1
    assert typed_payload(Node).error(loop, RecursionError("too deep")).details == [
        {"path": "$", "expected": "too deep", "got": "another value"}
    ]


def test_a_payload_type_shows_its_annotation():
    assert repr(payload_type(int)) == "PayloadType(<class 'int'>)"


def test_payload_types_do_without_pydantic():
    program = "import sys; from aquilia.sockets.schema import payload_type; sys.modules['pydantic'] = None; "
    program += "assert payload_type(dict[str, int]).convert({'a': 1}) == {'a': 1}"
    subprocess.run([sys.executable, "-c", program], check=True)
