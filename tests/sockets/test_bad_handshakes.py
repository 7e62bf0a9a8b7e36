"""Handshakes that are refused, and openings of protocol v1 that fail: by status, by close code, over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import websockets
from door import (
    SERVERS,
    V1,
    Complaints,
    denial,
    expect_close,
    house,
    is_served,
    listening,
    nested,
    refusal,
    written,
)
from wire import PROFILES, TIMEOUT, Client, serving

from aquilia.sockets import AquilaSockets

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def complaints() -> Iterator[Complaints]:
    with listening() as complaints:
        yield complaints
    assert complaints.take() == []


@pytest.fixture(scope="module")
def app() -> AquilaSockets:
    return house()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(SERVERS))
async def base(request: pytest.FixtureRequest, app: AquilaSockets) -> AsyncIterator[str]:
    async with serving(app, ws=SERVERS[request.param], log_config=None) as base:
        yield base


@pytest.fixture(params=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=V1)
def v1(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(loop_scope="module")
async def client(base: str, profile: str) -> AsyncIterator[Client]:
    async with Client.connect(f"{base}/door/ada", profile) as client:
        yield client


# The opening of protocol v1


@pytest.mark.parametrize(
    "first",
    [
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
    ],
    ids=lambda first: str(first)[:60],
)
async def test_whoever_does_not_say_hello_first_is_shown_out(base: str, v1: str, first: Any) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        await client.raw(written(v1, first))
        with pytest.raises(websockets.ConnectionClosed):
            await client.receive()
        assert client.socket.close_code == 4400


async def test_gibberish_in_the_place_of_hello_is_shown_out(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        await client.raw(UNDECODABLE[v1][1])
        await expect_close(client, 4400)


async def test_a_token_that_nobody_can_check_is_refused(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        await client.send("hello", {"token": "a.b.c"}, type="control")
        assert "AuthManager" in await expect_close(client, 4400)


async def test_what_cannot_be_resumed_starts_anew_and_is_told_so(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/door/ada", v1, hello=False) as client:
        resume = {"token": "t", "rooms": {"r": {"epoch": "e", "offset": 7}}}
        await client.send("hello", {"resume": resume}, type="control")
        welcome = await client.expect("welcome")
        assert "resume" not in welcome["payload"]
        assert (await client.expect("resumed"))["payload"] == {"rooms": {}}
        assert await is_served(client)


@pytest.mark.parametrize("payload", [None, {}, {"token": None, "resume": None}, {"unknown": 1}])
async def test_hello_may_say_nothing(base: str, v1: str, payload: Any) -> None:
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


@pytest.mark.parametrize("profile", V1)
async def test_a_second_hello_is_refused(client: Client) -> None:
    for _ in range(3):
        await client.send("hello", type="control")
        assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    await client.send("hello", type="control", id="h")
    assert (await refusal(client))["id"] == "h"
    assert await is_served(client)


# Handshakes that are refused


async def test_an_unknown_path_is_refused_with_a_status(base: str) -> None:
    for path in ("/", "/door", "/door/", "/door/a/b", "/Door/ada", "/nowhere", "/door/..", "/door/%2e%2e"):
        status, body = await denial(base + path)
        assert (status, body["code"]) == (404, "WS_NAMESPACE_NOT_FOUND"), path


async def test_paths_of_one_place_have_one_name(base: str) -> None:
    for path in ("/door/ada", "//door//ada", "/door/ada/", "/door/%61da", "/%64oor/ada", "/door/ada?x=/y"):
        async with Client.connect(base + path) as client:
            assert await is_served(client)


@pytest.mark.parametrize(
    "path", ["/door/a%2Fb", "/door/./ada", "/x/../door/ada", "/door/%00", "/door/%ff", "/door/%0d%0aX:%20y"]
)
async def test_paths_that_could_have_two_names_match_nothing(base: str, path: str) -> None:
    assert (await denial(base + path))[0] == 404


async def test_a_v1_client_is_told_of_an_unknown_path_by_a_close(base: str, v1: str) -> None:
    async with Client.connect(f"{base}/nowhere", v1, hello=False) as client:
        assert client.socket.subprotocol == PROFILES[v1][0]
        assert await expect_close(client, 4404) == "WS_NAMESPACE_NOT_FOUND"


@pytest.mark.parametrize(
    "offered",
    [
        ["graphql-ws"],
        ["aquilia.v2.json"],
        ["AQUILIA.PLAIN.JSON"],
        ["soap"],
        ["aquilia.bearer.t0ken"],
        ["aquilia.bearer64.dDBrZW4", "aquilia.bearer.t0ken"],
    ],
    ids=str,
)
async def test_subprotocols_without_ours_are_refused(base: str, offered: list[str]) -> None:
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


@pytest.mark.parametrize(
    ("path", "offered", "chosen"),
    [
        ("/door/ada", ["graphql-ws", "aquilia.plain.json", "aquilia.v1.json"], "aquilia.plain.json"),
        ("/door/ada", ["aquilia.bearer.t0ken", "aquilia.v1.cbor"], "aquilia.v1.cbor"),
        ("/door/ada", ["aquilia.bearer.t0ken", "aquilia.plain.json"], "aquilia.plain.json"),
        ("/own", ["soap"], "soap"),
        ("/own", ["soap", "aquilia.v1.json"], "soap"),
        ("/own", ["aquilia.v1.json", "soap"], "aquilia.v1.json"),
    ],
)
async def test_the_first_subprotocol_that_is_ours_is_chosen_and_a_token_never(
    base: str, path: str, offered: list[str], chosen: str
) -> None:
    async with websockets.connect(base + path, subprotocols=offered, proxy=None) as socket:
        assert socket.subprotocol == chosen


@pytest.mark.parametrize("subprotocol", [None, "aquilia.v1.json"])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://club.example.evil.example", "http://club.example", "x"],
)
async def test_a_foreign_origin_is_refused_before_the_upgrade(
    base: str, origin: str, subprotocol: str | None
) -> None:
    offered = [subprotocol] if subprotocol else None
    for path in ("/club/a", "/door/ada", "/nowhere"):
        status, body = await denial(base + path, origin=origin, subprotocols=offered)
        assert (status, body["code"]) == (403, "WS_ORIGIN_NOT_ALLOWED")


async def test_an_allowed_origin_and_the_same_one_are_let_in(base: str) -> None:
    async with Client.connect(f"{base}/club/a", origin="https://club.example"):
        pass
    async with Client.connect(f"{base}/door/ada", origin=base.replace("ws:", "http:")) as client:
        assert await is_served(client)


@pytest.mark.parametrize(
    ("query", "name", "status", "code", "close"),
    [
        ("bouncer=no", "a", 403, "WS_FORBIDDEN", 4403),
        ("bouncer=who", "a", 401, "WS_AUTH_REQUIRED", 4401),
        ("", "private", 403, "WS_FORBIDDEN", 4403),
    ],
)
async def test_a_guard_refuses_a_plain_client_by_status_and_a_v1_client_by_close(
    base: str, v1: str, query: str, name: str, status: int, code: str, close: int
) -> None:
    url = f"{base}/club/{name}?{query}"
    denied, body = await denial(url)
    assert (denied, body["code"]) == (status, code)
    async with Client.connect(url, v1, hello=False) as client:
        assert await expect_close(client, close) == code


@pytest.mark.parametrize("subprotocol", [None, "aquilia.v1.json"])
async def test_a_guard_may_refuse_with_a_status_that_no_close_code_stands_for(
    base: str, subprotocol: str | None
) -> None:
    offered = [subprotocol] if subprotocol else None
    status, body = await denial(f"{base}/club/a?bouncer=busy", subprotocols=offered)
    assert (status, body) == (429, {"code": "BUSY", "message": "too many of you"})


@pytest.mark.parametrize("path", ["/club/a?bouncer=ill", "/club/burnt", "/door/ada?middleware=broken"])
@pytest.mark.parametrize("subprotocol", [None, "aquilia.v1.json"])
async def test_an_error_in_a_handshake_is_an_incident_and_never_its_text(
    base: str, path: str, subprotocol: str | None, complaints: Complaints
) -> None:
    status, body = await denial(base + path, subprotocols=[subprotocol] if subprotocol else None)
    assert (status, body["code"]) == (500, "WS_INTERNAL_ERROR")
    assert "secret" not in str(body)
    (logged,) = complaints.take()
    assert body["message"].split()[-1] in logged
    assert "a secret" in logged


@pytest.mark.parametrize("subprotocol", [None, "aquilia.v1.json"])
async def test_one_connection_too_many_is_refused_before_the_upgrade(
    base: str, subprotocol: str | None
) -> None:
    offered = [subprotocol] if subprotocol else None
    for _ in range(3):  # what is given back can be taken again
        async with Client.connect(f"{base}/single"):
            for _ in range(2):
                status, body = await denial(f"{base}/single", subprotocols=offered)
                assert (status, body["code"]) == (503, "WS_OVERLOADED")
        await let_in(f"{base}/single")


async def let_in(url: str) -> None:
    """Wait until there is room again."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                async with Client.connect(url):
                    pass
            except websockets.InvalidStatus:
                await asyncio.sleep(0.005)
            else:
                break
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                async with websockets.connect(url, proxy=None) as socket:
                    await socket.close()
                    return
            except websockets.InvalidStatus:
                await asyncio.sleep(0.005)


async def test_plain_http_gets_an_answer(base: str) -> None:
    host = base.removeprefix("ws://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET /door/ada HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(TIMEOUT):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"HTTP_NOT_FOUND" in answer
    writer.close()
