"""What the tests of the kit's clock test: handlers that go by time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aquilia import service
from aquilia.clock import Clock
from aquilia.sockets import Connection, Event, Socket, SocketController, SocketFault
from aquilia.testing import sockets_test

WIDE = 1e-5
"""Seconds by which a moment may be missed: held time moves by whole ticks, a millionth of a second each."""


@service(scope="singleton")
class Journal:
    def __init__(self) -> None:
        self.lines: list[Any] = []


@Socket("/time/:name")
class Timely(SocketController):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    @Event("sleep")
    async def sleep(self, conn: Connection, payload: list[float]) -> None:
        for seconds in payload:
            await asyncio.sleep(seconds)
            await conn.send_event("woke", seconds)

    @Event("try")
    async def try_it(self, conn: Connection, payload: float) -> str:
        try:
            async with asyncio.timeout(payload):
                await asyncio.Event().wait()
        except TimeoutError:
            return "too late"
        return "never"

    @Event("ask")
    async def ask(self, conn: Connection, payload: float) -> Any:
        return await conn.request("question", timeout=payload)

    @Event("later")
    async def later(self, conn: Connection, payload: list[tuple[float, str]]) -> None:
        loop = asyncio.get_running_loop()
        for delay, label in payload:
            loop.call_later(delay, self.journal.lines.append, label)

    @Event("spawn")
    async def spawn(self, conn: Connection) -> None:
        async def tick() -> None:
            with contextlib.suppress(SocketFault):  # the connection has ended
                while True:
                    await asyncio.wait_for(asyncio.sleep(1), 5)
                    await conn.send_event("tick", asyncio.get_running_loop().time())

        self.journal.lines.append(asyncio.create_task(tick()))

    @Event("spin")
    async def spin(self, conn: Connection) -> None:
        while conn.phase == "connected":
            await asyncio.sleep(0)

    @Event("work")
    async def work(self, conn: Connection) -> None:
        await asyncio.sleep(1)
        for _ in range(100):
            await asyncio.sleep(0)
        self.journal.lines.append(asyncio.get_running_loop().time())

    @Event("now")
    async def now(self, conn: Connection) -> list[Any]:
        clock = Clock.current()
        times = [conn.created_at, conn.last_activity]
        return [
            asyncio.get_running_loop().time(),
            clock.monotonic(),
            clock.time(),
            *(each.timestamp() for each in times),
        ]

    @Event("cancel")
    async def cancel(self, conn: Connection) -> None:
        asyncio.get_running_loop().call_later(1, self.journal.lines.append, "cancelled").cancel()


def opened(**options: Any) -> Any:
    return sockets_test(Timely, services=[Journal], **options)
