"""What a room remembered and was made to forget: read by nobody, and told to who had less, with each broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from brokers import BROKERS, Broker

from aquilia.clock import Clock
from aquilia.sockets import Adapter, InMemoryAdapter, Publication
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.history import History, Position


def publication(n: int, room: str | None = "r", namespace: str = "/a") -> Publication:
    return Publication(id=f"p{n}", namespace=namespace, event="e", payload=n, ts=n, room=room)


@pytest.fixture(params=["inmemory", *BROKERS])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    if request.param == "inmemory":
        return InMemoryAdapter()
    server: Broker = request.getfixturevalue(f"{request.param}_server")
    return adapter_for(None, server.url(), Clock())


@pytest.fixture
async def delivered(adapter: Adapter) -> AsyncIterator[asyncio.Queue[Publication]]:
    arrived: asyncio.Queue[Publication] = asyncio.Queue()
    await adapter.broker.start(arrived.put_nowait)
    yield arrived
    await adapter.broker.stop()


async def arrive(arrived: asyncio.Queue[Publication], count: int) -> list[object]:
    async with asyncio.timeout(5):
        return [(await arrived.get()).payload for _ in range(count)]


HISTORY = History(size=5, ttl=60)


async def fill(adapter: Adapter, count: int, history: History = HISTORY, room: str = "r") -> list[Position]:
    sent = [adapter.broker.publish(publication(n, room), history) for n in range(count)]
    places = await asyncio.gather(*sent)
    assert None not in places
    return [place for place in places if place is not None]


async def test_what_was_forgotten_is_read_by_nobody_and_who_had_less_is_told(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    broker = adapter.broker
    await fill(adapter, 1, room="older")
    await broker.subscribe("/a", "r", HISTORY)
    places = await fill(adapter, 4)
    await fill(adapter, 2, room="other")
    assert await arrive(delivered, 4) == [0, 1, 2, 3]
    assert await broker.forget("/a", "r", HISTORY) == 4
    assert list((await broker.read("/a", "r", HISTORY)).publications) == []
    for place in places[:3]:
        page = await broker.read("/a", "r", HISTORY, since=place)
        assert (list(page.publications), page.complete) == ([], False)
    assert [found.payload for found in (await broker.read("/a", "other", HISTORY)).publications] == [0, 1]


async def test_what_is_published_behind_the_forgotten_is_remembered_and_follows_it_without_a_hole(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    broker = adapter.broker
    await broker.subscribe("/a", "r", HISTORY)
    places = await fill(adapter, 3)
    assert [await broker.forget("/a", "r", HISTORY) for _ in range(2)] == [3, 0]
    late = await broker.publish(publication(9), HISTORY)
    assert late is not None
    assert late > places[-1]
    arrived = [await asyncio.wait_for(delivered.get(), 5) for _ in range(4)]
    assert [found.payload for found in arrived] == [0, 1, 2, 9]
    assert arrived[-1].previous == places[-1].offset
    page = await broker.read("/a", "r", HISTORY)
    assert ([found.payload for found in page.publications], page.head) == ([9], late)
    assert not (await broker.read("/a", "r", HISTORY, since=places[1])).complete
    assert (await broker.read("/a", "r", HISTORY, since=late)).complete
    last = await broker.publish(publication(10), HISTORY)
    [behind] = (await broker.read("/a", "r", HISTORY, since=late)).publications
    assert (behind.payload, behind.position) == (10, last)
    assert await broker.forget("/a", "r", HISTORY) == 2


async def test_a_head_that_was_told_behind_the_forgotten_is_whole(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    broker = adapter.broker
    await fill(adapter, 3)
    await broker.forget("/a", "r", HISTORY)
    head = await broker.subscribe("/a", "r", HISTORY)
    assert (await broker.read("/a", "r", HISTORY, since=head)).complete
    late = await broker.publish(publication(9), HISTORY)
    page = await broker.read("/a", "r", HISTORY, since=head)
    assert ([found.position for found in page.publications], page.complete) == ([late], True)


async def test_a_room_that_remembers_nothing_is_forgotten_all_the_same(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    assert await adapter.broker.forget("/a", "r", HISTORY) == 0
    with_less = History(size=1)
    await adapter.broker.publish(publication(1), with_less)
    assert await adapter.broker.forget("/a", "r", with_less) == 1
    late = await adapter.broker.publish(publication(2), with_less)
    page = await adapter.broker.read("/a", "r", with_less)
    assert [found.position for found in page.publications] == [late]


async def test_a_node_without_members_there_proves_nothing_of_what_was_forgotten(
    broker: Broker,
) -> None:
    url = broker.url()
    one, other = (adapter_for(None, url, Clock()) for _ in range(2))
    for each in (one, other):
        await each.broker.start(lambda publication: None)
    try:
        await fill(other, 1, room="older")  # whose entry keeps the stream from moving on
        places = await fill(other, 3)
        assert await one.broker.forget("/a", "r", HISTORY) == 3
        for adapter in (one, other):
            for place in places[:2]:
                assert not (await adapter.broker.read("/a", "r", HISTORY, since=place)).complete
        late = await other.broker.publish(publication(9), HISTORY)
        for adapter in (one, other):
            assert not (await adapter.broker.read("/a", "r", HISTORY, since=places[1])).complete
            page = await adapter.broker.read("/a", "r", HISTORY)
            assert [found.position for found in page.publications] == [late]
    finally:
        await one.broker.stop()
        await other.broker.stop()
