"""The application that `ClusterContract` runs as a process of its own: `python -m aquilia.testing.adapters.node`.

Its adapter is that of `AQ_WS_ADAPTER_URL`. It says where it serves, and ends with its standard input.
"""

from __future__ import annotations

import sys
from typing import Any
from uuid import uuid4

import msgspec

from aquilia.identity import Identity
from aquilia.sockets.connection import Connection
from aquilia.sockets.controller import SocketController
from aquilia.sockets.decorators import AckEvent, Event, Socket
from aquilia.sockets.emits import Emits
from aquilia.sockets.history import History
from aquilia.sockets.runtime import AquilaSockets
from aquilia.testing.live import live_server

__all__ = ["HallSocket", "Names", "Words", "application"]


class Names:
    """A token is a name."""

    async def authenticate(self, token: str) -> Identity:
        """See `AuthManager`."""
        return Identity(token)


class Words(msgspec.Struct):
    """What is said to a room, and whether who says it hears it."""

    room: str
    said: Any
    to_me: bool = True


@Socket("/hall/:name", presence=True, history={"kept*": History(size=2000, ttl=60)})
class HallSocket(SocketController):
    """All that nodes have to do with each other. Rooms that are called `kept…` remember."""

    said = Emits("said", Any)
    asked = Emits("asked", str)
    booked = Emits("booked", int, durable=True)

    @AckEvent("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        """Join a room; the connection's id."""
        await conn.join(payload)
        return conn.id

    @AckEvent("exit")
    async def exit(self, conn: Connection, payload: str) -> None:
        """Leave a room."""
        await conn.leave(payload)

    @Event("say")
    async def say(self, conn: Connection, payload: Words) -> None:
        """Publish to a room."""
        exclude = None if payload.to_me else conn
        await self.publish_room(payload.room, self.said, payload.said, exclude=exclude)

    @Event("call")
    async def call(self, conn: Connection, payload: Any) -> None:
        """Publish to all of the namespace."""
        await self.broadcast(self.said, payload)

    @Event("whisper")
    async def whisper(self, conn: Connection, payload: tuple[str, Any]) -> None:
        """Publish to an identity."""
        await self.publish_identity(payload[0], self.said, payload[1])

    @AckEvent("members")
    async def members(self, conn: Connection, payload: str) -> list[str]:
        """The connections in a room."""
        return sorted(member.connection for member in await self.room_members(payload))

    @AckEvent("present")
    async def present(self, conn: Connection, payload: str) -> dict[str, int]:
        """Who is in a room, with the number of its connections."""
        return {entry.id: entry.connections for entry in (await self.presence(payload)).entries}

    @AckEvent("remembered")
    async def remembered(self, conn: Connection, payload: str) -> list[Any]:
        """What a room remembers."""
        return [message.payload for message in (await self.history(payload, limit=1000)).messages]

    @AckEvent("ask")
    async def ask(self, conn: Connection, payload: str) -> dict[str, Any]:
        """Ask the members of a room."""
        told = await self.request_room(payload, self.asked, "why", exclude=conn)
        return {"answers": dict(told.answers), "missing": len(told.missing), "silent": len(told.silent)}

    @AckEvent("kick")
    async def kicks(self, conn: Connection, payload: str) -> bool:
        """End a connection."""
        return await self.kick(payload)

    @Event("book")
    async def book(self, conn: Connection, payload: int) -> None:
        """Send a durable event."""
        await conn.send_event(self.booked, payload)

    @Event("sell", delivery="effectively_once")
    async def sell(self, conn: Connection) -> str:
        """An effect: each has another name."""
        return uuid4().hex


def application() -> AquilaSockets:
    """The application of each node."""
    return AquilaSockets.from_controllers([HallSocket], auth=Names())


if __name__ == "__main__":
    with live_server(application()) as url:
        print(url, flush=True)
        sys.stdin.read()
