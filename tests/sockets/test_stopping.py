"""An application that stops and has to wait says for whom."""

from __future__ import annotations

import asyncio

import pytest

from aquilia.sockets import Connection, Event, Socket, SocketController
from aquilia.testing import sockets_test


@Socket("/slow/:name")
class Slow(SocketController):
    @Event("work")
    async def work(self, conn: Connection) -> None:
        await conn.send_event("begun")
        await conn.disconnect()
        await asyncio.sleep(1.5)


async def test_handlers_that_still_run_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async with sockets_test(Slow) as t:
        clients = [await t.connect(f"/slow/{number}") for number in range(7)]
        for client in clients:
            await client.send("work")
            await client.closed()

        await t.application.shutdown()
        t.application.sockets.tell_who_is_left()

    (line,) = [record.getMessage() for record in caplog.records if "stopping" in record.getMessage()]
    assert line.startswith("stopping; it waits for 7 connections whose handlers still run (")
    assert "at /slow/0" in line
    assert line.endswith(" and 2 more)")


async def test_one_that_need_not_wait_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with sockets_test(Slow) as t:
        await t.connect("/slow/a")
        await t.application.shutdown()

    assert "stopping" not in caplog.text
