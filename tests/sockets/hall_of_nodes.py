"""The hall of the tests of faults: what clients do in it, on any of its nodes. Its text is a node's own module."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    History,
    Presence,
    Socket,
    SocketController,
    Subscribe,
)

APP = Path(__file__).read_text() + "\n\napp = hall()\n"
"""For `nodes.node`."""
REMEMBERED = History(size=10_000, ttl=60, max_bytes=64 << 20)


@Socket("/hall", history={"log*": REMEMBERED}, presence=Presence(rooms=("team*",)))
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

    @Event("say many")
    async def say_many(self, conn: Connection, payload: tuple[str, int, int]) -> None:
        """The numbers to `count`, with so many letters each."""
        room, count, letters = payload
        for number in range(count):
            await self.publish_room(room, "said", [number, "x" * letters])

    @Event("where")
    async def where(self, conn: Connection) -> int:
        return os.getpid()

    @Event("stand still")
    async def stand_still(self, conn: Connection, payload: float) -> None:
        """Block this node's loop for so many seconds."""
        time.sleep(payload)  # noqa: ASYNC251

    @Event("here")
    async def here(self, conn: Connection, payload: str) -> dict[str, int]:
        page = await self.presence(payload)
        return {present.id: present.connections for present in page.entries}

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


def hall(**settings: Any) -> AquilaSockets:
    return AquilaSockets.from_controllers([Hall], **settings)
