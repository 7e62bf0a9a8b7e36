"""One question to all members of a room, and what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from wire import PROFILES, TRANSPORTS, Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    RoomAnswers,
    Socket,
    SocketController,
    SocketFault,
)
from aquilia.testing import sockets_test

TASKS: list[asyncio.Task[RoomAnswers]] = []
OWED: list[int] = []


@Socket("/jury")
class Jury(SocketController):
    counted = Emits("counted", int)

    @Event("enter")
    async def enter(self, conn: Connection) -> str:
        await conn.join("jury")
        return conn.id

    @Event("ask")
    async def ask(self, conn: Connection, payload: float) -> Any:
        return shown(await self.request_room("jury", "guilty?", "why", timeout=payload, exclude=conn))

    @Event("ask all")
    async def ask_all(self, conn: Connection, payload: Any) -> Any:
        return shown(await self.request_room(payload, "guilty?", timeout=5))

    @Event("ask by id")
    async def ask_by_id(self, conn: Connection, payload: str) -> Any:
        return shown(await self.request_room("jury", "guilty?", timeout=5, exclude=payload))

    @Event("ask badly")
    async def ask_badly(self, conn: Connection, payload: str) -> None:
        if payload == "emits":
            await self.request_room("jury", "counted", "not a number")
        elif payload == "name":
            await self.request_room("jury", "error")
        else:
            await self.request_room("jury", "guilty?", object())

    @Event("members")
    async def members(self, conn: Connection, payload: Any) -> int:
        return len(await self.room_members(payload))

    @Event("exit")
    async def exit(self, conn: Connection, payload: Any) -> None:
        await conn.leave(payload)

    @Event("begin")
    async def begin(self, conn: Connection) -> None:
        TASKS.append(asyncio.create_task(self.request_room("jury", "guilty?", timeout=3600)))

    @Event("stop")
    async def stop(self, conn: Connection) -> None:
        TASKS[0].cancel()
        await asyncio.wait(TASKS)


def shown(told: RoomAnswers) -> dict[str, Any]:
    return {
        "answers": dict(told.answers),
        "faults": {id: fault.code for id, fault in told.faults.items()},
        "missing": list(told.missing),
    }


@pytest.fixture(params=list(TRANSPORTS))
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serving(AquilaSockets.from_controllers([Jury]), ws=TRANSPORTS[request.param]) as base:
        yield f"{base}/jury"


async def told(client: Client, id: str) -> Any:
    while True:
        frame = await client.receive()
        if frame["type"] == "ack" and frame["id"] == id:
            return frame["payload"]


async def test_members_of_every_profile_answer_one_question(url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        judge = await stack.enter_async_context(Client.connect(url))
        members: dict[str, Client] = {}
        for profile in PROFILES:
            for _ in range(2):
                member = await stack.enter_async_context(Client.connect(url, profile))
                members[(await member.request("enter"))["data"]] = member
        await judge.send("ask", 5.0, id="q", ack=True)
        ids = set()
        for n, member in enumerate(members.values()):
            question = await member.expect("guilty?")
            assert (question["payload"], question["room"], question["ack"]) == ("why", "jury", True)
            assert ("meta" in question) is (member.socket.subprotocol is not None)
            ids.add(question["id"])
            await member.send(type="ack", id=question["id"], payload={"status": "ok", "data": n})
        assert len(ids) == 1
        answers = {id: n for n, id in enumerate(members)}
        assert (await told(judge, "q"))["data"] == {"answers": answers, "faults": {}, "missing": []}


async def test_who_leaves_and_who_answers_with_an_error_is_in_faults(url: str) -> None:
    async with (
        Client.connect(url) as judge,
        Client.connect(url) as ann,
        Client.connect(url, "v1.msgpack") as bob,
        Client.connect(url) as cem,
    ):
        names = [(await client.request("enter"))["data"] for client in (ann, bob, cem)]
        await judge.send("ask", 5.0, id="q", ack=True)
        questions = [await client.expect("guilty?") for client in (ann, bob, cem)]
        ann.socket.transport.abort()
        error = {"status": "error", "error": {"code": "BUSY", "message": "not now"}}
        await bob.send(type="ack", id=questions[1]["id"], payload=error)
        await cem.send(type="ack", id=questions[2]["id"], payload={"status": "ok", "data": 1})
        answer = (await told(judge, "q"))["data"]
        assert answer["answers"] == {names[2]: 1}
        assert answer["faults"] == {names[0]: "WS_CONNECTION_CLOSED", names[1]: "BUSY"}
        assert answer["missing"] == []


async def test_who_does_not_answer_in_time_is_missing_and_a_late_ack_is_nothing() -> None:
    async with sockets_test(Jury) as t:
        judge, ann, bob = [await t.connect("/jury") for _ in range(3)]
        await judge.request("enter")
        first, second = await ann.request("enter"), await bob.request("enter")
        asking = asyncio.create_task(judge.request("ask", 30))
        late = await bob.expect("guilty?")
        await ann.ack(await ann.expect("guilty?"), "yes")
        await t.clock.advance(30.1)
        assert await asking == {"answers": {first: "yes"}, "faults": {}, "missing": [second]}
        await bob.ack(late, "too late")
        asking = asyncio.create_task(judge.request("ask", 30))
        for client in (ann, bob):
            question = await client.expect("guilty?")
            assert question.id != late.id
            await client.ack(question, 2)
        assert (await asking)["answers"] == {first: 2, second: 2}


async def test_a_member_answers_once_and_leaves_behind_its_answer() -> None:
    async with sockets_test(Jury) as t:
        judge, ann, bob = [await t.connect("/jury") for _ in range(3)]
        first, second = await ann.request("enter"), await bob.request("enter")
        asking = asyncio.create_task(judge.request("ask", 30))
        question = await ann.expect("guilty?")
        await ann.ack(question, 1)
        await ann.ack(question, 2)
        await ann.disconnect()
        await bob.ack(await bob.expect("guilty?"), 3)
        assert (await asking)["answers"] == {first: 1, second: 3}


async def test_a_member_asks_the_room_that_it_is_in() -> None:
    async with sockets_test(Jury) as t:
        ann = await t.connect("/jury")
        id = await ann.request("enter")
        asking = asyncio.create_task(ann.request("ask all", "jury"))
        await ann.ack(await ann.expect("guilty?"), "me")
        assert (await asking)["answers"] == {id: "me"}
        assert await ann.request("ask by id", id) == {"answers": {}, "faults": {}, "missing": []}
        assert await ann.request("ask all", "nobody") == {"answers": {}, "faults": {}, "missing": []}


@pytest.mark.parametrize("how", ["emits", "name", "payload"])
async def test_what_cannot_be_asked_is_asked_of_nobody(how: str) -> None:
    async with sockets_test(Jury) as t:
        judge, ann = await t.connect("/jury"), await t.connect("/jury")
        await ann.request("enter")
        with pytest.raises(SocketFault, match="WS_PUBLISH_FAILED"):
            await judge.request("ask badly", how)
        await ann.expect_nothing()


async def test_a_question_that_is_cancelled_leaves_nothing_behind() -> None:
    TASKS.clear()
    async with sockets_test(Jury) as t:
        ann = await t.connect("/jury")
        await ann.request("enter")
        await ann.request("begin")
        question = await ann.expect("guilty?")
        await ann.request("stop")
        assert TASKS[0].cancelled()
        counts = t.application.sockets.recorder.counts
        assert not counts["unmatched_ack", "/jury"]
        await ann.ack(question, "too late")
        await eventually(lambda: counts["unmatched_ack", "/jury"])


async def test_two_thousand_members_are_asked_with_one_timer_and_no_task_for_each() -> None:
    TASKS.clear()
    async with sockets_test(Jury, max_connections=3000) as t:
        members = [await t.connect("/jury") for _ in range(2000)]
        names = [await member.request("enter") for member in members]
        tasks = len(asyncio.all_tasks())
        await members[0].request("begin")
        questions = [await member.expect("guilty?") for member in members]
        assert len(asyncio.all_tasks()) <= tasks + 1
        for n, (member, question) in enumerate(zip(members, questions, strict=True)):
            await member.ack(question, n)
        async with asyncio.timeout(10):
            answered = await TASKS[0]
        assert answered.answers == {id: n for n, id in enumerate(names)}
        assert not answered.faults
        assert not answered.missing


@pytest.mark.parametrize("event", ["ask all", "members", "exit"])
@pytest.mark.parametrize("room", [["jury"], {"a": 1}, 5, None])
async def test_what_is_no_string_is_no_room(event: str, room: Any) -> None:
    async with sockets_test(Jury) as t:
        ann = await t.connect("/jury")
        with pytest.raises(SocketFault, match="a room's name is a string"):
            await ann.request(event, room)
        await ann.request(event, "nobody")


async def test_a_timeout_is_a_number() -> None:
    refused: list[str] = []

    @Socket("/hasty")
    class Hasty(SocketController):
        @Event("ask")
        async def ask(self, conn: Connection) -> None:
            await conn.join("jury")
            for asking in (
                self.request_room("jury", "guilty?", timeout=float("nan")),
                conn.request("guilty?", timeout=float("nan")),
            ):
                with pytest.raises(
                    ValueError, match="timeout: a number of seconds is needed, not nan"
                ) as told:
                    await asking
                refused.append(str(told.value))

    async with sockets_test(Hasty) as t:
        client = await t.connect("/hasty")
        await client.request("ask")
        await client.expect_nothing("guilty?", within=0)
    assert len(refused) == 2
