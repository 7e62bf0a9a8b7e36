"""What is promised of a broker that is killed, and started again with what it has kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from aquilia.testing.adapters.contract import LONG, PATIENCE, Contract, MakeAdapter, Node, running
from aquilia.testing.adapters.promises import keeps

__all__ = ["Restart", "RestartContract"]

Restart = Callable[[], None]

_KEPT = "What was acknowledged is in the log after the broker was killed, once"
_BACK = "Nodes come back to it by themselves, and are told that something may be missing"


async def _told_of_it(nodes: Sequence[Node]) -> None:
    async with asyncio.timeout(PATIENCE):
        for node in nodes:
            await node.lost.wait()


class RestartContract(Contract):
    """A broker that is killed and comes back with its disk, and two nodes that use it meanwhile."""

    @pytest.fixture
    def restart(self) -> Restart:
        """To fill in: a function that kills the server of `make_adapter` with `SIGKILL`, and starts it again.

        It is called in a thread of its own, and returns once the server answers. No other test uses that server.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture restart, which gives a function that kills and starts its broker"
        )

    @keeps(_KEPT)
    async def test_what_was_acknowledged_is_there_after_the_broker_was_killed(
        self, make_adapter: MakeAdapter, restart: Restart
    ) -> None:
        async with running(make_adapter, 2) as nodes:
            one, other = nodes
            await other.subscribe("r", LONG)
            places = await one.fill(50, LONG)
            assert await other.payloads(50) == list(range(50))
            await asyncio.to_thread(restart)
            await _told_of_it(nodes)
            page = await other.broker.read(other.namespace, "r", LONG, since=places[0])
            assert [found.payload for found in page.publications] == list(range(1, 50))
            assert (page.complete, page.head) == (True, places[-1])
            assert await one.publish(7, "r", LONG) == places[7]
            late = await other.publish("late", "r", LONG)
            assert late is not None
            assert late > places[-1]
            assert late.epoch == places[-1].epoch
            assert await other.payloads(51) == [*range(50), "late"]

    @keeps(_KEPT)
    async def test_what_is_published_while_the_broker_is_killed_is_stored_once(
        self, make_adapter: MakeAdapter, restart: Restart
    ) -> None:
        async with running(make_adapter, 2) as (one, other):
            said = [asyncio.create_task(one.publish(n, "r", LONG)) for n in range(200)]
            await said[20]
            await asyncio.to_thread(restart)
            places = await asyncio.gather(*said)
            page = await other.broker.read(other.namespace, "r", LONG, limit=300)
            assert sorted(found.payload for found in page.publications) == list(range(200))
            for found in page.publications:
                assert found.position == places[found.payload]

    @keeps(_BACK)
    async def test_nodes_come_back_after_the_broker_was_killed_and_hear_each_other(
        self, make_adapter: MakeAdapter, restart: Restart
    ) -> None:
        async with running(make_adapter, 2) as nodes:
            for node in nodes:
                await node.subscribe()
            await nodes[0].publish(1)
            assert [await node.payloads(1) for node in nodes] == [[1], [1]]
            assert not any(node.lost.is_set() for node in nodes)
            await asyncio.to_thread(restart)
            await _told_of_it(nodes)
            assert all(node.broker.connected for node in nodes)
            for n, node in enumerate(nodes, 2):
                await node.publish(n)
            assert [sorted(await node.payloads(3)) for node in nodes] == [[1, 2, 3], [1, 2, 3]]
