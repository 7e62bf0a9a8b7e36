"""Requests from the server, and what happens to messages that arrive faster than they are handled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController, SocketFault
from aquilia.sockets.connection import INBOX_LIMIT
from aquilia.testing import sockets_test

OUTCOMES: list[Any] = []
GATE: list[asyncio.Event] = []


@Socket("/ask")
class Ask(SocketController):
    @Event("ask")
    async def ask(self, conn: Connection, payload: float) -> Any:
        try:
            return await conn.request("question", timeout=payload)
        except SocketFault as fault:
            OUTCOMES.append(fault.code)
            raise

    @Event("both")
    async def both(self, conn: Connection) -> list[Any]:
        return await asyncio.gather(conn.request("a"), conn.request("b"))

    @Event("hold")
    async def hold(self, conn: Connection) -> None:
        await GATE[0].wait()

    @Event("ping")
    async def ping(self, conn: Connection) -> str:
        return "pong"

    @Event("after")
    async def after(self, conn: Connection) -> None:
        await conn.disconnect(1000)
        for attempt in (conn.send_event("x"), conn.request("x"), conn.join("r")):
            try:
                await attempt
            except SocketFault as fault:
                OUTCOMES.append(fault.code)

    @Event("bad")
    async def bad(self, conn: Connection, payload: list[Any]) -> None:
        await conn.disconnect(*payload)


@pytest.fixture(params=list(TRANSPORTS))
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    OUTCOMES.clear()
    GATE[:] = [asyncio.Event()]
    async with serving(AquilaSockets.from_controllers([Ask]), ws=TRANSPORTS[request.param]) as base:
        yield f"{base}/ask"


async def test_a_client_that_does_not_answer_in_time() -> None:
    async with sockets_test(Ask) as t:
        ann = await t.connect("/ask")
        answer = asyncio.create_task(ann.request("ask", 3600))
        await ann.expect("question")
        await t.clock.advance(3600.1)
        with pytest.raises(SocketFault, match="WS_ACK_TIMEOUT: no ack of 'question' within 3600 s"):
            await answer


async def test_a_client_that_leaves_instead_of_answering(url: str) -> None:
    async with Client.connect(url) as client:
        await client.send("ask", 60.0)
        await client.expect("question")
    await eventually(lambda: OUTCOMES)
    assert OUTCOMES[0] == "WS_CONNECTION_CLOSED"


async def test_requests_are_told_apart_whatever_the_order_of_the_acks(url: str) -> None:
    async with Client.connect(url, "v1.json") as client:
        await client.send("both", id="1", ack=True)
        a, b = await client.receive(), await client.receive()
        await client.send(type="ack", id=b["id"], payload={"status": "ok", "data": b["event"]})
        await client.send(type="ack", id=a["id"], payload={"status": "ok", "data": a["event"]})
        assert (await client.receive())["payload"]["data"] == ["a", "b"]


@pytest.mark.parametrize(
    "payload", [None, {"status": "ok"}, 7, {"status": "error"}, {"status": "error", "error": 1}]
)
async def test_an_odd_ack_is_taken_as_well_as_it_can_be(url: str, payload: Any) -> None:
    async with Client.connect(url) as client:
        await client.send("ask", 5.0, id="1", ack=True)
        question = await client.expect("question")
        await client.raw(json.dumps({"type": "ack", "id": question["id"], "payload": payload}))
        ack = await client.receive()
        failed = isinstance(payload, dict) and payload["status"] == "error"
        assert ack["payload"]["status"] == ("error" if failed else "ok")
        assert ack["payload"].get("data") == (7 if payload == 7 else None)


async def test_a_full_inbox_makes_the_client_wait_and_loses_nothing(url: str) -> None:
    async with Client.connect(url) as client:
        await client.send("hold")
        count = INBOX_LIMIT * 4
        for n in range(count):
            await client.send("ping", id=str(n), ack=True)
        GATE[0].set()
        answers = [await client.receive() for _ in range(count)]
        assert [answer["id"] for answer in answers] == [str(n) for n in range(count)]


async def test_an_ack_gets_through_a_full_inbox_and_further_events_are_overload(url: str) -> None:
    async with Client.connect(url) as client:
        await client.send("ask", 10.0, id="ask", ack=True)
        question = await client.expect("question")
        count = INBOX_LIMIT * 2
        for n in range(count):
            await client.send("ping", id=str(n), ack=True)
        refused = [await client.receive() for _ in range(count - INBOX_LIMIT)]
        assert {answer["payload"]["error"]["code"] for answer in refused} == {"WS_OVERLOADED"}
        await client.send(type="ack", id=question["id"], payload={"status": "ok", "data": 1})
        assert (await client.receive()) == {
            "type": "ack",
            "id": "ask",
            "payload": {"status": "ok", "data": 1},
        }
        answers = [await client.receive() for _ in range(INBOX_LIMIT)]
        assert [answer["id"] for answer in answers] == [str(n) for n in range(INBOX_LIMIT)]


async def test_after_the_end_nothing_can_be_sent(url: str) -> None:
    async with Client.connect(url) as client:
        await client.send("after")
        assert (await client.closed())[0] == 1000
    await eventually(lambda: len(OUTCOMES) == 3)
    assert OUTCOMES == ["WS_CONNECTION_CLOSED"] * 3


@pytest.mark.parametrize("payload", [[1006], [999], [5000], [4000, "x" * 124]])
async def test_an_application_closes_with_proper_codes_and_reasons(url: str, payload: list[Any]) -> None:
    async with Client.connect(url) as client:
        answer = await client.request("bad", payload)
        assert answer["error"]["code"] == "WS_INTERNAL_ERROR"
        assert (await client.request("ping"))["data"] == "pong"
