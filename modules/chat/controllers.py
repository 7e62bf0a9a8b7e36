"""The chat example: rooms, acked messages, who is here, and who is typing.

`ChatPage` serves the page, `ChatSocket` all that is live. Nothing is stored: a room lasts while somebody is in it.
"""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import FileResponse

from aquilia import GET, Controller
from aquilia.sockets import (
    AckEvent,
    Connection,
    Emits,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.faults import ws_not_subscribed

# A payload that breaks one of these rules is refused before a handler sees it.
RoomName = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^\S+$")]
DisplayName = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^\S+( \S+)*$")]


class Join(Struct):
    """Enter a room under a name."""

    room: RoomName
    name: DisplayName


class Draft(Struct):
    """A message to send. Its author chooses the id, and keeps it when sending again after a broken link."""

    id: Annotated[str, Meta(min_length=16, max_length=64)]
    room: RoomName
    text: Annotated[str, Meta(max_length=2000, pattern=r"\S")]


class Member(Struct):
    """Somebody in a room: the connection, and the name that others see."""

    id: str
    name: str


class Message(Struct):
    """What somebody said, and when, in ms since 1970."""

    id: str
    author: Member
    text: str
    ts: int


class Typing(Struct):
    """Somebody began to type, or stopped."""

    member: Member
    typing: bool


class ChatPage(Controller):
    """The page for browsers."""

    @GET("/")
    async def page(self) -> FileResponse:
        """One file, which finds the socket by its own address."""
        return FileResponse(Path(__file__).with_name("client.html"))


@Socket("/chat/:namespace", max_rooms=20, message_rate_limit=20)
class ChatSocket(SocketController):
    """A chat for each namespace: `/chat/acme` and `/chat/home` have an instance each, and never meet."""

    welcome = Emits("welcome", list[str])  # the rooms with somebody in them
    rooms = Emits("rooms", list[str])  # the same, when one has come or gone
    members = Emits("members", list[Member])
    message = Emits("message.receive", Message)
    typing = Emits("typing", Typing)

    def __init__(self) -> None:
        self._members: dict[str, dict[str, Member]] = {}  # by room and connection id

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        """Tell a newcomer which rooms there are."""
        await conn.send_event(self.welcome, sorted(self._members))

    @OnDisconnect()
    async def forget(self, conn: Connection) -> None:
        """Take a client that has gone out of its rooms."""
        for room in conn.rooms:
            await self.leave(conn, room)

    @Subscribe("room.join")
    async def join(self, conn: Connection, payload: Join) -> None:
        """Enter a room, which makes it if need be; or take another name in it."""
        room = payload.room
        await conn.join(room)  # not by returning it: the newcomer gets the list of members as well
        members = self._members.setdefault(room, {})
        members[conn.id] = Member(conn.id, payload.name)
        await self.publish_room(room, self.members, list(members.values()))
        if len(members) == 1:
            await self.broadcast(self.rooms, sorted(self._members))

    @Unsubscribe("room.leave")
    async def leave(self, conn: Connection, room: RoomName) -> None:
        """Leave a room; the last one to leave ends it."""
        await conn.leave(room)
        members = self._members.get(room, {})
        if members.pop(conn.id, None) is None:
            return
        if members:
            await self.publish_room(room, self.members, list(members.values()))
        else:
            del self._members[room]
            await self.broadcast(self.rooms, sorted(self._members))

    @AckEvent("message.send")
    async def send(self, conn: Connection, payload: Draft) -> Message:
        """Say something to a room. Its author gets it too: so all see the messages in one order."""
        message = Message(payload.id, self._member(conn, payload.room), payload.text, int(time() * 1000))
        await self.publish_room(payload.room, self.message, message)
        return message

    @Event("typing.start")
    async def start_typing(self, conn: Connection, room: RoomName) -> None:
        """Show the others that a message is on its way."""
        await self.publish_room(room, self.typing, Typing(self._member(conn, room), True), exclude=conn)

    @Event("typing.stop")
    async def stop_typing(self, conn: Connection, room: RoomName) -> None:
        """Show them that none is, after all."""
        await self.publish_room(room, self.typing, Typing(self._member(conn, room), False), exclude=conn)

    def _member(self, conn: Connection, room: str) -> Member:
        if (member := self._members.get(room, {}).get(conn.id)) is None:
            raise ws_not_subscribed(room)
        return member
