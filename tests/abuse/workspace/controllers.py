"""The controllers of the workspace."""

from __future__ import annotations

from typing import Any

from held import held

from aquilia import GET, Controller, Identity
from aquilia.auth import token_invalid
from aquilia.sockets import (
    Compression,
    Connection,
    Event,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)


class Users:
    """A token is the name of its user."""

    async def authenticate(self, token: str) -> Identity:
        if token == "nobody":
            raise token_invalid()
        return Identity(token)


class Abused(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("flood")
    async def flood(self, conn: Connection) -> None:
        for _ in range(100):
            await conn.send_event("flooded", "x" * 2000)

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Unsubscribe("leave")
    async def leave(self, conn: Connection, payload: str) -> str:
        return payload


@Socket("/abused", max_message_size=10_000, message_rate_limit=500)
class AbusedSocket(Abused):
    pass


@Socket("/packed", max_message_size=100_000, compression=True)
class PackedSocket(Abused):
    pass


@Socket("/remembering", max_message_size=100_000, compression=Compression(mode="context"))
class RememberingSocket(Abused):
    pass


@Socket("/closed", max_message_size=10_000, require_auth=True)
class ClosedSocket(Abused):
    pass


class Figures(Controller):
    @GET("/figures")
    async def figures(self) -> dict[str, Any]:
        return held()
