"""What the tests of the test kit test: a chat that shows all that a client can meet."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import msgspec

from aquilia import service
from aquilia.sockets import (
    Connection,
    DisconnectReason,
    Event,
    Guard,
    Handshake,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    SocketFault,
    Subscribe,
)
from aquilia.sockets.faults import ws_auth_required, ws_forbidden

V1 = ["aquilia.v1.json", "aquilia.v1.msgpack", "aquilia.v1.cbor"]
SUBPROTOCOLS = [None, *V1]
LABEL = contextvars.ContextVar("LABEL", default="unset")


class Line(msgspec.Struct):
    text: str


class Mail:
    def __init__(self) -> None:
        self.sent: list[str] = []


@service(scope="singleton")
def mail() -> Mail:
    return Mail()


@Socket("/chat/:room")
class ChatSocket(SocketController):
    def __init__(self, mail: Mail) -> None:
        self.mail = mail
        self.here: list[Connection] = []

    @Guard(on="handshake")
    async def enter(self, handshake: Handshake) -> None:
        if "banned" in handshake.query_params:
            raise ws_forbidden("banned")

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        if conn.headers.get("x-late") == "no":
            raise ws_auth_required("too late")
        self.here.append(conn)
        await conn.join("all")

    @OnDisconnect()
    async def leave(self, conn: Connection, reason: DisconnectReason) -> None:
        self.mail.sent.append(f"left {reason.code}")
        await self.broadcast("left", reason.code)

    @Event("say")
    async def say(self, conn: Connection, payload: Line) -> str:
        await self.publish_room("all", "said", payload)
        return payload.text.upper()

    @Event("many")
    async def many(self, conn: Connection, payload: int) -> None:
        for number in range(payload):
            await self.publish_room("all", "number", number)

    @Event("who")
    async def who(self, conn: Connection) -> list[Any]:
        named = conn.identity.id if conn.identity else None
        return [named, conn.subprotocol, conn.headers.get("x-name"), conn.query_params.get("q"), LABEL.get()]

    @Event("wait")
    async def wait(self, conn: Connection) -> None:
        await asyncio.Event().wait()

    @Event("heard")
    async def heard(self, conn: Connection) -> int:
        return self.here[0].messages_received

    @Event("end")
    async def end(self, conn: Connection) -> None:
        await conn.disconnect(4000, "enough")

    @Event("ask")
    async def ask(self, conn: Connection) -> str:
        try:
            return f"client said {await conn.request('sure', {'n': 1})}"
        except SocketFault as fault:
            return f"client refused: {fault}"

    @Event("to")
    async def to(self, conn: Connection, payload: str) -> None:
        await self.publish_identity(payload, "whisper", "psst")


@Socket("/other")
class OtherSocket(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload
