"""The application under the soak: rooms that remember, and rooms that do not."""

from __future__ import annotations

import os

from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    History,
    OnConnect,
    Presence,
    Socket,
    SocketController,
    Subscribe,
)

SIZE = int(os.environ["SOAK_HISTORY"])


@Socket("/soak", history={"room *": History(size=SIZE, ttl=3600)}, presence=Presence(rooms=("room *",)))
class Soak(SocketController):
    booked = Emits("booked", int, durable=True)

    @OnConnect()
    async def tell(self, conn: Connection) -> None:
        await conn.send_event("here", os.getpid())

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: list[str]) -> list[str]:
        return payload

    @Event("say", delivery="effectively_once")
    async def say(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        await self._say(*payload)

    @Event("say again", delivery="at_least_once")
    async def say_again(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        await self._say(*payload)

    async def _say(self, room: str, numbers: list[int]) -> None:
        for number in numbers:
            await self.publish_room(room, "said", number)

    @Event("book", delivery="effectively_once")
    async def book(self, conn: Connection, payload: int) -> None:
        await conn.send_event("booked", payload)

    @Event("who", delivery="at_least_once")
    async def who(self, conn: Connection, payload: str) -> list[str]:
        return [present.id for present in (await self.presence(payload)).entries]


manifest = AppManifest("soak", controllers=[Soak])


def application() -> AquilaSockets:
    """What uvicorn serves, where it is not `aq serve` that does."""
    return AquilaSockets.from_controllers([Soak])
