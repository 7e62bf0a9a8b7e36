"""Presence over nodes, over real brokers: who is where, what a death, a stop and a lost broker make of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from brokers import Broker, broker_of
from nats_server import NatsServer
from nodes import node
from ports import reserved_port
from redis_servers import RedisServer
from wire import Client as WireClient
from wire import eventually, serving

from aquilia.client import Client, Joined, Presence
from aquilia.clock import Clock
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Socket,
    SocketController,
)
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.sockets.cluster.membership import CONTROL, Cluster
from aquilia.sockets.faults import ws_overloaded
from aquilia.sockets.tasks import TaskSet

APP = """
import os
from types import SimpleNamespace

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController


@Socket("/team", presence=True)
class Team(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection, payload: str) -> int:
        conn.identity = SimpleNamespace(id=payload)
        await conn.join("team")
        return os.getpid()


app = AquilaSockets.from_controllers([Team])
"""


class Team(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection, payload: str | None) -> str:
        if payload is not None:
            conn.identity = SimpleNamespace(id=payload)
        await conn.join("team")
        return conn.id

    @Event("exit")
    async def exit(self, conn: Connection) -> None:
        await conn.leave("team")

    @Event("drop")
    async def drop(self, conn: Connection) -> None:
        await conn.disconnect()

    @Event("set")
    async def set(self, conn: Connection, payload: dict[str, Any]) -> None:
        await conn.update_presence("team", payload)

    @Event("fill")
    async def fill(self, conn: Connection, payload: int) -> None:
        """Connections whose clients are only said to be there."""
        room = self._hub.attendance._rooms[self.namespace, "team"]  # type: ignore[attr-defined]
        for number in range(payload):
            room.roster.enter(f"c{number}", f"id{number:05}", 0.0)

    @Event("who")
    async def who(self, conn: Connection) -> dict[str, int]:
        page = await self.presence("team", limit=10)
        return {present.id: present.connections for present in page.entries}

    @Event("metas")
    async def metas(self, conn: Connection) -> dict[str, Any]:
        return {present.id: present.meta for present in (await self.presence("team")).entries}

    @Event("how many")
    async def how_many(self, conn: Connection) -> int:
        return (await self.presence("team", limit=1)).count


class Member:
    """A client that keeps what it is told, as the guide says."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.here: dict[str, Any] = {}
        self.count: int | None = None
        self.left: list[str] = []
        self.told = 0
        self.first: set[str] = set()
        """Who is in the first frame behind `joined`."""
        self.anew = True
        client.on(Joined)(self._joined)
        client.on(Presence)(self._told)

    def _joined(self, notice: Joined) -> None:
        self.here = {}
        self.anew = True

    def _told(self, notice: Presence) -> None:
        self.count = notice.count
        self.told += 1
        if notice.count is not None:
            self.here = {}
        if self.anew and notice.count is None:
            self.anew, self.first = False, set(notice.joins)
        self.here |= notice.joins
        for id in notice.leaves:
            self.left.append(id)
            self.here.pop(id, None)


@contextlib.asynccontextmanager
async def member(base: str, name: str) -> AsyncIterator[Member]:
    async with Client(f"{base}/team") as client:
        found = Member(client)
        await client.call("enter", name)
        yield found


async def eventually_here(found: Member, *names: str) -> None:
    async with asyncio.timeout(20):
        while set(found.here) != set(names):
            await asyncio.sleep(0.02)


def team(url: str, **options: Any) -> AquilaSockets:
    controller = Socket("/team", presence=True, **options)(type("AnyTeam", (Team,), {}))
    return AquilaSockets.from_controllers([controller], adapter_url=url)


@contextlib.asynccontextmanager
async def town(url: str, count: int, *, known: int | None = None, **options: Any) -> AsyncIterator[list[str]]:
    """So many nodes that know each other, with their addresses; with others, they know so many."""
    async with contextlib.AsyncExitStack() as stack:
        apps = [team(url, **options) for _ in range(count)]
        bases = [await stack.enter_async_context(serving(app)) for app in apps]
        await eventually(lambda: all(len(app.cluster.nodes()) == (known or count) for app in apps))
        yield bases


async def eventually_told(client: Client, expected: dict[str, int]) -> None:
    """Wait until a node says so of the room: what other nodes tell takes its way."""
    async with asyncio.timeout(10):
        while await client.call("who") != expected:
            await asyncio.sleep(0.05)


async def eventually_count(client: Client, expected: int) -> None:
    async with asyncio.timeout(10):
        while await client.call("how many") != expected:
            await asyncio.sleep(0.05)


async def test_members_on_all_nodes_see_each_other_come_and_go(nats_server: NatsServer) -> None:
    async with (
        town(nats_server.url(), 3) as (one, other, third),
        member(one, "ann") as ann,
        member(other, "bob") as bob,
        member(other, "ann"),
        Client(f"{third}/team") as outside,
    ):
        await eventually_here(ann, "ann", "bob")
        await eventually_here(bob, "ann", "bob")
        await eventually_told(outside, {"ann": 2, "bob": 1})
        await bob.client.call("set", {"status": "away"})
        await eventually(lambda: ann.here.get("bob") == {"status": "away"})
        async with member(third, "cem") as cem:
            await eventually_told(cem.client, {"ann": 2, "bob": 1, "cem": 1})
            await eventually_here(cem, "ann", "bob", "cem")
            await eventually_here(ann, "ann", "bob", "cem")
            await cem.client.call("exit")
            await eventually_here(ann, "ann", "bob")
        await bob.client.call("exit")
        await eventually_here(ann, "ann")
        assert ann.left == ["cem", "bob"]
        await eventually_told(outside, {"ann": 2})


async def test_the_first_frame_has_those_of_all_nodes(broker: Broker) -> None:
    async with (
        town(broker.url(), 3) as (one, other, third),
        member(one, "ann") as ann,
        member(other, "bob") as bob,
    ):
        await eventually_here(ann, "ann", "bob")
        await eventually_here(bob, "ann", "bob")
        async with member(third, "cem") as cem:  # where nobody was in the room
            await eventually(lambda: cem.told == 1)
            assert cem.first == {"ann", "bob", "cem"}


async def test_who_comes_back_to_a_node_that_did_not_know_the_room_sees_all_at_once(
    broker: Broker,
) -> None:
    async with town(broker.url(), 2) as (one, other), member(one, "ann") as ann:
        async with arriving(one) as client:
            await client.request("enter")
            id = client.welcome["connection"]
            await eventually_here(ann, "ann", id)
            async with arriving(other, client.welcome["resume"]) as back:
                await back.expect("resumed")
                assert (await back.expect("presence"))["payload"] == {"room": "team", "count": 2}
                assert (await back.expect("presence"))["payload"]["joins"] == {"ann": {}, id: {}}


async def test_who_was_on_a_node_that_is_killed_has_left(redis_server: RedisServer, tmp_path: Path) -> None:
    url = redis_server.url()
    with reserved_port() as port:
        async with town(url, 1) as (base,), node(tmp_path, APP, url, port) as killed:
            async with member(base, "ann") as ann, Client(f"ws://{killed}/team") as client:
                pid = await client.call("enter", "bob")
                await eventually_here(ann, "ann", "bob")
                began = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                await eventually_here(ann, "ann")
                assert time.monotonic() - began < 8  # five, on a machine that is not loaded
                assert ann.left == ["bob"]


async def test_who_is_on_a_node_that_was_frozen_is_back_with_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    url = nats_server.url()
    with reserved_port() as port:
        async with town(url, 1) as (base,), node(tmp_path, APP, url, port) as frozen:
            async with member(base, "ann") as ann, Client(f"ws://{frozen}/team") as client:
                bob = Member(client)
                pid = await client.call("enter", "bob")
                await eventually_here(ann, "ann", "bob")
                os.kill(pid, signal.SIGSTOP)
                try:
                    await eventually_here(ann, "ann")
                    async with member(base, "cem"):
                        await eventually_here(ann, "ann", "cem")
                finally:
                    os.kill(pid, signal.SIGCONT)
                await eventually_here(ann, "ann", "bob")
                await eventually_here(bob, "ann", "bob")
                assert bob.left in ([], ["cem"])


async def test_clients_of_a_node_that_stops_are_back_elsewhere_and_have_not_left(
    nats_server: NatsServer,
) -> None:
    url = nats_server.url()
    async with town(url, 1) as (base,), member(base, "ann") as ann:
        stopping = team(url)
        async with contextlib.AsyncExitStack() as stack:
            other = await stack.enter_async_context(serving(stopping))
            await eventually(lambda: len(stopping.cluster.nodes()) == 2)
            async with member(other, "bob"), member(base, "cem") as cem:
                await eventually_here(ann, "ann", "bob", "cem")
                await stack.aclose()
                await cem.client.send("drop")
                async with asyncio.timeout(20):
                    while not ann.left:
                        await asyncio.sleep(0.02)
                assert ann.left == ["cem"]
        async with member(base, "bob") as bob:
            await eventually_here(bob, "ann", "bob")
            assert ann.left == ["cem"]
            await bob.client.call("exit")
            await eventually_here(ann, "ann")
            assert ann.left == ["cem", "bob"]


@contextlib.asynccontextmanager
async def arriving(base: str, token: str | None = None) -> AsyncIterator[WireClient]:
    """A client, which comes back to its session if it has a token; `welcome` says the next one."""
    async with WireClient.connect(f"{base}/team", "v1.json", hello=False) as client:
        payload = {} if token is None else {"resume": {"token": token, "rooms": {}}}
        await client.send("hello", payload, type="control")
        client.welcome = (await client.expect("welcome"))["payload"]
        yield client


async def test_a_rolling_restart_is_no_flood_of_leaves_and_joins(redis_server: RedisServer) -> None:
    url = redis_server.url()
    async with town(url, 1) as (base,), member(base, "ann") as ann, contextlib.AsyncExitStack() as stack:
        stopping = team(url)
        async with serving(stopping) as other:
            await eventually(lambda: len(stopping.cluster.nodes()) == 2)
            clients = [await stack.enter_async_context(arriving(other)) for _ in range(20)]
            for number, client in enumerate(clients):
                await client.send("enter", None)
                await client.send("set", {"number": number})
            ids = {client.welcome["connection"]: {"number": n} for n, client in enumerate(clients)}
            async with asyncio.timeout(10):
                while ann.here != {"ann": {}, **ids}:
                    await asyncio.sleep(0.02)
            told = ann.told
        tokens = [client.welcome["resume"] for client in clients]
        for token in tokens:
            await stack.enter_async_context(arriving(base, token))
        await eventually_count(ann.client, 21)
        for number in (1, 2, 3):
            await ann.client.call("set", {"at": number})
            await eventually(lambda number=number: ann.here["ann"] == {"at": number})
        assert (ann.told, ann.left) == (told + 3, [])
        assert ann.here == {"ann": {"at": 3}, **ids}


async def test_who_enters_elsewhere_while_a_node_leaves_does_not_see_its_clients_leave(
    nats_server: NatsServer,
) -> None:
    url = nats_server.url()
    async with town(url, 1) as (base,), contextlib.AsyncExitStack() as stack:
        stopping = team(url)
        async with serving(stopping) as other:
            await eventually(lambda: len(stopping.cluster.nodes()) == 2)
            clients = [await stack.enter_async_context(arriving(other)) for _ in range(3)]
            for client in clients:
                await client.request("enter")
            ids = [client.welcome["connection"] for client in clients]
            known: set[str] = set()
            while not known.issuperset(ids):
                known |= (await clients[0].expect("presence"))["payload"]["joins"].keys()
            await stopping.drain()
            ann = await stack.enter_async_context(member(base, "ann"))
            await eventually_here(ann, "ann", *ids)
        for number in (1, 2):
            await ann.client.call("set", {"at": number})
            await eventually(lambda number=number: ann.here["ann"] == {"at": number})
        assert ann.left == []
        for client in clients:
            await stack.enter_async_context(arriving(base, client.welcome["resume"]))
        await eventually_count(ann.client, 4)
        await ann.client.call("set", {"at": 3})
        await eventually(lambda: ann.here["ann"] == {"at": 3})
        assert (ann.left, set(ann.here)) == ([], {"ann", *ids})


async def test_who_comes_back_elsewhere_before_its_node_knew_has_its_metadata(
    broker: Broker,
) -> None:
    async with town(broker.url(), 2) as (one, other), arriving(one) as client:
        await client.request("enter")
        await client.request("set", {"at": 1})
        async with arriving(other, client.welcome["resume"]), Client(f"{other}/team") as outside:
            id = client.welcome["connection"]
            await eventually_told(outside, {id: 1})  # the first node has given it up
            assert await outside.call("metas") == {id: {"at": 1}}


async def test_what_is_missed_while_the_broker_is_away_is_known_once_it_is_back(
    tmp_path: Path,
) -> None:
    with broker_of("redis", tmp_path) as server:
        async with (
            town(server.url(), 2, resume=False) as (one, other),
            member(one, "ann") as ann,
            member(other, "bob") as bob,
            member(other, "cem") as cem,
        ):
            await eventually_here(ann, "ann", "bob", "cem")
            server.kill()
            await cem.client.call("exit")
            await bob.client.call("set", {"at": 1})
            await eventually_here(bob, "ann", "bob")
            assert ann.left == []
            server.start()
            await eventually_here(ann, "ann", "bob")
            async with asyncio.timeout(20):
                while ann.here["bob"] != {"at": 1}:
                    await asyncio.sleep(0.02)
            assert ann.left == ["cem"]
            assert bob.left == ["cem"]


@contextlib.asynccontextmanager
async def older(url: str, *, faulty: bool = False) -> AsyncIterator[Cluster]:
    """A node of a version that knows nothing of presence, or cannot answer."""
    broker = NatsAdapter(url).broker
    cluster = Cluster(broker, TaskSet(), Clock())
    if faulty:
        cluster.on("presence", refusing)
    await broker.start(lambda told: cluster.deliver(told) if told.namespace == CONTROL else None)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()
        await broker.stop()


async def test_a_node_that_knows_no_presence_has_nobody(nats_server: NatsServer) -> None:
    url = nats_server.url()
    async with older(url) as cluster, town(url, 2, known=3) as (one, other):
        await eventually(lambda: len(cluster.nodes()) == 3)
        async with member(one, "ann") as ann, Client(f"{other}/team") as outside, asyncio.timeout(4):
            await eventually_told(ann.client, {"ann": 1})
            await eventually_told(outside, {"ann": 1})


def refusing(asked: Any) -> Any:
    raise ws_overloaded()


async def test_the_first_frame_comes_without_a_node_that_does_not_answer(nats_server: NatsServer) -> None:
    url = nats_server.url()
    async with older(url, faulty=True) as cluster, town(url, 1, known=2) as (base,):
        await eventually(lambda: len(cluster.nodes()) == 2)
        async with member(base, "ann") as ann, asyncio.timeout(20):
            assert ann.told == 0  # its join was not held up
            await eventually_here(ann, "ann")
            async with member(base, "bob") as bob:
                await eventually_here(bob, "ann", "bob")
                assert bob.first == {"ann", "bob"}


async def test_a_room_of_ten_thousand_is_counted_on_all_nodes(nats_server: NatsServer) -> None:
    async with (
        town(nats_server.url(), 2) as (one, other),
        member(one, "ann") as ann,
        member(other, "bob") as bob,
    ):
        await eventually_here(bob, "ann", "bob")
        await ann.client.call("fill", 10_000)
        await bob.client.call("set", {"at": 1})
        async with asyncio.timeout(20):
            while (ann.count, bob.count) != (10_002, 10_002):
                await asyncio.sleep(0.02)
        assert not any(id.startswith("id") for id in bob.here)
        assert await bob.client.call("how many") == 10_002
        async with Client(f"{other}/team") as late:
            assert await late.call("how many") == 10_002
