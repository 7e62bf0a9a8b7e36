"""The server that is restarted, as `aq serve` would serve it: rooms that remember, on `local://`.

python restart_app.py PORT FOLDER
"""

from __future__ import annotations

import sys

from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.manifest import AppManifest
from aquilia.server import Endpoint, listening, serve
from aquilia.sockets import Connection, Event, History, Socket, SocketController, Subscribe


@Socket("/", history=History(size=10_000, ttl=3600))
class Hall(SocketController):
    """Rooms; who is in one says numbers to it."""

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        """Enter the room of that name."""
        return payload

    @Event("say", delivery="effectively_once")
    async def say(self, conn: Connection, payload: int) -> None:
        """Say it to everybody in the same room."""
        for room in conn.rooms:
            await self.publish_room(room, "said", payload)


def main(port: str, folder: str) -> None:
    """Serve until SIGTERM."""
    settings = {"max_connections": 20_000, "adapter": "local", "adapter_url": f"local://{folder}"}
    application = Application(Registry.build([AppManifest("hall", controllers=[Hall], websockets=settings)]))
    with listening(Endpoint(port=int(port))) as sockets:
        serve(application, sockets, log_level="error")


if __name__ == "__main__":
    main(*sys.argv[1:])
