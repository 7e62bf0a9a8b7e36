"""A disk that does not answer: who has nothing on it does not wait, and the others wait once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from slow import hall_class

from aquilia.sockets import Connection, Event, Socket, SocketController, Subscribe
from aquilia.testing import Client, SocketsTest, sockets_test


class Beside(SocketController):
    """Nothing of it may wait on disk."""

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "beside"

    @Event("say")
    async def say(self, conn: Connection, payload: str) -> None:
        await self.publish_room("beside", "said", payload)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The kernel takes nothing, until this is set."""
    goes_on = threading.Event()
    write = os.pwrite

    def hang(*args: Any) -> int:
        goes_on.wait()
        return write(*args)

    monkeypatch.setattr("os.pwrite", hang)
    yield goes_on
    goes_on.set()


@contextlib.asynccontextmanager
async def behind(hung: threading.Event) -> AsyncIterator[tuple[SocketsTest, Client]]:
    """An application whose disk has more to write than it should, and one who speaks in its hall."""
    async with sockets_test(hall_class(), Socket("/beside")(Beside), outbox_bytes=1_000_000) as t:
        ada, frozen = await t.connect("/hall"), await t.connect("/hall")
        await frozen.request("enter")
        frozen.stop_reading()
        spool = t.application.sockets.hub.spool
        assert spool is not None
        async with asyncio.timeout(10):
            while spool.unwritten <= spool.unwritten_limit // 2:
                await ada.send("say", ["note", [0]])
                await asyncio.sleep(0)
        try:
            yield t, ada
        finally:
            hung.set()


async def test_a_controller_without_the_strategy_does_not_wait(
    hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aquilia.sockets.outbox.spool.PATIENCE", 60.0)
    async with behind(hung) as (t, _):
        client = await t.connect("/beside")
        await client.request("enter")
        async with asyncio.timeout(5):
            for number in range(20):
                await client.send("say", str(number))
                assert (await client.expect("said")).payload == str(number)


async def test_publishers_wait_once_until_it_moves(
    hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aquilia.sockets.outbox.spool.PATIENCE", 0.5)
    async with behind(hung) as (t, ada):
        async with asyncio.timeout(5):
            await ada.request("say", ["tick", [*range(20)]])
        spool = t.application.sockets.hub.spool
        assert spool is not None
        hung.set()
        async with asyncio.timeout(5):
            while spool.unwritten:
                await asyncio.sleep(0.01)
        await ada.request("say", ["note", [1]])
