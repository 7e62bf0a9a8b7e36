"""A network of TCP connections: bytes that need their time, arrive in order or not at all, and find buffers full."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from simulation.loop import OWNER, VirtualLoop

__all__ = ["INSTANT", "Conditions", "End", "Link", "Listener", "Network"]

INSTANT = 1e-7
"""Seconds between what arrives one behind the other."""


@dataclass
class Conditions:
    """What a wire is like: seconds of delay, by how much it varies, and bytes that fit between its ends.

    `high` is how many bytes a transport holds back before it asks its writer to pause.
    """

    delay: float
    jitter: float
    room: int
    high: int


class _Socket:
    """What libraries want of a socket: to set its options, and its addresses."""

    def __init__(self, own: tuple[str, int], peer: tuple[str, int]) -> None:
        self._own, self._peer = own, peer

    def setsockopt(self, *_: Any) -> None:
        pass

    def getsockopt(self, *_: Any) -> int:
        return 0

    def fileno(self) -> int:
        return -1  # to write to it fails, and picows goes through the transport then

    def getsockname(self) -> tuple[str, int]:
        return self._own

    def getpeername(self) -> tuple[str, int]:
        return self._peer


class End(asyncio.Transport):
    """One end of a connection, with the bytes that leave it."""

    def __init__(self, link: Link, own: tuple[str, int], peer: tuple[str, int], context: Context) -> None:
        super().__init__({"socket": _Socket(own, peer), "sockname": own, "peername": peer})
        self.link = link
        self.context = context
        self.owner = context.get(OWNER)
        self.peer: End
        self._loop = link.network.loop
        self._protocol: Any = None
        self._unsent = bytearray()
        self._eof = self._eof_sent = False
        self._under_way = 0
        """Bytes that have left, and that the other side has not read."""
        self._next_arrival = 0.0
        self._line: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        """What is on its way to the other side, and is going to be done there, in order."""
        self._late = 0
        """How much of it should have been there by now, but for a dead wire."""
        self._arrived = bytearray()
        self._arrived_eof = False
        self._reading = True
        self._closing = self._gone = False
        self._paused = False
        self._high, self._low = link.conditions.high, link.conditions.high // 4

    # The transport, as asyncio has it

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._soon(self._hand_up)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self.link.conditions.high if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: Any) -> None:
        if self._gone or self._eof:
            return
        self._unsent += data
        self._leave()
        if not self._paused and len(self._unsent) > self._high:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof:
            self._eof = True
            self._leave()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.write_eof()
            if not self._unsent:
                self._lose(None)

    def abort(self) -> None:
        if not self._gone:
            self._closing = True
            self._send(self.peer._reset)
            self._lose(None)

    # The wire

    def _leave(self) -> None:
        """Let go of what there is room for."""
        chance = self.link.network.chance
        while self._unsent and self._under_way < self.link.conditions.room:
            most = self.link.conditions.room - self._under_way
            size = min(len(self._unsent), most, chance.choice((1, 100, 1460, 9000, 65536)))
            data = bytes(self._unsent[:size])
            del self._unsent[:size]
            self._under_way += size
            self._send(self.peer._arrive, data)
        if self._unsent:
            return
        if self._eof and not self._eof_sent:
            self._eof_sent = True
            self._send(self.peer._arrive_eof)
        if self._closing and not self._gone:
            self._lose(None)

    def _send(self, callback: Callable[..., None], *args: Any) -> None:
        conditions = self.link.conditions
        delay = conditions.delay + self.link.network.chance.expovariate(1) * conditions.jitter
        # Strictly later: timers of one moment fire in any order.
        self._next_arrival = max(self._next_arrival + INSTANT, self._loop.time() + delay)
        self._line.append((callback, args))
        self._loop.call_at(self._next_arrival, self._pass, context=self.link.network.context)

    def _pass(self) -> None:
        if self.link.dead:
            self._late += 1
        else:
            callback, args = self._line.popleft()
            callback(*args)

    def revive(self) -> None:
        """Send again what did not get through: TCP does not give up."""
        late, self._late = self._late, 0
        for _ in range(late):
            self._next_arrival += INSTANT
            self._loop.call_at(
                max(self._next_arrival, self._loop.time() + self.link.conditions.delay),
                self._pass,
                context=self.link.network.context,
            )

    def _arrive(self, data: bytes) -> None:
        if self._gone:
            self._send(self.peer._reset)
            return
        if self._closing:
            return
        self._arrived += data
        self._hand_up()

    def _arrive_eof(self) -> None:
        self._arrived_eof = True
        self._hand_up()

    def _hand_up(self) -> None:
        if not self._reading or self._closing or self._loop.is_frozen(self.owner):
            return
        if self._arrived:
            data = bytes(self._arrived)
            self._arrived.clear()
            self._send(self.peer._make_room, len(data))
            self.context.copy().run(self._give, data)
        if self._arrived_eof and not self._closing and self._reading and not self._arrived:
            self._arrived_eof = False
            if not self.context.copy().run(self._protocol.eof_received):
                self.close()

    def _give(self, data: bytes) -> None:
        protocol = self._protocol
        if not hasattr(protocol, "get_buffer"):
            protocol.data_received(data)
            return
        rest = memoryview(data)
        while rest and not self._closing:
            buffer = memoryview(protocol.get_buffer(-1))
            taken = min(len(buffer), len(rest))
            buffer[:taken] = rest[:taken]
            protocol.buffer_updated(taken)
            rest = rest[taken:]

    def _make_room(self, size: int) -> None:
        self._under_way -= size
        if self._gone or self._loop.is_frozen(self.owner):
            return
        self._leave()
        if self._paused and len(self._unsent) <= self._low and not self._gone:
            self._paused = False
            self.context.copy().run(self._protocol.resume_writing)

    def _reset(self) -> None:
        if not self._gone:
            self._closing = True
            self._lose(ConnectionResetError("reset by the peer"))

    def _lose(self, error: Exception | None) -> None:
        if not self._gone:
            self._gone = True
            self.link.ended()
            self._soon(self._protocol.connection_lost, error)

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(callback, *args, context=self.context.copy())


class Link:
    """One connection: `client` and `server` are its ends."""

    def __init__(self, network: Network, number: int, conditions: Conditions, context: Context) -> None:
        self.network = network
        self.number = number
        self.conditions = conditions
        self.dead = False
        """Whether nothing passes, and nobody is told."""
        own, there = ("10.0.0.1", 40000 + number), ("10.0.0.2", 80)
        self.client = End(self, own, there, context)
        self.listener: Listener

    def accept(self, listener: Listener) -> None:
        own, there = ("10.0.0.2", 80), ("10.0.0.1", 40000 + self.number)
        self.listener = listener
        self.server = End(self, own, there, listener.context)
        self.client.peer, self.server.peer = self.server, self.client

    def ended(self) -> None:
        if self.client._gone and self.server._gone:
            self.network.links.pop(self.number, None)

    def cut(self) -> None:
        """Both ends are told at once; what was under way is lost."""
        for end in (self.client, self.server):
            self.network.loop.call_soon(end._reset, context=self.network.context)

    def die(self) -> None:
        """Nothing passes any more."""
        self.dead = True

    def revive(self) -> None:
        """It passes again, with all that was said meanwhile."""
        self.dead = False
        self.client.revive()
        self.server.revive()


@dataclass
class Listener:
    """Where connections are accepted: each by a protocol of its own."""

    name: str
    make: Callable[[], asyncio.Protocol]
    context: Context
    open: bool = True


class Network:
    """The links, and who listens. Clients get to any of the listeners, as behind a load balancer."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, conditions: Conditions) -> None:
        self.loop = loop
        self.chance = chance
        self.conditions = conditions
        self.context = copy_context()
        self.links: dict[int, Link] = {}
        self.listeners: list[Listener] = []
        self.down = False
        """Whether nobody gets through at all."""
        self._numbers = 0
        loop.connect = self.connect

    async def connect(self, make: Callable[[], Any], host: str, port: int) -> tuple[End, Any]:
        """What `loop.create_connection` does."""
        base = self.conditions
        conditions = Conditions(base.delay * self.chance.uniform(0.5, 2), base.jitter, base.room, base.high)
        await asyncio.sleep(2 * conditions.delay)
        open_ones = [listener for listener in self.listeners if listener.open]
        if self.down:
            await asyncio.sleep(60)
        if not open_ones:
            raise ConnectionRefusedError("nobody listens")
        listener = self.chance.choice(open_ones)
        self._numbers += 1
        link = Link(self, self._numbers, conditions, copy_context())
        link.accept(listener)
        self.links[link.number] = link
        server = listener.context.copy().run(listener.make)
        link.server.set_protocol(server)
        listener.context.copy().run(server.connection_made, link.server)
        client = make()
        link.client.set_protocol(client)
        client.connection_made(link.client)
        return link.client, client
