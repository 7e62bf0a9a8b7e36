"""One run: a world is made by a seed, things go wrong in it, then no more, and then all must be well."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulation import chance
from simulation.application import Books
from simulation.broker import Cluster
from simulation.loop import VirtualLoop
from simulation.network import Conditions, Network
from simulation.node import Node
from simulation.oracle import Reader
from simulation.visitor import Visitor

__all__ = ["FAULTS", "Outcome", "run"]

SETTLE = 60.0
"""Seconds in which all must be well again after the last fault."""

UNKEPT = "an answer cannot be kept"
"""What a node says rightly where its store cannot be reached behind an effect."""


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    problems: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    gaps: int = 0

    @property
    def digest(self) -> str:
        """Names what happened: two runs of one seed have the same."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


class _Complaints(logging.Handler):
    """What is logged as an error."""

    def __init__(self, note: Callable[[str], None], problems: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.listening = True
        self._note = note
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        if not self.listening:
            return
        told = f"{record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            told += f": {record.exc_info[1]!r}"
        self._note(told)
        if record.levelno >= logging.ERROR and not told.startswith(f"ERROR aquilia.sockets: {UNKEPT}"):
            self._problems.append(f"logged: {told}")


class World:
    """Everything there is in one run."""

    def __init__(self, number: int, loop: VirtualLoop) -> None:
        self.outcome = Outcome(number)
        self.loop = loop
        self.chance = random.Random(number)
        self.books = Books(random.Random(f"books {number}"))
        pick = self.chance
        self.cluster = Cluster(loop, random.Random(f"broker {number}"), pick.choice((0.0005, 0.005, 0.05)))
        self.cluster.note = self.note
        conditions = Conditions(
            pick.choice((0.001, 0.02, 0.1)),
            pick.choice((0.0, 0.005, 0.05)),
            pick.choice((1_000, 5_000, 100_000)),
            pick.choice((500, 4_000, 65_536)),
        )
        self.network = Network(loop, random.Random(f"network {number}"), conditions)
        self.nodes: list[Node | None] = [None] * pick.choice((1, 2, 2, 3))
        self.visitors: list[Visitor] = []
        self.healing = False
        self.started = 0

    def note(self, told: str) -> None:
        """Write down what happens."""
        self.outcome.trace.append(f"{self.loop.time() - 1000:9.4f} {told}")

    # Nodes

    async def begin(self, place: int) -> None:
        """A node, where there is none."""
        self.started += 1
        node = Node(f"node{place}.{self.started}", self.cluster, self.network, self.loop, self.books)
        self.nodes[place] = node
        await node.start()
        self.note(f"{node.name} is up")

    def up(self) -> list[tuple[int, Node]]:
        """The nodes that serve."""
        return [(place, node) for place, node in enumerate(self.nodes) if node is not None and node.up]

    async def replace(self, place: int, how: str) -> None:
        """End a node, and begin another in its place, after a while."""
        node = self.nodes[place]
        assert node is not None
        if how == "deploy":
            await node.stop()
        else:
            node.kill(silently=how == "vanish")
            await asyncio.sleep(self.chance.uniform(0.1, 4))
        await self.begin(place)

    # The run

    async def live(self) -> None:
        """From the beginning to the end."""
        for place in range(len(self.nodes)):
            await self.begin(place)
        for number in range(self.chance.randint(2, 5)):
            name = f"client{number}"
            reader = Reader(name, self.cluster, self.books)
            visitor = Visitor(name, f"{self.outcome.seed} {number}", reader, self.loop, self.note)
            self.visitors.append(visitor)
            visitor.start()
        await self._suffer()
        self.note("no more faults")
        await self._settle()
        self._judge()
        await self._end()

    async def _suffer(self) -> None:
        wanted = {name: None for name in FAULTS if self.chance.random() < 0.4}
        wanted[list(FAULTS)[self.outcome.seed % len(FAULTS)]] = (
            None  # so that each has its seeds in any block
        )
        rate = self.chance.choice((0.5, 1.0, 2.0))
        end = self.loop.time() + self.chance.choice((5, 9, 14))
        self.running: list[asyncio.Task[None]] = []
        while self.loop.time() < end:
            await asyncio.sleep(self.chance.expovariate(rate))
            name = self.chance.choice(list(wanted))
            if FAULTS[name](self):
                self.outcome.faults[name] += 1
        for visitor in self.visitors:
            visitor.active = False
            visitor.slow_until = 0.0
        self.healing = True
        for link in self.network.links.values():
            if link.dead and link.listener in self.network.listeners:
                link.revive()
        self.network.down = False
        self.cluster.up = True
        if self.running:
            await asyncio.wait(self.running)

    async def _settle(self) -> None:
        end = self.loop.time() + SETTLE
        while self.loop.time() < end:
            await asyncio.sleep(0.5)
            if not (missing := self._missing()):
                self.note("all is well")
                return
        self.outcome.problems += [f"after {SETTLE:g} s: {each}" for each in missing]

    def _missing(self) -> list[str]:
        missing = []
        for visitor in self.visitors:
            if not visitor.done():
                missing.append(f"{visitor.name} still waits for an answer, {visitor.client.state}")
            missing += visitor.reader.behind()
        here = sum(node.sockets.live()["connections"] for _, node in self.up())
        if here != len(self.visitors):
            missing.append(f"{here} connections are counted, of {len(self.visitors)} clients")
        return missing

    def _judge(self) -> None:
        outcome = self.outcome
        for visitor in self.visitors:
            outcome.problems += visitor.reader.problems
            outcome.seen += visitor.reader.seen
            outcome.gaps += visitor.reader.gaps
        outcome.problems += self.cluster.doubles()
        stored: Counter[str] = Counter()
        for publications in self.cluster.stored.values():
            stored.update(told.payload["text"] for told in publications if told.event == "said")
        certain = not self.uncertain()
        for visitor in self.visitors:
            for event, room, text in visitor.acked:
                if not self.books.done[text]:
                    outcome.problems.append(
                        f"{event} {text} was acked, and its handler never came to its end"
                    )
                if not room.startswith("plain") and not stored[text]:
                    outcome.problems.append(f"{event} {text} was acked, and is in no log")
            for event, text in visitor.said:
                if event == "mutter" and self.books.begun[text] > 1:
                    outcome.problems.append(f"mutter {text} was handled {self.books.begun[text]} times")
                if event == "say" and certain and self.books.begun[text] > 1:
                    outcome.problems.append(f"say {text} took effect {self.books.begun[text]} times")
        if len(set(outcome.problems)) < len(outcome.problems):
            outcome.problems[:] = dict.fromkeys(outcome.problems)

    async def _end(self) -> None:
        for visitor in self.visitors:
            await visitor.close()
        for _, node in self.up():
            await node.stop()
        self.note(f"the end: {self.outcome.seen} messages seen, {sum(self.books.begun.values())} handled")

    def uncertain(self) -> bool:
        """Whether something happened that may make a handler run again although it takes effect once."""
        return bool(self.cluster.lost_answers) or any(self.outcome.faults[name] for name in UNCERTAIN)

    def go(self, work: Any) -> None:
        """Do something beside."""
        self.running.append(asyncio.create_task(work))


# What goes wrong: each returns whether there was something to go wrong


def _some_link(world: World) -> Any:
    links = [link for link in world.network.links.values() if not link.dead]
    return world.chance.choice(links) if links else None


def cut(world: World) -> bool:
    """A connection is reset."""
    link = _some_link(world)
    if link is not None:
        world.note(f"link {link.number} is cut")
        link.cut()
    return link is not None


def half_open(world: World) -> bool:
    """A connection dies, and neither side is told."""
    link = _some_link(world)
    if link is not None:
        world.note(f"link {link.number} dies")
        link.die()
    return link is not None


def stall(world: World) -> bool:
    """Nothing passes on a connection for a while."""
    link = _some_link(world)
    if link is None:
        return False
    world.note(f"link {link.number} stalls")
    link.die()
    world.loop.call_later(world.chance.uniform(0.3, 9), link.revive)
    return True


def slow_reader(world: World) -> bool:
    """A client does not look at what it has got for a while."""
    visitor = world.chance.choice(world.visitors)
    visitor.slow_until = world.loop.time() + world.chance.uniform(1, 8)
    world.note(f"{visitor.name} reads nothing")
    return True


def partition(world: World) -> bool:
    """No client gets through to any node."""
    if world.network.down:
        return False
    world.note("the clients are cut off")
    dead = [link for link in world.network.links.values() if not link.dead]
    for link in dead:
        link.die()
    world.network.down = True

    def heal() -> None:
        world.network.down = False
        for link in dead:
            link.revive()

    world.loop.call_later(world.chance.uniform(0.5, 10), heal)
    return True


def broker_cut(world: World) -> bool:
    """A node loses its way to the broker."""
    nodes = [node for _, node in world.up()]
    if nodes:
        node = world.chance.choice(nodes)
        world.note(f"{node.name} loses the broker")
        node.adapter.broker.cut()
    return bool(nodes)


def answer_lost(world: World) -> bool:
    """The broker does what a node asks for, and the node does not hear of it."""
    nodes = [node for _, node in world.up()]
    if nodes:
        world.chance.choice(nodes).adapter.broker.lose_next_answer = True
    return False  # counted when it happens


def broker_restart(world: World) -> bool:
    """The broker is away, and comes back with all that it had."""
    if not world.cluster.up:
        return False
    world.note("the broker is away")
    world.cluster.up = False
    world.cluster.restart()

    def back() -> None:
        world.cluster.up = True

    world.loop.call_later(world.chance.uniform(0.1, 7), back)
    return True


def amnesia(world: World) -> bool:
    """The broker restarts without its logs."""
    if world.chance.random() < 0.6:
        return False
    world.note("the broker has lost its logs")
    world.cluster.restart()
    world.cluster.forget()
    return True


def _replace(how: str) -> Callable[[World], bool]:
    def happen(world: World) -> bool:
        nodes = world.up()
        if nodes:
            place, node = world.chance.choice(nodes)
            world.note(f"{how} of {node.name}")
            world.go(world.replace(place, how))
        return bool(nodes)

    return happen


FAULTS: dict[str, Callable[[World], bool]] = {
    "cut": cut,
    "half_open": half_open,
    "stall": stall,
    "slow_reader": slow_reader,
    "partition": partition,
    "broker_cut": broker_cut,
    "answer_lost": answer_lost,
    "broker_restart": broker_restart,
    "amnesia": amnesia,
    "crash": _replace("crash"),
    "vanish": _replace("vanish"),
    "deploy": _replace("deploy"),
}
UNCERTAIN = ("broker_cut", "answer_lost", "broker_restart", "amnesia", "crash", "vanish")
"""What may make a handler run again although it takes effect once: docs/DELIVERY.md says when."""


def run(seed: int) -> Outcome:
    """Live through a seed."""
    chance.seed(seed)
    loop = VirtualLoop()
    chance.clock[0] = loop.time
    asyncio.set_event_loop(None)
    world = World(seed, loop)
    outcome = world.outcome
    complaints = _Complaints(world.note, outcome.problems)
    root = logging.getLogger()
    root.addHandler(complaints)

    def unhandled(_: Any, context: dict[str, Any]) -> None:
        told = f"unhandled: {context.get('message')}: {context.get('exception')!r}"
        world.note(told)
        outcome.problems.append(told)

    loop.set_exception_handler(unhandled)
    try:
        loop.run_until_complete(world.live())
        left = [task for task in asyncio.all_tasks(loop) if task not in loop.kept]
        outcome.problems += [f"a task is left: {task.get_coro()}" for task in left]
    except Exception as error:
        outcome.problems.append(f"the run broke: {error!r}")
    finally:
        outcome.faults["answer_lost"] += world.cluster.lost_answers
        complaints.listening = False
        loop.clear_up()
        root.removeHandler(complaints)
    return outcome
