"""What an application promises over nodes, as real processes, by each adapter that several can share: one suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_server import KafkaServer
from nats_server import NatsServer
from redis_cluster import RedisCluster
from redis_servers import RedisServer

from aquilia.sockets.adapters.local.host import LocalServers
from aquilia.sockets.publisher import Publisher
from aquilia.testing.adapters import ClusterContract
from aquilia.testing.adapters.visitors import Visitor


class TestNats(ClusterContract):
    @pytest.fixture
    def adapter_url(self, nats_server: NatsServer) -> str:
        return nats_server.url("cluster")


class TestRedis(ClusterContract):
    @pytest.fixture
    def adapter_url(self, redis_server: RedisServer) -> str:
        return redis_server.url("cluster")


class TestRedisCluster(ClusterContract):
    @pytest.fixture
    def adapter_url(self, redis_cluster: RedisCluster) -> str:
        return redis_cluster.url("cluster")


class TestKafkaWithAStoreApart(ClusterContract):
    @pytest.fixture
    def adapter_url(
        self, kafka_server: KafkaServer, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> str:
        monkeypatch.setenv("AQ_WS_STORE_URL", redis_server.url("kafka"))
        return kafka_server.url("cluster")

    # It counts the members. That question and the publication go by two topics, and either may come first.
    test_another_program_reaches_the_members_on_all_nodes = None

    async def test_another_program_reaches_the_members_whether_it_is_told_how_many_or_not(
        self, urls: list[str], adapter_url: str
    ) -> None:
        namespace, heard = "/hall/" + urls[0].rpartition("/")[2], []
        async with contextlib.AsyncExitStack() as stack:
            members = [await stack.enter_async_context(Visitor.at(url, "ann")) for url in urls]
            for member in members:
                await member.request("enter", "kept")
            publisher = await stack.enter_async_context(Publisher(adapter_url))
            report = await publisher.publish_room(namespace, "kept", "said", "from afar")
            assert 0 <= report.connections <= 2
            for member in members:
                heard += await member.heard(1)
        assert heard == ["from afar"] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That of a server which the processes share, as the workers of `aq serve` do."""
    with LocalServers():
        yield tmp_path_factory.mktemp("local")


class TestLocal(ClusterContract):
    @pytest.fixture
    def adapter_url(self, folder: Path) -> str:
        return f"local://{folder}"
