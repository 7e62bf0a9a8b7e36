"""The benchmark's server on Aquilia, served as `aq serve --transport TRANSPORT` does.

python aquilia_app.py PORT TRANSPORT [VARIANT]

What is in the way of a message, besides the check of its payload: with `bare` nothing; with `usual`, the default,
what an application would have, a guard and a rate limit; with `history` the same, and rooms that remember; with
`full` authentication, its guards and metrics as well. `spool` is `bare`, with what slow clients have yet to read on
disk; `shared` and `context` are `bare` with that compression.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from msgspec import Meta, Struct

from aquilia import Identity, JWTAuthManager
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.manifest import AppManifest
from aquilia.server import Endpoint, listening, serve
from aquilia.sockets import (
    Compression,
    Connection,
    Event,
    HandshakeAuthGuard,
    History,
    MessageAuthGuard,
    MessageEnvelope,
    RoleGuard,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
)


class Text(Struct):
    """The payload of every event: something said, or a room's name."""

    text: Annotated[str, Meta(max_length=2000)]


class Said(Struct):
    """Something said to one room."""

    room: str
    text: Annotated[str, Meta(max_length=2000)]


class Everyone(SocketGuard):
    """Lets every message pass, once it has been asked."""

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> bool:
        """See `SocketGuard`."""
        return True


class Benchmark(SocketController):
    """Echoes, and publishes to one room, or to any."""

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

    @Event("say")
    async def say(self, conn: Connection, payload: Said) -> None:
        """Say it to everybody in the room that is named."""
        await self.publish_room(payload.room, "pub", Text(payload.text))


AUTH = JWTAuthManager("the secret of the benchmark, which is none")
VARIANTS: dict[str, dict[str, Any]] = {
    "bare": {},
    "usual": {"guards": [Everyone()], "message_rate_limit": 1_000_000},
    "history": {
        "guards": [Everyone()],
        "message_rate_limit": 1_000_000,
        "history": History(),
    },
    "shared": {"compression": True},
    "context": {"compression": Compression("context")},
    "spool": {"backpressure": {"strategy": "spool", "buffer_bytes": 1 << 16}},
    "full": {
        "guards": [Everyone(), HandshakeAuthGuard(), MessageAuthGuard(), RoleGuard("member")],
        "message_rate_limit": 1_000_000,
        "require_auth": True,
    },
}


def token() -> str:
    """What a client of the variant `full` needs; it is good for a day."""
    return AUTH.issue(Identity("ada", roles=frozenset({"member"})), lifetime=86_400)


def manifest(variant: str) -> AppManifest:
    """The application, as one of its variants."""
    settings: dict[str, Any] = {"max_connections": 20_000}
    if variant == "full":
        settings["metrics"] = True
    controller = Socket("/", **VARIANTS[variant])(Benchmark)
    return AppManifest("benchmark", controllers=[controller], auth=AUTH, websockets=settings)


def main(port: str, transport: Any, variant: str = "usual") -> None:
    """Serve until SIGTERM."""
    application = Application(Registry.build([manifest(variant)]))
    with listening(Endpoint(port=int(port))) as sockets:
        serve(application, sockets, log_level="warning", transport=transport)


if __name__ == "__main__":
    main(*sys.argv[1:])
