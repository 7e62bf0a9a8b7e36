"""Sets of tasks."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from aquilia.sockets.tasks import TaskSet


async def test_a_task_is_held_until_it_ends() -> None:
    tasks, gate = TaskSet(), asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    task = tasks.start(wait())
    assert task is not None
    assert len(tasks) == 1
    gate.set()
    await task
    assert len(tasks) == 0


async def test_what_need_not_wait_is_done_at_once_where_the_interpreter_can() -> None:
    tasks, done = TaskSet(), []

    async def work() -> None:
        done.append(1)

    task = tasks.start(work())
    if sys.version_info >= (3, 12):
        assert task is None
    else:
        assert task is not None
        await task
    assert done == [1]


async def test_settle_waits_for_all_even_those_started_meanwhile() -> None:
    tasks, ended = TaskSet(), []

    async def child() -> None:
        await asyncio.sleep(0)
        ended.append("child")

    async def parent() -> None:
        await asyncio.sleep(0)
        tasks.start(child())
        ended.append("parent")

    tasks.start(parent())
    await tasks.settle(5)
    assert ended == ["parent", "child"]
    assert len(tasks) == 0


async def test_settle_cancels_what_takes_too_long() -> None:
    tasks, cancelled = TaskSet(), []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    tasks.start(forever())
    await tasks.settle(0.01)
    assert cancelled == [1]
    assert len(tasks) == 0


async def test_settle_gives_up_on_what_cannot_be_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aquilia.sockets.tasks.DEAF", 0.01)
    tasks, end = TaskSet(), asyncio.Event()

    async def deaf() -> None:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    task = tasks.start(deaf())
    async with asyncio.timeout(5):
        await tasks.settle(0.01)
    assert "do not end" in caplog.text
    end.set()
    await task
