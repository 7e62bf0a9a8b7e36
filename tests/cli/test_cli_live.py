"""`aq ws inspect --live`, `broadcast`, `kick`, `purge-room` and `drain`: over HTTP, and by the broker."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import websockets
from nats_server import NatsServer
from workspaces import TIMEOUT, Workspace

SECRET = "the-secret-of-an-admin-of-32-bytes"
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Hall

manifest = AppManifest("hall", controllers=[Hall], websockets={"admin": True})
"""
CONTROLLERS = """
from msgspec import Struct

from aquilia.sockets import Connection, Emits, Event, History, Socket, SocketController


class Notice(Struct):
    text: str


@Socket("/hall/:name", history={"stage": History(size=10)})
class Hall(SocketController):
    notice = Emits("notice", Notice)

    @Event("enter", ack=True)
    async def enter(self, conn: Connection, payload: str) -> str:
        await conn.join(payload)
        return conn.id
"""
STAFF = """
from aquilia import Identity


class Staff:
    async def authenticate(self, token: str) -> Identity:
        return Identity("ann", roles=[token])
"""
NOTICE = '{"text": "hi"}'


@pytest.fixture
def workspace(empty: Workspace) -> Workspace:
    empty.write("modules/hall/manifest.py", MANIFEST)
    empty.write("modules/hall/controllers.py", CONTROLLERS)
    empty.environment |= {"AQ_ENV": "development", "AQ_ADMIN_SECRET": SECRET, "COLUMNS": "200"}
    return empty


@contextlib.asynccontextmanager
async def member(url: str) -> AsyncIterator[tuple[websockets.ClientConnection, str]]:
    """A client in the room "stage", and its id."""
    # No pings: while `aq` runs, this process waits for it.
    async with websockets.connect(url, proxy=None, ping_interval=None) as client:
        await client.send(json.dumps({"event": "enter", "payload": "stage", "id": "1", "ack": True}))
        yield client, (await received(client))["payload"]["data"]


async def received(client: websockets.ClientConnection) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return json.loads(await client.recv())


async def check_all(workspace: Workspace, at: str, *way: str) -> None:
    """Everything that can be seen and done, this way, to an application whose hall is at this URL."""
    async with member(at) as (client, id):
        live = json.loads(workspace.done("ws", "inspect", "--live", "--json", *way))
        assert [each["connections"] for each in live["namespaces"]] == [1]
        (node,) = live["nodes"]
        assert node["id"] in workspace.done("ws", "inspect", "--live", *way)
        told = workspace.done("ws", "broadcast", "/hall/a", "notice", NOTICE, *way)
        assert told == "delivered to 1 connection\n"
        assert (await received(client))["payload"] == {"text": "hi"}
        told = workspace.done(
            "ws", "broadcast", "/hall/a", "notice", NOTICE, "--room", "stage", "--json", *way
        )
        assert json.loads(told) == {"connections": 1, "nodes": {node["id"]: 1}, "silent": []}
        assert (await received(client))["room"] == "stage"
        nobody = workspace.aq("ws", "broadcast", "/hall/b", "notice", NOTICE, *way)
        assert (nobody.returncode, nobody.stdout) == (1, "delivered to 0 connections\n")
        refused = workspace.refused("ws", "broadcast", "/hall/a", "notise", NOTICE, *way, code=2)
        assert "did you mean 'notice'?" in refused
        assert workspace.done("ws", "purge-room", "/hall/a", "stage", *way) == (
            "1 member left, 1 publication forgotten\n"
        )
        assert workspace.aq("ws", "kick", "nobody", *way).returncode == 1
        assert workspace.done("ws", "kick", id, *way) == "ended 1 connection\n"
        with contextlib.suppress(websockets.ConnectionClosed):
            await received(client)
        assert client.close_code == 4409
    assert workspace.aq("ws", "drain", "nobody", *way).returncode == 1
    assert "drains 0 connections" in workspace.done("ws", "drain", node["id"], *way)


def hall_at(url: str) -> str:
    return f"{url.replace('http', 'ws')}/hall/a"


async def test_over_http_with_the_secret(workspace: Workspace) -> None:
    async with workspace.serving() as server:
        await check_all(workspace, hall_at(server.url), "--url", server.url)


async def test_by_the_broker_without_a_setting_or_a_secret(workspace: Workspace) -> None:
    workspace.edit("modules/hall/manifest.py", '{"admin": True}', '{"adapter": "local"}')
    async with workspace.serving() as server:
        await check_all(workspace, hall_at(server.url), "--adapter-url", "local://")
    told = workspace.refused("ws", "inspect", "--live", "--adapter-url", "local://", code=2)
    assert "no application that runs" in told


def test_a_broker_without_nodes_is_told(workspace: Workspace, tmp_path: Path) -> None:
    nats = NatsServer(tmp_path / "nats")
    try:
        told = workspace.refused("ws", "kick", "x", "--adapter-url", nats.url(), code=2)
    finally:
        nats.kill()
    assert "no node is there" in told


async def test_a_wrong_secret_and_a_missing_admin_are_told(workspace: Workspace) -> None:
    async with workspace.serving() as server:
        way = ("--url", server.url)
        workspace.environment["AQ_ADMIN_SECRET"] = SECRET[::-1]
        assert "not the admin's secret" in workspace.refused("ws", "kick", "x", *way, code=2)
        workspace.environment["AQ_ADMIN_SECRET"] = SECRET
        elsewhere = (*way[:1], f"{server.url}/elsewhere")
        assert "needs the setting 'admin'" in workspace.refused("ws", "kick", "x", *elsewhere, code=2)


async def test_over_http_with_the_token_of_who_has_the_role(workspace: Workspace) -> None:
    workspace.write("modules/hall/staff.py", STAFF)
    workspace.edit(
        "modules/hall/manifest.py",
        'websockets={"admin": True}',
        'auth="staff:Staff", websockets={"admin": True, "admin_role": "ops"}',
    )
    del workspace.environment["AQ_ADMIN_SECRET"]
    workspace.environment["AQ_ADMIN_TOKEN"] = "ops"
    async with workspace.serving() as server:
        way = ("--url", server.url)
        assert json.loads(workspace.done("ws", "inspect", "--live", "--json", *way))["nodes"]
        workspace.environment["AQ_ADMIN_TOKEN"] = "staff"
        assert "WS_FORBIDDEN" in workspace.refused("ws", "kick", "x", *way, code=2)
    workspace.environment["AQ_ADMIN_SECRET"] = SECRET
    assert "leave one of the two out" in workspace.refused("ws", "kick", "x", code=2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--url", "http://example.com"], "the secret would be readable on its way"),
        (["--url", "ftp://127.0.0.1"], "a URL like"),
        (["--url", "http://u:p@127.0.0.1"], "a URL like"),
        (["--url", "http://127.0.0.1:x"], "no host and port"),
        (["--url", "http://127.0.0.1:1"], "cannot be reached"),
        (["--adapter-url", "memory://"], "reaches nobody else"),
        (["--adapter-url", "redis://u:secret@h/app"], "the option prefix"),
        (["--identity", "ann"], "give the id of a connection, or --identity"),
    ],
)
def test_what_leads_nowhere_is_told(workspace: Workspace, words: list[str], told: str) -> None:
    shown = workspace.refused("ws", "kick", "x", *words, code=2)
    assert told in " ".join(shown.split()).replace(" │ │ ", " ")
    assert SECRET not in shown
    assert "u:p" not in shown
    assert "u:secret" not in shown


def test_an_argument_that_is_no_text_is_a_wrong_command(workspace: Workspace) -> None:
    told = workspace.refused("ws", "purge-room", "/hall/a", "\udcff", code=2)
    assert "no text in UTF-8" in told


@contextlib.contextmanager
def mute() -> Iterator[tuple[socket.socket, str]]:
    """A server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, f"http://127.0.0.1:{server.getsockname()[1]}"


def test_ctrl_c_ends_it_while_the_application_says_nothing(workspace: Workspace) -> None:
    with mute() as (server, url):
        server.settimeout(TIMEOUT)
        environment = {**os.environ, **workspace.environment}
        command = [sys.executable, "-m", "aquilia.cli", "ws", "kick", "x", "--url", url]
        with subprocess.Popen(command, env=environment, cwd=workspace.root) as aq:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(4096)
                aq.send_signal(signal.SIGINT)
                assert aq.wait(TIMEOUT) == 130


async def test_a_name_of_a_client_stands_on_its_line_whatever_it_is(workspace: Workspace) -> None:
    name = "\u202e" + "x" * 150
    async with workspace.serving() as server:
        workspace.environment["COLUMNS"] = "40"
        at = f"{server.url.replace('http', 'ws')}/hall/{quote(name)}"
        async with member(at):
            lines = workspace.done("ws", "inspect", "--live", "--url", server.url).splitlines()
    [line] = [line for line in lines if "xxx" in line]
    assert line.startswith("/hall/\ufffd" + "x" * 150)


def test_no_secret_at_all_is_told(workspace: Workspace) -> None:
    del workspace.environment["AQ_ADMIN_SECRET"]
    assert "set AQ_ADMIN_SECRET or AQ_ADMIN_SECRET_FILE" in workspace.refused("ws", "kick", "x", code=2)


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends everybody to another server, and keeps what it was asked."""

    asked: list[str | None]

    def do_POST(self) -> None:
        type(self).asked.append(self.headers["authorization"])
        self.send_response(307)
        self.send_header("location", f"http://127.0.0.1:{self.server.server_address[1]}/again")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def redirecting() -> Iterator[str]:
    Elsewhere.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_redirection_is_not_followed_with_the_secret(workspace: Workspace, redirecting: str) -> None:
    told = workspace.refused("ws", "kick", "x", "--url", redirecting, code=2)
    assert "status 307" in told
    assert len(Elsewhere.asked) == 1
