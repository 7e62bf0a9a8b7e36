"""What a slow client has yet to read waits on disk: real servers, clients that stop reading, and disks that fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from rawsocket import BINARY, TEXT, RawSocket, frame, handshake
from wire import PROFILES, TRANSPORTS, Client, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.recorder import Counters

KIB = 1024
NOTE = "x" * 20_000
COUNT = 300
"""Six megabytes of notes, of which a wire takes less than one."""

wires = pytest.mark.parametrize("transport", TRANSPORTS)
profiles = pytest.mark.parametrize("profile", ["plain", "v1.json", "v1.msgpack"])


class Hall(SocketController):
    tick = Emits("tick", list[Any], backpressure={"strategy": "drop_oldest"})
    vital = Emits("vital", list[Any], backpressure={"strategy": "buffer"})
    late = Emits("late", list[Any], backpressure={"strategy": "spool"})

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Event("say")
    async def say(self, conn: Connection, payload: tuple[str, list[int]]) -> None:
        event, numbers = payload
        for number in numbers:
            await self.publish_room("hall", event, [number, NOTE])

    @Event("tell me")
    async def tell_me(self, conn: Connection, payload: int) -> str:
        for number in range(payload):
            await conn.send_event("note", [number, NOTE])
        return "told"

    @Event("dismiss")
    async def dismiss(self, conn: Connection) -> None:
        await conn.disconnect(4000, "bye")

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


class Frozen:
    """A client that sends, and reads only when it is told to."""

    def __init__(self, raw: RawSocket, profile: str) -> None:
        self.raw = raw
        self._opcode = BINARY if profile == "v1.msgpack" else TEXT
        _, encode, self._decode = PROFILES[profile]
        self._encode: Callable[[Any], Any] = encode

    def say(self, event: str, payload: Any = None, **fields: Any) -> None:
        data = self._encode({"event": event, "payload": payload, **fields})
        self.raw.send(frame(self._opcode, data if isinstance(data, bytes) else data.encode()))

    async def read(self) -> dict[str, Any]:
        return self._decode((await self.raw.read()).payload)

    async def read_until(self, id: str) -> list[dict[str, Any]]:
        """All that comes before the answer of this id."""
        found = []
        while (message := await self.read()).get("id") != id:
            found.append(message)
        return found

    async def read_on(self) -> list[dict[str, Any]]:
        """All that waits for it."""
        self.say("echo", id="last", ack=True)
        return await self.read_until("last")


@contextlib.asynccontextmanager
async def frozen_at(base: str, profile: str = "plain", path: str = "/hall") -> AsyncIterator[Frozen]:
    host, _, port = base.removeprefix("ws://").partition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=64 * KIB)
        subprotocol = PROFILES[profile][0]
        headers = {} if subprotocol is None else {"Sec_WebSocket_Protocol": subprotocol}
        writer.write(handshake(path, **headers))
        await reader.readuntil(b"\r\n\r\n")
        client = Frozen(RawSocket(reader, writer), profile)
        if subprotocol is not None:
            client.say("hello", type="control")
        client.say("enter", id="in", ack=True)
        await client.read_until("in")
        try:
            yield client
        finally:
            writer.transport.abort()


def hall(**options: Any) -> AquilaSockets:
    settings = {
        name: options.pop(name) for name in [*options] if name.startswith(("spool_", "outbox_", "metrics"))
    }
    backpressure = {"strategy": "spool", "buffer_size": 10, **options.pop("backpressure", {})}
    controller = Socket("/hall", backpressure=backpressure, **options)(type("AHall", (Hall,), {}))
    return AquilaSockets.from_controllers([controller], **settings)


def lost(app: AquilaSockets, cause: str) -> int:
    assert isinstance(app.recorder, Counters)
    return app.recorder.counts["dropped", "/hall", cause]


def numbers(messages: list[dict[str, Any]], event: str = "note") -> list[int]:
    return [message["payload"][0] for message in messages if message["event"] == event]


@contextlib.asynccontextmanager
async def members(
    app: AquilaSockets, transport: str, profile: str = "plain"
) -> AsyncIterator[tuple[Client, Frozen]]:
    """One that reads and one that does not, in one hall."""
    async with (
        serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB) as base,
        frozen_at(base, profile) as frozen,
        Client.connect(f"{base}/hall") as ada,
    ):
        await ada.request("enter")
        yield ada, frozen


async def publish_all(ada: Client, event: str = "note", count: int = COUNT) -> None:
    for number in range(count):
        await ada.send("say", [event, [number]])
        assert (await ada.expect(event))["payload"][0] == number


@wires
@profiles
async def test_a_client_that_reads_on_finds_everything_in_order(transport: str, profile: str) -> None:
    app = hall()
    async with members(app, transport, profile) as (ada, frozen):
        for _ in range(2):
            await publish_all(ada)
            frozen.say("echo", 1, id="one", ack=True)
            await ada.send("say", ["note", [COUNT]])
            await ada.expect("note")
            assert numbers(await frozen.read_until("one") + await frozen.read_on()) == [*range(COUNT + 1)]
        assert isinstance(app.recorder, Counters)
        assert not [key for key in app.recorder.counts if key[0] == "dropped"]
