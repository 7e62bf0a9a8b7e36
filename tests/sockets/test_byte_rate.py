"""The rate of bytes: what a connection sends a second, beside how many messages that is."""

from __future__ import annotations

from typing import Any

import pytest

from aquilia.sockets import Connection, Event, Socket, SocketController, SocketFault
from aquilia.sockets.metrics.recorder import Counters
from aquilia.testing import Client, SocketsTest, sockets_test


@Socket("/hall")
class Hall(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> int:
        return len(payload)


def limited(t: SocketsTest, limit: str) -> int:
    recorder = t.application.sockets.recorder
    assert isinstance(recorder, Counters)
    return recorder.counts["limited", "/hall", limit]


async def refusal(client: Client, size: int = 1) -> str:
    with pytest.raises(SocketFault) as refused:
        await client.request("echo", "x" * size)
    assert refused.value.code == "WS_RATE_LIMIT_EXCEEDED"
    return refused.value.message


async def test_bytes_above_the_rate_are_refused_until_they_have_come_back() -> None:
    async with sockets_test(Hall, byte_rate_limit=1000) as t:
        client, other = await t.connect("/hall"), await t.connect("/hall")
        assert await client.request("echo", "x" * 5000) == 5000
        assert await refusal(client) == "more than 1000 bytes a second"
        assert await other.request("echo", "x") == 1, "each connection has a rate of its own"
        await t.clock.advance(2)
        await refusal(client)
        await t.clock.advance(2)
        assert await client.request("echo", "x") == 1
        assert limited(t, "byte_rate_limit") == 2


async def test_many_small_messages_count_as_one_large_one_does() -> None:
    async with sockets_test(Hall, byte_rate_limit=1000) as t:
        client = await t.connect("/hall")
        for _ in range(4):
            await client.request("echo", "x" * 450)
        await refusal(client)


async def test_the_rate_of_messages_holds_beside_it() -> None:
    async with sockets_test(Hall, byte_rate_limit=10_000, message_rate_limit=1) as t:
        client = await t.connect("/hall")
        await client.request("echo", "x")
        await client.request("echo", "x")
        assert await refusal(client) == "more than 1 messages a second"
        assert (limited(t, "message_rate_limit"), limited(t, "byte_rate_limit")) == (1, 0)


async def test_who_goes_on_is_closed_with_4529() -> None:
    async with sockets_test(Hall, byte_rate_limit=100) as t:
        client = await t.connect("/hall", subprotocol="aquilia.v1.json")
        await client.request("echo", "x" * 1000)
        for _ in range(19):
            await refusal(client)
        await client.send("echo", "x")
        assert (await client.closed()).code == 4529
