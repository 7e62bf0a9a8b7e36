"""The cluster: nodes that know each other, and what they tell and ask, over a broker whose wires the test holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from door import Complaints
from nats_server import NatsServer
from wire import Client, eventually, serving

from aquilia.aquilary import Registry
from aquilia.clock import CURRENT, Clock
from aquilia.manifest import AppManifest
from aquilia.sockets import AquilaSockets, Connection, Event, Publication, Socket, SocketController
from aquilia.sockets.adapters.inmemory import InMemoryBroker, InMemoryStore
from aquilia.sockets.adapters.stored import decode, encode
from aquilia.sockets.cluster.membership import CONTROL, Cluster
from aquilia.sockets.faults import ws_adapter_unavailable, ws_room_full
from aquilia.sockets.metrics.recorder import Counters
from aquilia.sockets.plan import SocketPlan


@Socket("/hall")
class Hall(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> str:
        await conn.join("hall")
        return conn.id


class Wires:
    """What the brokers of several nodes share. What goes over it is bytes, as anywhere."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.sent: list[tuple[Publication, int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.answers = asyncio.Event()
        self.answers.set()
        self.away = False
        self.refused = 0
        self.passes: Callable[[Publication], bool] = lambda publication: True
        self.held: list[bytes] | None = None

    def carry(self, data: bytes) -> None:
        for node in self.nodes:
            node.take(decode(data))

    def release(self) -> None:
        """Deliver what was held, the last first."""
        held, self.held = self.held or [], None
        for data in reversed(held):
            self.carry(data)


class Node(InMemoryBroker):
    def __init__(self, wires: Wires) -> None:
        super().__init__()
        self.alone = False
        self.wires = wires
        wires.nodes.append(self)

    def take(self, publication: Publication) -> None:
        if self._deliver is not None and (publication.namespace, publication.room) in self._subscribed:
            self._deliver(publication)

    async def publish(self, publication: Publication, history: Any = None) -> None:
        await self.wires.open.wait()
        if self.wires.away:
            self.wires.refused += 1
            raise ws_adapter_unavailable("the wires are away")
        data = encode(publication)
        self.wires.sent.append((publication, len(data)))
        if not self.wires.passes(publication):
            return
        if self.wires.held is not None and publication.event == "part":
            self.wires.held.append(data)
        else:
            self.wires.carry(data)
        await self.wires.answers.wait()


class Adapter:
    def __init__(self, wires: Wires) -> None:
        self.broker = Node(wires)
        self.store = InMemoryStore()


@pytest.fixture
def wires() -> Wires:
    return Wires()


@contextlib.asynccontextmanager
async def running(wires: Wires, count: int) -> AsyncIterator[list[AquilaSockets]]:
    """So many nodes."""
    registry = Registry.build([AppManifest("hall", controllers=[Hall])])
    plan = SocketPlan.read(registry, [])
    apps = [
        AquilaSockets(registry, plan=plan, adapter=Adapter(wires), recorder=Counters()) for _ in range(count)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app.lifespan())
        yield apps


def names(*apps: AquilaSockets) -> set[str]:
    return {app.cluster.id for app in apps}


async def test_nodes_know_each_other_as_soon_as_they_have_started(wires: Wires) -> None:
    async with running(wires, 3) as apps:
        for app in apps:
            assert set(app.cluster.nodes()) == names(*apps)
            assert {node.phase for node in app.cluster.nodes().values()} == {"live"}
            assert {node.fingerprint for node in app.cluster.nodes().values()} == {
                apps[0].plan.registry.fingerprint
            }
        # The first beat of each, and an answer by each that was there: nothing to all that only one has to know.
        assert len(wires.sent) == 3 + 1 + 2


async def test_a_newcomer_s_beat_is_answered_to_it_alone_and_an_answer_is_not(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        for stranger, room in (("asking", None), ("answering", one.cluster.id)):
            wires.sent.clear()
            beat = [1, stranger, 1, 0, "live", 0.0, "host", 1, "print", 0]
            await other._adapter.broker.publish(
                Publication(id="g", namespace=CONTROL, event="beat", payload=beat, ts=0, room=room)
            )
            assert stranger in one.cluster.nodes()
            answers = [told.payload[1] for told, _ in wires.sent if told.room == stranger]
            assert sorted(answers) == (sorted(names(one, other)) if room is None else [])


async def test_a_node_that_is_started_again_is_another(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        happened: list[tuple[str, str]] = []
        one.cluster.on_node(happened.append)
        first = other.cluster.id
        await other.shutdown()
        assert set(one.cluster.nodes()) == {one.cluster.id}
        await other.startup()
        second = other.cluster.id
        assert happened == [(first, "leaving"), (first, "left"), (second, "came")]
        assert set(one.cluster.nodes()) == {one.cluster.id, second}


async def test_what_is_told_reaches_the_others_and_nobody_else(wires: Wires) -> None:
    async with running(wires, 3) as apps:
        heard: list[tuple[int, Any]] = []
        for number, app in enumerate(apps):
            app.cluster.on("news", lambda payload, number=number: heard.append((number, payload)))
        await apps[0].cluster.tell("news", {"a": (1, 2)})
        assert heard == [(1, {"a": [1, 2]}), (2, {"a": [1, 2]})]
        heard.clear()
        await apps[0].cluster.tell("news", "you", node=apps[2].cluster.id)
        await apps[0].cluster.tell("nothing that anybody knows")
        assert heard == [(2, "you")]


async def test_all_are_asked_and_each_answers_in_its_way(wires: Wires, complaints: Complaints) -> None:
    async with running(wires, 5) as (one, two, three, four, five):

        async def slowly(payload: int) -> int:
            await asyncio.sleep(0)
            return payload + 1

        def full(payload: int) -> None:
            raise ws_room_full("hall", payload)

        one.cluster.on("count", lambda payload: payload)
        two.cluster.on("count", slowly)
        three.cluster.on("count", full)
        four.cluster.on("count", lambda payload: payload / 0)
        async with asyncio.timeout(2):
            told = await one.cluster.ask("count", 1, timeout=60)
        assert told.by_node == {one.cluster.id: 1, two.cluster.id: 2}
        assert told.faults[three.cluster.id].as_dict() == ws_room_full("hall", 1).as_dict()
        assert told.faults[four.cluster.id].code == "WS_INTERNAL_ERROR"
        assert told.silent == (five.cluster.id,)  # it knows no such verb
        assert told.gone == frozenset()
        assert "a question of another node" in complaints.take()[0]


async def test_one_is_asked_and_one_that_is_not_there_is_gone(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        for app in (one, other):
            app.cluster.on("who", lambda payload, app=app: app.cluster.id)
        for app in (one, other):
            told = await one.cluster.ask("who", timeout=1, node=app.cluster.id)
            assert told.by_node == {app.cluster.id: app.cluster.id}
        told = await one.cluster.ask("who", timeout=60, node="nobody")
        assert (told.by_node, told.silent, told.gone) == ({}, ("nobody",), {"nobody"})


async def test_one_that_leaves_before_it_answers_is_not_awaited(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        asked, end = asyncio.Event(), asyncio.Event()

        async def wait(payload: Any) -> None:
            asked.set()
            await end.wait()

        other.cluster.on("wait", wait)
        one.cluster.on("wait", lambda payload: "here")
        asking = asyncio.create_task(one.cluster.ask("wait", timeout=60))
        await asked.wait()
        id = other.cluster.id
        await other.cluster.stop()
        told = await asking
        assert (told.by_node, told.silent, told.gone) == ({one.cluster.id: "here"}, (id,), {id})
        end.set()


async def test_who_asks_has_its_answer_when_it_is_enough(wires: Wires) -> None:
    async with running(wires, 3) as (one, two, three):
        one.cluster.on("found", lambda payload: False)
        two.cluster.on("found", lambda payload: True)
        three.cluster.on("found", lambda payload: asyncio.sleep(0.1))
        async with asyncio.timeout(2):
            told = await one.cluster.ask("found", timeout=60, enough=bool)
        assert told.by_node[two.cluster.id] is True
        assert three.cluster.id in told.silent


async def test_a_large_answer_comes_in_parts_in_whatever_order(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        large = [f"{number:>40}" for number in range(40_000)]
        other.cluster.on("all", lambda payload: large)
        wires.held = []
        asking = asyncio.create_task(one.cluster.ask("all", timeout=10, node=other.cluster.id))
        await eventually(lambda: len(wires.held or []) == 7)
        wires.release()
        assert (await asking).by_node == {other.cluster.id: large}
        assert max(size for _, size in wires.sent) < 512 << 10


async def test_an_answer_of_which_a_part_is_lost_is_none(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        other.cluster.on("all", lambda payload: "x" * (600 << 10))
        wires.passes = lambda told: told.event != "part" or told.payload[4] != 1
        told = await one.cluster.ask("all", timeout=0.1, node=other.cluster.id)
        assert told.silent == (other.cluster.id,)
        assert told.gone == frozenset()


async def test_an_answer_that_is_too_large_is_an_error(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        other.cluster.on("all", lambda payload: b"x" * (65 << 20))
        told = await one.cluster.ask("all", timeout=10, node=other.cluster.id)
        assert "67108864 are told at most" in told.faults[other.cluster.id].message


async def test_what_cannot_be_written_is_not_asked(wires: Wires) -> None:
    async with running(wires, 2) as (one, _):
        with pytest.raises(Exception, match="WS_PUBLISH_FAILED: it cannot be told to other nodes"):
            await one.cluster.ask("all", object(), timeout=10)
        wires.away = True
        with pytest.raises(Exception, match="WS_ADAPTER_UNAVAILABLE"):
            await one.cluster.ask("all", timeout=10)
        wires.away = False


async def test_a_process_that_was_frozen_takes_nobody_for_dead_and_is_seen_to_have_come_back(
    wires: Wires,
) -> None:
    moved = 0.0
    CURRENT.set(Clock(lambda: time.monotonic() + moved))
    async with running(wires, 1) as (one,):
        CURRENT.set(Clock())
        async with running(wires, 1) as (other,):
            happened: list[tuple[str, str]] = []
            for app in (one, other):
                app.cluster.on_node(happened.append)
            moved = 60.0  # for the first, nothing has come for a minute
            await eventually(lambda: happened)
            assert happened == [(one.cluster.id, "came")]
            assert other.cluster.nodes()[one.cluster.id].life == 1
            assert set(one.cluster.nodes()) == names(one, other)


async def test_beats_that_get_lost_are_no_error(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        wires.away = True
        seen = other.cluster.nodes()[one.cluster.id].number
        await eventually(lambda: wires.refused >= 2)
        wires.away = False
        await eventually(lambda: other.cluster.nodes()[one.cluster.id].number > seen + 1)


async def test_a_node_beats_on_while_its_broker_takes_long_to_say_that_it_has_a_beat(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        wires.answers.clear()
        seen = other.cluster.nodes()[one.cluster.id].number
        await eventually(lambda: other.cluster.nodes()[one.cluster.id].number > seen + 1)
        wires.answers.set()


async def test_a_node_that_stops_does_not_wait_for_a_broker_that_is_away(wires: Wires) -> None:
    async with running(wires, 2) as (one, _):
        wires.open.clear()
        for node in wires.nodes:
            node.connected = False
        async with asyncio.timeout(0.5):
            await one.shutdown()
        wires.open.set()


async def test_a_listener_that_fails_harms_nobody(wires: Wires, complaints: Complaints) -> None:
    async with running(wires, 2) as (one, other):
        happened: list[str] = []

        def broken(happening: Any) -> None:
            raise RuntimeError("oops")

        one.cluster.on_node(broken)
        one.cluster.on_node(lambda happening: happened.append(happening.what))
        await other.shutdown()
        assert happened == ["leaving", "left"]
        assert len(complaints.take()) == 2


GARBAGE: list[tuple[str, Any]] = [
    ("beat", None),
    ("beat", 5),
    ("beat", []),
    ("beat", {"id": "x"}),
    ("beat", [1, "x", 1, 0, "dancing", 0.0, "host", 1, "print", 0, 0.0]),
    ("beat", [2, "x", 1, 0, "live", 0.0, "host", 1, "print", 0, 0.0]),
    ("beat", [1, "x" * 65, 1, 0, "live", 0.0, "host", 1, "print", 0, 0.0]),
    ("call", [1, "x", 1, "members", "no bytes"]),
    ("call", [1, "x", 1, "members", b"\xc1"]),
    ("call", [1, "x", 1, "members", b"\x91" * 100_000]),
    ("part", [1, "x", "1", "answer", 0, 1, b""]),
    ("part", [1, "x", 1, "answer", 0, 10**9, b""]),
    ("part", [1, "x", 1, "answer", -1, 1, b""]),
    ("part", [1, "x", 1, "shout", 0, 1, b""]),
    ("a later verb", [1, "x"]),
    ("", None),
]


@pytest.mark.parametrize(("event", "payload"), GARBAGE)
async def test_what_cannot_be_read_is_ignored_and_counted(
    wires: Wires, complaints: Complaints, event: str, payload: Any
) -> None:
    async with running(wires, 2) as (one, other):
        for room in (None, one.cluster.id):
            await other._adapter.broker.publish(
                Publication(id="g", namespace=CONTROL, event=event, payload=payload, ts=0, room=room)
            )
        assert isinstance(one.recorder, Counters)
        assert one.recorder.counts["dropped", "none", "foreign"] == 2
        assert set(one.cluster.nodes()) == names(one, other)


@pytest.mark.parametrize("data", [b"\xc1", b"", b"\x91" * 100_000])
async def test_an_answer_that_cannot_be_read_is_ignored_and_counted(wires: Wires, data: bytes) -> None:
    async with running(wires, 2) as (one, other):
        end = asyncio.Event()
        other.cluster.on("wait", lambda payload: end.wait())
        asking = asyncio.create_task(one.cluster.ask("wait", timeout=5, node=other.cluster.id))
        await eventually(lambda: wires.sent[-1][0].event == "call")
        question = wires.sent[-1][0].payload[2]
        for kind, number in (("answer", 1), ("answer", 0), ("fault", 0)):
            part = [1, other.cluster.id, question, kind, number, 1, data]
            await other._adapter.broker.publish(
                Publication(id="g", namespace=CONTROL, event="part", payload=part, ts=0, room=one.cluster.id)
            )
        assert isinstance(one.recorder, Counters)
        assert one.recorder.counts["dropped", "none", "foreign"] == 3
        end.set()
        assert (await asking).by_node == {other.cluster.id: True}


async def test_answers_that_nobody_waits_for_are_nothing(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        other.cluster.on("quick", lambda payload: 1)
        await one.cluster.ask("quick", timeout=5)
        question = next(told.payload[2] for told, _ in wires.sent if told.event == "call")
        for sender, number in ((other.cluster.id, question), ("a stranger", question), ("a stranger", 99)):
            part = [1, sender, number, "answer", 0, 1, b"\x01"]
            await other._adapter.broker.publish(
                Publication(id="g", namespace=CONTROL, event="part", payload=part, ts=0, room=one.cluster.id)
            )
        assert isinstance(one.recorder, Counters)
        assert not one.recorder.counts["dropped", "none", "foreign"]


async def test_a_node_that_drains_says_so_and_for_how_long_its_clients_are_awaited(
    nats_server: NatsServer,
) -> None:
    url = nats_server.url()
    one, other = [AquilaSockets.from_controllers([Hall], adapter="nats", adapter_url=url) for _ in range(2)]
    happened: list[str] = []
    one.cluster.on_node(lambda happening: happened.append(happening.what))
    async with serving(one), serving(other) as far, Client.connect(f"{far}/hall", "v1.json") as ann:
        await eventually(lambda: len(one.cluster.nodes()) == 2)
        id = other.cluster.id
        assert (await ann.request("enter"))["status"] == "ok"
        draining = asyncio.create_task(other.drain())
        await ann.expect("goaway")
        await eventually(lambda: happened == ["came", "leaving"])
        leaving = one.cluster.nodes()[id]
        assert leaving.phase == "leaving"
        assert leaving.awaited > 0.5
        await ann.socket.close()
        await draining
        await other.shutdown()
        await eventually(lambda: happened == ["came", "leaving", "left"])
        assert set(one.cluster.nodes()) == {one.cluster.id}


async def test_whoever_waits_for_answers_when_its_node_stops_has_none(wires: Wires) -> None:
    async with running(wires, 2) as (one, other):
        end = asyncio.Event()
        other.cluster.on("wait", lambda payload: end.wait())
        asking = asyncio.create_task(one.cluster.ask("wait", timeout=60, node=other.cluster.id))
        await eventually(lambda: wires.sent[-1][0].event == "call")
        await one.cluster.stop()
        assert (await asking).silent == (other.cluster.id,)
        end.set()


def test_a_cluster_that_has_not_started_has_no_nodes() -> None:
    app = AquilaSockets.from_controllers([Hall])
    assert isinstance(app.cluster, Cluster)
    assert dict(app.cluster.nodes()) == {}
