"""Streams that fill and empty: reading stops, and goes on."""

from __future__ import annotations

import asyncio

import pytest
from wire import TIMEOUT, serving

from aquilia.client import Client
from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController


@Socket("/many")
class Many(SocketController):
    @Event("send")
    async def send(self, conn: Connection, payload: int) -> None:
        for number in range(payload):
            await conn.send_event("sent", number)


@pytest.mark.parametrize("buffer", [1, 2, 64])
async def test_a_reader_who_is_as_fast_as_the_server_gets_everything(buffer: int) -> None:
    async with (
        serving(AquilaSockets.from_controllers([Many])) as base,
        Client(f"{base}/many", proxy=None) as client,
        asyncio.timeout(TIMEOUT),
    ):
        sent = client.messages("sent", buffer=buffer)
        await client.send("send", 200)
        got = [(await anext(sent)).payload for _ in range(200)]
    assert got == list(range(200))
