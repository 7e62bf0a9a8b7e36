"""Sessions over time, and over nodes that share a store: who has one, for how long, and who hears of it when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tokens import Passwords
from wire import TIMEOUT, Client, eventually, serving

from aquilia import Identity
from aquilia.aquilary import Registry
from aquilia.manifest import AppManifest
from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController, Subscribe
from aquilia.sockets.adapters.base import Publication
from aquilia.sockets.adapters.inmemory import InMemoryBroker, InMemoryStore
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.metrics.recorder import Counters
from aquilia.sockets.resume.records import Record
from aquilia.testing import SocketsTest, sockets_test

V1 = "aquilia.v1.json"


@Socket("/room")
class Room(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("rooms")
    async def rooms(self, conn: Connection) -> list[str]:
        return sorted(conn.rooms)

    @Event("count")
    async def count(self, conn: Connection) -> int:
        conn.state["n"] = conn.state.get("n", 0) + 1
        return int(conn.state["n"])

    @Event("tell")
    async def tell(self, conn: Connection, payload: str) -> None:
        await conn.send_event("told", payload)


class Wires:
    """The brokers of several nodes: what one publishes, all deliver, while nothing is cut."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.cut = False
        self.waiting = 0
        self.free = asyncio.Event()
        self.free.set()


class Node(InMemoryBroker):
    def __init__(self, wires: Wires) -> None:
        super().__init__()
        self.wires = wires
        wires.nodes.append(self)

    async def publish(self, publication: Publication, history: Any = None) -> Any:
        self.wires.waiting += 1
        await self.wires.free.wait()
        self.wires.waiting -= 1
        for node in [self] if self.wires.cut else self.wires.nodes:
            await InMemoryBroker.publish(node, publication, history)


class Shared(InMemoryStore):
    """A store that takes its time, as one across a network does, and may be away."""

    away = False

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def _reach(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        await self.answers.wait()
        if self.away:
            raise ws_adapter_unavailable("the store is away")

    async def get(self, key: str) -> bytes | None:
        await self._reach()
        return await super().get(key)

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        await self._reach()
        return await super().compare_and_swap(key, expected, value, ttl)


class Adapter:
    def __init__(self, broker: Any, store: Any) -> None:
        self.broker = broker
        self.store = store


class Late(Counters):
    """Lets a store answer when a connection has just ended."""

    def __init__(self, store: Shared) -> None:
        super().__init__()
        self.store = store

    def closed(self, pattern: str, code: int) -> None:
        super().closed(pattern, code)
        self.store.answers.set()


class Town:
    def __init__(self) -> None:
        self.wires = Wires()
        self.store = Shared()

    def node(self, recorder: Counters | None = None) -> AquilaSockets:
        registry = Registry.build([AppManifest("town", controllers=[Room], auth=Passwords())])
        return AquilaSockets(registry, adapter=Adapter(Node(self.wires), self.store), recorder=recorder)

    def sessions(self) -> list[str]:
        """The phases of all that are in the store."""
        found = [Record.read(data) for key, (data, _) in self.store._values.items() if key != "resume-key"]
        return [record.phase for record in found if record is not None]


@pytest.fixture
def town() -> Town:
    return Town()


@contextlib.asynccontextmanager
async def arriving(
    base: str, token: str | None = None, rooms: Any = None, **options: Any
) -> AsyncIterator[Client]:
    async with Client.connect(f"{base}/room", "v1.json", hello=False, **options) as client:
        payload = {} if token is None else {"resume": {"token": token, "rooms": rooms or {}}}
        await client.send("hello", payload, type="control")
        client.welcome = (await client.expect("welcome"))["payload"]
        yield client


async def test_a_session_moves_to_another_node(town: Town) -> None:
    async with serving(town.node()) as one, serving(town.node()) as other:
        async with arriving(one) as client:
            first = client.welcome
            await client.request("enter", "hall")
            assert (await client.request("count"))["data"] == 1
            await client.send("tell", "hi", id="t", ack=True)
            told = (await client.expect("told"))["meta"]
            client.socket.transport.abort()
        await eventually(lambda: b"away" in b"".join(data for data, _ in town.store._values.values()))
        place = {"epoch": told["epoch"], "offset": told["offset"]}
        async with arriving(other, first["resume"], {"": place}) as client:
            assert client.welcome["connection"] == first["connection"]
            rooms = (await client.expect("resumed"))["payload"]["rooms"]
            assert rooms == {"hall": {"recovered": False}, "": {"recovered": True, **place}}
            assert (await client.request("count"))["data"] == 2
            await client.send("tell", "again")
            assert (await client.expect("told"))["meta"]["offset"] == place["offset"] + 1


async def test_the_former_node_ends_its_connection_when_it_hears_of_the_new_one(town: Town) -> None:
    async with serving(town.node()) as one, serving(town.node()) as other:
        async with arriving(one) as former:
            await former.request("enter", "hall")
            async with arriving(other, former.welcome["resume"]) as client:
                assert (await former.closed())[0] == 4410
                assert (await client.request("rooms"))["data"] == ["hall"]


async def test_a_node_that_hears_nothing_learns_it_at_its_next_write(town: Town) -> None:
    async with serving(town.node()) as one, serving(town.node()) as other:
        async with arriving(one) as former:
            town.wires.cut = True
            async with arriving(other, former.welcome["resume"]) as client:
                rooms = (await client.expect("resumed"))["payload"]["rooms"]
                assert rooms == {"": {"recovered": False, "epoch": rooms[""]["epoch"], "offset": 0}}
                await former.send("enter", "hall")
                assert (await former.closed())[0] == 4410
                assert (await client.request("rooms"))["data"] == []


async def test_a_session_that_went_there_and_back_ends_on_the_node_between(town: Town) -> None:
    async with serving(town.node()) as one, serving(town.node()) as other:
        async with arriving(one) as first:
            token = first.welcome["resume"]
            town.wires.cut = True  # the first one does not hear that the second one has its session
            async with arriving(other, token) as second:
                await second.expect("resumed")
                town.wires.cut = False
                async with arriving(one, token) as third:
                    await third.expect("resumed")
                    assert (await first.closed())[0] == 4410
                    assert (await second.closed())[0] == 4410
                    assert (await third.request("rooms"))["data"] == []


async def test_who_has_gone_before_the_former_connection_was_told_has_ended_it_all_the_same(
    town: Town,
) -> None:
    node = town.node()
    async with serving(node) as one, serving(town.node()) as other:
        async with arriving(other) as former:
            town.wires.free.clear()
            async with Client.connect(f"{one}/room", "v1.json", hello=False) as client:
                await client.send("hello", {"resume": {"token": former.welcome["resume"]}}, type="control")
                await eventually(lambda: town.wires.waiting > 0)
                client.socket.transport.abort()
                await eventually(lambda: node.live()["connections"] == 0)
            town.wires.free.set()
            async with asyncio.timeout(1):  # a look at the store may come two seconds later
                assert (await former.closed())[0] == 4410


async def test_a_session_that_is_written_when_its_client_has_just_gone_is_away(town: Town) -> None:
    async with serving(town.node(Late(town.store))) as base:
        async with arriving(base) as client:  # the key that signs is there from here on
            await client.socket.close()
        await eventually(lambda: town.sessions() == [])
        town.store.answers.clear()
        before = town.store.asked
        async with Client.connect(f"{base}/room", "v1.json", hello=False) as client:
            await client.send("hello", {}, type="control")
            await eventually(lambda: town.store.asked > before)
            client.socket.transport.abort()
            await eventually(town.sessions)
        await eventually(lambda: town.sessions() == ["away"])


async def test_of_many_that_resume_at_once_one_stays(town: Town) -> None:
    async with serving(town.node()) as one, serving(town.node()) as other:
        async with arriving(one) as former:
            token = former.welcome["resume"]
            async with contextlib.AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(Client.connect(f"{base}/room", "v1.json", hello=False))
                    for base in (one, other) * 3
                ]
                hello = {"resume": {"token": token, "rooms": {}}}
                await asyncio.gather(*(client.send("hello", hello, type="control") for client in clients))
                ends = [asyncio.create_task(client.closed()) for client in clients]
                assert (await former.closed())[0] == 4410
                done: set[Any] = set()
                async with asyncio.timeout(TIMEOUT):
                    while len(done) < 5:
                        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=0.1)
                assert {task.result()[0] for task in done} == {4410}
                (stays,) = [task for task in ends if task not in done]
                stays.cancel()


async def test_without_a_store_new_clients_come_in_and_others_are_told_to_come_back(
    town: Town, complaints: Any
) -> None:
    async with serving(town.node()) as base:
        async with arriving(base) as client:
            token = client.welcome["resume"]
            await client.request("enter", "hall")
            town.store.away = True
            refused = await client.request("enter", "den")
            assert refused["error"]["code"] == "WS_ADAPTER_UNAVAILABLE"
            assert (await client.request("rooms"))["data"] == ["hall"]
            async with arriving(base) as new:
                assert "resume" not in new.welcome
                assert (await new.request("enter", "den"))["status"] == "ok"
            async with Client.connect(f"{base}/room", "v1.json", hello=False) as again:
                await again.send("hello", {"resume": {"token": token, "rooms": {}}}, type="control")
                assert (await again.closed())[0] == 1013
            town.store.away = False
            assert (await client.request("enter", "den"))["status"] == "ok"
        assert all("the store" in complaint for complaint in complaints.take())


async def test_a_token_is_good_for_its_identity_alone(town: Town) -> None:
    def bearer(name: str) -> dict[str, Any]:
        return {"additional_headers": {"authorization": f"Bearer {name}"}}

    async with serving(town.node()) as base:
        async with arriving(base, **bearer("ann")) as client:
            first = client.welcome
            await client.request("enter", "hall")
        for other in (bearer("bob"), {}):
            async with arriving(base, first["resume"], **other) as stranger:
                assert stranger.welcome["connection"] != first["connection"]
                assert (await stranger.request("rooms"))["data"] == []


# Over time


async def open_session(t: SocketsTest, token: str | None = None, **more: Any) -> tuple[Any, dict[str, Any]]:
    client = await t.connect("/room", subprotocol=V1, hello=False, **more)
    payload = None if token is None else {"resume": {"token": token, "rooms": {}}}
    client._send(MessageEnvelope(type="control", event="hello", payload=payload))
    return client, (await client.expect("welcome", type="system")).payload


@pytest.mark.parametrize(("seconds", "back"), [(115, True), (125, False)])
async def test_a_client_has_two_minutes_to_come_back(seconds: float, back: bool) -> None:
    async with sockets_test(Room) as t:
        t.clock.freeze()
        client, welcome = await open_session(t)
        await t.clock.advance(1000)  # its record is kept alive while it is here
        await client.disconnect(1001)
        await t.clock.advance(seconds)
        _, again = await open_session(t, welcome["resume"])
        assert (again["connection"] == welcome["connection"]) is back


async def test_an_identity_that_comes_back_by_the_kit_is_the_same() -> None:
    async with sockets_test(Room) as t:
        client, welcome = await open_session(t, identity=Identity("ann"))
        await client.disconnect(1001)
        _, other = await open_session(t, welcome["resume"], identity=Identity("bob"))
        assert other["connection"] != welcome["connection"]
        _, again = await open_session(t, welcome["resume"], identity=Identity("ann"))
        assert again["connection"] == welcome["connection"]


async def test_nothing_of_a_session_is_left_when_its_time_is_over() -> None:
    async with sockets_test(Room) as t:
        t.clock.freeze()
        client, _ = await open_session(t)
        await client.request("tell", "x")
        await client.disconnect(1001)
        resumption = t.application.sockets._resumption
        assert resumption.logs.bytes > 0
        await t.clock.advance(150)
        assert (resumption.logs.bytes, resumption._renewals.idle) == (0, True)
