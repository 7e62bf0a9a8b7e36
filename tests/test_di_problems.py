"""What does not fit together is refused at boot: all of it at once, with chains and near misses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, Literal, Protocol, TypeVar

import pytest

from aquilia.di import (
    Consumer,
    Dependency,
    DIError,
    Problem,
    Scope,
    Services,
    call_dependencies,
    constructor_dependencies,
    service,
)
from aquilia.source import SourceLocation

T = TypeVar("T")


class Connection: ...


class Envelope: ...


class Database: ...


@service
class DataBase: ...


@service
class Repo:
    def __init__(self, database: Database) -> None: ...


@service
class Audit:
    def __init__(self, database: Database) -> None: ...


class ChatSocket:
    def __init__(self, repo: Repo, audit: Audit) -> None: ...

    async def handle(self, conn, payload, envelope: Envelope) -> None: ...


def problems_of(*services: object, **settings: object) -> tuple[Problem, ...]:
    with pytest.raises(DIError) as caught:
        Services.build(services, **settings)
    return caught.value.problems


def names(problem: Problem) -> list[str]:
    return [link.name for link in problem.chain]


def consumer(cls: type, scope: Scope = Scope.NAMESPACE, without: frozenset[object] = frozenset()) -> Consumer:
    return Consumer(cls, scope, constructor_dependencies(cls), without=without)


def test_a_missing_provider_is_told_with_the_chain_and_near_misses():
    (problem, other) = problems_of(Repo, Audit, DataBase, consumers=[consumer(ChatSocket)])

    assert (problem.kind, other.kind) == ("missing", "missing")
    assert names(problem) == ["ChatSocket", "Repo", "Database"]
    assert names(other) == ["ChatSocket", "Audit", "Database"]
    assert [link.where for link in problem.chain[:2]] == [
        str(SourceLocation.of(ChatSocket)),
        str(SourceLocation.of(Repo)),
    ]
    assert problem.near == (f"DataBase ({SourceLocation.of(DataBase)})",)
    text = str(problem)
    assert text.startswith(
        "ChatSocket → Repo → Database: nothing provides Database, which Repo needs as 'database'"
    )
    assert "did you mean DataBase (" in text
    assert f"nothing provides it; defined at {SourceLocation.of(Database)}" in text


def test_the_chain_of_a_handler_names_the_method():
    handler = Consumer(ChatSocket.handle, Scope.REQUEST, call_dependencies(ChatSocket.handle, skip=3))
    (problem,) = problems_of(consumers=[handler])
    assert names(problem) == ["ChatSocket.handle", "Envelope"]


def test_a_service_that_was_not_listed_is_recognised():
    (problem,) = problems_of(consumers=[Consumer(ChatSocket, Scope.APP, (Dependency("repo", Repo),))])
    assert "it has @service, but is not among the services: list it" in problem.message


class Port(Protocol):
    def send(self) -> None: ...


class Store(ABC):
    @abstractmethod
    def read(self) -> str: ...


@service
class FileStore(Store, Port):
    def read(self) -> str:
        return ""

    def send(self) -> None: ...


def test_an_implementation_that_does_not_say_what_it_provides_is_recognised():
    asks = Consumer(ChatSocket, Scope.APP, (Dependency("store", Store), Dependency("port", Port)))
    store, port = problems_of(FileStore, consumers=[asks])
    assert "FileStore is one: say @service(provides=Store) there" in store.message
    assert "FileStore is one: say @service(provides=Port) there" in port.message


def test_a_union_with_none_wants_a_default():
    (problem,) = problems_of(consumers=[Consumer(ChatSocket, Scope.APP, (Dependency("repo", Repo | None),))])
    assert "give the parameter a default to make it optional" in problem.message


@service(scope="connection")
class Draft:
    def __init__(self, connection: Connection) -> None: ...


@service
class Editor:
    def __init__(self, draft: Draft) -> None: ...


PROVIDED = {Scope.CONNECTION: [Connection], Scope.REQUEST: [Envelope]}


def test_a_service_must_not_outlive_what_it_needs():
    (problem,) = problems_of(Draft, Editor, provided=PROVIDED)
    assert problem.kind == "scope"
    assert names(problem) == ["Editor", "Draft"]
    assert "Draft is provided, but in the narrower scope connection; Editor lives in app" in problem.message


def test_an_object_that_is_passed_in_has_a_scope_too():
    early = Consumer(ChatSocket, Scope.NAMESPACE, (Dependency("connection", Connection),))
    (problem,) = problems_of(consumers=[early], provided=PROVIDED)
    assert "Connection is provided, but in the narrower scope connection" in problem.message
    assert problem.chain[1].where == "passed in at connection"


@service(scope="transient")
class Pen:
    def __init__(self, draft: Draft) -> None: ...


@service(scope="transient")
class Pencil:
    def __init__(self, pen: Pen) -> None: ...


@service(scope="singleton")
class Case:
    def __init__(self, pencil: Pencil) -> None: ...


def test_a_transient_needs_the_scope_of_what_it_needs():
    (problem,) = problems_of(Draft, Pen, Pencil, Case, provided=PROVIDED)
    assert problem.kind == "scope"
    assert names(problem) == ["Case", "Pencil", "Pen", "Draft"]


def test_an_optional_dependency_in_a_narrower_scope_is_no_default():
    early = Consumer(ChatSocket, Scope.APP, (Dependency("draft", Draft | None, required=False),))
    (problem,) = problems_of(Draft, consumers=[early], provided=PROVIDED)
    assert problem.kind == "scope"


@service
class Hen:
    def __init__(self, egg: Egg) -> None: ...


@service(scope="transient")
class Egg:
    def __init__(self, nest: Nest) -> None: ...


@service(scope="transient")
class Nest:
    def __init__(self, hen: Hen, egg: Egg) -> None: ...


@service
class Self:
    def __init__(self, me: Self) -> None: ...


def test_circles_are_shown_whole():
    problems = problems_of(
        Hen, Egg, Nest, Self, consumers=[Consumer(ChatSocket, Scope.APP, (Dependency("h", Hen),))]
    )
    assert {problem.kind for problem in problems} == {"cycle"}
    assert [names(problem) for problem in problems] == [
        ["Hen", "Egg", "Nest", "Hen"],
        ["Egg", "Nest", "Egg"],
        ["Self", "Self"],
    ]


class Box(Generic[T]): ...


@service
class Shelf(Generic[T]):
    def __init__(self, below: Shelf[list[T]], box: Box[T], item: T) -> None: ...


def test_a_generic_service_that_grows_without_end_is_a_circle():
    asks = Consumer(
        ChatSocket, Scope.APP, (Dependency("shelf", Shelf[int]),), without=frozenset({Scope.REQUEST})
    )
    problems = problems_of(Shelf, consumers=[asks])
    assert names(problems[0]) == ["Shelf[int]", "Shelf[list[int]]"]
    assert (problems[0].kind, problems[1].kind) == ("cycle", "missing")
    assert names(problems[1]) == ["ChatSocket", "Shelf[int]", "Box[int]"]
    assert names(problems[2]) == ["ChatSocket", "Shelf[int]", "int"]


Bound = TypeVar("Bound", bound=Store)


@service
class Cache(Generic[Bound]): ...


def test_a_generic_service_provides_no_more_than_its_type_variable_allows():
    asks = (Dependency("good", Cache[FileStore]), Dependency("any", Cache), Dependency("bad", Cache[int]))
    (problem,) = problems_of(Cache, consumers=[Consumer(ChatSocket, Scope.APP, asks)])
    assert problem.message.startswith("nothing provides Cache[int]")


@service(scope="request", provides=Database)
def first_database() -> Database:
    return Database()


@service(scope="app")
def second_database() -> Database:
    return Database()


def test_a_type_is_provided_once():
    (problem,) = problems_of(first_database, second_database, first_database)
    assert problem.kind == "duplicate"
    assert problem.message == "Database is provided twice: keep one of them"
    assert [link.where for link in problem.chain] == [
        str(SourceLocation.of(first_database)),
        str(SourceLocation.of(second_database)),
    ]


def test_what_is_passed_in_is_provided_by_nothing_else():
    (problem,) = problems_of(first_database, provided={Scope.REQUEST: [Database]})
    assert problem.chain[0].where == "passed in at request"
    assert str(problem).startswith("Database is provided twice")


@service(scope="request")
class Report:
    def __init__(self, draft: Draft, repo: Repo) -> None: ...


@service(scope="request")
class Trace:
    def __init__(self, report: Report, envelope: Envelope) -> None: ...


NO_SOCKET = frozenset({Scope.NAMESPACE, Scope.CONNECTION, Envelope})


class HttpController:
    def __init__(self, report: Report, trace: Trace) -> None: ...


def test_a_consumer_refuses_what_does_not_exist_where_it_runs():
    web = consumer(HttpController, Scope.REQUEST, NO_SOCKET)
    draft, envelope = problems_of(
        Report, Trace, Draft, Repo, first_and_only_database, consumers=[web], provided=PROVIDED
    )
    assert (draft.kind, envelope.kind) == ("absent", "absent")
    assert names(draft) == ["HttpController", "Report", "Draft"]
    assert (
        "Draft lives in the scope connection, which does not exist where HttpController runs" in draft.message
    )
    assert names(envelope) == ["HttpController", "Trace", "Envelope"]
    assert "Envelope is passed in elsewhere only" in envelope.message


@service(scope="singleton")
def first_and_only_database() -> Database:
    return Database()


def test_the_same_consumer_is_fine_where_everything_exists():
    Services.build(
        [Report, Trace, Draft, Repo, first_and_only_database],
        [consumer(HttpController, Scope.REQUEST)],
        provided=PROVIDED,
    )
    Services.build([Repo, first_and_only_database], [consumer(Repo, Scope.REQUEST, NO_SOCKET)])


def test_an_override_needs_something_to_override():
    (problem,) = problems_of(DataBase, overrides={Database: "ready"})
    assert problem.kind == "override"
    assert problem.near == ("DataBase",)
    assert str(problem).endswith("but nothing provides it; did you mean DataBase?")


def test_injections_and_constructors_are_checked_as_well():
    services = Services.build([DataBase])
    with pytest.raises(DIError, match="an injection at request → Database"):
        services.injector([Dependency("database", Database)], Scope.REQUEST)
    with pytest.raises(DIError, match="Repo → Database"):
        services.constructor(Repo, Scope.APP)
    drafts = Services.build([Draft], provided=PROVIDED)
    with pytest.raises(DIError, match="which does not exist where"):
        drafts.injector([Dependency("draft", Draft)], Scope.REQUEST, without=NO_SOCKET)


def test_every_problem_is_told_at_once():
    class Unmarked: ...

    with pytest.raises(DIError) as caught:
        Services.build([Repo, Draft, Editor, Self, Unmarked, FileStore, FileStore], provided=PROVIDED)
    problems = caught.value.problems
    assert [problem.kind for problem in problems] == ["declaration", "missing", "scope", "cycle"]
    assert "Unmarked is listed as a service, but has no @service" in str(caught.value)
    assert str(caught.value).startswith("4 problems with the services\n1. ")


def test_a_broken_service_is_not_also_missing():
    @service
    class Broken:
        def __init__(self, what) -> None: ...

    needs = Consumer(ChatSocket, Scope.APP, (Dependency("broken", Broken),))
    (problem,) = problems_of(Broken, consumers=[needs])
    assert problem.kind == "signature"


def test_a_subclass_of_a_service_is_not_one_by_itself():
    class Special(DataBase): ...

    (problem,) = problems_of(Special)
    assert problem.kind == "declaration"
    assert problem.chain[0].where == str(SourceLocation.of(Special))


def test_abstract_classes_and_protocols_are_no_services():
    for cls in (Store, Port):
        (problem,) = problems_of(service(type(cls)(cls.__name__, (cls,), {"_is_protocol": cls is Port})))
        assert "is abstract, so that no instance of it can be made" in problem.message


def test_a_class_provides_what_it_is_a_subclass_of():
    (problem,) = problems_of(service(provides=Store)(type("Other", (), {})))
    assert "says that it provides Store, but is no subclass of it" in problem.message
    (problem,) = problems_of(service(provides=["Store"])(type("Other", (), {})))
    assert "says provides='Store': name the type itself" in problem.message


Handler = Callable[[int], str]


def test_types_are_named_as_they_are_written():
    kinds = (Iterator[Database], Literal["a"], Handler, dict[str, list[Database]])
    asks = tuple(Dependency("it", kind) for kind in kinds)
    problems = problems_of(consumers=[Consumer(ChatSocket, Scope.APP, asks)])
    assert [problem.chain[-1].name for problem in problems] == [
        "Iterator[Database]",
        "Literal['a']",
        "Callable[[int], str]",
        "dict[str, list[Database]]",
    ]
