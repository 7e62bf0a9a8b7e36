"""The benchmark's server on Aquilia, with what an application would have: a guard, a rate limit, checked payloads.

python aquilia_app.py PORT TRANSPORT serves it as `aq serve --transport TRANSPORT` does.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from msgspec import Meta, Struct

from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.manifest import AppManifest
from aquilia.server import Endpoint, listening, serve
from aquilia.sockets import (
    Connection,
    Event,
    MessageEnvelope,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
)


class Text(Struct):
    """The payload of every event: something said, or a room's name."""

    text: Annotated[str, Meta(max_length=2000)]


class Everyone(SocketGuard):
    """Lets every message pass, once it has been asked."""

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> bool:
        """See `SocketGuard`."""
        return True


@Socket("/", guards=[Everyone()], message_rate_limit=1_000_000)
class Benchmark(SocketController):
    """Echoes, and publishes to one room."""

    @Event("echo")
    async def echo(self, conn: Connection, payload: Text) -> None:
        """Say it back."""
        await conn.send_event("echo", payload)

    @Subscribe("join")
    async def join(self, conn: Connection, payload: Text) -> str:
        """Enter the room of that name."""
        return payload.text

    @Event("pub")
    async def publish(self, conn: Connection, payload: Text) -> None:
        """Say it to everybody in the room."""
        await self.publish_room("all", "pub", payload)


def main(port: str, transport: Any) -> None:
    """Serve until SIGTERM."""
    manifest = AppManifest("benchmark", controllers=[Benchmark], websockets={"max_connections": 20_000})
    application = Application(Registry.build([manifest]))
    with listening(Endpoint(port=int(port))) as sockets:
        serve(application, sockets, log_level="warning", transport=transport)


if __name__ == "__main__":
    main(*sys.argv[1:])
