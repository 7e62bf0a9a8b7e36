"""Where something stands in the source: what an error message points at."""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["SourceLocation"]

_UNKNOWN = "<unknown>"


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """A line of a file: that of the first decorator, else that of `class` or `def`."""

    file: str
    line: int

    @classmethod
    def of(cls, target: Callable[..., Any] | type) -> SourceLocation:
        """The place of a function or class, as far as Python knows it."""
        target = inspect.unwrap(target)
        code = getattr(target, "__code__", None)
        if code is not None:
            return cls(code.co_filename, code.co_firstlineno)
        try:
            file = inspect.getsourcefile(target) or _UNKNOWN
        except (OSError, TypeError):
            return cls(_UNKNOWN, 0)
        line = _line_of_class(target, file) if isinstance(target, type) else 0
        return cls(file, line) if line else cls(_UNKNOWN, 0)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


def _line_of_class(target: type, file: str) -> int:
    """Its first line, or 0. `inspect` would parse the whole file for each class, up to Python 3.12."""
    begins = re.compile(rf"\s*class\s+{target.__name__}\b")
    lines = linecache.getlines(file)
    found = [number for number, text in enumerate(lines, 1) if begins.match(text)]
    # Of several classes with this name, it is the last one before its first method.
    first = min((line for value in vars(target).values() if (line := _first_line(value, file))), default=0)
    before = [line for line in found if line < first]
    line = before[-1] if before else next(iter(found), 0)
    return _above(lines, line) if line else 0


def _above(lines: list[str], line: int) -> int:
    """The line of the first decorator above a line, or that line."""
    indent = _indent(lines[line - 1])
    first = line
    for number in range(line - 1, 0, -1):
        text = lines[number - 1]
        # What is further in, or only ends something, may belong to a decorator of several lines.
        if text.strip() and _indent(text) <= indent and text.lstrip()[0] not in "@)]}#":
            break
        if text.lstrip().startswith("@") and _indent(text) == indent:
            first = number
    return first


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _first_line(value: Any, file: str) -> int:
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return code.co_firstlineno if code is not None and code.co_filename == file else 0
