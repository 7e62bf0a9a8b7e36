"""Scopes at run time: who shares an instance, when it ends, and what may be asked of a container."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from aquilia.di import (
    Dependency,
    DIError,
    Scope,
    ScopeContainer,
    Services,
    call_dependencies,
    service,
)


class Journal: ...


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
    def __init__(self, draft: Draft, repo: Repo) -> None:
        self.draft = draft


@service(scope="transient")
class Counter:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


@service(scope="transient")
@dataclass
class Pen:
    board: Board


ALL = [Clock, Repo, Board, Draft, Unit, Counter]
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


async def test_a_transient_is_had_wherever_what_it_needs_is():
    services = await opened(Pen)
    _, app, namespace, *_ = await entered(services, Scope.APP, Scope.NAMESPACE)
    assert (await namespace.get(Pen)).board is await namespace.get(Board)
    with pytest.raises(DIError, match="Board is provided, but in the narrower scope namespace"):
        await app.get(Pen)


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
    with pytest.raises(DIError, match="nothing provides Journal"):
        await app.get(Journal)


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


@service(scope="connection")
async def nested(connection: Connection) -> Nested:
    return Nested(await connection.id.get(Board))


@dataclass
class Nested:
    board: Board


async def test_a_factory_that_asks_its_own_container_is_told_instead_of_waiting_for_itself():
    services = await opened(nested)
    *_, namespace = await entered(services, Scope.APP, Scope.NAMESPACE)
    given = Connection("c1")
    connection = await namespace.enter(Scope.CONNECTION, {Connection: given})
    given.id = connection

    assert (await connection.get(Nested)).board is await namespace.get(Board)
    given.id = _Asking(connection)
    other = await namespace.enter(Scope.CONNECTION, {Connection: given})
    given.id.container = other
    with pytest.raises(DIError, match="asks its container for more: declare that as a parameter instead"):
        await asyncio.wait_for(other.get(Nested), 5)


@dataclass
class _Asking:
    container: ScopeContainer

    async def get(self, kind: type) -> object:
        return await self.container.get(Draft)


async def test_an_injection_is_resolved_at_its_scope_or_a_narrower_one():
    services = await opened()
    *_, namespace = await entered(services, Scope.APP, Scope.NAMESPACE)
    injection = services.injector([Dependency("unit", Unit)], Scope.REQUEST)
    with pytest.raises(DIError, match="Unit is made in the scope request, not in namespace"):
        await injection.resolve(namespace)
