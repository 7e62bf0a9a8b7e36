"""The application under the soak: rooms that remember."""

from __future__ import annotations

import os

from aquilia.sockets import AquilaSockets, Connection, Event, History, Socket, SocketController, Subscribe

SIZE = int(os.environ["SOAK_HISTORY"])


@Socket("/soak", history=History(size=SIZE, ttl=3600))
class Soak(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
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


app = AquilaSockets.from_controllers([Soak], adapter_url=os.environ["SOAK_URL"])
