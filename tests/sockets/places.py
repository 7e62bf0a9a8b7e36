"""What the tests of faults share: nodes of the hall in this process, and what their clients are told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from brokers import Broker
from hall_of_nodes import hall
from redis_servers import fresh_prefix
from roads import Road
from wire import Client, eventually, serving


class Place:
    """A node, with the road to its broker."""

    def __init__(self, server: Broker, road: Road, prefix: str, **settings: Any) -> None:
        self.road = road
        self.prefix = prefix
        self.app = hall(adapter_url=server.url(prefix, port=road.port), **settings)
        self.base = ""

    @property
    def url(self) -> str:
        return f"{self.base}/hall"

    async def sees(self, status: str) -> None:
        await eventually(lambda: self.app.health.status == status)


@contextlib.asynccontextmanager
async def places(server: Broker, count: int = 2, **settings: Any) -> AsyncIterator[list[Place]]:
    """Nodes that know each other."""
    prefix = fresh_prefix()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            road = await stack.enter_async_context(Road.to(server.port))
            found.append(Place(server, road, prefix, **settings))
        for place in found:
            place.base = await stack.enter_async_context(serving(place.app))
        await eventually(lambda: all(len(place.app.cluster.nodes()) == count for place in found))
        yield found
        for place in found:
            await place.road.mend()


async def entered(client: Client, *rooms: str) -> None:
    for room in rooms:
        answer = await client.request("enter", room)
        assert answer["status"] == "ok", answer


def gap(room: str) -> dict[str, Any]:
    return {"type": "system", "event": "gap", "payload": {"cause": "broker_lost", "room": room}}


def said(frames: list[dict[str, Any]], room: str) -> list[Any]:
    return [frame["payload"] for frame in frames if frame.get("event") == "said" and frame["room"] == room]


async def until(client: Client, frames: list[dict[str, Any]], last: dict[str, Any]) -> None:
    """Keep what comes, up to a frame that has all this."""
    while not frames or not last.items() <= frames[-1].items():
        frames.append(await client.receive())
