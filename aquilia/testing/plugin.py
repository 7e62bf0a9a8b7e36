"""Fixtures for pytest: `pytest_plugins = ["aquilia.testing.plugin"]` in the topmost conftest.py brings them.

Both open any number of applications, with the arguments of `sockets_test`, and end them behind the test. The one for
coroutines needs pytest-asyncio, or the plugin of anyio.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aquilia.testing.kit import SocketsTest
from aquilia.testing.kit import sockets_test as open_test
from aquilia.testing.sync import SyncSocketsTest, sockets_test_sync

__all__ = ["sockets", "sockets_sync"]

if TYPE_CHECKING:
    from pytest import fixture as async_fixture  # noqa: PT013
else:
    try:
        from pytest_asyncio import fixture as async_fixture
    except ImportError:
        async_fixture = pytest.fixture


@async_fixture
async def sockets() -> AsyncIterator[Callable[..., Awaitable[SocketsTest]]]:
    """`t = await sockets(ChatSocket, max_connections=2)`: see `sockets_test`."""
    async with contextlib.AsyncExitStack() as opened:

        async def enter(*subjects: Any, **options: Any) -> SocketsTest:
            return await opened.enter_async_context(open_test(*subjects, **options))

        yield enter


@pytest.fixture
def sockets_sync() -> Iterator[Callable[..., SyncSocketsTest]]:
    """`t = sockets_sync(ChatSocket, max_connections=2)`: see `sockets_test_sync`."""
    with contextlib.ExitStack() as opened:

        def enter(*subjects: Any, **options: Any) -> SyncSocketsTest:
            return opened.enter_context(sockets_test_sync(*subjects, **options))

        yield enter
