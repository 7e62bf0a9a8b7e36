"""Handshakes that are refused and openings that fail: by HTTP status or close code, over both transports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import websockets
from door import (
    BINARY,
    V1,
    Complaints,
    Door,
    denial,
    expect_close,
    house,
    is_served,
    nested,
    refusal,
    written,
)
from wire import PROFILES, TIMEOUT, TRANSPORTS, Client, serving

from aquilia.sockets import AquilaSockets

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("complaints")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(TRANSPORTS))
async def base(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with serving(house(), ws=TRANSPORTS[request.param], log_config=None) as base:
        yield base


@pytest.fixture(params=V1)
def v1(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[None, "aquilia.v1.json"], ids=["plain", "v1"])
def offered(request: pytest.FixtureRequest) -> list[str] | None:
    """What a client offers that is to be refused by status, whatever it speaks."""
    return [request.param] if request.param else None


# The opening of protocol v1

NO_HELLO: list[Any] = [
    {"event": "echo"},
    {"event": "hello"},
    {"type": "control", "event": "ping"},
    {"type": "control", "event": "auth", "payload": {"token": "t"}},
    {"type": "system", "event": "hello"},
    {"type": "ack", "id": "1"},
    {"type": "control", "event": "hello", "payload": "a word"},
    {"type": "control", "event": "hello", "payload": [1]},
    {"type": "control", "event": "hello", "payload": {"token": 5}},
    {"type": "control", "event": "hello", "payload": {"resume": "a word"}},
    {"type": "control", "event": "hello", "payload": {"resume": nested(63)}},
    {"type": "control", "event": "hello", "id": 5},
    {"type": "controll", "event": "hello"},
    {"event": ""},
    [],
    None,
]


async def test_whoever_does_not_say_hello_first_is_shown_out_without_a_word(base: str, v1: str) -> None:
    gibberish = b"\xff\x81" if v1 in BINARY else "{"
    for first in [gibberish, *(written(v1, message) for message in NO_HELLO)]:
        async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
            await client.raw(first)
            with pytest.raises(websockets.ConnectionClosed):
                await client.receive()
            assert client.socket.close_code == 4400, first


async def test_a_token_that_nobody_can_check_is_refused(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        await client.send("hello", {"token": "a.b.c"}, type="control")
        assert "AuthManager" in await expect_close(client, 4400)


async def test_what_cannot_be_resumed_starts_anew_and_is_told_so(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        resume = {"token": "t", "rooms": {"r": {"epoch": "e", "offset": 7}}}
        await client.send("hello", {"resume": resume}, type="control")
        welcome = await client.expect("welcome")
        assert welcome["payload"]["resume"] != "t"
        assert (await client.expect("resumed"))["payload"] == {"rooms": {"r": {"recovered": False}}}
        assert await is_served(client)


async def test_hello_may_say_nothing(base: str, v1: str) -> None:
    for payload in (None, {}, {"token": None, "resume": None}, {"unknown": 1}):
        async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
            await client.raw(written(v1, {"type": "control", "event": "hello", "payload": payload}))
            await client.expect("welcome")
            assert await is_served(client)


async def test_what_was_sent_behind_hello_is_not_lost(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        await client.send("hello", type="control")
        await client.send("echo", 1, id="1", ack=True)
        await client.expect("welcome")
        assert (await client.receive())["payload"] == {"status": "ok", "data": 1}


async def test_a_second_hello_is_refused(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1) as client:
        for _ in range(3):
            await client.send("hello", type="control")
            assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
        await client.send("hello", type="control", id="h")
        assert (await refusal(client))["id"] == "h"
        assert await is_served(client)


# Paths


async def test_an_unknown_path_is_refused_with_a_status(base: str) -> None:
    for path in ("/", "/door", "/door/", "/door/a/b", "/Door/ada", "/nowhere", "/door/..", "/door/%2e%2e"):
        status, body = await denial(base + path)
        assert (status, body["code"]) == (404, "WS_NAMESPACE_NOT_FOUND"), path


async def test_paths_of_one_place_have_one_name(base: str) -> None:
    for path in ("/door/ada", "//door//ada", "/door/ada/", "/door/%61da", "/%64oor/ada", "/door/ada?x=/y"):
        async with Client.connect(base + path) as client:
            assert await client.request("where") == {"status": "ok", "data": "/door/ada"}, path


async def test_paths_that_could_have_two_names_match_nothing(base: str) -> None:
    for name in ("a%2Fb", "./ada", "%00", "%ff", "%0d%0aX:%20y", "%ed%a0%80", "%7f"):
        assert (await denial(f"{base}/door/{name}"))[0] == 404, name
    assert (await denial(f"{base}/x/../door/ada"))[0] == 404


async def test_a_v1_client_is_told_of_an_unknown_path_by_a_close(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/nowhere", v1, hello=False) as client:
        assert client.socket.subprotocol == PROFILES[v1][0]
        assert await expect_close(client, 4404) == "WS_NAMESPACE_NOT_FOUND"


# Subprotocols


async def test_subprotocols_without_ours_are_refused(base: str) -> None:
    for offered in (
        ["graphql-ws"],
        ["aquilia.v2.json"],
        ["AQUILIA.PLAIN.JSON"],
        ["soap"],
        ["aquilia.bearer.t0ken"],
        ["aquilia.bearer64.dDBrZW4", "aquilia.bearer.t0ken"],
    ):
        status, body = await denial(f"{base}/door/ada", subprotocols=offered)
        assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
        assert "aquilia.v1.json" in body["message"]
        assert "t0ken" not in str(body)


async def test_a_v1_subprotocol_that_we_lack_is_refused_by_a_close(base: str) -> None:
    async with websockets.connect(
        f"{base}/door/ada", subprotocols=["graphql-ws", "aquilia.v1.xml"], proxy=None
    ) as socket:
        async with asyncio.timeout(TIMEOUT):
            await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4400, "WS_HANDSHAKE_FAILED")


async def test_the_first_subprotocol_that_is_ours_is_chosen_and_a_token_never(base: str) -> None:
    for path, offered, chosen in (
        ("/door/ada", ["graphql-ws", "aquilia.plain.json", "aquilia.v1.json"], "aquilia.plain.json"),
        ("/door/ada", ["aquilia.bearer.t0ken", "aquilia.v1.cbor"], "aquilia.v1.cbor"),
        ("/door/ada", ["aquilia.bearer.t0ken", "aquilia.plain.json"], "aquilia.plain.json"),
        ("/own", ["soap"], "soap"),
        ("/own", ["soap", "aquilia.v1.json"], "soap"),
        ("/own", ["aquilia.v1.json", "soap"], "aquilia.v1.json"),
    ):
        async with websockets.connect(base + path, subprotocols=offered, proxy=None) as socket:
            assert socket.subprotocol == chosen


# Origins and hosts


async def test_a_foreign_origin_is_refused_before_the_upgrade(base: str, offered: list[str] | None) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "x",
        "https://club.example.evil.example",
        "http://club.example",
        "https://club.example@evil.example",
        "https://club.example:8443",
    ):
        for path in ("/club/a", "/door/ada", "/nowhere"):
            status, body = await denial(base + path, origin=origin, subprotocols=offered)
            assert (status, body["code"]) == (403, "WS_ORIGIN_NOT_ALLOWED"), origin


async def test_an_allowed_origin_and_the_same_one_are_let_in(base: str) -> None:
    async with Client.connect(f"{base}/club/a", origin="https://club.example"):
        pass
    async with Client.connect(f"{base}/door/ada", origin=base.replace("ws:", "http:")) as client:
        assert await is_served(client)


# Middleware and guards


async def test_a_guard_refuses_a_plain_client_by_status_and_a_v1_client_by_close(base: str, v1: str) -> None:
    for path, status, code, close in (
        ("/club/a?bouncer=no", 403, "WS_FORBIDDEN", 4403),
        ("/club/a?bouncer=who", 401, "WS_AUTH_REQUIRED", 4401),
        ("/club/private", 403, "WS_FORBIDDEN", 4403),
    ):
        denied, body = await denial(base + path)
        assert (denied, body["code"]) == (status, code)
        async with Client.connect(base + path, v1, hello=False) as client:
            assert await expect_close(client, close) == code


async def test_a_guard_may_refuse_with_a_status_that_no_close_code_stands_for(
    base: str, offered: list[str] | None
) -> None:
    status, body = await denial(f"{base}/club/a?bouncer=busy", subprotocols=offered)
    assert (status, body) == (429, {"code": "BUSY", "message": "too many of you"})


async def test_middleware_refuses_in_its_own_words_as_far_as_a_close_frame_holds_them(
    base: str, v1: str
) -> None:
    for middleware, reason in (("wordy", "ä" * 61), ("silent", "HTTP 403")):
        async with Client.connect(f"{base}/door/ada?middleware={middleware}", v1, hello=False) as client:
            assert await expect_close(client, 4403) == reason


async def test_an_error_in_a_handshake_is_an_incident_and_never_its_text(
    base: str, offered: list[str] | None, complaints: Complaints
) -> None:
    for path in (
        "/club/a?bouncer=ill",
        "/club/a?bouncer=cancelled",
        "/club/burnt",
        "/door/ada?middleware=broken",
    ):
        status, body = await denial(base + path, subprotocols=offered)
        assert (status, body["code"]) == (500, "WS_INTERNAL_ERROR"), path
        assert "secret" not in str(body)
        (logged,) = complaints.take()
        assert body["message"].split()[-1] in logged


async def test_plain_http_gets_an_answer(base: str) -> None:
    host = base.removeprefix("ws://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET /door/ada HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"HTTP_NOT_FOUND" in answer
    writer.close()


# Limits


@contextlib.asynccontextmanager
async def let_in(url: str) -> AsyncIterator[None]:
    """Come again until there is room: a client knows of its end before the server has cleared up."""
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(TIMEOUT):
        while True:
            try:
                await stack.enter_async_context(Client.connect(url))
            except websockets.InvalidStatus:
                await asyncio.sleep(0.005)
            else:
                break
        yield


async def test_one_connection_too_many_is_refused_before_the_upgrade(
    base: str, offered: list[str] | None
) -> None:
    for _ in range(3):  # what is given back can be taken again
        async with let_in(f"{base}/single"):
            for _ in range(2):
                status, body = await denial(f"{base}/single", subprotocols=offered)
                assert (status, body["code"]) == (503, "WS_OVERLOADED")


async def test_whoever_says_nothing_is_shown_out_in_time(transport: str) -> None:
    app = AquilaSockets.from_controllers([Door], handshake_timeout=0.05)
    async with (
        serving(app, ws=transport, log_config=None) as base,
        Client.connect(f"{base}/door/ada", "v1.json", hello=False) as mute,
        Client.connect(f"{base}/door/ada") as plain,
    ):
        assert (await expect_close(mute, 4508)).startswith("WS_CONNECTION_TIMEOUT")
        assert await is_served(plain)


async def test_the_process_has_a_quota_of_connections_and_of_namespaces(
    transport: str, offered: list[str] | None
) -> None:
    app = AquilaSockets.from_controllers([Door], max_connections=3, max_namespaces=2)
    async with serving(app, ws=transport, log_config=None) as base:
        async with Client.connect(f"{base}/door/a"), Client.connect(f"{base}/door/b"):
            status, body = await denial(f"{base}/door/c", subprotocols=offered)
            assert (status, body["code"]) == (503, "WS_OVERLOADED")
            async with Client.connect(f"{base}/door/a"):
                status, body = await denial(f"{base}/door/a", subprotocols=offered)
                assert (status, body["code"]) == (503, "WS_OVERLOADED")
        async with let_in(f"{base}/door/c"):  # in the place of one that nobody uses
            assert app.live()["namespaces"] == 2


async def test_clients_that_come_at_once_for_more_namespaces_than_there_may_be(transport: str) -> None:
    app = AquilaSockets.from_controllers([Door], max_namespaces=3)
    async with serving(app, ws=transport, log_config=None) as base:

        async def come(number: int) -> int:
            try:
                async with Client.connect(f"{base}/door/{number}") as client:
                    assert app.live()["namespaces"] <= 3
                    assert await is_served(client)
            except websockets.InvalidStatus as refused:
                return refused.response.status_code
            return 101

        async with asyncio.timeout(TIMEOUT):
            answers = await asyncio.gather(*(come(number) for number in range(40)))
        assert set(answers) <= {101, 503}
        assert answers.count(101) >= 3
        assert app.live()["namespaces"] <= 3


async def test_a_host_that_is_not_ours_is_refused_before_the_upgrade(
    transport: str, offered: list[str] | None
) -> None:
    app = AquilaSockets.from_controllers([Door], allowed_hosts=["chat.example", "*.chat.example"])
    async with serving(app, ws=transport, log_config=None) as base:
        port = int(base.rsplit(":", 1)[1])
        for host in ("127.0.0.1", "evil.example", "xchat.example", "chat.example.evil.example"):
            status, body = await denial(
                f"ws://{host}:{port}/door/ada", host="127.0.0.1", port=port, subprotocols=offered
            )
            assert (status, body["code"]) == (400, "WS_HANDSHAKE_FAILED")
        for host in ("chat.example", "CHAT.example", "a.b.chat.example"):
            url = f"ws://{host}:{port}/door/ada"
            async with Client.connect(url, host="127.0.0.1", port=port) as client:
                assert await is_served(client)
