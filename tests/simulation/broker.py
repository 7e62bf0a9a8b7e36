"""A broker that several nodes share: the in-memory adapter as its server, and a way to it that may be lost.

Each node's way has a delay in either direction, keeps the order, and breaks: what is under way is lost then, requests
and answers alike, so that a node may not know whether what it said was done. As the NATS adapter does, a node asks
again what may be asked twice, for `OUTAGE` seconds, and takes up its subscriptions when it is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any

import msgspec

from aquilia.sockets.adapters.base import Deliver, Page, Publication
from aquilia.sockets.adapters.inmemory import InMemoryBroker, InMemoryStore
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position
from simulation.loop import OWNER, VirtualLoop
from simulation.network import INSTANT

__all__ = ["OUTAGE", "Cluster", "SharedAdapter"]

OUTAGE = 5.0

Key = tuple[str, str | None]


def _now(work: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of a coroutine that never waits: those of the in-memory adapter."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the in-memory adapter waited")


class Cluster:
    """The server: its logs, its store, and the nodes that are connected. It also keeps the books of a run."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, delay: float) -> None:
        self.loop = loop
        self.chance = chance
        self.delay = delay
        self.note: Callable[[str], None] = lambda told: None
        self.up = True
        self.ways: set[_Way] = set()
        self.store = InMemoryStore(loop.time)
        self.stored: dict[Key, list[Publication]] = {}
        """All that any log ever took, in order; it never expires."""
        self.passed: dict[int, int] = {}
        """When the plain publications came, by their serial numbers."""
        self.lost_answers = 0
        self.numbers = 0
        self._answers: dict[str, Any] = {}
        self.context = copy_context()
        self.forget()

    def forget(self) -> None:
        """Lose all logs: what is stored from now on belongs to other lives of the rooms."""
        self.before = {key: len(stored) for key, stored in self.stored.items()}
        """How much of what is in the books is of former lives."""
        self.core = InMemoryBroker(self.loop.time)
        _now(self.core.start(self._deliver))

    def _deliver(self, publication: Publication) -> None:
        key = (publication.namespace, publication.room)
        if publication.position is not None:
            self.stored.setdefault(key, []).append(publication)
        elif publication.event == "said":
            self.passed[publication.payload["serial"]] = len(self.passed)
        if publication.event == "said":
            place = publication.position.offset if publication.position else "no place"
            text, without = publication.payload["text"], publication.exclude
            self.note(
                f"broker: {text} in {publication.room}, at {place}{f', not for {without}' if without else ''}"
            )
        data = msgspec.msgpack.encode(publication)
        for way in sorted(self.ways, key=lambda way: way.number):
            if key in way.subscribed:
                way.down(way.client.arrived, data)

    def repeat(self, way: _Way) -> None:
        """Deliver some again, and leave it at that: the port allows it where a broker was lost and found."""
        for key in sorted(way.subscribed & self.stored.keys(), key=str):
            for told in self.stored[key][self.before.get(key, 0) :][-self.chance.choice((1, 3)) :]:
                if self.chance.random() < 0.5:
                    way.down(way.client.arrived, msgspec.msgpack.encode(told))

    def doubles(self) -> list[str]:
        """What a log took twice that cannot have forgotten the first, in words."""
        found = []
        for (_, room), stored in self.stored.items():
            known = set()
            for told in stored if (room or "").startswith("log:") else ():
                name = (told.id, told.position.epoch if told.position else None)
                if name in known:
                    found.append(f"{told.payload['text']} is twice in {room}")
                known.add(name)
        return found

    def restart(self) -> None:
        """Be gone for nobody in particular: each way breaks."""
        for way in sorted(self.ways, key=lambda way: way.number):
            way.client.cut()

    # What is asked of it, by the name of the verb

    def ask(self, way: _Way, token: str, verb: str, args: tuple[Any, ...]) -> Any:
        """Do something, once for each token."""
        if verb == "subscribe":
            namespace, room, history = args
            way.subscribed.add((namespace, room))
            return _now(self.core.subscribe(namespace, room, history))
        if verb == "unsubscribe":
            way.subscribed.discard(args)
            return None
        if verb == "read":
            namespace, room, history, since, limit = args
            return _now(self.core.read(namespace, room, history, since=since, limit=limit))
        if token in self._answers:
            return self._answers[token]
        if verb == "publish":
            data, history = args
            publication = msgspec.msgpack.decode(data, type=Publication)
            _now(self.core.subscribe(publication.namespace, publication.room, history))
            answer = _now(self.core.publish(publication, history))
            if history is not None:
                return answer  # the log itself knows a repeat
        else:
            answer = _now(getattr(self.store, verb)(*args))
        self._answers[token] = answer
        return answer


class _Way:
    """One connection of a node to the server, until it breaks."""

    def __init__(self, client: SharedBroker, number: int) -> None:
        self.client = client
        self.cluster = client.cluster
        self.number = number
        self.subscribed: set[Key] = set()
        self.broken = False
        self._arrivals = [0.0, 0.0]

    def up(self, callback: Callable[..., None], *args: Any) -> None:
        self._send(0, callback, args)

    def down(self, callback: Callable[..., None], *args: Any) -> None:
        self._send(1, callback, args)

    def _send(self, direction: int, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        cluster = self.cluster
        moment = cluster.loop.time() + cluster.delay * (0.5 + cluster.chance.expovariate(1))
        self._arrivals[direction] = moment = max(moment, self._arrivals[direction] + INSTANT)
        cluster.loop.call_at(moment, self._pass, callback, args, context=cluster.context)

    def _pass(self, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.broken:
            callback(*args)


class SharedBroker:
    """One node's broker."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.on_lost: Callable[[], None] | None = None
        self.lose_next_answer = False
        self._told = True
        """Whether `on_lost` was called since the way was lost."""
        self._held: list[bytes] = []
        self._deliver: Deliver | None = None
        self._way: _Way | None = None
        self._listening: dict[Key, History | None] = {}
        self._open: dict[str, tuple[asyncio.Future[Any], str, tuple[Any, ...], bool]] = {}
        self._context = copy_context()
        self._owner: object = None

    @property
    def connected(self) -> bool:
        return self._way is not None and self._told

    async def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._context = copy_context()
        self._owner = self._context.get(OWNER)
        self._connect()
        if self._way is None:
            raise ws_adapter_unavailable("the broker is not there")

    async def stop(self) -> None:
        self._deliver = None
        self.cut(come_back=False)
        self._listening.clear()

    # The way to the server

    def cut(self, *, come_back: bool = True) -> None:
        """Lose the connection, and all that is under way on it."""
        way, self._way = self._way, None
        if way is not None:
            way.broken = True
            self._told = False
            self._held.clear()
            self.cluster.ways.discard(way)
        if come_back and way is not None:
            self._later(self.cluster.chance.uniform(0.05, 2), self._connect)
        for token, (answer, _, _, again) in list(self._open.items()):
            if not again or not come_back:
                del self._open[token]
                if not answer.done():
                    answer.set_exception(ws_adapter_unavailable("the connection to the broker was lost"))

    def _later(self, delay: float, callback: Callable[[], None]) -> None:
        loop = self.cluster.loop
        loop.call_at(loop.time() + delay, callback, context=self._context.copy())

    def _connect(self) -> None:
        if self._way is not None or self._deliver is None:
            return
        if not self.cluster.up:
            self._later(0.3, self._connect)
            return
        self.cluster.numbers += 1
        self._way = way = _Way(self, self.cluster.numbers)
        self.cluster.ways.add(way)
        for (namespace, room), history in self._listening.items():
            way.up(self.cluster.ask, way, "", "subscribe", (namespace, room, history))
        for token, (_, verb, args, _) in self._open.items():
            way.up(self._serve, way, token, verb, args)
        if self._listening:
            way.up(self.cluster.repeat, way)
            way.up(way.down, self._restored)
        else:
            self._told = True

    def _restored(self) -> None:
        self._told = True
        if self.on_lost is not None:
            self._context.copy().run(self.on_lost)
        held, self._held = self._held, []
        for data in held:
            self.arrived(data)

    def _serve(self, way: _Way, token: str, verb: str, args: tuple[Any, ...]) -> None:
        """On the server: do it, and answer."""
        answer = self.cluster.ask(way, token, verb, args)
        if self.lose_next_answer and verb in ("publish", "compare_and_swap", "put"):
            self.lose_next_answer = False
            self.cluster.lost_answers += 1
            self._context.copy().run(self.cut)
            return
        way.down(self._answered, token, answer)

    def _answered(self, token: str, answer: Any) -> None:
        entry = self._open.pop(token, None)
        if entry is not None and not entry[0].done():
            entry[0].set_result(answer)

    def arrived(self, data: bytes) -> None:
        """A publication came."""
        if not self._told:
            self._held.append(data)
        elif self._deliver is not None and not self.cluster.loop.is_frozen(self._owner):
            self._context.copy().run(self._deliver, msgspec.msgpack.decode(data, type=Publication))

    def _token(self) -> str:
        self.cluster.numbers += 1
        return str(self.cluster.numbers)

    async def call(self, verb: str, *args: Any, again: bool = True) -> Any:
        """Ask the server. Raises WS_ADAPTER_UNAVAILABLE where it did not answer."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the broker is not running")
        if self._way is None and not again:
            raise ws_adapter_unavailable("the broker cannot be reached")
        token = self._token()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[token] = (answer, verb, args, again)
        if self._way is not None:
            self._way.up(self._serve, self._way, token, verb, args)
        try:
            async with asyncio.timeout(OUTAGE):
                return await answer
        except TimeoutError:
            raise ws_adapter_unavailable("the broker does not answer") from None
        finally:
            self._open.pop(token, None)

    # The port

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        key = (namespace, room)
        new = key not in self._listening
        self._listening[key] = history
        try:
            return await self.call("subscribe", namespace, room, history)
        except BaseException:
            if new:
                self._listening.pop(key, None)
            raise

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        self._listening.pop((namespace, room), None)
        if self._way is not None:
            self._way.up(self.cluster.ask, self._way, "", "unsubscribe", (namespace, room))

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        data = msgspec.msgpack.encode(publication)
        if publication.room is None or history is None:
            if self._way is None:
                raise ws_adapter_unavailable("the broker cannot be reached")
            self._way.up(self._serve, self._way, self._token(), "publish", (data, None))
            return None
        return await self.call("publish", data, history)

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        return await self.call("read", namespace, room, history, since, limit)

    async def forget(self, namespace: str, room: str, history: History) -> int:
        raise NotImplementedError("what is forgotten on purpose would have to be in the books of a run")


class _SharedStore:
    """One node's way to the store: the verbs of the port."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    async def get(self, key: str) -> bytes | None:
        return await self._call("get", key)

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        await self._call("put", key, value, ttl)

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        return await self._call("compare_and_swap", key, expected, value, ttl)

    async def get_and_delete(self, key: str) -> bytes | None:
        return await self._call("get_and_delete", key)


class SharedAdapter:
    """One node's adapter."""

    def __init__(self, cluster: Cluster) -> None:
        self.broker = SharedBroker(cluster)
        self.store = _SharedStore(self.broker.call)
