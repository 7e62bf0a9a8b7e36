"""A hub with an open namespace, connections and a broker, but no network: for tests of what is between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from starlette.requests import HTTPConnection

from aquilia.sockets import Broker, Handshake, InMemoryAdapter, Namespace, Publication
from aquilia.sockets.adapters.base import Deliver, Page
from aquilia.sockets.adapters.inmemory import InMemoryBroker
from aquilia.sockets.codecs import codec
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import PLAIN_JSON, Profile
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position
from aquilia.sockets.hub import Hub
from aquilia.sockets.metrics.recorder import Counters
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.outbox.queue import Backpressure, Outbox
from aquilia.sockets.settings import OUTBOX_BYTES, SocketSettings


class Shaky:
    """A broker that works, but for the verbs in `broken`; each verb takes `turns` turns of the loop."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.turns = 0
        self.running: list[tuple[str, str | None]] = []
        self.on_lost: Callable[[], None] | None = None
        self.connected = True
        self._sound = InMemoryBroker()

    async def start(self, deliver: Deliver) -> None:
        await self._verb("start")
        await self._sound.start(deliver)

    async def stop(self) -> None:
        await self._sound.stop()
        await self._verb("stop")

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        async with self._alone(namespace, room):
            await self._verb("subscribe")
            return await self._sound.subscribe(namespace, room, history)

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        async with self._alone(namespace, room):
            await self._verb("unsubscribe")
            await self._sound.unsubscribe(namespace, room)

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        return await self._sound.publish(publication, history)

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        return await self._sound.read(namespace, room, history, since=since, limit=limit)

    async def forget(self, namespace: str, room: str, history: History) -> int:
        return await self._sound.forget(namespace, room, history)

    async def _verb(self, verb: str) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if verb in self.broken:
            raise ws_adapter_unavailable(f"{verb}: the broker is down")

    @contextlib.asynccontextmanager
    async def _alone(self, namespace: str, room: str | None) -> AsyncIterator[None]:
        subject = (namespace, room)
        assert subject not in self.running, f"concurrent calls for {subject}"
        self.running.append(subject)
        try:
            yield
        finally:
            self.running.remove(subject)


class Wire:
    """A transport without a network: what was written is in `frames`."""

    kind = "test"
    framed = 0
    held = 0

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ended: tuple[int, str] | None = None
        self.open = True
        self.broken = False
        self.cut = False

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        Wire.framed += 1
        return message

    def write(self, frames: Sequence[bytes]) -> bool:
        if self.broken:
            raise OSError("the wire is broken")
        self.frames += frames
        return self.open

    @property
    def line(self) -> Callable[[bytes], object] | None:
        return self._write_one if self.open else None

    def _write_one(self, frame: bytes) -> None:
        self.write([frame])

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        if self.broken:
            raise OSError("the wire is broken")
        self.ended = (code, reason)

    def abort(self) -> None:
        self.cut = True

    def trim(self) -> None: ...

    def fail(self, code: int, reason: str) -> None:
        self.close(code, reason)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(frame) for frame in self.frames]


class House:
    """A hub with one open namespace."""

    def __init__(
        self, broker: Broker | None = None, *, outbox_bytes: int = OUTBOX_BYTES, **settings: Any
    ) -> None:
        self.now = 0.0
        self.step = 0.0
        """Seconds that pass with each look at the hub's stopwatch: with the work between two looks."""
        broker = broker or InMemoryAdapter().broker
        self.hub = Hub(broker, stopwatch=self._look, outbox_bytes=outbox_bytes)
        self.recorder = Counters()
        self.home = Home(Namespace("/n"), "/n", SocketSettings(**settings), self.recorder)
        self.home.controller = object()
        self.made = 0

    def _look(self) -> float:
        self.now += self.step
        return self.now

    def connect(
        self, profile: Profile = PLAIN_JSON, identity: str | None = None, **limits: Any
    ) -> Connection:
        self.made += 1
        handshake = Handshake(HTTPConnection({"type": "websocket", "headers": []}), "/n")
        handshake.identity = SimpleNamespace(id=identity) if identity else None
        conn = Connection(
            id=f"c{self.made}",
            handshake=handshake,
            profile=profile,
            codec=codec(profile.codec),
            transport=Wire(),
            outbox=Outbox(Backpressure(**limits)),
            hub=self.hub,
            home=self.home,
        )
        self.hub.add(conn)
        return conn

    async def members(self, count: int, **options: Any) -> list[Connection]:
        found = [self.connect(**options) for _ in range(count)]
        for conn in found:
            await conn.join("r")
        return found

    async def publish(self, payload: Any, **options: Any) -> None:
        room = options.pop("room", "r")
        history = None if room is None else self.home.settings.history.of(room)
        await self.hub.publish("/n", "e", payload, room=room, history=history, **options)


def heard(conn: Connection) -> list[Any]:
    wire: Any = conn._transport
    return [frame.get("payload") for frame in wire.events if frame["type"] == "event"]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
