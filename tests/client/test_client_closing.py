"""Clients that are closed at odd moments, used again, many at once, or forgotten: nothing is left of them."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from typing import Any

import pytest
from peer import Peer, client, listener, meet, offline, stopped
from wire import TIMEOUT

from aquilia.client import (
    ConnectionEnded,
    ConnectionLost,
    Message,
    State,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


# Closing


async def test_it_may_be_closed_in_a_handler_and_there_is_nothing_left_of_it(server: Peer) -> None:
    who = client(server.url)
    closed = asyncio.Event()

    @who.on("bye")
    async def bye(message: Message[Any]) -> None:
        await who.close()
        closed.set()

    hand = await meet(server, who)
    await hand.write("event", "bye")
    await closed.wait()
    assert who.state is State.CLOSED
    assert (await hand.ended())[0] == 1000


async def test_it_may_be_closed_in_an_answer(server: Peer) -> None:
    who = client(server.url)
    closed = asyncio.Event()

    @who.answers("bye")
    async def bye(message: Message[Any]) -> None:
        await who.close()
        closed.set()

    hand = await meet(server, who)
    await hand.write("event", "bye", id="s1", ack=True)
    await closed.wait()
    assert (await hand.ended())[0] == 1000


async def test_it_may_be_closed_twice_and_by_several_at_once(server: Peer) -> None:
    who = client(server.url)
    await who.close()
    await meet(server, who)
    await asyncio.gather(who.close(), who.close(), who.close())
    await who.close()
    assert who.ended is not None
    assert who.ended.clean


async def test_it_may_be_closed_while_it_connects() -> None:
    async with asyncio.timeout(TIMEOUT), listener(None) as url:
        who = client(url)
        connecting = asyncio.create_task(who.connect())
        await asyncio.sleep(0)
        assert who.state is State.CONNECTING
        await who.close()
        with pytest.raises(ConnectionEnded, match="closed"):
            await connecting


async def test_it_may_be_closed_before_the_welcome(server: Peer) -> None:
    who = client(server.url)
    connecting = asyncio.create_task(who.connect())
    hand = await server.accept()
    await hand.read()
    await who.close()
    with pytest.raises(ConnectionEnded, match="closed"):
        await connecting
    assert (await hand.ended())[0] == 1000


async def test_it_may_be_closed_while_its_token_is_to_come(server: Peer) -> None:
    asked = asyncio.Event()

    async def never() -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    who = client(server.url, token=never)
    connecting = asyncio.create_task(who.connect())
    await asked.wait()
    await who.close()
    with pytest.raises(ConnectionEnded, match="closed"):
        await connecting


async def test_it_may_be_closed_while_it_waits_to_come_back(server: Peer) -> None:
    who = client(server.url)
    await offline(server, who)
    waiting = asyncio.create_task(who.call("put"))
    await asyncio.sleep(0)
    await who.close()
    with pytest.raises(ConnectionEnded, match="closed"):
        await waiting
    assert server.asked == 1


async def test_a_call_that_is_open_when_it_closes_fails(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    call = asyncio.create_task(who.call("put", timeout=None))
    await hand.read()
    await who.close()
    with pytest.raises(ConnectionLost) as lost:
        await call
    assert lost.value.close_code == 1000


async def test_what_was_sent_before_the_close_arrives_before_it(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    for number in range(100):
        await who.send("n", number)
    closing = asyncio.create_task(who.close())
    assert [(await hand.read())["payload"] for _ in range(100)] == list(range(100))
    assert (await hand.ended())[0] == 1000
    await closing


async def test_a_server_that_takes_nothing_more_and_answers_no_close_is_left_in_time(server: Peer) -> None:
    who = client(server.url, close_timeout=0.2, queue_bytes=64 << 20)
    hand = await meet(server, who)
    hand.socket.transport.pause_reading()
    for _ in range(20):
        await who.send("x", secrets.token_hex(1 << 19))
    began = asyncio.get_running_loop().time()
    await who.close()
    assert asyncio.get_running_loop().time() - began < 2
    assert who.state is State.CLOSED
    hand.cut()


async def test_a_close_that_is_cancelled_leaves_nothing_behind(server: Peer) -> None:
    who = client(server.url, close_timeout=TIMEOUT, queue_bytes=64 << 20)
    hand = await meet(server, who)
    hand.socket.transport.pause_reading()
    for _ in range(20):
        await who.send("x", secrets.token_hex(1 << 19))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(who.close(), 0.05)
    assert who.state is State.CLOSED
    hand.cut()


async def test_an_error_in_the_body_goes_through_and_closes_it(server: Peer) -> None:
    who = client(server.url)
    leading = asyncio.create_task(server.take())
    with pytest.raises(ZeroDivisionError):
        async with who:
            raise ZeroDivisionError
    assert who.state is State.CLOSED
    assert (await (await leading).ended())[0] == 1000


async def test_a_body_that_is_cancelled_closes_it(server: Peer) -> None:
    who = client(server.url)
    entered = asyncio.Event()

    async def body() -> None:
        async with who:
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(body())
    hand = await server.take()
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await hand.ended())[0] == 1000


async def test_connecting_may_be_cancelled(server: Peer) -> None:
    who = client(server.url)
    connecting = asyncio.create_task(who.connect())
    hand = await server.accept()
    await hand.read()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert who.state is State.CLOSED
    assert (await hand.ended())[0] == 1000


# Using it again


async def test_it_may_be_used_again(server: Peer) -> None:
    who = client(server.url, buffer=1)
    hand = await meet(server, who, resume="r")
    unread = who.messages("n")
    await hand.write("event", "n", payload=1)
    call = asyncio.create_task(who.call("put"))
    await hand.ack()
    await call
    await who.close()

    connecting = asyncio.create_task(who.connect())
    hand = await server.accept()
    assert (await hand.greet())["resume"]["token"] == "r"
    await hand.system("resumed", rooms={})
    await connecting
    said = who.messages("n")
    for number in (2, 3):
        await hand.write("event", "n", payload=number)
    assert [(await anext(said)).payload for _ in range(2)] == [2, 3]
    assert [message.payload async for message in unread] == [1]
    await who.close()


async def test_a_handler_that_begins_it_anew_does_not_lose_the_order_of_handlers(server: Peer) -> None:
    who = client(server.url)
    seen: list[Any] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    @who.on("again")
    async def again(message: Message[Any]) -> None:
        await who.close()
        await who.connect()
        began.set()
        await go_on.wait()
        seen.append("again")

    who.on("n")(lambda message: seen.append(message.payload))
    hand = await meet(server, who)
    await hand.write("event", "again")
    hand = await server.take()
    await began.wait()
    for number in range(3):
        await hand.write("event", "n", payload=number)
    call = asyncio.create_task(who.call("put"))
    await hand.ack()
    await call
    assert seen == []
    go_on.set()
    await who.close()
    assert seen == ["again", 0, 1, 2]


async def test_one_that_ended_gives_streams_that_end(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    await hand.close(4403)
    await stopped(who)
    with pytest.raises(ConnectionEnded):
        await anext(who.messages())
    await who.close()


async def test_an_end_that_is_told_often_does_not_grow(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    await hand.close(4403)
    ended = await stopped(who)
    stream = who.messages()
    for _ in range(50):
        for attempt in (who.send("x"), who.call("x"), who.connected(), anext(stream)):
            with pytest.raises(ConnectionEnded):
                await attempt
    frames, trace = 0, ended.__traceback__
    while trace is not None:
        frames, trace = frames + 1, trace.tb_next
    assert frames < 20
    await who.close()


# Many, and the end of a program


async def test_many_in_one_loop_leave_no_task(server: Peer) -> None:
    many = [client(server.url) for _ in range(30)]
    hands = [await meet(server, who) for who in many]
    for hand in hands[:10]:
        await hand.close(4403)
    for hand in hands[10:20]:
        hand.cut()
    for _ in range(10):
        await server.take()
    await asyncio.gather(*(who.close() for who in many))
    assert {who.state for who in many} == {State.CLOSED}


PROGRAM = """
import asyncio
from aquilia.client import Client
from peer import peer, meet

async def main():
    opened = peer()
    server = await opened.__aenter__()
    who = Client(server.url, proxy=None)
    stream = who.messages("n")
    await meet(server, who, heartbeat=0.2)
    reading = asyncio.ensure_future(anext(stream))
    calling = asyncio.create_task(who.call("put"))
    await asyncio.sleep(0)
    {end}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "end", ["return", "await who.close(); await asyncio.gather(reading, calling, return_exceptions=True)"]
)
def test_a_program_that_ends_with_a_client_open_ends_without_a_word(end: str) -> None:
    path = [str(folder) for folder in sys.path if folder]
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM.format(end=end)],
        env={"PYTHONPATH": ":".join(path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
