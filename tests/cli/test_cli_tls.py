"""`aq serve` with a certificate: https and wss on both transports, what goes over the wire, and changed files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from certificates import DAY, NOW, Authority, serial
from workspaces import TIMEOUT, Server, Workspace

AUTHORITY = Authority()
TLS = ("--host", "localhost", "--ssl-certfile", "chain.pem", "--ssl-keyfile", "key.pem")
MIB = 1 << 20

LINE = """
from aquilia.sockets import Connection, Event, History, Socket, SocketController


@Socket("/line/:name", history=History(size=100, ttl=60), max_message_size=4 << 20)
class Line(SocketController):
    @Event("enter")
    async def enter(self, conn: Connection) -> None:
        await conn.join("all")

    @Event("say")
    async def say(self, conn: Connection, payload: str) -> str:
        await self.publish_room("all", "said", len(payload))
        return payload

    @Event("flood")
    async def flood(self, conn: Connection, payload: int) -> None:
        for number in range(payload):
            await conn.send_event("drop", [number, "x" * 50_000])

    @Event("end")
    async def end(self, conn: Connection) -> None:
        await conn.disconnect(4001, "enough")
"""
MANIFEST = """
from aquilia.manifest import AppManifest
from controllers import Line

manifest = AppManifest("line", version="1", controllers=[Line], websockets={"handshake_timeout": 4, "health": True})
"""

pytestmark = pytest.mark.parametrize("transport", ["native", "asgi"])


@pytest.fixture
def line(empty: Workspace) -> Workspace:
    empty.write("modules/line/manifest.py", MANIFEST)
    empty.write("modules/line/controllers.py", LINE)
    empty.compile()
    AUTHORITY.issue().write(empty.root)
    return empty


@contextlib.asynccontextmanager
async def serving(workspace: Workspace, transport: str, *words: str) -> AsyncIterator[Server]:
    async with workspace.serving(*TLS, "--transport", transport, *words) as server:
        yield server


def address(server: Server) -> str:
    return server.sockets[0].replace(":name", "a")


def port(server: Server) -> int:
    found = urlsplit(server.url).port
    assert found is not None
    return found


def dialled(server: Server, **options: Any) -> websockets.connect:
    return websockets.connect(address(server), ssl=AUTHORITY.trusting(), proxy=None, max_size=None, **options)


async def said(client: websockets.ClientConnection, text: str) -> str:
    await client.send(json.dumps({"event": "say", "payload": text, "id": "1", "ack": True}))
    while (frame := json.loads(await client.recv()))["type"] != "ack":
        pass
    answer: str = frame["payload"]["data"]
    return answer


async def greeted(client: websockets.ClientConnection, hello: dict[str, Any]) -> dict[str, Any]:
    """Say hello; the payload of the welcome."""
    await client.send(json.dumps({"type": "control", "event": "hello", "payload": hello}))
    welcome = json.loads(await client.recv())
    assert welcome["event"] == "welcome"
    payload: dict[str, Any] = welcome["payload"]
    return payload


async def shown(server: Server) -> int:
    """The serial number of the certificate that a new client gets to see."""
    async with asyncio.timeout(TIMEOUT):
        _, writer = await asyncio.open_connection("localhost", port(server), ssl=AUTHORITY.trusting())
        found = serial(writer.get_extra_info("ssl_object"))
        writer.close()
        await writer.wait_closed()
    return found


# What is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--ssl-certfile", "nowhere.pem"), "error: TLS: there is no file nowhere.pem"),
        (
            ("--ssl-certfile", "chain.pem"),
            "error: TLS: chain.pem holds no key in PEM: --ssl-keyfile names the",
        ),
        (("--ssl-certfile", "chain.pem", "--ssl-keyfile", "chain.pem"), "error: TLS: chain.pem holds no key"),
        (
            ("--ssl-certfile", "chain.pem", "--ssl-keyfile", "other/key.pem"),
            "error: TLS: other/key.pem is not the key of chain.pem",
        ),
    ],
)
def test_files_that_are_wrong_are_told_before_a_port_is_bound(
    line: Workspace, transport: str, words: tuple[str, ...], told: str
) -> None:
    AUTHORITY.issue().write(line.root / "other")
    with socket.create_server(("127.0.0.1", 0)) as other:  # that this port is taken would be told else
        where = ("--port", str(other.getsockname()[1]), "--transport", transport)
        assert told in line.refused("serve", *where, *words)


@pytest.mark.parametrize("option", ["--ssl-keyfile", "--ssl-password-file"])
def test_a_key_without_a_certificate_is_refused(line: Workspace, transport: str, option: str) -> None:
    told = line.refused("serve", "--transport", transport, option, "key.pem", code=2)
    assert "needs --ssl-certfile" in told


async def test_what_is_doubtful_is_logged_and_served(line: Workspace, transport: str) -> None:
    AUTHORITY.issue(until=NOW - DAY / 2).write(line.root)
    (line.root / "key.pem").chmod(0o644)
    async with serving(line, transport, "--log-level", "warning") as server:
        assert "in chain.pem has expired, on " in await server.logged("TLS")
        assert "every user of this machine can read key.pem: chmod 600" in await server.logged("TLS")


# What is served


async def test_https_and_wss_are_served_with_a_certificate(line: Workspace, transport: str) -> None:
    async with serving(line, transport, "--log-level", "warning") as server:
        assert server.url.startswith("https://localhost:")
        assert server.sockets[0].startswith("wss://localhost:")
        async with httpx.AsyncClient(verify=AUTHORITY.trusting(), trust_env=False) as http:
            assert (await http.get(f"{server.url}/health")).json()["status"] == "ready"
        async with dialled(server, origin=server.url) as client:  # the same origin, by https
            assert await said(client, "hello") == "hello"
        with pytest.raises(websockets.InvalidStatus):
            async with dialled(server, origin=server.url.replace("https", "http")):
                pass


async def test_a_hundred_megabytes_arrive_whole_both_ways(line: Workspace, transport: str) -> None:
    sent, came = hashlib.sha256(), hashlib.sha256()
    async with serving(line, transport) as server, dialled(server) as client:

        async def send() -> None:
            for number in range(100):
                text = chr(97 + number % 26) * (MIB - 100)
                sent.update(text.encode())
                await client.send(
                    json.dumps({"event": "say", "payload": text, "id": str(number), "ack": True})
                )

        sending = asyncio.create_task(send())
        for number in range(100):
            frame = json.loads(await client.recv())
            assert frame["id"] == str(number)
            came.update(frame["payload"]["data"].encode())
        await sending
    assert came.digest() == sent.digest()


async def test_a_client_that_does_not_read_is_waited_for_and_gets_all(
    line: Workspace, transport: str
) -> None:
    async with serving(line, transport) as server:
        async with dialled(server, max_queue=1) as slow, dialled(server) as other:
            await slow.send(json.dumps({"event": "flood", "payload": 200}))
            for _ in range(20):
                assert await said(other, "x") == "x"
            for number in range(200):
                assert json.loads(await slow.recv())["payload"][0] == number


async def test_both_sides_can_close(line: Workspace, transport: str) -> None:
    async with serving(line, transport) as server:
        async with dialled(server) as client:
            await client.send(json.dumps({"event": "end"}))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        async with dialled(server) as client:
            await client.close(4002, "bye")
            assert client.close_code == 4002


async def test_a_client_whose_wire_was_cut_comes_back_to_its_session(line: Workspace, transport: str) -> None:
    async with serving(line, transport) as server:
        async with dialled(server, subprotocols=["aquilia.v1.json"]) as client:
            welcome = await greeted(client, {})
            await client.send(json.dumps({"event": "enter", "id": "1", "ack": True}))
            assert json.loads(await client.recv())["event"] == "joined"
            client.transport.abort()
        async with dialled(server, subprotocols=["aquilia.v1.json"]) as client:
            token = {"token": welcome["resume"], "rooms": {}}
            again = await greeted(client, {"resume": token})
            assert json.loads(await client.recv())["event"] == "resumed"
    assert again["connection"] == welcome["connection"]


# What goes wrong


async def test_plain_http_to_the_port_leaves_no_traceback_and_no_harm(
    line: Workspace, transport: str
) -> None:
    async with serving(line, transport, "--log-level", "warning") as server:
        for words in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + os.urandom(600),
            b"\x00",
        ):
            reader, writer = await asyncio.open_connection("localhost", port(server))
            writer.write(words)
            writer.write_eof()
            async with asyncio.timeout(TIMEOUT):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()
        async with dialled(server) as client:
            assert await said(client, "x") == "x"
        assert await server.end() == (0, "")


async def test_a_thousand_clients_that_say_nothing_starve_nobody_and_are_cut_in_time(
    line: Workspace, transport: str
) -> None:
    async with serving(line, transport, "--log-level", "warning") as server:
        silent = [socket.create_connection(("127.0.0.1", port(server))) for _ in range(1000)]
        begun = time.monotonic()
        async with asyncio.timeout(3.5), dialled(server) as client:
            assert await said(client, "x") == "x"
        for each in silent:
            each.setblocking(False)
        async with asyncio.timeout(TIMEOUT):
            for each in silent:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.get_running_loop().sock_recv(each, 1) == b""
                each.close()
        assert time.monotonic() - begun > 2.0, "they had the time of the setting"
        assert await server.end() == (0, "")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda by: by.name)
async def test_it_ends_quietly_with_clients_open_who_are_told_to_come_back(
    line: Workspace, transport: str, by: signal.Signals
) -> None:
    async with serving(line, transport, "--log-level", "warning") as server:
        async with dialled(server, subprotocols=["aquilia.v1.json"]) as client:
            await greeted(client, {})
            ended = asyncio.create_task(server.end(by))
            assert json.loads(await client.recv())["event"] == "goaway"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
            assert await ended == (0, "")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


# Changed files


async def test_a_changed_certificate_is_taken_up_without_a_restart(line: Workspace, transport: str) -> None:
    async with serving(line, transport) as server, dialled(server) as before:
        old = await shown(server)
        after = AUTHORITY.issue()
        (line.root / "chain.pem").write_bytes(after.chain)
        assert (
            "key.pem is not the key of chain.pem; the certificate from before is kept"
            in await server.logged("TLS")
        )
        assert await shown(server) == old
        after.write(line.root)
        await server.logged("TLS: took up the changed certificate in chain.pem")

        assert await shown(server) == after.serial
        assert await said(before, "still here") == "still here"
        async with dialled(server) as client:
            assert await said(client, "hello") == "hello"
