"""How an adapter for Redis starts in the tests: with all that an application does, or with a refusal in words."""

from __future__ import annotations

import asyncio
import os

import pytest

from aquilia.sockets import History, Publication, SocketFault
from aquilia.sockets.adapters.redis import RedisAdapter

SECRET = "s3cret-and-long"
LOGGED = History(size=5, ttl=60)


def told(id: str, room: str | None) -> Publication:
    return Publication(id=id, namespace="/a", event="e", payload=1, ts=1, room=room)


async def works(url: str) -> None:
    """All that an application does with it."""
    adapter = RedisAdapter(url)
    broker, store = adapter.broker, adapter.store
    got: asyncio.Queue[Publication] = asyncio.Queue()
    await broker.start(got.put_nowait)
    try:
        for room, history in ((None, None), ("plain", None), ("logged", LOGGED)):
            await broker.subscribe("/a", room, history)
            before = await broker.publish(told(f"of {room}", room), history)
            assert (await asyncio.wait_for(got.get(), 5)).room == room
        assert len((await broker.read("/a", "logged", LOGGED)).publications) == 1
        assert (await broker.read("/a", "logged", LOGGED, since=before)).complete
        for n in range(12):
            await broker.publish(told(str(n), "logged"), LOGGED)
        assert await broker.forget("/a", "logged", LOGGED) >= LOGGED.size
        await broker.unsubscribe("/a", "plain")
        await store.put("key", b"1", 5)
        assert await store.get("key") == b"1"
        assert await store.compare_and_swap("key", b"1", b"2")
        assert await store.get_and_delete("key") == b"2"
    finally:
        await broker.stop()


def open_sockets() -> set[str]:
    """Of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # that of the listing itself
            continue
    return {name for name in found if name.startswith("socket:")}


def told_by(log: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [each.getMessage() for each in log.records if each.levelno >= level]


async def refusal(url: str) -> str:
    """Why it does not start; nothing of it is left."""
    adapter = RedisAdapter(url)
    before, tasks = open_sockets(), asyncio.all_tasks()
    with pytest.raises(SocketFault) as refused:
        await adapter.broker.start(lambda publication: None)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    assert SECRET not in refused.value.message
    async with asyncio.timeout(5):
        while open_sockets() - before or asyncio.all_tasks() - tasks:
            await asyncio.sleep(0.01)
    return refused.value.message
