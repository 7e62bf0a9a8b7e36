"""What clients come back to in the tests, in this process and in others."""

from __future__ import annotations

import os
from typing import Any

from aquilia.sockets import AquilaSockets, Connection, Event, History, Socket, SocketController, Subscribe


@Socket("/hall", history={"short": History(size=100), "log:*": History(size=20_000)})
class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("say")
    async def say(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        room, numbers = payload
        for number in numbers:
            await self.publish_room(room, "said", number)

    @Event("here")
    async def here(self, conn: Connection, payload: int) -> None:
        """Send to this connection directly."""
        for number in range(payload):
            await conn.send_event("told", number)

    @Event("set")
    async def set(self, conn: Connection, payload: Any) -> None:
        conn.state["kept"] = payload

    @Event("get")
    async def get(self, conn: Connection) -> Any:
        return conn.state.get("kept")


def hall(**options: Any) -> AquilaSockets:
    """The application."""
    return AquilaSockets.from_controllers([Hall], **options)


def chosen() -> AquilaSockets:
    """With the adapter that the environment names."""
    return hall(adapter_url=os.environ.get("RESUME_ADAPTER", "memory://"))


app = chosen()
