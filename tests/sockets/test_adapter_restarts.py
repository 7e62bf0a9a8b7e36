"""Every adapter whose broker has a disk keeps its word when that is killed: one suite, a server for each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_server import KafkaServer
from nats_server import NatsServer
from redis_cluster import RedisCluster
from redis_servers import RedisServer, within

from aquilia.sockets import RedisAdapter
from aquilia.sockets.adapters.kafka import KafkaAdapter
from aquilia.sockets.adapters.local import LocalAdapter
from aquilia.sockets.adapters.local.host import LocalServers
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.testing.adapters import MakeAdapter, Restart, RestartContract

KEPT = ("--appendonly", "yes", "--appendfsync", "always")


class TestNats(RestartContract):
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[NatsServer]:
        server = NatsServer(tmp_path)
        yield server
        server.kill()

    @pytest.fixture
    def make_adapter(self, server: NatsServer) -> MakeAdapter:
        url = server.url()
        return lambda: NatsAdapter(url)

    @pytest.fixture
    def restart(self, server: NatsServer) -> Restart:
        def restarted() -> None:
            server.kill()
            server.start()

        return restarted


class TestRedis(RestartContract):
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[RedisServer]:
        with RedisServer(tmp_path, *KEPT) as server:
            yield server

    @pytest.fixture
    def make_adapter(self, server: RedisServer) -> MakeAdapter:
        url = server.url()
        return lambda: RedisAdapter(url)

    @pytest.fixture
    def restart(self, server: RedisServer) -> Restart:
        return server.restart


class TestRedisCluster(RestartContract):
    """All of its masters end at once."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[RedisCluster]:
        with RedisCluster(tmp_path, *KEPT, replicas=0) as cluster:
            yield cluster

    @pytest.fixture
    def make_adapter(self, server: RedisCluster) -> MakeAdapter:
        url = server.url()
        return lambda: RedisAdapter(url)

    @pytest.fixture
    def restart(self, server: RedisCluster) -> Restart:
        def restarted() -> None:
            for each in server.servers:
                each.kill()
            for each in server.servers:
                each.start()
            server.settle()

        return restarted


class TestKafka(RestartContract):
    """The broker of the tests has its logs in memory: it comes back without them."""

    test_what_was_acknowledged_is_there_after_the_broker_was_killed = None  # type: ignore[assignment]
    test_what_is_published_while_the_broker_is_killed_is_stored_once = None  # type: ignore[assignment]

    @pytest.fixture
    def server(self) -> Iterator[KafkaServer]:
        server = KafkaServer()
        yield server
        server.close()

    @pytest.fixture
    def make_adapter(self, server: KafkaServer) -> MakeAdapter:
        url = server.url()
        return lambda: KafkaAdapter(url)

    @pytest.fixture
    def restart(self, server: KafkaServer) -> Restart:
        def restarted() -> None:
            server.kill()
            server.start()

        return restarted


class TestLocal(RestartContract):
    """Its keeper starts another one."""

    @pytest.fixture
    def servers(self) -> Iterator[LocalServers]:
        with LocalServers() as servers:
            yield servers

    @pytest.fixture
    def make_adapter(self, servers: LocalServers, tmp_path: Path) -> MakeAdapter:
        return lambda: LocalAdapter(f"local://{tmp_path}/kept")

    @pytest.fixture
    def restart(self, servers: LocalServers) -> Restart:
        def restarted() -> None:
            (server,) = servers._servers.values()
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            with within(20, "another server is started") as pause:
                while server.pid == pid:
                    pause()

        return restarted
