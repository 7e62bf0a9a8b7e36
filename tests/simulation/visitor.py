"""One client and its user, who does this and that, by chance, and again what was not acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from aquilia.client import (
    AckTimeout,
    Client,
    ClientFault,
    Connected,
    ConnectionLost,
    Disconnected,
    Gap,
    Joined,
    Left,
    Message,
    Resumed,
    State,
)
from aquilia.clock import Clock
from simulation.application import ROOMS
from simulation.chance import EPOCH
from simulation.loop import VirtualLoop, owned_by
from simulation.oracle import Reader

__all__ = ["Visitor"]

Note = Callable[[str], None]


def _told(news: Any) -> str:
    if not isinstance(news, Message):
        return str(news)
    if news.event != "said":
        return f"sees {news.event} {news.payload}"
    return f"sees {news.payload['text']} in {news.room}, at {news.offset}"


class Visitor:
    """See the head of this module."""

    def __init__(self, name: str, seed: str, reader: Reader, loop: VirtualLoop, note: Note) -> None:
        self.name = name
        self.reader = reader
        self.active = True
        self.slow_until = 0.0
        self.acked: list[tuple[str, str, str]] = []
        """Event, room and text of what was acknowledged."""
        self.said: list[tuple[str, str]] = []
        self.faults: dict[str, int] = {}
        self._chance = random.Random(seed)
        self._loop = loop
        self._note = note
        self._count = 0
        self._state_of: tuple[str, int] = ("", 0)
        self._context = owned_by(self)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Connect, look and speak."""
        make = self._loop.create_task
        self._tasks = [make(self._live(), context=self._context.copy())]

    async def _live(self) -> None:
        self.client = Client(
            "ws://nodes/hall",
            codec=self._chance.choice(("json", "json", "msgpack", "cbor")),
            proxy=None,
            random=self._chance.random,
            clock=Clock(self._loop.time, lambda: EPOCH + self._loop.time()),
            keep_trying=True,
            rejoin_after_takeover=True,
            backoff_base=0.2,
            backoff_cap=3.0,
            call_timeout=30.0,
            buffer=self._chance.choice((4, 16, 64)),
        )
        stream = self.client.stream(
            "said", "poked", "booked", Joined, Left, Gap, Resumed, Connected, Disconnected
        )
        looking = asyncio.create_task(self._look(stream))
        self._tasks.append(looking)
        await self.client.connect()
        speaking = [asyncio.create_task(self._speak()) for _ in range(self._chance.randint(1, 3))]
        self._tasks += speaking
        await asyncio.gather(*speaking)
        await looking

    async def _look(self, stream: Any) -> None:
        reader = self.reader
        async for news in stream:
            while self._loop.time() < self.slow_until:
                await asyncio.sleep(self.slow_until - self._loop.time())
            match news:
                case Message(event="said"):
                    reader.said(news)
                case Message(event="poked"):
                    reader.poked(news.payload)
                case Message(event="booked"):
                    reader.booked(news.payload)
                case Connected():
                    reader.connected(news.connection)
                case Resumed():
                    reader.resumed(news)
                case Joined():
                    reader.joined(news)
                case Left():
                    reader.left(news)
                case Gap():
                    reader.gap(news)
            self._note(f"{self.name} {_told(news)}")

    async def _speak(self) -> None:
        chance = self._chance
        first = [self._enter] * chance.choice((1, 3))
        while self.active:
            await asyncio.sleep(chance.expovariate(4))
            usual = chance.choice((self._enter, self._leave, *[self._say] * 8, self._poke, self._book))
            act = first.pop() if first else usual
            try:
                await act()
            except (ConnectionLost, AckTimeout):
                self._count_fault("lost")
            except ClientFault as fault:
                self._count_fault(fault.code)
                if self.client.state is State.CLOSED:
                    self.reader.problems.append(f"{self.name} was ended for good: {fault}")
                    return

    def _count_fault(self, code: str) -> None:
        self.faults[code] = self.faults.get(code, 0) + 1

    async def _enter(self) -> None:
        room = self._chance.choice(ROOMS)
        await self.client.call("enter", room, idempotent=True)

    async def _leave(self) -> None:
        if self._chance.random() < 0.3:
            await self.client.call("leave", self._chance.choice(ROOMS), idempotent=True)

    async def _say(self) -> None:
        chance = self._chance
        event = chance.choice(("say", "say", "note", "mutter"))
        for _ in range(chance.choice((1, 1, 1, 20 if event == "mutter" else 3))):
            self._count += 1
            text = f"{self.name}.{self._count}"
            room = chance.choice(ROOMS)
            payload = {"room": room, "text": text, "much": "x" * chance.choice((0, 20, 2000))}
            self.said.append((event, text))
            if event == "mutter":
                await self.client.send(event, payload)
            else:
                await self._insist(event, payload)
                self.acked.append((event, room, text))

    async def _insist(self, event: str, payload: dict[str, str]) -> None:
        """Say it until it is acknowledged, or refused for good."""
        await self.client.call(event, payload, idempotent=True, timeout=60)

    async def _poke(self) -> None:
        connection = self.reader.connection
        number = await self.client.call("poke")
        if connection == self.reader.connection:
            before = self._state_of
            if before[0] == connection and number <= before[1]:
                self.reader.problems.append(f"{self.name}: its state went back from {before[1]} to {number}")
            if before[0] != connection or number > before[1]:
                self._state_of = (connection, number)

    async def _book(self) -> None:
        await self.client.call("book")

    # The end

    async def close(self) -> None:
        """Leave, and be gone."""
        await self._loop.create_task(self.client.close(), context=self._context.copy())
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def done(self) -> bool:
        """Whether all that it said has an answer."""
        return all(task.done() for task in self._tasks[2:])
