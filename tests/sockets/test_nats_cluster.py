"""The NATS adapter on a cluster of three real servers, of which some are killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nats_server import NatsServer
from ports import reserved_port

from aquilia.sockets import Publication, SocketFault
from aquilia.sockets.adapters.nats import NatsAdapter, open_calls
from aquilia.sockets.history import History

HISTORY = History(size=60_000, ttl=60)


class Cluster:
    """Three servers, by number."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = [
            NatsServer(
                folder / str(n),
                *("--name", f"n{n}", "--cluster_name", "three", "--routes", routes),
                *("--cluster", f"nats://127.0.0.1:{port}"),
            )
            for n, port in enumerate(ports)
        ]

    def url(self, *numbers: int, prefix: str) -> str:
        hosts = ",".join(f"127.0.0.1:{self.servers[n].port}" for n in numbers or (0, 1, 2))
        return f"nats://{hosts}/{prefix}?replicas=3"

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as reserved:
        ports = [reserved.enter_context(reserved_port()) for _ in range(3)]
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), ports)
        yield cluster
        cluster.kill()


class Node:
    """An adapter, and what it got."""

    def __init__(self, url: str) -> None:
        adapter = NatsAdapter(url)
        self.broker, self.store = adapter.broker, adapter.store
        self.got: list[Publication] = []

    async def __aenter__(self) -> Node:
        await self.broker.start(self.got.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.stop()

    async def publish(self, n: int, room: str, history: History | None = HISTORY) -> None:
        told = Publication(id=f"p{n}", namespace="/a", event="e", payload=n, ts=n, room=room)
        await self.broker.publish(told, history)

    async def hears(self, n: int) -> None:
        async with asyncio.timeout(10):
            while n not in [found.payload for found in self.got]:
                await asyncio.sleep(0.01)

    async def leader(self) -> int:
        """The number of the server that leads the stream of the one history."""
        (log,) = self.broker._logs._logs.values()
        (reply,) = await self.broker._connection.call(f"$JS.API.STREAM.INFO.{log.stream}", again=True)
        return int(json.loads(reply.data)["cluster"]["leader"].removeprefix("n"))

    async def remembered(self, room: str, count: int) -> list[object]:
        """All that a room remembers, when it is so many; a server that came back may have to catch up."""
        async with asyncio.timeout(10):
            while True:
                page = await self.broker.read("/a", room, HISTORY, limit=60_000)
                if len(page.publications) >= count:
                    return [found.payload for found in page.publications]
                await asyncio.sleep(0.05)


@pytest.fixture
async def nodes(cluster: Cluster) -> AsyncIterator[tuple[Node, Node]]:
    async with Node(cluster.url(prefix="app")) as one, Node(cluster.url(prefix="app")) as two:
        yield one, two


async def test_nothing_acknowledged_is_lost_or_doubled_when_the_leader_is_killed(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    await two.broker.subscribe("/a", "leader", HISTORY)
    await one.publish(0, "leader")
    acknowledged, killed = [0], asyncio.Event()

    async def publish(first: int) -> None:
        after = 0
        for n in range(first, 60_000, 4):
            await one.publish(n, "leader")
            acknowledged.append(n)
            after += killed.is_set()
            if after > 50:
                return

    publishing = [asyncio.create_task(publish(first)) for first in (1, 2, 3, 4)]
    async with asyncio.timeout(10):
        while len(acknowledged) < 200:
            await asyncio.sleep(0.01)
    leader = await one.leader()
    cluster.servers[leader].kill()
    killed.set()
    try:
        await asyncio.gather(*publishing)  # with no fault
        assert await one.leader() != leader
        async with Node(cluster.url(prefix="app")) as third:  # it starts while one is dead
            assert sorted(await third.remembered("leader", len(acknowledged))) == sorted(acknowledged)
    finally:
        cluster.servers[leader].start()
    assert sorted(await two.remembered("leader", len(acknowledged))) == sorted(acknowledged)
    await one.publish(60_001, "leader")
    await two.hears(60_001)


async def test_without_a_majority_plain_rooms_go_on_and_logs_are_refused_until_it_is_back(
    cluster: Cluster, nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nodes
    await two.broker.subscribe("/a", "plain")
    await one.publish(0, "log")
    monkeypatch.setattr(open_calls, "ELECTION", 2.0)
    dead = cluster.servers[:2]
    for server in dead:
        server.kill()
    try:
        with pytest.raises(SocketFault) as refused:
            async with asyncio.timeout(2.5):  # all of it together
                await one.publish(1, "log")
        assert refused.value.code == "WS_ADAPTER_UNAVAILABLE", refused.value
        await one.publish(2, "plain", None)
        await two.hears(2)
    finally:
        for server in dead:
            server.start()
    monkeypatch.setattr(open_calls, "ELECTION", 30.0)
    await one.publish(3, "log")
    assert set(await two.remembered("log", 2)) - {1} == {0, 3}


async def test_more_replicas_than_servers_are_refused_with_what_they_need(nats_server: NatsServer) -> None:
    with pytest.raises(SocketFault, match="replicas=3 needs a cluster of 3 servers with JetStream"):
        async with Node(f"{nats_server.url()}?replicas=3"):
            pass


async def test_all_hosts_that_do_not_answer_are_named_and_one_that_does_is_enough(
    nats_server: NatsServer,
) -> None:
    with reserved_port() as first, reserved_port() as second:
        with pytest.raises(SocketFault) as refused:
            async with Node(f"nats://127.0.0.1:{first},127.0.0.1:{second}"):
                pass
        assert f"127.0.0.1:{first} cannot be reached" in refused.value.message
        assert f"127.0.0.1:{second} cannot be reached" in refused.value.message
        async with Node(f"nats://127.0.0.1:{first},127.0.0.1:{nats_server.port}/hosts"):
            pass
