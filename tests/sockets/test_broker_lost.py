"""What rooms do while no broker can be reached, and what their members are told afterwards: two nodes at one NATS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from brokers import Broker, frozen
from tokens import Passwords
from wire import Client, eventually, serving

from aquilia.aquilary import BootError, Registry
from aquilia.clock import Clock
from aquilia.manifest import AppManifest
from aquilia.sockets import AquilaSockets, Connection, Event, History, Socket, SocketController, Subscribe
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.metrics.recorder import Counters


@Socket("/hall", history={"log": History(size=100, ttl=60)})
class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("say")
    async def say(self, conn: Connection, payload: list[str]) -> None:
        await self.publish_room(payload[0], "said", payload[1])

    @Event("shout")
    async def shout(self, conn: Connection, payload: str) -> None:
        await self.broadcast("shouted", payload, exclude=conn)

    @Event("whisper")
    async def whisper(self, conn: Connection, payload: str) -> None:
        await self.publish_identity("ann", "whispered", payload)


class Two:
    """Two nodes of the hall, and their broker."""

    def __init__(self, server: Broker) -> None:
        self.server = server
        url = server.url()
        self.adapters = [adapter_for(None, url, Clock()) for _ in range(2)]
        self.counts = [Counters(), Counters()]
        self.at: list[str] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Two]:
        async with contextlib.AsyncExitStack() as stack:
            for adapter, recorder in zip(self.adapters, self.counts, strict=True):
                registry = Registry.build([AppManifest("hall", controllers=[Hall], auth=Passwords())])
                sockets = AquilaSockets(registry, adapter=adapter, recorder=recorder)
                self.at.append(await stack.enter_async_context(serving(sockets)) + "/hall")
            yield self

    async def reach(self, reached: bool) -> None:
        for adapter in self.adapters:
            await eventually(lambda adapter=adapter: adapter.broker.connected is reached)


@pytest.fixture
async def two(own_broker: Broker) -> AsyncIterator[Two]:
    async with Two(own_broker).serving() as two:
        yield two


async def entered(client: Client, *rooms: str) -> None:
    for room in rooms:
        assert (await client.request("enter", room))["status"] == "ok"


def gap(room: str) -> dict[str, Any]:
    return {"type": "system", "event": "gap", "payload": {"cause": "broker_lost", "room": room}}


async def test_members_of_a_node_hear_one_another_while_the_broker_is_lost_and_are_told_of_the_gap(
    two: Two,
) -> None:
    async with (
        Client.connect(two.at[0], "v1.json") as ann,
        Client.connect(two.at[0]) as plain,
        Client.connect(two.at[1], "v1.json") as bob,
    ):
        for client in (ann, plain, bob):
            await entered(client, "room")
        two.server.kill()
        await two.reach(False)
        for word in ("one", "two"):
            await ann.send("say", ["room", word])
            assert (await ann.expect("said"))["payload"] == word
            assert (await plain.expect("said"))["payload"] == word
        two.server.start()
        await two.reach(True)
        assert await ann.receive() == gap("room")
        assert await bob.receive() == gap("room")
        assert (await plain.expect("error"))["payload"]["code"] == "WS_MESSAGES_DROPPED"
        await bob.send("say", ["room", "three"])
        for client in (ann, plain, bob):
            assert (await client.expect("said"))["payload"] == "three"
        assert two.counts[0].counts["dropped", "/hall", "broker_lost"] == 2


async def test_a_namespace_and_an_identity_are_served_among_those_of_the_node(two: Two) -> None:
    ann_s: Any = {"additional_headers": {"authorization": "Bearer ann"}}
    async with (
        Client.connect(two.at[0], "v1.json", **ann_s) as ann,
        Client.connect(two.at[0], "v1.json", **ann_s) as other,
    ):
        two.server.kill()
        await two.reach(False)
        await ann.send("shout", "help")
        assert (await other.expect("shouted"))["payload"] == "help"
        await ann.send("whisper", "psst")
        for client in (ann, other):
            assert (await client.expect("whispered"))["payload"] == "psst"
        two.server.start()


async def test_a_room_with_history_has_no_gap_and_takes_nothing_that_it_cannot_keep(two: Two) -> None:
    async with Client.connect(two.at[0], "v1.json") as ann, Client.connect(two.at[1], "v1.json") as bob:
        for client in (ann, bob):
            await entered(client, "log")
        two.server.kill()
        await two.reach(False)
        await ann.send("say", ["log", "kept"], id="a", ack=True)
        two.server.start()
        assert {(await ann.receive())["type"] for _ in range(2)} == {"ack", "event"}
        assert (await bob.expect("said"))["payload"] == "kept"
        await bob.send("say", ["log", "next"])
        assert (await ann.expect("said"))["payload"] == "next"


async def test_a_broker_that_stands_still_fails_what_was_on_its_way_and_then_counts_as_lost(
    soon_lost: None, two: Two
) -> None:
    async with Client.connect(two.at[0], "v1.json") as ann:
        await entered(ann, "room")
        with frozen(two.server.pid):
            answer = await ann.request("say", ["room", "perhaps"])
            assert answer["error"]["code"] == "WS_ADAPTER_UNAVAILABLE"
            await two.reach(False)
            await ann.send("say", ["room", "certain"])
            assert (await ann.expect("said"))["payload"] == "certain"
        frames = [await ann.receive()]
        if frames[0].get("event") == "said":  # it had arrived, and says so in the place of the loss
            frames = [await ann.receive()]
        assert frames == [gap("room")]


@pytest.mark.parametrize(("said", "least", "most"), [(0, 0.0, 0.5), (0.6, 0.6, 2.0), (6.0, 6.0, 8.0)])
async def test_a_room_with_history_waits_for_its_broker_as_long_as_the_setting_says(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch, said: float, least: float, most: float
) -> None:
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", own_broker.url())
    app = AquilaSockets.from_controllers([Hall], publish_timeout=said, health="/health")
    async with serving(app) as base, Client.connect(f"{base}/hall") as ann:
        await entered(ann, "log")
        own_broker.kill()
        await eventually(lambda: app.health.status == "broker_lost")
        began = asyncio.get_running_loop().time()
        answer = await ann.request("say", ["log", "lost"])
        assert answer["error"]["code"] == "WS_ADAPTER_UNAVAILABLE"
        assert least <= asyncio.get_running_loop().time() - began < most


@pytest.mark.parametrize("said", [-1, "5", True, float("nan")])
def test_a_time_that_is_none_is_refused_at_boot(said: Any) -> None:
    with pytest.raises(BootError, match="publish_timeout"):
        AquilaSockets.from_controllers([Hall], publish_timeout=said)
