"""What the nodes serve: a controller with every promise that is made of a message, which keeps books of its work."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

from aquilia.aquilary import Registry
from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AckEvent,
    Connection,
    Emits,
    Event,
    History,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.plan import SocketPlan
from simulation.loop import OWNER

__all__ = ["HEARTBEAT", "PLAN", "REGISTRY", "ROOMS", "Books", "Hall"]

HEARTBEAT = 4.0
ROOMS = ("log:a", "log:b", "short:a", "plain:a")


class Books:
    """What handlers did, on whichever node: what the oracle compares with what clients saw."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.begun: Counter[str] = Counter()
        """How often the handler of a message began, by the text in it."""
        self.done: Counter[str] = Counter()
        """How often it came to its end."""
        self.serials = 0
        self.poked: defaultdict[str, list[int]] = defaultdict(list)
        """What was sent to each connection alone."""
        self.durable: defaultdict[str, list[int]] = defaultdict(list)


def books() -> Books:
    """Those of the run that the current code belongs to."""
    owner: Any = OWNER.get()
    return owner.books


@Socket(
    "/hall",
    history={"log:*": History(size=2000, ttl=3600), "short:*": History(size=12, ttl=4)},
    backpressure={"strategy": "buffer", "buffer_size": 12, "buffer_bytes": 8_000},
)
class Hall(SocketController):
    """Rooms that remember for long, for short and not at all."""

    poked = Emits("poked", int)
    booked = Emits("booked", int, durable=True)

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Unsubscribe("leave")
    async def leave(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("say", delivery="effectively_once")
    async def say(self, conn: Connection, payload: dict[str, str]) -> None:
        await self._work(conn, payload)

    @Event("note", delivery="at_least_once")
    async def note(self, conn: Connection, payload: dict[str, str]) -> None:
        await self._work(conn, payload)

    @Event("mutter")
    async def mutter(self, conn: Connection, payload: dict[str, str]) -> None:
        await self._work(conn, payload)

    async def _work(self, conn: Connection, payload: dict[str, str]) -> None:
        told = books()
        told.begun[payload["text"]] += 1
        if told.chance.random() < 0.3:
            await asyncio.sleep(told.chance.expovariate(10))
        exclude = conn if told.chance.random() < 0.2 else None
        told.serials += 1
        said = {**payload, "serial": told.serials}
        await self.publish_room(payload["room"], "said", said, exclude=exclude)
        told.done[payload["text"]] += 1

    @AckEvent("poke")
    async def poke(self, conn: Connection) -> int:
        """What is sent to this client alone is numbered by its own state, which comes back with it."""
        conn.state["pokes"] = number = conn.state.get("pokes", 0) + 1
        sent = books().poked[conn.id]
        await conn.send_event("poked", len(sent) + 1)
        sent.append(len(sent) + 1)
        return number

    @AckEvent("book")
    async def book(self, conn: Connection) -> None:
        sent = books().durable[conn.id]
        sent.append(len(sent) + 1)
        await conn.send_event("booked", sent[-1])


REGISTRY = Registry.build(
    [AppManifest("simulation", controllers=[Hall], websockets={"heartbeat": HEARTBEAT, "handler_timeout": 8})]
)
"""The application of each node."""
PLAN = SocketPlan.read(REGISTRY, [])
"""The same for all nodes, as reading it takes longer than all else of a start."""
