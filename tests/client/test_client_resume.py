"""The client and real servers: links are cut, servers are killed, and it comes back to what it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, broker_of
from ports import reserved_port
from relay import Relay, ServerProcess
from resume_app import hall
from wire import serving

from aquilia.client import Client, Connected, ConnectionEnded, Disconnected, Gap, Left, Position, Resumed

ROOM = "log:a"


@pytest.fixture
async def base() -> AsyncIterator[str]:
    async with serving(hall()) as base:
        yield base


@pytest.fixture
async def relay(base: str) -> AsyncIterator[Relay]:
    async with Relay.open(base) as relay:
        yield relay


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with broker_of(request.param, tmp_path / "broker") as server:
        yield server


def client(base: str, codec: str = "json", **options: Any) -> Client:
    return Client(f"{base}/hall", codec=codec, proxy=None, backoff_base=0.02, backoff_cap=0.2, **options)


async def entered(who: Client, room: str = ROOM) -> None:
    await who.call("enter", room)


async def say(base: str, numbers: range, room: str = ROOM) -> None:
    async with client(base, call_timeout=30) as other:
        await other.call("say", [room, list(numbers)])


async def numbers(stream: Any, count: int) -> list[int]:
    return [(await anext(stream)).payload for _ in range(count)]


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    async with asyncio.timeout(40):
        yield


@pytest.mark.parametrize("codec", ["json", "msgpack", "cbor"])
async def test_it_comes_back_ten_times_though_nothing_is_said_in_between(
    base: str, relay: Relay, codec: str
) -> None:
    async with client(relay.url, codec) as ada:
        news, said = ada.stream(Connected, Resumed), ada.messages("said")
        await entered(ada)
        await ada.call("set", {"n": [1, "ä"]})
        connections = set()
        for _ in range(10):
            relay.cut()
            connections.add((await anext(news)).connection)
            resumed = await anext(news)
            assert {room: told.recovered for room, told in resumed.rooms.items()} == {ROOM: True, "": True}
        assert len(connections) == 1
        assert await ada.call("get") == {"n": [1, "ä"]}
        await say(base, range(3))
        assert await numbers(said, 3) == [0, 1, 2]
        await ada.call("get")
        assert said._backlog() == 0


@pytest.mark.parametrize("codec", ["json", "msgpack", "cbor"])
async def test_what_was_said_while_it_was_away_comes_once_and_in_order(
    base: str, relay: Relay, codec: str
) -> None:
    """Far more than one page of the log, and than the outbox takes at once."""
    async with client(relay.url, codec) as ada:
        said, gaps = ada.messages("said"), ada.stream(Gap)
        await entered(ada)
        port, relay.target = relay.target, 1
        relay.cut()
        await say(base, range(6000))
        relay.target = port
        assert await numbers(said, 6000) == list(range(6000))
        await say(base, range(6000, 6003))
        assert await numbers(said, 3) == [6000, 6001, 6002]
        assert gaps._backlog() == 0


async def test_what_was_sent_to_it_directly_comes_too(relay: Relay) -> None:
    async with client(relay.url) as ada:
        told = ada.messages("told")
        relay.swallowing = True
        relay.cut()
        await relay.swallowed.wait()
        relay.swallowing = False
        relay.cut()
        await ada.connected()
        await ada.call("here", 5)
        relay.cut()
        await ada.call("here", 5, idempotent=True)
        assert await numbers(told, 10) == [*range(5), *range(5)]


async def test_a_welcome_that_is_lost_costs_nothing(base: str, relay: Relay) -> None:
    async with client(relay.url) as ada:
        said, news = ada.messages("said"), ada.stream(Resumed)
        await entered(ada)
        for _ in range(3):
            relay.swallowing = True
            relay.swallowed.clear()
            relay.cut()
            await relay.swallowed.wait()
            relay.swallowing = False
            await say(base, range(2))
            relay.cut()
            assert (await anext(news)).rooms[ROOM].recovered
            assert await numbers(said, 2) == [0, 1]


async def test_of_two_with_one_token_the_older_stops(base: str) -> None:
    async with client(base) as ada:
        await entered(ada)
        ended = ada.stream(Disconnected)
        tab = client(base)
        tab._session._resume = ada._session._resume  # as a duplicated tab has it
        async with tab:
            assert (await anext(ended)).code == 4410
            with pytest.raises(ConnectionEnded) as stopped:
                await ada.call("get")
            assert stopped.value.close_code == 4410
            said = tab.messages("said")
            await say(base, range(1))
            assert await numbers(said, 1) == [0]


@pytest.mark.parametrize("spoil", ["forged", "future", "epoch"])
async def test_what_cannot_be_resumed_is_told(base: str, relay: Relay, spoil: str) -> None:
    async with client(relay.url) as ada:
        said, news = ada.messages("said"), ada.stream(Resumed, Gap, Left)
        await entered(ada)
        await say(base, range(1))
        assert await numbers(said, 1) == [0]
        at = ada.rooms[ROOM]
        assert at is not None
        if spoil == "forged":
            ada._session._resume = "forged"
        else:
            place = Position(at.epoch, at.offset + 9) if spoil == "future" else Position("other", 1)
            ada._session.positions._at[ROOM] = place
        relay.cut()
        assert not (await anext(news)).rooms[ROOM].recovered
        gap = await anext(news)
        assert (gap.cause, gap.room) == ("not_recovered", ROOM)
        if spoil == "forged":
            while (left := await anext(news)) != Left(room=ROOM, resumed=False):
                assert isinstance(left, Gap)
            assert ada.rooms == {}
            await entered(ada)
        await say(base, range(5, 6))
        assert await numbers(said, 1) == [5]


async def test_what_the_log_has_let_go_of_is_told_as_a_gap(base: str, relay: Relay) -> None:
    async with client(relay.url) as ada:
        news = ada.stream("said", Resumed, Gap)
        await entered(ada, "short")
        port, relay.target = relay.target, 1
        relay.cut()
        await say(base, range(300), "short")
        relay.target = port
        assert not (await anext(news)).rooms["short"].recovered
        assert (await anext(news)).cause == "not_recovered"
        await say(base, range(300, 301), "short")
        assert (await anext(news)).payload == 300


async def test_a_reader_that_stops_for_a_while_gets_everything(base: str) -> None:
    async with client(base) as ada:
        said, gaps = ada.messages("said", buffer=4), ada.stream(Gap)
        await entered(ada)
        await say(base, range(5000))
        assert await numbers(said, 5000) == list(range(5000))
        assert gaps._backlog() == 0


async def test_after_the_death_of_a_server_that_kept_all_in_memory_it_begins_anew() -> None:
    with reserved_port() as port:
        server = ServerProcess(port, "memory://")
        await server.start()
        try:
            async with client(server.base) as ada:
                news = ada.stream(Connected, Resumed, Left)
                said = ada.messages("said")
                await entered(ada)
                await entered(ada, "plain")
                server.kill()
                await server.start()
                assert isinstance(await anext(news), Connected)
                assert not (await anext(news)).rooms[ROOM].recovered
                left = {(await anext(news)).room for _ in range(2)}
                assert left == {ROOM, "plain"}
                assert ada.rooms == {}
                await entered(ada)
                await say(server.base, range(2))
                assert await numbers(said, 2) == [0, 1]
        finally:
            server.kill()


@pytest.mark.parametrize(("broker", "elsewhere"), [("nats", False), ("redis", True)], indirect=["broker"])
async def test_over_a_broker_it_comes_back_after_the_death_of_its_server(
    broker: Broker, elsewhere: bool
) -> None:
    url = broker.url()
    with reserved_port() as port, reserved_port() as other:
        one, two = ServerProcess(port, url), ServerProcess(other, url)
        try:
            await one.start()
            await two.start()
            async with Relay.open(one.base) as relay, client(relay.url) as ada:
                news, said = ada.stream(Resumed, Gap, Left), ada.messages("said")
                await entered(ada)
                await ada.call("set", "kept")
                await say(two.base, range(3))
                assert await numbers(said, 3) == [0, 1, 2]
                one.kill()
                await say(two.base, range(3, 600))
                if elsewhere:
                    relay.target = other
                else:
                    await one.start()
                assert (await anext(news)).rooms[ROOM].recovered
                await say(two.base, range(600, 603))
                assert await numbers(said, 600) == list(range(3, 603))
                assert await ada.call("get") == "kept"
        finally:
            one.kill()
            two.kill()
