"""What tests of sockets share: both transports, their own `app` served by them, and what the log complains of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from brokers import BROKERS, Broker, Make, broker_of, patience
from door import Complaints, listening
from kafka_server import KafkaServer
from nats_server import NatsServer
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels
from redis_servers import RedisServer, debian_redis
from wire import TRANSPORTS, serving

from aquilia.sockets import AquilaSockets


@pytest.fixture(scope="module", params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> Any:
    """What uvicorn takes as its `ws`: our own server, and its own."""
    return TRANSPORTS[request.param]


@pytest.fixture
async def base(transport: Any, app: AquilaSockets) -> AsyncIterator[str]:
    """Where the application of the test's file is served."""
    async with serving(app, ws=transport) as base:
        yield base


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """What is logged as a warning or worse; the test must take it all."""
    with listening() as complaints:
        yield complaints
    assert complaints.take() == []


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture(params=BROKERS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Each of those that several processes can share, one after the other."""
    kind: str = request.param
    return kind


@pytest.fixture
def broker(request: pytest.FixtureRequest, broker_kind: str) -> Broker:
    """A server of that kind which tests share, and leave alone."""
    server: Broker = request.getfixturevalue(f"{broker_kind}_server")
    return server


@pytest.fixture
def make_broker(broker_kind: str, tmp_path: Path) -> Make:
    """Called with options: a server of that kind which is the test's own."""
    return partial(broker_of, broker_kind, tmp_path / "broker")


@pytest.fixture
def own_broker(make_broker: Make) -> Iterator[Broker]:
    """A server of that kind which the test may kill."""
    with make_broker() as server:
        yield server


@pytest.fixture
def soon_lost(broker_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nodes that start behind it take a server that stands still for lost after two seconds."""
    monkeypatch.setattr(*patience(broker_kind))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_70(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The oldest that is tested: that of Debian 12."""
    with RedisServer(tmp_path_factory.mktemp("redis"), executable=debian_redis()) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One whose settings a test changes."""
    with RedisServer(tmp_path / "own") as server:
        yield server


@pytest.fixture(scope="session")
def redis_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinels]:
    with RedisSentinels(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters, which nobody replaces: so they may be slow to answer each other."""
    with RedisCluster(tmp_path_factory.mktemp("redis"), replicas=0, node_timeout=15_000) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    server = KafkaServer()
    yield server
    server.close()
