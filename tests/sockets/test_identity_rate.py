"""Rates of identities in one process: they are exact, and for all connections together."""

from __future__ import annotations

from typing import Any

import pytest

from aquilia import Identity
from aquilia.clock import Clock
from aquilia.sockets import Connection, Event, Socket, SocketController, SocketFault
from aquilia.sockets.adapters.inmemory import InMemoryStore
from aquilia.sockets.limits.identity_rates import IdentityRate
from aquilia.sockets.metrics.recorder import Counters
from aquilia.sockets.tasks import TaskSet
from aquilia.testing import Client, SocketsTest, sockets_test

ANN, BEN = Identity("ann"), Identity("ben")
REFUSED = "WS_RATE_LIMIT_EXCEEDED"


@Socket("/hall")
class Hall(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> int:
        return len(payload)


@Socket("/other")
class Other(Hall): ...


async def outcome(client: Client, size: int = 1) -> str:
    try:
        await client.request("echo", "x" * size)
    except SocketFault as fault:
        return fault.code
    return "ok"


async def passed(clients: list[Client], messages: int) -> int:
    """How many of so many messages pass, sent by the clients in turn."""
    return [await outcome(clients[n % len(clients)]) for n in range(messages)].count("ok")


def limited(t: SocketsTest, limit: str) -> int:
    recorder = t.application.sockets.recorder
    assert isinstance(recorder, Counters)
    return recorder.counts["limited", "/hall", limit]


@pytest.mark.parametrize("rate", [0.5, 4, 10, 50])
async def test_all_connections_of_an_identity_have_one_rate_and_twice_that_at_once(rate: float) -> None:
    async with sockets_test(Hall, Other, identity_rate_limit=rate) as t:
        t.clock.freeze()
        clients = [await t.connect(path, identity=ANN) for path in ("/hall", "/hall", "/other") * 4]
        burst = int(2 * rate)
        assert await passed(clients, burst + 10) == burst
        for _ in range(4):
            await t.clock.advance(2)
            assert await passed(clients, burst + 10) == burst
        await t.clock.advance(3600)
        assert await passed(clients, burst + 10) == burst


async def test_a_message_passes_as_soon_as_there_is_a_token_for_it() -> None:
    async with sockets_test(Hall, identity_rate_limit=4) as t:
        t.clock.freeze()
        clients = [await t.connect("/hall", identity=ANN) for _ in range(2)]
        assert await passed(clients, 8) == 8
        await t.clock.advance(0.2)
        assert await passed(clients, 2) == 0
        await t.clock.advance(0.05)
        assert await passed(clients, 2) == 1


async def test_who_is_refused_is_told_and_counted_and_no_other_identity_is_touched() -> None:
    async with sockets_test(Hall, identity_rate_limit=1) as t:
        t.clock.freeze()
        ann, ben = await t.connect("/hall", identity=ANN), await t.connect("/hall", identity=BEN)
        assert await passed([ann], 2) == 2
        with pytest.raises(SocketFault) as refused:
            await ann.request("echo", "x")
        assert (refused.value.code, refused.value.retryable) == (REFUSED, True)
        assert refused.value.message == "more than 1 messages a second, of all connections of this identity"
        assert limited(t, "identity_rate_limit") == 1
        assert await passed([ben], 2) == 2


async def test_coming_back_brings_no_new_tokens() -> None:
    async with sockets_test(Hall, identity_rate_limit=1) as t:
        t.clock.freeze()
        ann = await t.connect("/hall", identity=ANN)
        assert await passed([ann], 3) == 2
        await ann.disconnect()
        assert await passed([await t.connect("/hall", identity=ANN)], 3) == 0


async def test_who_is_anonymous_is_not_limited_by_it() -> None:
    async with sockets_test(Hall, identity_rate_limit=1, identity_byte_rate_limit=1) as t:
        assert await passed([await t.connect("/hall")], 20) == 20


async def test_who_goes_on_is_closed_with_4529() -> None:
    async with sockets_test(Hall, identity_rate_limit=1) as t:
        t.clock.freeze()
        ann = await t.connect("/hall", identity=ANN, subprotocol="aquilia.v1.json")
        assert await passed([ann], 21) == 2
        await ann.send("echo", "x")
        assert (await ann.closed()).code == 4529


async def test_what_a_connections_own_limit_refuses_costs_its_identity_nothing() -> None:
    async with sockets_test(Hall, message_rate_limit=1, identity_rate_limit=2) as t:
        t.clock.freeze()
        first, second = [await t.connect("/hall", identity=ANN) for _ in range(2)]
        assert await passed([first], 10) == 2
        assert limited(t, "message_rate_limit") == 8
        assert await passed([second], 2) == 2
        assert limited(t, "identity_rate_limit") == 0


async def test_bytes_pass_while_any_are_left_and_those_too_many_are_owed() -> None:
    async with sockets_test(Hall, identity_byte_rate_limit=1000) as t:
        t.clock.freeze()
        first, second = [await t.connect("/hall", identity=ANN) for _ in range(2)]
        assert await outcome(first, 5000) == "ok"
        with pytest.raises(SocketFault, match="more than 1000 bytes a second, of all connections"):
            await second.request("echo", "x")
        assert limited(t, "identity_byte_rate_limit") == 1
        await t.clock.advance(3)
        assert await outcome(first) == REFUSED
        await t.clock.advance(1)
        assert await outcome(second) == "ok"


def held(clock: list[float], limit: int) -> IdentityRate:
    at = Clock(lambda: clock[0], lambda: clock[0])
    return IdentityRate("identity_rate_limit", 1, InMemoryStore(at.monotonic), TaskSet(), at, limit=limit)


async def test_identities_are_forgotten_a_minute_after_they_could_send_all_again() -> None:
    clock = [0.0]
    rate = held(clock, limit=1000)
    for n in range(100):
        rate.take(n, 1.0, clock[0])
    assert len(rate) == 100
    clock[0] = 59.0
    rate.take("new", 1.0, clock[0])
    assert len(rate) == 101
    clock[0] = 62.0
    for n in range(51):
        rate.take(f"new {n}", 1.0, clock[0])
    assert len(rate) == 52


async def test_so_many_identities_are_remembered_at_most() -> None:
    rate = held([0.0], limit=100)
    for n in range(1000):
        rate.take(n, 1.0, 0.0)
    assert len(rate) == 100
