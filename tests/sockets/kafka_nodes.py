"""Nodes that have the Kafka adapter, for its tests."""

from __future__ import annotations

import asyncio
from typing import Any

from aquilia.sockets import Publication
from aquilia.sockets.adapters.kafka import KafkaAdapter
from aquilia.sockets.history import History

__all__ = ["HISTORY", "SMALL", "Node", "publication"]

HISTORY = History(size=5000, ttl=60)
SMALL = History(size=5, ttl=60)


class Node:
    """An adapter, what it got, and how often it lost its broker."""

    def __init__(self, url: str, **options: Any) -> None:
        self.adapter = KafkaAdapter(url, **options)
        self.broker = self.adapter.broker
        self.got: list[Publication] = []
        self.lost = asyncio.Event()
        self.broker.on_lost = self.lost.set

    @property
    def prefix(self) -> str:
        return self.broker._connection.target.prefix

    async def hears(self, *payloads: object) -> None:
        async with asyncio.timeout(15):
            while not set(payloads) <= {found.payload for found in self.got}:
                await asyncio.sleep(0.01)

    async def is_connected(self, wanted: bool) -> float:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(15):
            while self.broker.connected is not wanted:
                await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - began

    async def remembered(self, room: str = "r", history: History = HISTORY) -> list[object]:
        page = await self.broker.read("/a", room, history, limit=10_000)
        return [found.payload for found in page.publications]


def publication(n: Any, room: str | None = "r") -> Publication:
    return Publication(id=f"p{n}", namespace="/a", event="e", payload=n, ts=1, room=room)
