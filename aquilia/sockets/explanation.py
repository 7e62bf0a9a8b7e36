"""Every wrong field of a payload. msgspec stops at the first: this slow second pass finds them all.

The payload is walked along a plan made from `msgspec.inspect`, and each leaf is judged by msgspec itself. The
work is bounded, whatever a stranger sends: see `MAX_DETAILS` and `MAX_VISITS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from msgspec import inspect as mi

from aquilia.sockets.wording import LISTS, Words, another, kind_of, leaf_words, one_of, span, step, within

__all__ = [
    "MAX_DETAILS",
    "MAX_VISITS",
    "NATIVE_IN_BINARY",
    "READ_FAILURES",
    "Detail",
    "explain",
    "plan",
    "spoken",
]

Detail = dict[str, str]
"""`{"path": "$.items[2].id", "expected": "int", "got": "str"}`. No value is quoted: it may be a secret."""

MAX_DETAILS = 50
"""Wrong fields told for one payload."""

MAX_VISITS = 2_000
"""Values looked at in one payload."""

NATIVE_IN_BINARY = (bytes, bytearray)
READ_FAILURES = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for input that it refuses; UnicodeDecodeError is a ValueError."""


def explain(node: Node, value: Any, *, text: bool) -> list[Detail]:
    """Every wrong field of `value`, builtins; `text` where they are from JSON (bytes are base64)."""
    search = Search(text=text)
    with suppress(RecursionError):  # a publisher's own objects may contain themselves
        node.visit(value, "$", search)
    return search.details[:MAX_DETAILS]


def spoken(error: BaseException) -> Detail:
    """The one detail in msgspec's own message, such as "Expected `int`, got `str` - at `$.a`"."""
    what, _, where = str(error).partition(" - at ")
    detail = {"path": where.replace("`", "") or "$", "expected": what, "got": "another value"}
    if found := re.fullmatch(r"Expected (.*?)(?:, got (.*))?", what):
        detail["expected"] = found[1].replace("`", "")
        detail["got"] = (found[2] or detail["got"]).replace("`", "")
    return detail


class Search:
    """What one walk has found, and how much it may still look at."""

    def __init__(self, *, text: bool, visits: int = MAX_VISITS, key: bool = False) -> None:
        self.details: list[Detail] = []
        self.text = text
        self.visits = visits
        self.key = key
        """Whether it judges a key: there a string may stand for a number."""

    @property
    def over(self) -> bool:
        """Whether the walk has to stop."""
        return self.visits <= 0 or len(self.details) >= MAX_DETAILS

    def add(self, path: str, expected: str, got: str) -> None:
        self.details.append({"path": path, "expected": expected, "got": got})

    def refusal(self, value: Any, type_: Any) -> Exception | None:
        """Why msgspec does not take `value` for this type."""
        native = () if self.text else NATIVE_IN_BINARY
        try:
            msgspec.convert(value, type_, builtin_types=native, str_keys=True, strict=not self.key)
        except READ_FAILURES as error:
            return error
        return None

    def trial(self, node: Node, value: Any, path: str, *, key: bool = False) -> list[Detail]:
        """What `node` would find wrong, without recording it."""
        search = Search(text=self.text, visits=self.visits, key=key or self.key)
        node.visit(value, path, search)
        self.visits = search.visits
        return search.details


class Node(Protocol):
    """One type in the plan."""

    expected: str

    def takes(self, value: Any) -> bool:
        """Whether the value is of this type's kind, right or wrong: chooses among a union's members."""
        ...

    def visit(self, value: Any, path: str, search: Search) -> None:
        """Record in `search` all that is wrong with the value."""
        ...


class Anything:
    """`Any`: nothing is wrong."""

    expected = "any value"

    def takes(self, value: Any) -> bool:
        return True

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1


class Leaf:
    """A type without parts: msgspec judges it as a whole."""

    def __init__(self, words: Words) -> None:
        self.expected = words.expected
        self._words = words

    def takes(self, value: Any) -> bool:
        return type(value) in self._words.kinds

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1
        if search.refusal(value, self._words.type) is not None:
            search.add(
                path, self.expected, self._words.reason(value) if self.takes(value) else kind_of(value)
            )


class Member:
    """A field of a `Record`."""

    def __init__(self, key: str, node: Node, required: bool) -> None:
        self.key = key
        self.node = node
        self.required = required


class Record:
    """A map with known keys: a Struct, dataclass or TypedDict."""

    expected = "map"

    def __init__(self, info: mi.StructType | mi.DataclassType | mi.TypedDictType) -> None:
        self.members: list[Member] = []
        self.tag_field: str | None = getattr(info, "tag_field", None)
        self.tag: str | int | None = getattr(info, "tag", None)
        self._type = info.cls
        origin = origin_of(info)
        self._instance: tuple[type, ...] = () if isinstance(info, mi.TypedDictType) else (origin,)
        self._closed = getattr(info, "forbid_unknown_fields", False)
        self._checks_itself = hasattr(origin, "__post_init__") or hasattr(origin, "__attrs_attrs__")

    def takes(self, value: Any) -> bool:
        return isinstance(value, (dict, *self._instance))

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1
        if isinstance(value, self._instance):
            return
        if not isinstance(value, dict):
            search.add(path, self.expected, kind_of(value))
            return
        before = len(search.details)
        if self.tag_field is not None and self.tag_field in value and value[self.tag_field] != self.tag:
            search.add(step(path, self.tag_field), one_of([self.tag]), another(value[self.tag_field]))
        self._visit_members(value, path, search)
        if self._checks_itself and len(search.details) == before and not search.over:
            refusal = search.refusal(value, self._type)
            if refusal is not None:
                search.details.append(spoken(refusal) | {"path": path, "got": self.expected})

    def _visit_members(self, value: dict[Any, Any], path: str, search: Search) -> None:
        for member in self.members:
            if search.over:
                return
            if member.key in value:
                member.node.visit(value[member.key], step(path, member.key), search)
            elif member.required:
                search.add(step(path, member.key), member.node.expected, "missing")
        if self._closed:
            known = {member.key for member in self.members} | {self.tag_field}
            for key in value:
                if key not in known and not search.over:
                    search.add(step(path, key), "no such key", kind_of(value[key]))


class Items:
    """A list, set or tuple of any length."""

    def __init__(self, item: Node, low: int | None, high: int | None) -> None:
        self._item = item
        self._low, self._high = low or 0, high
        self.expected = "list" + span(low, high, " of length {}")

    def takes(self, value: Any) -> bool:
        return isinstance(value, LISTS)

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1
        if not self.takes(value):
            search.add(path, self.expected, kind_of(value))
            return
        if not within(len(value), self._low, self._high):
            search.add(path, self.expected, f"list of length {len(value)}")
        for index, item in enumerate(value):
            if search.over:
                return
            self._item.visit(item, step(path, index), search)


class Row:
    """A list with a type for each place: a tuple, a NamedTuple or an array-like Struct."""

    def __init__(self, required: int, total: int | None, instance: tuple[type, ...] = ()) -> None:
        self.places: list[Node] = []
        self._low, self._high = required, total
        self._instance = instance
        self.expected = "list" + span(required or None, total, " of length {}")

    def takes(self, value: Any) -> bool:
        return isinstance(value, (*LISTS, *self._instance))

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1
        if isinstance(value, self._instance):
            return
        if not self.takes(value):
            search.add(path, self.expected, kind_of(value))
            return
        if not within(len(value), self._low, self._high):
            search.add(path, self.expected, f"list of length {len(value)}")
        for index, (place, item) in enumerate(zip(self.places, value, strict=False)):
            if search.over:
                return
            place.visit(item, step(path, index), search)


class Mapping:
    """A map with keys of one type and values of one type."""

    def __init__(self, key: Node, value: Node, low: int | None, high: int | None) -> None:
        self._key, self._value = key, value
        self._low, self._high = low or 0, high
        self.expected = "map" + span(low, high, " of size {}")

    def takes(self, value: Any) -> bool:
        return isinstance(value, dict)

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1
        if not self.takes(value):
            search.add(path, self.expected, kind_of(value))
            return
        if not within(len(value), self._low, self._high):
            search.add(path, self.expected, f"map of size {len(value)}")
        for key, item in value.items():
            if search.over:
                return
            where = step(path, key)
            for wrong in search.trial(self._key, key, where, key=True):
                search.add(where, f"key: {wrong['expected']}", f"key: {wrong['got']}")
            self._value.visit(item, where, search)


class Union:
    """One of several types. msgspec allows at most one of each kind, and tagged Structs."""

    def __init__(self, members: Sequence[Node]) -> None:
        self._members = members
        self._tagged = {m.tag: m for m in members if isinstance(m, Record) and m.tag_field is not None}
        self._tag_field = next((m.tag_field for m in self._tagged.values()), None)
        self.expected = " or ".join(dict.fromkeys(member.expected for member in members))

    def takes(self, value: Any) -> bool:
        return any(member.takes(value) for member in self._members)

    def visit(self, value: Any, path: str, search: Search) -> None:
        search.visits -= 1
        if isinstance(value, dict) and len(self._tagged) > 1:
            self._visit_tagged(value, path, search)
            return
        found: list[Detail] | None = None
        for member in self._members:
            if search.key or member.takes(value):
                wrong = search.trial(member, value, path)
                if not wrong:
                    return
                found = found or wrong
        if found:
            search.details += found
        else:
            search.add(path, self.expected, kind_of(value))

    def _visit_tagged(self, value: dict[Any, Any], path: str, search: Search) -> None:
        where = step(path, self._tag_field)
        if self._tag_field not in value:
            search.add(where, one_of(self._tagged), "missing")
            return
        tag = value[self._tag_field]
        member = self._tagged.get(tag) if isinstance(tag, str | int) else None
        if member is None:
            search.add(where, one_of(self._tagged), another(tag))
        else:
            member.visit(value, path, search)


def origin_of(info: mi.StructType | mi.DataclassType | mi.TypedDictType | mi.NamedTupleType) -> type:
    """The class of a type that may be a generic one with its arguments."""
    origin: type = getattr(info.cls, "__origin__", info.cls)
    return origin


def plan(info: mi.Type) -> Node:
    """The plan for a type as `msgspec.inspect.type_info` tells it. A recursive type is a plan with cycles."""
    return Planner().node(info)


class Planner:
    """Makes one node of each type, and each class but once, so that recursive types end."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._rows: dict[int, Row] = {}

    def node(self, info: mi.Type) -> Node:
        while isinstance(info, mi.Metadata):
            info = info.type
        match info:
            case mi.AnyType():
                return Anything()
            case mi.StructType(array_like=False) | mi.DataclassType() | mi.TypedDictType():
                return self._record(info)
            case mi.StructType(tag=None) | mi.NamedTupleType():
                return self._row(info)
            case mi.TupleType(item_types=types):
                row = Row(len(types), len(types))
                row.places += [self.node(item) for item in types]
                return row
            case mi.CollectionType(item_type=item, min_length=low, max_length=high):
                return Items(self.node(item), low, high)
            case mi.DictType(key_type=key, value_type=value, min_length=low, max_length=high):
                return Mapping(self.node(key), self.node(value), low, high)
            case mi.UnionType(types=types):
                return Union([self.node(member) for member in types])
        return Leaf(leaf_words(info))

    def _record(self, info: mi.StructType | mi.DataclassType | mi.TypedDictType) -> Record:
        if id(info) not in self._records:
            record = self._records[id(info)] = Record(info)
            for field in info.fields:
                record.members.append(Member(field.encode_name, self.node(field.type), field.required))
        return self._records[id(info)]

    def _row(self, info: mi.StructType | mi.NamedTupleType) -> Row:
        if id(info) not in self._rows:
            longer = isinstance(info, mi.StructType) and not info.forbid_unknown_fields
            required = sum(field.required for field in info.fields)
            row = self._rows[id(info)] = Row(
                required, None if longer else len(info.fields), (origin_of(info),)
            )
            row.places += [self.node(field.type) for field in info.fields]
        return self._rows[id(info)]
