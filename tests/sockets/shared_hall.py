"""What the tests of which adapter an application has share: a hall, and what is heard of it elsewhere."""

from __future__ import annotations

from typing import Any

from wire import Client, serving

from aquilia.sockets import AquilaSockets, Connection, Emits, Event, Socket, SocketController, Subscribe


@Socket("/hall")
class Hall(SocketController):
    said = Emits("said", Any)

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("hall", self.said, payload)


def application(**settings: Any) -> AquilaSockets:
    """One that has it, by these settings."""
    return AquilaSockets.from_controllers([Hall], **settings)


async def heard(here: AquilaSockets, there: AquilaSockets) -> Any:
    """What a member of the one application hears of what is said in the other."""
    async with (
        serving(here) as one,
        serving(there) as two,
        Client.connect(f"{one}/hall", "v1.json") as listener,
        Client.connect(f"{two}/hall", "v1.json") as speaker,
    ):
        for client in (listener, speaker):
            await client.request("enter")
        await speaker.request("say", "hello")
        return (await listener.expect("said"))["payload"]
