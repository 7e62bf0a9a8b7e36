"""Too much at once: bursts that healthy clients must survive, and floods by clients that read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rawsocket import CLOSE, PING, TEXT, RawSocket, frame, handshake
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    OnDisconnect,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)

KIB = 1024
MIB = 1024 * KIB


class Stage(SocketController):
    ended: list[int]
    handled = 0
    stream_ended = False

    def __init__(self) -> None:
        self.ended = []
        self.gate = asyncio.Event()

    @OnDisconnect()
    async def close(self, conn: Connection, reason: Any) -> None:
        self.ended.append(reason.code)

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Unsubscribe("leave")
    async def leave(self, conn: Connection) -> str:
        return "hall"

    @Event("burst")
    async def burst(self, conn: Connection, payload: dict[str, int]) -> None:
        for number in range(payload["count"]):
            await self.publish_room("hall", "note", [number, "x" * payload["size"]])

    @Event("say")
    async def say(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("hall", "note", payload)

    @Event("size")
    async def size(self, conn: Connection, payload: int) -> str:
        self.handled += 1
        return "x" * payload

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("ask")
    async def ask(self, conn: Connection) -> Any:
        return await conn.request("question", timeout=30)

    @Event("stream")
    async def stream(self, conn: Connection) -> None:
        try:
            while True:
                await conn.send_event("word", "x" * 10_000)
        finally:
            self.stream_ended = True

    @Event("wait")
    async def wait(self, conn: Connection) -> None:
        await self.gate.wait()


@Socket("/stage/:name")
class Normal(Stage):
    pass


@Socket("/narrow", backpressure={"strategy": "buffer", "buffer_size": 10})
class Narrow(Stage):
    pass


@Socket("/lossy", backpressure={"strategy": "drop_oldest", "buffer_size": 10})
class Lossy(Stage):
    pass


@pytest.fixture
def app() -> AquilaSockets:
    return AquilaSockets.from_controllers([Normal, Narrow, Lossy])


@pytest.fixture(params=TRANSPORTS.values(), ids=list(TRANSPORTS))
async def narrow(request: pytest.FixtureRequest, app: AquilaSockets) -> AsyncIterator[str]:
    """The same, with little room in the wires."""
    async with serving(app, ws=request.param, send_buffer=16 * KIB) as base:
        yield base


@contextlib.asynccontextmanager
async def frozen(url: str, *first: bytes) -> AsyncIterator[RawSocket]:
    """A client that sends, and reads nothing; little fits into the wire to it."""
    host, _, path = url.removeprefix("ws://").partition("/")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
        sock.setblocking(False)
        name, _, port = host.partition(":")
        await asyncio.get_running_loop().sock_connect(sock, (name, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 * KIB)
        writer.write(handshake("/" + path))
        await reader.readuntil(b"\r\n\r\n")
        raw = RawSocket(reader, writer)
        raw.send(*first)
        try:
            yield raw
        finally:
            writer.transport.abort()


async def stops_reading(raw: RawSocket, data: bytes) -> bool:
    """Send that again and again, until nobody takes it any more."""
    for _ in range(1000):
        raw.send(data)
        try:
            async with asyncio.timeout(0.3):
                await raw.writer.drain()
        except TimeoutError:
            return True
    return False


def stage(app: AquilaSockets, namespace: str) -> Any:
    return app.hub.homes[namespace].controller


def connection(app: AquilaSockets, namespace: str) -> Connection:
    (conn,) = app.hub.homes[namespace].connections.members.values()
    return conn


def said(event: str, payload: Any = None, **fields: Any) -> bytes:
    return frame(TEXT, json.dumps({"event": event, "payload": payload, **fields}).encode())


# Healthy clients


@pytest.mark.parametrize(("count", "size"), [(3000, 10), (100, 50 * KIB)], ids=["many", "large"])
async def test_a_burst_of_publications_reaches_every_member_that_reads(
    base: str, count: int, size: int
) -> None:
    async with Client.connect(f"{base}/stage/a") as ada, Client.connect(f"{base}/stage/a", "v1.cbor") as bob:
        for client in (ada, bob):
            await client.request("enter")
        await ada.send("burst", {"count": count, "size": size})
        for client in (ada, bob):
            notes = [(await client.expect("note"))["payload"][0] for _ in range(count)]
            assert notes == list(range(count))


async def test_a_client_with_a_small_outbox_survives_a_burst_if_it_reads(base: str) -> None:
    async with Client.connect(f"{base}/narrow") as client:
        await client.request("enter")
        await client.send("burst", {"count": 200, "size": 10})
        for number in range(200):
            assert (await client.expect("note"))["payload"][0] == number


async def test_nothing_is_dropped_for_a_client_that_reads(base: str) -> None:
    async with Client.connect(f"{base}/lossy") as client:
        await client.request("enter")
        await client.send("burst", {"count": 200, "size": 10})
        for number in range(200):
            assert (await client.expect("note"))["payload"][0] == number


async def test_a_flood_of_large_messages_does_not_end_those_who_hear_it(base: str) -> None:
    async with Client.connect(f"{base}/stage/a") as ada, Client.connect(f"{base}/stage/a") as eve:
        await ada.request("enter")
        for _ in range(100):
            await eve.send("say", "x" * 60_000)
        for _ in range(100):
            await ada.expect("note")


async def test_a_publisher_that_never_pauses_does_not_stop_the_others(base: str) -> None:
    async with Client.connect(f"{base}/stage/a") as eve, Client.connect(f"{base}/stage/b") as bob:
        await eve.request("enter")
        await eve.send("burst", {"count": 20_000, "size": 1}, id="burst", ack=True)
        await eve.expect("note")
        assert (await bob.request("echo", 1))["data"] == 1
        frames = 1
        while (await eve.receive()).get("id") != "burst":
            frames += 1
        assert frames == 20_000


async def test_a_flood_gives_the_others_their_turn(base: str, app: AquilaSockets) -> None:
    async with RawSocket.open(f"{base}/stage/a") as eve:
        conn = connection(app, "/stage/a")
        for flood in (b"[]", b'{"type":"ack","id":"1"}', b'{"event":"echo"}', b'{"event":"nothing"}'):
            before = conn.messages_received
            eve.send(frame(TEXT, flood) * 5000)
            most, seen = 0, before
            async with asyncio.timeout(10):
                while seen < before + 5000:
                    await asyncio.sleep(0)
                    most, seen = max(most, conn.messages_received - seen), conn.messages_received
            assert most <= 200
            await eventually(lambda: conn._pump is None)


async def test_what_is_handled_turn_by_turn_keeps_its_order(base: str) -> None:
    async with RawSocket.open(f"{base}/stage/a") as ada:
        ada.send(*[said("echo", number, id=str(number), ack=True) for number in range(3000)])
        for number in range(3000):
            ack = json.loads((await ada.read()).payload)
            assert (ack["id"], ack["payload"].get("data")) == (str(number), number)
        ada.send(*[frame(PING, str(number).encode()) for number in range(300)], frame(CLOSE, b"\x03\xe8"))
        assert [int((await ada.read()).payload) for _ in range(300)] == list(range(300))
        assert await ada.closed() == 1000


# Clients that do not read


async def test_a_client_that_reads_no_answers_gets_no_more_of_them(narrow: str, app: AquilaSockets) -> None:
    requests = [said("size", 100 * KIB, id=str(n), ack=True) for n in range(64)]
    async with frozen(f"{narrow}/stage/a", *requests):
        conn = connection(app, "/stage/a")
        await eventually(lambda: conn._outbox.answers_half_full)
        for _ in range(100):
            await asyncio.sleep(0)  # it would go on by now
        assert stage(app, "/stage/a").handled < 10
        assert conn._outbox.waiting_bytes < MIB


@pytest.mark.parametrize("asked", [False, True], ids=["of itself", "while its ack is awaited"])
async def test_a_flood_of_mistakes_by_a_client_that_reads_nothing_is_bounded(
    narrow: str, app: AquilaSockets, asked: bool
) -> None:
    async with frozen(f"{narrow}/stage/a", *([said("ask")] if asked else [])) as eve:
        conn = connection(app, "/stage/a")
        assert await stops_reading(eve, frame(TEXT, b"[]") * 500)
        assert conn._outbox.waiting_bytes < MIB


async def test_what_waits_for_a_handler_is_bounded_in_bytes_too(narrow: str, app: AquilaSockets) -> None:
    async with RawSocket.open(f"{narrow}/stage/a") as eve:
        eve.send(said("wait"), *[said("say", "x" * 60_000)] * 60)
        conn = connection(app, "/stage/a")
        await eventually(lambda: conn._paused)
        for _ in range(100):
            await asyncio.sleep(0)  # it would go on by now
        assert conn.bytes_received < 512 * KIB
        stage(app, "/stage/a").gate.set()
        await eventually(lambda: conn.messages_received == 61)


async def test_a_slow_client_under_a_lossy_policy_can_still_leave(narrow: str, app: AquilaSockets) -> None:
    async with frozen(f"{narrow}/lossy", said("enter")) as eve, Client.connect(f"{narrow}/lossy") as ada:
        rooms = app.hub.homes["/lossy"].rooms
        await eventually(lambda: "hall" in rooms)
        for _ in range(30):
            await ada.send("say", "x" * 60_000)
        await ada.request("echo")
        eve.send(said("echo", id="1", ack=True))
        (conn,) = rooms["hall"].members.values()
        await eventually(lambda: conn.messages_received == 2)
        eve.send(said("leave"))
        await eventually(lambda: "hall" not in rooms)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long until a frozen client takes its leave."""
    monkeypatch.setattr("aquilia.sockets.outbound.CLOSE_GRACE", 0.05)
    monkeypatch.setattr("aquilia.sockets.transports.asgi.CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr("aquilia.sockets.transports.closing.CLOSE_TIMEOUT", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_a_member_that_reads_nothing_is_shown_out_and_stalls_nobody(
    narrow: str, app: AquilaSockets
) -> None:
    async with frozen(f"{narrow}/stage/a", said("enter")), Client.connect(f"{narrow}/stage/a") as ada:
        await ada.request("enter")
        for _ in range(40):
            await ada.send("say", "x" * 60_000)
            await ada.expect("note")
        await eventually(lambda: stage(app, "/stage/a").ended == [4531])
        assert app.live()["connections"] == 1
        assert (await ada.request("echo", 1))["data"] == 1


@pytest.mark.usefixtures("hasty")
async def test_a_frozen_client_that_is_disconnected_is_freed(narrow: str, app: AquilaSockets) -> None:
    async with frozen(f"{narrow}/stage/a", said("enter"), *[said("size", MIB, id="1", ack=True)] * 2):
        conn = connection(app, "/stage/a")
        await eventually(lambda: conn._blocked)
        await conn.disconnect(4000, "bye")
        await eventually(lambda: app.live()["connections"] == 0)
        assert stage(app, "/stage/a").ended == [4000]
        assert app.live()["rooms"] == 0


async def test_a_handler_that_sends_to_a_frozen_client_ends_with_it(narrow: str, app: AquilaSockets) -> None:
    async with frozen(f"{narrow}/stage/a", said("stream")):
        conn = connection(app, "/stage/a")
        await eventually(lambda: conn._waiters)
        assert conn._outbox.waiting_bytes < MIB
    await eventually(lambda: stage(app, "/stage/a").stream_ended)
    await eventually(lambda: app.live()["connections"] == 0)


async def test_pings_of_a_client_that_reads_nothing_are_bounded(narrow: str) -> None:
    async with frozen(f"{narrow}/stage/a") as eve, Client.connect(f"{narrow}/stage/b") as bob:
        for _ in range(100):
            eve.send(frame(PING, b"x" * 125) * 100)
            assert (await bob.request("echo", 1))["data"] == 1
