"""What tests of the spool share: a hall whose members read when they are told to, and the file itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from rawsocket import BINARY, TEXT, RawSocket, frame, handshake
from wire import PROFILES, TRANSPORTS, Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    History,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.metrics.recorder import Counters

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


def hall_class(backpressure: dict[str, Any] | None = None, **options: Any) -> type[SocketController]:
    limits = {"strategy": "spool", "buffer_size": 10, **(backpressure or {})}
    return Socket("/hall", backpressure=limits, **options)(type("AHall", (Hall,), {}))


def hall(
    backpressure: dict[str, Any] | None = None, history: History | None = None, **settings: Any
) -> AquilaSockets:
    return AquilaSockets.from_controllers([hall_class(backpressure, history=history)], **settings)


def first(app: AquilaSockets) -> Connection:
    """The connection of who came first, and does not read."""
    return next(iter(app.hub.homes["/hall"].connections.members.values()))


def lost(app: AquilaSockets, cause: str) -> int:
    assert isinstance(app.recorder, Counters)
    return app.recorder.counts["dropped", "/hall", cause]


def numbers(messages: list[dict[str, Any]], event: str = "note") -> list[int]:
    return [message["payload"][0] for message in messages if message["event"] == event]


def served(app: AquilaSockets, transport: str = "native") -> Any:
    return serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB)


@contextlib.asynccontextmanager
async def entered(base: str) -> AsyncIterator[Client]:
    async with Client.connect(f"{base}/hall") as client:
        await client.request("enter")
        yield client


@contextlib.asynccontextmanager
async def members(
    app: AquilaSockets, transport: str, profile: str = "plain"
) -> AsyncIterator[tuple[Client, Frozen]]:
    """One that reads and one that does not, in one hall."""
    async with (
        served(app, transport) as base,
        frozen_at(base, profile) as frozen,
        entered(base) as ada,
    ):
        yield ada, frozen


async def publish_all(ada: Client, event: str = "note", count: int = COUNT) -> None:
    for number in range(count):
        await ada.send("say", [event, [number]])
        assert (await ada.expect(event))["payload"][0] == number


def spools(folder: Path) -> list[Path]:
    """The open files of this process that are spools in a folder: none of them has a name."""
    found = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return [fd for fd in found if fd.exists() and os.readlink(fd).startswith(f"{folder}/")]


async def written(app: AquilaSockets, folder: Path) -> Path:
    """The spool, once all is there that was on its way."""
    spool = app.hub.spool
    assert spool is not None
    await eventually(lambda: not spool.unwritten)
    (file,) = spools(folder)
    return file
