"""What the tests of the client share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from peer import Peer, peer
from wire import TIMEOUT


@pytest.fixture
async def server() -> AsyncIterator[Peer]:
    async with asyncio.timeout(TIMEOUT), peer(max_size=None) as server:
        yield server


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """No task of a client outlives the test."""
    before = asyncio.all_tasks()
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() - before if "client" in repr(task.get_coro())] == []
