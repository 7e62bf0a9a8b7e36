"""Clients that say nothing: how long they may, and what counts as saying something."""

from __future__ import annotations

from typing import Any

import pytest

from aquilia.sockets import Connection, Event, Socket, SocketController
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.metrics.recorder import Counters
from aquilia.testing import Client, SocketsTest, sockets_test


@Socket("/hall", idle_timeout=80)
class Hall(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("news")
    async def news(self, conn: Connection) -> None:
        await self.broadcast("news", "something")


async def opened(t: SocketsTest, **options: Any) -> Client:
    return await t.connect("/hall", **options)


async def is_there(client: Client) -> bool:
    return bool(await client.request("echo", "here") == "here")


@pytest.mark.parametrize("subprotocol", [(), "aquilia.v1.json"])
async def test_a_silent_client_is_closed_with_4508_and_counted(subprotocol: Any) -> None:
    async with sockets_test(Hall) as t:
        client = await opened(t, subprotocol=subprotocol)
        await t.clock.advance(79)
        assert await is_there(client)
        await t.clock.advance(79)
        assert await is_there(client)
        await t.clock.advance(91)
        assert (await client.closed()).code == 4508
        recorder = t.application.sockets.recorder
        assert isinstance(recorder, Counters)
        assert recorder.counts["limited", "/hall", "idle_timeout"] == 1


async def test_pings_are_no_sign_of_use() -> None:
    async with sockets_test(Hall) as t:
        client = await opened(t, subprotocol="aquilia.v1.json")
        for _ in range(7):
            await t.clock.advance(10)
            client._send(MessageEnvelope(type="control", event="ping"))
            await client.expect("pong", type="system")
        await t.clock.advance(20)
        assert (await client.closed()).code == 4508


async def test_neither_is_what_it_is_sent() -> None:
    async with sockets_test(Hall) as t:
        silent, speaker = await opened(t), await opened(t)
        for _ in range(7):
            await t.clock.advance(10)
            await speaker.send("news")
            await silent.expect("news")
        await t.clock.advance(20)
        assert (await silent.closed()).code == 4508
        assert await is_there(speaker)


async def test_clients_that_leave_leave_no_timer_behind() -> None:
    async with sockets_test(Hall) as t:
        client = await opened(t)
        await client.disconnect()
        await t.clock.advance(1000)
        client = await opened(t)
        await t.clock.advance(70)
        assert await is_there(client)
