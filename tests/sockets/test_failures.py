"""What is left standing when a part below the sockets fails: the broker, the server, a service, one transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from house import Shaky
from visit import Visit
from wire import eventually

from aquilia import AppManifest, service
from aquilia.aquilary import Registry
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Handshake,
    InMemoryAdapter,
    OnDisconnect,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
)
from aquilia.sockets import namespaces as namespaces_module

JOURNAL: list[str] = []
NOTHING = {"connections": 0, "namespaces": 0, "rooms": 0, "tasks": 0}


class ShakyAdapter:
    def __init__(self) -> None:
        self.broker = Shaky()
        self.store = InMemoryAdapter().store


@service(scope="app")
def shelf() -> Iterator[list[str]]:
    JOURNAL.append("shelf opened")
    yield JOURNAL
    JOURNAL.append("shelf closed")


@service(scope="connection", provides=dict[str, int])
def purse() -> Iterator[dict[str, int]]:
    JOURNAL.append("purse opened")
    yield {}
    JOURNAL.append("purse closed")


@Socket("/shop/:name")
class Shop(SocketController):
    def __init__(self, shelf: list[str]) -> None:
        self.shelf = shelf

    @Event("enter")
    async def enter(self, conn: Connection, payload: str) -> None:
        await conn.join(payload)

    @Event("exit")
    async def exit(self, conn: Connection, payload: str) -> None:
        await conn.leave(payload)

    @Event("say")
    async def say(self, conn: Connection, payload: str) -> None:
        await self.publish_room("r", "said", payload)

    @Event("shout")
    async def shout(self, conn: Connection, payload: str) -> None:
        await self.broadcast("shouted", payload)

    @OnDisconnect()
    async def close(self, conn: Connection, coins: dict[str, int]) -> None:
        JOURNAL.append(f"left with {coins}")


class Gate(SocketGuard):
    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def check_handshake(self, handshake: Handshake) -> None:
        self.reached.set()
        await self.open.wait()


@pytest.fixture
def adapter() -> ShakyAdapter:
    return ShakyAdapter()


@pytest.fixture
async def app(adapter: ShakyAdapter) -> AsyncIterator[AquilaSockets]:
    JOURNAL.clear()
    manifest = AppManifest(
        "shop", controllers=[Shop], services=[shelf, purse], websockets={"max_connections": 2}
    )
    app = AquilaSockets(Registry.build([manifest]), adapter=adapter)
    yield app
    adapter.broker.broken.clear()
    await app.shutdown()
    assert app.live() == NOTHING


async def test_a_start_that_fails_is_undone_and_can_be_tried_again(
    app: AquilaSockets, adapter: ShakyAdapter
) -> None:
    adapter.broker.broken.add("start")
    with pytest.raises(Exception, match="the broker is down"):
        await app.startup()
    adapter.broker.broken.clear()
    async with Visit(app) as visit:
        assert visit.accepted


async def test_clients_are_told_503_while_the_sockets_cannot_start(
    app: AquilaSockets, adapter: ShakyAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.broker.broken.add("start")
    async with Visit(app) as visit:
        assert visit.status == 503
    adapter.broker.broken.clear()
    async with Visit(app) as visit:
        assert visit.accepted


async def test_a_namespace_that_cannot_be_opened_leaves_nothing_behind(
    app: AquilaSockets, adapter: ShakyAdapter
) -> None:
    await app.startup()
    adapter.broker.broken.add("subscribe")
    async with Visit(app) as visit:
        assert visit.status == 503
    assert app.live() == NOTHING
    adapter.broker.broken.clear()
    async with Visit(app) as visit:
        assert visit.accepted


async def test_a_room_that_cannot_be_entered_leaves_nothing_behind(
    app: AquilaSockets, adapter: ShakyAdapter
) -> None:
    async with Visit(app) as visit:
        adapter.broker.broken.add("subscribe")
        assert await visit.refused("enter", "r") == "WS_ADAPTER_UNAVAILABLE"
        assert app.live()["rooms"] == 0
        adapter.broker.broken.clear()
        assert await visit.request("enter", "r") == {"status": "ok"}
        await visit.request("say", "hello")


async def test_a_room_is_given_back_even_if_the_broker_cannot_be_told(
    app: AquilaSockets, adapter: ShakyAdapter
) -> None:
    async with Visit(app) as visit:
        await visit.request("enter", "r")
        adapter.broker.broken.add("unsubscribe")
        assert await visit.request("exit", "r") == {"status": "ok"}
        assert app.live()["rooms"] == 0
        adapter.broker.broken.clear()
        assert await visit.request("enter", "r") == {"status": "ok"}


async def test_a_client_is_forgotten_even_if_the_broker_cannot_be_told(
    app: AquilaSockets,
    adapter: ShakyAdapter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(namespaces_module, "LINGER", 0.01)
    async with Visit(app) as visit:
        for room in ("r", "s", "t"):
            await visit.request("enter", room)
        adapter.broker.broken.add("unsubscribe")
    await eventually(lambda: app.live() == NOTHING)
    assert "the broker is down" in caplog.text


async def test_an_application_stops_even_if_the_broker_cannot_be_told(
    app: AquilaSockets, adapter: ShakyAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    async with Visit(app), Visit(app, "/shop/b"):
        pass
    adapter.broker.broken |= {"unsubscribe", "stop"}
    with pytest.raises(Exception, match="stop: the broker is down"):
        await app.shutdown()
    assert app.live() == NOTHING
    assert JOURNAL[-1] == "shelf closed"


async def test_a_namespace_is_opened_again_only_when_it_has_been_given_back(
    app: AquilaSockets, adapter: ShakyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces_module, "LINGER", 0.0)
    adapter.broker.turns = 5
    for _ in range(20):
        async with Visit(app) as visit:
            assert visit.accepted
            await visit.request("shout", "here")
        await asyncio.sleep(0)


async def test_a_broadcast_reaches_a_namespace_that_was_opened_while_it_was_being_closed(
    app: AquilaSockets, adapter: ShakyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces_module, "LINGER", 0.0)
    async with Visit(app):
        pass
    await eventually(lambda: app.live()["connections"] == 0)
    adapter.broker.turns = 20
    await eventually(lambda: adapter.broker.running or not app.live()["namespaces"])
    async with Visit(app) as visit:
        await visit.request("shout", "first")
        adapter.broker.turns = 0
        visit.send("shout", "again")
        assert (await visit.frame())["payload"] == "again"


async def test_a_connection_that_the_server_cancels_is_counted_out_once(app: AquilaSockets) -> None:
    async with Visit(app) as cut:
        assert cut.accepted
        cut.task.cancel()
    await eventually(lambda: app.live()["connections"] == 0)
    async with Visit(app) as one, Visit(app) as two, Visit(app) as three:
        assert [visit.status for visit in (one, two, three)] == [101, 101, 503]


async def test_a_handshake_that_is_overtaken_by_the_end_is_refused() -> None:
    gate = Gate()

    @Socket("/gated", guards=[gate])
    class Gated(SocketController):
        pass

    app = AquilaSockets.from_controllers([Gated])

    async def stop() -> None:
        await gate.reached.wait()
        await app.shutdown()
        gate.open.set()

    stopping = asyncio.create_task(stop())
    async with Visit(app, "/gated") as visit:
        assert visit.status == 503
    await stopping
    assert app.live() == NOTHING


async def test_what_on_disconnect_asks_for_is_made_for_it_if_need_be(app: AquilaSockets) -> None:
    async with Visit(app) as visit:
        assert visit.accepted
    await eventually(lambda: app.live()["connections"] == 0)
    assert JOURNAL == ["shelf opened", "purse opened", "left with {}", "purse closed"]


async def test_a_client_that_leaves_at_the_door_leaves_a_namespace_that_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(namespaces_module, "LINGER", 0.0)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @service(scope="namespace", provides=set[int])
    async def slow() -> set[int]:
        begun.set()
        await go_on.wait()
        return set()

    @Socket("/slow")
    class Slow(SocketController):
        def __init__(self, numbers: set[int]) -> None: ...

    app = AquilaSockets.from_controllers([Slow], services=[slow])
    visit = Visit(app, "/slow")
    visit.knock()
    await begun.wait()
    visit.task.cancel()
    await asyncio.wait([visit.task])
    go_on.set()
    await eventually(lambda: app.live() == NOTHING)
    await app.shutdown()


async def test_the_end_waits_for_what_is_being_opened() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @service(scope="namespace", provides=set[int])
    async def slow() -> AsyncIterator[set[int]]:
        begun.set()
        await go_on.wait()
        yield set()
        JOURNAL.append("slow closed")

    @Socket("/slow")
    class Slow(SocketController):
        def __init__(self, numbers: set[int]) -> None: ...

    JOURNAL.clear()
    app = AquilaSockets.from_controllers([Slow], services=[slow])

    async def stop() -> None:
        await begun.wait()
        asyncio.get_running_loop().call_soon(go_on.set)
        await app.shutdown()

    stopping = asyncio.create_task(stop())
    async with Visit(app, "/slow") as visit:
        assert visit.status == 503
    await stopping
    assert JOURNAL == ["slow closed"]
    assert app.live() == NOTHING


async def test_a_cleanup_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(namespaces_module, "LINGER", 0.0)
    JOURNAL.clear()

    @service(scope="namespace", provides=set[int])
    def leaky() -> Iterator[set[int]]:
        yield set()
        raise RuntimeError("the namespace leaks")

    @service(scope="connection", provides=set[str])
    def dripping() -> Iterator[set[str]]:
        yield set()
        raise RuntimeError("the connection drips")

    @Socket("/leaky")
    class Leaky(SocketController):
        def __init__(self, numbers: set[int]) -> None: ...

        @OnDisconnect()
        async def first(self, conn: Connection, words: set[str]) -> None:
            raise RuntimeError("the first hook breaks")

        @OnDisconnect()
        async def second(self, conn: Connection) -> None:
            await conn.resolve(set[str])
            JOURNAL.append("second")

    app = AquilaSockets.from_controllers([Leaky], services=[leaky, dripping])
    async with Visit(app, "/leaky") as visit:
        assert visit.accepted
    await eventually(lambda: app.live() == NOTHING)
    assert JOURNAL == ["second"]
    await eventually(lambda: "the namespace leaks" in caplog.text)
    assert "the connection drips" in caplog.text
    assert "the first hook breaks" in caplog.text
    await app.shutdown()


async def test_nothing_is_made_for_a_connection_that_has_gone(app: AquilaSockets) -> None:
    async with Visit(app) as visit:
        (conn,) = app.hub.homes["/shop/a"].connections.members.values()
        assert visit.accepted
    await eventually(lambda: app.live()["connections"] == 0)
    JOURNAL.clear()
    with pytest.raises(SocketFault) as refused:
        await conn.resolve(dict[str, int])
    assert refused.value.code == "WS_CONNECTION_CLOSED"
    assert JOURNAL == []


async def test_a_server_that_cannot_send_a_denial_is_told_to_close(app: AquilaSockets) -> None:
    async with Visit(app, "/nowhere", denial=False) as visit:
        assert visit.first == {"type": "websocket.close", "code": 1000}


async def test_a_server_is_told_that_the_sockets_cannot_start(
    app: AquilaSockets, adapter: ShakyAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.broker.broken.add("start")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert sent == [
        {
            "type": "lifespan.startup.failed",
            "message": "WS_ADAPTER_UNAVAILABLE: start: the broker is down",
        }
    ]
