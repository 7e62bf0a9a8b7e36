"""Who may enter a room: guards of the app, of the controller and of a pattern of rooms, and methods."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from door import expect_close
from wire import Client, eventually, serving

from aquilia import AppManifest, Identity
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.auth import token_invalid
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Guard,
    HandshakeAuthGuard,
    RoleGuard,
    RoomGuard,
    ScopeGuard,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
    Subscribe,
)
from aquilia.testing import sockets_test

ASKED: list[str] = []
CLOSED: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    ASKED.clear()
    CLOSED.clear()


class Noted(SocketGuard):
    def __init__(self, name: str, priority: int) -> None:
        self.name, self.priority = name, priority

    async def check_room(self, conn: Connection, room: str) -> None:
        ASKED.append(f"{self.name} {room}")


class Named:
    """Whose token is their name; a boss has every role, and Eve a scope."""

    async def authenticate(self, token: str) -> Identity:
        if token not in ("ann", "boss", "eve"):
            raise token_invalid()
        roles = ["staff", "boss"] if token == "boss" else ["staff"] if token == "ann" else []
        return Identity(token, roles=roles, scopes=["vault"] if token == "eve" else [])


@Socket(
    "/office",
    guards=[
        RoomGuard("staff:*", RoleGuard("staff")),
        RoomGuard("staff:*:board", RoleGuard("boss")),
        RoomGuard("vault", ScopeGuard("vault")),
        Noted("late", 90),
        Noted("early", 10),
    ],
)
class Office(SocketController):
    @Guard(on="room")
    def own(self, conn: Connection, room: str) -> bool:
        ASKED.append(f"method {room}")
        return room not in CLOSED and (not room.startswith("user:") or room == f"user:{conn.identity.id}")

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("pull")
    async def pull(self, conn: Connection, payload: str) -> list[str]:
        await conn.join(payload)
        return sorted(conn.rooms)


MANIFEST = AppManifest("office", controllers=[Office], auth=Named(), websockets={"require_auth": True})


async def refused(client: Any, event: str, room: str) -> str:
    with pytest.raises(SocketFault) as refusal:
        await client.request(event, room)
    return refusal.value.code


async def test_only_those_enter_a_room_whom_all_of_its_guards_let_in() -> None:
    async with sockets_test(MANIFEST) as t:
        ann, boss, eve = [await t.connect("/office", token=name) for name in ("ann", "boss", "eve")]
        assert await refused(eve, "enter", "staff:tea") == "WS_FORBIDDEN"
        assert await refused(ann, "enter", "staff:tea:board") == "WS_FORBIDDEN"
        assert await refused(boss, "enter", "vault") == "WS_FORBIDDEN"
        await ann.request("enter", "staff:tea")
        await boss.request("enter", "staff:tea:board")
        await eve.request("enter", "vault")
        await eve.request("enter", "anywhere else")
        assert await ann.request("pull", "lobby") == ["lobby", "staff:tea"]


async def test_a_method_is_a_guard_of_every_room_of_its_controller() -> None:
    async with sockets_test(MANIFEST) as t:
        ann = await t.connect("/office", token="ann")
        assert await refused(ann, "enter", "user:boss") == "WS_FORBIDDEN"
        await ann.request("enter", "user:ann")


async def test_no_way_into_a_room_passes_its_guards_by() -> None:
    async with sockets_test(MANIFEST) as t:
        eve = await t.connect("/office", token="eve")
        assert await refused(eve, "pull", "staff:tea") == "WS_FORBIDDEN"


async def test_they_are_asked_in_the_order_of_their_priorities() -> None:
    async with sockets_test(MANIFEST) as t:
        ann = await t.connect("/office", token="ann")
        await ann.request("enter", "lobby")
        assert ASKED == ["early lobby", "method lobby", "late lobby"]
        await ann.request("enter", "lobby")  # where it is already
        assert len(ASKED) == 3


async def test_a_client_that_comes_back_is_not_put_where_it_may_not_be_any_more() -> None:
    async with serving(Application(Registry.build([MANIFEST]))) as base:
        url, headers = f"{base}/office", {"Authorization": "Bearer ann"}
        async with Client.connect(url, "v1.json", additional_headers=headers) as ann:
            await ann.request("enter", "lobby")
            await ann.request("enter", "den")
            token = ann.welcome["payload"]["resume"]
            ann.socket.transport.abort()
        CLOSED.add("den")
        async with Client.connect(url, "v1.json", additional_headers=headers, hello=False) as ann:
            await ann.send("hello", {"resume": {"token": token, "rooms": {}}}, type="control")
            await ann.expect("welcome")
            assert set((await ann.expect("resumed"))["payload"]["rooms"]) == {"", "lobby"}
            assert (await ann.expect("left"))["payload"] == {"room": "den"}
            assert (await ann.request("pull", "lobby"))["data"] == ["lobby"]


# Another token of an open connection

RIGHTS: dict[str, dict[str, Any]] = {}
HELD: list[asyncio.Event] = []
BROKEN: set[str] = set()


class Changing:
    """Whose token is their name, and what they may stands in `RIGHTS`."""

    async def authenticate(self, token: str) -> Identity:
        return Identity(token, **RIGHTS.get(token, {}))


class Ledger(SocketGuard):
    async def check_room(self, conn: Connection, room: str) -> None:
        ASKED.append(room)
        if room in BROKEN:
            raise LookupError("the ledger is gone")
        if room.endswith("slow"):
            await HELD[0].wait()


@Socket(
    "/shop",
    guards=[RoomGuard("staff:*", RoleGuard("staff")), RoomGuard("vault", ScopeGuard("vault")), Ledger()],
)
class Shop(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("pull")
    async def pull(self, conn: Connection, payload: str) -> None:
        await conn.join(payload)

    @Event("rooms")
    async def rooms(self, conn: Connection) -> list[str]:
        return sorted(conn.rooms)

    @Event("tell")
    async def tell(self, conn: Connection, payload: str) -> None:
        await self.publish_room(payload, "told", payload)


ANN = {"Authorization": "Bearer ann"}
SHOP = AppManifest("shop", controllers=[Shop], auth=Changing(), websockets={"handshake_timeout": 2})


class Shopper(Client):
    url: str
    sockets: AquilaSockets


@contextlib.asynccontextmanager
async def shopping(*rooms: str) -> AsyncIterator[Shopper]:
    """Ann, of the staff, with the key of the vault, in these rooms."""
    RIGHTS["ann"] = {"roles": ["staff"], "scopes": ["vault"]}
    HELD[:] = [asyncio.Event()]
    HELD[0].set()
    application = Application(Registry.build([SHOP]))
    async with (
        serving(application) as base,
        Shopper.connect(f"{base}/shop", "v1.json", additional_headers=ANN) as ann,
    ):
        ann.url, ann.sockets = f"{base}/shop", application.sockets
        for room in rooms:
            await ann.request("enter", room)
        ASKED.clear()
        yield ann


async def renewed(client: Client) -> tuple[list[str], Any]:
    """Which rooms a client is told that it left, and the answer, when it has shown its token again."""
    await client.send("auth", {"token": "ann"}, type="control", id="auth")
    left = []
    while (told := await client.receive())["type"] != "ack":
        assert told["event"] == "left"
        left.append(told["payload"]["room"])
    return left, told["payload"]["status"]


async def test_who_shows_a_token_that_allows_less_leaves_the_rooms_that_it_may_not_be_in() -> None:
    async with shopping("lobby", "staff:tea", "vault") as ann:
        RIGHTS["ann"] = {"scopes": ["vault"]}
        assert await renewed(ann) == (["staff:tea"], "ok")
        RIGHTS["ann"] = {}
        assert await renewed(ann) == (["vault"], "ok")
        assert (await ann.request("rooms"))["data"] == ["lobby"]
        await ann.send("tell", "staff:tea")
        await ann.send("tell", "lobby")
        assert (await ann.expect("told"))["payload"] == "lobby"


async def test_guards_are_asked_about_each_room_once_and_only_where_what_it_may_has_changed() -> None:
    async with shopping("lobby", "vault") as ann:
        RIGHTS["ann"] |= {"expires_at": time.time() + 60}
        assert await renewed(ann) == ([], "ok")
        assert ASKED == []
        RIGHTS["ann"] |= {"attributes": {"floor": 2}}
        assert await renewed(ann) == ([], "ok")
        assert ASKED == ["lobby", "vault"]


async def test_what_it_left_so_is_not_what_it_comes_back_to() -> None:
    async with shopping("lobby", "vault") as ann:
        token = ann.welcome["payload"]["resume"]
        RIGHTS["ann"] = {}
        assert await renewed(ann) == (["vault"], "ok")
        RIGHTS["ann"] = {"scopes": ["vault"]}
        async with Client.connect(ann.url, "v1.json", additional_headers=ANN, hello=False) as back:
            await back.send("hello", {"resume": {"token": token, "rooms": {}}}, type="control")
            await back.expect("welcome")
            assert set((await back.expect("resumed"))["payload"]["rooms"]) == {"", "lobby"}


async def test_a_connection_ends_whose_guards_do_not_say_in_time() -> None:
    async with shopping("slow") as ann:
        HELD[0].clear()
        RIGHTS["ann"] = {}
        await ann.send("auth", {"token": "ann"}, type="control", id="auth")
        assert "guards" in await expect_close(ann, 4508)


async def test_a_connection_ends_whose_guard_fails() -> None:
    async with shopping("lobby") as ann:
        BROKEN.add("lobby")
        RIGHTS["ann"] = {}
        await ann.send("auth", {"token": "ann"}, type="control", id="auth")
        await expect_close(ann, 1011)
    BROKEN.clear()


async def test_a_room_that_it_left_empty_before_a_guard_failed_is_given_back() -> None:
    async with shopping("a", "vault", "z") as ann:
        BROKEN.add("z")
        RIGHTS["ann"] = {}
        await ann.send("auth", {"token": "ann"}, type="control", id="auth")
        await expect_close(ann, 1011)
        await eventually(lambda: ann.sockets.live()["rooms"] == 0)
    BROKEN.clear()


@pytest.mark.parametrize("allowed", [True, False])
async def test_who_shows_another_token_while_it_enters_a_room_is_asked_as_who_it_is_then(
    allowed: bool,
) -> None:
    async with shopping() as ann:
        HELD[0].clear()
        await ann.send("pull", "staff:slow", id="1", ack=True)
        await eventually(lambda: ASKED == ["staff:slow"])
        RIGHTS["ann"] = {"roles": ["staff", "new"]} if allowed else {}
        assert await renewed(ann) == ([], "ok")
        HELD[0].set()
        await ann.expect("joined")
        if not allowed:
            await ann.expect("left")
        assert (await ann.receive())["payload"]["status"] == ("ok" if allowed else "error")
        assert (await ann.request("rooms"))["data"] == (["staff:slow"] if allowed else [])


class Nothing(SocketGuard):
    pass


class OfRooms(SocketGuard):
    def check_room(self, conn: Connection, room: str) -> None: ...


class Askew(SocketGuard):
    def check_room(self, room: str) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("staff:*",), "it asks nobody"),
        (("", OfRooms()), "a room pattern is a string"),
        ((7, OfRooms()), "a room pattern is a string"),
        (("staff:*", Nothing()), "it needs check_room"),
        (("staff:*", HandshakeAuthGuard()), "it needs check_room"),
        (("staff:*", OfRooms), "it needs check_room"),
        (("staff:*", Askew()), r"Askew.check_room must take \(conn, room\)"),
    ],
    ids=["nobody", "empty", "number", "nothing", "handshake", "class", "askew"],
)
def test_a_guard_of_rooms_that_would_guard_nothing_is_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RoomGuard(*arguments)


def test_what_cannot_guard_rooms_where_it_stands_is_refused_at_boot() -> None:
    @Socket("/wrong", guards=[Askew()])
    class Wrong(SocketController):
        @Guard(on="room")
        def short(self, room: str) -> None: ...

        @Event("e", guards=[OfRooms()])
        async def e(self, conn: Connection) -> None: ...

    with pytest.raises(BootError) as refusal:
        AquilaSockets.from_controllers([Wrong])
    told = str(refusal.value)
    assert "Askew.check_room must take (conn, room)" in told
    assert "short must take (self, conn, room)" in told
    assert "OfRooms has no check_message: it guards rooms; put it on @Socket" in told
    with pytest.raises(ValueError, match="'message', 'handshake' or 'room', not 'rooms'"):
        Guard(on="rooms")  # type: ignore[arg-type]
