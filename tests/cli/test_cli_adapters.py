"""`aq` with an adapter that an installed package brings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
import websockets
from packages import install_package
from workspaces import TIMEOUT, Workspace

SHELF = (Path(__file__).parents[1] / "sockets" / "shelf.py").read_text()
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Hall

manifest = AppManifest("hall", controllers=[Hall], websockets={"adapter": "shelf"})
"""
CONTROLLERS = """
from aquilia.sockets import AckEvent, Connection, Emits, Socket, SocketController


@Socket("/hall")
class Hall(SocketController):
    said = Emits("said", str)

    @AckEvent("enter")
    async def enter(self, conn: Connection) -> None:
        await conn.join("hall")
"""


@pytest.fixture
def hall(empty: Workspace) -> Workspace:
    """A workspace whose adapter is that of a package, which is not installed."""
    empty.write("modules/hall/manifest.py", MANIFEST)
    empty.write("modules/hall/controllers.py", CONTROLLERS)
    empty.environment |= {"AQ_ENV": "development", "COLUMNS": "200"}
    return empty


@pytest.fixture
def url(hall: Workspace) -> str:
    """That of the adapter, whose package is installed."""
    site = hall.root / "site"
    install_package(site, "aquilia-shelf", {"shelf": "shelf:ShelfAdapter"}, "shelf", SHELF)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    url = f"shelf://{hall.root}/said"
    hall.environment |= {"PYTHONPATH": path, "AQ_WS_ADAPTER_URL": url}
    return url


async def entered(url: str) -> websockets.ClientConnection:
    client = await websockets.connect(f"{url.replace('http', 'ws')}/hall", proxy=None, ping_interval=None)
    await client.send(json.dumps({"type": "event", "event": "enter", "id": "1", "ack": True}))
    assert json.loads(await client.recv())["payload"]["status"] == "ok"
    return client


async def test_processes_that_serve_share_it_and_are_reached_by_it(hall: Workspace, url: str) -> None:
    async with (
        hall.serving() as one,
        hall.serving() as other,
        await entered(one.url) as ann,
        await entered(other.url) as bob,
    ):
        way = ("--adapter-url", url)
        live = json.loads(hall.done("ws", "inspect", "--live", "--json", *way))
        assert len(live["nodes"]) == 2
        told = hall.done("ws", "broadcast", "/hall", "said", '"hi"', "--room", "hall", *way)
        assert told == "delivered to 2 connections\n"
        for client in (ann, bob):
            async with asyncio.timeout(TIMEOUT):
                assert json.loads(await client.recv())["payload"] == "hi"
        assert (await other.end(signal.SIGTERM))[0] == 0


def test_where_its_package_is_not_installed_aq_says_so(hall: Workspace) -> None:
    told = hall.refused("compile")
    assert "adapter: unknown adapter 'shelf' (accepted: inmemory, kafka, local, nats, redis)" in told
    hall.edit("modules/hall/manifest.py", '{"adapter": "shelf"}', '{"adapter_url": "shelf:///said"}')
    assert "another one needs its package to be installed" in hall.refused("serve")


def test_what_it_refuses_is_told_when_it_is_served(hall: Workspace, url: str) -> None:
    hall.environment["AQ_WS_ADAPTER_URL"] = "shelf://said"
    assert "AQ_WS_ADAPTER_URL: shelf://: shelf://…: a file is needed" in hall.refused("serve")
