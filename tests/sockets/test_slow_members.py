"""A member that stops reading: it meets the policy of its outbox, and nobody else notices.

Real servers and sockets. What was published is what it got and what it was told of, in order, and the recorder
counts the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rawsocket import CLOSE, TEXT, RawSocket, frame, handshake
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController, Subscribe
from aquilia.sockets.metrics.recorder import Counters

KIB = 1024
NOTE = "x" * 20_000
COUNT = 300
"""Six megabytes of notes, of which a wire takes less than one."""

BOUNDS = {"count": {"buffer_size": 10}, "bytes": {"buffer_bytes": 150_000}}
PROFILES = {"plain": {}, "v1.json": {"Sec_WebSocket_Protocol": "aquilia.v1.json"}}
LOST = ("dropped", "/hall", "slow_consumer")

wires = pytest.mark.parametrize("transport", TRANSPORTS)
bounds = pytest.mark.parametrize("bound", BOUNDS)
profiles = pytest.mark.parametrize("profile", PROFILES)


class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Event("say")
    async def say(self, conn: Connection, payload: int) -> None:
        await self.publish_room("hall", "note", [payload, NOTE])

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


class Members:
    """A hall with one member that does not read, and two that do."""

    def __init__(self, app: AquilaSockets, frozen: RawSocket, ada: Client, bob: Client) -> None:
        self.app = app
        self.frozen = frozen
        self.ada = ada
        self.bob = bob

    @property
    def lost(self) -> int:
        """What the recorder counts as lost."""
        recorder = self.app.recorder
        assert isinstance(recorder, Counters)
        return recorder.counts[LOST]

    async def publish(self, number: int) -> None:
        """Publish a note; the publisher and the other member get it, and nothing else."""
        await self.ada.send("say", number)
        for client in (self.ada, self.bob):
            assert (await client.expect("note"))["payload"][0] == number

    async def publish_all(self) -> None:
        for number in range(COUNT):
            await self.publish(number)

    async def read_on(self) -> tuple[list[int], int]:
        """What the frozen one finds when it reads again: the notes, each at its place, and how many it is told of."""
        self.frozen.send(said("echo", id="last", ack=True))
        notes: list[int] = []
        told = place = 0
        while (message := json.loads((await self.frozen.read()).payload)).get("id") != "last":
            if message["event"] == "note":
                assert message["payload"][0] == place
                notes.append(place)
                place += 1
            elif (dropped := told_of(message)) is not None:
                told += dropped
                place += dropped
        assert place == COUNT
        return notes, told


def told_of(message: dict[str, Any]) -> int | None:
    """How many messages this one says were lost, in the words of either profile."""
    if message["type"] == "system" and message["event"] == "gap":
        assert message["payload"]["cause"] == "slow_consumer"
        return int(message["payload"]["dropped"])
    if message["event"] == "error":
        assert message["payload"]["code"] == "WS_MESSAGES_DROPPED"
        return int(re.match(r"\d+", message["payload"]["message"])[0])  # type: ignore[index]
    return None


def said(event: str, payload: Any = None, **fields: Any) -> bytes:
    return frame(TEXT, json.dumps({"event": event, "payload": payload, **fields}).encode())


@contextlib.asynccontextmanager
async def members(transport: str, profile: str, **backpressure: Any) -> AsyncIterator[Members]:
    app = AquilaSockets.from_controllers([Socket("/hall", backpressure=backpressure)(type("H", (Hall,), {}))])
    async with (
        serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB) as base,
        frozen_at(base, profile) as frozen,
        Client.connect(f"{base}/hall") as ada,
        Client.connect(f"{base}/hall", "v1.cbor") as bob,
    ):
        await eventually(lambda: "hall" in app.hub.homes["/hall"].rooms)
        for client in (ada, bob):
            await client.request("enter")
        yield Members(app, frozen, ada, bob)


@contextlib.asynccontextmanager
async def frozen_at(base: str, profile: str) -> AsyncIterator[RawSocket]:
    """Who enters the hall and does not read, with little room in the wire."""
    host, _, port = base.removeprefix("ws://").partition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=64 * KIB)
        writer.write(handshake("/hall", **PROFILES[profile]))
        await reader.readuntil(b"\r\n\r\n")
        raw = RawSocket(reader, writer)
        if profile != "plain":
            raw.send(frame(TEXT, b'{"type":"control","event":"hello"}'))
        raw.send(said("enter"))
        try:
            yield raw
        finally:
            writer.transport.abort()


@wires
@profiles
@bounds
@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest"])
async def test_what_it_loses_is_told_counted_and_no_more_than_that(
    transport: str, profile: str, bound: str, strategy: str
) -> None:
    async with members(transport, profile, strategy=strategy, **BOUNDS[bound]) as hall:
        await hall.publish_all()
        counted = hall.lost
        notes, told = await hall.read_on()

        assert told == counted == hall.lost == COUNT - len(notes)
        assert told > COUNT // 2
        if strategy == "drop_oldest":
            assert notes[-7:] == [*range(COUNT - 7, COUNT)]  # what fits under either bound
        else:
            assert COUNT - 1 not in notes


@wires
@bounds
@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest"])
async def test_what_it_lost_is_counted_even_if_it_never_reads_again(
    transport: str, bound: str, strategy: str
) -> None:
    async with members(transport, "plain", strategy=strategy, **BOUNDS[bound]) as hall:
        await hall.publish_all()
        assert hall.lost > COUNT // 2
        hall.frozen.writer.transport.abort()
        await eventually(lambda: hall.app.live()["connections"] == 2)
        assert hall.lost < COUNT


@wires
@profiles
async def test_it_may_stop_reading_again_and_again(transport: str, profile: str) -> None:
    async with members(transport, profile, strategy="drop_oldest", buffer_size=10) as hall:
        total = 0
        for _ in range(3):
            await hall.publish_all()
            total += (await hall.read_on())[1]
            assert hall.lost == total


@wires
@bounds
@pytest.mark.parametrize("strategy", ["buffer", "disconnect"])
async def test_it_is_shown_out_and_what_waited_for_it_is_counted(
    transport: str, bound: str, strategy: str
) -> None:
    async with members(transport, "v1.json", strategy=strategy, **BOUNDS[bound]) as hall:
        published = 0
        while not hall.lost:
            await hall.publish(published)
            published += 1

        notes: list[int] = []
        while (found := await hall.frozen.read()).opcode != CLOSE:
            message = json.loads(found.payload)
            if message["event"] == "note":
                notes.append(message["payload"][0])
        assert found.close_code == 4531
        assert notes == [*range(published - hall.lost)]
        assert hall.lost >= 7
        await hall.publish_all()


@wires
async def test_answers_are_never_dropped(transport: str) -> None:
    async with members(transport, "plain", strategy="drop_newest", buffer_size=1) as hall:
        await hall.publish_all()
        hall.frozen.send(*[said("echo", number, id=str(number), ack=True) for number in range(100)])
        hall.frozen.send(said("echo", id="last", ack=True))
        answers = []
        while (message := json.loads((await hall.frozen.read()).payload)).get("id") != "last":
            if message["type"] == "ack":
                answers.append(message["payload"]["data"])
        assert answers == [*range(100)]
