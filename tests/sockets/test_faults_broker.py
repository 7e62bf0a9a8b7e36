"""A broker that nodes cannot reach: what their clients see meanwhile and afterwards. Each node has a road of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nats_server import NatsServer
from roads import Road
from wire import Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, History, Presence, Socket, SocketController, Subscribe


@Socket("/hall", history={"log*": History(size=1000, ttl=60)}, presence=Presence(rooms=("team*",)))
class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("exit")
    async def exit(self, conn: Connection, payload: str) -> None:
        await conn.leave(payload)

    @Event("name")
    async def name(self, conn: Connection, payload: str) -> None:
        conn.identity = SimpleNamespace(id=payload)

    @Event("say")
    async def say(self, conn: Connection, payload: list[Any]) -> None:
        await self.publish_room(payload[0], "said", payload[1])

    @Event("members")
    async def members(self, conn: Connection, payload: str) -> int:
        return len(await self.room_members(payload))

    @Event("ask")
    async def ask(self, conn: Connection, payload: str) -> int:
        told = await self.request_room(payload, "why", timeout=2, exclude=conn)
        return len(told.answers)

    @Event("out")
    async def out(self, conn: Connection, payload: str) -> bool:
        return await self.kick(payload)


class Place:
    """A node, with the road to its broker."""

    def __init__(self, road: Road, prefix: str, **settings: Any) -> None:
        self.road = road
        self.app = AquilaSockets.from_controllers([Hall], adapter_url=road.url(prefix), **settings)
        self.base = ""

    @property
    def url(self) -> str:
        return f"{self.base}/hall"

    async def sees(self, status: str) -> None:
        await eventually(lambda: self.app.health.status == status)


@contextlib.asynccontextmanager
async def places(server: NatsServer, count: int = 2, **settings: Any) -> AsyncIterator[list[Place]]:
    """Nodes that know each other."""
    prefix = server.url().rpartition("/")[2]
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            road = await stack.enter_async_context(Road.to(server.port))
            found.append(Place(road, prefix, **settings))
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


@pytest.mark.parametrize("how", ["closed", "silent"])
async def test_members_of_a_node_hear_one_another_on_a_road_that_is_closed_or_silent(
    nats_server: NatsServer, how: str
) -> None:
    async with (
        places(nats_server) as (one, other),
        Client.connect(one.url, "v1.json") as ann,
        Client.connect(one.url) as plain,
        Client.connect(other.url, "v1.json") as bob,
    ):
        for client in (ann, plain, bob):
            await entered(client, "room", "log")
        for place in (one, other):
            await place.road.break_down(how)
        t = asyncio.get_running_loop().time()
        for place in (one, other):
            await place.sees("broker_lost")
        print("noticed", asyncio.get_running_loop().time() - t)
        for number in range(3):
            await ann.send("say", ["room", number])
            assert (await ann.expect("said"))["payload"] == number
            assert (await plain.expect("said"))["payload"] == number
        for place in (one, other):
            await place.road.mend()
        for place in (one, other):
            await place.sees("ready")
        assert await ann.receive() == gap("room")
        assert await bob.receive() == gap("room")
        await bob.send("say", ["room", "again"])
        for client in (ann, bob):
            assert (await client.expect("said"))["payload"] == "again"
