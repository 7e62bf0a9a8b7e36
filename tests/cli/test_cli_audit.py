"""The audit as its user has it: a file that `aq ws audit verify` checks. And no secret in whatever is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
import websockets
from workspaces import AQ, TIMEOUT, Workspace

from aquilia.sockets.audit.chain import Chain
from aquilia.sockets.audit.records import AuditRecord

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


class Following:
    """What `aq ws audit show --follow` says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            return (await self._process.stdout.readline()).decode().rstrip()

    async def __call__(self) -> object:
        return json.loads(await self.line())

    async def problem(self) -> str:
        assert self._process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            return (await self._process.stderr.read()).decode()


@contextlib.asynccontextmanager
async def followed(vault: Workspace, *words: str, code: int = 0) -> AsyncIterator[Following]:
    """Until Ctrl-C, which ends it with this exit code, or it has ended by itself."""
    process = await asyncio.create_subprocess_exec(
        *[*AQ, "ws", "audit", "show", FILE, "--follow", *words],
        cwd=vault.root,
        env=vault._environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Following(process)
        if code == 0:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == code
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def write_audit_line(record: AuditRecord, after: list[str]) -> str:
    last = json.loads(after[-1])
    return Chain(seq=last["seq"], head=last["hash"]).line(msgspec.json.encode(record)).decode()


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


def write_audit(vault: Workspace, *records: AuditRecord) -> list[str]:
    """A file of these records; its lines."""
    chain = Chain()
    lines = [chain.line(msgspec.json.encode(record)).decode() for record in records]
    (vault.root / FILE).write_text("".join(lines))
    return lines


OPENED = AuditRecord(
    time="2026-01-31T11:00:00.000Z", event="audit.opened", outcome="done", reason="process 7"
)
DENIED = AuditRecord(
    time="2026-01-31T12:00:00.123Z",
    event="access.denied",
    outcome="refused",
    code="WS_FORBIDDEN",
    namespace="/vault/a",
    identity="bob",
    address="203.0.113.7",
    message="stir",
    reason="not allowed",
    count=3,
)
FOREIGN = AuditRecord(
    time="2026-01-31T13:00:00.000Z",
    event="handshake.refused",
    outcome="refused",
    code="WS_ORIGIN_NOT_ALLOWED",
    address="203.0.113.8",
    origin="https://evil.example",
    namespace="/vault/b",
)


def test_show_tells_when_what_kind_who_from_where_and_what(vault: Workspace) -> None:
    write_audit(vault, OPENED, DENIED, FOREIGN)
    opened, denied, foreign = vault.done("ws", "audit", "show").splitlines()
    assert opened.split() == ["2026-01-31T11:00:00.000Z", "audit.opened", "-", "-", "process", "7"]
    assert denied.split()[:4] == ["2026-01-31T12:00:00.123Z", "access.denied", "bob", "203.0.113.7"]
    assert denied.endswith("WS_FORBIDDEN stir /vault/a 3 times in a second: not allowed")
    assert foreign.endswith("WS_ORIGIN_NOT_ALLOWED /vault/b origin https://evil.example")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--kind", "access.denied"], [2]),
        (["--kind", "access.denied", "--kind", "audit.opened"], [1, 2]),
        (["--since", "2026-01-31T12:00:00.123"], [2, 3]),
        (["--since", "2026-01-31T13:30+01:00"], [3]),
        (["--since", "1h"], []),
        (["--identity", "bob"], [2]),
        (["--address", "203.0.113.8", "--kind", "access.denied"], []),
    ],
)
def test_show_leaves_out_what_is_not_asked_for(vault: Workspace, words: list[str], shown: list[int]) -> None:
    lines = write_audit(vault, OPENED, DENIED, FOREIGN)
    told = vault.done("ws", "audit", "show", FILE, "--json", *words)
    assert [json.loads(line) for line in told.splitlines()] == [json.loads(lines[n - 1]) for n in shown]


def test_show_ends_at_the_first_line_that_is_not_as_it_was_written(vault: Workspace) -> None:
    lines = write_audit(vault, OPENED, DENIED, FOREIGN)
    (vault.root / FILE).write_text("".join([lines[0], lines[1].replace("bob", "ann"), lines[2]]))
    for words, shown in ((), 1), (("--kind", "access.denied"), 0):
        broken = vault.aq("ws", "audit", "show", *words)
        assert (broken.returncode, len(broken.stdout.splitlines())) == (1, shown)
        assert f"{FILE}:2: its hash is not that of its text" in broken.stderr
        assert "before that: 1 line as written" in broken.stderr


def test_show_tells_of_a_torn_end_and_moves_no_cursor(vault: Workspace) -> None:
    lines = write_audit(vault, msgspec.structs.replace(DENIED, reason="\x1b[2J"))
    (vault.root / FILE).write_text("".join([*lines, '{"seq":2,']))
    shown = vault.aq("ws", "audit", "show")
    assert (shown.returncode, "\x1b" in shown.stdout) == (0, False)
    assert "ends in the middle of a line" in shown.stderr


def test_show_refuses_what_it_cannot_read_and_what_nobody_notes(vault: Workspace) -> None:
    assert "nothing.crous cannot be read" in vault.refused("ws", "audit", "show", "nothing.crous")
    assert "'access.denied'" in vault.refused("ws", "audit", "show", "--kind", "access.deny", code=2)
    assert "2026-01-31T12:00" in vault.refused("ws", "audit", "show", "--since", "yesterday", code=2)
    vault.environment["AQ_AUDIT_SECRET"] = "short"
    assert "32 are needed" in vault.refused("ws", "audit", "show")


async def test_show_follows_a_file_and_the_one_that_takes_its_name(vault: Workspace) -> None:
    lines = write_audit(vault, OPENED)
    async with followed(vault, "--json") as told:
        assert await told() == json.loads(lines[0])
        with (vault.root / FILE).open("a") as file:
            added = write_audit_line(DENIED, lines)
            file.write(added[:40])
            file.flush()
            file.write(added[40:])
        assert await told() == json.loads(added)
        os.rename(vault.root / FILE, vault.root / "artifacts/before.crous")
        (first,) = write_audit(vault, FOREIGN)
        assert await told() == json.loads(first)


async def test_show_follows_until_a_line_is_wrong(vault: Workspace) -> None:
    lines = write_audit(vault, OPENED)
    async with followed(vault, "--json", code=1) as told:
        assert await told() == json.loads(lines[0])
        with (vault.root / FILE).open("a") as file:
            file.write(write_audit_line(DENIED, lines).replace("bob", "ann"))
        assert f"{FILE}:2: its hash is not that of its text" in await told.problem()


async def test_show_follows_what_a_server_writes(vault: Workspace) -> None:
    async with vault.serving() as server, followed(vault, "--kind", "authentication.failed") as told:
        await refused(f"{server.url.replace('http', 'ws')}/vault/x")
        assert "WS_AUTH_REQUIRED /vault/x: no token was offered" in await told.line()


def test_a_file_that_cannot_be_had_is_an_error_of_the_start(vault: Workspace) -> None:
    folder = Path(vault.root, "artifacts", "audit.crous")
    folder.mkdir()
    told = vault.refused("serve", "--port", "0")
    assert "artifacts/audit.crous" in told
    assert "Traceback" not in told
