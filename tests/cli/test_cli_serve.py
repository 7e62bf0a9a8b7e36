"""`aq serve`: what it serves, what it refuses before a port is bound, how it ends, and how it reloads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket

import httpx
import pytest
import websockets
from workspaces import TIMEOUT, Workspace

CONTROLLERS = "modules/echo/controllers.py"
MANIFEST = "modules/echo/manifest.py"


async def fetched(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(url)


async def said(url: str, text: str) -> int:
    """Say something to the room of this address; the answer."""
    async with websockets.connect(url.replace(":room", "x"), proxy=None) as client, asyncio.timeout(TIMEOUT):
        await client.send(json.dumps({"event": "say", "payload": {"text": text}, "id": "1", "ack": True}))
        while (frame := json.loads(await client.recv()))["type"] != "ack":
            pass
    answer: int = frame["payload"]["data"]
    return answer


# Serving


BUSY = """

class Busy(Controller):
    turns = 0

    @GET("/hold")
    async def hold(self) -> str:
        with open("gate") as gate:
            gate.read()
        self.turn()
        return "free"

    @GET("/turns")
    async def show(self) -> str:
        return str(Busy.turns)

    def turn(self) -> None:
        Busy.turns += 1
        asyncio.get_running_loop().call_soon(self.turn)
"""


async def test_a_busy_server_lets_many_in_with_each_turn_of_its_loop(echo: Workspace) -> None:
    controllers = (echo.root / CONTROLLERS).read_text()
    (echo.root / CONTROLLERS).write_text(f"import asyncio\n{controllers}{BUSY}")
    echo.edit(MANIFEST, "EchoSocket, Page", "Busy, EchoSocket, Page")
    echo.edit(MANIFEST, "[Page, EchoSocket]", "[Page, EchoSocket, Busy]")
    echo.done("compile")
    os.mkfifo(echo.root / "gate")
    async with echo.serving() as server:
        port = server.url.rpartition(":")[2]
        held = asyncio.create_task(fetched(f"{server.url}/hold"))
        clients = []
        with await asyncio.to_thread((echo.root / "gate").open, "w"):  # its loop is held until this is closed
            for _ in range(64):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
                writer.write(b"GET /turns HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                clients.append((reader, writer))
        async with asyncio.timeout(TIMEOUT):
            turns = [int((await reader.read()).rpartition(b"\r\n")[2]) for reader, _ in clients]
        assert (await held).text == "free"
        for _, writer in clients:
            writer.close()
    assert max(turns) - min(turns) < 32


@pytest.mark.parametrize("transport", ["native", "asgi"])
async def test_http_and_websockets_are_served_where_it_says(compiled: Workspace, transport: str) -> None:
    async with compiled.serving("--transport", transport) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.sockets == [server.url.replace("http", "ws") + "/echo/:room"]
        page = await fetched(server.url)
        assert page.text == "the page"
        assert "server" not in page.headers
        assert await said(server.sockets[0], "hello") == 5


async def test_it_says_where_metrics_are(echo: Workspace) -> None:
    echo.edit(MANIFEST, 'version="1.2.3"', 'version="1.2.3", websockets={"metrics": "/figures"}')
    echo.done("compile")
    async with echo.serving() as server:
        assert server.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            line = (await server.process.stdout.readline()).decode()
        assert line.split() == [f"{server.url}/figures", "metrics"]
        assert "aquilia_connections{" in (await fetched(f"{server.url}/figures")).text


async def test_requests_and_handshakes_are_logged_without_their_query(compiled: Workspace) -> None:
    async with compiled.serving() as server:
        await fetched(server.url)
        assert '"GET / HTTP/1.1" 200' in await server.logged("GET")
        await said(f"{server.sockets[0]}%20y?token=secret", "x")
        assert '"WebSocket /echo/x%20y" 101' in await server.logged("WebSocket")
        code, rest = await server.end()
    assert (code, rest) == (0, "")


async def test_a_refused_handshake_is_logged_with_its_status(compiled: Workspace) -> None:
    async with compiled.serving() as server:
        with pytest.raises(websockets.InvalidStatus):
            await said(f"{server.url.replace('http', 'ws')}/nowhere", "x")
        assert '"WebSocket /nowhere" 404' in await server.logged("WebSocket")


async def test_a_higher_log_level_is_silent_about_requests(compiled: Workspace) -> None:
    async with compiled.serving("--log-level", "warning") as server:
        await fetched(server.url)
        await said(server.sockets[0], "x")
        assert await server.end() == (0, "")


async def test_without_picows_uvicorn_serves_the_websockets(compiled: Workspace) -> None:
    compiled.write("elsewhere/picows.py", "raise ImportError('no wheel for this machine')")
    compiled.environment["PYTHONPATH"] = str(compiled.root / "elsewhere")

    async with compiled.serving() as server:
        assert "(no wheel for this machine); WebSockets are served by uvicorn's own" in await server.logged(
            "native"
        )
        assert await said(server.sockets[0], "hello") == 5


@pytest.mark.parametrize("transport", ["native", "asgi"])
async def test_the_largest_message_of_a_controller_is_its_own(compiled: Workspace, transport: str) -> None:
    async with compiled.serving("--transport", transport) as server:
        assert await said(server.sockets[0], "x" * 900) == 900
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await said(server.sockets[0], "x" * 1001)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_a_unix_socket_stands_in_the_place_of_a_port(compiled: Workspace) -> None:
    path = compiled.root / "aq.sock"
    async with compiled.serving("--uds", "aq.sock") as server:
        assert server.url == "unix:aq.sock"
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as http:
            assert (await http.get("http://aq/")).text == "the page"
        assert "unix:aq.sock is taken by another process" in compiled.refused("serve", "--uds", "aq.sock")
        assert path.exists()
        await server.end()
    assert not path.exists()


async def test_a_unix_socket_left_behind_by_a_killed_server_is_taken_over(compiled: Workspace) -> None:
    async with compiled.serving("--uds", "aq.sock") as server:
        await server.end(signal.SIGKILL)
    assert (compiled.root / "aq.sock").exists()

    async with compiled.serving("--uds", "aq.sock") as server:
        assert (await server.end())[0] == 0


# Ending


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda by: by.name)
async def test_it_ends_quietly_with_clients_open_who_are_told_to_come_back(
    compiled: Workspace, by: signal.Signals
) -> None:
    async with compiled.serving("--log-level", "warning") as server:
        url = server.sockets[0].replace(":room", "x")
        async with websockets.connect(url, proxy=None) as client:
            await client.send(json.dumps({"event": "say", "payload": {"text": "x"}}))
            await client.recv()
            ended = asyncio.create_task(server.end(by))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
            assert await ended == (0, "")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


# What is refused


def test_a_missing_artifact_is_refused(echo: Workspace) -> None:
    assert echo.refused("serve") == "error: artifacts/ws.crous does not exist; run `aq compile`\n"


def test_a_stale_artifact_is_refused_and_the_change_named(compiled: Workspace) -> None:
    compiled.edit(CONTROLLERS, '"say"', '"speak"')

    told = compiled.refused("serve")

    assert "artifacts/ws.crous is older than the code: run `aq compile`" in told
    assert told.splitlines()[1:] == [
        "  namespace /echo/:room: event speak added",
        "  namespace /echo/:room: event say removed",
    ]


def test_a_long_list_of_changes_is_cut(compiled: Workspace) -> None:
    events = "".join(
        f"\n    @Event('e{n}')\n    async def e{n}(self, conn: Connection) -> None: ..." for n in range(12)
    )
    compiled.write(CONTROLLERS, (compiled.root / CONTROLLERS).read_text() + events + "\n")

    assert compiled.refused("serve").splitlines()[-1] == "  and 4 more"


async def test_a_change_that_clients_do_not_see_needs_no_compiling(compiled: Workspace) -> None:
    compiled.edit(CONTROLLERS, '"the page"', '"another page"')

    async with compiled.serving() as server:
        assert (await fetched(server.url)).text == "another page"


async def test_in_development_the_artifact_does_not_matter(echo: Workspace) -> None:
    echo.environment["AQ_ENV"] = "development"

    async with echo.serving() as server:
        assert (await fetched(server.url)).text == "the page"


def test_an_unknown_environment_is_refused(compiled: Workspace) -> None:
    compiled.environment["AQ_ENV"] = "prod"

    assert compiled.refused("serve").startswith("AQ_ENV: is 'prod', not 'production' or 'development'")


def test_the_secret_of_sessions_is_needed_to_serve_and_not_to_compile(echo: Workspace) -> None:
    echo.edit(MANIFEST, "controllers=[", "sessions=SessionEngine(), controllers=[")
    echo.edit(MANIFEST, "\nfrom aquilia", "\nfrom aquilia import SessionEngine\nfrom aquilia")
    echo.environment["AQ_SESSION_SECRET"] = ""

    echo.done("compile")
    echo.done("inspect")
    assert echo.refused("serve").startswith(f"{MANIFEST}: sessions need a secret: set AQ_SESSION_SECRET")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('{"spool_dir": "gone"}', "spool_dir: 'gone' takes no files (No such file or directory)"),
        (
            '{"adapter": "nats", "adapter_url": "nats://h?creds=gone"}',
            "NATS at nats://h:4222: creds=gone: the file cannot be read: No such file or directory",
        ),
    ],
)
def test_what_the_machine_has_to_have_is_needed_to_serve_and_not_to_compile(
    echo: Workspace, settings: str, told: str
) -> None:
    echo.edit(MANIFEST, "controllers=[", f"websockets={settings}, controllers=[")
    echo.edit(CONTROLLERS, "max_message_size", 'backpressure={"strategy": "spool"}, max_message_size')

    echo.done("compile")
    echo.done("inspect")
    refused = echo.refused("serve", "--port", "0")
    assert told in refused
    assert "Traceback" not in refused
    assert refused.endswith("error: the application did not start\n")


def test_problems_of_the_workspace_are_told_as_compile_does(compiled: Workspace) -> None:
    compiled.edit(CONTROLLERS, "conn: Connection, payload: Words", "")

    assert compiled.refused("serve") == compiled.refused("compile")


def test_code_that_ends_the_process_is_a_problem(compiled: Workspace) -> None:
    compiled.write(CONTROLLERS, "raise SystemExit")

    assert (
        compiled.refused("serve")
        == f"{CONTROLLERS}:1: ends the process while it is imported: SystemExit()\n1 problem\n"
    )


def test_a_port_in_use_is_named(compiled: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = compiled.refused("serve", "--port", str(port))

    assert told.startswith(
        f"error: 127.0.0.1:{port} is taken by another process: end it, or choose another --port"
    )


BROKEN_START = (
    "class Page(Controller):",
    "class Page(Controller):\n    async def on_startup(self) -> None: raise RuntimeError('no database')\n",
)


def test_an_application_that_does_not_start_is_an_error(compiled: Workspace) -> None:
    compiled.edit(CONTROLLERS, *BROKEN_START)

    told = compiled.refused("serve", "--port", "0")

    assert "RuntimeError: no database" in told
    assert told.endswith("error: the application did not start\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--uds", "x", "--port", "1"], "--uds: stands in the place of --host and --port"),
        (["--ssl-keyfile", "x"], "--ssl-keyfile: needs --ssl-certfile"),
        (["--port", "70000"], "--port"),
        (["--log-level", "loud"], "'debug', 'info', 'warning', 'error', 'critical'"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(echo: Workspace, words: list[str], problem: str) -> None:
    told = " ".join(echo.refused("serve", *words, code=2).replace("│", " ").split())

    assert problem in told


# Reloading


async def test_a_change_is_served_by_a_fresh_process(echo: Workspace) -> None:
    async with echo.serving("--reload") as server:
        url = server.url
        assert (await fetched(url)).text == "the page"

        echo.edit(CONTROLLERS, '"the page"', '"the page, and more"')
        assert CONTROLLERS in await server.logged("detected changes")
        await server.started()

        assert server.url == url
        assert (await fetched(url)).text == "the page, and more"
        assert (await server.end())[0] == 0


async def test_a_mistake_is_told_and_the_server_comes_back_when_it_is_mended(echo: Workspace) -> None:
    async with echo.serving("--reload", "--log-level", "warning") as server:
        good = (echo.root / CONTROLLERS).read_text()
        echo.write(CONTROLLERS, "1 / 0")
        assert await server.logged("ZeroDivisionError") == (
            f"{MANIFEST}: ZeroDivisionError: division by zero ({CONTROLLERS}:1)\n"
        )
        await server.logged("the server starts when they are mended")

        echo.write(CONTROLLERS, good)
        await server.started()
        assert await said(server.sockets[0], "x") == 1


async def test_reloading_notices_new_files_and_removed_ones_and_no_others(echo: Workspace) -> None:
    echo.write("env/pyvenv.cfg", "")
    async with echo.serving("--reload") as server:
        echo.write("modules/echo/notes.txt", "no Python")
        echo.write("env/lib/module.py", "of an environment")
        echo.write(".hidden/module.py", "hidden")
        echo.write("modules/echo/new.py", "")
        assert "detected changes in 'modules/echo/new.py'." in await server.logged("detected")
        await server.started()

        (echo.root / "modules/echo/new.py").unlink()
        assert "detected changes in 'modules/echo/new.py'." in await server.logged("detected")
        await server.started()


async def test_an_application_that_does_not_start_is_told_while_reloading_too(echo: Workspace) -> None:
    async with echo.serving("--reload") as server:
        echo.edit(CONTROLLERS, *BROKEN_START)
        await server.logged("RuntimeError: no database")
        await server.logged("error: the application did not start")

        echo.edit(CONTROLLERS, *reversed(BROKEN_START))
        await server.started()
        _, told_behind_it = await server.end()
        assert "Traceback" not in told_behind_it


async def test_no_server_outlives_the_process_that_was_started(echo: Workspace) -> None:
    async with echo.serving("--reload") as server:
        await server.end(signal.SIGKILL)  # which returns when nobody has its stdout open any more
        with pytest.raises(httpx.ConnectError):
            await fetched(server.url)


async def test_reloading_is_development(echo: Workspace) -> None:
    echo.environment["AQ_ENV"] = "production"

    async with echo.serving("--reload") as server:
        url = server.sockets[0].replace(":room", "x")
        async with websockets.connect(url, proxy=None) as client:
            await client.send(json.dumps({"event": "sai"}))
            error = json.loads(await client.recv())
    assert "say" in json.dumps(error), "near names are told in development alone"


def test_reloading_tells_what_is_wrong_with_the_port_at_once(echo: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert "is taken by another process" in echo.refused("serve", "--reload", "--port", port)


async def test_a_server_that_waits_for_a_client_says_so(compiled: Workspace) -> None:
    async with compiled.serving() as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /echo/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")

        server.process.send_signal(signal.SIGTERM)

        told = await server.logged("stopping; it waits for")
        assert "1 connection to take its close (" in told
        assert " at /echo/a)" in told
        writer.close()  # it never answers the close, and need not be waited for any longer
        async with asyncio.timeout(TIMEOUT):
            assert await server.process.wait() == 0
