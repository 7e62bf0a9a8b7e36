"""What clients may rely on that send a message again: handlers that run to their end, and effects that come once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from wire import PROFILES, TRANSPORTS, Client, eventually, serving

from aquilia import Fault
from aquilia.sockets import AquilaSockets, Connection, Event, MessageEnvelope, Socket, SocketController
from aquilia.sockets.faults import ws_overloaded

DONE: list[Any] = []
BEGUN: list[Any] = []
GATE: list[asyncio.Event] = []


@Socket("/pay")
class Pay(SocketController):
    @Event("slow", delivery="at_least_once")
    async def slow(self, conn: Connection, payload: Any) -> None:
        BEGUN.append(payload)
        await GATE[0].wait()
        DONE.append(payload)

    @Event("once", delivery="effectively_once")
    async def once(self, conn: Connection, payload: Any, message: MessageEnvelope) -> Any:
        DONE.append(message.key)
        return [payload, len(DONE)]

    @Event("refuse", delivery="effectively_once")
    async def refuse(self, conn: Connection, payload: str) -> None:
        DONE.append(payload)
        if payload == "for now":
            raise ws_overloaded("later")
        if payload == "unforeseen":
            raise ZeroDivisionError
        raise Fault("BROKE", "no money", details=[{"balance": 0}])

    @Event("large", delivery="effectively_once")
    async def large(self, conn: Connection) -> str:
        DONE.append(1)
        return "x" * 70_000


@pytest.fixture(params=list(TRANSPORTS))
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    DONE.clear()
    BEGUN.clear()
    GATE[:] = [asyncio.Event()]
    async with serving(AquilaSockets.from_controllers([Pay]), ws=TRANSPORTS[request.param]) as base:
        yield f"{base}/pay"


async def asked(client: Client, event: str, payload: Any = None, id: str = "i") -> dict[str, Any]:
    await client.send(event, payload, id=id)
    frame = await client.receive()
    assert (frame["type"], frame["id"]) == ("ack", id)
    answer: dict[str, Any] = frame["payload"]
    return answer


async def test_a_promised_handler_runs_to_its_end_though_its_client_has_left(url: str) -> None:
    async with Client.connect(url) as client:
        await client.send("slow", 1, id="1")
        await client.send("slow", 2, id="2")
        await eventually(lambda: BEGUN)
        client.socket.transport.abort()
    async with Client.connect(url) as other:
        assert (await asked(other, "once", 0))["status"] == "ok"
    GATE[0].set()
    await eventually(lambda: 1 in DONE)
    assert BEGUN == [1]  # what only waited was not acked either: it is for the client to repeat


async def test_a_promised_message_needs_an_id(url: str) -> None:
    async with Client.connect(url) as client:
        await client.send("once", 1)
        assert (await client.expect("error"))["payload"]["code"] == "WS_MESSAGE_INVALID"
    assert not DONE


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_repeat_gets_the_first_answer(url: str, profile: str) -> None:
    async with Client.connect(url, profile) as client:
        first = await asked(client, "once", {"b": [1.5], "a": "ä"})
        assert first == {"status": "ok", "data": [{"b": [1.5], "a": "ä"}, 1]}
        assert await asked(client, "once", {"a": "ä", "b": [1.5]}) == first
        assert (await asked(client, "once", {"a": "ä", "b": [1.5]}, "j"))["data"][1] == 2
    assert len(set(DONE)) == 2
    assert all(key.startswith("/pay:") for key in DONE)


async def test_an_id_is_for_one_message_only(url: str) -> None:
    async with Client.connect(url) as client:
        await asked(client, "once", 1)
        assert (await asked(client, "once", 2))["error"]["code"] == "WS_MESSAGE_INVALID"
        assert (await asked(client, "large"))["error"]["code"] == "WS_MESSAGE_INVALID"
    assert len(DONE) == 1


async def test_an_id_of_somebody_else_is_another_message(url: str) -> None:
    async with Client.connect(url) as ann, Client.connect(url) as bob:
        assert (await asked(ann, "once", 1))["data"] == [1, 1]
        assert (await asked(bob, "once", 1))["data"] == [1, 2]


@pytest.mark.parametrize(("payload", "runs"), [("for now", 2), ("for good", 1), ("unforeseen", 1)])
async def test_a_refusal_is_remembered_unless_it_may_be_tried_again(
    url: str, payload: str, runs: int
) -> None:
    async with Client.connect(url) as client:
        first = await asked(client, "refuse", payload)
        assert first["status"] == "error"
        assert await asked(client, "refuse", payload) == first
    assert len(DONE) == runs


async def test_an_answer_too_large_to_keep_is_known_to_have_been_given(url: str) -> None:
    async with Client.connect(url) as client:
        assert (await asked(client, "large"))["status"] == "ok"
        again = await asked(client, "large")
        assert (again["error"]["code"], again["error"]["retryable"]) == ("WS_ALREADY_HANDLED", False)
    assert DONE == [1]
