"""The clients of the soak: they are cut, and stall, and note what they are given and what is acked to them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from roster import Roster

from aquilia.client import (
    Client,
    ClientFault,
    Connected,
    Disconnected,
    Gap,
    Left,
    Message,
    Presence,
    Resumed,
)
from aquilia.client.link import Link

CODECS = ("json", "msgpack", "cbor")
ANSWER_WITHIN = 60.0
PAUSE = 0.2
"""Seconds between two bookings of one client."""

Place = tuple[str, int]


class Peer:
    """A client whose link can be cut, and who comes back to the next of several servers."""

    def __init__(self, ports: list[int], codec: str, seed: int) -> None:
        self._ports = ports
        self.client = Client(
            f"ws://127.0.0.1:{ports[0]}/soak",
            codec=codec,
            proxy=None,
            keep_trying=True,
            backoff_base=0.1,
            backoff_cap=1.0,
            random=random.Random(seed).random,
        )
        self.rough: set[int] = set()
        """What of its may have been handled twice: somebody was killed meanwhile, or it was refused and said anew."""
        self._open: list[int] = []
        """What it said, and what is neither acked nor refused."""
        self._harsh = False
        self.sessions: list[str] = []
        self._link: Link | None = None
        self.client._dialer._options["create_connection"] = self._made
        self.client.on(Disconnected)(self._turn)
        self.client.on(Connected)(self._greeted)

    def _made(self, *args: Any, **options: Any) -> Link:
        self._link = Link(*args, **options)
        return self._link

    def _greeted(self, notice: Connected) -> None:
        if notice.connection not in self.sessions:
            self.sessions.append(notice.connection)

    def _turn(self, notice: Disconnected) -> None:
        """As a load balancer would have it."""
        self._ports = [*self._ports[1:], self._ports[0]]
        self.client._dialer._options["port"] = self._ports[0]

    @property
    def waits(self) -> bool:
        """Whether a call of its is on its way."""
        return bool(self._open)

    def begin_harsh(self) -> None:
        """Servers or broker are killed."""
        self._harsh = True
        self.rough.update(self._open)

    def end_harsh(self) -> None:
        """They are there again."""
        self._harsh = False

    async def said(self, event: str, payload: Any, numbers: list[int]) -> bool:
        """Say it until there is an answer; whether that is an ack."""
        self._open = numbers
        if self._harsh:
            self.rough.update(numbers)
        try:
            await self.client.call(event, payload, timeout=ANSWER_WITHIN, idempotent=True)
        except ClientFault:
            self.rough.update(numbers)
            return False
        finally:
            self._open = []
        return True

    def cut(self) -> None:
        """Break the connection, as a lost network does."""
        if self._link is not None and hasattr(self._link, "transport"):
            self._link.abort()


@dataclass
class Seen:
    """What one subscriber was given of one room, in order: numbers with their places, and words of gaps."""

    items: list[tuple[Place, int]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    excused: list[tuple[Place | None, Place | None]] = field(default_factory=list)
    gaps_at: list[int] = field(default_factory=list)
    """Behind how many items it was told of them."""

    def take(self, place: Place, number: int) -> None:
        self.items.append((place, number))
        self.numbers.add(number)

    def miss(self, cause: str, until: Place | None) -> None:
        self.told.append(cause)
        self.excused.append((self.items[-1][0] if self.items else None, until))
        self.gaps_at.append(len(self.items))


class Subscriber(Peer):
    """Reads what its rooms say, and now and then does not; books, and has that confirmed by a durable event."""

    def __init__(self, name: str, ports: list[int], codec: str, rooms: list[str], seed: int) -> None:
        super().__init__(ports, codec, seed)
        self.name = name
        self.seen = {room: Seen() for room in rooms}
        self.rosters = {room: Roster() for room in rooms}
        self.resumed = self.moved = 0
        self.put_out: list[str] = []
        self.booked: Counter[int] = Counter()
        self.bookings: list[int] = []
        """Those that were acked."""
        self.moving = asyncio.Event()
        self.moving.set()
        self._process = 0
        self._stream = self.client.stream("said", "booked", "here", Gap, Left, Presence, Resumed)

    async def enter(self) -> None:
        await self.client.connect()
        await self.client.call("enter", list(self.seen), timeout=ANSWER_WITHIN, idempotent=True)

    async def book(self) -> None:
        """Book one thing after the other, until cancelled."""
        number = 0
        while True:
            number += 1
            if await self.said("book", number, [number]):
                self.bookings.append(number)
            await asyncio.sleep(PAUSE)

    async def read(self) -> None:
        async for item in self._stream:
            await self.moving.wait()
            if isinstance(item, Message):
                self._message(item)
            elif isinstance(item, Gap):
                if item.room:  # of what is sent to it directly only some is durable
                    self._gap(item.room, item)
            elif isinstance(item, Presence):
                self.rosters[item.room].take(item)
            elif isinstance(item, Left):
                self.put_out.append(item.room)
            else:
                self.resumed += 1

    def _message(self, said: Message[int]) -> None:
        if said.event == "here":
            self.moved += self._process not in (0, said.payload)
            self._process = said.payload
        elif said.event == "booked":
            self.booked[said.payload] += 1
        else:
            assert said.room is not None
            self.seen[said.room].take((said.epoch or "", said.offset or 0), said.payload)

    def _gap(self, room: str, gap: Gap) -> None:
        self.seen[room].miss(
            gap.cause, None if gap.position is None else (gap.position.epoch, gap.position.offset)
        )


class Publisher(Peer):
    """Says numbers, a batch in each call, until they are acked."""

    def __init__(
        self, ports: list[int], room: str, event: str, numbers: range, batch: int, seed: int
    ) -> None:
        super().__init__(ports, CODECS[seed % 3], seed)
        self.room, self.event = room, event
        self.numbers, self.batch = numbers, batch
        self.acked: list[int] = []
        self.refused = 0

    async def publish(self) -> None:
        async with self.client:
            for first in range(0, len(self.numbers), self.batch):
                said = list(self.numbers[first : first + self.batch])
                while not await self.said(self.event, [self.room, said], said):
                    self.refused += 1
                    await asyncio.sleep(0.1)
                self.acked += said
