"""Sets of tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import pytest

from aquilia.sockets.tasks import TaskSet

T = TypeVar("T")


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


async def outside(call: Callable[[], T]) -> T:
    """What a call gives that is made in no task, as those of transports are."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    loop.call_soon(lambda: result.set_result(call()))
    return await result


@pytest.fixture(params=["fresh", "parked"])
async def tasks(request: pytest.FixtureRequest) -> AsyncIterator[TaskSet]:
    """Its spare task is made when it is needed, or has been waiting."""
    tasks = TaskSet()
    if request.param == "parked":
        assert await outside(lambda: tasks.start(nothing())) is None
        await asyncio.sleep(0)
    yield tasks
    await tasks.settle(1)
    assert len(tasks) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def nothing() -> None: ...


async def test_what_need_not_wait_is_done_at_once_outside_of_tasks(tasks: TaskSet) -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert await outside(lambda: (tasks.start(work()), len(done))) == (None, 1)


async def test_within_a_task_it_is_done_at_once_as_another(tasks: TaskSet) -> None:
    ran_as: list[asyncio.Task[Any] | None] = []

    async def work() -> None:
        ran_as.append(asyncio.current_task())

    me = asyncio.current_task()
    assert tasks.start(work()) is None
    assert len(ran_as) == 1
    assert ran_as[0] not in (me, None)
    assert asyncio.current_task() is me


async def test_one_begins_within_another_and_both_may_wait(tasks: TaskSet) -> None:
    gate, order = asyncio.Event(), list[str]()
    ran_as: list[asyncio.Task[Any] | None] = []

    async def inner() -> None:
        ran_as.append(asyncio.current_task())
        await gate.wait()
        order.append("inner")

    async def outer() -> None:
        ran_as.append(asyncio.current_task())
        tasks.start(inner())
        ran_as.append(asyncio.current_task())
        await gate.wait()
        order.append("outer")

    task = await outside(lambda: tasks.start(outer()))
    assert task is ran_as[0] is ran_as[2] is not ran_as[1]
    assert len(tasks) == 2
    gate.set()
    await tasks.settle(1)
    assert sorted(order) == ["inner", "outer"]


async def test_many_that_begin_within_one_and_need_not_wait_take_no_task_each(tasks: TaskSet) -> None:
    names = set[str]()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.add(task.get_name())

    async def all_of_them() -> None:
        for _ in range(100):
            tasks.start(work())

    assert await outside(lambda: tasks.start(all_of_them())) is None
    assert len(names) == 1


async def test_many_may_wait_for_the_same_future(tasks: TaskSet) -> None:
    shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    got = []

    async def wait() -> None:
        got.append(await shared)

    await outside(lambda: [tasks.start(wait()) for _ in range(3)])
    await asyncio.sleep(0)
    shared.set_result(7)
    await tasks.settle(5)
    assert got == [7, 7, 7]


async def test_what_a_coroutine_awaits_is_cancelled_with_it_and_told_why(tasks: TaskSet) -> None:
    told = []

    async def inner() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            told.append(error.args)
            raise

    awaited = asyncio.create_task(inner())
    await asyncio.sleep(0)

    async def outer() -> None:
        await awaited

    def start_and_cancel() -> asyncio.Task[None] | None:
        task = tasks.start(outer())
        assert task is not None
        task.cancel("enough")
        return task

    task = await outside(start_and_cancel)
    assert task is not None
    await asyncio.wait([task])
    assert task.cancelled()
    assert told == [("enough",)]


async def test_whoever_takes_its_cancellation_back_leaves_nothing_to_the_next(tasks: TaskSet) -> None:
    done = []

    async def waver() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.uncancel()

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    await outside(lambda: (tasks.start(waver()), tasks.start(work())))
    await asyncio.sleep(0)
    await outside(lambda: tasks.start(waver()))
    for _ in range(3):
        await asyncio.sleep(0)
    await outside(lambda: tasks.start(work()))
    await tasks.settle(5)
    assert done == [1, 1]


async def test_a_task_that_somebody_kept_is_nobody_elses(tasks: TaskSet) -> None:
    kept: list[asyncio.Task[Any]] = []
    done = []

    async def keep() -> None:
        task = asyncio.current_task()
        assert task is not None
        kept.append(task)

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(asyncio.current_task())

    await outside(lambda: (tasks.start(keep()), tasks.start(work())))
    async with asyncio.timeout(5):
        await kept[0]  # it ends as what ran in its name did
    kept[0].cancel()
    await tasks.settle(5)
    assert len(done) == 1
    assert done != kept


async def test_what_one_left_at_its_task_is_not_there_for_the_next(tasks: TaskSet) -> None:
    own: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()
    found: list[tuple[str | None, str]] = []

    async def work(mark: Callable[[asyncio.Task[Any]], object]) -> None:
        task = asyncio.current_task()
        assert task is not None
        found.append((own.get(task), task.get_name()))
        mark(task)

    for mark in (
        lambda task: own.update({task: "ann"}),
        lambda task: task.set_name("ann"),
        lambda task: None,
    ):
        await outside(lambda mark=mark: tasks.start(work(mark)))  # type: ignore[misc]
    assert [state for state, _ in found] == [None, None, None]
    assert "ann" not in [name for _, name in found]


async def test_callbacks_at_the_end_of_a_task_are_called_where_it_need_not_wait(tasks: TaskSet) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: ended.set_result(None))

    assert await outside(lambda: tasks.start(work())) is None
    async with asyncio.timeout(5):
        await ended


async def test_cancelling_all_tasks_of_the_loop_spares_what_comes_after(tasks: TaskSet) -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    await outside(lambda: tasks.start(work()))
    await tasks.settle(5)
    assert done == [1]


async def test_the_loops_task_factory_has_no_say(tasks: TaskSet) -> None:
    done = []

    async def work() -> None:
        done.append("begun")
        await asyncio.sleep(0)
        done.append("ended")

    def never(*_: object, **__: object) -> asyncio.Task[Any]:
        raise AssertionError("this is what an eager factory would do at once")

    loop = asyncio.get_running_loop()
    loop.set_task_factory(never)
    try:
        await outside(lambda: tasks.start(work()))
        tasks.start(work())
        await tasks.settle(5)
    finally:
        loop.set_task_factory(None)
    assert sorted(done) == ["begun", "begun", "ended", "ended"]


async def test_errors_that_end_a_process_are_not_kept_from_the_loop(tasks: TaskSet) -> None:
    heard: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context["exception"]))

    async def fail() -> None:
        raise GeneratorExit

    try:
        assert await outside(lambda: tasks.start(fail())) is None
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert [type(error) for error in heard] == [GeneratorExit]


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
