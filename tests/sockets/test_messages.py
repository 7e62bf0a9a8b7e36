"""The wire contract over real sockets, in every profile: the life of a connection, events, acks and rooms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from wire import PROFILES, TRANSPORTS, Client, eventually, serving

from aquilia import Fault
from aquilia.sockets import (
    AckEvent,
    AquilaSockets,
    Connection,
    DisconnectReason,
    Emits,
    Event,
    OnConnect,
    OnDisconnect,
    Schema,
    Socket,
    SocketController,
    Subscribe,
    Unsubscribe,
)

JOURNAL: list[Any] = []


class Note(msgspec.Struct):
    text: str
    stars: int = 0


class Said(msgspec.Struct):
    text: str


@Socket("/desk/:name")
class Desk(SocketController):
    said = Emits("said", Said)

    @OnConnect()
    async def open(self, conn: Connection) -> None:
        conn.state["seen"] = 0
        await conn.send_event("greeting", {"namespace": self.namespace, "name": conn.path_params["name"]})

    @OnDisconnect()
    async def close(self, conn: Connection, reason: DisconnectReason) -> None:
        JOURNAL.append(("closed", conn.id, reason.code))

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        await conn.send_event("echo", payload)
        return payload

    @Event("count")
    async def count(self, conn: Connection) -> int:
        conn.state["seen"] += 1
        await asyncio.sleep(0)
        return conn.state["seen"]

    @AckEvent("note")
    async def note(self, conn: Connection, payload: Note) -> dict[str, Any]:
        return {"text": payload.text, "stars": payload.stars}

    @Event("seed", schema=Schema({"text": str, "more?": {"tags": [str]}}))
    async def seed(self, conn: Connection, payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    @Subscribe("enter", schema=Schema({"room": str}))
    async def enter(self, conn: Connection, payload: dict[str, Any]) -> str:
        return payload["room"]

    @Unsubscribe("exit", schema=Schema({"room": str}))
    async def exit(self, conn: Connection, payload: dict[str, Any]) -> str:
        return payload["room"]

    @Event("say", schema=Schema({"room": str, "text": str}))
    async def say(self, conn: Connection, payload: dict[str, Any]) -> None:
        await self.publish_room(payload["room"], self.said, Said(payload["text"]), exclude=conn)

    @Event("shout")
    async def shout(self, conn: Connection, payload: str) -> None:
        await self.broadcast("shouted", payload)

    @Event("ask")
    async def ask(self, conn: Connection, payload: Any) -> Any:
        return {"heard": await conn.request("question", payload, timeout=5)}

    @Event("refuse")
    async def refuse(self, conn: Connection) -> None:
        raise Fault("DESK_CLOSED", "come back tomorrow", retryable=True)

    @Event("fail")
    async def fail(self, conn: Connection) -> None:
        raise RuntimeError("a secret")

    @Event("leave")
    async def leave(self, conn: Connection) -> None:
        await conn.disconnect(4000, "bye")
        JOURNAL.append(("after", conn.id))

    @Event("who")
    async def who(self, conn: Connection, payload: str) -> list[str]:
        return sorted(member.connection for member in await self.room_members(payload))


@pytest.fixture(params=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def app() -> AquilaSockets:
    JOURNAL.clear()
    return AquilaSockets.from_controllers([Desk])


@pytest.fixture(params=list(TRANSPORTS))
async def url(app: AquilaSockets, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serving(app, ws=TRANSPORTS[request.param]) as base:
        yield f"{base}/desk/ada"


@pytest.fixture
async def client(url: str, profile: str) -> AsyncIterator[Client]:
    async with Client.connect(url, profile) as client:
        await client.expect("greeting")
        yield client


async def test_a_client_is_greeted_in_its_namespace(url: str, profile: str) -> None:
    async with Client.connect(url, profile) as client:
        greeting = await client.expect("greeting")
        assert greeting["type"] == "event"
        assert greeting["payload"] == {"namespace": "/desk/ada", "name": "ada"}
        assert ("meta" in greeting) is (profile != "plain")


async def test_an_event_is_answered_and_acked_where_asked(client: Client) -> None:
    await client.send("echo", {"n": [1, 2.5, None, True, "ä"]})
    echoed = await client.expect("echo")
    assert echoed["payload"] == {"n": [1, 2.5, None, True, "ä"]}
    assert "id" not in echoed
    assert await client.request("echo", "x") == {"status": "ok", "data": "x"}


async def test_no_ack_comes_where_none_was_asked(client: Client) -> None:
    await client.send("count", id="1")
    assert await client.request("count") == {"status": "ok", "data": 2}


async def test_events_of_one_connection_are_handled_in_order(client: Client) -> None:
    for n in range(200):
        await client.send("count", id=str(n), ack=True)
    acks = [await client.receive() for _ in range(200)]
    assert [(ack["id"], ack["payload"]["data"]) for ack in acks] == [(str(n), n + 1) for n in range(200)]


async def test_a_typed_payload_arrives_typed_and_with_its_defaults(client: Client) -> None:
    answer = await client.request("note", {"text": "hi", "unknown": 1})
    assert answer == {"status": "ok", "data": {"text": "hi", "stars": 0}}


async def test_a_schema_gives_a_dict_without_unknown_keys(client: Client) -> None:
    answer = await client.request("seed", {"text": "hi", "other": 1, "more": {"tags": ["a"], "x": 1}})
    assert answer["data"] == {"text": "hi", "more": {"tags": ["a"]}}


async def test_a_payload_of_the_wrong_shape_is_told_of_every_wrong_field(client: Client) -> None:
    answer = await client.request("note", {"text": 1, "stars": "many"})
    assert answer["status"] == "error"
    assert answer["error"]["code"] == "WS_MESSAGE_INVALID"
    assert len(answer["error"]["details"]) == 2
    assert all(set(detail) == {"path", "expected", "got"} for detail in answer["error"]["details"])
    assert await client.request("count") == {"status": "ok", "data": 1}


async def test_a_message_to_an_ack_event_without_an_id_is_refused(client: Client) -> None:
    await client.send("note", {"text": "hi"})
    error = await client.expect("error")
    assert error["type"] == "event"
    assert error["payload"]["code"] == "WS_MESSAGE_INVALID"
    assert error["payload"]["event"] == "note"


async def test_a_fault_is_an_error_ack_or_an_error_event(client: Client) -> None:
    answer = await client.request("refuse")
    assert answer["error"] == {"code": "DESK_CLOSED", "message": "come back tomorrow", "retryable": True}
    await client.send("refuse")
    error = await client.expect("error")
    assert error["payload"]["code"] == "DESK_CLOSED"
    assert error["payload"]["event"] == "refuse"


async def test_an_unforeseen_error_is_answered_with_an_incident_and_never_its_text(client: Client) -> None:
    answer = await client.request("fail")
    assert answer["error"]["code"] == "WS_INTERNAL_ERROR"
    assert "incident" in answer["error"]["message"]
    assert "secret" not in str(answer)
    assert (await client.request("count"))["status"] == "ok"


async def test_an_unknown_event_is_refused(client: Client) -> None:
    answer = await client.request("ecko")
    assert answer["error"]["code"] == "WS_UNSUPPORTED_EVENT"
    assert "echo" not in answer["error"]["message"]  # names are shown in development only


async def test_room_members_hear_what_is_said_and_others_do_not(url: str, profile: str) -> None:
    async with (
        Client.connect(url, profile) as ada,
        Client.connect(url, "plain") as bob,
        Client.connect(url, "v1.msgpack") as eve,
    ):
        for client in (ada, bob, eve):
            await client.expect("greeting")
        for client in (ada, bob):
            assert await client.request("enter", {"room": "r"}) == {"status": "ok", "data": "r"}
        await eve.request("say", {"room": "r", "text": "hello"})
        for client in (ada, bob):
            said = await client.expect("said")
            assert said["payload"] == {"text": "hello"}
            assert said["room"] == "r"
        assert (await bob.request("exit", {"room": "r"}))["status"] == "ok"
        await eve.request("say", {"room": "r", "text": "again"})
        assert (await ada.expect("said"))["payload"] == {"text": "again"}
        assert (await bob.request("count"))["status"] == "ok"
        await ada.request("say", {"room": "r", "text": "not to myself"})
        await eve.request("shout", "all")
        assert (await ada.expect("shouted"))["payload"] == "all"
        assert (await bob.expect("shouted"))["payload"] == "all"


async def test_a_v1_client_sees_joined_before_what_is_said_and_left_after(url: str) -> None:
    async with Client.connect(url, "v1.json") as ada, Client.connect(url, "plain") as bob:
        await ada.expect("greeting")
        await bob.expect("greeting")
        await ada.send("enter", {"room": "r"})
        joined = await ada.expect("joined")
        assert joined == {"type": "system", "event": "joined", "payload": {"room": "r"}}
        await bob.request("say", {"room": "r", "text": "1"})
        said = await ada.expect("said")
        assert isinstance(said["meta"]["ts"], int)
        await ada.send("exit", {"room": "r"})
        assert (await ada.expect("left"))["payload"] == {"room": "r"}


async def test_rooms_of_different_namespaces_are_different(url: str) -> None:
    async with Client.connect(url) as ada, Client.connect(url.replace("ada", "bob")) as bob:
        for client in (ada, bob):
            await client.expect("greeting")
            await client.request("enter", {"room": "r"})
        await bob.send("say", {"room": "r", "text": "x"})
        await bob.send("shout", "y")
        await bob.expect("shouted")
        assert (await ada.request("count"))["status"] == "ok"


async def test_the_server_asks_and_the_client_acks_while_its_handler_waits(client: Client) -> None:
    await client.send("ask", {"q": 1}, id="1", ack=True)
    question = await client.expect("question")
    assert question["ack"] is True
    await client.send(type="ack", id=question["id"], payload={"status": "ok", "data": [42]})
    ack = await client.receive()
    assert ack["payload"] == {"status": "ok", "data": {"heard": [42]}}


async def test_a_client_may_answer_a_request_with_an_error(client: Client) -> None:
    await client.send("ask", id="1", ack=True)
    question = await client.expect("question")
    error = {"code": "NO_IDEA", "message": "who knows"}
    await client.send(type="ack", id=question["id"], payload={"status": "error", "error": error})
    assert (await client.receive())["payload"]["error"]["code"] == "NO_IDEA"


async def test_an_ack_for_nothing_is_ignored_and_counted(client: Client, app: AquilaSockets) -> None:
    await client.send(type="ack", id="nobody", payload={"status": "ok"})
    assert (await client.request("count"))["status"] == "ok"
    assert app.recorder.counts["unmatched_ack", "/desk/:name"] == 1


async def test_a_handler_may_end_the_connection_and_still_finishes(client: Client) -> None:
    await client.send("leave")
    assert await client.closed() == (4000, "bye")
    await eventually(lambda: len(JOURNAL) == 2)
    assert [entry[0] for entry in JOURNAL] == ["after", "closed"]
    assert JOURNAL[1][2] == 4000


async def test_a_client_that_leaves_is_forgotten(url: str, profile: str, app: AquilaSockets) -> None:
    async with Client.connect(url, profile) as client:
        await client.expect("greeting")
        await client.request("enter", {"room": "r"})
        assert app.live() == {"connections": 1, "namespaces": 1, "rooms": 1, "tasks": 0}
    await eventually(lambda: app.live() == {"connections": 0, "namespaces": 1, "rooms": 0, "tasks": 0})
    assert JOURNAL[-1][2] == 1000


async def test_ping_is_answered_with_pong(url: str) -> None:
    async with Client.connect(url, "v1.cbor") as client:
        await client.expect("greeting")
        await client.send(type="control", event="ping")
        assert await client.receive() == {"type": "system", "event": "pong"}


async def test_welcome_tells_the_connection_and_the_heartbeat(url: str) -> None:
    async with Client.connect(url, "v1.json") as client:
        assert client.welcome["type"] == "system"
        assert set(client.welcome["payload"]) == {"connection", "heartbeat", "resume"}
        assert client.welcome["payload"]["heartbeat"] == 25
