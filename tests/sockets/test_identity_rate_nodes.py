"""Rates of identities over nodes: two processes at one broker, and what they do without it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from brokers import Broker
from nodes import node
from ports import reserved_port
from redis_servers import RedisServer
from websockets import ConnectionClosed
from wire import Client

from aquilia import Identity, JWTAuthManager

KEY = "the key of these tests: 32 bytes or more"
RATE = 20
APP = f"""
from aquilia import AppManifest, JWTAuthManager
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.sockets import Connection, Event, Socket, SocketController


@Socket("/desk")
class Desk(SocketController):
    @Event("hit")
    async def hit(self, conn: Connection) -> None: ...


app = Application(Registry.build([AppManifest(
    "desk", controllers=[Desk], auth=JWTAuthManager({KEY!r}), websockets={{"identity_rate_limit": {RATE}}},
)]))
"""


@contextlib.asynccontextmanager
async def serving(folder: Path, url: str) -> AsyncIterator[str]:
    """A process that serves the app; gives its address."""
    with reserved_port() as port:
        async with node(folder, APP, url, port) as at:
            yield f"ws://{at}/desk"


def visiting(at: str, who: str) -> contextlib.AbstractAsyncContextManager[Client]:
    token = JWTAuthManager(KEY).issue(Identity(who), lifetime=3600)
    return Client.connect(at, additional_headers={"authorization": f"Bearer {token}"})


async def flood(at: str, until: float) -> Counter[str]:
    """What becomes of messages that come without end, over connections that are opened again when they are closed."""
    told: Counter[str] = Counter()
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionClosed):
            async with visiting(at, "ann") as client:
                while time.monotonic() < until:
                    answer = await client.request("hit")
                    told[answer["status"]] += 1
                    await asyncio.sleep(0.01 * (answer["status"] == "error"))
    return told


async def modest(places: list[str], rate: float, until: float) -> list[str]:
    """What becomes of another's messages, of which so many a second come to the nodes in turn."""
    answers = []
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(visiting(at, "ben")) for at in places]
        while time.monotonic() < until:
            for client in clients:
                answers.append((await client.request("hit"))["status"])
                await asyncio.sleep(1 / rate)
    return answers


async def test_who_floods_both_nodes_is_held_to_one_limit_and_nobody_else_is_touched(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url()
    async with serving(tmp_path, url) as a, serving(tmp_path, url) as b:
        seconds, began = 4.0, time.monotonic()
        until = began + seconds
        first, second, ben = await asyncio.gather(
            flood(a, until), flood(b, until), modest([a, b], 0.75 * RATE, until)
        )
        lasted = time.monotonic() - began
    most = RATE * lasted + 2 * RATE + RATE  # what may come at once, and a second's worth for the second node
    assert 0.8 * (RATE * seconds + 2 * RATE) <= first["ok"] + second["ok"] <= most
    assert first["error"] > 0
    assert second["error"] > 0
    assert set(ben) == {"ok"}
    assert len(ben) > 0.5 * RATE * seconds


async def test_without_the_store_each_node_holds_the_limit_by_itself(
    own_broker: Broker, tmp_path: Path
) -> None:
    async with serving(tmp_path, own_broker.url()) as a, visiting(a, "ann") as ann:
        assert (await ann.request("hit"))["status"] == "ok"
        own_broker.kill()
        seconds, began = 4.0, time.monotonic()
        told = await flood(a, began + seconds)
        lasted = time.monotonic() - began
    assert 0.6 * (RATE * seconds + 2 * RATE) <= told["ok"] <= RATE * lasted + 2 * RATE
    assert told["error"]
