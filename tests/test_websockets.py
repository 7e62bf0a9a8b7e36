"""The acceptance story: the example that the guide begins with, compiled, served, and talked to.

Everything is real: the command `aq` in processes of its own, a workspace on disk, and a client on a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets
from session_servers import redis

AQ = Path(sys.executable).with_name("aq")
TIMEOUT = 20.0

CONTROLLER = """\
from aquilia.sockets import (
    SocketController, Socket, OnConnect, Event, Connection, Schema
)

@Socket("/chat/:namespace")
class ChatSocket(SocketController):
    @OnConnect()
    async def on_connect(self, conn: Connection):
        await conn.send_event("welcome", {"msg": "Hi!"})
    
    @Event("message.send", schema=Schema({"text": str}))
    async def handle_message(self, conn: Connection, payload):
        await self.publish_room("general", "message.receive", payload)
"""  # noqa: W293

LOBBY = """

@Socket("/lobby/:namespace")
class LobbySocket(ChatSocket):
    @OnConnect()
    async def on_connect(self, conn: Connection):
        await conn.join("general")
        await conn.send_event("welcome", {"msg": "Hi!"})
"""

MANIFEST = """\
from aquilia.manifest import AppManifest
from controllers import ChatSocket

manifest = AppManifest(
    name="chat",
    controllers=[ChatSocket],
    websockets={"adapter": "redis"}
)
"""

# What the client's JavaScript sends: JSON.stringify of the seed's object.
HELLO = '{"type":"event","event":"message.send","payload":{"text":"Hello!"}}'


@dataclass
class Workspace:
    """A folder with one module, `modules/chat`, and the command `aq` started in it."""

    root: Path

    def write(
        self, *, controllers: str = CONTROLLER, manifest: str = MANIFEST, adapter: str = "inmemory"
    ) -> None:
        module = self.root / "modules" / "chat"
        module.mkdir(parents=True, exist_ok=True)
        (module / "controllers.py").write_text(controllers)
        (module / "manifest.py").write_text(manifest.replace('"redis"', f'"{adapter}"'))

    def aq(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "300"}
        return subprocess.run(
            [AQ, *words],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def refused(self, *words: str) -> str:
        """What `aq` says, who must not succeed."""
        done = self.aq(*words)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def compile(self) -> None:
        done = self.aq("compile")
        assert done.returncode == 0, done.stdout + done.stderr

    @contextlib.asynccontextmanager
    async def serving(self, *options: str) -> AsyncIterator[Server]:
        process = await asyncio.create_subprocess_exec(
            AQ,
            "serve",
            "--port",
            "0",
            *options,
            cwd=self.root,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        server = Server(process)
        try:
            await server.started()
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                await server.interrupt()
            if process.returncode is None:
                process.kill()
            await process.communicate()


@dataclass
class Server:
    """A running `aq serve`."""

    process: asyncio.subprocess.Process
    url: str = ""

    async def started(self) -> None:
        """Read what it prints until it says where it listens."""
        assert self.process.stdout is not None
        printed = ""
        async with asyncio.timeout(TIMEOUT):
            while (address := re.search(r"http(://127\.0\.0\.1:\d+)\n", printed)) is None:
                line = await self.process.stdout.readline()
                assert line, f"aq serve ended: {printed}"
                printed += line.decode()
        self.url = f"ws{address[1]}"

    async def interrupt(self) -> int:
        """Press Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(TIMEOUT):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    async with websockets.connect(url, proxy=None) as connection:
        yield Client(connection)


@dataclass
class Client:
    connection: websockets.ClientConnection

    async def send(self, text: str) -> None:
        await self.connection.send(text)

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT):
            frame: dict[str, Any] = json.loads(await self.connection.recv())
            return frame

    async def close_code(self) -> int | None:
        async with asyncio.timeout(TIMEOUT):
            await self.connection.wait_closed()
        return self.connection.close_code


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def event(name: str, payload: Any, **more: Any) -> dict[str, Any]:
    return {"type": "event", "event": name, "payload": payload, **more}


@pytest.mark.parametrize("transport", ["native", "asgi"])
async def test_the_chat_is_compiled_served_spoken_to_and_stopped(
    workspace: Workspace, transport: str
) -> None:
    workspace.write()
    workspace.compile()
    assert json.loads((workspace.root / "artifacts" / "ws.crous").read_text())

    async with (
        workspace.serving("--transport", transport) as server,
        connected(f"{server.url}/chat/general") as client,
    ):
        assert await client.receive() == event("welcome", {"msg": "Hi!"})

        await client.send(HELLO)
        await client.send(json.dumps(event("message.send", {"text": 5})))
        refusal = await client.receive()
        assert refusal["event"] == "error"  # and nothing for the right one: nobody is in the room
        assert refusal["payload"]["code"] == "WS_MESSAGE_INVALID"
        assert refusal["payload"]["event"] == "message.send"
        assert refusal["payload"]["details"] == [{"path": "$.text", "expected": "str", "got": "int"}]

        await client.send(json.dumps(event("message.send", None, id="m1")))
        refusal = await client.receive()
        assert (refusal["type"], refusal["id"], refusal["payload"]["status"]) == ("ack", "m1", "error")
        assert refusal["payload"]["error"]["code"] == "WS_MESSAGE_INVALID"

        assert await server.interrupt() == 0
        assert await client.close_code() == 1012


async def test_those_in_the_room_hear_each_other_and_other_namespaces_do_not(workspace: Workspace) -> None:
    workspace.write(
        controllers=CONTROLLER + LOBBY,
        manifest=MANIFEST.replace("import ChatSocket", "import ChatSocket, LobbySocket").replace(
            "[ChatSocket]", "[ChatSocket, LobbySocket]"
        ),
    )
    workspace.compile()

    async with (
        workspace.serving() as server,
        connected(f"{server.url}/lobby/acme") as ann,
        connected(f"{server.url}/lobby/acme") as bob,
        connected(f"{server.url}/lobby/home") as eve,
    ):
        for client in (ann, bob, eve):
            assert await client.receive() == event("welcome", {"msg": "Hi!"})

        await ann.send(HELLO)
        heard = event("message.receive", {"text": "Hello!"}, room="general")
        assert await ann.receive() == heard
        assert await bob.receive() == heard

        await bob.send(json.dumps(event("message.send", {"text": "Hi Ann", "more": "dropped"})))
        heard = event("message.receive", {"text": "Hi Ann"}, room="general")
        assert await ann.receive() == heard
        assert await bob.receive() == heard

        await eve.send(HELLO)
        assert (await eve.receive())["payload"] == {"text": "Hello!"}  # her own is the first that she hears


async def test_with_the_redis_of_the_manifest_two_servers_are_one_chat(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = MANIFEST.replace("import ChatSocket", "import LobbySocket").replace(
        "[ChatSocket]", "[LobbySocket]"
    )
    workspace.write(controllers=CONTROLLER + LOBBY, manifest=manifest, adapter="redis")
    workspace.compile()

    with redis() as broker:
        monkeypatch.setenv("REDIS_URL", broker.url())
        async with (
            workspace.serving() as one,
            workspace.serving() as other,
            connected(f"{one.url}/lobby/acme") as ann,
            connected(f"{other.url}/lobby/acme") as bob,
        ):
            for client in (ann, bob):
                assert await client.receive() == event("welcome", {"msg": "Hi!"})
            await ann.send(HELLO)
            for client in (ann, bob):
                assert await client.receive() == event("message.receive", {"text": "Hello!"}, room="general")


def test_a_redis_that_is_not_there_is_told_when_it_is_served(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.write(adapter="redis")
    workspace.compile()
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@127.0.0.1:1")
    said = workspace.refused("serve", "--port", "0")
    assert "Redis at 127.0.0.1:1 cannot be reached" in said
    assert "s3cret" not in said


def test_an_adapter_that_never_was_is_refused_with_the_nearest(workspace: Workspace) -> None:
    workspace.write(adapter="in-memory")

    assert "did you mean 'inmemory'?" in workspace.refused("compile")


async def test_a_controller_can_be_named_instead_of_imported(workspace: Workspace) -> None:
    workspace.write(
        manifest="from aquilia.manifest import AppManifest\n\n"
        'manifest = AppManifest(name="chat", controllers=["controllers:ChatSocket"])\n'
    )
    workspace.compile()

    async with workspace.serving() as server, connected(f"{server.url}/chat/general") as client:
        assert await client.receive() == event("welcome", {"msg": "Hi!"})


def test_an_artifact_that_is_out_of_date_is_not_served(workspace: Workspace) -> None:
    workspace.write()
    workspace.compile()
    workspace.write(controllers=CONTROLLER.replace('"message.send"', '"message.post"'))

    said = workspace.refused("serve")

    assert "ws.crous" in said
    assert "aq compile" in said


def test_without_an_artifact_nothing_is_served(workspace: Workspace) -> None:
    workspace.write()

    assert "aq compile" in workspace.refused("serve")


def test_two_controllers_for_one_path_are_refused_with_both_places(workspace: Workspace) -> None:
    rival = '\n\n@Socket("/chat/:team")\nclass Rival(SocketController):\n    pass\n'
    workspace.write(
        controllers=CONTROLLER + rival,
        manifest=MANIFEST.replace("import ChatSocket", "import ChatSocket, Rival").replace(
            "[ChatSocket]", "[ChatSocket, Rival]"
        ),
    )

    said = workspace.refused("compile")

    places = re.findall(r"controllers\.py:(\d+)", said)
    lines = (CONTROLLER + rival).splitlines()
    for controller in ('@Socket("/chat/:namespace")', '@Socket("/chat/:team")'):
        assert str(lines.index(controller) + 1) in places, said
    assert "'/chat/:team'" in said
    assert "'/chat/:namespace'" in said
