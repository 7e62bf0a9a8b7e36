"""The benchmark's server on Aquilia, with what an application would have: a guard, a rate limit, checked payloads."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from aquilia.sockets import (
    AquilaSockets,
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


app = AquilaSockets.from_controllers([Benchmark], max_connections=20_000)
