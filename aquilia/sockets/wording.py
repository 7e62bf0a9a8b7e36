"""Types and values in words, for telling a peer what a field should have been. No value is ever quoted."""

from __future__ import annotations

import datetime as dt
import decimal
import operator
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import inspect as mi

__all__ = ["Words", "another", "constraints_of", "kind_of", "leaf_words", "one_of", "span", "step", "within"]

LISTS = (list, tuple, set, frozenset)
_KINDS = {type(None): "null", dict: "map", list: "list", tuple: "list", set: "list", frozenset: "list"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_SHOWN = 40


def kind_of(value: Any) -> str:
    """The wire's word for a value's type: null, map, list, else the name of the Python type."""
    return _KINDS.get(type(value)) or type(value).__name__


def step(path: str, key: Any) -> str:
    """The path of an item or a key under `path`, as in msgspec's own messages."""
    if type(key) is int:
        return f"{path}[{key}]"
    shown = str(key)[:_KEY_SHOWN]
    return f"{path}.{shown}" if _IDENTIFIER.fullmatch(shown) else f"{path}[{shown!r}]"


def within(size: int, low: int, high: int | None) -> bool:
    """Whether a size keeps its bounds."""
    return size >= low and (high is None or size <= high)


def span(low: Any, high: Any, words: str) -> str:
    """The bounds in words, put into `words`; nothing where there are none."""
    if low is None and high is None:
        return ""
    if low == high:
        return words.format(low)
    if high is None:
        return words.format(f"at least {low}")
    return words.format(f"at most {high}" if low is None else f"{low} to {high}")


def one_of(values: Iterable[Any]) -> str:
    """What an enumeration accepts."""
    shown = [repr(value) for value in values]
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"


def another(value: Any) -> str:
    """A value that an enumeration does not have; not quoted, since it may be a secret in the wrong field."""
    return f"another {kind_of(value)}"


_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "tz")
_LEAVES: dict[type[mi.Type], tuple[type, str, tuple[type, ...]]] = {
    mi.NoneType: (type(None), "null", (type(None),)),
    mi.BoolType: (bool, "bool", (bool,)),
    mi.IntType: (int, "int", (int,)),
    mi.FloatType: (float, "float", (float, int)),
    mi.StrType: (str, "str", (str,)),
    mi.BytesType: (bytes, "bytes", (bytes, bytearray)),
    mi.ByteArrayType: (bytearray, "bytes", (bytes, bytearray)),
    mi.DateTimeType: (dt.datetime, "datetime (RFC 3339)", (str, dt.datetime)),
    mi.DateType: (dt.date, "date (RFC 3339)", (str, dt.date)),
    mi.TimeType: (dt.time, "time (RFC 3339)", (str, dt.time)),
    mi.TimeDeltaType: (dt.timedelta, "duration (ISO 8601)", (str, dt.timedelta)),
    mi.UUIDType: (uuid.UUID, "UUID", (str, uuid.UUID)),
    mi.DecimalType: (decimal.Decimal, "decimal", (str, int, float, decimal.Decimal)),
}


def constraints_of(info: mi.Type) -> dict[str, Any]:
    """The constraints that a type carries, by their names in `msgspec.Meta`."""
    found = {name: getattr(info, name, None) for name in _CONSTRAINTS}
    return {name: value for name, value in found.items() if value is not None}


class Words(NamedTuple):
    """A type without parts: what msgspec judges it by, and what to tell of it."""

    type: Any
    expected: str
    kinds: tuple[type, ...]
    """The types of the values that are of its kind, right or wrong."""
    reason: Callable[[Any], str]
    """What a wrong value of its kind is."""


def leaf_words(info: mi.Type) -> Words:
    """The words for a type without parts."""
    if isinstance(info, mi.EnumType):
        values = [member.value for member in info.cls]
        return Words(info.cls, one_of(values), (info.cls, *map(type, values)), another)
    if isinstance(info, mi.LiteralType):
        return Words(Literal[info.values], one_of(info.values), tuple(map(type, info.values)), another)
    if isinstance(info, mi.StructType):  # array-like with a tag: as good as atomic
        return Words(info.cls, "list", LISTS, another)
    type_, word, kinds = _LEAVES[type(info)]
    limits = constraints_of(info)
    if not limits:
        return Words(type_, word, kinds, another)
    constrained = Annotated[type_, msgspec.Meta(**limits)]  # type: ignore[valid-type]
    expected = f"{word} {' and '.join(in_words(limits))}"
    return Words(constrained, expected, kinds, lambda value: breach(value, limits))


def in_words(limits: dict[str, Any]) -> Iterator[str]:
    """What the constraints of a leaf ask for."""
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None:
        yield f"from {low} to {high}"
    else:
        words = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}
        yield from (words[name].format(limits[name]) for name in words if name in limits)
    if "multiple_of" in limits:
        yield f"a multiple of {limits['multiple_of']}"
    if length := span(limits.get("min_length"), limits.get("max_length"), "of length {}"):
        yield length
    if "pattern" in limits:
        yield f"matching {limits['pattern']!r}"
    if "tz" in limits:
        yield "with a time zone" if limits["tz"] else "without a time zone"


def breach(value: Any, limits: dict[str, Any]) -> str:
    """How a value of the right kind breaks its constraints, without quoting it."""
    kind = kind_of(value)
    if not isinstance(value, str | bytes | bytearray):
        for name, breaks, word in _BOUNDS:
            if name in limits and breaks(value, limits[name]):
                return f"{kind} {word} {limits[name]}"
    elif not within(len(value), limits.get("min_length", 0), limits.get("max_length")):
        return f"{kind} of length {len(value)}"
    return another(value)


_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("ge", operator.lt, "below"),
    ("gt", operator.le, "not above"),
    ("le", operator.gt, "above"),
    ("lt", operator.ge, "not below"),
)
