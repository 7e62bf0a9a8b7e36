"""The application under the rolling soak: rooms that remember, and rooms that do not."""

from __future__ import annotations

import os

from aquilia.manifest import AppManifest
from aquilia.sockets import (
    Connection,
    Event,
    History,
    OnConnect,
    Presence,
    Socket,
    SocketController,
    Subscribe,
)


@Socket(
    "/rolling",
    history={"log *": History(size=100_000, ttl=3600)},
    presence=Presence(rooms=("log *",), large=10_000),
)
class Rolling(SocketController):
    @OnConnect()
    async def tell(self, conn: Connection) -> None:
        await conn.send_event("here", os.getpid())

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> list[str]:
        return [f"log {payload}", f"plain {payload}"]

    @Event("where", ack=True)
    async def where(self, conn: Connection) -> int:
        return os.getpid()

    @Event("say", delivery="effectively_once")
    async def say(self, conn: Connection, payload: tuple[str, int]) -> None:
        await self.publish_room(payload[0], "said", payload[1])

    @Event("who", ack=True)
    async def who(self, conn: Connection, payload: str) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = await self.presence(payload, after=after)
            found += [present.id for present in page.entries]
            if (after := page.next) is None:
                return found


manifest = AppManifest("rolling", controllers=[Rolling], websockets={"max_connections": 20_000})
