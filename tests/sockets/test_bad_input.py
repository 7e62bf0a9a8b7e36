"""What a client must not send, and what it gets for it: in every profile, over both transports.

Two things hold throughout. The connection goes on unless the wire protocol says that it ends; and no mistake of a
client's is logged as if it were the server's.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cbor2
import msgspec
import pytest
import pytest_asyncio
import websockets
from hypothesis import given
from hypothesis import strategies as st
from wire import PROFILES, TIMEOUT, Client, serving

from aquilia import Fault
from aquilia.middleware import CallNext
from aquilia.sockets import (
    AckEvent,
    AquilaSockets,
    Connection,
    Event,
    Guard,
    OnConnect,
    Schema,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
)
from aquilia.sockets.faults import ws_auth_required, ws_namespace_not_found

pytestmark = pytest.mark.asyncio(loop_scope="module")

V1 = [name for name in PROFILES if name != "plain"]
TEXT = ["plain", "v1.json"]
BINARY = ["v1.msgpack", "v1.cbor"]
SERVERS = {
    "asgi": "websockets-sansio",
    "native": "aquilia.sockets.transports.native:NativeProtocol",
}
MAX_SIZE = 4096


class Broken(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        raise ZeroDivisionError("a secret")


class Closed(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return False


class Expired(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        raise ws_auth_required("sign in again")


@Socket("/door/:name", max_message_size=MAX_SIZE)
class Door(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @AckEvent("note", schema=Schema({"text": str}))
    async def note(self, conn: Connection, payload: dict[str, Any]) -> None:
        pass

    @Event("n" * 128)
    async def long_name(self, conn: Connection) -> str:
        return "here"

    @Event("fail")
    async def fail(self, conn: Connection) -> None:
        raise ZeroDivisionError("a secret")

    @Event("unspeakable")
    async def unspeakable(self, conn: Connection) -> Any:
        return object()

    @Event("misspoken")
    async def misspoken(self, conn: Connection) -> None:
        raise Fault("MISSPOKEN", "its details cannot be written", details=[object()])

    @Event("cancelled")
    async def cancelled(self, conn: Connection) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @Event("lost")
    async def lost(self, conn: Connection) -> None:
        raise ws_namespace_not_found("/elsewhere")

    @Event("broken guard", guards=[Broken()])
    async def behind_broken(self, conn: Connection) -> None:
        pass

    @Event("closed guard", guards=[Closed()])
    async def behind_closed(self, conn: Connection) -> None:
        pass

    @Event("expired guard", guards=[Expired()])
    async def behind_expired(self, conn: Connection) -> None:
        pass

    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: list[str]) -> list[str]:
        return payload


@Socket("/greeting/:mood")
class Greeting(SocketController):
    """Its OnConnect ends in different ways."""

    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        match conn.path_params["mood"]:
            case "bad":
                raise ZeroDivisionError("a secret")
            case "sober":
                raise ws_auth_required("sign in")
            case "own":
                raise Fault("NOT_TODAY", "come back tomorrow")
            case "denied":
                raise Fault("NOT_YOU", "you may not", status=403)
            case "cancelled":
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                future.cancel()
                await future


class Bouncer(SocketGuard):
    async def check_handshake(self, handshake: Any) -> bool:
        match handshake.query_params.get("bouncer"):
            case "no":
                return False
            case "who":
                raise ws_auth_required("sign in")
            case "ill":
                raise ZeroDivisionError("a secret")
            case "busy":
                raise Fault("BUSY", "too many of you", status=429)
        return True


@Socket("/club/:name", guards=[Bouncer()], allowed_origins=["https://club.example"])
class Club(SocketController):
    def __init__(self) -> None:
        if self.path_params["name"] == "burnt":
            raise ZeroDivisionError("a secret")

    @Guard(on="handshake")
    async def members_only(self, handshake: Any) -> bool:
        return handshake.path_params["name"] != "private"


@Socket("/own", subprotocols=["soap"])
class Own(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


@Socket("/slow", message_rate_limit=1)
class Slow(SocketController):
    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload


@Socket("/single", max_connections=1)
class Single(SocketController):
    pass


async def refusing(ctx: Any, call_next: CallNext) -> Any:
    if ctx.request.query_params.get("middleware") == "broken":
        raise ZeroDivisionError("a secret")
    return await call_next(ctx)


class Complaints(logging.Handler):
    """What was logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def take(self) -> list[str]:
        """The complaints so far, each with its error; they count as expected."""
        records, self.records = self.records, []
        return [f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}" for record in records]


@pytest.fixture(autouse=True)
def complaints() -> Iterator[Complaints]:
    handler = Complaints()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    assert handler.take() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(SERVERS))
async def base(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    app = AquilaSockets.from_controllers(
        [Door, Greeting, Club, Own, Slow, Single], middleware=[refusing], heartbeat=30
    )
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


def written(profile: str, message: Any) -> str | bytes:
    return PROFILES[profile][1](message)


async def refusal(client: Client) -> dict[str, Any]:
    """The error that the next frame carries, be it an ack or an event."""
    frame = await client.receive()
    if frame["type"] == "ack":
        assert frame["payload"]["status"] == "error", frame
        return {**frame["payload"]["error"], "id": frame["id"]}
    assert (frame["type"], frame["event"]) == ("event", "error"), frame
    assert "id" not in frame
    return frame["payload"]


async def is_served(client: Client) -> bool:
    return await client.request("echo", "still here") == {"status": "ok", "data": "still here"}


async def denial(url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """The HTTP status and body by which a handshake is refused."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(url, proxy=None, **options)
    response = caught.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body)


# What is no envelope

UNDECODABLE: dict[str, list[str | bytes]] = {
    "plain": ["", "{", "nope", '{"event":"echo"} {}', '{"event":"echo","payload":"\\ud800"}', "\ufeff{}"],
    "v1.json": ["", "{", "nope", '{"event":"echo"} {}', '{"event":"echo","payload":NaN}', "[" * 3000],
    "v1.msgpack": [
        b"",
        b"\xc1",
        b"\x81\xa5event",
        msgspec.msgpack.encode({"event": "echo"}) + b"\xc0",
        b"\x81\xa5event\xa2\xff\xfe",
        b"\x91" * 3000,
        b"\xdd\xff\xff\xff\xff",
    ],
    "v1.cbor": [
        b"",
        b"\xff",
        b"\xa1\x65event",
        cbor2.dumps({"event": "echo"}) + b"\xf6",
        b"\xa1\x65event\x62\xff\xfe",
        b"\x81" * 3000,
        b"\x9a\xff\xff\xff\xff",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xd8\x1c\x81\xd8\x1d\x00",
    ],
}


@pytest.mark.parametrize(
    ("profile", "data"), [(profile, data) for profile, all in UNDECODABLE.items() for data in all]
)
async def test_what_cannot_be_decoded_is_refused(client: Client, data: str | bytes) -> None:
    await client.raw(data)
    assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


@pytest.mark.parametrize("message", [None, True, 7, "echo", [], [{"event": "echo"}]])
async def test_what_is_not_a_map_is_refused(client: Client, profile: str, message: Any) -> None:
    await client.raw(written(profile, message))
    error = await refusal(client)
    assert error["code"] == "WS_MESSAGE_INVALID"
    assert "map" in error["message"]
    assert await is_served(client)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ({"type": "evnt", "event": "echo"}, "'evnt'"),
        ({"type": "EVENT", "event": "echo"}, "'EVENT'"),
        ({"type": "", "event": "echo"}, "''"),
        ({"type": 1, "event": "echo"}, "type"),
        ({"type": None, "event": "echo"}, "type"),
        ({}, "event"),
        ({"payload": 1}, "event"),
        ({"type": "event"}, "event"),
        ({"event": None}, "event"),
        ({"event": ""}, "event"),
        ({"event": "e" * 129}, "event"),
        ({"event": 5}, "event"),
        ({"event": ["echo"]}, "event"),
        ({"event": "echo", "id": ""}, "id"),
        ({"event": "echo", "id": "i" * 65}, "id"),
        ({"event": "echo", "id": 5}, "id"),
        ({"event": "echo", "ack": True}, "id"),
        ({"event": "echo", "ack": "yes"}, "ack"),
        ({"event": "echo", "ack": 1}, "ack"),
        ({"type": "ack"}, "id"),
        ({"type": "ack", "payload": {"status": "ok"}}, "id"),
        ({"type": "ack", "id": ""}, "id"),
        ({"type": "system"}, "event"),
        ({"type": "control"}, "event"),
        ({"event": "echo", "room": 5}, "room"),
        ({"event": "echo", "meta": []}, "meta"),
    ],
    ids=str,
)
async def test_a_wrong_envelope_is_refused_and_told_why(
    client: Client, profile: str, message: dict[str, Any], hint: str
) -> None:
    await client.raw(written(profile, message))
    error = await refusal(client)
    assert error["code"] == "WS_MESSAGE_INVALID"
    assert error["retryable"] is True
    assert hint in error["message"]
    assert await is_served(client)


async def test_the_longest_event_and_id_are_taken(client: Client) -> None:
    await client.send("n" * 128, id="i" * 64, ack=True)
    assert await client.receive() == {
        "type": "ack",
        "id": "i" * 64,
        "payload": {"status": "ok", "data": "here"},
    }


async def test_unknown_keys_and_those_of_the_server_are_ignored(client: Client, profile: str) -> None:
    message = {"event": "echo", "id": "1", "ack": True, "room": "r", "meta": {"ts": 1}, "extra": {}}
    await client.raw(written(profile, message))
    assert (await client.receive())["payload"] == {"status": "ok"}


def nested(depth: int) -> Any:
    """Lists within each other; in an envelope, each is one deeper."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


async def test_a_message_nests_64_deep_and_no_deeper(client: Client) -> None:
    assert await client.request("echo", nested(61)) == {"status": "ok", "data": nested(61)}
    await client.send("echo", nested(63), id="deep")
    await client.send("echo", nested(64), id="deeper", ack=True)
    error = await refusal(client)
    assert (error["code"], error["id"]) == ("WS_MESSAGE_INVALID", "deeper")
    assert "64" in error["message"]
    assert await is_served(client)


async def test_depth_counts_in_keys_that_are_ignored_too(client: Client, profile: str) -> None:
    await client.raw(written(profile, {"event": "echo", "other": nested(64)}))
    assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


async def test_an_id_that_can_be_read_from_a_broken_envelope_is_answered_with_an_ack(
    client: Client, profile: str
) -> None:
    await client.raw(written(profile, {"type": "evnt", "event": "echo", "id": "c1"}))
    frame = await client.receive()
    assert (frame["type"], frame["id"]) == ("ack", "c1")
    assert frame["payload"]["error"]["code"] == "WS_MESSAGE_INVALID"
    assert "event" not in frame["payload"]["error"]


async def test_an_event_that_can_be_read_from_a_broken_envelope_is_named(
    client: Client, profile: str
) -> None:
    await client.raw(written(profile, {"event": "echo", "id": 5}))
    assert (await refusal(client))["event"] == "echo"
    await client.raw(written(profile, {"event": "e" * 129, "id": "i" * 65}))
    assert "event" not in await refusal(client)


async def test_an_error_is_an_ack_even_where_none_was_asked(client: Client) -> None:
    await client.send("nothing of the kind", id="c1")
    error = await refusal(client)
    assert (error["code"], error["id"]) == ("WS_UNSUPPORTED_EVENT", "c1")
    await client.send("nothing of the kind")
    error = await refusal(client)
    assert (error["code"], error["event"]) == ("WS_UNSUPPORTED_EVENT", "nothing of the kind")


async def test_the_reserved_event_cannot_be_sent(client: Client) -> None:
    await client.send("error", {"code": "WS_MESSAGE_INVALID"})
    assert (await refusal(client))["code"] == "WS_UNSUPPORTED_EVENT"


async def test_a_payload_is_never_quoted_in_a_refusal(client: Client) -> None:
    answer = await client.request("note", {"text": ["my password"]})
    assert answer["error"]["code"] == "WS_MESSAGE_INVALID"
    assert answer["error"]["details"][0]["path"] == "$.text"
    assert "password" not in str(answer)


async def test_rooms_named_badly_are_refused(client: Client) -> None:
    for name in ("", "r" * 257):
        assert (await client.request("enter", [name]))["error"]["code"] == "WS_MESSAGE_INVALID"
    assert (await client.request("enter", ["r" * 256, "ä\u0000/.."]))["status"] == "ok"


async def test_a_connection_cannot_enter_more_rooms_than_it_may(client: Client) -> None:
    assert (await client.request("enter", [str(n) for n in range(100)]))["status"] == "ok"
    answer = await client.request("enter", ["one more"])
    assert answer["error"]["code"] == "WS_QUOTA_EXCEEDED"
    assert await is_served(client)


# Frames


async def expect_close(client: Client, code: int) -> str:
    closed, reason = await client.closed()
    assert closed == code, (closed, reason)
    return reason


@pytest.mark.parametrize("profile", TEXT)
async def test_a_binary_frame_on_a_text_profile_ends_the_connection(client: Client) -> None:
    await client.raw(b'{"event":"echo"}')
    assert "text" in await expect_close(client, 1003)


@pytest.mark.parametrize("profile", BINARY)
async def test_a_text_frame_on_a_binary_profile_ends_the_connection(client: Client) -> None:
    await client.raw('{"event":"echo"}')
    assert "binary" in await expect_close(client, 1003)


@pytest.mark.parametrize("profile", V1)
async def test_the_kind_of_frame_counts_before_hello_too(base: str, profile: str) -> None:
    async with Client.connect(f"{base}/door/ada", profile, hello=False) as client:
        await client.raw("{}" if profile in BINARY else b"{}")
        await expect_close(client, 1003)


@pytest.mark.parametrize("profile", TEXT)
async def test_text_that_is_not_utf8_ends_the_connection(client: Client, complaints: Complaints) -> None:
    await client.socket.send(b'{"event":"echo","payload":"\xff"}', text=True)
    await expect_close(client, 1007)
    assert not [text for text in complaints.take() if "Invalid UTF-8" not in text]  # uvicorn's own word


@pytest.mark.parametrize("profile", TEXT)
async def test_a_message_may_have_its_limit_and_no_more(client: Client) -> None:
    envelope = '{"event":"echo","id":"1","ack":true,"payload":"%s"}'
    text = envelope % ("x" * (MAX_SIZE - len(envelope) + 2))
    assert len(text) == MAX_SIZE
    await client.raw(text)
    assert (await client.receive())["payload"]["status"] == "ok"
    await client.raw(text.replace("xx", "xxx", 1))
    await expect_close(client, 1009)


async def test_a_large_message_ends_the_connection_in_every_profile(client: Client) -> None:
    await client.send("echo", "x" * MAX_SIZE)
    await expect_close(client, 1009)


@pytest.mark.parametrize("profile", TEXT)
async def test_size_is_counted_over_all_fragments(client: Client) -> None:
    async def fragments() -> AsyncIterator[str]:
        for _ in range(5):
            yield "x" * 1000

    await client.socket.send(fragments())
    await expect_close(client, 1009)


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
        {"type": "control", "event": "hello", "payload": nested(64)},
        {"type": "control", "event": "hello", "id": 5},
        {"type": "controll", "event": "hello"},
        {"event": ""},
        [],
        None,
    ],
    ids=str,
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


# Control and system frames


@pytest.mark.parametrize("profile", V1)
async def test_an_unknown_control_frame_is_refused(client: Client) -> None:
    await client.send("join", {"room": "r"}, type="control")
    error = await refusal(client)
    assert error["code"] == "WS_MESSAGE_INVALID"
    assert "'join'" in error["message"]
    assert await is_served(client)


@pytest.mark.parametrize("profile", V1)
async def test_authenticating_later_is_not_to_be_had(client: Client) -> None:
    await client.send("auth", {"token": "t"}, type="control", id="a")
    error = await refusal(client)
    assert (error["code"], error["id"]) == ("WS_UNSUPPORTED_EVENT", "a")
    assert await is_served(client)


@pytest.mark.parametrize("event", ["hello", "ping", "auth", "echo"])
@pytest.mark.parametrize("profile", ["plain"])
async def test_plain_clients_have_no_control_frames(client: Client, event: str) -> None:
    await client.send(event, type="control")
    assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


@pytest.mark.parametrize("event", ["welcome", "joined", "echo"])
async def test_system_frames_are_the_servers(client: Client, event: str) -> None:
    await client.send(event, type="system")
    assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


async def test_an_ack_for_nothing_is_ignored(client: Client) -> None:
    for payload in (None, 5, {"status": "error"}, {"status": "ok"}, [[]]):
        await client.send(type="ack", id="s1", payload=payload)
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


# Errors in handlers, guards and hooks


async def test_an_error_in_a_guard_is_an_incident(client: Client, complaints: Complaints) -> None:
    answer = await client.request("broken guard")
    assert answer["error"]["code"] == "WS_INTERNAL_ERROR"
    assert "secret" not in str(answer)
    assert len(complaints.take()) == 1
    assert await is_served(client)


async def test_a_guard_refuses_a_message_or_ends_the_connection(client: Client) -> None:
    assert (await client.request("closed guard"))["error"]["code"] == "WS_FORBIDDEN"
    assert await is_served(client)
    await client.send("expired guard")
    assert (await expect_close(client, 4401)) == "WS_AUTH_REQUIRED: sign in again"


async def test_a_fault_that_ends_connections_ends_this_one(client: Client) -> None:
    await client.send("lost", id="1", ack=True)
    assert (await expect_close(client, 4404)).startswith("WS_NAMESPACE_NOT_FOUND")


@pytest.mark.parametrize("event", ["fail", "unspeakable", "misspoken", "cancelled"])
async def test_a_handler_that_fails_anyhow_is_an_incident_and_the_next_message_is_served(
    client: Client, complaints: Complaints, event: str
) -> None:
    await client.send(event)
    await client.send(event, id="x")
    for _ in range(2):
        error = await refusal(client)
        assert error["code"] == "WS_INTERNAL_ERROR"
        incident = error["message"].split()[-1]
        assert any(incident in record.getMessage() for record in complaints.records)
    assert error["id"] == "x"
    assert len(complaints.take()) == 2
    assert await is_served(client)


async def test_an_error_in_on_connect_ends_the_connection(
    base: str, profile: str, complaints: Complaints
) -> None:
    async with Client.connect(f"{base}/greeting/bad", profile) as client:
        reason = await expect_close(client, 1011)
        assert reason.startswith("WS_INTERNAL_ERROR")
        assert "secret" not in reason
    assert len(complaints.take()) == 1


async def test_a_cancelled_on_connect_ends_the_connection(
    base: str, profile: str, complaints: Complaints
) -> None:
    async with Client.connect(f"{base}/greeting/cancelled", profile) as client:
        await expect_close(client, 1011)
    assert len(complaints.take()) == 1


@pytest.mark.parametrize(("mood", "code"), [("sober", 4401), ("own", 1011), ("denied", 4403)])
async def test_a_fault_in_on_connect_ends_the_connection_with_its_code(
    base: str, profile: str, mood: str, code: int
) -> None:
    async with Client.connect(f"{base}/greeting/{mood}", profile) as client:
        await expect_close(client, code)


# Too much of it


async def test_a_flood_of_invalid_messages_is_answered_one_by_one(client: Client, profile: str) -> None:
    junk = written(profile, [])
    for _ in range(500):
        await client.raw(junk)
    for _ in range(500):
        assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


async def test_invalid_messages_count_against_the_rate(base: str, profile: str) -> None:
    async with Client.connect(f"{base}/slow", profile) as client:
        for _ in range(40):
            await client.raw(written(profile, []))
        codes = []
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                codes.append((await refusal(client))["code"])
        assert client.socket.close_code == 4529
        assert json.loads(client.socket.close_reason) == {"after": 10_000}
        assert set(codes) == {"WS_MESSAGE_INVALID", "WS_RATE_LIMIT_EXCEEDED"}
        assert codes.count("WS_RATE_LIMIT_EXCEEDED") == 19


async def test_acks_for_nothing_count_against_the_rate(base: str, profile: str) -> None:
    async with Client.connect(f"{base}/slow", profile) as client:
        for _ in range(40):
            await client.send(type="ack", id="nobody")
        await expect_close(client, 4529)


async def test_what_comes_behind_the_end_is_ignored(client: Client, profile: str) -> None:
    await client.raw(b"x" if profile in TEXT else "x")  # ends the connection
    for _ in range(50):
        try:
            await client.send("fail")
        except websockets.ConnectionClosed:
            break
    await expect_close(client, 1003)


# Whatever it is

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
keys = st.sampled_from(["type", "event", "id", "ack", "payload", "room", "meta"])
types = st.sampled_from(["event", "ack", "system", "control"])
events = st.sampled_from(["echo", "note", "enter", "hello", "ping", "auth", "error", "nothing"])
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "type": types,
        "event": events,
        "id": st.text(min_size=1, max_size=4),
        "ack": st.booleans(),
        "payload": values,
    },
)
mutated = st.builds(
    lambda envelope, wrong: {**envelope, **wrong}, envelopes, st.dictionaries(keys, values, max_size=2)
)

CODES = {"WS_MESSAGE_INVALID", "WS_UNSUPPORTED_EVENT", "WS_QUOTA_EXCEEDED"}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=list(PROFILES))
async def survivor(request: pytest.FixtureRequest, base: str) -> AsyncIterator[Client]:
    """One connection that goes through all examples of a test: none may end it."""
    async with Client.connect(f"{base}/door/mutated", request.param) as client:
        client.profile = request.param
        yield client


async def check_survival(client: Client, data: Any) -> None:
    await client.raw(data)
    await client.send("echo", "marker", id="marker", ack=True)
    while True:
        frame = await client.receive()
        if frame.get("id") == "marker":
            assert frame["payload"] == {"status": "ok", "data": "marker"}
            return
        if frame["type"] == "system":
            assert frame["event"] in ("pong", "joined")
        elif frame["type"] == "event":
            assert frame["event"] == "error"
            assert frame["payload"]["code"] in CODES
        elif frame["payload"]["status"] == "error":
            assert frame["payload"]["error"]["code"] in CODES


@given(data=st.data())
async def test_mutated_envelopes_are_answered_as_documented(survivor: Client, data: st.DataObject) -> None:
    message = data.draw(mutated.filter(lambda envelope: envelope.get("id") != "marker"))
    await check_survival(survivor, written(survivor.profile, message))


@given(data=st.data())
async def test_random_bytes_are_answered_as_documented(survivor: Client, data: st.DataObject) -> None:
    noise = st.text(max_size=64) if survivor.profile in TEXT else st.binary(max_size=64)
    await check_survival(survivor, data.draw(noise))


@given(data=st.data())
async def test_damaged_messages_are_answered_as_documented(survivor: Client, data: st.DataObject) -> None:
    message = written(survivor.profile, data.draw(envelopes))
    at = data.draw(st.integers(0, len(message) - 1))
    if isinstance(message, str):
        damage = data.draw(st.sampled_from(["", "\\", '"', "{", "}", "[", "\x00", "9", "é"]))
        await check_survival(survivor, message[:at] + damage + message[at + 1 :])
    else:
        damage = data.draw(st.binary(max_size=2))
        await check_survival(survivor, message[:at] + damage + message[at + 1 :])
