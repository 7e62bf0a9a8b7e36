"""In a loop that begins its tasks at once, as Python's eager task factory does, all is as in another."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine
from typing import Any

import anyio
import pytest
import pytest_asyncio
from wire import Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, OnDisconnect, Socket, SocketController
from aquilia.sockets.namespaces import LINGER
from aquilia.testing import sockets_test


def at_once(loop: Any, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """A task factory for Python 3.11, which has no eager one: the first step is not left to the loop."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    if not loop.is_running():
        return task
    step, current = loop._ready.pop(), asyncio.current_task(loop)
    if current is not None:
        _leave_task(loop, current)
    try:
        step._run()
    finally:
        if current is not None:
            _enter_task(loop, current)
    return task


@pytest_asyncio.fixture(autouse=True)
async def eager() -> None:
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", at_once))


@pytest.fixture
def app() -> AquilaSockets:
    return AquilaSockets.from_controllers([Stall])


@Socket("/stall/:name")
class Stall(SocketController):
    @Event("take")
    async def take(self, conn: Connection, payload: int) -> int:
        return payload

    @Event("wait")
    async def wait(self, conn: Connection) -> list[str]:
        async def look(what: str) -> str:
            await asyncio.sleep(0)
            return what

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(look(what)) for what in "ab"]
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            tasks.append(asyncio.create_task(look("time is up")))
        return [await task for task in tasks]


@Socket("/bench/:name")
class Bench(SocketController):
    @Event("wait")
    async def wait(self, conn: Connection) -> bool:
        with anyio.move_on_after(0.01) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0)
                group.start_soon(anyio.sleep_forever)
        return scope.cancelled_caught

    @Event("stay")
    async def stay(self, conn: Connection) -> None:
        await conn.send_event("staying")
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)

    @OnDisconnect()
    async def left(self, conn: Connection) -> None:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()


async def test_clients_come_and_go_and_the_server_stops(transport: Any, app: AquilaSockets) -> None:
    async with serving(app, ws=transport) as base:
        for number in range(3):
            async with Client.connect(f"{base}/stall/a") as client:
                assert (await client.request("take", number))["data"] == number
                assert (await client.request("wait"))["data"] == ["a", "b", "time is up"]
        await eventually(lambda: app.live()["connections"] == 0 and app.live()["tasks"] == 0)
    assert app.live()["namespaces"] == 0


async def test_handlers_wait_in_scopes_of_anyio_and_are_left_there(transport: Any) -> None:
    # Without one of Python's own, anyio does not reckon with tasks that begin at once.
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
    app = AquilaSockets.from_controllers([Bench], handler_timeout=0.2)
    async with serving(app, ws=transport) as base:
        for _ in range(3):
            async with Client.connect(f"{base}/bench/a") as client:
                assert (await client.request("wait"))["data"] is True
                await client.send("stay")
                await client.expect("staying")
                client.socket.transport.abort()
        await eventually(lambda: app.live()["connections"] == 0 and app.live()["tasks"] == 0)


async def test_clients_open_a_namespace_together(transport: Any, app: AquilaSockets) -> None:
    async def visit(number: int) -> Any:
        async with Client.connect(f"{base}/stall/a") as client:
            return (await client.request("take", number))["data"]

    async with serving(app, ws=transport) as base:
        assert await asyncio.gather(*map(visit, range(10))) == list(range(10))


async def test_a_namespace_that_was_dropped_opens_anew() -> None:
    async with sockets_test(Stall) as t:
        homes = t.application.sockets.hub.homes
        client = await t.connect("/stall/a")
        first = homes["/stall/a"].controller
        t.clock.freeze()
        await client.disconnect()
        await t.clock.advance(LINGER)
        assert "/stall/a" not in homes
        again = await t.connect("/stall/a")
        assert await again.request("take", 1) == 1
        assert homes["/stall/a"].controller is not first
