"""What a generator opened is finished when its scope ends, whatever happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from aquilia.di import Scope, ScopeContainer, Services, service


@service(scope="singleton")
class Journal:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []


async def opened(*more: object) -> Services:
    services = Services.build([Journal, *more])
    await services.open()
    return services


async def entered(services: Services, *scopes: Scope) -> list[ScopeContainer]:
    chain = [services.root]
    for scope in scopes:
        chain.append(await chain[-1].enter(scope))
    return chain


EVERY = (Scope.APP, Scope.NAMESPACE, Scope.CONNECTION, Scope.REQUEST)


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


async def test_a_cleanup_that_raised_before_a_cancellation_is_logged(caplog):
    blocked = asyncio.Event()

    @service(scope="request")
    async def hanging() -> AsyncIterator[Session]:
        yield Session()
        blocked.set()
        await asyncio.Event().wait()

    @service(scope="request")
    async def failing() -> AsyncIterator[Lease]:
        yield Lease()
        raise ValueError("returned too late")

    services = await opened(hanging, failing)
    *_, request = await entered(services, *EVERY)
    await request.get(Session)
    await request.get(Lease)

    with caplog.at_level(logging.ERROR, "aquilia.di"):
        closing = asyncio.create_task(request.aclose())
        await blocked.wait()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert "cleanup of the request scope failed" in caplog.text
    assert "returned too late" in caplog.text
