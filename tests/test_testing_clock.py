"""The clock of a test: everything in the application that goes by time follows it, and nothing in the test does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from clock_subject import WIDE, Journal, Timely, opened

from aquilia import service
from aquilia.sockets import (
    Connection,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.testing import sockets_test, sockets_test_sync


async def told(t: Any) -> list[Any]:
    lines: list[Any] = (await t.application.services.root.get(Journal)).lines
    return lines


# Time that stands still


async def test_a_handler_sleeps_until_the_test_moves_the_time() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        await t.clock.advance(0)
        await ann.send("sleep", [60.0, 30.0])

        await t.clock.advance(59.999)
        await ann.expect_nothing(within=0)
        await t.clock.advance(0.001)
        await ann.expect("woke", timeout=0)
        await t.clock.advance(29.999)
        await ann.expect_nothing(within=0)
        await t.clock.advance(0.001)
        await ann.expect("woke", timeout=0)


async def test_one_advance_passes_through_all_that_becomes_due_in_it() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        await ann.send("sleep", [10.0, 20.0, 30.0])
        await t.clock.advance(60)
        assert [(await ann.expect("woke", timeout=0)).payload for _ in range(3)] == [10, 20, 30]


async def test_timers_fire_in_the_order_of_their_times_and_then_of_their_making() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        await ann.request("later", [(3, "d"), (1, "a"), (2, "b"), (2, "c"), (9, "e"), (0, "now")])
        assert await told(t) == ["now"]
        await t.clock.advance(5)
        assert await told(t) == ["now", "a", "b", "c", "d"]


async def test_each_timer_fires_at_its_own_time() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        begun = t.clock.monotonic()
        await ann.request("spawn")
        await t.clock.advance(3.5)

        ticks = [(await ann.expect("tick", timeout=0)).payload - begun for _ in range(3)]

        assert ticks == pytest.approx([1, 2, 3], abs=WIDE)
        assert t.clock.monotonic() - begun == pytest.approx(3.5, abs=WIDE)
        await ann.expect_nothing(within=0)


async def test_a_cancelled_timer_does_not_fire() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        await ann.request("cancel")
        await t.clock.advance(2)
        assert await told(t) == []


async def test_thousands_of_cancelled_timers_are_in_nobodys_way() -> None:
    async with opened(handler_timeout=1000) as t:
        ann = await t.connect("/time/x")
        await t.clock.advance(0)
        await ann.request("later", [(1, "kept")])
        for _ in range(3000):
            await ann.request("cancel")
        await t.clock.advance(1)
        assert await told(t) == ["kept"]


async def test_a_timeout_in_a_handler_ends_when_the_test_says_so() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        trying = asyncio.create_task(ann.request("try", 3600))
        await asyncio.sleep(0)
        await t.clock.advance(3599)
        assert not trying.done()
        await t.clock.advance(1)
        assert await trying == "too late"


async def test_the_waits_of_the_test_are_in_real_time() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        begun = time.monotonic()
        with pytest.raises(AssertionError, match="while the application's clock stood still"):
            await ann.expect("never", timeout=0.05)
        assert 0.04 < time.monotonic() - begun < 2
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() == pytest.approx(time.monotonic(), abs=0.5)


# What an advance takes and promises


@pytest.mark.parametrize("seconds", [-1, -0.001, float("nan"), float("inf"), True, "1", None])
async def test_what_is_no_length_of_time_is_refused_and_changes_nothing(seconds: Any) -> None:
    async with opened() as t:
        t.clock.freeze()
        before = t.clock.monotonic()
        with pytest.raises(ValueError, match="a finite number of at least 0 is needed, not "):
            await t.clock.advance(seconds)
        assert t.clock.monotonic() == before


async def test_advances_add_up() -> None:
    async with opened() as t:
        t.clock.freeze()
        before = t.clock.monotonic()
        ann = await t.connect("/time/x")
        await ann.send("sleep", [7.0])
        for _ in range(69):
            await t.clock.advance(0.1)
        await ann.expect_nothing(within=0)
        await t.clock.advance(0.1)
        await ann.expect("woke", timeout=0)
        assert t.clock.monotonic() - before == pytest.approx(7, abs=WIDE)


async def test_advances_from_several_tasks_go_one_behind_the_other() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        before = t.clock.monotonic()
        await ann.request("spawn")
        await asyncio.gather(*(t.clock.advance(1) for _ in range(5)))
        ticks = [(await ann.expect("tick", timeout=0)).payload - before for _ in range(5)]
        assert ticks == pytest.approx([1, 2, 3, 4, 5], abs=WIDE)


async def test_a_task_of_the_test_can_answer_while_time_moves() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()

        async def answer() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await ann.ack(await ann.expect("question"), "yes")

        answering = asyncio.create_task(answer())
        asking = asyncio.create_task(ann.request("ask", 10))
        await t.clock.advance(3600)
        assert await asking == "yes"
        await answering


async def test_work_of_many_turns_is_done_before_time_moves_on() -> None:
    async with opened() as t:
        ann, bob = await t.connect("/time/x"), await t.connect("/time/x")
        t.clock.freeze()
        begun = t.clock.monotonic()
        await ann.send("work")
        await bob.request("later", [(1.001, "next")])
        await t.clock.advance(60)
        done, following = await told(t)
        assert (done - begun, following) == (pytest.approx(1, abs=WIDE), "next")


async def test_two_applications_have_two_times() -> None:
    async with opened() as one, opened() as two:
        ann, bob = await one.connect("/time/x"), await two.connect("/time/x")
        one.clock.freeze()
        two.clock.freeze()
        for client in (ann, bob):
            await client.send("sleep", [60.0])
        await one.clock.advance(60)
        await ann.expect("woke", timeout=0)
        await two.clock.advance(59)
        await bob.expect_nothing(within=0)
        await two.clock.advance(1)
        await bob.expect("woke", timeout=0)


async def test_an_application_that_never_rests_is_told_of_in_bounded_time() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        await ann.send("spin")
        with pytest.raises(
            AssertionError, match=r"not come to rest within 0.05 s: of 30 s to advance, 0 have"
        ):
            await t.clock.advance(30, timeout=0.05)


async def test_so_is_one_that_has_too_much_to_do_in_that_time() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        before = t.clock.monotonic()
        await ann.send("spawn")
        with pytest.raises(AssertionError, match=r"not come to rest within 0.05 s: of 1e\+09 s to advance"):
            await t.clock.advance(1e9, timeout=0.05)
        assert before < t.clock.monotonic() < before + 1e9


async def test_the_application_cannot_move_its_own_time() -> None:
    clocks: list[Any] = []

    @Socket("/own")
    class Own(SocketController):
        @Event("move")
        async def move(self, conn: Connection) -> str:
            try:
                await clocks[0].advance(1)
            except RuntimeError as error:
                return str(error)
            return "moved"

    async with sockets_test(Own) as t:
        clocks.append(t.clock)
        ann = await t.connect("/own")
        assert (await ann.request("move")).startswith("advance is for the test")


async def test_another_loop_cannot_move_it() -> None:
    async with opened() as t:

        def elsewhere() -> None:
            asyncio.run(t.clock.advance(1))

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


async def test_an_error_in_a_timer_goes_where_the_loop_s_go(caplog: pytest.LogCaptureFixture) -> None:
    @Socket("/bad")
    class Bad(SocketController):
        @OnConnect()
        async def plan(self, conn: Connection) -> None:
            asyncio.get_running_loop().call_later(5, int, "x")

    async with sockets_test(Bad) as t:
        await t.connect("/bad")
        with caplog.at_level(logging.ERROR, "asyncio"):
            await t.clock.advance(5.1)
    assert "invalid literal for int()" in caplog.text


# Time that passes


async def test_time_is_real_until_it_is_held() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        assert t.clock.monotonic() == pytest.approx(time.monotonic(), abs=0.5)
        await ann.request("sleep", [0.001, 0.001])
        assert await ann.request("try", 0.001) == "too late"


async def test_time_goes_on_from_where_it_stood() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        await ann.send("sleep", [60.0, 0.001])
        await t.clock.advance(59.98)
        await ann.expect_nothing(within=0.03)
        stood = t.clock.monotonic()
        assert t.clock.frozen
        t.clock.resume()
        t.clock.resume()
        assert not t.clock.frozen
        assert t.clock.monotonic() >= stood
        assert [(await ann.expect("woke")).payload for _ in range(2)] == [60, 0.001]


async def test_it_never_goes_back() -> None:
    async with opened() as t:
        seen = [t.clock.monotonic()]
        for _ in range(20):
            t.clock.freeze()
            seen.append(t.clock.monotonic())
            await t.clock.advance(0.0000001)
            seen.append(t.clock.monotonic())
            t.clock.resume()
            seen.append(t.clock.monotonic())
        assert seen == sorted(seen)


async def test_what_was_due_when_time_was_held_is_done() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        await ann.request("later", [(0.001, "due")])
        time.sleep(0.002)  # noqa: ASYNC251  # the loop stands still, and with it the timer
        t.clock.freeze()
        await asyncio.sleep(0)
        assert await told(t) == ["due"]


async def test_an_advance_that_is_overtaken_by_resume_says_so() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        await ann.request("spawn")
        advancing = asyncio.create_task(t.clock.advance(1e9))
        await asyncio.sleep(0)
        t.clock.resume()
        with pytest.raises(RuntimeError, match="let go by `resume`"):
            await advancing


async def test_the_end_of_a_test_does_not_wait_for_time_that_stands_still() -> None:
    async with asyncio.timeout(5):
        async with opened() as t:
            ann = await t.connect("/time/x")
            t.clock.freeze()
            await ann.send("sleep", [1e6])


async def test_the_loop_is_as_it_was_behind_the_last_test() -> None:
    loop = asyncio.get_running_loop()
    before = dict(vars(loop))
    async with opened():
        async with opened():
            pass
        assert vars(loop).keys() > before.keys()
    assert vars(loop).keys() == before.keys()


# Other loops, and tests that are no coroutines


LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
@pytest.mark.parametrize("debug", [False, True])
def test_every_loop_can_be_held(factory: Callable[[], asyncio.AbstractEventLoop], debug: bool) -> None:
    async def check() -> None:
        async with opened(handler_timeout=100) as t:
            ann = await t.connect("/time/x")
            await ann.request("sleep", [0.001])
            t.clock.freeze()
            await ann.send("sleep", [60.0, 30.0])
            await t.clock.advance(89.999)
            assert (await ann.expect("woke", timeout=0.1)).payload == 0.001
            assert (await ann.expect("woke", timeout=0.1)).payload == 60
            await ann.expect_nothing(within=0)
            await t.clock.advance(0.001)
            await ann.expect("woke", timeout=0.1)
            trying = asyncio.create_task(ann.request("try", 3600))
            await asyncio.sleep(0)
            await t.clock.advance(100)
            with pytest.raises(SocketFault, match="WS_OVERLOADED"):
                await trying

    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.run(check())


def test_a_loop_that_cannot_be_held_is_refused() -> None:
    class Sealed:
        __slots__ = ("__weakref__", "call_at", "call_later", "call_soon")

        @property
        def time(self) -> Callable[[], float]:
            return time.monotonic

    from aquilia.testing.looptime import two_times

    sealed: Any = Sealed()
    sealed.call_at = sealed.call_later = sealed.call_soon = None
    with pytest.raises(RuntimeError, match="Sealed does not let a test hold its time"), two_times(sealed):
        pass


def test_a_test_that_is_no_coroutine_has_a_clock_too() -> None:
    with sockets_test_sync(Timely, services=[Journal]) as t:
        ann = t.connect("/time/x", subprotocol="aquilia.v1.cbor")
        t.clock.freeze()
        before = t.clock.monotonic(), t.clock.time()
        ann.send("sleep", [60.0, 0.001])
        t.clock.advance(59.999)
        ann.expect_nothing(within=0)
        t.clock.advance(0.001)
        assert ann.expect("woke", timeout=0).payload == 60
        passed = t.clock.monotonic() - before[0], t.clock.time() - before[1]
        assert passed == pytest.approx((60, 60), abs=WIDE)
        assert t.clock.frozen
        t.clock.resume()
        assert ann.expect("woke").payload == 0.001
        with pytest.raises(ValueError, match="not -1"):
            t.clock.advance(-1)


def test_a_silent_client_of_a_test_that_is_no_coroutine() -> None:
    with sockets_test_sync(Timely, services=[Journal], handshake_timeout=10) as t:
        mute = t.connect("/time/x", subprotocol="aquilia.v1.json", hello=False)
        t.clock.advance(10)
        assert mute.closed().code == 4508


SWEPT: list[str] = []


@service(scope="singleton")
class Cleaner:
    def __init__(self) -> None:
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(3600)
            SWEPT.append("swept")

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@Socket("/swept")
class Swept(SocketController):
    def __init__(self, cleaner: Cleaner) -> None:
        self.cleaner = cleaner

    @OnDisconnect()
    async def leave(self, conn: Connection) -> None:
        await self.cleaner.stop()


async def test_a_service_of_the_application_keeps_its_time() -> None:
    SWEPT.clear()
    async with sockets_test(Swept, services=[Cleaner]) as t:
        ann = await t.connect("/swept")
        await t.clock.advance(2 * 3600)
        assert SWEPT == ["swept"] * 2
        await ann.disconnect()
