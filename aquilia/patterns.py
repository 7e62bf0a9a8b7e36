"""Path patterns: `/chat/:room`, `/item/:id:int`, `/files/*rest`.

A segment of a pattern is static text, a parameter `:name` or `:name:kind`, or, in the last place, `*name`,
which is short for `:name:path` and takes one or more segments, never none. The kinds are `str` (any one
segment), `int`, `float`, `uuid` and `path`.

Both sides are normalised and decoded: a pattern is written as people read it (`/café`), and a path is what
ASGI calls `scope["path"]`. What could give one place two names never matches: `.` and `..` segments, control
characters, and what is not valid Unicode (a lone surrogate, or U+FFFD, which stands for any bytes that were
not UTF-8).
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

__all__ = [
    "Match",
    "Parameter",
    "Pattern",
    "PatternConflict",
    "PatternError",
    "PatternTable",
    "compile_pattern",
    "normalise_path",
]

T = TypeVar("T")

_UNTOUCHABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
_DOTS = frozenset({".", ".."})


class PatternError(ValueError):
    """A pattern that cannot be compiled, or a value that `Pattern.build` cannot place in it."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(source, problem)
        self.source = source
        self.problem = problem

    def __str__(self) -> str:
        return f"path pattern {self.source!r}: {self.problem}"


class PatternConflict(PatternError):
    """Two patterns of one table match the same paths: `source` at `where`, and the earlier `other`."""

    def __init__(self, source: str, where: str, other: str, other_where: str) -> None:
        super().__init__(source, f"matches the same paths as {other!r}")
        self.where = where
        self.other = other
        self.other_where = other_where

    def __str__(self) -> str:
        return (
            f"path pattern {self.source!r} ({self.where}) matches the same paths as "
            f"{self.other!r} ({self.other_where})"
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of parameter reads a segment (None: not one of mine), and which values write one."""

    name: str
    read: Callable[[str], Any]
    values: tuple[type, ...]


_INT = re.compile(r"-?[0-9]{1,18}")  # always within 64 bits, and never a long conversion
_FLOAT = re.compile(r"-?[0-9]{1,32}(?:\.[0-9]{1,32})?(?:[eE][+-]?[0-9]{1,3})?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _read_int(segment: str) -> int | None:
    return int(segment) if _INT.fullmatch(segment) else None


def _read_float(segment: str) -> float | None:
    if not _FLOAT.fullmatch(segment):
        return None
    value = float(segment)
    return value if math.isfinite(value) else None


def _read_uuid(segment: str) -> uuid.UUID | None:
    return uuid.UUID(segment) if _UUID.fullmatch(segment) else None


def _read_str(segment: str) -> str | None:
    return segment if segment and "/" not in segment and _clean(segment) else None


def _read_path(rest: str) -> str | None:
    return rest if normalise_path(rest) == f"/{rest}" and rest and _clean(rest) else None


_KINDS = {
    kind.name: kind
    for kind in (  # the narrowest first: this order is their precedence
        _Kind("int", _read_int, (int,)),
        _Kind("uuid", _read_uuid, (uuid.UUID,)),
        _Kind("float", _read_float, (float, int)),
        _Kind("str", _read_str, (str,)),
        _Kind("path", _read_path, (str,)),
    )
}
_PRECEDENCE = {name: rank for rank, name in enumerate(_KINDS)}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a pattern. `kind` is "str", "int", "float", "uuid" or "path".

    An int has up to 18 digits, so it fits 64 bits; a float is finite; a uuid has its hyphens (RFC 9562). One
    value can have several spellings (`7` and `007`): those remain different paths.
    """

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern, made by `compile_pattern`.

    `segments` holds static text and parameters in order; two patterns of one `shape` match the same paths.
    """

    source: str
    segments: tuple[str | Parameter, ...] = field(repr=False)
    parameters: tuple[Parameter, ...]
    shape: str

    def match(self, path: str) -> dict[str, Any] | None:
        """The parameters that this path gives, converted to their kinds; None if it does not match."""
        segments = _segments(path)
        if segments is None or len(segments) < len(self.segments):
            return None
        if self.parameters and self.parameters[-1].kind == "path":
            head = len(self.segments) - 1
            segments[head:] = ["/".join(segments[head:])]
        if len(segments) != len(self.segments):
            return None
        params: dict[str, Any] = {}
        for expected, segment in zip(self.segments, segments, strict=True):
            if isinstance(expected, str):
                if segment != expected:
                    return None
            else:
                value = _KINDS[expected.kind].read(segment)
                if value is None:
                    return None
                params[expected.name] = value
        return params

    def build(self, /, **params: Any) -> str:
        """The path that matches with exactly these parameters, decoded: quote it for use in a URL.

        Raises PatternError for a missing or unknown parameter, and for a value that its kind would not read.
        """
        names = [parameter.name for parameter in self.parameters]
        for name in params:
            if name not in names:
                raise PatternError(self.source, f"has no parameter {name!r}{_hint(name, names)}")
        return "/" + "/".join(
            segment if isinstance(segment, str) else self._written(segment, params)
            for segment in self.segments
        )

    def _written(self, parameter: Parameter, params: dict[str, Any]) -> str:
        if parameter.name not in params:
            raise PatternError(self.source, f"parameter {parameter.name!r} is missing")
        value, kind = params[parameter.name], _KINDS[parameter.kind]
        text = value if isinstance(value, str) else str(value)
        if not isinstance(value, kind.values) or kind.read(text) is None:
            raise PatternError(self.source, f"parameter {parameter.name!r} is no {kind.name}: {value!r}")
        return text


def normalise_path(path: str) -> str:
    """The one spelling of a decoded path: no duplicate or trailing slash, always a leading one."""
    return "/" + "/".join(filter(None, path.split("/")))


def compile_pattern(source: str) -> Pattern:
    """Compile a pattern. Duplicate and trailing slashes are dropped from it, as from a path.

    Raises PatternError for bad syntax, duplicate names and unknown kinds.
    """
    if not source.startswith("/"):
        raise PatternError(source, f'begins with "/": write {"/" + source!r}')
    written = [segment for segment in source.split("/") if segment]
    segments = tuple(_compiled_segment(source, segment) for segment in written)
    parameters = tuple(segment for segment in segments if isinstance(segment, Parameter))
    names = [parameter.name for parameter in parameters]
    for parameter in parameters:
        if names.count(parameter.name) > 1:
            raise PatternError(source, f"has the parameter {parameter.name!r} twice")
        if parameter.kind == "path" and parameter is not segments[-1]:
            raise PatternError(source, f"only its last segment can be a path, and {parameter.name!r} is not")
    shape = "/" + "/".join(
        segment if isinstance(segment, str) else f":{segment.kind}" for segment in segments
    )
    return Pattern(normalise_path(source), segments, parameters, shape)


_MISPLACED = {
    **dict.fromkeys(":*", "a parameter fills a whole segment"),
    **dict.fromkeys("{}<>", 'a parameter is written ":name" or ":name:int"'),
    **dict.fromkeys("?#", "a pattern holds no query and no fragment"),
    "%": 'a pattern is written decoded: "é", not "%C3%A9"',
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _compiled_segment(source: str, segment: str) -> str | Parameter:
    if segment[0] not in ":*":
        for character in segment:
            if character in _MISPLACED:
                raise PatternError(source, f"{character!r} in {segment!r}: {_MISPLACED[character]}")
        if segment in _DOTS or not _clean(segment):
            raise PatternError(source, f"no path matches the segment {segment!r}")
        return segment
    name, colon, kind = segment[1:].partition(":")
    if not _NAME.fullmatch(name):
        raise PatternError(source, f"{segment!r}: a parameter's name is an identifier, as ':room_id'")
    if segment[0] == "*":
        if colon:
            raise PatternError(source, f"{segment!r}: write '*{name}', which has no kind but path")
        return Parameter(name, "path")
    if not colon:
        return Parameter(name, "str")
    if kind not in _KINDS:
        raise PatternError(
            source, f"{segment!r}: there is no kind {kind!r}, only {', '.join(_KINDS)}{_hint(kind, _KINDS)}"
        )
    return Parameter(name, kind)


def _clean(text: str) -> bool:
    return not _UNTOUCHABLE.search(text) and _DOTS.isdisjoint(text.split("/"))


def _segments(path: str) -> list[str] | None:
    return [segment for segment in path.split("/") if segment] if _clean(path) else None


def _hint(name: str, known: Sequence[str] | dict[str, _Kind]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """What a path matched: the value, its pattern, the converted parameters, and the normalised path."""

    value: T
    pattern: Pattern
    params: dict[str, Any]
    path: str


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    pattern: Pattern
    value: T
    where: str


class _Node(Generic[T]):
    __slots__ = ("dynamic", "entry", "static")

    def __init__(self) -> None:
        self.static: dict[str, _Node[T]] = {}
        self.dynamic: dict[str, _Node[T]] = {}  # by kind, in the order of precedence
        self.entry: _Entry[T] | None = None

    def child(self, segment: str | Parameter) -> _Node[T]:
        if isinstance(segment, str):
            return self.static.setdefault(segment, _Node())
        if segment.kind not in self.dynamic:
            self.dynamic[segment.kind] = _Node()
            self.dynamic = dict(sorted(self.dynamic.items(), key=lambda item: _PRECEDENCE[item[0]]))
        return self.dynamic[segment.kind]

    def find(self, segments: Sequence[str], at: int, values: list[Any]) -> _Entry[T] | None:
        """The first entry, in the order of precedence, for the segments from `at` on.

        `values` collects what its parameters read. Each node is visited at most once, however long the path.
        """
        if at == len(segments):
            return self.entry
        child = self.static.get(segments[at])
        if child is not None and (found := child.find(segments, at + 1, values)):
            return found
        for kind, child in self.dynamic.items():
            end = len(segments) if kind == "path" else at + 1
            value = _KINDS[kind].read("/".join(segments[at:end]))
            if value is None:
                continue
            values.append(value)
            if found := child.find(segments, end, values):
                return found
            values.pop()
        return None


class PatternTable(Generic[T]):
    """Patterns with a value each. Precedence is decided segment by segment, from the left.

    Static text comes first, then int, uuid and float, then str, then the rest of the path. A choice that
    leads nowhere further right is taken back.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._entries: list[_Entry[T]] = []

    def add(self, source: str, value: T, *, where: str) -> Pattern:
        """Compile and add a pattern; `where` is the place of its declaration, for error messages.

        Raises PatternError, and PatternConflict for a pattern of the same shape as an earlier one.
        """
        pattern = compile_pattern(source)
        node = self._root
        for segment in pattern.segments:
            node = node.child(segment)
        if (other := node.entry) is not None:
            raise PatternConflict(pattern.source, where, other.pattern.source, other.where)
        node.entry = _Entry(pattern, value, where)
        self._entries.append(node.entry)
        return pattern

    def match(self, path: str) -> Match[T] | None:
        """What a decoded path matches, or None."""
        segments = _segments(path)
        if segments is None:
            return None
        values: list[Any] = []
        entry = self._root.find(segments, 0, values)
        if entry is None:
            return None
        names = (parameter.name for parameter in entry.pattern.parameters)
        params = dict(zip(names, values, strict=True))
        return Match(entry.value, entry.pattern, params, "/" + "/".join(segments))

    def __iter__(self) -> Iterator[tuple[Pattern, T]]:
        return ((entry.pattern, entry.value) for entry in self._entries)
