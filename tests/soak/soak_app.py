"""The application under the soak: rooms that remember, and rooms that do not."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

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
    SocketFault,
    Subscribe,
)

SIZE = int(os.environ["SOAK_HISTORY"])
FAILED = "failed: "
"""What a line of the log begins with that names a session, and numbers whose handling failed: it may come again."""


@contextlib.contextmanager
def telling(conn: Connection, numbers: list[int]) -> Iterator[None]:
    """Tell of a handler that could not do all that it was to do."""
    try:
        yield
    except SocketFault:
        print(f"{FAILED}{json.dumps([conn.id, numbers])}", flush=True)
        raise


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
        await self._say(conn, *payload)

    @Event("say again", delivery="at_least_once")
    async def say_again(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        await self._say(conn, *payload)

    async def _say(self, conn: Connection, room: str, numbers: list[int]) -> None:
        with telling(conn, numbers):
            for number in numbers:
                await self.publish_room(room, "said", number)

    @Event("book", delivery="effectively_once")
    async def book(self, conn: Connection, payload: int) -> None:
        with telling(conn, [payload]):
            await conn.send_event("booked", payload)

    @Event("who", delivery="at_least_once")
    async def who(self, conn: Connection, payload: str) -> list[str]:
        return [present.id for present in (await self.presence(payload)).entries]


manifest = AppManifest("soak", controllers=[Soak])


def application() -> AquilaSockets:
    """What uvicorn serves, where it is not `aq serve` that does."""
    return AquilaSockets.from_controllers([Soak])
