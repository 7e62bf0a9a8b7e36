"""Scopes at run time: who shares an instance, when it ends, and what may be asked of a container."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Generic, NewType, Protocol, TypeVar

import msgspec
import pytest
from typing_extensions import TypeAliasType

from aquilia.di import (
    Dependency,
    DIError,
    Scope,
    ScopeContainer,
    Services,
    call_dependencies,
    service,
)

T = TypeVar("T")


@service(scope="singleton")
class Journal:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []


@service(scope="singleton")
class Clock: ...


@service
class Repo:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


@service(scope="namespace")
class Board:
    def __init__(self, repo: Repo) -> None:
        self.repo = repo


@dataclass
class Connection:
    id: str


@service(scope="connection")
@dataclass
class Draft:
    connection: Connection
    board: Board


@service(scope="request")
class Unit:
    def __init__(self, draft: Draft) -> None:
        self.draft = draft


@service(scope="transient")
class Counter:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


ALL = [Journal, Clock, Repo, Board, Draft, Unit, Counter]
PROVIDED = {Scope.CONNECTION: [Connection]}


async def opened(*more: object) -> Services:
    services = Services.build([*ALL, *more], provided=PROVIDED)
    await services.open()
    return services


async def entered(services: Services, *scopes: Scope) -> list[ScopeContainer]:
    chain = [services.root]
    for scope in scopes:
        context = {Connection: Connection("c1")} if scope is Scope.CONNECTION else {}
        chain.append(await chain[-1].enter(scope, context))
    return chain


EVERY = (Scope.APP, Scope.NAMESPACE, Scope.CONNECTION, Scope.REQUEST)


async def test_a_scope_shares_one_instance_and_each_of_its_kind_has_its_own():
    services = await opened()
    root, app, namespace, connection, request = await entered(services, *EVERY)

    for container, kind in (
        (root, Clock),
        (app, Repo),
        (namespace, Board),
        (connection, Draft),
        (request, Unit),
    ):
        shared = await container.get(kind)
        assert await container.get(kind) is shared
        assert await request.get(kind) is shared

    assert await (await connection.enter(Scope.REQUEST)).get(Unit) is not await request.get(Unit)
    other = await namespace.enter(Scope.CONNECTION, {Connection: Connection("c2")})
    assert (await other.get(Draft)).connection.id == "c2"
    assert (await other.get(Draft)).board is (await connection.get(Draft)).board


async def test_each_app_has_its_own_services_and_shares_the_singletons():
    services = await opened()
    chat = await services.root.enter(Scope.APP)
    shop = await services.root.enter(Scope.APP)

    assert await chat.get(Repo) is not await shop.get(Repo)
    assert (await chat.get(Repo)).clock is (await shop.get(Repo)).clock


async def test_a_transient_is_made_anew_for_everyone_who_asks():
    services = await opened()
    root, _, _, _, request = await entered(services, *EVERY)

    first, second, third = await request.get(Counter), await request.get(Counter), await root.get(Counter)

    assert len({id(first), id(second), id(third)}) == 3
    assert first.clock is third.clock


async def test_five_concurrent_gets_make_one_instance_in_every_scope():
    made: list[str] = []

    class Slow: ...

    async def slow() -> Slow:
        made.append("slow")
        await asyncio.sleep(0)
        return Slow()

    for name in ("singleton", "app", "namespace", "connection", "request"):
        made.clear()
        services = await opened(service(scope=name, provides=Slow)(_copy(slow)))
        (*_, innermost) = await entered(services, *EVERY)
        found = await asyncio.gather(*(innermost.get(Slow) for _ in range(5)))
        assert made == ["slow"]
        assert len({id(each) for each in found}) == 1


def _copy(function):
    async def slow() -> object:
        return await function()

    return slow


class Engine: ...


class Session: ...


class Lease: ...


@service(scope="singleton")
async def engine(journal: Journal) -> AsyncIterator[Engine]:
    journal.lines.append("engine opened")
    yield Engine()
    journal.lines.append("engine closed")


@service(scope="connection")
def session(journal: Journal, engine: Engine) -> Iterator[Session]:
    journal.lines.append("session opened")
    yield Session()
    journal.lines.append("session closed")


@service(scope="connection")
async def lease(journal: Journal, session: Session) -> AsyncIterator[Lease]:
    journal.lines.append("lease taken")
    yield Lease()
    journal.lines.append("lease returned")


async def test_generators_are_finished_at_the_end_of_their_scope_in_reverse_order():
    services = await opened(engine, session, lease)
    journal = await services.root.get(Journal)
    *_, connection = await entered(services, Scope.APP, Scope.NAMESPACE, Scope.CONNECTION)

    await connection.get(Lease)
    assert journal.lines == ["engine opened", "session opened", "lease taken"]
    await connection.aclose()
    assert journal.lines[3:] == ["lease returned", "session closed"]
    await services.aclose()
    assert journal.lines[5:] == ["engine closed"]


async def test_closing_twice_finishes_once():
    services = await opened(engine, session, lease)
    journal = await services.root.get(Journal)
    *_, connection = await entered(services, Scope.APP, Scope.NAMESPACE, Scope.CONNECTION)
    async with connection:
        await connection.get(Session)
        await connection.aclose()

    assert journal.lines.count("session closed") == 1


class First: ...


class Second: ...


@service(scope="request")
async def first(journal: Journal) -> AsyncIterator[First]:
    yield First()
    journal.lines.append("first closed")


@service(scope="request")
def second(first: First) -> Iterator[Second]:
    yield Second()
    raise ValueError("second")


async def test_a_cleanup_that_raises_stops_no_other_and_is_reported():
    services = await opened(first, second)
    journal = await services.root.get(Journal)
    *_, request = await entered(services, *EVERY)
    await request.get(Second)

    with pytest.raises(ExceptionGroup, match="cleanup of the request scope failed") as caught:
        await request.aclose()

    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('second')"]
    assert journal.lines == ["first closed"]


async def test_an_error_that_ends_the_scope_is_thrown_into_its_generators():
    seen: list[str] = []

    @service(scope="request")
    async def transaction() -> AsyncIterator[Session]:
        try:
            yield Session()
        except RuntimeError:
            seen.append("rolled back")
            raise
        seen.append("committed")

    @service(scope="request")
    def cursor(session: Session) -> Iterator[Lease]:
        try:
            yield Lease()
        except RuntimeError:
            seen.append("cursor dropped")

    services = await opened(transaction, cursor)
    *_, connection = await entered(services, Scope.APP, Scope.NAMESPACE, Scope.CONNECTION)

    async def fail_in_a_request() -> None:
        async with await connection.enter(Scope.REQUEST) as request:
            await request.get(Lease)
            raise RuntimeError("handler")

    with pytest.raises(RuntimeError, match="handler"):
        await fail_in_a_request()
    assert seen == ["cursor dropped", "rolled back"]

    async with await connection.enter(Scope.REQUEST) as request:
        await request.get(Session)
    assert seen[2:] == ["committed"]


async def test_a_cancelled_close_still_runs_the_other_cleanups():
    blocked = asyncio.Event()

    @service(scope="request")
    async def hanging(first: First) -> AsyncIterator[Session]:
        yield Session()
        blocked.set()
        await asyncio.Event().wait()

    services = await opened(first, hanging)
    journal = await services.root.get(Journal)
    *_, request = await entered(services, *EVERY)
    await request.get(Session)

    closing = asyncio.create_task(request.aclose())
    await blocked.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert journal.lines == ["first closed"]


async def test_closing_waits_for_a_get_in_flight_and_ends_what_it_made():
    started, proceed = asyncio.Event(), asyncio.Event()
    events: list[str] = []

    @service(scope="request")
    async def slow() -> AsyncIterator[Session]:
        started.set()
        await proceed.wait()
        events.append("opened")
        yield Session()
        events.append("closed")

    services = await opened(slow)
    *_, request = await entered(services, *EVERY)
    getting = asyncio.create_task(request.get(Session))
    await started.wait()
    closing = asyncio.create_task(request.aclose())
    proceed.set()
    await asyncio.gather(getting, closing)

    assert events == ["opened", "closed"]


async def test_a_transient_generator_ends_with_the_scope_that_asked_for_it():
    events: list[str] = []

    @service(scope="transient")
    def temporary() -> Iterator[Session]:
        yield Session()
        events.append("closed")

    @service
    class Holder:
        def __init__(self, session: Session) -> None:
            self.session = session

    services = Services.build([temporary, _annotated(Holder, session=Session)])
    async with services:
        app = await services.root.enter(Scope.APP)
        request = await app.enter(Scope.REQUEST)
        assert await request.get(Session) is not await request.get(Session)
        held = await app.get(Holder)
        await request.aclose()
        assert events == ["closed", "closed"]
        await app.aclose()
        assert events == ["closed", "closed", "closed"]
        assert isinstance(held.session, Session)


def _annotated(cls: type, **hints: object) -> type:
    """A class that is local to a test has annotations that cannot be looked up: put their values there."""
    cls.__init__.__annotations__ = hints
    return cls


async def test_a_generator_must_yield_exactly_once():
    @service(scope="request")
    async def twice() -> AsyncIterator[Session]:
        yield Session()
        yield Session()

    services = Services.build([twice])
    async with services:
        request = await services.root.enter(Scope.REQUEST)
        await request.get(Session)
        with pytest.raises(ExceptionGroup) as caught:
            await request.aclose()
        assert "didn't stop" in str(caught.value.exceptions[0])


async def test_async_and_plain_factories_make_what_they_are_annotated_with():
    @service(scope="singleton")
    async def make_engine() -> Engine:
        await asyncio.sleep(0)
        return Engine()

    @service(scope="singleton")
    def make_session(engine: Engine) -> Session:
        assert isinstance(engine, Engine)
        return Session()

    async with Services.build([make_engine, make_session]) as services:
        assert isinstance(await services.root.get(Session), Session)


class Port(Protocol):
    def send(self) -> str: ...


class Store(ABC):
    @abstractmethod
    def read(self) -> str: ...


@service(scope="singleton", provides=[Port, Store])
class Both(Store, Port):
    def send(self) -> str:
        return "sent"

    def read(self) -> str:
        return "read"


async def test_one_instance_serves_every_type_that_it_is_provided_as():
    async with Services.build([Both]) as services:
        assert await services.root.get(Port) is await services.root.get(Store)
        with pytest.raises(DIError, match="nothing provides Both"):
            await services.root.get(Both)


async def test_a_transient_can_be_provided_as_several_types():
    async with Services.build(
        [service(scope="transient", provides=(Port, Store))(type("B", (Both,), {}))]
    ) as services:
        assert await services.root.get(Port) is not await services.root.get(Store)


class Table(Generic[T]):
    def __init__(self, kind: type[T]) -> None:
        self.kind = kind


service(scope="singleton")(Table)


class Rows(Generic[T]):
    def __init__(self, table: Table[T]) -> None:
        self.table = table


@service(scope="singleton")
class UserRows(Rows[Connection]): ...


class Middle(Rows[list[T]], Generic[T]): ...


@service(scope="singleton")
class ListRows(Middle[Connection]): ...


async def test_a_generic_service_provides_its_special_cases():
    async with Services.build([Table, UserRows, ListRows]) as services:
        assert (await services.root.get(Table[Connection])).kind is Connection
        assert (await services.root.get(UserRows)).table.kind is Connection
        assert (await services.root.get(ListRows)).table.kind == list[Connection]
        assert await services.root.get(Table[Connection]) is (await services.root.get(UserRows)).table


Dsn = NewType("Dsn", str)
Address = TypeAliasType("Address", Dsn)


@service(scope="singleton")
def dsn() -> Dsn:
    return Dsn("db://here")


async def test_new_types_aliases_and_annotated_hints_are_keys():
    async with Services.build([dsn]) as services:
        assert await services.root.get(Dsn) == "db://here"
        assert await services.root.get(Annotated[Dsn, "metadata"]) == "db://here"
        assert await services.root.get(Address) == "db://here"


@service(scope="singleton")
class Config(msgspec.Struct):
    clock: Clock
    name: str = "unnamed"
    journal: Journal | None = None


@service(scope="singleton")
class Optionals:
    def __init__(self, repo: Clock | None = None, dsn: Dsn = Dsn("default"), limit: int = 3) -> None:
        self.clock, self.dsn, self.limit = repo, dsn, limit


async def test_a_parameter_with_a_default_takes_it_where_nothing_provides_its_type():
    async with Services.build([Optionals]) as bare:
        optionals = await bare.root.get(Optionals)
        assert (optionals.clock, optionals.dsn, optionals.limit) == (None, "default", 3)
    async with Services.build([Optionals, Clock, dsn]) as full:
        optionals = await full.root.get(Optionals)
        assert optionals.clock is await full.root.get(Clock)
        assert (optionals.dsn, optionals.limit) == ("db://here", 3)


async def test_the_fields_of_a_model_are_its_dependencies():
    async with Services.build([Config, Clock, Journal]) as services:
        config = await services.root.get(Config)
        assert config.clock is await services.root.get(Clock)
        assert config.journal is await services.root.get(Journal)
        assert config.name == "unnamed"


async def test_a_ready_object_takes_the_place_of_a_provider():
    class Fake: ...

    fake = Fake()
    async with Services.build(ALL, provided=PROVIDED, overrides={Clock: fake}) as services:
        assert (await (await services.root.enter(Scope.APP)).get(Repo)).clock is fake


async def test_what_is_overridden_needs_nothing():
    async with Services.build([Repo], overrides={Repo: "fake"}) as services:
        assert await services.root.get(Repo) == "fake"


async def test_the_passed_in_object_is_found_and_its_absence_is_told():
    services = await opened()
    *_, namespace = await entered(services, Scope.APP, Scope.NAMESPACE)
    given = Connection("c9")
    assert await (await namespace.enter(Scope.CONNECTION, {Connection: given})).get(Connection) is given

    with pytest.raises(
        DIError, match="Connection is passed in when its scope is entered, but was not"
    ) as caught:
        await (await namespace.enter(Scope.CONNECTION)).get(Draft)
    assert caught.value.problems[0].kind == "absent"


async def handle(self, conn, payload, unit: Unit, *, repo: Repo, limit: int = 9) -> None: ...


async def test_an_injection_gives_the_keyword_arguments_of_a_call():
    services = await opened()
    injection = services.injector(call_dependencies(handle, skip=3), Scope.REQUEST)
    *_, request = await entered(services, *EVERY)

    found = await injection.resolve(request)

    assert found == {"unit": await request.get(Unit), "repo": await request.get(Repo)}
    assert (injection.needed, injection.scope) == (True, Scope.REQUEST)


async def test_an_injection_of_nothing_needs_no_container():
    injection = Services.build([]).injector((), Scope.REQUEST)
    assert not injection.needed
    assert injection.scope is Scope.SINGLETON
    assert await injection.resolve(None) == {}


async def test_an_injection_names_the_widest_scope_that_can_resolve_it():
    services = await opened()
    wide = services.injector([Dependency("repo", Repo)], Scope.REQUEST)
    assert wide.scope is Scope.APP
    _, app, *_ = await entered(services, Scope.APP)
    assert (await wide.resolve(app))["repo"] is await app.get(Repo)
    assert services.injector([Dependency("counter", Counter)], Scope.REQUEST).scope is Scope.REQUEST

    with pytest.raises(DIError, match="there is no container to resolve repo from"):
        await wide.resolve(None)


class Controller:
    def __init__(self, board: Board, title: str = "untitled") -> None:
        self.board, self.title = board, title


class Plain: ...


async def test_a_constructor_builds_a_class_with_its_services():
    services = await opened()
    *_, namespace = await entered(services, Scope.APP, Scope.NAMESPACE)
    constructor = services.constructor(Controller, Scope.NAMESPACE)

    controller = await constructor.build(namespace)

    assert controller.board is await namespace.get(Board)
    assert controller.title == "untitled"
    assert await constructor.build(namespace) is not controller
    assert (constructor.needed, constructor.scope) == (True, Scope.NAMESPACE)
    plain = services.constructor(Plain, Scope.NAMESPACE)
    assert not plain.needed
    assert isinstance(await plain.build(None), Plain)


async def test_what_lives_in_a_skipped_scope_cannot_be_had():
    services = await opened()
    app = await services.root.enter(Scope.APP)
    request = await app.enter(Scope.REQUEST)

    assert await request.get(Repo) is await app.get(Repo)
    with pytest.raises(
        DIError, match="Board needs the scope namespace, without which this request scope was entered"
    ):
        await request.get(Board)
    with pytest.raises(DIError, match="Unit needs the scope namespace"):
        await request.get(Unit)
    with pytest.raises(DIError, match="unit needs the scope namespace"):
        await services.injector([Dependency("unit", Unit)], Scope.REQUEST).resolve(request)


async def test_a_container_gives_nothing_narrower_than_itself():
    services = await opened()
    _, app = await entered(services, Scope.APP)
    with pytest.raises(DIError, match="Board is provided, but in the narrower scope namespace"):
        await app.get(Board)
    with pytest.raises(DIError, match="nothing provides Engine"):
        await app.get(Engine)


async def test_a_scope_is_entered_from_a_wider_one_only():
    services = await opened()
    *_, request = await entered(services, *EVERY)
    for scope in (Scope.REQUEST, Scope.APP):
        with pytest.raises(DIError, match=f"the scope {scope} cannot be entered from the scope request"):
            await request.enter(scope)


async def test_a_closed_container_gives_nothing():
    services = await opened()
    _, app = await entered(services, Scope.APP)
    await app.aclose()
    with pytest.raises(DIError, match="the container of the scope app is closed"):
        await app.get(Repo)
    with pytest.raises(DIError, match="is closed"):
        await app.enter(Scope.NAMESPACE)


async def test_services_open_and_close_again_and_again():
    services = Services.build(ALL, provided=PROVIDED)
    with pytest.raises(DIError, match="not open"):
        _ = services.root
    await services.aclose()
    await services.open()
    root = services.root
    await services.open()
    assert services.root is root
    clock = await root.get(Clock)
    await services.aclose()
    await services.open()
    assert await services.root.get(Clock) is not clock


@dataclass
class Record:
    clock: Clock
    tags: list[str] = field(default_factory=list)


async def test_a_declared_class_is_still_the_class():
    assert isinstance(Repo(Clock()), Repo)
    record = service(Record)(Clock())
    assert record.tags == []
