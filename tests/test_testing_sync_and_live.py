"""The test kit for tests that are no coroutines, its server with a port, and its plugin for pytest."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import websockets
from kit_subject import V1, ChatSocket, Mail, OtherSocket, mail
from starlette.responses import Response
from websockets.sync.client import connect as connect_sync

from aquilia import AppManifest
from aquilia.aquilary import Registry
from aquilia.asgi import Application
from aquilia.sockets import AquilaSockets, SocketFault
from aquilia.testing import HandshakeRefused, live_server, sockets_test_sync

# Tests that are no coroutines


def test_a_plain_test_has_the_same() -> None:
    ours = Mail()
    with sockets_test_sync(ChatSocket, services=[mail], overrides={Mail: ours}) as t:
        alice = t.connect("/chat/x", identity=SimpleNamespace(id="alice"), subprotocol=V1[1])
        bob = t.connect("/chat/x", headers={"x-name": "Bob"}, query={"q": "1"})
        assert alice.subprotocol == V1[1]
        assert "date" not in bob.headers
        assert alice.request("who")[0] == "alice"
        bob.send("say", {"text": "hi"})
        assert alice.expect("said").payload == {"text": "hi"}
        bob.expect("said")
        bob.expect_nothing(within=0.01)
        with pytest.raises(SocketFault, match="WS_MESSAGE_INVALID"):
            bob.request("say", 1)
        alice.send("ask")
        alice.ack(alice.expect("sure"), "yes")
        bob.stop_reading()
        alice.request("say", {"text": "hi"})
        bob.expect_nothing(within=0.01)
        bob.read_on()
        bob.expect("said")
        alice.send("end")
        assert alice.closed() == (4000, "enough")
        bob.disconnect()
        with pytest.raises(HandshakeRefused):
            t.connect("/nowhere")
        assert t.application.sockets.live()["connections"] == 0

    assert sorted(ours.sent) == ["left 1000", "left 4000"]


async def test_the_plain_kit_says_where_a_loop_runs_already() -> None:
    with pytest.raises(RuntimeError, match="a loop runs already"):
        with sockets_test_sync(OtherSocket):
            pass


# A server with a port


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    with live_server(app) as url:
        assert url.startswith("http://127.0.0.1:")
        yield url


async def test_a_live_server_serves_real_clients() -> None:
    with served(AquilaSockets.from_controllers([ChatSocket], services=[mail])) as url:
        async with websockets.connect(url.replace("http", "ws") + "/chat/x") as client:
            await client.send(json.dumps({"event": "who", "id": "1", "ack": True}))
            answer = json.loads(await client.recv())

    assert answer["payload"]["status"] == "ok"


def test_a_live_server_serves_clients_that_block_and_closes_them_in_the_end() -> None:
    manifest = AppManifest("chat", controllers=[ChatSocket], services=[mail])
    with contextlib.ExitStack() as clients:
        with served(Application(Registry.build([manifest]))) as url:
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{url}/nowhere", timeout=10)
            client = clients.enter_context(connect_sync(url.replace("http", "ws") + "/chat/x"))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv(timeout=10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_a_live_server_serves_any_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await Response("hello")(scope, receive, send)

    with served(app) as url, urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"hello"


def test_a_live_server_whose_application_does_not_start_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="did not start"):
        with served(app):
            pass
    assert "no database" in caplog.text


# The plugin

ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
PLUGGED = """
import asyncio

from aquilia.sockets import Connection, Event, Socket, SocketController

pytest_plugins = ["aquilia.testing.plugin"]


@Socket("/echo")
class EchoSocket(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("nap")
    async def nap(self, conn: Connection) -> None:
        await asyncio.sleep(3600)
        await conn.send_event("woke")


async def test_async(sockets):
    t, other = await sockets(EchoSocket, max_connections=1), await sockets(EchoSocket)
    alice, bob = await t.connect("/echo"), await other.connect("/echo")
    assert await alice.request("echo", "hi") + await bob.request("echo", "ho") == "hiho"
    await alice.send("nap")
    await bob.send("nap")
    await t.clock.advance(3600)
    await alice.expect("woke")
    await bob.expect_nothing()


def test_sync(sockets_sync):
    t = sockets_sync(EchoSocket)
    alice = t.connect("/echo")
    assert alice.request("echo", "hi") == "hi"
    alice.send("nap")
    t.clock.advance(3600)
    alice.expect("woke")
"""


MODES = {
    "auto": "-o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function",
    "strict": "-o asyncio_mode=strict -o asyncio_default_fixture_loop_scope=function",
    "anyio": "-p no:asyncio",
}
MARKS = {
    "auto": "",
    "strict": "import pytest\n\nmarked = pytest.mark.asyncio\n",
    "anyio": "import sys\nimport pytest\n\nsys.modules['pytest_asyncio'] = None\nmarked = pytest.mark.anyio\n",
}


@pytest.mark.parametrize("mode", MODES)
def test_the_plugin_brings_fixtures_for_both_kinds_of_tests(tmp_path: Any, mode: str) -> None:
    marked = PLUGGED.replace("async def test", "@marked\nasync def test") if MARKS[mode] else PLUGGED
    (tmp_path / "conftest.py").write_text("import pytest\n\n" + ANYIO)
    (tmp_path / "test_plugged.py").write_text(MARKS[mode] + marked)

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTEST_ADDOPTS": MODES[mode]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
