"""A broker that nodes cannot reach: what clients see meanwhile and afterwards. Each node has a road of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from brokers import Broker, Make, emptied
from door import Complaints
from hall_of_nodes import hall
from listening_at import rooms
from places import entered, gap, places, said, until
from roads import Road
from wire import Client, eventually, serving

from aquilia.clock import Clock
from aquilia.sockets.adapters import adapter_for

# No road at all


@pytest.mark.parametrize("how", ["closed", "silent"])
async def test_a_node_whose_broker_is_away_serves_its_own_and_keeps_its_word(
    broker: Broker, how: str
) -> None:
    async with (
        places(broker) as (one, other),
        Client.connect(one.url, "v1.json") as ann,
        Client.connect(one.url) as plain,
        Client.connect(other.url, "v1.json") as bob,
    ):
        for client in (ann, plain, bob):
            await entered(client, "room", "log")
        for place in (one, other):
            await place.road.break_down(how)
        for place in (one, other):
            await place.sees("broker_lost")
        for number in range(3):
            await ann.send("say", ["room", number])
            assert (await ann.expect("said"))["payload"] == number
            assert (await plain.expect("said"))["payload"] == number
        for number in range(3):  # they wait for the broker, each behind the other
            await ann.send("say", ["log", number], id=f"{number}", ack=True)
        for place in (one, other):
            await place.road.mend()
        heard: dict[str, list[dict[str, Any]]] = {"ann": [], "bob": []}
        await until(ann, heard["ann"], {"id": "2", "payload": {"status": "ok"}})
        await until(bob, heard["bob"], gap("room"))  # his node has found the broker again, too
        await bob.send("say", ["room", "again"])
        await bob.send("say", ["log", "again"])
        for name, client in (("ann", ann), ("bob", bob)):
            await until(client, heard[name], {"event": "said", "room": "log", "payload": "again"})
            assert heard[name].count(gap("room")) == 1
            assert said(heard[name], "room") == ["again"]
            assert said(heard[name], "log") == [0, 1, 2, "again"]
            assert [frame for frame in heard[name] if frame.get("event") == "gap"] == [gap("room")]


async def test_what_is_asked_as_the_broker_falls_silent_is_answered_and_works_again_afterwards(
    broker: Broker,
) -> None:
    asked = [("members", "room"), ("ask", "room"), ("out", "nobody"), ("enter", "new"), ("say", ["log", 1])]
    async with contextlib.AsyncExitStack() as stack:
        one, other = await stack.enter_async_context(places(broker))
        bob = await stack.enter_async_context(Client.connect(other.url))
        await entered(bob, "room")
        clients = [await stack.enter_async_context(Client.connect(one.url, "v1.json")) for _ in asked]
        one.road.swallow()
        answers = await asyncio.gather(
            *(client.request(*each) for client, each in zip(clients, asked, strict=True))
        )
        assert {answer["error"]["code"] for answer in answers} == {"WS_ADAPTER_UNAVAILABLE"}
        assert all(answer["error"]["retryable"] for answer in answers)
        await one.road.mend()
        await one.sees("ready")
        await eventually(lambda: len(one.app.cluster.nodes()) == 2)
        answering = asyncio.create_task(bob.expect("why"))
        answers = [await client.request(*each) for client, each in zip(clients, asked, strict=True)]
        assert [answer.get("data") for answer in answers] == [1, 0, False, "new", None]
        assert {answer["status"] for answer in answers} == {"ok"}
        await answering


async def test_one_node_that_is_cut_off_alone_is_taken_for_dead_and_nobody_else_is_told_of_a_loss(
    broker: Broker,
) -> None:
    async with (
        places(broker) as (one, other),
        Client.connect(one.url, "v1.json") as ann,
        Client.connect(other.url, "v1.json") as bob,
    ):
        for name, client in (("ann", ann), ("bob", bob)):
            await client.request("name", name)
            await entered(client, "team", "room")
        here = {"room": "team", "joins": {"ann": {}}, "leaves": {}}
        met: dict[str, Any] = {}
        while not {"ann", "bob"} <= met.keys():
            met |= (await bob.expect("presence"))["payload"]["joins"]
        happened: list[str] = []
        other.app.cluster.on_node(lambda happening: happened.append(happening.what))
        await one.road.close()
        gone = {"room": "team", "joins": {}, "leaves": {"ann": {}}}
        assert await bob.receive() == {"type": "system", "event": "presence", "payload": gone}
        assert (await bob.request("members", "team"))["data"] == 1
        await one.road.mend()
        await one.sees("ready")
        assert await bob.receive() == {"type": "system", "event": "presence", "payload": here}
        assert happened[:2] == ["died", "came"]
        assert "died" not in happened[2:]
        frames: list[dict[str, Any]] = []
        await bob.send("say", ["room", "hello"])
        await until(ann, frames, {"event": "said"})
        assert gap("room") in frames
        assert all(
            "bob" not in frame["payload"].get("leaves", {})
            for frame in frames
            if "leaves" in frame["payload"]
        )
        assert (await bob.expect("said"))["payload"] == "hello"


# Subscriptions


async def test_rooms_that_were_joined_and_left_while_it_was_away_are_those_that_a_node_listens_to(
    own_broker: Broker,
) -> None:
    async with (
        places(own_broker, 1) as (one,),
        Client.connect(one.url) as ann,
        Client.connect(one.url) as bob,
    ):
        await entered(ann, "stays", "left")
        await one.road.close()
        await one.sees("broker_lost")
        joining = asyncio.create_task(bob.request("enter", "joined"))
        await ann.request("exit", "left")
        await one.road.mend()
        assert (await joining)["status"] == "ok"
        await one.sees("ready")
        assert await rooms(own_broker, one.prefix) == [one.app.cluster.id, "joined", "stays"]
        await ann.send("say", ["joined", "hello"])
        await until(bob, [], {"event": "said", "payload": "hello"})


async def test_rooms_that_are_joined_and_left_while_thousands_are_subscribed_again_are_not_forgotten(
    own_broker: Broker,
) -> None:
    async with Road.to(own_broker.port) as road:
        broker = adapter_for(None, own_broker.url("many", port=road.port), Clock()).broker
        await broker.start(lambda told: None)
        first = [f"room {number}" for number in range(5000)]
        await asyncio.gather(*(broker.subscribe("/a", room) for room in first))
        await road.close()
        while broker.connected:
            await asyncio.sleep(0)
        await road.mend()
        changes, later = [], []
        for number in itertools.count(5000):
            if broker.connected:
                break
            changes.append(asyncio.ensure_future(broker.unsubscribe("/a", first.pop())))
            later.append(f"room {number}")
            changes.append(asyncio.ensure_future(broker.subscribe("/a", later[-1])))
            await asyncio.sleep(0)
        await asyncio.gather(*changes)
        assert await rooms(own_broker, "many") == sorted([*first, *later])
        await broker.stop()


# Another broker than before

EMPTY = {"nats": "was deleted, and is made anew", "redis": "has lost what rooms remembered"}
"""What the log says then."""


async def test_a_broker_that_comes_back_empty_begins_anew_and_its_nodes_go_on(
    broker_kind: str, own_broker: Broker, complaints: Complaints
) -> None:
    async with (
        places(own_broker) as (one, other),
        Client.connect(one.url, "v1.json") as ann,
        Client.connect(other.url, "v1.json") as bob,
    ):
        for client in (ann, bob):
            await entered(client, "log")
        await ann.send("say", ["log", "before"])
        epochs = {(await client.expect("said"))["meta"]["epoch"] for client in (ann, bob)}
        own_broker.kill()
        emptied(own_broker.folder)
        for place in (one, other):
            await place.sees("broker_lost")
        own_broker.start()
        for client in (ann, bob):
            told = (await client.expect("gap"))["payload"]
            assert told["cause"] == "epoch_changed"
            epochs.add(told["epoch"])
        assert len(epochs) == 2
        await bob.send("say", ["log", "after"])
        for client in (ann, bob):
            frame = await client.expect("said")
            assert (frame["payload"], frame["meta"]["epoch"]) == ("after", told["epoch"])
        for client in (ann, bob):  # the sessions are written anew
            await entered(client, "room")
        token = ann.welcome["payload"]["resume"]
        ann.socket.transport.abort()
        async with Client.connect(other.url, "v1.json", hello=False) as again:
            await again.send("hello", {"resume": {"token": token}}, type="control")
            await again.expect("welcome")
            assert {*(await again.expect("resumed"))["payload"]["rooms"]} == {"log", "room", ""}
        assert any(EMPTY[broker_kind] in complaint for complaint in complaints.take())


LOGINS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "nats": ("ann:one@", lambda password: ["--user", "ann", "--pass", password]),
    "redis": (":one@", lambda password: ["--requirepass", password]),
}
"""What the URL says, and the options of a server with this password."""


async def test_a_broker_with_another_password_is_told_from_one_that_is_away(
    broker_kind: str, make_broker: Make
) -> None:
    login, words = LOGINS[broker_kind]
    with make_broker(*words("one")) as server:
        url = server.url(login=login)
        app = hall(adapter_url=url, health="/health")
        async with serving(app) as base, httpx.AsyncClient(trust_env=False) as http:

            async def healthy(body: dict[str, Any]) -> None:
                async with asyncio.timeout(10):
                    while not body.items() <= (await http.get(f"http{base[2:]}/health")).json().items():
                        await asyncio.sleep(0.02)

            server.kill()
            await healthy({"status": "broker_lost", "reason": "unreachable"})
            server.use(*words("another"))
            server.start()
            await healthy({"status": "broker_lost", "reason": "refused"})
            server.kill()
            server.use(*words("one"))
            server.start()
            await healthy({"status": "ready"})


async def test_an_admin_of_a_node_that_is_cut_off_sees_that_it_is_and_what_is_on_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "the-secret-of-an-admin-of-32-bytes"
    monkeypatch.setenv("AQ_ADMIN_SECRET", secret)

    async def inspected(base: str, *words: str) -> tuple[int, str, str]:
        url = base.replace("ws://", "http://")
        command = ["-m", "aquilia.cli", "ws", "inspect", "--live", "--url", url, *words]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=tmp_path, stdout=pipe, stderr=pipe
        )
        shown, told = await process.communicate()
        return process.returncode or 0, shown.decode(), told.decode()

    async with places(broker, admin=True) as (one, other), Client.connect(one.url) as ann:
        await entered(ann, "room")
        code, shown, told = await inspected(one.base, "--json")
        assert (code, told, json.loads(shown)["broker"]) == (0, "", "connected")
        await one.road.close()
        await one.sees("broker_lost")
        code, shown, told = await inspected(one.base, "--json")
        seen = json.loads(shown)
        assert (code, seen["broker"], seen["silent"]) == (2, "unreachable", [other.app.cluster.id])
        assert {node["id"] for node in seen["nodes"]} == {place.app.cluster.id for place in (one, other)}
        assert [(each["namespace"], each["connections"]) for each in seen["namespaces"]] == [("/hall", 1)]
        assert "the broker is unreachable" in told
        await one.road.mend()
        await one.sees("ready")
        await eventually(lambda: len(one.app.cluster.nodes()) == 2)
        code, shown, _ = await inspected(one.base, "--json")
        assert (code, json.loads(shown)["broker"]) == (0, "connected")
