"""One suite of promises for every adapter: what `adapters/base.py` says of brokers and stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from aquilia.sockets import Adapter, InMemoryAdapter, Publication, SocketFault
from aquilia.sockets.adapters.inmemory import InMemoryStore

ADAPTERS: dict[str, Callable[[], Adapter]] = {"inmemory": InMemoryAdapter}


def publication(n: int, room: str | None = "r", namespace: str = "/a") -> Publication:
    return Publication(id=f"p{n}", namespace=namespace, event="e", payload=n, ts=n, room=room)


@pytest.fixture(params=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]()


@pytest.fixture
async def delivered(adapter: Adapter) -> AsyncIterator[asyncio.Queue[Publication]]:
    arrived: asyncio.Queue[Publication] = asyncio.Queue()
    await adapter.broker.start(arrived.put_nowait)
    yield arrived
    await adapter.broker.stop()


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


async def test_of_concurrent_takers_one_gets_the_value(adapter: Adapter) -> None:
    await adapter.store.put("k", b"v")
    taken = await asyncio.gather(*(adapter.store.get_and_delete("k") for _ in range(5)))
    assert sorted(taken, key=repr) == sorted([b"v", None, None, None, None], key=repr)


async def test_of_concurrent_swaps_one_succeeds(adapter: Adapter) -> None:
    swaps = [adapter.store.compare_and_swap("k", None, str(n).encode()) for n in range(5)]
    assert sorted(await asyncio.gather(*swaps)) == [False] * 4 + [True]


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
