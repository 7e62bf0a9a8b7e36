"""The chat example, served by uvicorn: what its clients send, and what they hear."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import websockets
from wire import serving

from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.workspace import load_workspace

ROOT = Path(__file__).parents[2]
TIMEOUT = 10.0
ID = "0123456789abcdef"


@pytest.fixture
def application() -> Iterator[Application]:
    with load_workspace(ROOT, "modules.chat.manifest:manifest") as workspace:
        yield Application(Registry.build(workspace.manifests, import_module=workspace.import_module))


@pytest.fixture
async def address(application: Application) -> AsyncIterator[str]:
    """Serves the chat; gives `127.0.0.1:PORT`."""
    async with serving(application) as base:
        yield base.removeprefix("ws://")


async def eventually(condition: Any) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)


class Person:
    """A client of the chat, and all the events that it has heard."""

    def __init__(self, connection: websockets.ClientConnection, id: str) -> None:
        self.id = id
        self.heard: list[dict[str, Any]] = []
        self._unread: list[dict[str, Any]] = []
        self._connection = connection
        self._requests = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, address: str, namespace: str = "lobby") -> AsyncIterator[Self]:
        url = f"ws://{address}/chat/{namespace}"
        async with websockets.connect(url, subprotocols=["aquilia.v1.json"], proxy=None) as connection:
            await connection.send('{"type": "control", "event": "hello"}')
            welcome = json.loads(await connection.recv())
            yield cls(connection, welcome["payload"]["connection"])

    async def tell(self, event: str, payload: Any, **fields: Any) -> None:
        await self._connection.send(json.dumps({"event": event, "payload": payload, **fields}))

    async def ask(self, event: str, payload: Any) -> Any:
        """Send an event, and return its ack."""
        self._requests += 1
        await self.tell(event, payload, id=str(self._requests), ack=True)
        while (frame := await self._receive())["type"] != "ack":
            pass
        return frame["payload"]

    async def join(self, room: str, name: str) -> None:
        assert (await self.ask("room.join", {"room": room, "name": name}))["status"] == "ok"

    async def say(self, text: str, room: str = "general", id: str = ID) -> Any:
        return await self.ask("message.send", {"id": id, "room": room, "text": text})

    async def hears(self, event: str, payload: Any = ...) -> dict[str, Any]:
        """Wait for an event, with this payload if one is given, that no former call has returned."""
        while True:
            for frame in self._unread:
                if frame["event"] == event and payload in (..., frame["payload"]):
                    self._unread.remove(frame)
                    return frame
            await self._receive()

    async def has_heard(self, event: str) -> list[Any]:
        """The payloads of all such events so far: what was sent before this call has arrived."""
        assert (await self.ask("room.leave", "no-such-room"))["status"] == "ok"
        return [frame["payload"] for frame in self.heard if frame["event"] == event]

    async def sees_members(self, room: str, *names: str) -> list[Any]:
        """Wait until these, and nobody else, are in a room."""
        while True:
            frame = await self.hears("members")
            if frame["room"] == room and sorted(member["name"] for member in frame["payload"]) == sorted(
                names
            ):
                return frame["payload"]

    async def _receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT):
            frame: dict[str, Any] = json.loads(await self._connection.recv())
        if frame["type"] == "event":
            self.heard.append(frame)
            self._unread.append(frame)
        return frame


@pytest.fixture
async def ada(address: str) -> AsyncIterator[Person]:
    """Somebody who is in #general already."""
    async with Person.at(address) as ada:
        await ada.join("general", "Ada")
        yield ada


@pytest.fixture
async def bob(ada: Person, address: str) -> AsyncIterator[Person]:
    """Somebody who came to #general after Ada."""
    async with Person.at(address) as bob:
        await bob.join("general", "Bob")
        yield bob


async def test_the_page_is_one_file_that_needs_nothing_from_elsewhere(address: str) -> None:
    async with httpx.AsyncClient() as browser:
        page = await browser.get(f"http://{address}/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"""(?:src|href|url|import|from)\s*[=("']+\s*(?:https?:|//|\.?/)""", page.text)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\son\w+=\"|\sstyle=\"", page.text)


async def test_a_newcomer_is_told_which_rooms_there_are(ada: Person, address: str) -> None:
    await ada.join("design", "Ada")
    async with Person.at(address) as bob:
        assert (await bob.hears("welcome"))["payload"] == ["design", "general"]


async def test_all_are_told_of_a_room_that_opens_and_of_one_that_ends(bob: Person, ada: Person) -> None:
    await ada.join("design", "Ada")
    await bob.hears("rooms", ["design", "general"])
    assert (await ada.ask("room.leave", "design"))["status"] == "ok"
    await bob.hears("rooms", ["general"])


async def test_everyone_in_a_room_sees_who_joins_and_who_leaves(ada: Person, bob: Person) -> None:
    everybody = [{"id": ada.id, "name": "Ada"}, {"id": bob.id, "name": "Bob"}]
    assert await ada.sees_members("general", "Ada", "Bob") == everybody
    assert await bob.has_heard("members") == [everybody]
    await bob.ask("room.leave", "general")
    assert await ada.sees_members("general", "Ada") == everybody[:1]


async def test_who_has_left_a_room_hears_no_more_of_it(ada: Person, bob: Person) -> None:
    await bob.ask("room.leave", "general")
    await ada.sees_members("general", "Ada")
    await ada.say("is he gone?")
    assert await bob.has_heard("message.receive") == []
    assert len(await bob.has_heard("members")) == 1


async def test_a_client_that_goes_away_leaves_its_rooms(ada: Person, address: str) -> None:
    async with Person.at(address) as bob:
        await bob.join("general", "Bob")
        await bob.join("design", "Bob")
        await ada.sees_members("general", "Ada", "Bob")
    await ada.sees_members("general", "Ada")
    await ada.hears("rooms", ["general"])


async def test_joining_again_under_another_name_renames(ada: Person, bob: Person) -> None:
    await bob.join("general", "Robert")
    await ada.sees_members("general", "Ada", "Robert")
    await bob.say("hello")
    assert (await ada.hears("message.receive"))["payload"]["author"] == {"id": bob.id, "name": "Robert"}


async def test_a_message_reaches_everyone_in_its_room_and_its_ack_says_what_they_got(
    ada: Person, bob: Person, address: str
) -> None:
    async with Person.at(address) as eve:
        await eve.join("design", "Eve")
        ack = await ada.say("hello\nthere")
        message = ack["data"]
        assert ack["status"] == "ok"
        assert message == {
            "id": ID,
            "author": {"id": ada.id, "name": "Ada"},
            "text": "hello\nthere",
            "ts": message["ts"],
        }
        assert isinstance(message["ts"], int)
        received = await bob.hears("message.receive", message)
        assert received["room"] == "general"
        assert await ada.has_heard("message.receive") == [message]
        assert await eve.has_heard("message.receive") == []


async def test_all_see_the_messages_of_a_room_in_one_order(ada: Person, bob: Person) -> None:
    async def talk(person: Person) -> None:
        for number in range(10):
            assert (await person.say(f"{person.id} {number}"))["status"] == "ok"

    await asyncio.gather(talk(ada), talk(bob))
    heard = [message["text"] for message in await ada.has_heard("message.receive")]
    assert len(heard) == 20
    assert heard == [message["text"] for message in await bob.has_heard("message.receive")]


async def test_only_members_of_a_room_may_write_or_type_in_it(ada: Person, address: str) -> None:
    async with Person.at(address) as eve:
        for event, payload in [
            ("message.send", {"id": ID, "room": "general", "text": "let me in"}),
            ("typing.start", "general"),
            ("typing.stop", "nowhere"),
        ]:
            answer = await eve.ask(event, payload)
            assert answer["error"]["code"] == "WS_NOT_SUBSCRIBED"
    assert await ada.has_heard("message.receive") == []
    assert await ada.has_heard("typing") == []


async def test_the_others_see_who_is_typing(ada: Person, bob: Person) -> None:
    await bob.tell("typing.start", "general")
    await bob.tell("typing.stop", "general")
    for typing in (True, False):
        frame = await ada.hears("typing")
        assert frame["room"] == "general"
        assert frame["payload"] == {"member": {"id": bob.id, "name": "Bob"}, "typing": typing}
    assert await bob.has_heard("typing") == []


async def test_namespaces_never_hear_of_each_other(ada: Person, address: str) -> None:
    async with Person.at(address, "acme") as eve:
        assert (await eve.hears("welcome"))["payload"] == []
        await eve.join("general", "Eve")
        assert await eve.has_heard("members") == [[{"id": eve.id, "name": "Eve"}]]
        await eve.say("anybody here?")
    assert await ada.has_heard("message.receive") == []
    assert await ada.has_heard("members") == [[{"id": ada.id, "name": "Ada"}]]


@pytest.mark.parametrize(
    ("event", "payload", "wrong"),
    [
        ("message.send", {"id": ID, "room": "general", "text": ""}, "$.text"),
        ("message.send", {"id": ID, "room": "general", "text": " \n\t "}, "$.text"),
        ("message.send", {"id": ID, "room": "general", "text": "x" * 2001}, "$.text"),
        ("message.send", {"id": ID, "room": "general", "text": ["x"]}, "$.text"),
        ("message.send", {"id": "1", "room": "general", "text": "x"}, "$.id"),
        ("message.send", {"room": "general", "text": "x"}, "$.id"),
        ("message.send", {"id": ID, "text": "x"}, "$.room"),
        ("room.join", {"room": "", "name": "Eve"}, "$.room"),
        ("room.join", {"room": "the room", "name": "Eve"}, "$.room"),
        ("room.join", {"room": "r" * 41, "name": "Eve"}, "$.room"),
        ("room.join", {"room": "general", "name": " Eve"}, "$.name"),
        ("room.join", {"room": "general", "name": "Eve\nAda"}, "$.name"),
        ("room.join", {"room": "general", "name": "E" * 41}, "$.name"),
        ("room.join", {"room": "general"}, "$.name"),
        ("room.leave", None, "$"),
        ("typing.start", {"room": "general"}, "$"),
    ],
)
async def test_what_breaks_the_rules_is_refused_by_name(
    ada: Person, event: str, payload: Any, wrong: str
) -> None:
    error = (await ada.ask(event, payload))["error"]
    assert error["code"] == "WS_MESSAGE_INVALID"
    assert [detail["path"] for detail in error["details"]] == [wrong]
    assert await ada.has_heard("message.receive") == []
    assert len(await ada.has_heard("members")) == 1


async def test_a_message_that_nobody_could_ack_is_refused(ada: Person) -> None:
    await ada.tell("message.send", {"id": ID, "room": "general", "text": "x"})
    error = (await ada.hears("error"))["payload"]
    assert (error["code"], error["event"]) == ("WS_MESSAGE_INVALID", "message.send")


async def test_the_longest_message_fits(ada: Person) -> None:
    assert (await ada.say("🦅" * 2000))["data"]["text"] == "🦅" * 2000


async def test_nobody_is_in_more_than_twenty_rooms(ada: Person) -> None:
    for number in range(19):
        await ada.join(f"room-{number}", "Ada")
    answer = await ada.ask("room.join", {"room": "one-more", "name": "Ada"})
    assert answer["error"]["code"] == "WS_QUOTA_EXCEEDED"
    assert "one-more" not in (await ada.has_heard("rooms"))[-1]


async def test_who_floods_the_chat_is_refused(ada: Person, bob: Person) -> None:
    for _ in range(55):
        await ada.tell("typing.start", "general")
    assert (await ada.hears("error"))["payload"]["code"] == "WS_RATE_LIMIT_EXCEEDED"
    assert len(await bob.has_heard("typing")) < 55


async def test_nothing_is_kept_when_all_have_left(application: Application, address: str) -> None:
    async with Person.at(address) as ada, Person.at(address) as bob:
        for person in (ada, bob):
            await person.join("general", "somebody")
        await ada.say("hello")
        await bob.ask("room.leave", "general")
    nothing = {"connections": 0, "namespaces": 1, "rooms": 0, "tasks": 0}
    await eventually(lambda: application.sockets.live() == nothing)
    async with Person.at(address) as eve:
        assert (await eve.hears("welcome"))["payload"] == []
