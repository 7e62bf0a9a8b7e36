"""Clients that mean harm, for a few seconds: `make abuse ARGS="--seconds 6"`; and that it finds what stays behind."""

from __future__ import annotations

import asyncio

import pytest
from abuse.__main__ import grown
from abuse.workspace.held import held
from loops import on_each_loop
from processes import succeeds


@pytest.mark.timeout(120)
async def test_a_server_holds_no_more_than_before_when_hostile_clients_have_gone() -> None:
    await succeeds("-m", "abuse", "--seconds", "6", seconds=100)


@on_each_loop
async def test_timers_that_nobody_cancels_are_found_on_either_loop() -> None:
    async def nothing_is_left() -> list[str]:
        await asyncio.sleep(0.01)  # a loop lets go of a timer in its next turn
        return [problem for problem in grown(before, held()) if problem.startswith("timers")]

    loop = asyncio.get_running_loop()
    before = held()
    timers = [loop.call_later(1000, print) for _ in range(50)]
    for timer in timers[:45]:
        timer.cancel()
    assert await nothing_is_left() == [f"timers: {before['timers']} became {before['timers'] + 5}"]
    timers[45].cancel()
    assert await nothing_is_left() == []
    for timer in timers:
        timer.cancel()
