"""Nodes that stand still or take nothing, as real processes: what that costs the others, and what members see."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, Make, frozen
from hall_of_nodes import APP
from listening_at import connections
from nodes import node
from places import Place, entered, gap, places, said, until
from ports import reserved_port
from wire import Client, eventually

MANY, LONG = 300, 1000


# What a message costs


async def test_a_message_costs_a_node_nothing_where_it_has_no_member(own_broker: Broker) -> None:
    async with (
        places(own_broker) as (one, other),
        Client.connect(one.url) as ann,
        Client.connect(other.url) as bob,
    ):
        await entered(ann, "room", "log")

        async def cost() -> int:
            """Bytes that the other node gets while so many letters are said in each room."""
            _, before = await connections(own_broker, one.prefix)
            for room in ("room", "log"):
                await ann.request("say many", [room, MANY, LONG])
            _, after = await connections(own_broker, one.prefix)
            return after.bytes - before.bytes

        said, beats = 2 * MANY * LONG, 100_000  # and what else nodes tell each other, for many seconds
        _, alone = await connections(own_broker, one.prefix)
        assert await cost() < beats
        await entered(bob, "room", "log")
        assert said <= await cost() < 1.3 * said + beats
        for room in ("room", "log"):
            await bob.request("exit", room)
        _, heard = await connections(own_broker, one.prefix)
        assert heard.subscriptions == alone.subscriptions
        assert await cost() < beats


# A node that stands still


@contextlib.asynccontextmanager
async def neighbours(folder: Path, server: Broker) -> AsyncIterator[tuple[Place, list[str], str]]:
    """A node in this process, what it hears of another one, and the URL of that, which has a process of its own."""
    async with places(server, 1) as (one,):
        happened: list[str] = []
        one.app.cluster.on_node(lambda happening: happened.append(happening.what))
        with reserved_port() as port:
            async with node(folder, APP, server.url(one.prefix), port) as at:
                await eventually(lambda: len(one.app.cluster.nodes()) == 2)
                yield one, happened, f"ws://{at}/hall"


async def beats(place: Place, count: int) -> None:
    """Wait until a node has told so often that it lives: as many seconds."""
    number = place.app.cluster.nodes()[place.app.cluster.id].number
    await eventually(lambda: place.app.cluster.nodes()[place.app.cluster.id].number >= number + count)


async def acquainted(*clients: Client) -> None:
    """Wait until all of them know that ann and bob are there."""
    for client in clients:
        here: dict[str, Any] = {}
        while set(here) != {"ann", "bob"}:
            here |= (await client.expect("presence"))["payload"]["joins"]


@pytest.mark.parametrize(
    ("broker_kind", "how"),
    [("nats", "frozen"), ("nats", "busy"), ("redis", "frozen")],
    indirect=["broker_kind"],
)
async def test_a_node_that_stands_still_for_three_seconds_loses_no_member_and_no_message(
    own_broker: Broker, tmp_path: Path, how: str
) -> None:
    async with (
        neighbours(tmp_path, own_broker) as (one, happened, far),
        Client.connect(one.url, "v1.json") as ann,
        Client.connect(far, "v1.json") as bob,
    ):
        pid = (await bob.request("where"))["data"]
        for name, client in (("ann", ann), ("bob", bob)):
            await client.request("name", name)
            await entered(client, "log", "team")
        await acquainted(ann, bob)
        with contextlib.ExitStack() as stack:
            if how == "frozen":
                stack.enter_context(frozen(pid))
            else:
                await bob.send("stand still", 3.0)
            for number in range(10):
                await ann.send("say", ["team", number])
                await ann.send("say", ["log", number])
            await beats(one, 3)
        await bob.send("say", ["team", "awake"])
        for client in (ann, bob):
            frames: list[dict[str, Any]] = []
            await until(client, frames, {"event": "said", "payload": "awake"})
            told = [(frame.get("room"), frame["payload"]) for frame in frames]
            assert [number for room, number in told if room == "team"] == [*range(10), "awake"]
            assert [number for room, number in told if room == "log"] == [*range(10)]
            assert {frame["event"] for frame in frames} == {"said"}  # no gap, and nobody came or went
        assert "died" not in happened
        assert (await ann.request("members", "team"))["data"] == 2


async def test_a_node_that_was_frozen_for_longer_than_a_lease_says_anew_who_is_on_it(
    own_broker: Broker, tmp_path: Path
) -> None:
    async with (
        neighbours(tmp_path, own_broker) as (one, happened, far),
        Client.connect(one.url, "v1.json") as ann,
        Client.connect(far, "v1.json") as bob,
    ):
        pid = (await bob.request("where"))["data"]
        for name, client in (("ann", ann), ("bob", bob)):
            await client.request("name", name)
            await entered(client, "team")
        await acquainted(ann, bob)
        with frozen(pid):
            left = (await ann.expect("presence"))["payload"]
            assert (left["joins"], left["leaves"]) == ({}, {"bob": {}})
            assert (await ann.request("members", "team"))["data"] == 1
            await ann.send("say", ["team", "are you there?"])
            await ann.expect("said")
        joined = (await ann.expect("presence"))["payload"]
        assert (joined["joins"], joined["leaves"]) == ({"bob": {}}, {})
        assert (await bob.expect("said"))["payload"] == "are you there?"
        assert (await ann.request("members", "team"))["data"] == 2
        for client in (ann, bob):
            assert (await client.request("here", "team"))["data"] == {"ann": 1, "bob": 1}
        await bob.send("say", ["team", "yes"])
        for client in (ann, bob):
            assert (await client.expect("said"))["payload"] == "yes"
        assert happened[:3] == ["came", "died", "came"]


# A slow node

LOGGED, SAID, LETTERS = 300, 3000, 10_000
"""More than a server holds for a node, with what both kernels do."""
IMPATIENT = """
max_pending: 8MB
write_deadline: "1s"
"""
OPTIONS = {"nats": ["-c", "{}/nats.conf"], "redis": ["--client-output-buffer-limit", "pubsub 8mb 8mb 1"]}
"""Of a server that holds so much for a node, and not for long."""


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_a_node_that_takes_nothing_slows_nobody_and_is_told_what_it_lost(
    broker_kind: str, make_broker: Make, tmp_path: Path
) -> None:
    (tmp_path / "nats.conf").write_text(IMPATIENT)
    with make_broker(*(option.format(tmp_path) for option in OPTIONS[broker_kind])) as server:
        url = server.url()
        async with contextlib.AsyncExitStack() as stack:

            async def started(folder: str) -> tuple[Client, int]:
                (tmp_path / folder).mkdir()
                port = stack.enter_context(reserved_port())
                at = await stack.enter_async_context(node(tmp_path / folder, APP, url, port))
                client = await stack.enter_async_context(Client.connect(f"ws://{at}/hall", "v1.json"))
                await entered(client, "room", "log")
                return client, (await client.request("where"))["data"]

            (ann, pid), (bob, slow) = await started("one"), await started("other")
            with frozen(slow):
                before = resident(pid)
                for room, count in (("log", LOGGED), ("room", SAID)):
                    await ann.send("say many", [room, count, LETTERS], id=room, ack=True)
                    for number in range(count):
                        assert (await ann.expect("said"))["payload"][0] == number
                    assert (await ann.receive())["id"] == room
                assert resident(pid) - before < SAID * LETTERS / 2
            frames: list[dict[str, Any]] = []
            await until(bob, frames, gap("room"))
            await ann.send("say", ["log", ["last"]])
            await ann.send("say", ["room", ["last"]])
            while not {"log", "room"} <= {
                frame.get("room") for frame in frames if frame["payload"] == ["last"]
            }:
                frames.append(await bob.receive())
            logged = [number for number, *_ in said(frames, "log")]
            assert logged == [*range(LOGGED), "last"]
            heard = [number for number, *_ in said(frames, "room")]
            assert heard == [*range(len(heard) - 1), "last"]  # in order, up to where it was cut off
            assert len(heard) < SAID
            assert [frame for frame in frames if frame["event"] == "gap"] == [gap("room")]
