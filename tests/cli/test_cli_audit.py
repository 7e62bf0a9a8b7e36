"""The audit as its user has it: a file that `aq ws audit verify` checks. And no secret in whatever is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import websockets
from workspaces import Workspace

MANIFEST = """
from aquilia import AppManifest, Identity
from aquilia.auth import token_invalid
from controllers import VaultSocket


class Tokens:
    async def authenticate(self, token):
        if token == "good-secret":
            return Identity("ann")
        raise token_invalid(f"nobody has the token {token}")


manifest = AppManifest(
    "vault",
    controllers=[VaultSocket],
    auth=Tokens(),
    websockets={"audit": True, "metrics": True, "require_auth": True, "message_rate_limit": 10},
)
"""

CONTROLLERS = """
from msgspec import Struct

from aquilia.sockets import Connection, Event, LoggingMiddleware, Socket, SocketController, SocketGuard, Subscribe


class Never(SocketGuard):
    def check_message(self, conn, envelope):
        return False


class Words(Struct):
    text: str


@Socket("/vault/:room", middleware=[LoggingMiddleware()])
class VaultSocket(SocketController):
    @Event("say", ack=True)
    async def say(self, conn: Connection, payload: Words) -> str:
        return payload.text

    @Event("fail")
    async def fail(self, conn: Connection, payload: Words) -> None:
        raise LookupError("a handler")

    @Event("denied", guards=[Never()])
    async def denied(self, conn: Connection, payload: Words) -> None: ...

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: Words) -> str:
        return payload.text

    @Event("kick")
    async def show_out(self, conn: Connection, payload: Words) -> None:
        await self.kick(conn.id)
"""
FILE = "artifacts/audit.crous"


@pytest.fixture
def vault(empty: Workspace) -> Workspace:
    empty.write("manifest.py", MANIFEST)
    empty.write("controllers.py", CONTROLLERS)
    empty.compile()
    return empty


async def refused(url: str, **how: object) -> None:
    """Connect, until the server says no: at the handshake, or by a close."""
    with contextlib.suppress(websockets.WebSocketException):
        async with websockets.connect(url, proxy=None, **how) as client:  # type: ignore[arg-type]
            async with asyncio.timeout(5):
                await client.recv()
        raise AssertionError(f"{url} was let in")


async def told_secrets(url: str) -> None:
    """Say a secret wherever a client can say anything."""
    room = f"{url}/vault/x?token=secret-query&ticket=secret-ticket"
    cookie = {"Cookie": "sid=secret-cookie", "X-Api-Key": "secret-header"}
    await refused(room, additional_headers={"Authorization": "Bearer secret-bearer", **cookie})
    await refused(room, additional_headers={"Authorization": "Basic secret-basic", **cookie})
    await refused(room, additional_headers={"Authorization": "Bearer secret two", **cookie})
    await refused(room, subprotocols=["secret-protocol"])
    for offered in ("aquilia.bearer.secret-offer", "aquilia.bearer64.c2VjcmV0LW9mZmVyNjQ"):
        await refused(room, subprotocols=["aquilia.v1.json", offered])
        await refused(room, subprotocols=[offered])
    await refused(f"{url}/nowhere?token=secret-query")
    await refused(room, origin="https://evil.example")
    for hello in ({"token": "secret-hello"}, {"token": 5, "x": "secret-x"}, ["secret-list"]):
        async with websockets.connect(room, proxy=None, subprotocols=["aquilia.v1.json"]) as client:
            await client.send(json.dumps({"type": "control", "event": "hello", "payload": hello}))
            with contextlib.suppress(websockets.ConnectionClosed):
                await client.recv()
    good = {"Authorization": "Bearer good-secret", **cookie}
    async with websockets.connect(room, proxy=None, additional_headers=good) as client:
        await spoken(client)
    async with websockets.connect(
        room, proxy=None, additional_headers=good, subprotocols=["aquilia.v1.json"]
    ) as client:
        await client.send(json.dumps({"type": "control", "event": "hello", "payload": {}}))
        await client.recv()
        told = {"type": "control", "event": "auth", "id": "1", "payload": {"token": "secret-renewal"}}
        await client.send(json.dumps(told))
        await ended(client)


async def ended(client: websockets.ClientConnection) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        async with asyncio.timeout(5):
            while True:
                await client.recv()


async def spoken(client: websockets.ClientConnection) -> None:
    words = {"text": "secret-payload"}
    for event, payload in (
        *(("say", words), ("say", {"text": 5, "secret-key": "secret-value"}), ("fail", words)),
        *(("denied", words), ("enter", {"text": "secret-room"}), ("secret-event", words)),
    ):
        await client.send(json.dumps({"event": event, "payload": payload, "id": "secret-id", "ack": True}))
    for broken in (
        "{secret-broken",
        '["secret-list"]',
        '{"type":"secret-type"}',
        '{"event":5,"payload":"secret"}',
    ):
        await client.send(broken)
    for _ in range(10):  # else the handlers would end with the connection
        await client.recv()
    for _ in range(80):
        with contextlib.suppress(websockets.ConnectionClosed):
            await client.send(json.dumps({"event": "secret-flood", "payload": words}))
    await ended(client)


@contextlib.asynccontextmanager
async def uvicorn(workspace: Workspace) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The application under plain uvicorn, as other servers have it; our own loggers at DEBUG."""
    configuration = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"paths": {"()": "aquilia.logs.PathsOnly"}},  # uvicorn's own lines have the query
        "handlers": {"all": {"class": "logging.StreamHandler", "filters": ["paths"]}},
        "root": {"handlers": ["all"], "level": "INFO"},
        "loggers": {"aquilia": {"level": "DEBUG"}},
    }
    workspace.write("log.json", json.dumps(configuration))
    command = "-m uvicorn aquilia.server:create_application --factory --port 0 --no-access-log --log-config log.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command.split(),
        cwd=workspace.root,
        env=workspace._environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    found = None
    try:
        async with asyncio.timeout(20):
            while found is None:
                found = re.search(r"http://(127\.0\.0\.1:\d+)", (await process.stderr.readline()).decode())
        yield f"ws://{found[1]}", process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("server", ["native", "asgi", "uvicorn"])
async def test_what_clients_kept_to_themselves_is_in_no_log_audit_or_metrics(
    vault: Workspace, server: str
) -> None:
    vault.environment["AQ_AUDIT_SECRET"] = "secret-of-the-audit-which-is-long-enough"
    if server == "uvicorn":
        async with uvicorn(vault) as (url, process):
            await told_secrets(url)
            metrics = await scraped(url)
            process.send_signal(signal.SIGTERM)
            written = (await process.communicate())[1].decode()
    else:
        async with vault.serving("--log-level", "debug", "--transport", server) as serving:
            url = serving.url.replace("http", "ws")
            await told_secrets(url)
            metrics = await scraped(url)
            _, written = await serving.end()
    audit = (vault.root / FILE).read_text()

    noted = {json.loads(line)["event"] for line in audit.splitlines()}
    assert {"authentication.failed", "access.denied", "limit.hit", "handshake.refused"} <= noted
    for text in (written, audit, metrics):
        assert "vault" in text
        assert not re.findall(r".*secret(?!s).*", text.replace("good-secret", "secret"))
    assert "verify" not in vault.done("ws", "audit", "verify", FILE)


async def scraped(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"{url.replace('ws', 'http')}/metrics")).text


async def test_a_kill_under_refusals_leaves_a_file_that_goes_on_and_verifies(vault: Workspace) -> None:
    for _ in range(2):
        async with vault.serving() as server:
            url = server.url.replace("http", "ws")
            await asyncio.gather(*(refused(f"{url}/vault/{n}") for n in range(20)))
            server.process.kill()
            await server.process.wait()
    async with vault.serving() as server:
        await server.end()

    shown = vault.done("ws", "audit", "verify", FILE)
    assert "2 of 3 runs did not close it" in shown
    assert "Without AQ_AUDIT_SECRET" in shown


async def test_verify_tells_the_first_bad_line_and_knows_what_it_cannot_know(vault: Workspace) -> None:
    async with vault.serving() as server:
        await refused(f"{server.url.replace('http', 'ws')}/vault/x")
        await server.end()
    file = vault.root / FILE
    lines = file.read_text().splitlines(keepends=True)
    head = json.loads(lines[-1])["hash"]

    assert f"last hash  {head}" in vault.done("ws", "audit", "verify", FILE)
    assert "0 lines behind it" in vault.done("ws", "audit", "verify", FILE, "--head", head)
    file.write_text("".join(lines[:-1]))
    assert "Lines cut off at the end leave no trace" in vault.done("ws", "audit", "verify", FILE)
    cut = vault.aq("ws", "audit", "verify", FILE, "--head", head)
    assert (cut.returncode, "no line has the hash of --head" in cut.stdout) == (1, True)
    file.write_text("".join([lines[0], lines[1].replace("/vault/x", "/vault/y"), *lines[2:]]))
    edited = vault.aq("ws", "audit", "verify", FILE)
    assert edited.returncode == 1
    assert f"{FILE}:2: its hash is not that of its text" in edited.stdout
    assert "before that: 1 line as written" in edited.stdout
    vault.environment["AQ_AUDIT_SECRET"] = "another secret than that of who wrote it"
    other = vault.aq("ws", "audit", "verify", FILE)
    assert other.returncode == 1
    assert f"{FILE}:1: " in other.stdout
    assert "before that" not in other.stdout


def test_verify_refuses_what_it_cannot_read(vault: Workspace) -> None:
    assert "nothing.crous cannot be read" in vault.refused("ws", "audit", "verify", "nothing.crous")
    assert "64 hexadecimal digits" in vault.refused("ws", "audit", "verify", "x", "--head", "x", code=2)
    vault.environment["AQ_AUDIT_SECRET"] = "short"
    assert "32 are needed" in vault.refused("ws", "audit", "verify", "x")


def test_a_file_that_cannot_be_had_is_an_error_of_the_start(vault: Workspace) -> None:
    folder = Path(vault.root, "artifacts", "audit.crous")
    folder.mkdir()
    told = vault.refused("serve", "--port", "0")
    assert "artifacts/audit.crous" in told
    assert "Traceback" not in told
