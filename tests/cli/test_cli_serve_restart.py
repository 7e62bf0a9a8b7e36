"""`aq serve` is stopped and started again under load: with a broker nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import httpx
import pytest
from hall_workspace import HALL, HALL_FILE, MANIFEST, MANIFEST_FILE, PATIENCE, Listener, until
from nats_server import NatsServer
from workspaces import TIMEOUT, Workspace

from aquilia.client import Client

CLIENTS = 200
PACE = 0.05
"""Seconds between two messages: each goes to all of them."""


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
def hall(empty: Workspace, broker: NatsServer) -> Workspace:
    empty.write(MANIFEST_FILE, MANIFEST)
    empty.write(HALL_FILE, HALL)
    empty.compile()
    empty.environment["AQ_WS_ADAPTER_URL"] = broker.url("hall")
    return empty


async def speak(client: Client, stop: asyncio.Event) -> int:
    """Say numbers, one after the other, until told to stop; the last one."""
    number = 0
    while not stop.is_set():
        number += 1
        assert await client.call("say", number, idempotent=True, timeout=PATIENCE) == number
        await asyncio.sleep(PACE)
    return number


async def test_a_restart_under_load_loses_nothing_and_doubles_nothing(hall: Workspace) -> None:
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as clients:
        async with hall.serving("--log-level", "error") as server:  # a busy machine is a warning
            port = server.url.rpartition(":")[2]
            url = server.sockets[0].replace(":name", "a")
            listeners = [Listener(url) for _ in range(CLIENTS)]
            for listener in listeners:
                await clients.enter_async_context(listener.client)
                await listener.client.call("enter", timeout=PATIENCE)
            speaker = await clients.enter_async_context(Client(url))
            speaking = asyncio.create_task(speak(speaker, stop))
            await until(lambda: len(listeners[0].heard) >= 20)
            assert await server.end(signal.SIGTERM) == (0, "")
        words = ("--log-level", "error", "--port", port)
        async with hall.serving(*words):
            before = len(listeners[0].heard)
            await until(lambda: all(listener.resumed for listener in listeners))
            stop.set()
            last = await speaking
            await until(lambda: all(listener.heard[-1] == last for listener in listeners))
            assert last > before
    expected = list(range(1, last + 1))
    assert all(listener.heard == expected for listener in listeners)
    assert not any(listener.gaps for listener in listeners)
    moments = [listener.asked[0].reconnect_in for listener in listeners]
    first = min(moments)
    assert first > 0.5  # which the process takes to leave; the rest is what it took to boot
    tenths = [sum(n / 10 <= moment - first < (n + 1) / 10 for moment in moments) for n in range(10)]
    assert min(tenths) >= CLIENTS / 20, tenths
    assert max(tenths) <= CLIENTS / 5, tenths


async def test_health_says_first_that_the_server_stops_and_clients_go_on_for_the_delay(
    hall: Workspace,
) -> None:
    async with hall.serving("--log-level", "warning", "--drain-delay", "1") as server:
        async with (
            Client(server.sockets[0].replace(":name", "a")) as client,
            httpx.AsyncClient(trust_env=False, base_url=server.url) as http,
        ):
            assert (await http.get("/health")).json() == {"status": "ready", "connections": 1}
            ended = asyncio.create_task(server.end(signal.SIGTERM))
            async with asyncio.timeout(TIMEOUT):
                while (answer := await http.get("/health")).status_code == 200:
                    await asyncio.sleep(0.01)
            assert answer.json() == {"status": "draining"}
            assert await client.call("say", 1, timeout=TIMEOUT) == 1
        assert await ended == (0, "")


async def test_health_says_that_the_broker_is_lost(hall: Workspace, broker: NatsServer) -> None:
    async with (
        hall.serving("--log-level", "critical") as server,
        httpx.AsyncClient(trust_env=False, base_url=server.url) as http,
    ):
        assert (await http.get("/health")).status_code == 200
        broker.kill()
        async with asyncio.timeout(TIMEOUT):
            while (answer := await http.get("/health")).status_code == 200:
                await asyncio.sleep(0.01)
        assert (answer.status_code, answer.json()) == (
            503,
            {"status": "broker_lost", "reason": "unreachable"},
        )
        broker.start()
        async with asyncio.timeout(TIMEOUT):
            while (await http.get("/health")).status_code != 200:
                await asyncio.sleep(0.01)


async def test_a_reload_brings_its_clients_back_to_their_sessions(hall: Workspace) -> None:
    hall.environment["AQ_ENV"] = "development"
    async with hall.serving("--reload", "--log-level", "warning") as server:
        listener = Listener(server.sockets[0].replace(":name", "a"))
        async with listener.client as client:
            await client.call("enter", timeout=TIMEOUT)
            await client.call("say", 1, timeout=TIMEOUT, idempotent=True)
            hall.write(HALL_FILE, HALL + "\n# changed\n")
            await until(lambda: listener.resumed)
            assert listener.asked[0].reconnect_in <= 0.2
            assert all(recovery.recovered for room, recovery in listener.resumed[0].rooms.items() if room)
            await client.call("say", 2, timeout=TIMEOUT, idempotent=True)
            await until(lambda: listener.heard == [1, 2])
