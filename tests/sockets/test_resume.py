"""A client of protocol v1 comes back to its session: rooms, state, what was sent to it, and who else has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from door import expect_close
from wire import Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)

PROFILES = ["v1.json", "v1.msgpack", "v1.cbor"]
GONE: list[tuple[str, str]] = []


class Room(SocketController):
    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        await conn.send_event("greeted", conn.resumed)

    @OnDisconnect()
    async def bye(self, conn: Connection, reason: Any) -> None:
        GONE.append((conn.id, str(reason.code)))

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Unsubscribe("exit")
    async def leave(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("rooms")
    async def rooms(self, conn: Connection) -> list[str]:
        return sorted(conn.rooms)

    @Event("set")
    async def set(self, conn: Connection, payload: dict[str, Any]) -> None:
        conn.state.update(payload)

    @Event("odd")
    async def odd(self, conn: Connection) -> None:
        conn.state["object"] = object()

    @Event("get")
    async def get(self, conn: Connection) -> dict[str, Any]:
        return {key: value for key, value in conn.state.items() if key != "object"}

    @Event("say")
    async def say(self, conn: Connection, payload: str) -> None:
        await self.publish_room("hall", "said", payload)

    @Event("tell")
    async def tell(self, conn: Connection, payload: list[str]) -> None:
        for word in payload:
            await conn.send_event("told", word)

    @Event("stop")
    async def stop(self, conn: Connection, payload: int) -> None:
        await conn.disconnect(payload)


@Socket("/room/:name", max_rooms=3, room_size=2)
class Lasting(Room):
    pass


@Socket("/brief", resume=False)
class Brief(Room):
    pass


@pytest.fixture(scope="module")
def app() -> AquilaSockets:
    return AquilaSockets.from_controllers([Lasting, Brief])


class Returning:
    """A client that keeps what it needs to come back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.positions: dict[str, Any] = {}

    async def hello(self, token: str | None = None, rooms: Any = None) -> dict[str, Any]:
        payload = {} if token is None else {"resume": {"token": token, "rooms": rooms or {}}}
        await self.client.send("hello", payload, type="control")
        welcome: dict[str, Any] = (await self.client.expect("welcome"))["payload"]
        return welcome

    async def resumed(self) -> dict[str, Any]:
        rooms: dict[str, Any] = (await self.client.expect("resumed"))["payload"]["rooms"]
        return rooms


@asynccontextmanager
async def visit(url: str, profile: str = "v1.json") -> AsyncIterator[Returning]:
    async with Client.connect(url, profile, hello=False) as client:
        yield Returning(client)


async def cut(client: Client) -> None:
    """End the connection as a network does."""
    client.socket.transport.abort()


def place(frame: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": frame["meta"]["epoch"], "offset": frame["meta"]["offset"]}


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_client_comes_back_to_its_session_again_and_again(base: str, profile: str) -> None:
    url = f"{base}/room/{profile}-again"
    async with visit(url, profile) as first:
        welcome = await first.hello()
        id, token = welcome["connection"], welcome["resume"]
        assert (await first.client.expect("greeted"))["payload"] is False
        await first.client.request("enter", "hall")
        await first.client.request("set", {"name": "ann", "n": [1, None, 2.5]})
        await cut(first.client)
    for _ in range(3):
        async with visit(url, profile) as again:
            welcome = await again.hello(token)
            assert welcome["connection"] == id
            token = welcome["resume"]
            rooms = await again.resumed()
            assert rooms["hall"] == {"recovered": False}
            assert rooms[""]["recovered"] is True
            if rooms[""]["offset"] == 0:  # without a position it gets all that there was
                pass
            frame = await again.client.expect("greeted")
            while frame["payload"] is not True:
                frame = await again.client.expect("greeted")
            assert (await again.client.request("rooms"))["data"] == ["hall"]
            assert (await again.client.request("get"))["data"] == {"name": "ann", "n": [1, None, 2.5]}
            await again.client.send("say", "hi", id="x", ack=True)
            assert (await again.client.expect("said"))["payload"] == "hi"
            await cut(again.client)


async def test_what_was_sent_directly_and_not_seen_comes_again_in_order(base: str) -> None:
    url = f"{base}/room/direct"
    async with visit(url) as first:
        token = (await first.hello())["resume"]
        seen = place(await first.client.expect("greeted"))
        await first.client.request("tell", ["a", "b", "c"])
        await cut(first.client)
    async with visit(url) as again:
        token = (await again.hello(token, {"": seen}))["resume"]
        assert await again.resumed() == {"": {"recovered": True, **seen}}
        frames = [await again.client.expect("told") for _ in range(3)]
        assert [frame["payload"] for frame in frames] == ["a", "b", "c"]
        assert [frame["meta"]["offset"] for frame in frames] == [2, 3, 4]
        greeted = await again.client.expect("greeted")
        assert place(greeted) == {**seen, "offset": 5}
        await cut(again.client)
    async with visit(url) as third:
        await third.hello(token, {"": place(greeted)})
        assert (await third.resumed())[""]["recovered"] is True
        assert (await third.client.expect("greeted"))["payload"] is True


@pytest.mark.parametrize("position", [{"epoch": "another", "offset": 1}, {"offset": 99}])
async def test_a_position_that_is_none_of_its_log_is_not_recovered(
    base: str, position: dict[str, Any]
) -> None:
    url = f"{base}/room/future"
    async with visit(url) as first:
        token = (await first.hello())["resume"]
        seen = place(await first.client.expect("greeted"))
        await cut(first.client)
    async with visit(url) as again:
        await again.hello(token, {"": {**seen, **position}})
        assert await again.resumed() == {"": {"recovered": False, **seen}}
        assert place(await again.client.expect("greeted")) == {**seen, "offset": 2}


async def test_a_token_is_good_until_the_one_behind_it_was_used(base: str) -> None:
    url = f"{base}/room/lost"
    async with visit(url) as first:
        welcome = await first.hello()
        id, token = welcome["connection"], welcome["resume"]
        await cut(first.client)
    async with visit(url) as again:
        assert (await again.hello(token))["connection"] == id
        await cut(again.client)  # this welcome was lost
    async with visit(url) as again:
        welcome = await again.hello(token)
        assert welcome["connection"] == id
        await cut(again.client)
    async with visit(url) as again:
        assert (await again.hello(welcome["resume"]))["connection"] == id
        await cut(again.client)
    async with visit(url) as replayed:
        assert (await replayed.hello(token, {"hall": {"epoch": "e", "offset": 1}}))["connection"] != id
        assert await replayed.resumed() == {"hall": {"recovered": False}}
        assert (await replayed.client.request("rooms"))["data"] == []


async def test_the_newest_connection_takes_over_and_the_former_ends_with_4410(base: str) -> None:
    url = f"{base}/room/twice"
    async with visit(url) as first, visit(url) as other, visit(url) as newest:
        welcome = await first.hello()
        await first.client.request("enter", "hall")
        again = await newest.hello(welcome["resume"])
        assert again["connection"] == welcome["connection"]
        await expect_close(first.client, 4410)
        await eventually(lambda: (welcome["connection"], "4410") in GONE)
        await other.hello()
        await other.client.request("say", "to one")
        await newest.client.expect("resumed")
        frames = [await newest.client.receive() for _ in range(3)]
        assert [frame["event"] for frame in frames] == ["greeted", "greeted", "said"]
        assert (await newest.client.request("rooms"))["data"] == ["hall"]


@pytest.mark.parametrize("spoil", ["forged", "elsewhere", "unsigned"])
async def test_a_token_that_is_not_its_own_begins_a_new_session(base: str, spoil: str) -> None:
    async with visit(f"{base}/room/own") as first:
        welcome = await first.hello()
        token = welcome["resume"]
        await first.client.request("enter", "hall")
    if spoil == "forged":
        token = token[:-1] + ("A" if token[-1] != "A" else "B")
    elif spoil == "unsigned":
        token = token.rpartition(".")[0]
    async with visit(f"{base}/room/{'other' if spoil == 'elsewhere' else 'own'}") as second:
        anew = await second.hello(token)
        assert anew["connection"] != welcome["connection"]
        assert await second.resumed() == {}
        assert (await second.client.request("rooms"))["data"] == []


@pytest.mark.parametrize(("code", "over"), [(1000, True), (4403, True), (1001, False), (4401, False)])
async def test_some_ends_are_for_good(base: str, code: int, over: bool) -> None:
    url = f"{base}/room/ends"
    async with visit(url) as first:
        welcome = await first.hello()
        await first.client.send("stop", code)
        await expect_close(first.client, code)
    await eventually(lambda: (welcome["connection"], str(code)) in GONE)
    async with visit(url) as again:
        assert ((await again.hello(welcome["resume"]))["connection"] != welcome["connection"]) is over


async def test_a_room_that_is_full_or_was_left_is_not_joined_again(base: str) -> None:
    url = f"{base}/room/full"
    async with visit(url) as first:
        welcome = await first.hello()
        id, token = welcome["connection"], welcome["resume"]
        for room in ("hall", "den", "attic"):
            await first.client.request("enter", room)
        await first.client.request("exit", "den")
        await cut(first.client)
    await eventually(lambda: any(gone == id for gone, _ in GONE))
    async with visit(url) as one, visit(url) as two, visit(url) as again:
        for other in (one, two):
            await other.hello()
            assert (await other.client.request("enter", "hall"))["status"] == "ok"
        await again.hello(token)
        assert (await again.resumed()).keys() == {"attic", ""}
        assert (await again.client.expect("left"))["payload"] == {"room": "hall"}
        assert (await again.client.request("rooms"))["data"] == ["attic"]


async def test_without_resume_there_is_no_token_and_nothing_to_come_back_to(base: str) -> None:
    async with visit(f"{base}/brief") as first:
        assert "resume" not in await first.hello("t", {"r": {"epoch": "e", "offset": 1}})
        assert await first.resumed() == {"r": {"recovered": False}}
        assert "offset" not in (await first.client.expect("greeted"))["meta"]


WRONG = [
    "a word",
    {"rooms": {}},
    {"token": ""},
    {"token": "t" * 257},
    {"token": 5},
    {"token": "t", "rooms": []},
    {"token": "t", "rooms": {"r": 1}},
    {"token": "t", "rooms": {"r": {"epoch": "e"}}},
    {"token": "t", "rooms": {"r": {"epoch": "e", "offset": -1}}},
    {"token": "t", "rooms": {"r": {"epoch": "e", "offset": True}}},
    {"token": "t", "rooms": {"r": {"epoch": 1, "offset": 1}}},
    {"token": "t", "rooms": {str(n): {"epoch": "e", "offset": 1} for n in range(5)}},
]


@pytest.mark.parametrize("resume", WRONG, ids=str)
@pytest.mark.parametrize("path", ["/room/wrong", "/brief"])
async def test_a_malformed_wish_to_resume_ends_the_connection(base: str, path: str, resume: Any) -> None:
    if path == "/brief" and isinstance(resume, dict) and len(resume.get("rooms") or ()) == 5:
        resume = {"token": "t", "rooms": {str(n): {"epoch": "e", "offset": 1} for n in range(102)}}
    async with visit(f"{base}{path}") as client:
        await client.client.send("hello", {"resume": resume}, type="control")
        assert (await expect_close(client.client, 4400)).startswith("WS_HANDSHAKE_FAILED")


async def test_state_that_would_come_back_as_something_else_is_left_out_and_said(
    transport: Any, complaints: Any
) -> None:
    app = AquilaSockets.from_controllers([Lasting])
    async with serving(app, ws=transport) as base:
        async with visit(f"{base}/room/odd") as first:
            token = (await first.hello())["resume"]
            for _ in range(2):
                await first.client.request("odd")
            await first.client.request("set", {"kept": 1})
            await cut(first.client)
        (complaint,) = complaints.take()
        assert "conn.state['object'] of /room/:name is not kept" in complaint
        async with visit(f"{base}/room/odd") as again:
            await again.hello(token)
            assert (await again.client.request("get"))["data"] == {"kept": 1}


async def test_much_state_that_is_left_out_is_said_in_one_line(transport: Any, complaints: Any) -> None:
    app = AquilaSockets.from_controllers([Lasting])
    async with serving(app, ws=transport) as base, visit(f"{base}/room/much") as visitor:
        await visitor.hello()
        for part in "abb":
            much = {f"key {part} {number}": "x" * 550 for number in range(100)}
            assert (await visitor.client.request("set", much))["status"] == "ok"
        (complaint,) = complaints.take()
    assert "conn.state['key b " in complaint
    assert " more of /room/:name is not kept" in complaint
    assert len(complaint) < 300
