"""Nodes at the level of the adapter, for the tests of its faults: they publish, and follow logs as hubs do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

from aquilia.sockets import Publication, RedisAdapter, SocketFault
from aquilia.sockets.history import Follower, Gap, History, Position

NAMESPACE = "/n"
KEPT = History(size=1_000_000, ttl=300, max_bytes=1 << 30)


class Node:
    """One that follows the logs of `rooms`, and listens to one plain room besides."""

    def __init__(self, url: str, rooms: list[str]) -> None:
        self.adapter = RedisAdapter(url)
        self.broker = self.adapter.broker
        self.broker.on_lost = self._lost
        self.losses = 0
        """How often members of plain rooms would have been told of one."""
        self.plain: list[object] = []
        """What came to the plain room, with None in the place of each loss."""
        self.got: dict[str, list[object]] = {room: [] for room in rooms}
        self.gaps: list[tuple[str, Gap]] = []
        self.behind: dict[str, int] = dict.fromkeys(rooms, 0)
        """How much had come before the last gap."""
        self._followers: dict[str, Follower[Publication]] = {}
        self._catching_up: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        await self.broker.start(self._deliver)
        await self.broker.subscribe(NAMESPACE, "plain")
        for room in self.got:
            follower = self._followers[room] = Follower(Position("", 0))
            head = await self.broker.subscribe(NAMESPACE, room, KEPT)
            assert head is not None
            follower.position = head

    async def stop(self) -> None:
        await self.broker.stop()
        for task in self._catching_up.values():
            task.cancel()

    def _deliver(self, told: Publication) -> None:
        if told.room == "plain":
            self.plain.append(told.payload)
        elif told.room in self._followers:
            follower = self._followers[told.room]
            if follower.offer(told):
                self.got[told.room].append(told.payload)
            elif follower.wants is not None:
                self._catch_up(told.room)

    def _lost(self) -> None:
        self.losses += 1
        self.plain.append(None)
        for room, follower in self._followers.items():
            follower.lost_touch()
            self._catch_up(room)

    def _catch_up(self, room: str) -> None:
        if room not in self._catching_up:
            task = self._catching_up[room] = asyncio.get_running_loop().create_task(self._read(room))
            task.add_done_callback(lambda _: self._catching_up.pop(room))

    async def _read(self, room: str) -> None:
        follower = self._followers[room]
        while follower.wants is not None:
            try:
                page = await self.broker.read(NAMESPACE, room, KEPT, since=follower.wants, limit=200)
            except SocketFault:
                await asyncio.sleep(0.05)
                continue
            items, gap = follower.fill(page.publications, page.head, complete=page.complete)
            if gap is not None:
                self.gaps.append((room, gap))
                self.behind[room] = len(self.got[room])
            self.got[room] += [item.payload for item in items]

    async def say(self, room: str, what: object, *, id: str | None = None) -> Position | None:
        """Publish, once."""
        told = Publication(
            id=id or f"{what}", namespace=NAMESPACE, event="said", payload=what, ts=1, room=room
        )
        return await self.broker.publish(told, None if room == "plain" else KEPT)


class Load:
    """Publishers on all nodes, into all rooms, which say a thing again under its id until it is acknowledged."""

    def __init__(self, nodes: list[Node], *, publishers: int = 2) -> None:
        self.nodes = nodes
        self.acked: dict[str, list[str]] = {room: [] for room in nodes[0].got}
        self._stopping = False
        self._tasks = [
            asyncio.get_running_loop().create_task(self._publish(node, room, f"{n}.{room}.{publisher}"))
            for n, node in enumerate(nodes)
            for room in node.got
            for publisher in range(publishers)
        ]

    async def _publish(self, node: Node, room: str, name: str) -> None:
        for number in count():
            if self._stopping:
                return
            what = f"{name}.{number}"
            while True:
                try:
                    await node.say(room, what)
                except SocketFault:
                    await asyncio.sleep(0.05)
                else:
                    self.acked[room].append(what)
                    break
            await asyncio.sleep(0.005)

    async def more(self, publications: int) -> None:
        """Wait until so many more were acknowledged in each room."""
        wanted = {room: len(acked) + publications for room, acked in self.acked.items()}
        async with asyncio.timeout(40):
            while any(len(self.acked[room]) < least for room, least in wanted.items()):
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Let each publisher end what it says, and all nodes get it."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        async with asyncio.timeout(20):
            while any(
                not set(self.acked[room]) <= set(node.got[room]) for node in self.nodes for room in self.acked
            ):
                await asyncio.sleep(0.05)

    def excuse(self) -> None:
        """What was acknowledged up to now may be lost."""
        for acked in self.acked.values():
            acked.clear()

    def problems(self) -> Iterator[str]:
        """What was lost, doubled, or is in another order on another node; each gap is a beginning."""
        for room, acked in self.acked.items():
            logs = [node.got[room][node.behind[room] :] for node in self.nodes]
            for n, (node, log) in enumerate(zip(self.nodes, logs, strict=True)):
                if missing := set(acked) - set(node.got[room]):
                    yield f"node {n} lacks {len(missing)} of {room}"
                if doubled := len(log) - len(set(log)):
                    yield f"node {n} has {doubled} of {room} twice"
                if log != logs[0]:
                    yield f"node {n} has another order in {room} than node 0"


@contextlib.asynccontextmanager
async def nodes(url: str, *rooms: str, count: int = 2) -> AsyncIterator[list[Node]]:
    """So many, started."""
    found = [Node(url, list(rooms)) for _ in range(count)]
    try:
        for node in found:
            await node.start()
        yield found
    finally:
        for node in found:
            await node.stop()


async def reached(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
