"""Every adapter keeps what `adapters/base.py` promises: the suite of `aquilia.testing.adapters` runs over all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from kafka_server import KafkaServer
from loops import all_on_uvloop
from nats_server import NatsServer
from redis_cluster import RedisCluster
from redis_servers import RedisServer
from shelf import ShelfAdapter

from aquilia.sockets import AdapterOptions, InMemoryAdapter, RedisAdapter
from aquilia.sockets.adapters.inmemory import SLICE, InMemoryStore
from aquilia.sockets.adapters.kafka import KafkaAdapter
from aquilia.sockets.adapters.local import LocalAdapter
from aquilia.sockets.adapters.local.host import LocalServers
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.testing.adapters import (
    AdapterContract,
    BrokerContract,
    LogContract,
    MakeAdapter,
    NamespaceOrderContract,
    SharedBrokerContract,
    SharedLogContract,
    StoreContract,
)


class TestInMemory(BrokerContract, NamespaceOrderContract, LogContract, StoreContract):
    """One process: what several nodes would share is none of its promises."""

    @pytest.fixture
    def make_adapter(self) -> MakeAdapter:
        return InMemoryAdapter


class TestNats(AdapterContract, NamespaceOrderContract):
    @pytest.fixture
    def make_adapter(self, nats_server: NatsServer) -> MakeAdapter:
        url = nats_server.url("contract")
        return lambda: NatsAdapter(url)


class TestRedis(AdapterContract, NamespaceOrderContract):
    @pytest.fixture
    def make_adapter(self, redis_server: RedisServer) -> MakeAdapter:
        url = redis_server.url("contract")
        return lambda: RedisAdapter(url)


@all_on_uvloop(AdapterContract)
class TestRedisOnUvloop:
    """As `aq serve` has it."""

    @pytest.fixture
    def make_adapter(self, redis_server: RedisServer) -> MakeAdapter:
        url = redis_server.url("contract-on-uvloop")
        return lambda: RedisAdapter(url)


class TestRedis70(AdapterContract, NamespaceOrderContract):
    """The oldest that it supports."""

    @pytest.fixture
    def make_adapter(self, redis_70: RedisServer) -> MakeAdapter:
        url = redis_70.url("contract")
        return lambda: RedisAdapter(url)


class TestRedisCluster(AdapterContract):
    @pytest.fixture
    def make_adapter(self, redis_cluster: RedisCluster) -> MakeAdapter:
        url = redis_cluster.url("contract")
        return lambda: RedisAdapter(url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That of a server which several nodes share, as the workers of `aq serve` do."""
    with LocalServers():
        yield tmp_path_factory.mktemp("local")


class TestLocal(AdapterContract, NamespaceOrderContract):
    @pytest.fixture
    def make_adapter(self, folder: Path) -> MakeAdapter:
        return lambda: LocalAdapter(f"local://{folder}")


class TestAnAdapterOfSomebodyElse(AdapterContract, NamespaceOrderContract):
    @pytest.fixture
    def make_adapter(self, tmp_path: Path) -> MakeAdapter:
        return lambda: ShelfAdapter(f"shelf://{tmp_path}/shelf", AdapterOptions())


class TestKafka(SharedBrokerContract, SharedLogContract):
    """It has no store, and keeps the order of each room alone."""

    @pytest.fixture
    def make_adapter(self, kafka_server: KafkaServer) -> MakeAdapter:
        url = kafka_server.url("contract")
        return lambda: KafkaAdapter(url)


def test_who_imports_the_test_kit_alone_needs_no_pytest() -> None:
    words = "import sys; sys.modules['pytest'] = None; import aquilia.testing"
    subprocess.run([sys.executable, "-c", words], check=True)


# What the in-memory store promises besides


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
