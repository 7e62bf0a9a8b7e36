"""Events that a controller declares with `Emits`: what is sent under their names is what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from visit import Visit

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


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    app = AquilaSockets.from_controllers([Market])
    async with Visit(app, "/market") as visit:
        await visit.request("enter")
        yield visit
    await app.shutdown()


@pytest.mark.parametrize("way", ["publish", "broadcast", "send", "declared"])
async def test_a_fitting_payload_is_sent_as_it_was_declared(visit: Visit, way: str) -> None:
    visit.send(way, {"amount": 3})
    assert (await visit.frame())["payload"] == {"amount": 3, "currency": "EUR"}


@pytest.mark.parametrize("way", ["publish", "broadcast", "identity", "send", "request", "declared"])
async def test_a_payload_that_does_not_fit_is_refused_however_the_event_is_named(
    visit: Visit, way: str
) -> None:
    answer = await visit.request(way, {"amount": "a lot"})
    assert answer["status"] == "error"
    assert answer["error"]["code"] == "WS_PUBLISH_FAILED"
    assert "'priced'" in answer["error"]["message"]


async def test_a_schema_declares_an_event_as_well(visit: Visit) -> None:
    visit.send("sell", {"lot": 7, "more": 1})
    assert (await visit.frame())["payload"] == {"lot": 7}
    assert (await visit.request("sell", {}))["error"]["code"] == "WS_PUBLISH_FAILED"


async def test_what_is_not_declared_may_carry_anything(visit: Visit) -> None:
    visit.send("free", [1, {"a": None}])
    assert (await visit.frame())["payload"] == [1, {"a": None}]


@pytest.mark.parametrize("way", ["reserved", "nameless"])
async def test_an_event_needs_a_name_of_its_own(visit: Visit, way: str) -> None:
    assert (await visit.request(way))["error"]["code"] == "WS_PUBLISH_FAILED"
