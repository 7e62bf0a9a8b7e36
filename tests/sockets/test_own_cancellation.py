"""A handler that cancels the task it runs in: its client is answered, and the connection goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aquilia.sockets import Connection, Event, OnConnect, Socket, SocketController, SocketFault
from aquilia.testing import sockets_test


def cancel_myself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@Socket("/cell/:how")
class Cell(SocketController):
    @OnConnect()
    async def enter(self, conn: Connection) -> None:
        if self.path_params["how"] == "entering":
            cancel_myself()
            await asyncio.sleep(0)

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        await conn.send_event("hi")

    @Event("at once")
    async def at_once(self, conn: Connection) -> None:
        cancel_myself()
        await asyncio.sleep(0)

    @Event("later")
    async def later(self, conn: Connection) -> None:
        await asyncio.sleep(0.01)
        cancel_myself()
        await asyncio.sleep(0.01)

    @Event("within a limit")
    async def within_a_limit(self, conn: Connection) -> None:
        async with asyncio.timeout(10):
            cancel_myself()
            await asyncio.sleep(0)

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        await asyncio.sleep(0)
        return payload


@pytest.mark.parametrize("event", ["at once", "later", "within a limit"])
@pytest.mark.parametrize("limit", [{}, {"handler_timeout": 5}])
async def test_a_handler_that_cancels_its_own_task_is_answered_with_an_incident(
    event: str, limit: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with sockets_test(Cell, **limit) as t:
        client = await t.connect("/cell/x")
        await client.send("echo", 0)

        with pytest.raises(SocketFault) as refused:
            await client.request(event)

        assert refused.value.code == "WS_INTERNAL_ERROR"
        assert refused.value.message.split()[-1] in caplog.text
        assert "its own task was cancelled" in caplog.text
        for number in range(3):
            assert await client.request("echo", number) == number
        await client.disconnect()
        assert t.application.sockets.live()["tasks"] == 0


async def test_events_behind_such_a_handler_have_their_turn() -> None:
    async with sockets_test(Cell) as t:
        client = await t.connect("/cell/x")
        await client.send("later")

        assert await client.request("echo", 1) == 1

        assert (await client.expect("error")).payload["code"] == "WS_INTERNAL_ERROR"


async def test_an_opening_that_cancels_its_own_task_ends_the_connection() -> None:
    async with sockets_test(Cell) as t:
        client = await t.connect("/cell/entering")

        code, text = await client.closed()

        assert code == 1011
        assert text.startswith("WS_INTERNAL_ERROR: internal error, incident ")
        await client.expect_nothing("hi")
