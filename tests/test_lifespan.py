"""The start and the end of an application, and the undoing of a start that failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aquilia.aquilary import BootError, Problem
from aquilia.lifespan import serve_lifespan, undone_by


class Server:
    """Says that it starts and stops, and keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.heard: list[Any] = []

    async def receive(self) -> dict[str, str]:
        self.said.append("shutdown" if self.said else "startup")
        return {"type": f"lifespan.{self.said[-1]}"}

    async def send(self, message: Any) -> None:
        self.heard.append(message)


async def go() -> None:
    pass


async def fail() -> None:
    raise RuntimeError("no disk")


async def served(startup: Any, shutdown: Any) -> Server:
    server = Server()
    await serve_lifespan(startup, shutdown, server.receive, server.send)
    return server


async def test_a_server_is_told_of_the_start_and_of_the_end() -> None:
    server = await served(go, go)
    assert server.heard == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


async def test_a_start_that_fails_is_told_and_is_not_followed_by_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = await served(fail, go)
    assert server.heard == [{"type": "lifespan.startup.failed", "message": "no disk"}]
    assert server.said == ["startup"]
    assert "startup failed" in caplog.text


async def test_a_problem_that_says_what_to_do_is_told_without_a_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def boot() -> None:
        raise BootError([Problem("spool_dir", "no such folder")])

    server = await served(boot, go)
    assert server.heard == [{"type": "lifespan.startup.failed", "message": "spool_dir: no such folder"}]
    assert caplog.text == ""


async def test_an_end_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    server = await served(go, fail)
    assert server.heard[1:] == [{"type": "lifespan.shutdown.failed", "message": "no disk"}]
    assert "shutdown failed" in caplog.text


@pytest.mark.parametrize("error", [ValueError("wrong"), asyncio.CancelledError()])
async def test_what_fails_is_undone_and_raised(error: BaseException) -> None:
    undone = []

    async def undo() -> None:
        undone.append(True)

    with pytest.raises(type(error)):
        async with undone_by(undo):
            raise error
    assert undone == [True]


async def test_what_succeeds_is_not_undone() -> None:
    async with undone_by(fail):
        pass


async def test_an_undoing_that_fails_is_logged_and_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="wrong"):
        async with undone_by(fail):
            raise ValueError("wrong")
    assert "no disk" in caplog.text
