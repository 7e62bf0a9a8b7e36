"""`Schema`: the type of a payload, declared in place as a dict. `payload_type` takes it, or any other type.

What is wrong with a declaration is told when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import GenericAlias
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from aquilia.sockets.envelope import MAX_NESTING
from aquilia.sockets.payload import PayloadError, PayloadType, SchemaError, checked_type, typed_payload
from aquilia.sockets.wording import step

__all__ = ["PayloadError", "PayloadType", "Schema", "SchemaError", "payload_type"]

CONSTRAINTS = (
    "gt",
    "ge",
    "lt",
    "le",
    "multiple_of",
    "min_length",
    "max_length",
    "pattern",
    "tz",
    "title",
    "description",
    "examples",
    "extra_json_schema",
    "extra",
)
_typed_dict: Any = TypedDict  # called as no checker of types expects


class Schema:
    """The type of a payload that is a dict, declared in place. Keys that it does not name are dropped.

    A value is a type, `(type, constraints)` with the names of `msgspec.Meta`, a nested dict, or a list of one
    such item; a key that ends in `?` is optional::

        Schema({"text": (str, {"min_length": 1, "max_length": 500}), "tags?": [str], "author": {"id": int}})

    `type` is the TypedDict that it stands for.

    Raises:
        SchemaError: the declaration is wrong; its `path` is the key.
    """

    def __init__(self, declaration: Mapping[str, Any]) -> None:
        if not isinstance(declaration, Mapping):
            raise SchemaError("$", f"a Schema is declared by a dict, not by {declaration!r}")
        self._declaration = _kept(declaration, "$")
        self.type: Any = _Compiler().typed_dict(self._declaration, "$", "Payload")
        self._payload = payload_type(self.type)

    def validate(self, payload: Any) -> dict[str, Any]:
        """The payload, checked: a new dict of the declared keys.

        Raises:
            SocketFault: WS_MESSAGE_INVALID, with every wrong field in `details`.
        """
        valid: dict[str, Any] = self._payload.received(payload)
        return valid

    def __eq__(self, other: object) -> bool:
        return self._declaration == other._declaration if isinstance(other, Schema) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._declaration))

    def __repr__(self) -> str:
        return f"Schema({_shown(self._declaration)})"


class _Compiler:
    """Turns a declaration into types. Each nested map gets a name of its own, for the JSON Schema."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def typed_dict(self, declaration: Mapping[Any, Any], path: str, name: str) -> Any:
        name = self._unused(name)
        fields: dict[str, Any] = {}
        for declared, value in declaration.items():
            if not isinstance(declared, str):
                raise SchemaError(path, f"a key is a string, {declared!r} is not")
            key = declared.removesuffix("?")
            where = step(path, key)
            if not key:
                raise SchemaError(path, f"{declared!r} is no key")
            if key in fields:
                raise SchemaError(where, "declared both as required and as optional")
            type_ = self.type(value, where, name + "".join(filter(str.isalnum, key.title())))
            fields[key] = type_ if key == declared else NotRequired[type_]
        return _typed_dict(name, fields)

    def type(self, value: Any, path: str, name: str) -> Any:
        if isinstance(value, Schema):
            return self.typed_dict(value._declaration, path, name)
        if isinstance(value, Mapping):
            return self.typed_dict(value, path, name)
        if isinstance(value, list):
            if len(value) != 1:
                raise SchemaError(path, f"a list is declared by its one item, as [str]; {value!r} is not")
            return GenericAlias(list, self.type(value[0], f"{path}[]", f"{name}Item"))
        if isinstance(value, tuple):
            return self._constrained(value, path, name)
        return checked_type(value, path)

    def _constrained(self, value: tuple[Any, ...], path: str, name: str) -> Any:
        if len(value) != 2 or not isinstance(value[1], Mapping):
            raise SchemaError(
                path, f"{value!r} is no (type, constraints), such as (str, {{'min_length': 1}})"
            )
        for constraint in value[1]:
            if constraint not in CONSTRAINTS:
                near = get_close_matches(str(constraint), CONSTRAINTS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise SchemaError(
                    path, f"unknown constraint {constraint!r}{hint} (accepted: {', '.join(CONSTRAINTS)})"
                )
        type_ = self.type(value[0], path, name)
        try:
            meta = msgspec.Meta(**value[1])
        except Exception as error:  # a pattern that is no regular expression raises re.error
            raise SchemaError(path, f"the constraints {dict(value[1])!r} are wrong: {error}") from error
        return checked_type(Annotated[type_, meta], path)

    def _unused(self, name: str) -> str:
        number, free = 2, name
        while free in self._names:
            number, free = number + 1, f"{name}{number}"
        self._names.add(free)
        return free


def payload_type(source: Any) -> PayloadType:
    """The payload type that `source` declares: a `Schema`, a type, or None for anything.

    Types are what msgspec decodes (Struct, dataclass, TypedDict, builtins, unions …) and what Pydantic does.

    Raises:
        SchemaError: no payload can be of this type.
    """
    if source is None:
        return typed_payload(Any)
    return typed_payload(source.type if isinstance(source, Schema) else source)


def _kept(value: Any, path: str, depth: int = 1) -> Any:
    """A copy of a declaration, which later changes to the original leave alone."""
    if depth > MAX_NESTING:
        raise SchemaError(path, f"nested deeper than {MAX_NESTING}")
    if isinstance(value, Mapping):
        return {key: _kept(item, step(path, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_kept(item, f"{path}[]", depth + 1) for item in value)
    return value


def _shown(value: Any) -> str:
    """A declaration as it was written, near enough."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return value.__qualname__ if type(value) is type else repr(value)
