"""How links end, and what follows: close codes, tokens, silence, and servers that go away."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from peer import Peer, client, meet, peer, stopped
from wire import TIMEOUT, eventually

from aquilia.client import (
    ConnectionEnded,
    ConnectionLost,
    Disconnected,
    GoAway,
    State,
)


@pytest.fixture
async def server() -> AsyncIterator[Peer]:
    async with asyncio.timeout(TIMEOUT), peer(max_size=None) as server:
        yield server


# Codes


@pytest.mark.parametrize(
    "code", [1000, 1002, 1003, 1007, 1008, 1009, 4400, 4402, 4403, 4404, 4409, 4410, 4429, 4499]
)
async def test_these_codes_end_it(server: Peer, code: int) -> None:
    who = client(server.url, keep_trying=True)
    hand = await meet(server, who)
    call = asyncio.create_task(who.call("put"))
    await hand.read()
    await hand.close(code, "WS_SAID: why")
    with pytest.raises(ConnectionLost) as lost:
        await call
    assert lost.value.close_code == code
    ended = await stopped(who)
    assert (ended.close_code, ended.code, ended.retryable) == (code, "WS_SAID", False)
    assert (server.asked, who.state) == (1, State.CLOSED)
    await who.close()


@pytest.mark.parametrize(
    "code", [1001, 1011, 1012, 1013, 1014, 3000, 4000, 4399, 4500, 4508, 4529, 4531, 4599, 4999]
)
async def test_behind_these_codes_it_comes_back(server: Peer, code: int) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    news = who.stream(Disconnected)
    await hand.close(code, "why")
    assert (await anext(news)).code == code
    await server.take()
    await who.connected()
    await who.close()


@pytest.mark.parametrize(("frame", "code"), [(b"\x88\x00", 1005), (None, 1006)])
async def test_without_a_code_it_comes_back(server: Peer, frame: bytes | None, code: int) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    news = who.stream(Disconnected)
    if frame is None:
        hand.cut()
    else:
        hand.socket.transport.write(frame)
    assert (await anext(news)).code == code
    await server.take()
    await who.connected()
    await who.close()


async def test_a_server_that_welcomes_and_goes_is_asked_less_and_less_often(server: Peer) -> None:
    who = client(server.url, random=lambda: 1.0, backoff_base=0.001, backoff_cap=0.016)
    hand = await meet(server, who)
    news, waits = who.stream(Disconnected), []
    for _ in range(7):
        hand.cut()
        waits.append((await anext(news)).retry_in)
        hand = await server.take()
        await who.connected()
    assert waits == [0.001, 0.002, 0.004, 0.008, 0.016, 0.016, 0.016]
    await who.close()


async def test_one_that_took_the_session_over_may_be_left_to_it_or_joined(server: Peer) -> None:
    who = client(server.url, rejoin_after_takeover=True)
    hand = await meet(server, who, resume="r")
    await hand.close(4410)
    assert "resume" not in await (await server.accept()).greet()
    await who.connected()
    await who.close()


# Tokens


async def test_behind_4401_a_fresh_token_is_asked_for(server: Peer) -> None:
    tokens = iter(["first", "second", "third"])

    async def token() -> str:
        return next(tokens)

    who = client(server.url, token=token)
    connecting = asyncio.create_task(who.connect())
    hand = await server.accept()
    assert (await hand.greet())["token"] == "first"
    await connecting
    for expected in ("second", "third"):
        await hand.close(4401, "WS_TOKEN_EXPIRED")
        hand = await server.accept()
        assert (await hand.greet())["token"] == expected
        await who.connected()
    await who.close()


async def test_a_fresh_token_that_is_refused_too_ends_it(server: Peer) -> None:
    who = client(server.url, token=lambda: "the same")
    hand = await meet(server, who)
    await hand.close(4401)
    hand = await server.accept()
    await hand.read()
    await hand.close(4401, "WS_AUTH_REQUIRED: not you")
    ended = await stopped(who)
    assert (ended.close_code, ended.code, server.asked) == (4401, "WS_AUTH_REQUIRED", 2)
    await who.close()


@pytest.mark.parametrize("given", ["first", lambda: "first"])
async def test_a_client_that_ended_for_want_of_a_token_goes_on_with_the_one_that_it_is_shown(
    server: Peer, given: Any
) -> None:
    who = client(server.url, token=given)
    hand = await meet(server, who)
    await hand.close(4401)
    if callable(given):
        hand = await server.accept()
        await hand.read()
        await hand.close(4401)
    await stopped(who)
    shown = asyncio.create_task(who.authenticate("second"))
    hand = await server.accept()
    assert (await hand.greet())["token"] == "second"
    await shown
    assert who.state is State.CONNECTED
    await who.close()


async def test_a_token_that_is_shown_while_it_is_away_is_the_next_that_it_says(server: Peer) -> None:
    who = client(server.url, token=lambda: "of the function")
    hand = await meet(server, who)
    states = who.states()
    hand.cut()
    assert await anext(states) is State.RECONNECTING
    await who.authenticate("shown")
    hand = await server.accept()
    assert (await hand.greet())["token"] == "shown"
    await who.connected()
    hand.cut()
    assert (await (await server.accept()).greet())["token"] == "of the function"
    await who.close()


@pytest.mark.parametrize("kind", ["token", "ticket"])
async def test_a_function_that_fails_is_told_once_until_it_works_again(
    server: Peer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.INFO, "aquilia.client")
    failing, asked = 0, 0

    def from_the_vault() -> str:
        nonlocal failing, asked
        asked += 1
        if failing:
            failing -= 1
            raise OSError("the disk is gone")
        return "secret"

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "vault" in record.getMessage()]

    who = client(server.url, **{kind: from_the_vault})
    hand = await meet(server, who)
    for _ in range(2):
        caplog.clear()
        failing, asked = 3, 0
        hand.cut()
        hand = await server.accept()
        await hand.greet()
        await who.connected()
        assert asked == 4
        failed, works = told()
        assert f"gave no {kind}" in failed
        assert "OSError('the disk is gone')" in failed
        assert f"gives {kind}s again, after 3 failures" in works
        assert all(record.exc_info is None for record in caplog.records)
    await who.close()


@pytest.mark.parametrize("given", ["old", lambda: "old"])
async def test_a_token_that_is_shown_while_it_dials_is_the_one_that_it_says(server: Peer, given: Any) -> None:
    who = client(server.url, token=given)
    server.door.clear()
    connecting = asyncio.create_task(who.connect())
    await eventually(lambda: server.asked == 1)
    await who.authenticate("new")
    server.door.set()
    hand = await server.accept()
    assert (await hand.greet())["token"] == "new"
    await connecting
    await who.close()


async def test_a_token_that_is_shown_while_the_function_is_asked_goes_before_its_own(server: Peer) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def token() -> str:
        asked.set()
        await answered.wait()
        return "old"

    who = client(server.url, token=token)
    connecting = asyncio.create_task(who.connect())
    await asked.wait()
    await who.authenticate("new")
    answered.set()
    hand = await server.accept()
    assert (await hand.greet())["token"] == "new"
    await connecting
    await who.close()


async def test_a_token_that_is_not_believed_on_an_open_link_ends_the_client(server: Peer) -> None:
    who = client(server.url, token="first")
    hand = await meet(server, who)
    shown = asyncio.create_task(who.authenticate("second"))
    asked = await hand.read()
    assert (asked["type"], asked["event"], asked["payload"]) == ("control", "auth", {"token": "second"})
    await hand.close(4401, "WS_AUTH_REQUIRED")
    with pytest.raises(ConnectionEnded) as ended:
        await shown
    assert ended.value.close_code == 4401
    await who.close()


# Silence


async def test_a_server_that_falls_silent_is_left_within_two_heartbeats(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who, heartbeat=0.2)
    news = who.stream(Disconnected)
    began = asyncio.get_running_loop().time()
    assert (await hand.read())["event"] == "ping"
    gone = await anext(news)
    assert (gone.code, "silent" in gone.reason) == (1006, True)
    assert 0.35 < asyncio.get_running_loop().time() - began < 5.0
    await server.take()
    await who.connected()
    await who.close()


async def test_a_server_that_answers_pings_is_not_left_however_long_nothing_is_said(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who, heartbeat=0.04)
    for _ in range(10):
        assert (await hand.read())["event"] == "ping"
        await hand.write("system", "pong")
    assert (who.state, server.asked) == (State.CONNECTED, 1)
    await who.close()


async def test_pings_of_the_link_itself_are_signs_of_life(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who, heartbeat=0.6)
    for _ in range(12):
        await (await hand.socket.ping())
        with pytest.raises(TimeoutError):  # nothing was asked
            await asyncio.wait_for(hand.read(), 0.1)
    await who.close()


async def test_a_server_that_takes_nothing_more_is_left_though_much_waits_to_be_written(
    server: Peer,
) -> None:
    who = client(server.url, queue_bytes=64 << 20, close_timeout=0.1)
    hand = await meet(server, who, heartbeat=0.2)
    news = who.stream(Disconnected)
    hand.socket.transport.pause_reading()
    for _ in range(40):
        await who.send("x", secrets.token_hex(1 << 19))  # which no compression makes small
    assert "silent" in (await anext(news)).reason
    hand.cut()
    await server.take()
    await who.connected()
    await who.close()


# Going away


async def test_who_is_told_to_go_again_and_again_goes_once(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    news = who.stream(GoAway, Disconnected)
    await hand.system("goaway", reason="a", reconnect_in=1)
    await hand.system("goaway", reason="b", reconnect_in=2)
    assert (await hand.ended())[0] == 1001
    while not isinstance(await anext(news), Disconnected):
        pass
    await server.take()
    await who.connected()
    await who.close()
