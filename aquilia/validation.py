"""JSON into typed values; and where that fails, every mistake in it, not only the first.

The types are what msgspec knows (Struct, dataclass, TypedDict, NamedTuple, builtins, constraints by
`Annotated`) and Pydantic models.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import types
import typing
from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set,
)
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import inspect as schema

from aquilia.http_faults import http_invalid_json

__all__ = [
    "MISSING",
    "InvalidValue",
    "JsonReader",
    "Mistake",
    "decode_json",
    "describe",
    "is_pydantic",
    "is_record",
    "kind_of",
    "members",
    "mistake",
    "mistakes",
    "unwrapped",
]

Mistake = dict[str, str]
"""`{"path": …, "expected": …, "got": …}`"""

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "nothing"})()
"""Stands for a value that was not given."""

_KINDS = {type(None): "null", dict: "map", list: "list"}
_NoSuchField = type("no such field", (), {})
_NATIVE = {
    str,
    int,
    float,
    bool,
    list,
    tuple,
    set,
    frozenset,
    dict,
    type(None),
    msgspec.UnsetType,
    _NoSuchField,
}

_MOST_MISTAKES = 32
_DEEPEST = 16
_SEARCHED_SIZE = 65_536  # bytes; with the two above it bounds what the search may cost a server

T = TypeVar("T")


class InvalidValue(Exception):
    """A value of the wrong shape; `mistakes` has what is wrong with it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        self.mistakes = list(mistakes)


class JsonReader(Generic[T]):
    """Reads JSON as one type; `path` is how mistakes call the whole value.

    Raises TypeError for a type that cannot be read from JSON.
    """

    def __init__(self, expected: Any, path: str = "body") -> None:
        self.type = expected
        self._path = path
        if is_pydantic(expected):
            self._read = _pydantic_reader(expected, path)
            return
        for part in _parts(schema.type_info(expected)):
            if isinstance(part, schema.CustomType):
                raise TypeError(f"{describe(part.cls)} cannot be read from JSON")
        self._decode = msgspec.json.Decoder(expected).decode
        self._read = self._read_msgspec

    def read(self, data: bytes) -> T:
        """The value. Raises `InvalidValue`, or `HTTP_INVALID_JSON` for what is no JSON at all."""
        return cast(T, self._read(data))

    def _read_msgspec(self, data: bytes) -> Any:
        try:
            return decode_json(data, self._decode)
        except msgspec.ValidationError as error:
            first = {"path": self._path, "expected": str(error), "got": "another value"}
        if len(data) > _SEARCHED_SIZE:
            raise InvalidValue([first])
        try:
            whole = decode_json(data, msgspec.json.decode)
        except msgspec.ValidationError:  # a number like 1e999, of which JSON has no end
            raise InvalidValue([first]) from None
        every = mistakes(self.type, whole, self._path)
        raise InvalidValue(list(itertools.islice(every, _MOST_MISTAKES)) or [first])


def decode_json(data: bytes, decode: Callable[[bytes], T]) -> T:
    """`decode(data)`; what is no JSON at all raises `HTTP_INVALID_JSON`. A ValidationError passes through."""
    try:
        return decode(data)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise http_invalid_json(str(error)) from None
    except RecursionError:
        raise http_invalid_json("it is nested too deeply") from None


def mistakes(expected: Any, data: Any, path: str, depth: int = 0) -> Iterator[Mistake]:
    """What in decoded JSON does not fit the type, down to the innermost values."""
    if data is MISSING:
        yield mistake(path, expected, data)
        return
    try:
        msgspec.convert(data, expected, str_keys=True)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at `")[0]
    else:
        return
    parts = _values(expected, data, path) if depth < _DEEPEST else []
    within = itertools.chain.from_iterable(mistakes(*part, depth + 1) for part in parts)
    first = next(within, None)
    if first is not None:
        yield first
        yield from within
    elif parts:  # each of them is right, so it is a constraint on the whole that fails
        yield {"path": path, "expected": reason, "got": f"another {kind_of(data)}"}
    else:
        yield mistake(path, expected, data)


def mistake(path: str, expected: Any, got: Any) -> Mistake:
    """One mistake: at `path`, a value of the type `expected` should stand in the place of `got`.

    Neither the value is quoted nor a part of it: it may be a secret in the wrong field.
    """
    kinds = {_class(member) for member in members(expected)}
    written = any(kind not in _NATIVE and not is_record(kind) for kind in kinds)  # UUID, Enum and the like
    right = type(got) in kinds or (written and isinstance(got, str | int | float))
    said = f"another {kind_of(got)}" if right else kind_of(got)
    return {"path": path, "expected": describe(expected), "got": said}


def describe(expected: Any) -> str:
    """A type as a client is told it: `int`, `str or null`, `one of 'a', 'b'`, `int (ge=1)`."""
    if get_origin(expected) is Annotated:
        base, *metadata = get_args(expected)
        limits = [str(each)[len("msgspec.Meta(") : -1] for each in metadata if isinstance(each, msgspec.Meta)]
        return describe(base) + (f" ({', '.join(limits)})" if limits else "")
    expected = unwrapped(expected)
    if expected is None or expected is type(None):
        return "null"
    if len(options := members(expected)) > 1:
        return " or ".join(describe(option) for option in options if option is not msgspec.UnsetType)
    if get_origin(expected) is Literal:
        return f"one of {', '.join(repr(value) for value in get_args(expected))}"
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        return f"one of {', '.join(repr(member.value) for member in expected)}"
    arguments = ", ".join(describe(argument) for argument in get_args(expected) if argument is not ...)
    name = getattr(get_origin(expected) or expected, "__name__", str(expected))
    return f"{name}[{arguments}]" if arguments else name


def kind_of(data: Any) -> str:
    """A value's type in the words of JSON; what was not given is "missing"."""
    if data is MISSING:
        return "missing"
    return _KINDS.get(type(data)) or type(data).__name__


def unwrapped(expected: Any) -> Any:
    """The type behind `Annotated`, `NewType` and `type X = …`."""
    while True:
        if get_origin(expected) is Annotated:
            expected = get_args(expected)[0]
        elif isinstance(expected, typing.NewType):
            expected = expected.__supertype__
        elif type(expected).__name__ == "TypeAliasType":
            expected = expected.__value__
        else:
            return expected


def members(expected: Any) -> list[Any]:
    """The types that a union is of; of any other type itself."""
    bare = unwrapped(expected)
    if get_origin(bare) not in (Union, types.UnionType):
        return [expected]
    return [each for member in get_args(bare) for each in members(member)]


def is_record(expected: Any) -> bool:
    """Whether a type has named fields: Struct, dataclass, TypedDict, NamedTuple, Pydantic model."""
    bare = _class(expected)
    return isinstance(bare, type) and (
        issubclass(bare, msgspec.Struct)
        or dataclasses.is_dataclass(bare)
        or typing.is_typeddict(bare)
        or (issubclass(bare, tuple) and hasattr(bare, "_fields"))
        or hasattr(bare, "__pydantic_validator__")
    )


def is_pydantic(expected: Any) -> bool:
    """Whether a Pydantic model is in the type, so that Pydantic has to read it."""
    bare = unwrapped(expected)
    return hasattr(bare, "__pydantic_validator__") or any(
        is_pydantic(argument) for argument in get_args(bare)
    )


def _class(expected: Any) -> Any:
    bare = unwrapped(expected)
    return get_origin(bare) or bare


def _parts(info: Any, seen: set[int] | None = None) -> Iterator[schema.Type]:
    """A type's description and those of all types within it."""
    seen = set() if seen is None else seen
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, tuple):
        for each in info:
            yield from _parts(each, seen)
    elif isinstance(info, schema.Type | schema.Field):
        if isinstance(info, schema.Type):
            yield info
        for name in info.__struct_fields__:
            yield from _parts(getattr(info, name), seen)


_ARRAYS = (list, set, frozenset, tuple, Collection, Sequence, MutableSequence, Set, MutableSet)
_OBJECTS = (dict, Mapping, MutableMapping)

Part = tuple[Any, Any, str]
"""An expected type, a value, and the value's path."""


def _values(expected: Any, data: Any, path: str) -> list[Part]:
    """The values within `data`; none where the type does not tell what each of them is."""
    holders = [each for each in members(expected) if _holds(each, data)]
    if len(holders) > 1:  # msgspec tells them apart by their tags
        holders = [each for each in holders if _tag(each) in data.items()]
    if len(holders) != 1:
        return []
    if is_record(holders[0]):
        return list(_fields(holders[0], data, path))
    arguments = get_args(unwrapped(holders[0]))
    if isinstance(data, dict):
        return [(each, value, f"{path}.{key}") for each in arguments[1:] for key, value in data.items()]
    if _class(holders[0]) is not tuple or ... in arguments:
        arguments = arguments[:1] * len(data)
    numbered = enumerate(zip(arguments, data, strict=False))
    return [(each, value, f"{path}[{index}]") for index, (each, value) in numbered]


def _holds(expected: Any, data: Any) -> bool:
    kind = _class(expected)
    if isinstance(data, list):
        return kind in _ARRAYS
    if not isinstance(data, dict):
        return False
    array_like = issubclass(kind, tuple) or (
        issubclass(kind, msgspec.Struct) and kind.__struct_config__.array_like
    )
    return kind in _OBJECTS or (is_record(kind) and not array_like)


def _tag(record: Any) -> tuple[str | None, Any]:
    config = getattr(_class(record), "__struct_config__", None)
    return (config.tag_field, config.tag) if config is not None else (None, None)


def _fields(record: Any, data: dict[str, Any], path: str) -> Iterator[Part]:
    declared = {name: (expected, required) for name, expected, required in _declared(unwrapped(record))}
    tag_field, tag = _tag(record)
    if tag_field is not None:
        declared[tag_field] = (Literal[tag], False)
    for name, (expected, required) in declared.items():
        if required or name in data:
            yield expected, data.get(name, MISSING), f"{path}.{name}"
    config = getattr(_class(record), "__struct_config__", None)
    if config is not None and config.forbid_unknown_fields:
        for name in data.keys() - declared.keys():
            yield _NoSuchField, data[name], f"{path}.{name}"


def _declared(record: Any) -> Iterator[tuple[str, Any, bool]]:
    """The fields of a record type: their names in JSON, their types, and whether they must be there."""
    kind = _class(record)
    if issubclass(kind, msgspec.Struct):
        for each in msgspec.structs.fields(record):
            yield each.encode_name, each.type, each.required
        return
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            yield field.name, hints[field.name], field.default is field.default_factory is dataclasses.MISSING
        return
    for name, hint in hints.items():
        stated = get_origin(hint)  # under postponed annotations, __required_keys__ does not know of these
        if stated in (typing.Required, typing.NotRequired):
            yield name, get_args(hint)[0], stated is typing.Required
        else:
            yield name, hint, name in kind.__required_keys__


def _pydantic_reader(expected: Any, path: str) -> Callable[[bytes], Any]:
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(expected)

    def read(data: bytes) -> Any:
        try:
            return adapter.validate_json(data)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)[:_MOST_MISTAKES]
        if found[0]["type"] == "json_invalid":
            raise http_invalid_json(found[0]["msg"])
        raise InvalidValue(
            [
                {
                    "path": path
                    + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in each["loc"]),
                    "expected": each["msg"],
                    "got": kind_of(MISSING if each["type"] == "missing" else each["input"]),
                }
                for each in found
            ]
        )

    return read
