"""A whole application in this process, and guests on wires in memory: what is said there, anybody may say.

It runs as long as the process does, on a clock that stands still: when `House.settle` returns, all has been done that
can be done without time passing. What one input leaves behind is looked for before the next.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextvars import Context
from typing import Annotated, Any

import cbor2
import httpx
import msgspec

from aquilia import Identity, JWTAuthManager
from aquilia.sockets import (
    AckEvent,
    Connection,
    Event,
    History,
    RoomGuard,
    Schema,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.codecs import codec
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_not_subscribed
from aquilia.testing import SocketsTest, sockets_test
from aquilia.testing.handshake import Upgrade, shake_hands
from fuzzing.memory_wire import Errors

PROFILES: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    "aquilia.v1.json": ("json", lambda message: json.dumps(message).encode()),
    "aquilia.v1.msgpack": ("msgpack", msgspec.msgpack.encode),
    "aquilia.v1.cbor": ("cbor", cbor2.dumps),
    "aquilia.plain.json": ("json", lambda message: json.dumps(message).encode()),
}
V1 = [name for name in PROFILES if ".v1." in name]
HERE = "/house/here"
MAX_SIZE = 2000
ASKED = 5.0
"""Seconds for which the house waits for an answer."""
SAID: list[tuple[str, str, Any]] = []
"""What its handlers published, by namespace and room."""


class Nobody(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return False

    def check_room(self, conn: Connection, room: str) -> bool:
        return False


class Place(msgspec.Struct):
    x: int
    name: str | None = None


@Socket(
    "/house/:name",
    max_message_size=MAX_SIZE,
    max_rooms=4,
    history={"log:*": History(size=10, ttl=60)},
    guards=[RoomGuard("private:*", Nobody())],
)
class House(SocketController):
    @Event("who")
    async def who(self, conn: Connection) -> dict[str, Any]:
        identity = None if conn.identity is None else conn.identity.id
        return {"id": identity, "resumed": conn.resumed, "rooms": sorted(conn.rooms)}

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @AckEvent("note", schema=Schema({"text": (str, {"max_length": 20}), "n?": int}))
    async def note(self, conn: Connection, payload: dict[str, Any]) -> int:
        return len(payload["text"])

    @Event("place")
    async def place(self, conn: Connection, payload: Place) -> int:
        return payload.x

    @Event("once", delivery="effectively_once")
    async def once(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("never", guards=[Nobody()])
    async def never(self, conn: Connection) -> None:
        raise AssertionError("the guard was passed by")

    @Event("keep")
    async def keep(self, conn: Connection, payload: dict[str, Any]) -> None:
        conn.state.clear()
        conn.state.update(payload)

    @Event("ask")
    async def ask(self, conn: Connection) -> Any:
        return await conn.request("question", timeout=ASKED)

    @Event("say")
    async def say(self, conn: Connection, payload: Annotated[list[str], msgspec.Meta(min_length=1)]) -> None:
        room, *words = payload
        if room not in conn.rooms:
            raise ws_not_subscribed(room)
        SAID.append((conn.namespace, room, words))
        await self.publish_room(room, "said", words)

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str | list[str]) -> Any:
        return payload

    @Unsubscribe("exit")
    async def exit(self, conn: Connection, payload: str) -> str:
        return payload


class Guest:
    """One connection, from the client's side; it says bytes, and hears messages as plain data."""

    def __init__(self, upgrade: Upgrade, profile: str) -> None:
        self._codec = codec(PROFILES[profile][0])
        self._written = PROFILES[profile][1]
        self.wire = upgrade.wire
        self.binary = self._codec.binary

    def say(self, message: Any) -> None:
        """One message, as its codec writes it."""
        self.say_bytes(self._written(message))

    def say_bytes(self, data: bytes) -> None:
        """Any; text is UTF-8, which the wire below sees to."""
        self.wire.send(data if self.binary else data.decode("utf-8", "replace").encode(), binary=self.binary)

    def heard(self) -> list[MessageEnvelope]:
        """What has come since the last time; each must be an envelope."""
        messages = map(self._codec.decode, self.wire.received())
        return [msgspec.structs.replace(each, payload=self._codec.plain(each.payload)) for each in messages]


class Open:
    """The house, open: `neighbour` is in the lobby of the same namespace, `stranger` in that of another."""

    neighbour: Guest
    stranger: Guest

    def __init__(self, test: SocketsTest, token: str) -> None:
        self._test = test
        self.token = token
        """That of ann."""
        self.errors = Errors()
        logging.getLogger("aquilia").addHandler(self.errors)
        asyncio.get_running_loop().set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.seen.append(f"{context.get('message')}: {context.get('exception')!r}")

    @classmethod
    async def make(cls) -> Open:
        """One that runs until the process ends."""
        jwt = JWTAuthManager("a secret of more than thirty-two bytes")
        token = jwt.issue(Identity("ann"), lifetime=1e8)
        # Nothing ends it: so nothing may close the generator behind it, either.
        opened = cls._kept = sockets_test(House, auth=jwt, tickets=True)  # type: ignore[attr-defined]
        house = cls(await opened.__aenter__(), token)
        await house.settle()
        house.neighbour = await house.enter("aquilia.plain.json")
        house.stranger = await house.enter("aquilia.plain.json", "/house/elsewhere")
        for guest in (house.neighbour, house.stranger):
            guest.say({"event": "enter", "payload": ["lobby", "log:a"]})
        await house.settle()
        house.before = house.live()
        return house

    def live(self) -> dict[str, int]:
        """What the process holds."""
        return {**self._test.application.sockets.live(), "all tasks": len(asyncio.all_tasks())}

    async def enter(self, profile: str, path: str = HERE) -> Guest:
        """A guest who has said nothing yet."""
        context = self._test.clock.owns(Context())
        upgrade = Upgrade(path, None, None, [profile], None, context)
        await shake_hands(self._test.application, upgrade)
        return Guest(upgrade, profile)

    async def ticket(self) -> str:
        """One for ann."""
        transport = httpx.ASGITransport(self._test.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            headers = {"authorization": f"Bearer {self.token}"}
            answer = await client.post("/ws/ticket", json={"namespace": HERE}, headers=headers)
        ticket: str = answer.json()["ticket"]
        return ticket

    async def settle(self, seconds: float = 0) -> None:
        """Let all be done that can be."""
        await self._test.clock.advance(seconds, timeout=20)

    async def leave(self, guest: Guest) -> None:
        """It goes; nothing of it is left, and nobody heard what was not for them."""
        guest.wire.leave(1001, "")
        await self.settle(1)  # else sessions and tickets would never expire
        assert guest.wire.gone.is_set(), "a connection has not ended"
        assert self.live() == self.before, f"{self.before} became {self.live()}"
        errors, self.errors.seen = self.errors.seen, []
        assert not errors, "\n".join(errors)
        said = [(room, words) for namespace, room, words in SAID if namespace == HERE]
        SAID.clear()
        heard = [(each.room, each.payload) for each in self.neighbour.heard() if each.type == "event"]
        assert heard == [each for each in said if each[0] in ("lobby", "log:a")], (
            f"{said} was heard as {heard}"
        )
        assert self.stranger.heard() == [], "somebody in another namespace was told something"
        assert self.neighbour.wire.ended is self.stranger.wire.ended is None
