"""What a constructor, handler or factory says of its parameters, and what is wrong with those that do not."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Generic, NamedTuple, Protocol, TypeVar

import msgspec
import pytest
from pydantic import BaseModel

from aquilia.di import (
    Consumer,
    Dependency,
    DIError,
    Scope,
    Services,
    call_dependencies,
    constructor_dependencies,
    service,
)
from aquilia.source import SourceLocation

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")


class Database: ...


class Repo:
    def __init__(self, database: Database, *, name: Annotated[str, "meta"], limit: int = 3) -> None: ...


def message(function, *arguments, **keywords) -> str:
    with pytest.raises(DIError) as caught:
        function(*arguments, **keywords)
    assert {problem.kind for problem in caught.value.problems} == {"signature"}
    return str(caught.value)


def test_string_annotations_are_resolved_and_keep_their_metadata():
    assert constructor_dependencies(Repo) == (
        Dependency("database", Database, required=True),
        Dependency("name", Annotated[str, "meta"], required=True),
        Dependency("limit", int, required=False),
    )


def test_an_inherited_constructor_counts():
    class Special(Repo): ...

    assert constructor_dependencies(Special) == constructor_dependencies(Repo)


class Speaks(Protocol):
    def speak(self) -> str: ...


class Dog(Speaks): ...


class Bag(dict): ...


class Empty: ...


def test_a_class_without_a_constructor_of_its_own_needs_nothing():
    for cls in (Empty, Bag, Dog):
        assert constructor_dependencies(cls) == ()


class Point(NamedTuple):
    database: Database
    label: str = "here"


class Model(BaseModel):
    limit: int = 3


class Packed(msgspec.Struct):
    database: Database


@dataclass
class Row:
    database: Database


def test_models_and_dataclasses_and_named_tuples_need_their_fields():
    database = Dependency("database", Database)
    assert constructor_dependencies(Point) == (database, Dependency("label", str, required=False))
    assert constructor_dependencies(Model) == (Dependency("limit", int, required=False),)
    assert constructor_dependencies(Packed) == (database,)
    assert constructor_dependencies(Row) == (database,)


def test_a_dataclass_inherits_fields_that_only_its_base_can_resolve(monkeypatch):
    module = types.ModuleType("elsewhere")
    monkeypatch.setitem(__import__("sys").modules, "elsewhere", module)
    source = """
from __future__ import annotations
from dataclasses import dataclass
class Hidden: ...
@dataclass
class Base:
    hidden: Hidden
"""
    exec(source, vars(module))

    @dataclass
    class Derived(module.Base):
        database: Database

    hidden, database = constructor_dependencies(Derived)
    assert (hidden.type, database.type) == (module.Hidden, Database)


class Rows(Generic[T]):
    def __init__(self, kind: type[T], rows: list[T], one: T) -> None: ...


class Middle(Rows[tuple[T, int]], Generic[T]): ...


class Plain(Middle[Database]): ...


class Bare(Rows): ...


class Mixed(Empty, Middle[str]): ...


def test_type_variables_of_a_generic_base_are_filled_in():
    pair = tuple[Database, int]
    assert [each.type for each in constructor_dependencies(Plain)] == [type[pair], list[pair], pair]
    assert constructor_dependencies(Mixed)[2].type == tuple[str, int]
    assert [each.type for each in constructor_dependencies(Bare)] == [type[T], list[T], T]


class Controller:
    async def handle(self, conn, payload: dict, database: Database, *, limit: int = 1) -> None: ...

    async def left(self, conn) -> None: ...

    @functools.cache  # noqa: B019
    def wrapped(self, conn, database: Database) -> None: ...


def test_the_parameters_that_the_caller_passes_are_skipped():
    assert [each.name for each in call_dependencies(Controller.handle, skip=3)] == ["database", "limit"]
    assert call_dependencies(Controller.left, skip=3) == ()
    assert call_dependencies(Controller.wrapped, skip=2) == (Dependency("database", Database),)


def test_every_parameter_that_does_not_say_what_it_is_is_told_with_its_place():
    class Vague:
        def __init__(self, plain, /, other, *rest: int, good: Database, **more: int) -> None: ...

    text = message(constructor_dependencies, Vague)
    place = str(SourceLocation.of(Vague.__init__))
    assert f"Vague.__init__ ({place}) takes 'plain' by position only" in text
    assert f"Vague.__init__ ({place}) has no annotation for parameter 'other'" in text
    assert "takes *rest: 'int': services are injected into named parameters only" in text
    assert "takes **more" in text
    assert "good" not in text


def test_a_name_that_exists_for_type_checkers_only_is_told_with_its_parameter():
    class Account:
        def __init__(self, database: Database, balance: Decimal) -> None: ...

    text = message(constructor_dependencies, Account)
    assert "parameter 'balance' of Account.__init__" in text
    assert "is annotated 'Decimal', which cannot be resolved: name 'Decimal' is not defined" in text
    assert "imported under TYPE_CHECKING" in text


def test_a_forward_reference_to_nothing_is_told_with_its_parameter():
    async def handle(self, conn, payload, it: Nowhere, that: Database.Missing) -> None: ...  # noqa: F821

    text = message(call_dependencies, handle, skip=3)
    assert f"parameter 'it' of handle ({SourceLocation.of(handle)}) is annotated 'Nowhere'" in text
    assert "parameter 'that' of handle" in text


def wrong_factories():
    def silent(): ...

    def nothing() -> None: ...

    def unknown() -> Nowhere: ...  # noqa: F821

    def plain_generator() -> Database:
        yield Database()

    async def async_generator() -> Iterator[Database]:
        yield Database()

    return {
        silent: "silent {} has no return annotation",
        nothing: "nothing {} has no return annotation",
        unknown: "the return annotation of unknown {} is annotated 'Nowhere'",
        plain_generator: "plain_generator {} yields: annotate what it returns as Iterator[…], not Database",
        async_generator: "annotate what it returns as AsyncIterator[…], not Iterator[Database]",
    }


@pytest.mark.parametrize(("factory", "expected"), wrong_factories().items())
def test_a_factory_says_what_it_provides(factory, expected):
    text = message(Services.build, [service(factory)])
    assert expected.format(f"({SourceLocation.of(factory)})") in text


async def test_a_factory_that_says_what_it_provides_elsewhere_needs_no_annotation():
    @service(scope="singleton", provides=Database)
    def make():
        return Database()

    @service(scope="singleton")
    async def stream() -> AsyncIterator[Empty]:
        yield Empty()

    async with Services.build([make, stream]) as services:
        assert isinstance(await services.root.get(Database), Database)
        assert isinstance(await services.root.get(Empty), Empty)


@pytest.mark.parametrize(("scope", "near"), [("conection", "'connection'"), ("global", None)])
def test_an_unknown_scope_is_refused_where_it_is_said(scope, near):
    with pytest.raises(DIError) as caught:

        @service(scope=scope)
        class Wrong: ...

    (problem,) = caught.value.problems
    assert (
        f"has the scope {scope!r}; accepted are singleton, app, namespace, connection, request, transient"
        in str(problem)
    )
    assert problem.near == ((near,) if near else ())


def test_only_classes_and_functions_are_services():
    with pytest.raises(DIError, match="@service is for classes and functions, not for 'app'"):
        service("app")


def test_places_are_given_as_far_as_they_are_known():
    assert str(SourceLocation.of(test_places_are_given_as_far_as_they_are_known)).startswith(f"{__file__}:")
    assert str(SourceLocation.of(Database)) == f"{__file__}:{_line_of('class Database: ...')}"
    assert str(SourceLocation.of(int)) == "<unknown>"
    assert Consumer(Database, Scope.APP, ()).where == str(SourceLocation.of(Database))
    assert Consumer(Database, Scope.APP, (), "here").where == "here"


def _line_of(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.startswith(text))
