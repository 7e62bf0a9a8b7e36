"""How handlers run: as if each had a task of its own, many at a time, in order within a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController

CROWD = 60
"""More than what is handled as one group."""

VISITOR: ContextVar[str] = ContextVar("VISITOR", default="nobody")
GATES: list[asyncio.Event] = []
WAITING: list[asyncio.Task[Any] | None] = []
LOADING: list[asyncio.Task[int]] = []


@Socket("/work")
class Work(SocketController):
    @Event("add")
    async def add(self, conn: Connection, payload: int) -> int:
        return payload + 1

    @Event("wait")
    async def wait(self, conn: Connection) -> bool:
        WAITING.append(asyncio.current_task())
        await GATES[-1].wait()
        return asyncio.current_task() in WAITING

    @Event("load")
    async def load(self, conn: Connection) -> int:
        if not LOADING:

            async def load() -> int:
                await GATES[-1].wait()
                return 7

            LOADING.append(asyncio.create_task(load()))
        WAITING.append(asyncio.current_task())
        return await LOADING[0]

    @Event("brief")
    async def brief(self, conn: Connection) -> None:
        WAITING.append(asyncio.current_task())

    @Event("cancel-the-brief")
    async def cancel_the_brief(self, conn: Connection) -> None:
        for task in WAITING:
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)

    @Event("hurry")
    async def hurry(self, conn: Connection, payload: float) -> str:
        try:
            async with asyncio.timeout(payload):
                await asyncio.Event().wait()
        except TimeoutError:
            return "too late"
        return "never"

    @Event("share")
    async def share(self, conn: Connection, payload: list[int]) -> list[int]:
        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return number * 2

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(number)) for number in payload]
        return [task.result() for task in tasks]

    @Event("fail-in-group")
    async def fail_in_group(self, conn: Connection) -> str:
        async def fail() -> None:
            raise KeyError("inside")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except ExceptionGroup as group_error:
            return repr(group_error.exceptions)
        return "never"

    @Event("give-up")
    async def give_up(self, conn: Connection, payload: bool) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if payload:
            await asyncio.Event().wait()
        return "done"

    @Event("come")
    async def come(self, conn: Connection, payload: str) -> str:
        VISITOR.set(payload)
        await asyncio.sleep(0)
        return VISITOR.get()

    @Event("who")
    async def who(self, conn: Connection) -> str:
        return VISITOR.get()

    @Event("mixed")
    async def mixed(self, conn: Connection, payload: int) -> None:
        for _ in range(payload % 3):
            await asyncio.sleep(0)
        await conn.send_event("done", payload)


@pytest.fixture(params=list(TRANSPORTS))
async def base(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    GATES.append(asyncio.Event())
    WAITING.clear()
    LOADING.clear()
    app = AquilaSockets.from_controllers([Work])
    async with serving(app, ws=TRANSPORTS[request.param]) as url:
        yield f"{url}/work"
    assert app.live()["tasks"] == 0


@contextlib.asynccontextmanager
async def clients(url: str, count: int) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client.connect(url)) for _ in range(count)]


def acked(answers: list[Any]) -> list[Any]:
    assert {answer["status"] for answer in answers} == {"ok"}, answers
    return [answer["data"] for answer in answers]


async def test_a_crowd_that_speaks_at_once_is_answered(base: str) -> None:
    async with clients(base, CROWD) as crowd:
        for turn in range(5):
            answers = await asyncio.gather(*(client.request("add", turn) for client in crowd))
            assert acked(list(answers)) == [turn + 1] * CROWD


async def test_handlers_that_wait_hold_nobody_up_and_have_a_task_each(base: str) -> None:
    async with clients(base, CROWD) as crowd, clients(base, 1) as (other,):
        asking = [asyncio.create_task(client.request("wait")) for client in crowd]
        await eventually(lambda: len(WAITING) == CROWD)
        assert len({id(task) for task in WAITING}) == CROWD
        assert await other.request("add", 1) == {"status": "ok", "data": 2}
        GATES[-1].set()
        assert acked(await asyncio.gather(*asking)) == [True] * CROWD


async def test_handlers_may_all_wait_for_one_and_the_same_task(base: str) -> None:
    async with clients(base, CROWD) as crowd:
        asking = [asyncio.create_task(client.request("load")) for client in crowd]
        await eventually(lambda: len(WAITING) == CROWD)
        GATES[-1].set()
        assert acked(await asyncio.gather(*asking)) == [7] * CROWD


async def test_cancelling_the_task_of_a_handler_that_has_ended_harms_no_other(base: str) -> None:
    async with clients(base, 3) as (one, two, three):
        await one.request("brief")
        asking = asyncio.create_task(two.request("hurry", 0.05))
        assert (await three.request("cancel-the-brief"))["status"] == "ok"
        assert await asking == {"status": "ok", "data": "too late"}


async def test_a_handler_can_time_out_from_its_first_line_on(base: str) -> None:
    async with clients(base, CROWD) as crowd:
        delays = [0.0 if number % 2 else 0.01 for number in range(CROWD)]
        answers = await asyncio.gather(
            *(client.request("hurry", delay) for client, delay in zip(crowd, delays, strict=True))
        )
        assert acked(list(answers)) == ["too late"] * CROWD


async def test_a_handler_can_have_a_task_group_from_its_first_line_on(base: str) -> None:
    async with clients(base, 1) as (client,):
        assert await client.request("share", [1, 2, 3]) == {"status": "ok", "data": [2, 4, 6]}
        assert await client.request("fail-in-group") == {"status": "ok", "data": "(KeyError('inside'),)"}


@pytest.mark.parametrize("waits", [False, True], ids=["and ends", "and waits"])
async def test_a_handler_that_cancels_its_own_task_harms_no_other(base: str, waits: bool) -> None:
    async with clients(base, CROWD) as crowd:
        await crowd[CROWD // 2].send("give-up", waits)
        others = crowd[: CROWD // 2] + crowd[CROWD // 2 + 1 :]
        answers = await asyncio.gather(*(client.request("hurry", 0) for client in others))
        assert acked(list(answers)) == ["too late"] * (CROWD - 1)
        assert await crowd[CROWD // 2].request("add", 1) == {"status": "ok", "data": 2}


async def test_context_variables_are_of_one_connection(base: str) -> None:
    async with clients(base, CROWD) as crowd:
        names = [f"visitor {number}" for number in range(CROWD)]
        came = await asyncio.gather(
            *(client.request("come", name) for client, name in zip(crowd, names, strict=True))
        )
        assert acked(list(came)) == names
        assert acked([await client.request("who") for client in crowd]) == names
        async with clients(base, 1) as (fresh,):
            assert await fresh.request("who") == {"status": "ok", "data": "nobody"}


async def test_messages_of_one_connection_are_handled_in_order_whether_they_wait_or_not(base: str) -> None:
    async with clients(base, 20) as crowd:
        for number in range(40):
            for client in crowd:
                await client.send("mixed", number)
        for client in crowd:
            assert [(await client.expect("done"))["payload"] for _ in range(40)] == list(range(40))
