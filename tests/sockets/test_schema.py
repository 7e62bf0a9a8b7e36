"""`Schema`: declaring the type of a payload in place."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.faults import SocketFault
from aquilia.sockets.schema import PayloadType, Schema, SchemaError, payload_type


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class User(msgspec.Struct):
    id: int


class Model(pydantic.BaseModel):
    id: int


CHAT = Schema(
    {
        "text": (str, {"min_length": 1, "max_length": 500, "description": "what is said"}),
        "tags?": [str],
        "items": [{"id": int, "size?": float}],
        "author": {"name": str | None, "colour": Colour},
        "kind": Literal["note", "todo"],
        "at?": datetime,
        "ref?": UUID,
        "user?": User,
        "user-agent?": str,
    }
)
MESSAGE = {"text": "hi", "items": [{"id": 1}], "author": {"name": None, "colour": "red"}, "kind": "note"}


def refusal(payload: Any, schema: Schema = CHAT) -> SocketFault:
    with pytest.raises(SocketFault) as caught:
        schema.validate(payload)
    return caught.value


def test_a_payload_that_fits_comes_back_as_a_dict():
    assert Schema({"text": str}).validate({"text": "Hello!"}) == {"text": "Hello!"}


def test_unknown_keys_are_dropped():
    assert Schema({"a": {"b": int}}).validate({"a": {"b": 1, "x": 2}, "y": 3}) == {"a": {"b": 1}}


def test_values_become_what_their_types_say():
    valid = CHAT.validate(
        {**MESSAGE, "at": "2030-01-02T03:04:05Z", "ref": str(UUID(int=7)), "user": {"id": 9}}
    )
    assert valid["author"]["colour"] is Colour.RED
    assert valid["at"] == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert valid["ref"] == UUID(int=7)
    assert valid["user"] == User(9)


def test_optional_keys_may_be_absent_and_any_string_may_be_a_key():
    assert "user-agent" not in CHAT.validate(MESSAGE)
    assert CHAT.validate({**MESSAGE, "user-agent": "curl"})["user-agent"] == "curl"


def test_an_optional_key_is_not_null():
    assert refusal({**MESSAGE, "tags": None}).details == [
        {"path": "$.tags", "expected": "list", "got": "null"}
    ]


def test_every_wrong_field_is_told():
    fault = refusal(
        {
            "text": "",
            "tags": ["a", 1],
            "items": [{"id": 1}, {"id": "2"}, {}],
            "author": {"name": 5},
            "kind": "x",
        }
    )
    assert fault.code == "WS_MESSAGE_INVALID"
    assert sorted(fault.details, key=lambda detail: detail["path"]) == [
        {"path": "$.author.colour", "expected": "one of 'red', 'blue'", "got": "missing"},
        {"path": "$.author.name", "expected": "str or null", "got": "int"},
        {"path": "$.items[1].id", "expected": "int", "got": "str"},
        {"path": "$.items[2].id", "expected": "int", "got": "missing"},
        {"path": "$.kind", "expected": "one of 'note', 'todo'", "got": "another str"},
        {"path": "$.tags[1]", "expected": "str", "got": "int"},
        {"path": "$.text", "expected": "str of length 1 to 500", "got": "str of length 0"},
    ]


def test_the_fault_says_the_first_wrong_field_in_words():
    fault = refusal({"a": 1, "b": 2}, Schema({"a": str, "b": str}))
    assert fault.message == "the payload is wrong: $.a: expected str, got int, and 1 more"


@pytest.mark.parametrize("payload", [None, 5, "text", ["text"], b"text"])
def test_what_is_no_map_is_refused(payload):
    assert [detail["expected"] for detail in refusal(payload).details] == ["map"]


def test_an_empty_schema_takes_any_map():
    assert Schema({}).validate({"a": 1}) == {}


def test_schemas_nest_and_lists_have_constraints():
    inner = Schema({"id": (int, {"ge": 1})})
    schema = Schema({"first": inner, "rest": ([inner], {"max_length": 1})})
    assert schema.validate({"first": {"id": 1}, "rest": []}) == {"first": {"id": 1}, "rest": []}
    assert refusal({"first": {"id": 0}, "rest": [{"id": 1}, {"id": 2}]}, schema).details == [
        {"path": "$.first.id", "expected": "int of at least 1", "got": "int below 1"},
        {"path": "$.rest", "expected": "list of length at most 1", "got": "list of length 2"},
    ]


def test_schemas_of_the_same_declaration_are_equal():
    one, same = Schema({"a": [(str, {"min_length": 1})]}), Schema({"a": [(str, {"min_length": 1})]})
    assert one == same
    assert hash(one) == hash(same)
    assert one != Schema({"a": [str]})
    assert one != {"a": [str]}


def test_a_schema_shows_its_declaration():
    assert repr(Schema({"a?": [str], "b": (int, {"ge": 0}), "c": {"d": str | None}})) == (
        "Schema({'a?': [str], 'b': (int, {'ge': 0}), 'c': {'d': str | None}})"
    )


def test_changing_the_declaration_later_changes_nothing():
    declaration: dict[str, Any] = {"a": {"b": int}}
    schema = Schema(declaration)
    declaration["a"]["b"] = str
    assert schema == Schema({"a": {"b": int}})


def test_the_compiled_type_is_one_that_msgspec_decodes():
    assert msgspec.json.decode(b'{"a":1,"b":2}', type=Schema({"a": int}).type) == {"a": 1}


def test_maps_of_like_names_keep_apart_in_the_json_schema():
    schema = Schema({"a-b": {"x": int}, "ab": {"y": str}, "ab?x": {"z": str}, "a": {"b": {"w": int}}})
    definitions = payload_type(schema).json_schema()["$defs"]
    assert sorted(next(iter(body["properties"])) for body in definitions.values()) == [
        "b",
        "w",
        "x",
        "y",
        "z",
    ]


def endless() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    return loop


@pytest.mark.parametrize(
    ("declaration", "path", "words"),
    [
        ([("text", str)], "$", "declared by a dict"),
        ({"a": {1: int}}, "$.a", "a key is a string, 1 is not"),
        ({"": int}, "$", "'' is no key"),
        ({"?": int}, "$", "'?' is no key"),
        ({"a": int, "a?": int}, "$.a", "both as required and as optional"),
        ({"a": 5}, "$.a", "5 is no type"),
        ({"a": {"b": [None]}}, "$.a.b[]", "None is no type"),
        ({"a": "str"}, "$.a", "'str' is no type"),
        ({"user name": object}, "$['user name']", "object is no type"),
        ({"a": lambda: int}, "$.a", "is no type"),
        ({"a": [str, int]}, "$.a", "by its one item"),
        ({"a": []}, "$.a", "by its one item"),
        ({"a": (str,)}, "$.a", "(type, constraints)"),
        ({"a": (str, "long")}, "$.a", "(type, constraints)"),
        ({"a": (str, {"min_lenght": 1})}, "$.a", "did you mean 'min_length'? (accepted: gt, ge,"),
        ({"a": (str, {"zzz": 1})}, "$.a", "unknown constraint 'zzz' (accepted: gt, ge,"),
        ({"a": (int, {"min_length": 1})}, "$.a", "Can only set `min_length` on a str"),
        ({"a": {"b": ([str], {"ge": 1})}}, "$.a.b", "Can only set `ge` on a numeric"),
        ({"a": (str, {"pattern": "["})}, "$.a", "the constraints {'pattern': '['} are wrong"),
        ({"a": (int, {"ge": 1, "gt": 1})}, "$.a", "Cannot specify both"),
        ({"a": (str, {"min_length": -1})}, "$.a", "must be >= 0"),
        ({"a": list[int] | set[int]}, "$.a", "more than one array-like"),
        ({"a": msgspec.Raw}, "$.a", "use Any"),
        ({"a": dict[bool, int]}, "$.a", "keys are strings in JSON"),
        ({"a": list[Model]}, "$.a[]", "Model is of Pydantic"),
        (endless(), "$" + ".a" * 64, "nested deeper than 64"),
    ],
)
def test_a_wrong_declaration_fails_at_once_and_names_the_key(declaration, path, words):
    with pytest.raises(SchemaError) as caught:
        Schema(declaration)
    assert caught.value.path == path
    assert words in caught.value.problem
    assert str(caught.value) == (caught.value.problem if path == "$" else f"{path}: {caught.value.problem}")


def test_a_schema_is_a_payload_type_and_none_is_any():
    assert isinstance(payload_type(Schema({"a": int})), PayloadType)
    assert payload_type(None).annotation is Any
    assert payload_type(Schema({"a": int})).convert({"a": 1, "b": 2}) == {"a": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["a", "b"]), inner)
    ),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries(dict.fromkeys(MESSAGE, JSON)))
def test_any_payload_is_either_valid_or_explained(payload):
    details = payload_type(CHAT).explain(payload)
    if not details:
        CHAT.validate(payload)
    else:
        assert all(detail.keys() == {"path", "expected", "got"} for detail in details)
        assert refusal(payload).details == details
