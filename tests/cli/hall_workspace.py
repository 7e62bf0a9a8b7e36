"""A workspace whose one room remembers, and the clients that listen there while servers come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aquilia.client import Client, Gap, GoAway, Message, Resumed

PATIENCE = 40.0
"""Seconds: hundreds of clients share a processor with their server, and perhaps with other tests."""
HALL = """
import os
import re
import time

from aquilia.sockets import Connection, Event, History, Socket, SocketController


@Socket("/hall/:name", history=History(size=5000, ttl=300))
class Hall(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> int:
        await conn.join("all")
        return os.getpid()

    @Event("where")
    async def where(self, conn: Connection) -> int:
        return os.getpid()

    @Event("sleep")
    async def sleep(self, conn: Connection, payload: float) -> None:
        time.sleep(payload)

    @Event("match")
    async def match(self, conn: Connection) -> None:  # for ages, and without giving back the interpreter's lock
        re.match("(a+)+$", "a" * 60 + "b")

    @Event("say", delivery="effectively_once")
    async def say(self, conn: Connection, payload: int) -> int:
        await self.publish_room("all", "said", payload)
        return payload

    @Event("remember")
    async def remember(self, conn: Connection) -> list:
        return [each.payload for each in (await self.history("all")).messages]
"""
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Hall

manifest = AppManifest("hall", version="1", controllers=[Hall], websockets={"health": True})
"""
HALL_FILE = "modules/hall/controllers.py"
MANIFEST_FILE = "modules/hall/manifest.py"


class Listener:
    """A client in the hall, and what it has heard."""

    def __init__(self, url: str) -> None:
        self.client = Client(url, keep_trying=True)
        self.heard: list[int] = []
        self.gaps: list[Gap] = []
        self.asked: list[GoAway] = []
        self.resumed: list[Resumed] = []
        self.client.on("said")(self._hear)
        self.client.on(Gap)(self.gaps.append)
        self.client.on(GoAway)(self.asked.append)
        self.client.on(Resumed)(self.resumed.append)

    def _hear(self, message: Message[int]) -> None:
        self.heard.append(message.payload)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)
