"""Embedded: the sockets as an ASGI application, alone and mounted, under every ASGI server, as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from fastapi import FastAPI
from ports import reserved_port
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send
from wire import TIMEOUT, TRANSPORTS, Client, serving

from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController

SCRIPTS = Path(sysconfig.get_path("scripts"))

SERVERS = {
    "uvicorn": lambda app, port: [
        *("uvicorn", app, "--port", port, "--ws", "websockets-sansio", "--log-level", "warning"),
    ],
    "uvicorn wsproto": lambda app, port: [
        *("uvicorn", app, "--port", port, "--ws", "wsproto", "--log-level", "warning"),
    ],
    "uvicorn native": lambda app, port: [
        *("uvicorn", app, "--port", port, "--ws", "aquilia.sockets.transports.native:NativeProtocol"),
        *("--log-level", "warning"),
    ],
    **{
        f"uvicorn native {' '.join(options)}": lambda app, port, options=options: [
            *("uvicorn", app, "--port", port, "--ws", "aquilia.sockets.transports.native:NativeProtocol"),
            *("--http", "aquilia.sockets.transports.http:HTTPProtocol", "--log-level", "warning", *options),
        ]
        for options in (
            ("--workers", "2"),
            ("--reload",),
            ("--loop", "asyncio"),
            ("--proxy-headers", "--forwarded-allow-ips", "127.0.0.1"),
        )
    },
    "hypercorn": lambda app, port: ["hypercorn", app, "--bind", f"127.0.0.1:{port}"],
    "granian": lambda app, port: [
        *(
            "granian",
            app,
            "--interface",
            "asgi",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--log-level",
            "warning",
        ),
    ],
}

APP = """
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from aquilia.sockets import (
    AquilaSockets, Connection, Event, OnConnect, OnDisconnect, Socket, SocketController, SocketGuard, Subscribe
)


class Porter(SocketGuard):
    def check_handshake(self, handshake):
        Room.came_from.append(handshake.client)


@Socket("/room/:name", guards=[Porter()])
class Room(SocketController):
    seen: list[str] = []
    came_from: list[str] = []

    @OnConnect()
    async def welcome(self, conn: Connection) -> None:
        await conn.send_event("welcome", self.namespace)

    @OnDisconnect()
    async def gone(self, conn: Connection) -> None:
        self.seen.append(conn.id)

    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "all"

    @Event("say")
    async def say(self, conn: Connection, payload: str) -> int:
        await self.publish_room("all", "said", payload)
        return len(payload)

    @Event("gone")
    async def count(self, conn: Connection) -> int:
        return len(self.seen)

    @Event("origins")
    async def origins(self, conn: Connection) -> list[str]:
        return self.came_from

    @Event("end")
    async def end(self, conn: Connection) -> None:
        await conn.disconnect(4007, "the end")


def sockets():
    return AquilaSockets.from_controllers([Room])


alone = sockets()
inner = sockets()
fastapi = FastAPI(lifespan=inner.lifespan)
fastapi.mount("/live", inner)
starlette = Starlette(routes=[Mount("/live", sockets())])  # starts at the first connection
"""


@contextlib.asynccontextmanager
async def running(server: str, app: str, folder: Path) -> AsyncIterator[tuple[str, Any]]:
    """The server as a process of its own, until it accepts connections; it must end by itself when told to."""
    (folder / "embedded.py").write_text(APP)
    log = folder / "server.log"
    with reserved_port() as port:
        command = SERVERS[server](f"embedded:{app}", str(port))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, SCRIPTS / command[0], *command[1:]),
                cwd=folder,
                env={
                    "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
                },
                stdout=output,
                stderr=output,
            )
        try:
            async with asyncio.timeout(30):
                while not await answers(port):
                    assert process.returncode is None, f"{server} ended with {process.returncode}"
                    await asyncio.sleep(0.05)
            yield f"ws://127.0.0.1:{port}", process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                await process.wait()
    assert "/aquilia/" not in log.read_text(), log.read_text()  # no traceback through us


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


ONE_PROCESS = [server for server in SERVERS if "--workers" not in server]


@pytest.mark.parametrize("server", ONE_PROCESS)
@pytest.mark.parametrize(("app", "prefix"), [("alone", ""), ("fastapi", "/live"), ("starlette", "/live")])
async def test_the_sockets_work_in_any_host_under_any_server(
    server: str, app: str, prefix: str, tmp_path: Path
) -> None:
    async with running(server, app, tmp_path) as (base, _):
        url = f"{base}{prefix}/room/a"
        async with Client.connect(url) as plain, Client.connect(url, "v1.msgpack") as v1:
            for client in (plain, v1):
                assert (await client.expect("welcome"))["payload"] == "/room/a"
                assert (await client.request("enter"))["data"] == "all"
            assert (await plain.request("say", "hello"))["data"] == 5
            assert (await v1.expect("said"))["payload"] == "hello"
            await v1.send("say", "ä" * 20_000)
            assert (await v1.expect("said"))["payload"] == "ä" * 20_000
            await v1.send("end")
            assert await v1.closed() == (4007, "the end")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}{prefix}/nowhere", proxy=None)
        assert refused.value.response.status_code in (403, 404)
        async with Client.connect(f"{base}{prefix}/nowhere", "v1.json", hello=False) as lost:
            assert (await lost.closed())[0] == 4404
        async with Client.connect(url) as last, asyncio.timeout(TIMEOUT):
            await last.expect("welcome")
            while (await last.request("gone"))["data"] < 2:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("server", list(SERVERS))
async def test_a_server_that_is_told_to_stop_ends_with_its_clients_open(server: str, tmp_path: Path) -> None:
    async with (
        running(server, "alone", tmp_path) as (base, process),
        Client.connect(f"{base}/room/a") as client,
    ):
        await client.expect("welcome")
        process.send_signal(signal.SIGTERM)
        if server == "hypercorn" and sys.version_info >= (3, 12):
            # There Hypercorn 0.18 waits until its clients leave by themselves, whatever the application does.
            await client.socket.close()
            return
        code, _ = await client.closed()
        # Granian cuts its connections, Hypercorn says 1011 after a while, uvicorn 1012.
        assert code in {"granian": (0, 1006), "hypercorn": (1001, 1011, 1012)}.get(server, (1012,))


async def test_many_workers_share_a_port_and_end_together(tmp_path: Path) -> None:
    async with (
        running("uvicorn native --workers 2", "alone", tmp_path) as (base, process),
        contextlib.AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Client.connect(f"{base}/room/a")) for _ in range(12)]
        for client in clients:
            await client.expect("welcome")
            assert (await client.request("say", "hello"))["data"] == 5
        process.send_signal(signal.SIGTERM)
        assert {(await client.closed())[0] for client in clients} == {1012}


async def test_the_address_of_a_client_behind_a_proxy_is_the_one_that_the_proxy_tells(tmp_path: Path) -> None:
    server = "uvicorn native --proxy-headers --forwarded-allow-ips 127.0.0.1"
    async with running(server, "alone", tmp_path) as (base, _):
        forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        async with Client.connect(f"{base}/room/a", additional_headers=forwarded) as client:
            await client.expect("welcome")
            assert (await client.request("origins"))["data"] == ["203.0.113.9"]


@Socket("/room/:name")
class Room(SocketController):
    @Event("where")
    async def where(self, conn: Connection) -> list[str | None]:
        return [self.namespace, conn.headers.get("x-seen-by")]


class Porter:
    """The host's own middleware: it sees every handshake, adds to it, and may refuse it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if b"banned" in scope["query_string"]:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            scope = {**scope, "headers": [*scope["headers"], (b"x-seen-by", b"porter")]}
        await self.app(scope, receive, send)


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
@pytest.mark.parametrize("make", [FastAPI, Starlette])
async def test_the_middleware_of_the_host_sees_the_handshake(make: Any, ws: Any) -> None:
    sockets = AquilaSockets.from_controllers([Room])
    host = make(lifespan=sockets.lifespan)
    host.mount("/deep/live", sockets)
    host.add_middleware(Porter)
    async with serving(host, ws=ws) as base:
        async with Client.connect(f"{base}/deep/live/room/a") as client:
            assert (await client.request("where"))["data"] == ["/room/a", "porter"]
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/deep/live/room/a?banned", proxy=None)
        assert refused.value.response.status_code == 403
