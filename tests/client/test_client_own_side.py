"""What a client's own program does to it: it closes at odd moments, cancels, blocks, raises, and uses it again."""

from __future__ import annotations

import asyncio
import gc
import math
import secrets
from typing import Any

import pytest
from peer import Peer, client, meet, offline

from aquilia.client import (
    AckTimeout,
    ConnectionEnded,
    ConnectionLost,
    Message,
    QueueFull,
    State,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


# Handlers


async def test_a_handler_that_raises_is_logged_and_the_others_go_on(
    server: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    who = client(server.url)
    seen: list[Any] = []

    @who.on("n")
    def fails(message: Message[Any]) -> None:
        raise ZeroDivisionError

    who.on("n")(lambda message: seen.append(message.payload))
    hand = await meet(server, who)
    for number in range(3):
        await hand.write("event", "n", payload=number)
    while len(seen) < 3:
        await asyncio.sleep(0)
    assert len([record for record in caplog.records if "failed" in record.message]) == 3
    assert who.state is State.CONNECTED
    await who.close()


async def test_a_handler_that_takes_long_holds_up_no_heartbeat_and_no_call(server: Peer) -> None:
    who = client(server.url)
    go_on = asyncio.Event()

    @who.on("slow")
    async def slow(message: Message[Any]) -> None:
        await go_on.wait()

    hand = await meet(server, who, heartbeat=0.04)
    await hand.write("event", "slow")
    for _ in range(4):
        assert (await hand.read())["event"] == "ping"
        await hand.write("system", "pong")
    call = asyncio.create_task(who.call("put"))
    while (message := await hand.read())["event"] != "put":
        await hand.write("system", "pong")
    await hand.write("ack", id=message["id"], payload={"status": "ok", "data": 1})
    assert await call == 1
    go_on.set()
    await who.close()


async def test_a_handler_may_call_though_more_comes_meanwhile(server: Peer) -> None:
    who = client(server.url, buffer=4)
    answers: list[Any] = []

    @who.on("n")
    async def ask(message: Message[Any]) -> None:
        answers.append(await who.call("ask", message.payload))

    hand = await meet(server, who)
    for number in range(4):
        for more in range(4):
            await hand.write("event", "n", payload=number * 4 + more)
        await hand.ack(status="ok", data=number)
    for number in range(4, 16):
        await hand.ack(status="ok", data=number)
    while len(answers) < 16:
        await asyncio.sleep(0)
    assert answers == list(range(16))
    await who.close()


async def test_a_handler_whose_ack_is_behind_too_much_goes_on_when_its_time_is_over(server: Peer) -> None:
    who = client(server.url, buffer=1)
    seen: list[Any] = []

    @who.on("n")
    async def ask(message: Message[Any]) -> None:
        if message.payload == 0:
            with pytest.raises(AckTimeout):
                await who.call("ask", timeout=0.1)
        seen.append(message.payload)

    hand = await meet(server, who)
    await hand.write("event", "n", payload=0)
    asked = await hand.read()
    for number in range(1, 40):
        await hand.write("event", "n", payload=number)
    await hand.write("ack", id=asked["id"], payload={"status": "ok"})
    while len(seen) < 40:
        await asyncio.sleep(0)
    assert seen == list(range(40))
    await who.close()


# Calls, and what waits


async def test_a_call_that_is_cancelled_while_it_waits_is_never_sent(server: Peer) -> None:
    who = client(server.url, backoff_base=0.01)
    hand = await meet(server, who)
    states = who.states()
    hand.cut()
    assert await anext(states) is State.RECONNECTING
    calls = [asyncio.create_task(who.call("put", number)) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.wait([calls[1]])
    hand = await server.take()
    assert [(await hand.ack())["payload"] for _ in range(2)] == [0, 2]
    await asyncio.gather(calls[0], calls[2])
    await who.close()


async def test_a_call_that_is_cancelled_takes_no_answer_of_another(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    first = asyncio.create_task(who.call("put", 1))
    sent = await hand.read()
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(who.call("put", 2))
    await hand.write("ack", id=sent["id"], payload={"status": "ok", "data": 1})
    await hand.ack(status="ok", data=2)
    assert await second == 2
    await who.close()


async def test_what_is_said_while_it_is_away_waits_in_order_and_up_to_the_bound(server: Peer) -> None:
    who = client(server.url, queue_size=4)
    hand = await meet(server, who)
    states = who.states()
    hand.cut()
    assert await anext(states) is State.RECONNECTING
    call = asyncio.create_task(who.call("b"))
    await who.send("a")
    await asyncio.sleep(0)
    await who.send("c")
    await who.send("d")
    with pytest.raises(QueueFull) as full:
        await who.send("e")
    assert full.value.messages == 4
    hand = await server.take()
    assert [(await hand.read())["event"] for _ in range(2)] == ["a", "b"]
    await who.close()
    with pytest.raises(ConnectionLost):
        await call


async def test_a_call_that_waits_for_a_link_runs_out_of_time_unsent(server: Peer) -> None:
    who = client(server.url)
    await offline(server, who)
    with pytest.raises(AckTimeout) as late:
        await who.call("put", timeout=0.05)
    assert not late.value.sent
    await who.close()


@pytest.mark.parametrize(("code", "fault"), [(4403, ConnectionEnded), (1013, QueueFull)])
async def test_who_waits_for_room_in_the_queue_is_told_when_there_is_no_link_any_more(
    server: Peer, code: int, fault: type[Exception]
) -> None:
    who = client(server.url, queue_size=1, backoff_base=30, backoff_cap=30, random=lambda: 1.0)
    hand = await meet(server, who)
    hand.socket.transport.pause_reading()

    async def flood() -> None:
        while True:
            await who.send("x", secrets.token_hex(1 << 19))

    flooding = asyncio.create_task(flood())
    for _ in range(200):
        await asyncio.sleep(0)
    assert not flooding.done()
    hand.socket.transport.write(b"\x88\x02" + code.to_bytes(2))
    hand.socket.transport.resume_reading()
    with pytest.raises(fault):
        await flooding
    await who.close()


@pytest.mark.parametrize("timeout", [0, -1, -5.0, math.nan, "soon", True])
async def test_a_timeout_that_is_none_is_told(server: Peer, timeout: Any) -> None:
    who = client(server.url)
    await meet(server, who)
    with pytest.raises(ValueError, match="timeout is"):
        await who.call("put", timeout=timeout)
    await who.close()


@pytest.mark.parametrize("name", ["call_timeout", "close_timeout"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "soon"])
def test_times_that_are_none_are_told_at_once(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        client("ws://x/", **{name: value})


# Listening


@pytest.mark.parametrize(
    ("what", "told"),
    [(int, "no kind of notice: Connected"), ("", "1 to 128"), (5, "1 to 128"), ("error", "Rejected")],
)
def test_what_never_comes_is_told_at_once(what: Any, told: str) -> None:
    who = client("ws://x/")
    for listen in (who.on, who.stream):
        with pytest.raises(ValueError, match=told):
            listen(what)


# Readers


async def test_of_two_readers_of_one_stream_each_gets_what_the_other_does_not(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    stream = who.messages("n")
    got: list[list[int]] = [[], []]

    async def read(mine: list[int]) -> None:
        async for message in stream:
            mine.append(message.payload)
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read(mine)) for mine in got]
    for number in range(50):
        await hand.write("event", "n", payload=number)
    while sum(map(len, got)) < 50:
        await asyncio.sleep(0)
    await who.close()
    await asyncio.gather(*readers)
    assert sorted(got[0] + got[1]) == list(range(50))
    assert [sorted(mine) for mine in got] == got


async def test_a_reader_who_asks_often_and_in_vain_leaves_nothing_behind(server: Peer) -> None:
    who = client(server.url)
    await meet(server, who)
    stream = who.messages("n")

    def futures() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "Future" for thing in gc.get_objects())

    before = futures()
    for _ in range(200):
        asking = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    assert futures() < before + 50
    await who.close()
