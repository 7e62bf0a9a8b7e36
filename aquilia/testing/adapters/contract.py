"""What the suites of all adapters share: nodes on one medium, and what each of them has got."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from aquilia.sockets.adapters.base import Adapter, Publication
from aquilia.sockets.history import History, Position

__all__ = ["HISTORY", "Contract", "MakeAdapter", "Node", "running", "until"]

MakeAdapter = Callable[[], Adapter]

PATIENCE = 10.0
"""Seconds that anything may take which a test waits for."""
HISTORY = History(size=5, ttl=60)
LONG = History(size=1000, ttl=60)


class Node:
    """An adapter that runs, and what it has delivered. Its namespace is that of one test alone."""

    def __init__(self, adapter: Adapter, namespace: str) -> None:
        self.adapter = adapter
        self.broker = adapter.broker
        self.store = adapter.store
        self.namespace = namespace
        self.got: list[Publication] = []
        self._arrived = asyncio.Event()
        self.lost = asyncio.Event()
        """It was told of a loss."""
        self.broker.on_lost = self.lost.set

    def deliver(self, publication: Publication) -> None:
        """What the broker calls."""
        self.got.append(publication)
        self._arrived.set()

    def publication(self, payload: Any, room: str | None = "r", **other: Any) -> Publication:
        """Its id is made of its payload, and so the same for each that is equal."""
        told = {"id": f"p{payload}", "namespace": self.namespace, "event": "e", "ts": 1, **other}
        return Publication(payload=payload, room=room, **told)

    async def publish(
        self, payload: Any, room: str | None = "r", history: History | None = None
    ) -> Position | None:
        """Publish what `publication` makes."""
        return await self.broker.publish(self.publication(payload, room), history)

    async def fill(self, count: int, history: History = HISTORY, room: str = "r") -> list[Position]:
        """Publish so many at once into a log; where they stand."""
        places = await asyncio.gather(*(self.publish(n, room, history) for n in range(count)))
        return [place for place in places if place is not None]

    async def subscribe(self, room: str | None = "r", history: History | None = None) -> Position | None:
        """As `Broker.subscribe` in this test's namespace."""
        return await self.broker.subscribe(self.namespace, room, history)

    async def payloads(self, count: int) -> list[Any]:
        """Of all that has been delivered, once it is so many; more than that are shown as well."""
        async with asyncio.timeout(PATIENCE):
            while len(self.got) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return [found.payload for found in self.got]


@contextlib.asynccontextmanager
async def running(make_adapter: MakeAdapter, count: int = 1) -> AsyncIterator[list[Node]]:
    """So many nodes of one application, started, and stopped in the end."""
    namespace = f"/{uuid4().hex}"
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            node = Node(make_adapter(), namespace)
            stack.push_async_callback(node.broker.stop)
            await node.broker.start(node.deliver)
            nodes.append(node)
        yield nodes


async def until(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Ask again and again, for what only time changes."""
    async with asyncio.timeout(PATIENCE):
        while await ask() != wanted:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.02)


@pytest.mark.asyncio
class Contract:
    """What every suite asks for: the fixture `make_adapter`."""

    @pytest.fixture
    def make_adapter(self) -> MakeAdapter:
        """To fill in: a function that makes an adapter, not started. Each call makes another node on one medium.

        Tests may share that medium: each has a namespace and keys of its own.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture make_adapter, which gives a function that makes an adapter"
        )
