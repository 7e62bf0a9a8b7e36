"""Rooms over nodes: who is in one, one question to all of them, and the end of a connection, over real brokers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from nats_server import NatsServer
from nodes import node
from ports import reserved_port
from redis_servers import RedisServer
from wire import Client, eventually, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController
from aquilia.testing import sockets_test

APP = """
import os
from typing import Any

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController


@Socket("/jury")
class Jury(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> list[Any]:
        await conn.join("jury")
        return [conn.id, os.getpid()]


app = AquilaSockets.from_controllers([Jury])
"""


@Socket("/jury")
class Jury(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> str:
        await conn.join("jury")
        return conn.id

    @Event("ask")
    async def ask(self, conn: Connection, payload: float) -> dict[str, Any]:
        told = await self.request_room("jury", "guilty?", "why", timeout=payload, exclude=conn)
        return {
            "answers": dict(told.answers),
            "faults": {id: [type(fault).__name__, fault.code] for id, fault in told.faults.items()},
            "missing": list(told.missing),
            "silent": len(told.silent),
        }

    @Event("ask what cannot be told")
    async def ask_badly(self, conn: Connection) -> None:
        await self.request_room("jury", "guilty?", 2**70, exclude=conn)

    @Event("members")
    async def members(self, conn: Connection) -> list[str]:
        return sorted(member.connection for member in await self.room_members("jury"))

    @Event("kick")
    async def kicks(self, conn: Connection, payload: str) -> bool:
        return await self.kick(payload)


def jury(url: str) -> AquilaSockets:
    return AquilaSockets.from_controllers([Jury], adapter_url=url)


async def acquainted(*apps: AquilaSockets) -> None:
    await eventually(lambda: all(len(app.cluster.nodes()) == len(apps) for app in apps))


@contextlib.asynccontextmanager
async def town(url: str, count: int) -> AsyncIterator[list[tuple[AquilaSockets, str]]]:
    """So many nodes that know each other, with their addresses."""
    async with contextlib.AsyncExitStack() as stack:
        apps = [jury(url) for _ in range(count)]
        bases = [await stack.enter_async_context(serving(app)) for app in apps]
        await acquainted(*apps)
        yield [(app, f"{base}/jury") for app, base in zip(apps, bases, strict=True)]


async def test_members_on_all_nodes_answer_one_question(broker: Broker) -> None:
    async with (
        town(broker.url(), 2) as ((_, one), (_, other)),
        Client.connect(one) as judge,
        Client.connect(one) as ann,
        Client.connect(other, "v1.msgpack") as bob,
        Client.connect(other) as cem,
        Client.connect(other) as dora,
        Client.connect(other) as eve,
    ):
        members = [ann, bob, cem, dora, eve]
        names = [(await client.request("enter"))["data"] for client in members]
        await judge.request("enter")
        await judge.send("ask", 1.0, id="q", ack=True)
        questions = [await client.expect("guilty?") for client in members]
        assert {question["payload"] for question in questions} == {"why"}
        await ann.send(type="ack", id=questions[0]["id"], payload={"status": "ok", "data": 1})
        await bob.send(type="ack", id=questions[1]["id"], payload={"status": "ok", "data": {"b": [2]}})
        error = {"status": "error", "error": {"code": "BUSY", "message": "not now"}}
        await cem.send(type="ack", id=questions[2]["id"], payload=error)
        dora.socket.transport.abort()
        ack = await judge.receive()
        assert ack["payload"]["data"] == {
            "answers": {names[0]: 1, names[1]: {"b": [2]}},
            "faults": {names[2]: ["ClientFault", "BUSY"], names[3]: ["SocketFault", "WS_CONNECTION_CLOSED"]},
            "missing": [names[4]],
            "silent": 0,
        }


async def test_an_answer_that_cannot_be_told_costs_nobody_else_s(broker: Broker) -> None:
    async with (
        town(broker.url(), 2) as ((_, one), (_, other)),
        Client.connect(one) as judge,
        Client.connect(other, "v1.cbor") as ann,
        Client.connect(other) as bob,
    ):
        names = [(await client.request("enter"))["data"] for client in (ann, bob)]
        await judge.send("ask", 9.0, id="q", ack=True)
        for client, answer in ((ann, 2**70), (bob, "fine")):
            question = await client.expect("guilty?")
            await client.send(type="ack", id=question["id"], payload={"status": "ok", "data": answer})
        told = (await judge.receive())["payload"]["data"]
        assert told["answers"] == {names[1]: "fine"}
        assert told["faults"] == {names[0]: ["SocketFault", "WS_PUBLISH_FAILED"]}


async def test_what_cannot_be_told_to_other_nodes_is_asked_of_nobody(nats_server: NatsServer) -> None:
    async with (
        town(nats_server.url(), 2) as ((_, one), (_, other)),
        Client.connect(one) as judge,
        Client.connect(other) as ann,
    ):
        await ann.request("enter")
        refused = await judge.request("ask what cannot be told")
        assert refused["error"]["code"] == "WS_PUBLISH_FAILED"
        assert (await ann.request("members"))["data"]  # and no question before it


@contextlib.asynccontextmanager
async def neighbours(folder: Path, url: str) -> AsyncIterator[tuple[str, str, list[str]]]:
    """The addresses of this node and of one in a process of its own, and what this one hears of others."""
    app = jury(url)
    happened: list[str] = []
    app.cluster.on_node(lambda happening: happened.append(happening.what))
    async with serving(app) as base:
        with reserved_port() as port:
            async with node(folder, APP, url, port) as at:
                await eventually(lambda: len(app.cluster.nodes()) == 2)
                yield f"{base}/jury", f"ws://{at}/jury", happened


async def test_a_node_that_dies_in_the_midst_is_silent_and_its_members_are_gone(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with (
        neighbours(tmp_path, redis_server.url()) as (near, far, happened),
        Client.connect(near) as judge,
        Client.connect(near) as ann,
        Client.connect(far) as bob,
    ):
        id = (await ann.request("enter"))["data"]
        bobs, pid = (await bob.request("enter"))["data"]
        assert (await judge.request("members"))["data"] == sorted([id, bobs])
        await judge.send("ask", 30.0, id="q", ack=True)
        question = await ann.expect("guilty?")
        await bob.expect("guilty?")
        await ann.send(type="ack", id=question["id"], payload={"status": "ok", "data": "yes"})
        os.kill(pid, signal.SIGKILL)
        asked = asyncio.create_task(ann.request("members"))
        told = (await judge.receive())["payload"]["data"]
        assert told == {"answers": {id: "yes"}, "faults": {}, "missing": [], "silent": 1}
        assert (await asked)["data"] == [id]
        assert happened == ["came", "died"]


async def test_a_node_that_is_frozen_is_taken_for_dead_and_comes_back(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        neighbours(tmp_path, nats_server.url()) as (near, far, happened),
        Client.connect(near) as judge,
        Client.connect(far) as bob,
    ):
        bobs, pid = (await bob.request("enter"))["data"]
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: happened == ["came", "died"])
        assert (await judge.request("members"))["data"] == []
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: happened[:3] == ["came", "died", "came"])
        assert (await judge.request("members"))["data"] == [bobs]


async def test_five_thousand_members_of_two_nodes_come_in_parts_of_what_a_broker_takes(
    nats_server: NatsServer,
) -> None:
    url = nats_server.url()
    settings = {
        "adapter": "nats",
        "adapter_url": url,
        "max_connections": 3000,
        "max_connections_per_namespace": 3000,
    }
    async with sockets_test(Jury, **settings) as one, sockets_test(Jury, **settings) as other:
        apps = [t.application.sockets for t in (one, other)]
        await acquainted(*apps)
        clients = [await t.connect("/jury") for t in (one, other) for _ in range(2500)]
        ids = [await client.request("enter") for client in clients]
        for client in (clients[0], clients[-1]):
            assert await client.request("members") == sorted(ids)


async def test_where_a_node_lives_and_does_not_answer_nobody_pretends_to_know(
    nats_server: NatsServer,
) -> None:
    url = nats_server.url()
    end = asyncio.Event()
    async with town(url, 2) as ((_, one), (deaf, _)), Client.connect(one) as ann:
        deaf.cluster.on("members", lambda asked: end.wait())
        deaf.cluster.on("kick", lambda asked: 1 / 0)
        refused = await ann.request("kick", "nobody")
        assert refused["error"]["code"] == "WS_INTERNAL_ERROR"
        refused = await ann.request("members")
        assert refused["error"] == {
            "code": "WS_ADAPTER_UNAVAILABLE",
            "message": "not all servers answer now: try again later",
            "retryable": True,
        }
        end.set()


async def test_without_its_broker_a_node_asks_nobody_and_says_so(own_broker: Broker) -> None:
    async with (
        town(own_broker.url(), 2) as ((_, one), _),
        Client.connect(one) as ann,
        Client.connect(one) as bob,
        Client.connect(one) as cem,
    ):
        await ann.request("enter")
        own_broker.kill()
        refused = await asyncio.gather(
            ann.request("members"), bob.request("ask", 5.0), cem.request("kick", "nobody")
        )
        assert {each["error"]["code"] for each in refused} == {"WS_ADAPTER_UNAVAILABLE"}
        own_broker.start()


@pytest.mark.parametrize("event", ["members", "ask"])
async def test_in_memory_a_node_is_alone_and_asks_itself(event: str) -> None:
    async with sockets_test(Jury) as t:
        judge, ann = await t.connect("/jury"), await t.connect("/jury")
        id = await ann.request("enter")
        if event == "members":
            assert await judge.request("members") == [id]
            assert await judge.request("kick", id) is True
            assert await judge.request("kick", id) is False
        else:
            asking = asyncio.create_task(judge.request("ask", 5.0))
            await ann.ack(await ann.expect("guilty?"), "yes")
            assert (await asking)["answers"] == {id: "yes"}
        (alone,) = t.application.sockets.cluster.nodes().values()
        assert alone.pid == os.getpid()
        assert not any("cluster" in repr(task.get_coro()).lower() for task in asyncio.all_tasks())
