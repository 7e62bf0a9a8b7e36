"""`aq serve --workers 4`, of which one is killed in mid fan-out: who was there has left, or has missed nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import websockets
from workspaces import Server, Workspace

from aquilia.client import Client, Gap, Message, Presence, Resumed

PATIENCE = 40.0
WORKERS = 4
CONTROLLERS = """
import os

from aquilia.sockets import Connection, Event, History, Presence, Socket, SocketController


@Socket("/hall", history={"log": History(size=5000, ttl=300)}, presence=Presence(rooms=("team",)))
class Hall(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> list:
        await conn.join("team")
        await conn.join("log")
        return [conn.id, os.getpid()]

    @Event("where")
    async def where(self, conn: Connection) -> int:
        return os.getpid()

    @Event("say", delivery="effectively_once")
    async def say(self, conn: Connection, payload: list[int]) -> None:
        for number in payload:
            await self.publish_room("log", "said", number)

    @Event("members")
    async def members(self, conn: Connection) -> list[str]:
        return sorted(member.connection for member in await self.room_members("team"))

    @Event("here")
    async def here(self, conn: Connection) -> dict[str, int]:
        return {present.id: present.connections for present in (await self.presence("team")).entries}
"""
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Hall

manifest = AppManifest("hall", version="1", controllers=[Hall])
"""


@pytest.fixture
def hall(empty: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    empty.write("modules/hall/manifest.py", MANIFEST)
    empty.write("modules/hall/controllers.py", CONTROLLERS)
    empty.environment["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))
    empty.compile()
    return empty


class Member:
    """A client that comes back, and what it was told."""

    def __init__(self, url: str) -> None:
        self.client = Client(url, keep_trying=True, backoff_base=0.05, backoff_cap=1.0)
        self.id = ""
        self.pid = 0
        self.heard: list[int] = []
        self.gaps: list[Gap] = []
        self.resumed: list[Resumed] = []
        self.here: dict[str, Any] = {}
        self.left: list[str] = []
        self.client.on("said")(self._hear)
        self.client.on(Gap)(self.gaps.append)
        self.client.on(Resumed)(self.resumed.append)
        self.client.on(Presence)(self._told)

    def _hear(self, message: Message[int]) -> None:
        self.heard.append(message.payload)

    def _told(self, notice: Presence) -> None:
        if notice.count is not None:
            self.here = {}
        self.here |= notice.joins
        self.left += notice.leaves
        for name in notice.leaves:
            self.here.pop(name, None)

    async def ask(self, event: str, payload: Any = None) -> Any:
        return await self.client.call(event, payload, timeout=PATIENCE, idempotent=True)


@contextlib.asynccontextmanager
async def members(server: Server) -> AsyncIterator[list[Member]]:
    """Clients, until each worker has one."""
    found: list[Member] = []
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE):
            while len({member.pid for member in found}) < WORKERS:
                member = Member(server.sockets[0])
                await stack.enter_async_context(member.client)
                member.id, member.pid = await member.client.call("enter", timeout=PATIENCE)
                found.append(member)
        yield found


@contextlib.asynccontextmanager
async def guests(server: Server, pid: int, count: int) -> AsyncIterator[dict[str, int]]:
    """Clients that never come back, until there are so many at a worker; the workers of all, by their ids."""
    found: dict[str, int] = {}
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE):
            while list(found.values()).count(pid) < count:
                # What nobody looks at must not hold up its end.
                link = websockets.connect(server.sockets[0], proxy=None, ping_interval=None, max_queue=None)
                client = await stack.enter_async_context(link)
                await client.send(json.dumps({"event": "enter", "id": "1", "ack": True}))
                while (frame := json.loads(await client.recv()))["type"] != "ack":
                    pass
                id, worker = frame["payload"]["data"]
                found[id] = worker
        yield found


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def agreed(asked: list[Member], event: str, expected: Any) -> None:
    """Wait until workers say the same: what they tell one another takes its way."""
    async with asyncio.timeout(PATIENCE):
        for member in asked:
            while await member.ask(event) != expected:
                await asyncio.sleep(0.05)


async def test_who_was_at_a_killed_worker_has_left_or_is_back_and_missed_nothing(hall: Workspace) -> None:
    async with hall.serving("--workers", f"{WORKERS}", "--log-level", "error") as server:
        async with members(server) as everyone, guests(server, everyone[-1].pid, 3) as visiting:
            victim = everyone[-1].pid
            back = [member for member in everyone if member.pid == victim]
            others = [member for member in everyone if member.pid != victim]
            ghosts = {id for id, pid in visiting.items() if pid == victim}
            ids = {member.id for member in everyone} | visiting.keys()
            await until(lambda: all(set(member.here) == ids for member in everyone))
            said = 0

            async def speak() -> None:
                nonlocal said
                while not all(member.resumed for member in back) or said < 400:
                    await others[0].ask("say", [*range(said, said + 20)])
                    said += 20

            speaking = asyncio.create_task(speak())
            await until(lambda: back[0].heard)
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            await until(lambda: all(ghosts <= set(member.left) for member in others))
            assert time.monotonic() - began < 8  # five, on a machine that is not loaded
            await speaking
            await until(lambda: all(member.heard[-1:] == [said - 1] for member in everyone))
            assert all(member.heard == [*range(said)] for member in everyone)
            # Of a room that keeps nothing, and of what was sent to it alone, nobody knows any more.
            assert {gap.room for member in back for gap in member.gaps} <= {"team", ""}
            assert not any(member.gaps or member.resumed for member in others)
            present = ids - ghosts
            await agreed(others + back, "members", sorted(present))
            await agreed(others + back, "here", dict.fromkeys(present, 1))
            assert all(set(member.here) == present for member in everyone)
            assert all(sorted(member.left) == sorted(ghosts) for member in others)  # once, and nobody else
            assert victim not in [await member.ask("where") for member in back]
            assert f"process {victim} ended (signal 9)" in await server.logged("is started again")
        assert (await server.end(signal.SIGTERM))[0] == 0
