"""Events that a controller declares with `Emits`: what is sent under their names is what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from wire import TRANSPORTS, Client, serving

from aquilia.sockets import AquilaSockets, Connection, Emits, Event, Schema, Socket, SocketController


class Price(msgspec.Struct):
    amount: int
    currency: str = "EUR"


class Base(SocketController):
    priced = Emits("priced", Price)


@Socket("/market")
class Market(Base):
    sold = Emits("sold", Schema({"lot": int}))

    @Event("enter")
    async def enter(self, conn: Connection) -> None:
        await conn.join("floor")

    @Event("publish")
    async def publish(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("floor", "priced", payload)

    @Event("broadcast")
    async def broadcast_price(self, conn: Connection, payload: Any) -> None:
        await self.broadcast("priced", payload)

    @Event("identity")
    async def tell_identity(self, conn: Connection, payload: Any) -> None:
        await self.publish_identity("ada", "priced", payload)

    @Event("send")
    async def send(self, conn: Connection, payload: Any) -> None:
        await conn.send_event("priced", payload)

    @Event("request")
    async def request(self, conn: Connection, payload: Any) -> Any:
        return await conn.request("priced", payload, timeout=5)

    @Event("declared")
    async def declared(self, conn: Connection, payload: Any) -> None:
        await conn.send_event(self.priced, payload)

    @Event("sell")
    async def sell(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("floor", self.sold, payload)

    @Event("free")
    async def free(self, conn: Connection, payload: Any) -> None:
        await self.publish_room("floor", "anything", payload)

    @Event("reserved")
    async def reserved(self, conn: Connection) -> None:
        await self.publish_room("floor", "error", {})

    @Event("nameless")
    async def nameless(self, conn: Connection) -> None:
        await conn.send_event("", {})


@pytest.fixture(params=list(TRANSPORTS))
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    app = AquilaSockets.from_controllers([Market])
    async with (
        serving(app, ws=TRANSPORTS[request.param]) as base,
        Client.connect(f"{base}/market") as client,
    ):
        await client.request("enter")
        yield client


@pytest.mark.parametrize("way", ["publish", "broadcast", "send", "declared"])
async def test_a_fitting_payload_is_sent_as_it_was_declared(client: Client, way: str) -> None:
    await client.send(way, {"amount": 3})
    assert (await client.expect("priced"))["payload"] == {"amount": 3, "currency": "EUR"}


@pytest.mark.parametrize("way", ["publish", "broadcast", "identity", "send", "request", "declared"])
async def test_a_payload_that_does_not_fit_is_refused_however_the_event_is_named(
    client: Client, way: str
) -> None:
    answer = await client.request(way, {"amount": "a lot"})
    assert answer["status"] == "error"
    assert answer["error"]["code"] == "WS_PUBLISH_FAILED"
    assert "'priced'" in answer["error"]["message"]


async def test_a_schema_declares_an_event_as_well(client: Client) -> None:
    await client.send("sell", {"lot": 7, "more": 1})
    assert (await client.expect("sold"))["payload"] == {"lot": 7}
    assert (await client.request("sell", {}))["error"]["code"] == "WS_PUBLISH_FAILED"


async def test_what_is_not_declared_may_carry_anything(client: Client) -> None:
    await client.send("free", [1, {"a": None}])
    assert (await client.expect("anything"))["payload"] == [1, {"a": None}]


@pytest.mark.parametrize("way", ["reserved", "nameless"])
async def test_an_event_needs_a_name_of_its_own(client: Client, way: str) -> None:
    assert (await client.request(way))["error"]["code"] == "WS_PUBLISH_FAILED"
