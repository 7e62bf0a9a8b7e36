"""Where errors say that something stands."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from aquilia.source import SourceLocation


def marked(target: Any) -> Any:
    return target


def marking(*_: int) -> Any:
    return marked


class Twice:
    pass


class Plain:
    pass


@marked
# Between two decorators.
@marking(
    1,
    2,
)
class Decorated:
    @marked
    def method(self) -> None: ...


def inner() -> type:
    class Twice:
        @staticmethod
        def method() -> None: ...

    return Twice


def line_of(text: str, number: int = 0) -> int:
    lines = inspect.getsource(inspect.getmodule(line_of) or line_of).splitlines()
    return [index for index, line in enumerate(lines, 1) if line.strip().startswith(text)][number]


@pytest.mark.parametrize(
    ("target", "text", "number"),
    [
        pytest.param(Plain, "class Plain", 0, id="class"),
        pytest.param(Decorated, "@marked", 0, id="class, from its first decorator on"),
        pytest.param(Decorated.method, "@marked", 1, id="method, from its first decorator on"),
        pytest.param(inner(), "class Twice", 1, id="one of two classes with the same name"),
        pytest.param(line_of, "def line_of", 0, id="function"),
    ],
)
def test_the_place_is_the_line_where_it_stands(target: Any, text: str, number: int) -> None:
    place = SourceLocation.of(target)
    assert (place.file, place.line) == (__file__, line_of(text, number))
    assert str(place) == f"{__file__}:{place.line}"


@pytest.mark.parametrize("target", [int, type("Made", (), {}), print], ids=["builtin", "made", "C function"])
def test_what_has_no_source_is_said_to_be_unknown(target: Any) -> None:
    assert str(SourceLocation.of(target)) == "<unknown>"
