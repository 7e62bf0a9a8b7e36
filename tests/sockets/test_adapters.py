"""One suite of promises for every adapter: what `adapters/base.py` says of brokers and stores."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from nats_server import NatsServer

from aquilia.sockets import Adapter, InMemoryAdapter, Publication, SocketFault
from aquilia.sockets.adapters.base import Store
from aquilia.sockets.adapters.inmemory import SLICE, InMemoryStore
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.sockets.history import History, Position


def publication(n: int, room: str | None = "r", namespace: str = "/a") -> Publication:
    return Publication(id=f"p{n}", namespace=namespace, event="e", payload=n, ts=n, room=room)


@pytest.fixture(params=["inmemory", "nats"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    if request.param == "inmemory":
        return InMemoryAdapter()
    server: NatsServer = request.getfixturevalue("nats_server")
    return NatsAdapter(server.url())


@pytest.fixture
async def delivered(adapter: Adapter) -> AsyncIterator[asyncio.Queue[Publication]]:
    arrived: asyncio.Queue[Publication] = asyncio.Queue()
    await adapter.broker.start(arrived.put_nowait)
    yield arrived
    await adapter.broker.stop()


@pytest.fixture
def store(adapter: Adapter, delivered: asyncio.Queue[Publication]) -> Store:
    return adapter.store


async def arrive(arrived: asyncio.Queue[Publication], count: int) -> list[object]:
    async with asyncio.timeout(5):
        return [(await arrived.get()).payload for _ in range(count)]


async def test_what_is_published_to_a_subscribed_room_arrives_in_order(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await adapter.broker.subscribe("/a", "r")
    for n in range(100):
        await adapter.broker.publish(publication(n))
    assert await arrive(delivered, 100) == list(range(100))


async def test_a_publication_arrives_as_it_was(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await adapter.broker.subscribe("/a", None)
    sent = Publication(
        id="x", namespace="/a", event="e", payload={"n": [1]}, ts=7, identity="ada", exclude="c1"
    )
    await adapter.broker.publish(sent)
    async with asyncio.timeout(5):
        assert await delivered.get() == sent


async def test_other_rooms_and_namespaces_do_not_arrive(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await adapter.broker.subscribe("/a", "r")
    await adapter.broker.publish(publication(1, room="other"))
    await adapter.broker.publish(publication(2, room=None))
    await adapter.broker.publish(publication(3, namespace="/b"))
    await adapter.broker.publish(publication(4))
    assert await arrive(delivered, 1) == [4]
    assert delivered.empty()


async def test_after_unsubscribe_nothing_arrives(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await adapter.broker.subscribe("/a", "r")
    await adapter.broker.subscribe("/a", "s")
    await adapter.broker.unsubscribe("/a", "r")
    await adapter.broker.unsubscribe("/a", "never there")
    await adapter.broker.publish(publication(1))
    await adapter.broker.publish(publication(2, room="s"))
    assert await arrive(delivered, 1) == [2]


async def test_a_broker_that_does_not_run_says_so(adapter: Adapter) -> None:
    with pytest.raises(SocketFault) as refused:
        await adapter.broker.publish(publication(1))
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"


async def test_stop_may_be_called_twice(adapter: Adapter) -> None:
    await adapter.broker.start(lambda publication: None)
    await adapter.broker.stop()
    await adapter.broker.stop()


async def test_of_concurrent_takers_one_gets_the_value(store: Store) -> None:
    await store.put("k", b"v")
    taken = await asyncio.gather(*(store.get_and_delete("k") for _ in range(5)))
    assert sorted(taken, key=repr) == sorted([b"v", None, None, None, None], key=repr)


async def test_of_concurrent_swaps_one_succeeds(store: Store) -> None:
    swaps = [store.compare_and_swap("k", None, str(n).encode()) for n in range(5)]
    assert sorted(await asyncio.gather(*swaps)) == [False] * 4 + [True]


async def test_the_store_keeps_swaps_and_forgets(store: Store) -> None:
    assert await store.get("a key, with: anything?\n") is None
    await store.put("a key, with: anything?\n", b"\x00v")
    assert await store.get("a key, with: anything?\n") == b"\x00v"
    assert not await store.compare_and_swap("a key, with: anything?\n", None, b"w")
    assert await store.compare_and_swap("a key, with: anything?\n", b"\x00v", b"w")
    assert await store.get_and_delete("a key, with: anything?\n") == b"w"
    assert await store.compare_and_swap("a key, with: anything?\n", None, b"again")


async def test_a_store_heeds_what_another_process_has_written(nats_server: NatsServer) -> None:
    url = nats_server.url()
    one, other = NatsAdapter(url), NatsAdapter(url)
    for adapter in (one, other):
        await adapter.broker.start(lambda publication: None)
    try:
        assert await one.store.compare_and_swap("k", None, b"1")
        assert not await other.store.compare_and_swap("k", None, b"2")
        assert await other.store.compare_and_swap("k", b"1", b"2")
        assert not await one.store.compare_and_swap("k", b"1", b"3")
        assert await one.store.compare_and_swap("k", b"2", b"3")
        assert await other.store.get_and_delete("k") == b"3"
        assert not await one.store.compare_and_swap("k", b"3", b"4")
        assert await one.store.compare_and_swap("k", None, b"4", 0.1)
        await until(lambda: other.store.get("k"), None)
        assert not await one.store.compare_and_swap("k", b"4", b"5")
        assert await one.store.compare_and_swap("k", None, b"6")
        await one.store.put("k", b"7")
        assert not await other.store.compare_and_swap("k", None, b"8")
        assert await other.store.compare_and_swap("k", b"7", b"8")
        assert await one.store.get("k") == b"8"
    finally:
        await one.broker.stop()
        await other.broker.stop()


async def test_a_value_expires_after_its_time_to_live(store: Store) -> None:
    await store.put("short", b"v", 0.2)
    assert await store.get("short") == b"v"
    await until(lambda: store.get("short"), None)
    assert await store.compare_and_swap("short", None, b"new", 30)
    assert await store.get("short") == b"new"


async def until(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    async with asyncio.timeout(5):
        while await ask() != wanted:
            await asyncio.sleep(0.02)


HISTORY = History(size=5, ttl=60)


async def fill(adapter: Adapter, count: int, history: History = HISTORY, room: str = "r") -> list[Position]:
    sent = [adapter.broker.publish(publication(n, room), history) for n in range(count)]
    places = await asyncio.gather(*sent)
    assert None not in places
    return [place for place in places if place is not None]


async def test_a_log_numbers_what_is_published_in_order(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    head = await adapter.broker.subscribe("/a", "r", HISTORY)
    assert head is not None
    places = await fill(adapter, 4)
    assert {place.epoch for place in places} == {head.epoch}
    assert [place.offset for place in places] == sorted({place.offset for place in places})
    arrived = [await asyncio.wait_for(delivered.get(), 5) for _ in places]
    assert [(found.payload, found.position) for found in arrived] == list(enumerate(places))
    assert [found.previous for found in arrived][1:] == [place.offset for place in places][:-1]


async def test_a_repeat_is_neither_stored_nor_delivered_again(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await adapter.broker.subscribe("/a", "r", HISTORY)
    first = await adapter.broker.publish(publication(1), HISTORY)
    assert await adapter.broker.publish(publication(1), HISTORY) == first
    await adapter.broker.publish(publication(2), HISTORY)
    assert await arrive(delivered, 2) == [1, 2]


async def test_the_same_id_in_another_room_is_another_publication(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await adapter.broker.publish(publication(1, "r"), HISTORY)
    await adapter.broker.publish(publication(1, "s"), HISTORY)
    for room in "rs":
        page = await adapter.broker.read("/a", room, HISTORY)
        assert [found.payload for found in page.publications] == [1]


async def test_a_log_is_read_in_pages_behind_a_position(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    places = await fill(adapter, 5)
    page = await adapter.broker.read("/a", "r", HISTORY, since=places[1], limit=2)
    assert [(found.payload, found.position) for found in page.publications] == [
        (2, places[2]),
        (3, places[3]),
    ]
    assert page.complete
    assert page.head == places[4]
    rest = await adapter.broker.read("/a", "r", HISTORY, since=places[3])
    assert [found.payload for found in rest.publications] == [4]
    end = await adapter.broker.read("/a", "r", HISTORY, since=places[4])
    assert (list(end.publications), end.complete) == ([], True)


async def test_without_a_position_the_newest_are_read(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    await fill(adapter, 5)
    await fill(adapter, 3, room="other")
    page = await adapter.broker.read("/a", "r", HISTORY, limit=2)
    assert [found.payload for found in page.publications] == [3, 4]
    every = await adapter.broker.read("/a", "r", HISTORY)
    assert [found.payload for found in every.publications] == [0, 1, 2, 3, 4]


async def test_what_the_size_let_go_of_is_missed(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    places = await fill(adapter, 8)
    lost = await adapter.broker.read("/a", "r", HISTORY, since=places[0])
    assert (list(lost.publications), lost.complete, lost.head) == ([], False, places[-1])
    kept = await adapter.broker.read("/a", "r", HISTORY, since=places[3])
    assert ([found.payload for found in kept.publications], kept.complete) == ([4, 5, 6, 7], True)


async def test_what_expired_is_missed_but_not_by_who_had_it_all(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    brief = History(size=5, ttl=0.3)
    await adapter.broker.subscribe("/a", "r", brief)
    places = await fill(adapter, 3, brief)
    assert await arrive(delivered, 3) == [0, 1, 2]

    async def left() -> int:
        return len((await adapter.broker.read("/a", "r", brief)).publications)

    await until(left, 0)
    lost = await adapter.broker.read("/a", "r", brief, since=places[0])
    assert (list(lost.publications), lost.complete) == ([], False)
    await adapter.broker.publish(publication(9, "other"), brief)
    assert (await adapter.broker.read("/a", "r", brief, since=places[2])).complete


async def test_a_position_of_the_future_or_of_another_life_is_not_complete(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    places = await fill(adapter, 2)
    for since in (Position(places[1].epoch, places[1].offset + 9), Position("elsewhere", places[0].offset)):
        page = await adapter.broker.read("/a", "r", HISTORY, since=since)
        assert (list(page.publications), page.complete, page.head) == ([], False, places[1])


async def test_a_payload_that_cannot_be_written_is_refused(
    adapter: Adapter, delivered: asyncio.Queue[Publication]
) -> None:
    broken = Publication(id="x", namespace="/a", event="e", payload=object(), ts=1, room="r")
    with pytest.raises(SocketFault) as refused:
        await adapter.broker.publish(broken, HISTORY)
    assert refused.value.code == "WS_PUBLISH_FAILED"


class StoreMachine(RuleBasedStateMachine):
    """The in-memory store against a plain model, on a clock of our own."""

    keys = Bundle("keys")

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.store = InMemoryStore(lambda: self.now)
        self.store._sweep_at = 4
        self.model: dict[str, tuple[bytes, float | None]] = {}

    def expected(self, key: str) -> bytes | None:
        value, expires = self.model.get(key, (None, None))
        return None if expires is not None and expires <= self.now else value

    @rule(seconds=st.floats(0, 10))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.sampled_from("abcdefgh"), value=st.binary(max_size=3), ttl=st.none() | st.floats(0.1, 10))
    def put(self, key: str, value: bytes, ttl: float | None) -> None:
        asyncio.run(self.store.put(key, value, ttl))
        self.model[key] = (value, None if ttl is None else self.now + ttl)

    @rule(key=st.sampled_from("abcdefgh"))
    def get(self, key: str) -> None:
        assert asyncio.run(self.store.get(key)) == self.expected(key)

    @rule(key=st.sampled_from("abcdefgh"))
    def take(self, key: str) -> None:
        assert asyncio.run(self.store.get_and_delete(key)) == self.expected(key)
        self.model.pop(key, None)

    @rule(key=st.sampled_from("abcdefgh"), old=st.none() | st.binary(max_size=1), new=st.binary(max_size=1))
    def swap(self, key: str, old: bytes | None, new: bytes) -> None:
        fits = self.expected(key) == old
        assert asyncio.run(self.store.compare_and_swap(key, old, new)) is fits
        if fits:
            self.model[key] = (new, None)


TestStore = StoreMachine.TestCase


async def test_what_has_expired_takes_no_memory_once_something_is_written_a_minute_later() -> None:
    now = 0.0
    store = InMemoryStore(lambda: now)
    tracemalloc.start()
    try:
        for number in range(500):
            await store.put(f"gone-{number}", bytes(20_000), 10.0)
        full = tracemalloc.get_traced_memory()[0]
        now = 61.0
        await store.put("new", b"", 10.0)
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert full > 10_000_000
    assert left < 1_000_000


async def test_no_write_looks_at_more_than_a_slice_of_what_may_have_expired() -> None:
    now = 0.0
    store = InMemoryStore(lambda: now)
    for number in range(4000):
        await store.put(f"k{number}", b"", 10.0 if number % 4 else None)
    now = 61.0
    sizes = []
    for _ in range(4):
        await store.put("k0", b"")
        sizes.append(len(store._values))
    assert sizes[-1] == 1000
    assert max(before - after for before, after in pairwise([4000, *sizes])) <= SLICE
    assert await store.get("k4") == b""
