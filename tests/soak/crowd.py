"""Some of the clients of the rolling soak, in a process of their own: `python crowd.py URL` and what `Task` has.

It does what its standard input says, a word a line, and answers each with a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from roster import Roster

from aquilia.client import (
    Client,
    Connected,
    Disconnected,
    Gap,
    GoAway,
    Left,
    Message,
    Presence,
    State,
)

AT_ONCE = 25
PATIENCE = 120.0
SILENCE = 30.0
"""Seconds without anything new after which what has not come is lost."""


@dataclass(frozen=True)
class Task:
    """Whose the clients are: those with numbers `first` and up, of the crowd `number` of `crowds`."""

    url: str
    number: int
    crowds: int
    clients: int
    rooms: int
    rate: float


@dataclass
class Heard:
    """What one client was given of one room, whose speaker says 1, 2, 3 and so on."""

    last: int = 0
    lost: int = 0
    doubled: int = 0
    told: list[str] = field(default_factory=list)
    covered: int = 0
    """Numbers that are missing where it was told of a gap."""
    _gap: bool = False

    def hear(self, number: int) -> None:
        if number <= self.last:
            self.doubled += 1
            return
        missing = number - self.last - 1
        if self._gap:
            self.covered += missing
        else:
            self.lost += missing
        self.last, self._gap = number, False

    def miss(self, cause: str) -> None:
        self.told.append(cause)
        self._gap = True


@dataclass
class Travels:
    """How one client was moved about."""

    connects: list[float] = field(default_factory=list)
    """When it was welcomed, on the clock that the processes of a machine share."""
    away: list[float] = field(default_factory=list)
    """Seconds from the moment when it was asked to leave until it was welcomed again."""
    told: list[tuple[int, float]] = field(default_factory=list)
    """By which process, and for when, it was asked to come back."""
    failed: list[str] = field(default_factory=list)
    """Attempts that came to nothing."""
    cut: list[str] = field(default_factory=list)
    """Connections that ended without `goaway`."""
    sessions: list[str] = field(default_factory=list)
    put_out: list[str] = field(default_factory=list)
    """Rooms that it did not leave by itself."""


class Member:
    """One client in two rooms, one that remembers and one that does not."""

    def __init__(self, url: str, room: int) -> None:
        self.room = room
        self.heard = {f"log {room}": Heard(), f"plain {room}": Heard()}
        self.travels = Travels()
        self.roster = Roster()
        self.client = Client(url, keep_trying=True, proxy=None, open_timeout=PATIENCE, call_timeout=PATIENCE)
        self._process = 0
        self._linked = self._asked = False
        self._asked_at = 0.0
        for what, handler in (
            ("said", self._hear),
            ("here", self._arrive),
            (Connected, self._connected),
            (Disconnected, self._disconnected),
            (Gap, self._miss),
            (GoAway, self._told),
            (Left, self._left),
            (Presence, self.roster.take),
        ):
            self.client.on(what)(handler)  # type: ignore[call-overload]

    async def enter(self) -> None:
        await self.client.connect()
        await self.client.call("enter", str(self.room))

    def _hear(self, message: Message[int]) -> None:
        assert message.room is not None
        self.heard[message.room].hear(message.payload)

    def _arrive(self, message: Message[int]) -> None:
        self._process = message.payload

    def _connected(self, notice: Connected) -> None:
        if self._asked:
            self.travels.away.append(time.monotonic() - self._asked_at)
        self._linked, self._asked, self._process = True, False, 0
        self.travels.connects.append(time.monotonic())
        if notice.connection not in self.travels.sessions:
            self.travels.sessions.append(notice.connection)

    def _disconnected(self, notice: Disconnected) -> None:
        if not self._linked:
            self.travels.failed.append(notice.reason)
        elif not self._asked:
            self.travels.cut.append(f"{notice.code} {notice.reason}")
        self._linked = False

    def _told(self, notice: GoAway) -> None:
        if not self._asked:
            self.travels.told.append((self._process, notice.reconnect_in))
            self._asked_at = time.monotonic()
        self._asked = True

    def _miss(self, notice: Gap) -> None:
        if notice.room:  # what is sent to it directly says only where it is
            self.heard[notice.room].miss(notice.cause)

    def _left(self, notice: Left) -> None:
        self.travels.put_out.append(notice.room)

    @property
    def there(self) -> bool:
        return self.client.state is State.CONNECTED and not self._asked


class Crowd:
    """All clients of this process."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.members = [Member(task.url, number % task.rooms) for number in range(task.clients)]
        own = range(task.number, task.rooms, task.crowds)
        self.speakers = [self.members[room] for room in own]
        self.said = {name: 0 for speaker in self.speakers for name in speaker.heard}
        self._stop = asyncio.Event()
        self._speaking: list[asyncio.Task[None]] = []

    async def enter(self) -> Any:
        for first in range(0, len(self.members), AT_ONCE):
            await asyncio.gather(*(member.enter() for member in self.members[first : first + AT_ONCE]))
        return len(self.members)

    async def speak(self) -> Any:
        """Have one say numbers in each room, one after the other, until `stop`."""
        self._speaking = [asyncio.create_task(self._speak(speaker)) for speaker in self.speakers]
        return self.said

    async def _speak(self, speaker: Member) -> None:
        while not self._stop.is_set():
            await self._say(speaker)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self.task.rooms / self.task.rate)

    async def _say(self, speaker: Member) -> None:
        for room in speaker.heard:
            await speaker.client.call("say", [room, self.said[room] + 1], idempotent=True)
            self.said[room] += 1

    async def stop(self) -> Any:
        """Say nothing more, once all are there; the last word is still to come."""
        self._stop.set()
        await asyncio.gather(*self._speaking)
        await self._until(lambda: sum(not member.there for member in self.members))
        return sum(not member.there for member in self.members)

    async def last(self) -> Any:
        """The last word in each room; what that is."""
        await asyncio.gather(*(self._say(speaker) for speaker in self.speakers))
        return self.said

    async def settle(self, said: dict[str, int]) -> Any:
        """Wait until all have heard it; what befell the clients, and who is where."""
        await self._until(
            lambda: sum(
                heard.last < said[room] for member in self.members for room, heard in member.heard.items()
            )
        )
        where = await asyncio.gather(*(member.client.call("where") for member in self.members))
        ids = [member.travels.sessions[-1] for member in self.members]
        who = {
            f"log {each.room}": await each.client.call("who", f"log {each.room}") for each in self.speakers
        }
        return {
            "processes": sorted(set(where)),
            "who": who,
            "members": [[f"log {member.room}", id] for member, id in zip(self.members, ids, strict=True)],
            "heard": [
                [room, asdict(heard)] for member in self.members for room, heard in member.heard.items()
            ],
            "travels": [asdict(member.travels) for member in self.members],
        }

    async def rosters(self, who: dict[str, list[str]]) -> Any:
        """Wait until each client was told of all who are there, and of nobody else.

        How many were not, and how often one was told that another had gone.
        """
        wanted = {room: set(ids) for room, ids in who.items()}

        def wrong() -> int:
            return sum(member.roster.ids != wanted[f"log {member.room}"] for member in self.members)

        await self._until(wrong)
        return {"wrong": wrong(), "leaves": sum(member.roster.leaves for member in self.members)}

    async def end(self) -> Any:
        await asyncio.gather(*(member.client.close() for member in self.members))
        return None

    async def _until(self, left: Callable[[], int]) -> None:
        """Wait until nothing is left, or nothing changes any more."""
        before, since = -1, time.monotonic()
        while (count := left()) and time.monotonic() - since < SILENCE:
            if count != before:
                before, since = count, time.monotonic()
            await asyncio.sleep(0.05)


async def main(task: Task) -> None:
    """Do what is asked for, until nobody asks any more."""
    crowd = Crowd(task)
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        word, *given = json.loads(line)
        do: Callable[..., Awaitable[Any]] = getattr(crowd, word)
        print(json.dumps(await do(*given)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Task(sys.argv[1], *map(int, sys.argv[2:6]), float(sys.argv[6]))))
