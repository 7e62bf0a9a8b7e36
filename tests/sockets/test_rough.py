"""Clients that vanish at any moment: afterwards nothing of them is left, and nobody else has noticed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from door import Complaints, listening
from rawsocket import CLOSE, PING, TEXT, frame, handshake
from wire import TRANSPORTS, Client, eventually, serving

from aquilia import service
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.tasks import SPARES

CROWD = 1000
AT_ONCE = 50
OPENED: Counter[str] = Counter()
LEASES: Counter[str] = Counter()
GATES: list[asyncio.Event] = []


class Lease:
    """Something that a connection holds."""


@service(scope="connection")
async def lease() -> AsyncIterator[Lease]:
    LEASES["connection"] += 1
    yield Lease()
    LEASES["connection"] -= 1


class Shelf:
    """Something that a namespace holds."""


@service(scope="namespace")
async def shelf() -> AsyncIterator[Shelf]:
    LEASES["namespace"] += 1
    yield Shelf()
    LEASES["namespace"] -= 1


@Socket("/rough/:name")
class Rough(SocketController):
    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    @OnConnect()
    async def open(self, conn: Connection, lease: Lease) -> None:
        OPENED[conn.id] += 1
        await asyncio.sleep(0)

    @OnDisconnect()
    async def close(self, conn: Connection, lease: Lease) -> None:
        OPENED[conn.id] -= 1
        await self.publish_room("hall", "left")

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> list[str]:
        return ["hall", f"own-{conn.id}"]

    @Event("wait")
    async def wait(self, conn: Connection, *, lease: Lease) -> None:
        gate = asyncio.Event()
        GATES.append(gate)
        await gate.wait()

    @Event("ask")
    async def ask(self, conn: Connection) -> Any:
        return await conn.request("question", timeout=60)

    @Event("stream")
    async def stream(self, conn: Connection) -> None:
        while True:
            await conn.send_event("word", "x" * 1000)

    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("hall", "said", payload)


@pytest.fixture(autouse=True)
def complaints() -> Iterator[Complaints]:
    for counter in (OPENED, LEASES, GATES):
        counter.clear()
    with listening() as complaints:
        yield complaints
    # asyncio's own word, when a server goes on writing to a connection that was reset; and ours for a slow handler
    usual = ("socket.send() raised", "stopping; it waits for 1 connection whose handlers still run")
    assert [text for text in complaints.take() if not any(words in text for words in usual)] == []


def make(**settings: Any) -> AquilaSockets:
    return AquilaSockets.from_controllers([Rough], services=[lease, shelf], **settings)


def said(event: str, payload: Any = None, **fields: Any) -> bytes:
    return frame(TEXT, json.dumps({"event": event, "payload": payload, **fields}).encode())


HELLO = said("hello", type="control")


class Ruffian:
    """A raw connection that ends without a word."""

    def __init__(self, url: str) -> None:
        host, _, self.path = url.removeprefix("ws://").partition("/")
        self.host, _, self.port = host.partition(":")

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, int(self.port))

    async def upgrade(self, subprotocol: str = "") -> None:
        self.writer.write(handshake("/" + self.path, Sec_WebSocket_Protocol=subprotocol))
        await self.reader.readuntil(b"\r\n\r\n")

    async def hear(self, event: str) -> None:
        await self.reader.readuntil(event.encode())

    def reset(self) -> None:
        """Cut the wire: the server gets a RST, and what it had not read is lost."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def hang_up(self) -> None:
        """A FIN, and nobody to read what comes."""
        self.writer.transport.abort()


async def before_a_word(client: Ruffian) -> None:
    pass


async def within_the_handshake(client: Ruffian) -> None:
    client.writer.write(handshake("/" + client.path)[:80])
    await asyncio.sleep(0)


async def behind_the_handshake(client: Ruffian) -> None:
    client.writer.write(handshake("/" + client.path))


async def behind_the_handshake_a_turn_later(client: Ruffian) -> None:
    client.writer.write(handshake("/" + client.path))
    await asyncio.sleep(0)


async def once_upgraded(client: Ruffian) -> None:
    await client.upgrade()


async def before_hello(client: Ruffian) -> None:
    await client.upgrade("aquilia.v1.json")


async def behind_hello(client: Ruffian) -> None:
    await client.upgrade("aquilia.v1.json")
    client.writer.write(HELLO)


async def once_welcome(client: Ruffian) -> None:
    await client.upgrade("aquilia.v1.json")
    client.writer.write(HELLO)
    await client.hear("welcome")


async def within_a_frame(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(said("say", "x" * 500)[:300])
    await asyncio.sleep(0)


async def within_a_message(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(frame(TEXT, b'{"event"', final=False) + frame(PING))
    await asyncio.sleep(0)


async def while_a_handler_runs(client: Ruffian) -> None:
    await client.upgrade("aquilia.v1.json")
    client.writer.write(HELLO + said("wait") + said("say", 1))
    await client.hear("welcome")


async def while_it_is_asked(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(said("ask"))
    await client.hear("question")


async def while_it_is_told_much(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(said("stream"))
    await client.hear("word")


async def in_a_room(client: Ruffian) -> None:
    await client.upgrade("aquilia.v1.json")
    client.writer.write(HELLO + said("enter"))
    await client.hear("joined")


async def in_a_room_that_it_spoke_to(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(said("enter") + b"".join(said("say", number) for number in range(20)))
    await client.hear("said")


async def with_a_goodbye_that_it_does_not_see_answered(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(said("enter") + frame(CLOSE, struct.pack("!H", 1000)))


async def after_a_mistake(client: Ruffian) -> None:
    await client.upgrade()
    client.writer.write(frame(TEXT, b"\xff") + said("say", 1))


MOMENTS: list[Callable[[Ruffian], Awaitable[None]]] = [
    before_a_word,
    within_the_handshake,
    behind_the_handshake,
    behind_the_handshake_a_turn_later,
    once_upgraded,
    before_hello,
    behind_hello,
    once_welcome,
    within_a_frame,
    within_a_message,
    while_a_handler_runs,
    while_it_is_asked,
    while_it_is_told_much,
    in_a_room,
    in_a_room_that_it_spoke_to,
    with_a_goodbye_that_it_does_not_see_answered,
]


async def come_and_vanish(
    url: str, moment: Callable[[Ruffian], Awaitable[None]], chance: random.Random
) -> None:
    client = Ruffian(url)
    await client.connect()
    # A server that is full, or that was quicker, ends it first.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await moment(client)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
    (client.reset if chance.random() < 0.8 else client.hang_up)()


async def crowd(urls: list[str], seed: int) -> None:
    """So many clients, a few at a time."""
    chance = random.Random(seed)
    turnstile = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, url: str) -> None:
        async with turnstile:
            await come_and_vanish(url, MOMENTS[number % len(MOMENTS)], chance)

    await asyncio.gather(*(one(number, url) for number, url in enumerate(urls)))


def survivors(app: AquilaSockets) -> list[Connection]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Connection and each._hub is app.hub]


async def expect_nothing_left(app: AquilaSockets, tasks: set[asyncio.Task[Any]]) -> None:
    await eventually(lambda: app.live() | {"namespaces": 0} == dict.fromkeys(app.live(), 0))
    await eventually(lambda: len(asyncio.all_tasks() - tasks) <= SPARES)
    assert set(OPENED.values()) <= {0}
    assert LEASES["connection"] == 0
    await eventually(lambda: not survivors(app))


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_nothing_is_left_of_clients_that_vanish(ws: Any) -> None:
    app = make()
    async with serving(app, ws=ws, log_config=None) as base:
        async with Client.connect(f"{base}/rough/a") as warm:
            await warm.request("enter")
        await eventually(lambda: not app.live()["connections"])
        tasks = asyncio.all_tasks()
        await crowd([f"{base}/rough/a"] * CROWD, seed=1)
        await expect_nothing_left(app, tasks)
        assert len(OPENED) > CROWD // 2
        assert app._entrance.connections == 0


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_a_member_who_stays_hears_everything_while_others_vanish(ws: Any) -> None:
    app = make()
    async with (
        serving(app, ws=ws, log_config=None) as base,
        Client.connect(f"{base}/rough/a") as stays,
        Client.connect(f"{base}/rough/a") as speaks,
    ):
        await stays.request("enter")

        async def listen() -> list[int]:
            heard: list[Any] = []
            while heard[-1:] != ["end"]:
                message = await stays.receive()
                if message["event"] == "said" and isinstance(message["payload"], str):
                    heard.append(message["payload"])
            return heard

        listening = asyncio.create_task(listen())
        coming = asyncio.create_task(crowd([f"{base}/rough/a"] * 100, seed=2))
        said = []
        while not coming.done():
            said.append(str(len(said)))
            await speaks.request("say", said[-1])
        await speaks.request("say", "end")
        assert await listening == [*said, "end"]


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_nothing_is_left_of_their_namespaces(ws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquilia.sockets.namespaces.LINGER", 0.02)
    app = make(max_namespaces=20)
    async with serving(app, ws=ws, log_config=None) as base:
        tasks = asyncio.all_tasks()
        await crowd([f"{base}/rough/{number}" for number in range(300)], seed=3)
        await expect_nothing_left(app, tasks)
        await eventually(lambda: app.live()["namespaces"] == 0)
        assert LEASES == {"connection": 0, "namespace": 0}
        assert app._adapter.broker._subscribed == set()
        assert len(OPENED) > 20


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_a_client_that_vanishes_while_it_is_not_read_from(ws: Any) -> None:
    app = make()
    options = {"ws_ping_interval": 0.1, "ws_ping_timeout": 0.1}
    async with serving(app, ws=ws, log_config=None, **options) as base:
        client = Ruffian(f"{base}/rough/a")
        await client.connect()
        await client.upgrade()
        client.writer.write(said("wait") * 70)
        await eventually(lambda: any(conn._paused for conn in survivors(app)))
        client.reset()
        if ws == TRANSPORTS["asgi"]:
            # It cannot know before its handlers are done.
            await eventually(lambda: GATES)
            while app.live()["connections"]:
                for gate in GATES:
                    gate.set()
                await asyncio.sleep(0)
        await eventually(lambda: app.live() | {"namespaces": 0} == dict.fromkeys(app.live(), 0))
        assert set(OPENED.values()) == {0}
        assert LEASES["connection"] == 0


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_one_message_too_many_does_not_hide_that_a_client_vanished(ws: Any) -> None:
    app = make()
    async with serving(app, ws=ws, log_config=None, ws_ping_interval=0.1) as base:
        client = Ruffian(f"{base}/rough/a")
        await client.connect()
        await client.upgrade()
        client.writer.write(said("wait") * 65)  # one is handled, the others fill the inbox
        await eventually(lambda: any(conn._paused for conn in survivors(app)))
        client.reset()
        await eventually(lambda: app.live()["connections"] == 0)
        assert set(OPENED.values()) == {0}


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_the_end_of_the_server_ends_everyone_properly(ws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aquilia.sockets.lifecycle.HANDLER_GRACE", 0.05)
    app = make()
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as clients:
        async with serving(app, ws=ws, log_config=None) as base:
            plain = await clients.enter_async_context(Client.connect(f"{base}/rough/a"))
            busy = await clients.enter_async_context(Client.connect(f"{base}/rough/b", "v1.json"))
            asked = await clients.enter_async_context(Client.connect(f"{base}/rough/b", "v1.cbor"))
            await clients.enter_async_context(Client.connect(f"{base}/rough/c", "v1.json", hello=False))
            await plain.request("enter")
            await busy.send("wait")
            await asked.send("ask")
            await asked.expect("question")
        for client in (plain, busy, asked):
            assert (await client.closed())[0] == 1012
        assert app.live() == dict.fromkeys(app.live(), 0)
        assert set(OPENED.values()) == {0}
        assert LEASES == {"connection": 0, "namespace": 0}
    await eventually(lambda: asyncio.all_tasks() <= before)
    assert not survivors(app)


async def test_the_application_ends_its_connections_before_it_has_shut_down() -> None:
    app = make()
    async with (
        serving(app, lifespan="off", log_config=None) as base,
        Client.connect(f"{base}/rough/a") as client,
        Client.connect(f"{base}/rough/b", "v1.json") as other,
    ):
        await client.request("enter")
        await app.shutdown()
        assert app.live() == dict.fromkeys(app.live(), 0)
        assert set(OPENED.values()) == {0}
        assert LEASES == {"connection": 0, "namespace": 0}
        assert (await client.closed())[0] == 1012
        assert (await other.closed())[0] == 1012


async def test_an_upgrade_that_the_end_overtakes_is_ended_too() -> None:
    app = make()
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({"type": "websocket.connect"})
    upgrading, go = asyncio.Event(), asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "websocket.accept":
            upgrading.set()
            await go.wait()
        else:
            events.put_nowait({"type": "websocket.disconnect", "code": 1012})

    scope = {"type": "websocket", "path": "/rough/a", "headers": [], "query_string": b"", "subprotocols": []}
    serving = asyncio.create_task(app(scope, events.get, send))
    await upgrading.wait()
    await app.shutdown()
    go.set()
    await serving
    assert [(message["type"], message.get("code")) for message in sent] == [
        ("websocket.accept", None),
        ("websocket.close", 1012),
    ]
    await eventually(lambda: app.live() == dict.fromkeys(app.live(), 0))
    assert app._entrance.connections == 0
    assert not survivors(app)
