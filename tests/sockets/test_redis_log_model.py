"""The log of Redis against a plain model of what is promised of one, whatever happens to its keys."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio
from redis_servers import PASSWORD, USER, RedisServer

from aquilia.sockets import History, Publication
from aquilia.sockets.adapters.base import Page
from aquilia.sockets.adapters.redis import RedisAdapter
from aquilia.sockets.adapters.redis.names import place_of
from aquilia.sockets.history import Position

HISTORIES = {
    "one": History(size=1, ttl=60),
    "few": History(size=4, ttl=60),
    "bytes": History(size=50, ttl=60, max_bytes=700),
    "time": History(size=50, ttl=0.12),
    "all": History(size=20, ttl=0.25, max_bytes=1500),
}
SLACK = 0.005
"""Seconds by which Redis' clock and ours may differ in so short a time."""


@dataclass
class Entry:
    id: str
    place: Position
    size: int
    since: float
    until: float
    """Between these it was stored, by our clock."""
    gone: bool = False
    """It was forgotten, or lost: nobody reads it any more."""
    maybe: bool = False
    """A key was deleted, and it may be gone."""


class Machine:
    """One room, of which all that was acknowledged is known here, in order."""

    def __init__(self, adapter: RedisAdapter, client: Any, prefix: str, history: History, seed: int) -> None:
        self.broker = adapter.broker
        self.client = client
        self.history = history
        self.random = random.Random(seed)
        self.place = place_of(prefix, "/a", "r")
        self.entries: list[Entry] = []
        self.heads: list[tuple[Position, int]] = []
        """Each that was told, and how many entries were before it."""
        self.snapshot: tuple[int, dict[bytes, tuple[bytes | None, int]]] | None = None
        self.numbers = 0

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def step(self) -> None:
        acts = {self.publish: 12, self.repeat: 5, self.read_behind: 8, self.read_newest: 4, self.wait: 3}
        acts |= {self.read_anywhere: 3, self.forget: 1, self.lose_a_key: 1, self.keep: 1, self.go_back: 1}
        await self.random.choices(list(acts), list(acts.values()))[0]()

    # What is done

    async def publish(self) -> None:
        self.numbers += 1
        await self.say(f"id {self.numbers}", self.random.choice([1, 1, 1, 100, 600]))

    async def repeat(self) -> None:
        if self.entries:
            place = max(0, len(self.entries) - 1 - int(self.random.expovariate(0.3)))
            await self.say(self.entries[place].id, 1)

    async def say(self, id: str, size: int) -> None:
        told = Publication(id=id, namespace="/a", event="e", payload="x" * size, ts=1, room="r")
        before = [entry for entry in self.entries if entry.id == id]
        since = self.now
        certain = self.certain(since + 1)
        place = await self.broker.publish(told, self.history)
        assert place is not None
        if any(entry.place.offset == place.offset for entry in before):
            assert before[-1].place == place or before[-1].gone or before[-1].maybe  # what was lost came back
            return
        for entry in before[-1:]:
            doubled = len(before) > 1  # the ids were lost: whichever of the two goes takes the id along
            assert doubled or entry not in certain or self.now - entry.since > self.history.ttl - SLACK, (
                f"{id} is stored once more, though the log has it"
            )
        if self.entries:
            assert place > self.entries[-1].place or place.epoch != self.entries[-1].place.epoch
        self.entries.append(Entry(id, place, size, since, self.now))

    async def wait(self) -> None:
        await asyncio.sleep(self.random.random() * min(self.history.ttl, 0.1))

    async def forget(self) -> None:
        certain = self.certain(self.now + SLACK)
        count = await self.broker.forget("/a", "r", self.history)
        possible = [entry for entry in self.entries if not entry.gone]
        still = [entry for entry in certain if self.now - entry.since < self.history.ttl - SLACK]
        assert len(still) <= count <= len(possible)
        for entry in self.entries:
            entry.gone = True

    async def lose_a_key(self) -> None:
        await self.client.delete(self.random.choice([self.place.epoch, *self.place[3:]]))
        for entry in self.entries:
            entry.maybe = True

    async def keep(self) -> None:
        """As a replica has it that is behind."""
        keys = (self.place.epoch, self.place.head, self.place.log, self.place.ids)
        kept = {key: (await self.client.dump(key), await self.client.pttl(key)) for key in keys}
        self.snapshot = len(self.entries), kept

    async def go_back(self) -> None:
        """Such a replica takes over: what came since is lost."""
        if self.snapshot is None:
            return
        count, kept = self.snapshot
        for key, (data, ttl) in kept.items():
            await self.client.delete(key)
            if data is not None:
                await self.client.restore(key, max(ttl, 0), data, replace=True)
        lost = asyncio.Event()
        self.broker.on_lost = lost.set
        await self.client.client_kill_filter(_id=await self.own_client())
        await asyncio.wait_for(lost.wait(), 10)
        for place, entry in enumerate(self.entries):
            entry.gone = place >= count
            entry.maybe = True
        self.snapshot = None

    async def own_client(self) -> str:
        name = f"aquilia-{self.broker._connection.target.prefix}"
        [client] = [each for each in await self.client.client_list() if each["name"] == name]
        return str(client["id"])

    # What is read

    async def read_behind(self) -> None:
        places = [(entry.place, n + 1) for n, entry in enumerate(self.entries)][-8:] + self.heads[-3:]
        if places:
            await self.read(*self.random.choice(places))

    async def read_anywhere(self) -> None:
        if not self.entries:
            return
        near = self.random.choice(self.entries).place
        epoch = self.random.choice([near.epoch, near.epoch, "", "zzzz", "0"])
        offset = self.random.choice([0, 1, near.offset - 1, near.offset + 1, 1 << 53, 1 << 60])
        places = [entry.place for entry in self.entries]
        if epoch != near.epoch or offset > max(place.offset for place in places):
            page = await self.broker.read("/a", "r", self.history, since=Position(epoch, offset))
            assert not page.complete or page.head.offset == offset
            return
        before = sum(1 for place in places if place.epoch == epoch and place.offset <= offset)
        before += min((n for n, place in enumerate(places) if place.epoch == epoch), default=0)
        await self.read(Position(epoch, offset), before, known=False)

    async def read(self, since: Position, before: int, known: bool = True) -> None:
        limit = self.random.choice([1, 2, 100])
        certain = self.certain(self.now + SLACK)
        page = await self.broker.read("/a", "r", self.history, since=since, limit=limit)
        behind = self.entries[before:]
        self.told(page)
        if page.complete:
            got, due = [each.position for each in page.publications], [entry.place for entry in behind]
            assert got == due[: len(got)], "complete, and something is missing"
            ended = got and got[-1].epoch != page.head.epoch  # what is lost of that one is told behind it
            assert len(got) == min(limit, len(due)) or ended, "complete, and the end is missing"
            if got and known:
                assert page.publications[0].previous == since.offset
            return
        assert not page.publications
        lasting = [entry for entry in certain if self.now - entry.since < self.history.ttl - SLACK]
        safe = known and all(entry in lasting for entry in behind)
        assert not safe or any(entry.maybe for entry in self.entries), "all is there, and it is not complete"

    async def read_newest(self) -> None:
        limit = self.random.choice([1, 3, 100])
        since = self.now
        certain = self.certain(since + SLACK)
        page = await self.broker.read("/a", "r", self.history, limit=limit)
        self.told(page)
        got = [each.position.offset for each in page.publications if each.position]
        assert page.complete
        assert got == sorted(set(got))
        possible = {
            entry.place.offset: entry
            for entry in self.entries
            if (not entry.gone or entry.maybe) and since - entry.until < self.history.ttl + SLACK
        }
        assert set(got) <= set(possible)
        between = [entry for offset, entry in possible.items() if got and offset > got[0]]
        assert all(entry.maybe or entry.place.offset in got for entry in between), "one between is missing"
        lasting = [entry for entry in certain if self.now - entry.since < self.history.ttl - SLACK]
        assert len(got) >= min(limit, len(lasting))
        assert len(got) <= self.history.size * 17 // 16 or any(entry.maybe for entry in self.entries)

    def told(self, page: Page) -> None:
        self.heads.append((page.head, len(self.entries)))

    def certain(self, now: float) -> list[Entry]:
        """What no bound lets go of until then, and nobody has taken away."""
        held: list[Entry] = []
        most = self.history.max_bytes
        for entry in reversed(self.entries):
            most -= entry.size + 60  # what stands around a payload
            over = held and most < 0
            if entry.gone or entry.maybe or over or len(held) == self.history.size:
                break
            held.append(entry)
        return held


@pytest.mark.parametrize("name", list(HISTORIES))
async def test_a_log_keeps_its_promises_whatever_is_done_and_lost(
    redis_server: RedisServer, name: str
) -> None:
    client = redis.asyncio.Redis(host="127.0.0.1", port=redis_server.port, username=USER, password=PASSWORD)

    async def run(seed: int) -> None:
        prefix = f"model-{name}-{seed}"
        adapter = RedisAdapter(redis_server.url(prefix))
        await adapter.broker.start(lambda publication: None)
        try:
            machine = Machine(adapter, client, prefix, HISTORIES[name], seed)
            for n in range(120):
                try:
                    await machine.step()
                except AssertionError as error:
                    error.add_note(f"seed {seed}, step {n}")
                    raise
        finally:
            await adapter.broker.stop()

    async with client:
        await asyncio.gather(*(run(seed) for seed in range(8)))
