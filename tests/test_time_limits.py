"""What Aquilia does by time: each limit at its moment, and not before."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from clock_subject import WIDE, opened
from kit_subject import V1

from aquilia.clock import Clock
from aquilia.sockets import (
    Connection,
    Event,
    OnDisconnect,
    RateLimitGuard,
    RateLimitMiddleware,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.testing import sockets_test


@Socket("/limited", message_rate_limit=5)
class Limited(SocketController):
    @Event("hit")
    async def hit(self, conn: Connection) -> None: ...


@Socket("/guarded")
class Guarded(SocketController):
    @Event("hit", guards=[RateLimitGuard(5)])
    async def hit(self, conn: Connection) -> None: ...


@Socket("/wrapped", middleware=[RateLimitMiddleware(5)])
class Wrapped(SocketController):
    @Event("hit")
    async def hit(self, conn: Connection) -> None: ...


@pytest.mark.parametrize(
    ("controller", "path"), [(Limited, "/limited"), (Guarded, "/guarded"), (Wrapped, "/wrapped")]
)
async def test_a_bucket_fills_again_by_its_rate_and_up_to_its_burst(controller: type, path: str) -> None:
    async def passes() -> bool:
        try:
            await ann.request("hit")
        except SocketFault as fault:
            assert fault.code == "WS_RATE_LIMIT_EXCEEDED"
            return False
        return True

    async with sockets_test(controller) as t:
        t.clock.freeze()
        ann = await t.connect(path)
        assert [await passes() for _ in range(11)] == [True] * 10 + [False]
        for _ in range(15):
            await t.clock.advance(0.2)
            assert [await passes(), await passes()] == [True, False]
        await t.clock.advance(3600)
        assert [await passes() for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.parametrize(("pause", "ended"), [(0.52, True), (0.53, False)])
async def test_twenty_refusals_within_ten_seconds_end_a_connection(pause: float, ended: bool) -> None:
    @Socket("/strict", guards=[RateLimitGuard(0.001, 1)])
    class Strict(SocketController):
        @Event("hit")
        async def hit(self, conn: Connection) -> None: ...

    async with sockets_test(Strict) as t:
        t.clock.freeze()
        ann = await t.connect("/strict")
        await ann.request("hit")
        for _ in range(20):
            await ann.send("hit")
            await t.clock.advance(pause)
        if ended:
            assert (await ann.closed(timeout=0.1)).code == 4529
        else:
            with pytest.raises(AssertionError, match="still open"):
                await ann.closed(timeout=0)


@pytest.mark.parametrize("subprotocol", V1)
async def test_who_does_not_say_hello_is_shown_out_at_its_time_and_not_before(subprotocol: str) -> None:
    async with opened(handshake_timeout=10) as t:
        t.clock.freeze()
        mute = await t.connect("/time/x", subprotocol=subprotocol, hello=False)
        polite = await t.connect("/time/x", subprotocol=subprotocol)
        await t.clock.advance(9.999)
        with pytest.raises(AssertionError, match="still open"):
            await mute.closed(timeout=0)

        await t.clock.advance(0.001)

        assert (await mute.closed(timeout=0)).code == 4508
        assert len(await polite.request("now")) == 5


async def test_a_handler_may_take_its_timeout_and_no_longer() -> None:
    async with opened(handler_timeout=30) as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        trying = asyncio.create_task(ann.request("try", 3600))
        await asyncio.sleep(0)
        await t.clock.advance(29.999)
        assert not trying.done()
        await t.clock.advance(0.001)
        with pytest.raises(SocketFault, match="try_it did not finish within 30 s"):
            await trying


async def test_a_request_waits_for_its_ack_as_long_as_it_was_told() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        asking = asyncio.create_task(ann.request("ask", 10))
        await ann.expect("question")
        await t.clock.advance(9.999)
        assert not asking.done()
        await t.clock.advance(0.001)
        with pytest.raises(SocketFault, match="no ack of 'question' within 10 s"):
            await asking


async def test_a_namespace_stays_half_a_minute_behind_its_last_client() -> None:
    async with opened() as t:
        ann = await t.connect("/time/x")
        t.clock.freeze()
        await ann.disconnect()
        await t.clock.advance(29.999)
        assert t.application.sockets.live()["namespaces"] == 1
        await t.clock.advance(0.001)
        assert t.application.sockets.live()["namespaces"] == 0


async def test_a_client_that_comes_back_in_time_finds_its_namespace() -> None:
    async with opened() as t:
        await (await t.connect("/time/x")).disconnect()
        await t.clock.advance(29)
        await t.connect("/time/x")
        await t.clock.advance(300)
        assert t.application.sockets.live()["namespaces"] == 1


async def test_timestamps_and_what_a_connection_tells_of_itself_follow() -> None:
    async with opened() as t:
        t.clock.freeze()
        began = t.clock.time()
        assert began == pytest.approx(time.time(), abs=5)
        ann = await t.connect("/time/x", subprotocol="aquilia.v1.json")
        await t.clock.advance(3600)
        await ann.send("sleep", [0.0])
        assert (await ann.expect("woke")).meta["ts"] == int(t.clock.time() * 1000)
        await t.clock.advance(60)

        loop_time, monotonic, wall, created, heard = await ann.request("now")

        assert loop_time == monotonic == t.clock.monotonic()
        assert wall == t.clock.time()
        assert Clock.current().time() == pytest.approx(time.time(), abs=5)  # the test's own is real
        assert created == pytest.approx(began, abs=WIDE)
        assert heard == pytest.approx(began + 3660, abs=WIDE)
        assert datetime.fromtimestamp(t.clock.time(), UTC).timestamp() - began == pytest.approx(
            3660, abs=WIDE
        )


async def test_publications_have_the_time_of_the_clock() -> None:
    @Socket("/all")
    class All(SocketController):
        @Event("tell")
        async def tell(self, conn: Connection) -> None:
            await self.broadcast("told", None)

    async with sockets_test(All) as t:
        ann = await t.connect("/all", subprotocol="aquilia.v1.json")
        await t.clock.advance(3600)
        await ann.send("tell")
        assert (await ann.expect("told")).meta["ts"] == int(t.clock.time() * 1000)


async def test_a_handler_that_closed_its_connection_has_ten_seconds_left() -> None:
    lines: list[str] = []

    @Socket("/end")
    class Ending(SocketController):
        @Event("end")
        async def end(self, conn: Connection) -> None:
            await conn.disconnect()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lines.append("cancelled")
                raise

        @OnDisconnect()
        async def gone(self, conn: Connection) -> None:
            lines.append("gone")

    async with sockets_test(Ending) as t:
        ann = await t.connect("/end")
        t.clock.freeze()
        await ann.send("end")
        await ann.closed()
        await t.clock.advance(9.999)
        assert lines == []
        await t.clock.advance(0.001)
        assert lines == ["cancelled", "gone"]
