"""Leaving well: how a process that stops parts from its clients, and what it tells load balancers meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import websockets
from wire import Client, serving

from aquilia import GET, AppManifest, Controller
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController
from aquilia.sockets.drain import reconnection_times
from aquilia.testing import sockets_test

GATES: list[asyncio.Event] = []


@Socket("/desk/:name")
class Desk(SocketController):
    @Event("ask")
    async def ask(self, conn: Connection) -> str:
        gate = asyncio.Event()
        GATES.append(gate)
        await conn.send_event("begun")
        await gate.wait()
        return "done"

    @Event("think")
    async def think(self, conn: Connection) -> None:
        await conn.send_event("begun")
        await asyncio.sleep(1.2)


def desk(**settings: Any) -> AquilaSockets:
    GATES.clear()
    return AquilaSockets.from_controllers([Desk], **settings)


async def asked(base: str, path: str = "/health") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(base.replace("ws://", "http://") + path)


# The spread


@pytest.mark.parametrize(("count", "window"), [(1, 1.0), (100, 1.0), (5_000, 10.0), (50_000, 30.0)])
def test_clients_are_spread_evenly_over_a_window_that_grows_with_their_number(
    count: int, window: float
) -> None:
    times = reconnection_times(count)
    assert 0 < min(times) <= max(times) < window
    assert len(set(times)) == count
    if count >= 100:
        tenths = [0] * 10
        for time in times:
            tenths[int(time / window * 10)] += 1
        assert max(tenths) <= 1.2 * count / 10


def test_neighbours_are_spread_as_well() -> None:
    times = reconnection_times(5_000)[1000:1100]
    assert max(times) - min(times) > 9


# Going away


async def test_a_client_of_v1_is_asked_to_go_before_it_is_closed() -> None:
    app = desk()
    async with serving(app) as base, Client.connect(f"{base}/desk/a", "v1.json") as ann:
        draining = asyncio.create_task(app.drain())
        goaway = await ann.expect("goaway")
        code, reason = await ann.closed()
        await draining
    assert goaway["payload"]["reason"] == "restart"
    assert 500 < goaway["payload"]["reconnect_in"] <= 500 + 10_000 + 1000
    assert code == 1012
    assert json.loads(reason)["after"] <= goaway["payload"]["reconnect_in"]


async def test_a_plain_client_is_closed_with_the_delay_as_its_reason() -> None:
    app = desk()
    async with serving(app) as base, Client.connect(f"{base}/desk/a") as ann:
        await app.drain()
        code, reason = await ann.closed()
    assert code == 1012
    assert 500 < json.loads(reason)["after"] <= 500 + 10_000 + 1000


async def test_where_others_serve_clients_come_back_without_waiting_for_a_boot() -> None:
    app = desk()
    async with serving(app) as base, Client.connect(f"{base}/desk/a", "v1.json") as ann:
        draining = asyncio.create_task(app.drain(others_serve=True))
        goaway = await ann.expect("goaway")
        await ann.closed()
        await draining
    assert 0 < goaway["payload"]["reconnect_in"] <= 1000


@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_a_handler_that_runs_still_acks(profile: str) -> None:
    app = desk()
    async with serving(app) as base, Client.connect(f"{base}/desk/a", profile) as ann:
        await ann.send("ask", id="1", ack=True)
        await ann.expect("begun")
        draining = asyncio.create_task(app.drain())
        if profile != "plain":
            await ann.expect("goaway")
        GATES[0].set()
        ack = await ann.receive()
        assert (ack["type"], ack["payload"]["data"]) == ("ack", "done")
        assert (await ann.closed())[0] == 1012
        await draining


async def test_nobody_is_let_in_any_more_and_all_are_told_when_the_next_process_may_be_there() -> None:
    app = desk()
    async with serving(app) as base:
        await app.drain()
        for profile in ("plain", "v1.json"):
            with pytest.raises(websockets.InvalidStatus, match="503") as refused:
                async with Client.connect(f"{base}/desk/a", profile):
                    pass
            assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 11


async def told(*, development: bool) -> list[float]:
    """The seconds that a hundred clients are told, where nothing is known of the process: a test has no boot."""
    async with sockets_test(Desk, development=development) as t:
        clients = [await t.connect("/desk/a") for _ in range(100)]
        await t.application.shutdown()
        return [json.loads((await client.closed()).text)["after"] / 1000 for client in clients]


async def test_clients_come_back_when_this_process_has_left_and_the_next_one_has_booted() -> None:
    times = await told(development=False)
    assert 1.4 < min(times) < 1.6
    assert 2.4 < max(times) < 2.6


async def test_in_development_they_come_back_at_once() -> None:
    assert max(await told(development=True)) <= 0.2


async def test_whoever_is_kept_by_a_handler_is_told_that_it_takes_longer() -> None:
    app = desk()
    async with serving(app) as base, Client.connect(f"{base}/desk/a", "v1.json") as ann:
        await ann.send("think")
        await ann.expect("begun")
        draining = asyncio.create_task(app.drain())
        goaway = await ann.expect("goaway")
        _, reason = await ann.closed()
        await draining
    # The process leaves no earlier than it closes this one: half a second is over, the boot is not.
    assert json.loads(reason)["after"] == pytest.approx(goaway["payload"]["reconnect_in"] - 500, abs=2)


# Health


@pytest.mark.parametrize(("setting", "path"), [(True, "/health"), ("/internal/ready", "/internal/ready")])
async def test_health_counts_connections_and_says_when_the_process_drains(setting: Any, path: str) -> None:
    app = desk(health=setting)
    async with serving(app) as base, Client.connect(f"{base}/desk/a") as ann:
        answer = await asked(base, path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "connections": 1})
        app.not_ready()
        answer = await asked(base, path)
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
        await ann.send("ask")
        await ann.expect("begun")
        draining = asyncio.create_task(app.drain())
        GATES[0].set()
        await draining
        assert (await asked(base, path)).status_code == 503


@pytest.mark.parametrize(
    ("setting", "path"), [(True, "/health/live"), ("/internal/ready", "/internal/ready/live")]
)
async def test_a_process_that_drains_lives(setting: Any, path: str) -> None:
    app = desk(health=setting)
    async with serving(app) as base:
        app.not_ready()
        answer = await asked(base, path)
        assert (answer.status_code, answer.json()) == (200, {"status": "live"})
        assert answer.headers["cache-control"] == "no-store"


async def test_without_the_setting_there_is_no_health() -> None:
    async with serving(desk()) as base:
        assert (await asked(base)).status_code == 404


async def test_a_probe_is_a_get() -> None:
    async with serving(desk(health=True)) as base, httpx.AsyncClient(trust_env=False) as http:
        url = base.replace("ws://", "http://") + "/health"
        assert (await http.head(url)).status_code == 200
        assert (await http.post(url)).status_code == 405


@pytest.mark.parametrize("path", ["/health", "/health/live"])
def test_a_route_that_health_hides_is_refused(path: str) -> None:
    class Pages(Controller):
        @GET(path)
        async def show(self) -> str:
            return "never seen"

    manifest = AppManifest("pages", controllers=[Pages], websockets={"health": True})
    with pytest.raises(BootError, match=f"{path} is where the setting health serves"):
        Application(Registry.build([manifest]))


def test_a_value_that_is_no_path_is_refused() -> None:
    with pytest.raises(
        BootError, match="True, False, or a path like '/internal/health' is needed, not 'here'"
    ):
        desk(health="here")


def test_health_and_metrics_need_two_paths() -> None:
    with pytest.raises(BootError, match="health and metrics are both served at /status"):
        desk(health="/status", metrics="/status")
