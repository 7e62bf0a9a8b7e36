"""Strategies of single events, and conflation: a member that does not read finds the newest of each key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Struct
from test_slow_members import KIB, NOTE, frozen_at, said
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Emits, Event, Socket, SocketController, Subscribe
from aquilia.sockets.metrics.recorder import Counters

COUNT = 300


class Price(Struct):
    symbol: str
    number: int
    note: str = NOTE


@Socket("/hall", backpressure={"buffer_size": 10})
class Market(SocketController):
    price = Emits("price", Price, backpressure={"strategy": "conflate", "key": "symbol"})
    tick = Emits("tick", Price, backpressure={"strategy": "drop_oldest"})
    broken = Emits("broken", Price, backpressure={"strategy": "conflate", "key": lambda price: price.nothing})

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Event("say")
    async def say(self, conn: Connection, payload: tuple[str, str, int]) -> None:
        event, symbol, number = payload
        await self.publish_room("hall", event, {"symbol": symbol, "number": number})

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_of_what_waits_only_the_newest_of_each_key_is_kept(transport: str) -> None:
    app = AquilaSockets.from_controllers([Market])
    async with (
        serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB) as base,
        frozen_at(base, "v1.json") as frozen,
        Client.connect(f"{base}/hall") as ada,
    ):
        await eventually(lambda: "hall" in app.hub.homes["/hall"].rooms)
        await ada.request("enter")
        for number in range(COUNT):
            await ada.send("say", ["price", "AB"[number % 2], number])
            assert (await ada.expect("price"))["payload"]["number"] == number  # nothing waits: each is sent
        frozen.send(said("echo", id="last", ack=True))
        got: list[dict[str, Any]] = []
        while (message := json.loads((await frozen.read()).payload)).get("id") != "last":
            assert message["event"] != "gap"
            if message["event"] == "price":
                got.append(message["payload"])
        numbers = [price["number"] for price in got]
        assert sorted(numbers[-2:]) == [COUNT - 2, COUNT - 1]
        assert isinstance(app.recorder, Counters)
        assert app.recorder.counts["dropped", "/hall", "conflated"] == COUNT - len(got) > COUNT // 2
        assert app.recorder.counts["dropped", "/hall", "slow_consumer"] == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_event_that_may_be_dropped_does_not_end_a_connection_that_others_would(
    transport: str,
) -> None:
    app = AquilaSockets.from_controllers([Market])
    async with (
        serving(app, ws=TRANSPORTS[transport], send_buffer=64 * KIB) as base,
        frozen_at(base, "plain") as frozen,
        Client.connect(f"{base}/hall") as ada,
    ):
        await eventually(lambda: "hall" in app.hub.homes["/hall"].rooms)
        await ada.request("enter")
        for number in range(COUNT):
            await ada.send("say", ["tick", "A", number])
            await ada.expect("tick")
        assert app.live()["connections"] == 2
        frozen.send(said("echo", id="last", ack=True))
        place = 0
        while (message := json.loads((await frozen.read()).payload)).get("id") != "last":
            if message["event"] == "tick":
                assert message["payload"]["number"] == place
                place += 1
            elif message["event"] == "error":
                place += int(message["payload"]["message"].split()[0])
        assert place == COUNT


async def test_a_key_that_cannot_be_had_is_told_to_the_publisher() -> None:
    app = AquilaSockets.from_controllers([Market])
    async with serving(app) as base, Client.connect(f"{base}/hall") as ada:
        await ada.request("enter")
        answer = await ada.request("say", ["broken", "A", 1])
        assert answer["error"]["code"] == "WS_PUBLISH_FAILED"
