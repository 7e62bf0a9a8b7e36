"""nginx and HAProxy in front of `aq serve`, with the configurations of `deploy/` as they stand there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from certificates import Authority
from ports import reserved_port
from proxies import Place, running
from workspaces import TIMEOUT, Server, Workspace

AUTHORITY = Authority()
TRUSTED = ("--trusted-proxies", "127.0.0.1")
"""Whose word about its clients `aq serve` takes."""
CLIENT = "127.0.0.2"
"""An address of this machine that is not the proxy's."""
SPOOFED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "http",
    "Forwarded": "for=203.0.113.9;proto=http;host=evil.example",
    "X-Real-IP": "203.0.113.9",
    "X-Forwarded-Host": "evil.example",
}

CONTROLLERS = """
from aquilia import GET, Controller, RequestCtx
from aquilia.sockets import Connection, Event, Guard, Handshake, Socket, SocketController


class Page(Controller):
    @GET("/whoami")
    async def whoami(self, ctx: RequestCtx) -> list[str]:
        return [ctx.client.host, ctx.request.url.scheme, ctx.headers["host"]]


SEEN = {}


@Socket("/door/:name", max_message_size=1 << 20)
class Door(SocketController):
    @Guard(on="handshake")
    async def look(self, handshake: Handshake) -> bool:
        SEEN[handshake.path_params["name"]] = [handshake.client, handshake.connection.url.scheme]
        return True

    @Event("whoami")
    async def whoami(self, conn: Connection) -> list[str]:
        return SEEN[conn.path_params["name"]]

    @Event("echo")
    async def echo(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("end")
    async def end(self, conn: Connection) -> None:
        await conn.disconnect(4001, "enough")
"""
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Door, Page

manifest = AppManifest(
    "door",
    version="1",
    controllers=[Page, Door],
    websockets={"health": True, "metrics": True, "heartbeat": HEARTBEAT},
)
"""

pytestmark = pytest.mark.parametrize("proxy", ["nginx", "haproxy"])


@dataclass
class Front:
    """A running server, and a proxy before it."""

    server: Server
    url: str
    direct: str

    def door(self, name: str = "a") -> str:
        return f"{self.url.replace('https', 'wss')}/door/{name}"

    def dialled(self, name: str = "a", **options: Any) -> websockets.connect:
        return websockets.connect(
            self.door(name), ssl=AUTHORITY.trusting(), proxy=None, ping_interval=None, **options
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(verify=AUTHORITY.trusting(), local_address=CLIENT)
        async with httpx.AsyncClient(transport=transport) as http:
            return await http.get(self.url + path, headers=headers)


@pytest.fixture
def door(empty: Workspace) -> Workspace:
    empty.write("modules/door/manifest.py", MANIFEST.replace("HEARTBEAT", "0.5"))
    empty.write("modules/door/controllers.py", CONTROLLERS)
    empty.environment["AQ_ENV"] = "development"
    return empty


@contextlib.asynccontextmanager
async def fronted(
    door: Workspace, proxy: str, folder: Path, *words: str, timeout: str = "2s"
) -> AsyncIterator[Front]:
    async with door.serving("--log-level", "warning", *TRUSTED, *words) as server:
        behind = urlsplit(server.url).port
        assert behind is not None
        with reserved_port() as port, reserved_port() as plain:
            place = Place(folder / "proxy", port, plain, behind, timeout)
            async with running(proxy, place, AUTHORITY.issue()):
                yield Front(server, f"https://localhost:{port}", server.url)


async def asked(client: websockets.ClientConnection, event: str, payload: Any = None) -> Any:
    await client.send(json.dumps({"event": event, "payload": payload, "id": "1", "ack": True}))
    async with asyncio.timeout(TIMEOUT):
        return json.loads(await client.recv())["payload"]["data"]


async def test_who_is_outside_is_seen_as_such_whatever_it_says_of_itself(
    door: Workspace, proxy: str, tmp_path: Path
) -> None:
    async with fronted(door, proxy, tmp_path) as front:
        outer = urlsplit(front.url).netloc
        for headers in ({}, SPOOFED):
            said = await front.get("/whoami", **headers)
            assert said.json() == [CLIENT, "https", outer]
            async with front.dialled(local_addr=(CLIENT, 0), additional_headers=headers) as client:
                assert await asked(client, "whoami") == [CLIENT, "wss"]
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=CLIENT)) as http:
            past = await http.get(f"{front.direct}/whoami", headers={**SPOOFED, "X-Forwarded-Proto": "https"})
        assert past.json() == [CLIENT, "http", urlsplit(front.direct).netloc], "it is no trusted proxy"


async def test_the_origin_of_a_page_is_compared_with_the_outer_scheme_and_host(
    door: Workspace, proxy: str, tmp_path: Path
) -> None:
    async with fronted(door, proxy, tmp_path) as front:
        async with front.dialled(origin=front.url) as client:
            assert await asked(client, "echo", "x") == "x"
        foreign = (
            "https://evil.example",
            front.url.replace("https", "http"),
            front.direct,
            "https://localhost",
        )
        for origin in foreign:
            for headers in ({}, SPOOFED):
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with front.dialled(origin=origin, additional_headers=headers):
                        pass
                assert refused.value.response.status_code == 403


async def test_a_host_that_is_not_ours_reaches_no_server(door: Workspace, proxy: str, tmp_path: Path) -> None:
    async with fronted(door, proxy, tmp_path) as front:
        with pytest.raises((httpx.RemoteProtocolError, httpx.HTTPStatusError)):
            (await front.get("/whoami", host="rebound.example")).raise_for_status()


async def test_messages_of_every_size_pass_both_ways(door: Workspace, proxy: str, tmp_path: Path) -> None:
    async with fronted(door, proxy, tmp_path) as front, front.dialled() as client:
        for size in (0, 1, 125, 126, 65_535, 65_536, 900_000):
            assert await asked(client, "echo", "x" * size) == "x" * size


async def test_an_idle_connection_outlives_the_proxys_timeout_by_the_heartbeat(
    door: Workspace, proxy: str, tmp_path: Path
) -> None:
    async with fronted(door, proxy, tmp_path, timeout="1s") as front, front.dialled() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await client.recv()
        assert await asked(client, "echo", "still here") == "still here"


async def test_a_heartbeat_slower_than_the_proxys_timeout_lets_it_cut_the_connection(
    door: Workspace, proxy: str, tmp_path: Path
) -> None:
    door.edit("modules/door/manifest.py", "0.5", "25")
    async with fronted(door, proxy, tmp_path, timeout="1s") as front, front.dialled() as client:
        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
    assert closed.value.rcvd is None, "without a close: a client comes back"


async def test_close_codes_pass_both_ways(door: Workspace, proxy: str, tmp_path: Path) -> None:
    async with fronted(door, proxy, tmp_path) as front:
        async with front.dialled() as client:
            await client.send(json.dumps({"event": "end"}))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        async with front.dialled() as client:
            await client.close(4002, "bye")
            assert client.close_code == 4002
        assert (await front.get("/whoami")).status_code == 200


async def test_health_and_metrics_are_not_for_the_world(door: Workspace, proxy: str, tmp_path: Path) -> None:
    async with fronted(door, proxy, tmp_path) as front:
        for path in ("/health", "/health/live", "/metrics"):
            assert (await front.get(path)).status_code == 404
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(front.direct + path)).status_code == 200


async def test_a_server_that_leaves_is_asked_no_more_and_tells_its_clients_through_the_proxy(
    door: Workspace, proxy: str, tmp_path: Path
) -> None:
    async with fronted(door, proxy, tmp_path, "--drain-delay", "2") as front:
        async with front.dialled(subprotocols=["aquilia.v1.json"]) as client:
            await client.send(json.dumps({"type": "control", "event": "hello"}))
            assert json.loads(await client.recv())["event"] == "welcome"
            ended = asyncio.create_task(front.server.end(signal.SIGTERM))
            async with asyncio.timeout(TIMEOUT), httpx.AsyncClient(trust_env=False) as http:
                while (await http.get(f"{front.direct}/health")).status_code == 200:
                    await asyncio.sleep(0.02)
                if proxy == "haproxy":  # it asks for the health, and sends nobody there any more
                    while (await front.get("/whoami")).status_code != 503:
                        await asyncio.sleep(0.02)
            await client.send(json.dumps({"type": "control", "event": "ping"}))
            assert json.loads(await client.recv())["event"] == "pong", (
                "who is there stays until the delay is over"
            )
            assert json.loads(await client.recv())["event"] == "goaway"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        assert (await ended)[0] == 0
        assert (await front.get("/whoami")).status_code in (502, 503)
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with front.dialled():
                pass
        assert refused.value.response.status_code in (502, 503)
