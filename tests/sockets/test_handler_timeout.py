"""The time limit of `@OnConnect` and `@OnDisconnect`: what becomes of one that takes longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aquilia import Fault, service
from aquilia.sockets import (
    Connection,
    DisconnectReason,
    Event,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.testing import SocketsTest, sockets_test

V1 = "aquilia.v1.json"
NOTES: list[str] = []


async def for_ever(note: str) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        NOTES.append(note)


@service(scope="connection")
async def slow() -> AsyncIterator[int]:
    await for_ever("injection cancelled")
    yield 1


@Socket("/hall/:kind")
class Hall(SocketController):
    def __init__(self) -> None:
        self.kind = self.path_params["kind"]

    @OnConnect()
    async def enter(self, conn: Connection) -> None:
        match self.kind:
            case "slow":
                await for_ever("enter cancelled")
            case "own":
                raise TimeoutError("not ours")
            case "patient":
                async with asyncio.timeout(5):
                    await asyncio.sleep(0)

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        await conn.send_event("hi")

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("wait")
    async def wait(self, conn: Connection) -> None:
        await for_ever("wait cancelled")

    @OnDisconnect()
    async def leave(self, conn: Connection, reason: DisconnectReason) -> None:
        match self.kind:
            case "slow-leave":
                await for_ever("leave cancelled")
            case "faulty-leave":
                raise Fault("BROKEN_DOOR", "it does not open")

    @OnDisconnect()
    async def note(self, conn: Connection, reason: DisconnectReason) -> None:
        NOTES.append(f"left {reason.code}")


@Socket("/injected")
class Injected(SocketController):
    @OnConnect()
    async def enter(self, conn: Connection, number: int) -> None:
        NOTES.append("entered")


@pytest.fixture
async def t() -> AsyncIterator[SocketsTest]:
    NOTES.clear()
    async with sockets_test(Hall, Injected, services=[slow], handler_timeout=0.05) as t:
        yield t


@pytest.mark.parametrize("subprotocol", [(), V1])
async def test_an_opening_that_takes_too_long_ends_the_connection_as_an_overload(
    t: SocketsTest, subprotocol: Any
) -> None:
    client = await t.connect("/hall/slow", subprotocol=subprotocol)

    assert await client.closed() == (1013, "WS_OVERLOADED: enter did not finish within 0.05 s")

    await client.disconnect()
    assert NOTES == ["enter cancelled", "left 1013"]
    await client.expect_nothing()  # the second @OnConnect never ran


async def test_an_event_that_takes_too_long_is_answered_alike_and_the_connection_goes_on(
    t: SocketsTest,
) -> None:
    client = await t.connect("/hall/x")

    with pytest.raises(SocketFault, match="WS_OVERLOADED: wait did not finish"):
        await client.request("wait")

    assert await client.request("echo", 1) == 1


async def test_the_limit_holds_for_what_is_injected_too(t: SocketsTest) -> None:
    client = await t.connect("/injected")

    assert (await client.closed()).code == 1013
    assert NOTES == ["injection cancelled"]


async def test_a_hook_may_have_timeouts_of_its_own(t: SocketsTest) -> None:
    client = await t.connect("/hall/patient")
    await client.expect("hi")
    assert await client.request("echo", 1) == 1


async def test_a_timeout_of_its_own_is_an_error_of_its_own(
    t: SocketsTest, caplog: pytest.LogCaptureFixture
) -> None:
    client = await t.connect("/hall/own")

    code, text = await client.closed()

    assert code == 1011
    assert text.split()[-1] in caplog.text  # the incident
    assert "not ours" in caplog.text


async def test_an_end_that_takes_too_long_is_cancelled_and_logged_with_its_place(
    t: SocketsTest, caplog: pytest.LogCaptureFixture
) -> None:
    client = await t.connect("/hall/slow-leave")

    await client.disconnect(1000)

    assert NOTES == ["leave cancelled", "left 1000"]
    (record,) = [each for each in caplog.records if "leave" in each.getMessage()]
    line = Hall.leave.__code__.co_firstlineno
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"Hall.leave ({__file__}:{line}) ended with WS_OVERLOADED: leave did not finish within 0.05 s"
    )
    assert t.application.sockets.live()["connections"] == 0


async def test_a_fault_at_the_end_is_logged_since_nobody_is_left_to_be_told(
    t: SocketsTest, caplog: pytest.LogCaptureFixture
) -> None:
    client = await t.connect("/hall/faulty-leave")

    await client.disconnect(1000)

    assert "ended with BROKEN_DOOR: it does not open" in caplog.text
    assert NOTES == ["left 1000"]


async def test_without_a_limit_hooks_take_their_time() -> None:
    NOTES.clear()
    async with sockets_test(Hall) as t:
        client = await t.connect("/hall/slow")
        with pytest.raises(AssertionError):
            await client.closed(timeout=0.2)
        await client.disconnect(1000)

    assert NOTES == ["enter cancelled", "left 1000"]
