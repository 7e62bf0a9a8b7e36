"""What a client must not send, and what it gets for it: in every profile, over both transports.

Two things hold throughout. The connection goes on unless the wire protocol says that it ends; and no mistake of a
client's is logged as if it were the server's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import cbor2
import msgspec
import pytest
import pytest_asyncio
import websockets
from door import (
    BINARY,
    MAX_SIZE,
    TEXT,
    V1,
    Complaints,
    expect_close,
    house,
    is_served,
    nested,
    refusal,
    written,
)
from wire import PROFILES, TRANSPORTS, Client, serving

from aquilia.sockets import AquilaSockets

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("complaints")]


@pytest.fixture(scope="module")
def app() -> AquilaSockets:
    return house()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(TRANSPORTS))
async def base(request: pytest.FixtureRequest, app: AquilaSockets) -> AsyncIterator[str]:
    async with serving(app, ws=TRANSPORTS[request.param], log_config=None) as base:
        yield base


@pytest.fixture(params=list(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(loop_scope="module")
async def client(base: str, profile: str) -> AsyncIterator[Client]:
    async with Client.connect(f"{base}/door/ada", profile) as client:
        yield client


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


async def test_what_cannot_be_decoded_is_refused(client: Client, profile: str) -> None:
    for data in UNDECODABLE[profile]:
        await client.raw(data)
        assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID", data
        assert await is_served(client)


async def test_what_is_not_a_map_is_refused(client: Client, profile: str) -> None:
    for message in (None, True, 7, "echo", [], [{"event": "echo"}]):
        await client.raw(written(profile, message))
        error = await refusal(client)
        assert error["code"] == "WS_MESSAGE_INVALID"
        assert "map" in error["message"], message
    assert await is_served(client)


WRONG_ENVELOPES = [
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
]


async def test_a_wrong_envelope_is_refused_and_told_why(client: Client, profile: str) -> None:
    for message, hint in WRONG_ENVELOPES:
        await client.raw(written(profile, message))
        error = await refusal(client)
        assert error["code"] == "WS_MESSAGE_INVALID", message
        assert error["retryable"] is True
        assert hint in error["message"], message
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


async def test_a_message_nests_64_deep_and_no_deeper(client: Client) -> None:
    assert await client.request("echo", nested(61)) == {"status": "ok", "data": nested(61)}
    await client.send("echo", nested(63))
    await client.send("echo", nested(64), id="deeper", ack=True)
    error = await refusal(client)
    assert error["code"] == "WS_MESSAGE_INVALID"
    assert error.get("id", "deeper") == "deeper"  # CBOR cannot read the id of what nests too deep
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


@pytest.mark.parametrize("profile", ["plain"])
async def test_plain_clients_have_no_control_frames(client: Client) -> None:
    for event in ("hello", "ping", "auth", "echo"):
        await client.send(event, type="control")
        assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


async def test_system_frames_are_the_servers(client: Client) -> None:
    for event in ("welcome", "joined", "echo"):
        await client.send(event, type="system")
        assert (await refusal(client))["code"] == "WS_MESSAGE_INVALID"
    assert await is_served(client)


async def test_an_ack_for_nothing_is_ignored(client: Client) -> None:
    for payload in (None, 5, {"status": "error"}, {"status": "ok"}, [[]]):
        await client.send(type="ack", id="s1", payload=payload)
    assert await is_served(client)


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


async def test_a_handler_that_fails_anyhow_is_an_incident_and_the_next_message_is_served(
    client: Client, complaints: Complaints
) -> None:
    for event in ("fail", "unspeakable", "misspoken", "cancelled"):
        for id in ("x", "y"):
            await client.send(event, id=id, ack=True)
        for id in ("x", "y"):
            error = await refusal(client)
            assert (error["code"], error["id"]) == ("WS_INTERNAL_ERROR", id)
            incident = error["message"].split()[-1]
            assert any(incident in record.getMessage() for record in complaints.records)
        assert len(complaints.take()) == 2
        assert await is_served(client)


async def test_a_clients_own_error_codes_are_not_counted_by_name(client: Client, app: AquilaSockets) -> None:
    for code in ("MINE_1", "MINE_2"):
        await client.send("ask", id=code, ack=True)
        question = await client.expect("question")
        answer = {"status": "error", "error": {"code": code, "message": "m", "retryable": 1}}
        await client.send(type="ack", id=question["id"], payload=answer)
        assert (await refusal(client))["code"] == code
    counted = [labels for labels in app.recorder.counts if labels[0] == "fault"]
    assert ("fault", "/door/:name", "WS_CLIENT_ERROR") in counted
    assert not [labels for labels in counted if labels[2].startswith("MINE")]


async def test_a_senseless_error_of_a_client_is_an_error_still(client: Client) -> None:
    for error in (None, [1], {"code": [], "message": 5}, {"code": "c" * 1000, "message": "m" * 1000}):
        await client.send("ask", id="1", ack=True)
        question = await client.expect("question")
        await client.send(type="ack", id=question["id"], payload={"status": "error", "error": error})
        told = await refusal(client)
        assert told["retryable"] is False
        assert len(told["code"]) <= 64
        assert len(told["message"]) <= 500
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


async def test_a_fault_in_on_connect_ends_the_connection_with_its_code(base: str, profile: str) -> None:
    for mood, code in (("sober", 4401), ("own", 1011), ("denied", 4403), ("unknown", 4401)):
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
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(40):
                await client.raw(written(profile, []))
        codes = [(await refusal(client))["code"] for _ in range(20)]
        assert codes == ["WS_MESSAGE_INVALID", *["WS_RATE_LIMIT_EXCEEDED"] * 19]
        assert json.loads(await expect_close(client, 4529)) == {"after": 10_000}


async def test_acks_for_nothing_count_against_the_rate(base: str, profile: str) -> None:
    async with Client.connect(f"{base}/slow", profile) as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(40):
                await client.send(type="ack", id="nobody")
        await expect_close(client, 4529)


async def test_what_comes_behind_the_end_is_ignored(client: Client, profile: str) -> None:
    await client.raw(b"x" if profile in TEXT else "x")  # ends the connection
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(50):
            await client.send("fail")
    await expect_close(client, 1003)
