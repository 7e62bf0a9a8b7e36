"""What an application promises over nodes, as real processes, by each adapter that several can share: one suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_server import KafkaServer
from nats_server import NatsServer
from redis_cluster import RedisCluster
from redis_servers import RedisServer

from aquilia.sockets.adapters.local.host import LocalServers
from aquilia.testing.adapters import ClusterContract


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That of a server which the processes share, as the workers of `aq serve` do."""
    with LocalServers():
        yield tmp_path_factory.mktemp("local")


class TestLocal(ClusterContract):
    @pytest.fixture
    def adapter_url(self, folder: Path) -> str:
        return f"local://{folder}"
