"""Payload types: which types payloads can have, and how one is converted, judged and described.

`text` means JSON throughout, where bytes are base64 and keys are strings; the binary codecs have both natively.
"""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect as mi

from aquilia.sockets.explanation import (
    MAX_DETAILS,
    NATIVE_IN_BINARY,
    READ_FAILURES,
    Detail,
    explain,
    plan,
    spoken,
)
from aquilia.sockets.faults import SocketFault, ws_message_invalid
from aquilia.sockets.wording import constraints_of, kind_of, step

__all__ = ["ACCEPTED", "PayloadError", "PayloadType", "SchemaError", "checked_type", "typed_payload"]

ACCEPTED = (
    "accepted: None, bool, int, float, str, bytes, datetime types, UUID, Decimal, Enum, Literal, Any, Struct, "
    "dataclass, TypedDict, NamedTuple, attrs and Pydantic classes, and lists, sets, tuples, dicts and unions of these"
)


class SchemaError(TypeError):
    """A payload type that cannot be one. `path` is the place in it, `$` the whole."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return self.problem if self.path == "$" else f"{self.path}: {self.problem}"


class PayloadError(ValueError):
    """A value that does not fit its payload type. `details` tells each wrong field: path, expected, got."""

    def __init__(self, details: list[Detail]) -> None:
        super().__init__(details)
        self.details = details

    def __str__(self) -> str:
        first = self.details[0]
        more = f", and {len(self.details) - 1} more" if len(self.details) > 1 else ""
        return f"{first['path']}: expected {first['expected']}, got {first['got']}{more}"

    def fault(self) -> SocketFault:
        """WS_MESSAGE_INVALID, for a peer who sent this payload."""
        return ws_message_invalid(f"the payload is wrong: {self}", self.details)


class PayloadType:
    """What payloads of one event look like, once and for all. Made by `payload_type`."""

    def __init__(self, annotation: Any, info: mi.Type) -> None:
        parts = list(_parts(info, "$", set()))
        self.annotation = annotation
        self.loose = any(isinstance(part, mi.AnyType) or _keyed_loosely(part) for _, part in parts)
        """Whether the type leaves keys or values open, which JSON and the binary codecs then fill differently."""
        self._plan = plan(info)
        self._json_schema = _schema_of(annotation)

    def json_schema(self) -> dict[str, Any]:
        """Its JSON Schema (draft 2020-12); classes that it refers to stand under `$defs`. A new dict each time."""
        return copy.deepcopy(self._json_schema)

    def json_decoder(self) -> Callable[[bytes], Any]:
        """Reads a payload from JSON. Raises any of `READ_FAILURES`."""
        return msgspec.json.Decoder(self.annotation).decode

    def convert(self, value: Any) -> Any:
        """The typed payload from builtins, as a binary codec left them or a publisher gave them.

        An instance of the type passes untouched, unchecked.

        Raises:
            PayloadError: with every wrong field.
        """
        try:
            return self._convert(value)
        except READ_FAILURES as error:
            raise self.error(value, error) from error

    def received(self, value: Any) -> Any:
        """The typed payload from builtins that a peer sent.

        Raises:
            SocketFault: WS_MESSAGE_INVALID, with every wrong field in `details`.
        """
        try:
            return self._convert(value)
        except READ_FAILURES as error:
            raise self.error(value, error).fault() from None

    def explain(self, value: Any, *, text: bool = False) -> list[Detail]:
        """Every wrong field of builtins, as `{"path": …, "expected": …, "got": …}`; empty if nothing is.

        At most `MAX_DETAILS`, of the first `MAX_VISITS` values; msgspec's own word where that finds nothing.
        """
        try:
            self._convert(value, text=text)
        except READ_FAILURES as error:
            return self.error(value, error, text=text).details
        return []

    def error(self, value: Any, refusal: Exception, *, text: bool = False) -> PayloadError:
        """The whole story of `value`, which was refused with `refusal`."""
        return PayloadError(explain(self._plan, value, text=text) or [spoken(refusal)])

    def _convert(self, value: Any, *, text: bool = False) -> Any:
        native = () if text else NATIVE_IN_BINARY
        return msgspec.convert(value, self.annotation, builtin_types=native, str_keys=True)

    def __repr__(self) -> str:
        return f"PayloadType({self.annotation!r})"


class _PydanticType(PayloadType):
    """A payload that Pydantic judges, in its lax JSON mode or as the model says."""

    def __init__(self, annotation: Any) -> None:
        from pydantic import TypeAdapter

        self.annotation = annotation
        self.loose = True  # what the model does with it is its own affair
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        self._json_schema = self._adapter.json_schema()

    def json_decoder(self) -> Callable[[bytes], Any]:
        validate = self._adapter.validate_json
        return lambda raw: validate(bytes(raw))

    def error(self, value: Any, refusal: Exception, *, text: bool = False) -> PayloadError:
        errors: Callable[..., list[dict[str, Any]]] | None = getattr(refusal, "errors", None)
        if errors is None:
            return PayloadError([spoken(refusal)])
        listed = errors(include_url=False, include_context=False)[:MAX_DETAILS]
        return PayloadError([_from_pydantic(error) for error in listed])

    def _convert(self, value: Any, *, text: bool = False) -> Any:
        if text:
            return self._adapter.validate_json(msgspec.json.encode(value))
        return self._adapter.validate_python(value)


_WORDS = 200
"""Characters of a message: a validator may quote what it refused."""


def _from_pydantic(error: dict[str, Any]) -> Detail:
    path = "$"
    for key in error["loc"]:
        path = step(path, key)
    if error["type"] == "missing":
        return {"path": path, "expected": "a value", "got": "missing"}
    return {
        "path": path,
        "expected": error["msg"].removeprefix("Input should be ")[:_WORDS],
        "got": kind_of(error["input"]),
    }


def typed_payload(annotation: Any) -> PayloadType:
    """The payload type for a type that msgspec decodes (Struct, dataclass, builtins, unions …) or Pydantic does.

    Raises:
        SchemaError: no payload can be of this type.
    """
    info = _inspected(annotation, "$")
    parts = list(_parts(info, "$", set()))
    by_pydantic = any(_is_pydantic(part) for _, part in parts)
    for path, part in parts:
        problem = _beside_pydantic(part) if by_pydantic else _problem(part)
        if problem:
            raise SchemaError(path, problem)
    try:
        return _PydanticType(annotation) if by_pydantic else PayloadType(annotation, info)
    except Exception as error:  # Pydantic and the JSON Schema generators raise what they like
        raise SchemaError("$", f"{_name(annotation)} cannot be described: {error}") from error


def checked_type(type_: Any, path: str) -> Any:
    """A type that stands at `path` in a `Schema`, once it is known to be one.

    Raises:
        SchemaError: it is none.
    """
    if type_ is None or isinstance(type_, str):
        raise SchemaError(path, f"{type_!r} is no type; {ACCEPTED}")
    for where, part in _parts(_inspected(type_, path), path, set()):
        if _is_pydantic(part):
            raise SchemaError(
                where,
                f"{_name(getattr(part, 'cls', part))} is of Pydantic: make the whole payload a model instead",
            )
        if problem := _problem(part):
            raise SchemaError(where, problem)
    return type_


def _inspected(type_: Any, path: str) -> mi.Type:
    try:
        return mi.type_info(type_)
    except Exception as error:
        where, culprit, reason = _culprit(type_, path, error) or (path, type_, error)
        if str(reason).startswith("Type '"):
            raise SchemaError(
                where, f"{_name(culprit)} is no type that a payload can have; {ACCEPTED}"
            ) from error
        raise SchemaError(where, f"{_name(culprit)} can be no payload: {reason}") from error


def _culprit(
    type_: Any, path: str, reason: Exception, above: tuple[Any, ...] = ()
) -> tuple[str, Any, Exception] | None:
    """The innermost type that msgspec refuses: it tells the reason, but not the place."""
    above = (*above, type_)
    innermost = True
    for where, part in _children(type_, path):
        try:
            mi.type_info(part)
        except Exception as error:
            found = None if part in above else _culprit(part, where, error, above)
            if found:
                return found
            innermost = False  # it leads back to a class above, of which some other part is the culprit
    return (path, type_, reason) if innermost else None


def _children(type_: Any, path: str) -> Iterator[tuple[str, Any]]:
    origin = typing.get_origin(type_)
    beside = origin in (typing.Union, types.UnionType, typing.Annotated)
    for argument in typing.get_args(type_):
        if isinstance(argument, type) or typing.get_origin(argument) is not None:
            yield path if beside else f"{path}[]", argument
    try:
        hints = typing.get_type_hints(type_, include_extras=True) if isinstance(type_, type) else {}
    except Exception:  # the hints themselves are at fault: then this type is the culprit
        return
    for name, hint in hints.items():
        yield step(path, name), hint


def _parts(info: mi.Type, path: str, seen: set[int]) -> Iterator[tuple[str, mi.Type]]:
    """A type and all within it, with their paths; each class once, and nothing within Pydantic's."""
    while isinstance(info, mi.Metadata):
        info = info.type
    if id(info) in seen:
        return
    yield path, info
    if isinstance(info, _RECORDS) and not _is_pydantic(info):
        seen.add(id(info))
        for field in info.fields:
            yield from _parts(field.type, step(path, field.encode_name), seen)
    elif isinstance(info, mi.CollectionType):
        yield from _parts(info.item_type, f"{path}[]", seen)
    elif isinstance(info, mi.TupleType):
        for index, item in enumerate(info.item_types):
            yield from _parts(item, step(path, index), seen)
    elif isinstance(info, mi.DictType):
        yield from _parts(info.key_type, f"{path}[] (key)", seen)
        yield from _parts(info.value_type, f"{path}[]", seen)
    elif isinstance(info, mi.UnionType):
        for member in info.types:
            yield from _parts(member, path, seen)


_RECORDS = (mi.StructType, mi.DataclassType, mi.TypedDictType, mi.NamedTupleType)
_KEYS = (
    mi.AnyType,
    mi.StrType,
    mi.IntType,
    mi.FloatType,
    mi.BytesType,
    mi.DateTimeType,
    mi.DateType,
    mi.TimeType,
    mi.TimeDeltaType,
    mi.UUIDType,
    mi.DecimalType,
    mi.EnumType,
    mi.LiteralType,
)


def _problem(part: mi.Type) -> str | None:
    """Why this part of a type cannot be in a payload."""
    if isinstance(part, mi.RawType | mi.ExtType):
        return "msgspec.Raw and Ext belong to one codec, a payload to all: use Any"
    if isinstance(part, mi.MemoryViewType):
        return "a memoryview is not for payloads: use bytes"
    if isinstance(part, mi.CustomType):
        return f"{_name(part.cls)} is no type that a payload can have; {ACCEPTED}"
    if isinstance(part, mi.DictType) and not all(isinstance(key, _KEYS) for key in _key_types(part)):
        return (
            "a map's keys are strings in JSON: its key type must be str, a number, or what is written as one"
        )
    return None


def _beside_pydantic(part: mi.Type) -> str | None:
    """Why this part cannot stand beside a Pydantic type in one payload: Pydantic would misread it."""
    if isinstance(part, _RECORDS) and not _is_pydantic(part):
        return f"{_name(part.cls)} holds a Pydantic type: make it a Pydantic model too"
    if constraints := constraints_of(part):
        return f"Pydantic does not know msgspec.Meta({', '.join(constraints)}): use pydantic.Field"
    return None


def _is_pydantic(part: mi.Type) -> bool:
    """Known by its marks, so that Pydantic need not be installed."""
    marks = ("__pydantic_validator__", "__get_pydantic_core_schema__")
    return isinstance(part, mi.CustomType | mi.DataclassType) and any(
        hasattr(part.cls, mark) for mark in marks
    )


def _key_types(part: mi.DictType) -> Iterator[mi.Type]:
    for _, key in _parts(part.key_type, "$", set()):
        if not isinstance(key, mi.UnionType):
            yield key


def _keyed_loosely(part: mi.Type) -> bool:
    return isinstance(part, mi.DictType) and not all(isinstance(key, mi.StrType) for key in _key_types(part))


def _schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON Schema, with the type itself in the open unless it is recursive."""
    try:
        schema: dict[str, Any] = msgspec.json.schema(annotation)
    except KeyError as error:  # how msgspec fails where even the full names are the same
        raise TypeError(f"another class in it has the name of {error}") from error
    root = schema.get("$ref")
    if root is None or len(schema) > 2:
        return schema
    name = root.removeprefix("#/$defs/")
    definitions = dict(schema["$defs"])
    body = definitions.pop(name)
    if json.dumps(root) in json.dumps([body, definitions]):
        return schema
    return {**body, "$defs": definitions} if definitions else body


def _name(type_: Any) -> str:
    return type_.__qualname__ if isinstance(type_, type) else repr(type_)
