"""`aq serve` with `local://`: what outlives a reload and a kill, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import websockets
from processes import command_lines, vanished
from workspaces import AQ, TIMEOUT, Server, Workspace

MANIFEST = "modules/hall/manifest.py"
CONTROLLERS = "modules/hall/controllers.py"
SAYS_LOCAL = 'controllers=[Hall], websockets={"adapter": "local"}'


@pytest.fixture
def hall(empty: Workspace) -> Workspace:
    """A workspace in development, with a room that remembers; nothing is said of the adapter."""
    empty.write(
        MANIFEST,
        "from aquilia.manifest import AppManifest\nfrom controllers import Hall\n"
        'manifest = AppManifest("hall", version="1", controllers=[Hall])\n',
    )
    empty.write(
        CONTROLLERS,
        """
from aquilia.sockets import AckEvent, Connection, History, Socket, SocketController


@Socket("/hall", history=History(size=100, ttl=600))
class Hall(SocketController):
    @AckEvent("say")
    async def say(self, conn: Connection, payload: int) -> list:
        await self.publish_room("hall", "said", payload)
        return [each.payload for each in (await self.history("hall")).messages]
""",
    )
    empty.environment["AQ_ENV"] = "development"
    return empty


@pytest.fixture
def local(hall: Workspace) -> Workspace:
    """The same, and it says that its adapter is local."""
    hall.edit(MANIFEST, "controllers=[Hall]", SAYS_LOCAL)
    return hall


async def said(url: str, number: int) -> Any:
    """Say a number; all that the room remembers then."""
    async with websockets.connect(url, proxy=None) as client, asyncio.timeout(TIMEOUT):
        await client.send(json.dumps({"event": "say", "payload": number, "id": "1", "ack": True}))
        while (frame := json.loads(await client.recv()))["type"] != "ack":
            pass
    return frame["payload"]["data"]


def servers(workspace: Workspace) -> list[int]:
    """The nats-server of this workspace, by its file of ports."""
    return [int(file.stem.rpartition("_")[2]) for file in (workspace.root / ".aquilia").glob("*.ports")]


async def test_what_was_said_is_there_when_it_is_served_again(local: Workspace) -> None:
    for n in range(2):
        async with local.serving() as server:
            assert await said(server.sockets[0], n) == list(range(n + 1))
            (pid,) = servers(local)
            assert (await server.end(signal.SIGTERM))[0] == 0
            await vanished(pid)
    assert servers(local) == []


@pytest.mark.parametrize("options", [[], ["--reload"]], ids=["serve", "reload"])
async def test_a_killed_process_leaves_no_server_behind_and_its_folder_can_be_served_again(
    local: Workspace, options: list[str]
) -> None:
    async with local.serving(*options) as server:
        await said(server.sockets[0], 0)
        (pid,) = servers(local)
        await server.end(signal.SIGKILL)
    await vanished(pid)
    async with local.serving(*options) as server:
        assert await said(server.sockets[0], 1) == [0, 1]


async def test_a_second_process_on_the_folder_is_refused_by_name_and_without_a_trace(
    local: Workspace,
) -> None:
    async with local.serving() as server:
        told = local.refused("serve", "--port", "0")
        assert f".aquilia is in use by process {server.process.pid}: end it" in told
        assert "Traceback" not in told
        assert await said(server.sockets[0], 0) == [0]


async def test_the_token_is_on_no_command_line(local: Workspace) -> None:
    async with local.serving("--reload"):
        token = (local.root / ".aquilia" / "nats.conf").read_text().split('"')[1]
        (pid,) = servers(local)
        shown = command_lines()
        assert "nats-server" in shown[pid]
        assert not [line for line in shown.values() if token in line]


# Reloading


@pytest.mark.parametrize("adapter", ["controllers=[Hall]", SAYS_LOCAL], ids=["unsaid", "local"])
async def test_one_server_and_its_log_outlive_a_reload(hall: Workspace, adapter: str) -> None:
    hall.edit(MANIFEST, "controllers=[Hall]", adapter)
    async with hall.serving("--reload") as server:
        assert await said(server.sockets[0], 0) == [0]
        before = servers(hall)

        hall.write(CONTROLLERS, (hall.root / CONTROLLERS).read_text() + "\n# changed")
        await server.logged("detected changes")
        await server.started()

        assert await said(server.sockets[0], 1) == [0, 1]
        assert servers(hall) == before
        assert (await server.end(signal.SIGTERM))[0] == 0
        await vanished(before[0])


async def test_who_says_memory_gets_it_in_a_reloading_server_too(hall: Workspace) -> None:
    hall.edit(MANIFEST, "controllers=[Hall]", 'controllers=[Hall], websockets={"adapter_url": "memory://"}')
    async with hall.serving("--reload") as server:
        assert await said(server.sockets[0], 0) == [0]
    assert not (hall.root / ".aquilia").exists()


async def test_without_a_server_to_run_it_stays_in_memory_and_says_what_is_lost(hall: Workspace) -> None:
    hall.write("elsewhere/sitecustomize.py", "import sysconfig\nsysconfig.get_path = lambda *_: '/nowhere'\n")
    hall.environment |= {"PYTHONPATH": f"{hall.root / 'elsewhere'}:{Path.cwd()}", "PATH": "/nowhere"}
    async with hall.serving("--reload") as server:
        told = await server.logged("is lost at each reload")
        assert "pip install 'aquilia[local]'" in told
        assert await said(server.sockets[0], 0) == [0]


async def test_a_folder_in_use_is_told_while_reloading_too(local: Workspace) -> None:
    async with local.serving() as server:
        process = await asyncio.create_subprocess_exec(
            *AQ,
            *("serve", "--reload", "--port", "0"),
            cwd=local.root,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert f"in use by process {server.process.pid}" in await Server(process).logged("WS_ADAPTER")
        assert (await Server(process).end())[0] == 0


# A broker that is not there


def test_a_broker_that_is_not_there_is_told_without_a_trace(hall: Workspace) -> None:
    hall.environment["AQ_WS_ADAPTER_URL"] = "nats://127.0.0.1:1"
    told = hall.refused("serve", "--port", "0")
    assert "NATS at nats://127.0.0.1:1 cannot be reached" in told
    assert "Traceback" not in told
    assert told.endswith("error: the application did not start\n")
