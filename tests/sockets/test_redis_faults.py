"""Redis that is killed, emptied, moved and meddled with, while nodes publish and follow logs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import emptied
from loops import on_each_loop
from places import entered, places
from redis_cluster import RedisCluster
from redis_nodes import NAMESPACE, Load, nodes, reached
from redis_sentinels import RedisSentinels
from redis_servers import RedisServer, fresh_prefix
from roads import Road
from wire import Client

from aquilia.sockets import History, Publication, RedisAdapter
from aquilia.sockets.adapters.redis import broker
from aquilia.sockets.adapters.redis.names import place_of, slot_of

ROOMS = ("a", "b", "c", "d")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters, each with a replica."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


# Servers that end


@on_each_loop
async def test_what_was_acknowledged_outlives_a_server_that_is_killed_again_and_again(
    server: RedisServer,
) -> None:
    async with nodes(server.url(), *ROOMS) as found:
        load = Load(found)
        for turn in range(1, 4):
            await load.more(20)
            server.kill()
            await reached(lambda: not any(node.broker.connected for node in found))
            await asyncio.to_thread(server.start)
            await reached(lambda turn=turn: [node.losses for node in found] == [turn, turn])
        await load.more(20)
        await load.stop()
        assert list(load.problems()) == []
        assert [node.gaps for node in found] == [[], []]


def room_s_master(cluster: RedisCluster, prefix: str) -> RedisServer:
    return cluster.owner(slot_of(place_of(prefix, NAMESPACE, ROOMS[0]).share))


@pytest.mark.parametrize("how", ["killed", "planned"])
async def test_a_replica_that_takes_the_place_of_a_master_has_all_that_was_acknowledged(
    cluster: RedisCluster, how: str
) -> None:
    prefix = fresh_prefix()
    async with nodes(f"{cluster.url(prefix)}&replicas=1", *ROOMS) as found:
        load = Load(found)
        await load.more(20)
        master = await asyncio.to_thread(room_s_master, cluster, prefix)
        if how == "killed":
            cluster.kill(master)
            await asyncio.to_thread(cluster.promoted, master)
            await asyncio.to_thread(cluster.restart, master)
        else:
            await asyncio.to_thread(cluster.failover, master)
        await load.more(20)
        await reached(lambda: all(node.broker.connected for node in found))
        for node in found:
            await node.say("plain", "behind it")
        await load.stop()
        assert list(load.problems()) == []
        assert [node.gaps for node in found] == [[], []]
        await reached(lambda: all(node.plain.count("behind it") == 2 for node in found))
        assert [node.plain for node in found] == [[None, "behind it", "behind it"]] * 2


@pytest.mark.parametrize("how", ["killed", "planned"])
async def test_what_sentinels_put_in_the_place_of_a_master_has_all_that_was_acknowledged(
    tmp_path: Path, how: str
) -> None:
    with RedisSentinels(tmp_path) as service:
        async with nodes(f"{service.url()}&replicas=1", *ROOMS) as found:
            load = Load(found)
            await load.more(20)
            if how == "killed":
                master = service.master()
                service.kill(master)
                await asyncio.to_thread(service.promoted, master)
                await asyncio.to_thread(service.restart, master)
            else:
                await asyncio.to_thread(service.failover)
            await load.more(20)
            await load.stop()
            assert list(load.problems()) == []
            for node in found:
                # The former master may have told of what the new one has not, which is said again.
                assert {gap.cause for _, gap in node.gaps} <= {"epoch_changed"}
                assert node.plain == [None]


async def test_slots_that_move_while_nodes_publish_cost_nothing_that_is_kept(cluster: RedisCluster) -> None:
    prefix = fresh_prefix()
    async with nodes(cluster.url(prefix), *ROOMS) as found:
        load = Load(found)
        await load.more(10)
        for room in ROOMS:
            slot = slot_of(place_of(prefix, NAMESPACE, room).share)
            to = await asyncio.to_thread(lambda slot=slot: _another(cluster, slot))
            await asyncio.to_thread(cluster.move_slot, slot, to)
        await load.more(10)
        await load.stop()
        assert list(load.problems()) == []
        assert [node.gaps for node in found] == [[], []]


def _another(cluster: RedisCluster, slot: int) -> RedisServer:
    return next(master for master in cluster.masters() if master is not cluster.owner(slot))


# Servers that come back with less


async def lives_on(server: RedisServer, how: str) -> None:
    """Have it lose what it is to lose while nodes publish, and look at what they are told."""
    async with nodes(server.url(), *ROOMS) as found:
        load = Load(found)
        await load.more(10)
        if how == "older":
            await asyncio.to_thread(server.command, "SAVE")
            shutil.copy(server.folder / "dump.rdb", server.folder / "older.rdb")
            await load.more(10)
        server.kill()
        if how == "older":
            shutil.copy(server.folder / "older.rdb", server.folder / "dump.rdb")
        else:
            emptied(server.folder)
        await reached(lambda: not any(node.broker.connected for node in found))
        await asyncio.to_thread(server.start)
        await reached(lambda: all(len(node.gaps) == len(ROOMS) for node in found))
        load.excuse()
        await load.more(10)
        await load.stop()
        assert list(load.problems()) == []
        for node in found:
            assert {(room, gap.cause) for room, gap in node.gaps} == {
                (room, "epoch_changed") for room in ROOMS
            }
            assert len(node.gaps) == len(ROOMS)


async def test_a_server_that_comes_back_empty_is_told_once_and_nothing_behind_it_is_missed(
    server: RedisServer,
) -> None:
    await lives_on(server, "empty")


async def test_who_finds_an_emptied_server_last_has_all_that_was_said_there_before(
    server: RedisServer,
) -> None:
    prefix = fresh_prefix()
    async with Road.to(server.port) as road, nodes(server.url(prefix), *ROOMS, count=1) as (one,):
        async with nodes(server.url(prefix, port=road.port), *ROOMS, count=1) as (late,):
            for room in ROOMS:
                await one.say(room, "before")
            await reached(lambda: all(late.got[room] == ["before"] for room in ROOMS))
            await road.close()
            server.kill()
            emptied(server.folder)
            await asyncio.to_thread(server.start)
            await reached(lambda: len(one.gaps) == len(ROOMS))
            for number in range(3):
                for room in ROOMS:
                    await one.say(room, number)
            await road.mend()
            await reached(lambda: len(late.gaps) == len(ROOMS))
            for room in ROOMS:
                await one.say(room, "behind")
            for node in (one, late):
                await reached(lambda node=node: all(node.got[room][-1] == "behind" for room in ROOMS))
                assert list(node.got.values()) == [["before", 0, 1, 2, "behind"]] * len(ROOMS)
                assert {gap.cause for _, gap in node.gaps} == {"epoch_changed"}


async def test_a_server_that_comes_back_with_an_older_state_is_told_once_and_nothing_behind_it_is_missed(
    tmp_path: Path,
) -> None:
    with RedisServer(tmp_path) as server:
        await lives_on(server, "older")


# What is done to a server that runs


async def test_connections_that_the_server_ends_are_made_anew_and_members_are_told(
    redis_server: RedisServer,
) -> None:
    async with nodes(redis_server.url(), *ROOMS) as found:
        load = Load(found)
        await load.more(10)
        assert await asyncio.to_thread(redis_server.command, "CLIENT", "KILL", "TYPE", "pubsub") >= 2
        await reached(lambda: all(node.losses == 1 and node.broker.connected for node in found))
        await found[0].say("plain", "again")
        await load.more(10)
        await load.stop()
        assert list(load.problems()) == []
        assert [node.gaps for node in found] == [[], []]
        assert [node.plain for node in found] == [[None, "again"]] * 2


async def test_scripts_that_are_flushed_are_taught_anew_and_nobody_notices(redis_server: RedisServer) -> None:
    async with nodes(redis_server.url(), *ROOMS) as found:
        load = Load(found)
        for _ in range(3):
            await load.more(10)
            await asyncio.to_thread(redis_server.command, "SCRIPT", "FLUSH")
        await load.more(10)
        await load.stop()
        assert list(load.problems()) == []
        assert [(node.gaps, node.plain) for node in found] == [([], [])] * 2


async def test_the_first_word_of_a_new_node_reaches_everyone(redis_server: RedisServer) -> None:
    url = redis_server.url()
    async with nodes(url, "a") as found:
        for turn in range(5):
            async with nodes(url, "a", count=1) as (new,):
                await new.say("plain", f"plain {turn}")
                await new.say("a", f"kept {turn}")
                for node in (*found, new):
                    await reached(lambda node=node, turn=turn: node.plain[-1:] == [f"plain {turn}"])
                    await reached(lambda node=node, turn=turn: node.got["a"][-1:] == [f"kept {turn}"])
        assert [node.losses for node in found] == [0, 0]


# What is left


async def test_what_a_room_has_for_its_members_stays_known_while_a_node_listens_and_goes_when_none_does(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "REMEMBERED", 1.0)
    monkeypatch.setattr(broker, "REFRESH", 0.2)
    prefix, brief = fresh_prefix(), History(ttl=0.2)

    def told(id: str) -> Publication:
        return Publication(id=id, namespace=NAMESPACE, event="said", payload=id, ts=1, room="brief")

    def left() -> list[str]:
        return sorted(redis_server.command("KEYS", f"{prefix}:*"))

    place, later = place_of(prefix, NAMESPACE, "brief"), f"{prefix}:later"
    adapter, arrived = RedisAdapter(redis_server.url(prefix)), list[Publication]()
    await adapter.broker.start(arrived.append)
    try:
        await adapter.broker.subscribe(NAMESPACE, "brief", brief)
        first = await adapter.broker.publish(told("first"), brief)
        await adapter.store.put("value", b"x", 0.2)
        redis_server.command(
            "SET", later, "", "PX", 2000
        )  # longer than anything is kept where nobody listens
        async with asyncio.timeout(10):
            while later in await asyncio.to_thread(left):
                await asyncio.sleep(0.05)
        kept = [key for key in await asyncio.to_thread(left) if not key.endswith(":epoch")]
        assert kept == [place.head.decode()]
        await adapter.broker.publish(told("second"), brief)
        await reached(lambda: len(arrived) == 2)
        assert first is not None
        assert arrived[1].previous == first.offset
    finally:
        await adapter.broker.stop()
    async with asyncio.timeout(10):
        while not all(key.endswith(":epoch") for key in await asyncio.to_thread(left)):
            await asyncio.sleep(0.05)
    assert place.epoch.decode() in await asyncio.to_thread(left)


async def test_nothing_that_an_application_does_looks_through_all_keys(server: RedisServer) -> None:
    async with places(server) as (one, other):
        async with Client.connect(one.url, "v1.json") as ann, Client.connect(other.url, "v1.json") as bob:
            for client in (ann, bob):
                await entered(client, "room", "log", "team")
            for room in ("room", "log", "team"):
                await ann.request("say", [room, 1])
            assert (await bob.request("members", "room"))["data"] == 2
            assert len((await bob.request("here", "team"))["data"]) == 2
            await ann.request("exit", "log")
        token = ann.welcome["payload"]["resume"]
        async with Client.connect(other.url, "v1.json", hello=False) as again:
            await again.send("hello", {"resume": {"token": token}}, type="control")
            await again.expect("welcome")
    asked = {name.removeprefix("cmdstat_") for name in await asyncio.to_thread(server.info, "commandstats")}
    assert asked & {"evalsha", "spublish", "ssubscribe"} == {"evalsha", "spublish", "ssubscribe"}
    assert not asked & {"keys", "scan", "sscan", "hscan", "zscan", "randomkey", "dbsize", "flushall"}
