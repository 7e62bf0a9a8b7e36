"""Durable events, and rooms with history, for clients that come back to another node: on real brokers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from brokers import Broker
from hypothesis import given
from hypothesis import strategies as st
from wire import Client, serving

from aquilia.aquilary import Registry
from aquilia.clock import Clock
from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    History,
    Socket,
    SocketController,
    Subscribe,
)
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.history import Position
from aquilia.sockets.resume.durable_events import DurableEvent, unseen


@Socket("/bank", history=History())
class Bank(SocketController):
    booked = Emits("booked", int, durable=True)
    hinted = Emits("hinted", int)

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Event("book")
    async def book(self, conn: Connection, payload: int) -> None:
        await conn.send_event(self.booked, payload)

    @Event("hint")
    async def hint(self, conn: Connection, payload: int) -> None:
        await conn.send_event(self.hinted, payload)

    @Event("say")
    async def say(self, conn: Connection, payload: int) -> None:
        await self.publish_room("hall", "said", payload)


@pytest.fixture
async def nodes(broker: Broker) -> AsyncIterator[list[str]]:
    """Three nodes of one application."""
    url = broker.url()
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(node(url))) for _ in range(3)]


def node(url: str) -> AquilaSockets:
    registry = Registry.build([AppManifest("bank", controllers=[Bank])])
    return AquilaSockets(registry, adapter=adapter_for(None, url, Clock()))


@contextlib.asynccontextmanager
async def arriving(
    base: str, token: str | None = None, rooms: Any = None, profile: str = "v1.json"
) -> AsyncIterator[tuple[Client, dict[str, Any]]]:
    async with Client.connect(f"{base}/bank", profile, hello=False) as client:
        resume = {"resume": {"token": token, "rooms": rooms or {}}} if token else None
        await client.send("hello", resume, type="control")
        client.welcome = await client.expect("welcome")
        resumed = (await client.expect("resumed"))["payload"]["rooms"] if token else {}
        yield client, resumed


def token(client: Client) -> str:
    return str(client.welcome["payload"]["resume"])


async def take(client: Client, *numbers: int) -> dict[str, Any]:
    """These are booked next, in this order. The place of the last."""
    told: dict[str, Any] = {}
    for number in numbers:
        told = await client.expect("booked")
        assert told["payload"] == number
    return {"": {key: told["meta"][key] for key in ("epoch", "offset")}}


async def test_what_is_durable_reaches_a_client_that_comes_back_to_another_node(nodes: list[str]) -> None:
    async with arriving(nodes[0]) as (former, _):
        for number in range(3):
            await former.send("book", number)
        place = await take(former, 0)
        await take(former, 1, 2)  # which the client did not get to keep
        await former.send("hint", 7)
        await former.expect("hinted")
        async with arriving(nodes[1], token(former), place) as (client, resumed):
            assert not resumed[""]["recovered"]
            assert await take(client, 1, 2) != place
            assert (await former.closed())[0] == 4410
            await client.send("book", 3)
            await take(client, 3)


async def test_it_does_so_again_and_again_and_once(nodes: list[str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        client, _ = await stack.enter_async_context(arriving(nodes[0]))
        for number in range(4):
            await client.send("book", number)
        place = await take(client, 0)
        await take(client, 1, 2, 3)  # so all are booked, though the client did not get to keep them
        for turn in range(1, 4):
            again = arriving(
                nodes[turn % 3], token(client), place, ("v1.cbor", "v1.msgpack", "v1.json")[turn % 3]
            )
            client, resumed = await stack.enter_async_context(again)
            assert resumed[""]["offset"] == 0
            place = await take(client, turn)
        await client.send("book", 4)
        await take(client, 4)


async def test_who_has_lost_its_session_can_send_nothing_durable_any_more(nodes: list[str]) -> None:
    async with arriving(nodes[0]) as (former, _):
        await former.send("book", 0)
        place = await take(former, 0)
        async with arriving(nodes[1], token(former), place) as (client, _):
            await former.send("book", 1)
            assert (await former.closed())[0] == 4410
            await client.send("book", 2)
            await take(client, 2)


async def test_the_same_node_loses_nothing_at_all(nodes: list[str]) -> None:
    async with arriving(nodes[0]) as (former, _):
        await former.send("book", 0)
        place = await take(former, 0)
        await former.send("hint", 7)
        await former.expect("hinted")
        async with arriving(nodes[0], token(former), place) as (client, resumed):
            assert resumed[""] == {"recovered": True, **place[""]}
            assert (await client.expect("hinted"))["payload"] == 7


def event(id: str, epoch: str, offset: int) -> DurableEvent:
    return DurableEvent(id, Position(epoch, offset), "e" if id else "", None, 0)


@given(st.lists(st.integers(0, 3), max_size=6))
def test_over_any_number_of_nodes_each_event_is_seen_once_and_in_order(losses: list[int]) -> None:
    """On each node some events are sent, and the client sees only some of what it should."""
    log: list[DurableEvent] = []
    seen: list[str] = []
    sent: list[str] = []
    position: Position | None = None
    for turn, lost in enumerate([*losses, 0]):
        epoch = f"e{turn}"
        missed = unseen(log, position)
        if turn:
            log.append(event("", epoch, 0))
            position = Position(epoch, 0)
        fresh = [f"{turn}.{number}" for number in range(3)]
        sent += fresh
        arrived = []
        for offset, id in enumerate([*(told.id for told in missed), *fresh], 1):
            log.append(event(id, epoch, offset))
            arrived.append((id, offset))
        for id, place in arrived[: len(arrived) - lost]:
            seen.append(id)
            position = Position(epoch, place)
    assert seen == sent
