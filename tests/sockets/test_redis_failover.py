"""A Redis master is killed, and its replica takes its place: what was acknowledged by `replicas=1` is still there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from redis_cluster import RedisCluster
from redis_sentinels import RedisSentinels

from aquilia.sockets import RedisAdapter
from aquilia.sockets.adapters.redis.names import place_of
from aquilia.sockets.history import History, Position
from aquilia.testing.adapters.contract import Node, running

HISTORY = History(size=1000, ttl=300)


class Servers(NamedTuple):
    url: str
    fail_over: Callable[[str], None]
    """Kill the master of a key, wait until its replica has its place, and start it again as a replica of that."""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Servers]:
    with RedisCluster(folder) as servers:

        def fail_over(key: str) -> None:
            master = servers.master_of(key)
            servers.kill(master)
            servers.promoted(master)
            servers.restart(master)

        yield Servers(servers.url("app"), fail_over)


@contextlib.contextmanager
def sentinels(folder: Path) -> Iterator[Servers]:
    with RedisSentinels(folder) as servers:

        def fail_over(key: str) -> None:
            master = servers.master()
            servers.kill(master)
            servers.promoted(master)
            servers.restart(master)

        yield Servers(servers.url("app"), fail_over)


async def remembered(node: Node, since: Position) -> set[tuple[int, Position | None]]:
    """What the log has behind a position, in its epoch and in the one that may have begun."""
    found: set[tuple[int, Position | None]] = set()
    for behind in (since, None):
        page = await node.broker.read(node.namespace, "r", HISTORY, since=behind, limit=1000)
        found |= {(each.payload, each.position) for each in page.publications}
    return found


@pytest.mark.parametrize("kind", [cluster, sentinels])
async def test_what_one_replica_has_is_kept_and_stored_once_when_its_master_is_killed(
    kind: Callable[[Path], contextlib.AbstractContextManager[Servers]], tmp_path: Path
) -> None:
    with kind(tmp_path) as servers:
        async with running(lambda: RedisAdapter(f"{servers.url}&replicas=1"), 2) as (one, other):
            await other.subscribe("r", HISTORY)
            first = await one.publish(-1, "r", HISTORY)
            assert first is not None
            acknowledged: dict[int, Position | None] = {-1: first}
            running_well = asyncio.Event()

            async def publish(start: int) -> None:
                for n in range(start, 400, 8):
                    acknowledged[n] = await one.publish(n, "r", HISTORY)
                    if len(acknowledged) > 50:
                        running_well.set()

            publishing = asyncio.gather(*(publish(start) for start in range(8)))
            await running_well.wait()
            key = place_of("app", one.namespace, "r").log.decode()
            await asyncio.to_thread(servers.fail_over, key)
            await publishing
            assert sorted(acknowledged) == list(range(-1, 400))
            assert await remembered(other, first) | {(-1, first)} == set(acknowledged.items())
