"""A JSON Schema in short, for people: `{text: string 1..500, tags?: [string]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["shape"]

Schema = Mapping[str, Any]

_NOTES = (
    ("multipleOf", "multiple of {}"),
    ("pattern", "/{}/"),
    ("format", "{}"),
    ("contentEncoding", "{}"),
)
_RANGES = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
)


def shape(schema: Schema) -> str:
    """The schema in one line. What refers to itself is named, not repeated."""
    return _Reader(schema.get("$defs", {})).read(schema)


class _Reader:
    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._open: list[str] = []

    def read(self, schema: Schema | bool) -> str:
        if isinstance(schema, bool):
            return "any" if schema else "nothing"
        if "$ref" in schema:
            return self._referenced(schema["$ref"])
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return " | ".join(dict.fromkeys(self.read(option) for option in schema[choice]))
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return " | ".join(map(_literal, schema["enum"]))
        kinds = schema.get("type", "any")
        if isinstance(kinds, list):
            return " | ".join(self.read({**schema, "type": kind}) for kind in kinds)
        return self._typed(schema, kinds)

    def _referenced(self, reference: str) -> str:
        name = reference.rpartition("/")[2]
        if name in self._open or name not in self._definitions:
            return name
        self._open.append(name)
        try:
            return self.read(self._definitions[name])
        finally:
            self._open.pop()

    def _typed(self, schema: Schema, kind: str) -> str:
        if kind == "object":
            text = self._object(schema)
        elif kind == "array":
            text = self._array(schema)
        else:
            text = kind
        return " ".join([text, *_constraints(schema)])

    def _object(self, schema: Schema) -> str:
        required = schema.get("required", ())
        fields = [
            f"{name}{'' if name in required else '?'}: {self.read(value)}"
            for name, value in schema.get("properties", {}).items()
        ]
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping):
            fields.append(f"…: {self.read(others)}")
        return f"{{{', '.join(fields)}}}" if fields else "object"

    def _array(self, schema: Schema) -> str:
        items = [self.read(item) for item in schema.get("prefixItems", ())]
        if schema.get("items"):
            items.append(self.read(schema["items"]))
        return f"[{', '.join(items)}]"


def _constraints(schema: Schema) -> list[str]:
    # A tuple's length is told by its items.
    ranges = [(low, high) for low, high in _RANGES if "prefixItems" not in schema or low != "minItems"]
    found = [_range(schema.get(low), schema.get(high)) for low, high in ranges]
    found += [f"> {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema else []
    found += [f"< {schema['exclusiveMaximum']}"] if "exclusiveMaximum" in schema else []
    found += [words.format(schema[key]) for key, words in _NOTES if key in schema]
    return [each for each in found if each]


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"{'' if low is None else low}..{'' if high is None else high}"


def _literal(value: Any) -> str:
    return msgspec.json.encode(value).decode()
