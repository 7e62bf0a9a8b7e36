"""Credentials in URLs under real servers: no output has them, and a ticket of one node opens a door of another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from nats_server import NatsServer
from workspaces import Workspace

MANIFEST = """
from aquilia import AppManifest
from controllers import Keys, Door

manifest = AppManifest(
    "door", controllers=[Door], auth=Keys, websockets={"tickets": True, "query_token": "access_token"}
)
"""

CONTROLLERS = """
import logging

from aquilia import Identity
from aquilia.auth import token_invalid
from aquilia.sockets import AquilaSockets, Connection, Event, LoggingMiddleware, OnConnect, Socket, SocketController


class Keys:
    async def authenticate(self, token: str) -> Identity:
        if not token.startswith("secret-"):
            raise token_invalid()
        if "broken" in token:
            raise ZeroDivisionError("of the AuthManager")
        return Identity("ann")


@Socket("/door", require_auth=True, middleware=[LoggingMiddleware()])
class Door(SocketController):
    @OnConnect()
    async def enter(self, conn: Connection) -> None:
        logging.getLogger("app").warning("%r %r %s", conn, conn.query_params, conn.query_params)

    @Event("who")
    async def who(self, conn: Connection, payload: bool) -> str:
        if payload:
            raise ZeroDivisionError("of a handler")
        return conn.identity.id


app = AquilaSockets.from_controllers([Door], auth=Keys, tickets=True, query_token="access_token")
"""


@pytest.fixture
def door(empty: Workspace) -> Workspace:
    empty.write("manifest.py", MANIFEST)
    empty.write("controllers.py", CONTROLLERS)
    empty.compile()
    return empty


async def ticket(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False, base_url=url) as http:
        headers = {"authorization": "Bearer secret-header"}
        answer = await http.post("/ws/ticket", json={"namespace": "/door"}, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ticket"])


async def enters(url: str, query: str, *, fails: bool = False) -> bool:
    """Whether the door opens."""
    try:
        async with websockets.connect(f"{url.replace('http', 'ws', 1)}/door?{query}", proxy=None) as client:
            await client.send(json.dumps({"event": "who", "payload": fails, "id": "1", "ack": True}))
            told = json.loads(await client.recv())
            return fails or told["payload"]["data"] == "ann"
    except websockets.InvalidStatus:
        return False


async def exercised(url: str) -> list[str]:
    """Come in all ways that succeed and fail; the secrets of that."""
    used, unused = await ticket(url), await ticket(url)
    assert await enters(url, f"a=1&ticket={used}")
    assert not await enters(url, f"ticket={used}")
    assert not await enters(url, f"ticket={unused}&ticket={unused}")
    assert await enters(url, "access_token=secret-good&b=2", fails=True)
    assert not await enters(url, "access_token=bad-s3cret")
    assert not await enters(url, "access_token=secret-broken")
    assert not await enters(url, "%61ccess_token=bad-s3cret&access_token=secret-good")
    return [used, unused, "secret-", "s3cret"]


@pytest.mark.parametrize("transport", ["native", "asgi"])
@pytest.mark.parametrize("form", ["text", "json"])
async def test_aq_serve_writes_no_ticket_and_no_token(door: Workspace, transport: str, form: str) -> None:
    words = ["--transport", transport, "--log-format", form, "--log-level", "debug"]
    async with door.serving(*words) as server:
        secrets = await exercised(server.url)
        _, logged = await server.end()

    assert "/door" in logged
    assert "of the AuthManager" in logged
    assert [secret for secret in secrets if secret in logged] == []


@contextlib.asynccontextmanager
async def uvicorn(root: Path, *words: str) -> AsyncIterator[tuple[str, Any]]:
    """`uvicorn controllers:app`, as anybody runs it; its URL, and what ends it and gives what it wrote."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["-m", "uvicorn", "controllers:app", "--fd", str(listener.fileno()), *words]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=root,
            pass_fds=[listener.fileno()],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

        async def end() -> str:
            process.terminate()
            written, _ = await process.communicate()
            return written.decode()

        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", end
        finally:
            if process.returncode is None:
                await end()


@pytest.mark.parametrize(
    "words",
    [
        ["--ws", "websockets-sansio"],
        ["--ws", "aquilia.sockets.transports.native:NativeProtocol"],
    ],
    ids=["asgi", "native"],
)
async def test_a_foreign_server_writes_no_ticket_and_no_token(door: Workspace, words: list[str]) -> None:
    async with uvicorn(door.root, *words) as (url, end):
        secrets = await exercised(url)
        logged = await end()

    assert "/ws/ticket" in logged
    assert "of the AuthManager" in logged
    assert [secret for secret in secrets if secret in logged] == []


async def test_a_ticket_of_one_node_opens_a_door_of_another_once(door: Workspace, tmp_path: Path) -> None:
    nats = NatsServer(tmp_path / "nats")
    try:
        door.environment["AQ_WS_ADAPTER_URL"] = nats.url()
        async with door.serving() as one, door.serving() as two:
            given = await ticket(one.url)
            assert sorted(await asyncio.gather(*(enters(two.url, f"ticket={given}") for _ in range(3)))) == [
                False,
                False,
                True,
            ]
            assert not await enters(one.url, f"ticket={given}")
            given = await ticket(two.url)
            both = await asyncio.gather(*(enters(each.url, f"ticket={given}") for each in (one, two)))
            assert sorted(both) == [False, True]
    finally:
        nats.kill()
