"""Namespaces and what lives in them: controllers, their services, and those of connections and messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import websockets
from wire import Client, eventually, serving

from aquilia import service
from aquilia.aquilary import BootError
from aquilia.di import DIError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    MessageEnvelope,
    Namespace,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
)
from aquilia.sockets.namespaces import LINGER
from aquilia.testing import sockets_test

JOURNAL: list[str] = []


@service(scope="namespace")
class Ledger:
    def __init__(self, namespace: Namespace) -> None:
        self.path = namespace.path


@service(scope="connection", provides=list[int])
def purse(conn: Connection) -> Iterator[list[int]]:
    JOURNAL.append(f"purse of {conn.path_params['shop']}")
    yield []
    JOURNAL.append("purse closed")


@service(scope="request")
async def receipt(envelope: MessageEnvelope) -> AsyncIterator[str]:
    JOURNAL.append(f"receipt {envelope.id}")
    yield f"receipt {envelope.id}"
    JOURNAL.append("receipt closed")


@service(scope="namespace", provides=dict[str, str])
async def slow_start(namespace: Namespace) -> AsyncIterator[dict[str, str]]:
    JOURNAL.append(f"open {namespace.path}")
    for _ in range(5):
        await asyncio.sleep(0)
    yield {}
    JOURNAL.append(f"closed {namespace.path}")


@Socket("/shop/:shop")
class Shop(SocketController):
    def __init__(self, ledger: Ledger, shelf: dict[str, str]) -> None:
        assert ledger.path == self.namespace
        self.greeting = f"welcome to {self.path_params['shop']}"

    @OnConnect()
    async def open(self, conn: Connection, coins: list[int]) -> None:
        coins.append(len(coins))

    @OnDisconnect()
    async def close(self, conn: Connection, coins: list[int]) -> None:
        JOURNAL.append(f"left with {coins}")

    @Event("buy")
    async def buy(self, conn: Connection, payload: Any, coins: list[int], paper: str) -> list[Any]:
        coins.append(7)
        return [self.greeting, coins, paper, await conn.resolve(list[int]) is coins]

    @Event("look")
    async def look(self, conn: Connection, *, ledger: Ledger) -> str:
        return ledger.path


SERVICES = [Ledger, purse, receipt, slow_start]


@pytest.fixture
def app() -> AquilaSockets:
    JOURNAL.clear()
    return AquilaSockets.from_controllers([Shop], services=SERVICES)


async def test_services_of_every_scope_reach_their_handlers(base: str, app: AquilaSockets) -> None:
    async with Client.connect(f"{base}/shop/a") as client:
        assert (await client.request("buy"))["data"] == ["welcome to a", [0, 7], "receipt c1", True]
        assert (await client.request("buy"))["data"] == ["welcome to a", [0, 7, 7], "receipt c2", True]
        assert (await client.request("look"))["data"] == "/shop/a"
        assert [
            *("open /shop/a", "purse of a"),
            *("receipt c1", "receipt closed", "receipt c2", "receipt closed"),
        ] == JOURNAL
        JOURNAL.clear()
    await eventually(lambda: app.live()["connections"] == 0 and app.live()["tasks"] == 0)
    assert JOURNAL == ["left with [0, 7, 7]", "purse closed"]


async def test_concurrent_clients_open_a_namespace_once(base: str, app: AquilaSockets) -> None:
    async def visit() -> Any:
        async with Client.connect(f"{base}/shop/a") as client:
            await client.request("look")
            return app.hub.homes["/shop/a"].controller

    controllers = await asyncio.gather(*(visit() for _ in range(10)))
    assert len(set(map(id, controllers))) == 1
    assert JOURNAL.count("open /shop/a") == 1


async def test_a_namespace_is_dropped_a_while_after_its_last_connection() -> None:
    JOURNAL.clear()
    async with sockets_test(Shop, services=SERVICES) as t:
        homes = t.application.sockets.hub.homes
        ann = await t.connect("/shop/a")
        first = homes["/shop/a"].controller
        t.clock.freeze()
        await ann.disconnect()
        await t.clock.advance(LINGER - 0.001)
        assert homes["/shop/a"].controller is first
        assert "closed /shop/a" not in JOURNAL

        await t.clock.advance(0.001)

        assert "closed /shop/a" in JOURNAL
        assert t.application.sockets.live()["namespaces"] == 0
        await t.connect("/shop/a")
        assert homes["/shop/a"].controller is not first


async def test_the_end_of_the_application_closes_everything(app: AquilaSockets) -> None:
    async with serving(app) as base, Client.connect(f"{base}/shop/a") as client:
        await client.request("look")
        await client.socket.close()
    assert JOURNAL[-1] == "closed /shop/a"
    assert app.live() == {"connections": 0, "namespaces": 0, "rooms": 0, "tasks": 0}


async def test_a_controller_that_cannot_be_built_refuses_the_handshake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @Socket("/broken")
    class Broken(SocketController):
        def __init__(self) -> None:
            raise RuntimeError("no stock")

    app = AquilaSockets.from_controllers([Broken])
    async with serving(app) as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/broken", proxy=None)
        assert refused.value.response.status_code == 500
        assert b"no stock" not in refused.value.response.body
    assert "no stock" in caplog.text


def test_a_service_that_nobody_provides_is_refused_at_boot() -> None:
    with pytest.raises((DIError, BootError), match="Ledger"):
        AquilaSockets.from_controllers([Shop], services=[purse, receipt, slow_start])
