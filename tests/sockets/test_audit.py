"""What touches security is noted: each happening with whose it was, floods summed up, and nothing secret."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from aquilia import Fault, Identity
from aquilia.auth import token_invalid
from aquilia.sockets import (
    Connection,
    Event,
    MessageEnvelope,
    OnConnect,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.audit.records import safe
from aquilia.testing import HandshakeRefused, SocketsTest, sockets_test

pytestmark = pytest.mark.usefixtures("heard")
BOB = Identity("bob")


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aquilia.audit")


def noted(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [
        vars(record)
        for record in caplog.records
        if record.name == "aquilia.audit" and "event" in vars(record)
    ]


class Tokens:
    async def authenticate(self, token: str) -> Identity:
        if token.startswith("of-"):
            return Identity(token.removeprefix("of-"))
        raise token_invalid(f"nobody has the token {token}")


class No(SocketGuard):
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return False


class NotHere(SocketGuard):
    def check_handshake(self, handshake: Any) -> bool:
        return handshake.query_params.get("as") != "thief"


@Socket("/hall/:name", guards=[NotHere()])
class Hall(SocketController):
    @Event("guarded", guards=[No()])
    async def guarded(self, conn: Connection) -> None: ...

    @Event("own")
    async def own(self, conn: Connection) -> None:
        raise Fault("NOT_YOURS", "this is somebody else's", status=403)

    @Event("wrong")
    async def wrong(self, conn: Connection, payload: int) -> int:
        return payload

    @Event("who")
    async def who(self, conn: Connection) -> str:
        return conn.id

    @Event("kick")
    async def show_out(self, conn: Connection, payload: str) -> bool:
        return await self.kick(payload)


async def refused(t: SocketsTest, path: str, **how: Any) -> None:
    with pytest.raises(HandshakeRefused):
        await t.connect(path, **how)


async def test_a_refused_handshake_is_noted_with_its_code_path_and_origin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sockets_test(Hall) as t:
        await refused(t, "/hall/a?token=secret", headers={"origin": "https://evil.example"})
        await refused(t, "/nowhere")
    first, second = noted(caplog)

    assert (first["event"], first["outcome"], first["code"]) == (
        "handshake.refused",
        "refused",
        "WS_ORIGIN_NOT_ALLOWED",
    )
    assert (first["pattern"], first["namespace"]) == ("/hall/:name", "/hall/a")
    assert first["origin"] == "https://evil.example"
    assert (second["pattern"], second["namespace"], second["code"]) == (
        "none",
        "/nowhere",
        "WS_NAMESPACE_NOT_FOUND",
    )


async def test_a_failed_authentication_is_noted_at_the_handshake_in_hello_and_in_auth_without_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sockets_test(Hall, auth=Tokens(), require_auth=True) as t:
        await refused(t, "/hall/a", headers={"authorization": "Bearer secret-1"})
        await refused(t, "/hall/b")
        with pytest.raises((HandshakeRefused, AssertionError)):
            await t.connect("/hall/c", subprotocol="aquilia.v1.json", token="secret-2")
        client = await t.connect("/hall/d", subprotocol="aquilia.v1.json", token="of-ann")
        client._send(MessageEnvelope(type="control", event="auth", id="1", payload={"token": "secret-3"}))
        with pytest.raises(AssertionError):
            await client.request("wrong", 1)
    records = noted(caplog)

    assert {record["event"] for record in records} == {"authentication.failed"}
    assert {record["code"] for record in records} == {"WS_AUTH_REQUIRED"}
    assert [record.get("reason") for record in records[:2]] == ["a token was offered", "no token was offered"]
    assert [record["namespace"] for record in records] == ["/hall/a", "/hall/b", "/hall/c", "/hall/d"]
    last = records[-1]
    assert (last["identity"], last["outcome"], last["of"]) == ("ann", "closed", "auth")
    assert "secret" not in caplog.text


async def test_a_guard_that_refuses_is_noted_at_the_handshake_and_at_an_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sockets_test(Hall) as t:
        await refused(t, "/hall/a?as=thief")
        client = await t.connect("/hall/a", identity=BOB)
        for event in ("guarded", "own"):
            client._send(MessageEnvelope(event=event))
            await client.expect("error")
    at_door, at_event, own = noted(caplog)

    assert (at_door["event"], at_door["code"]) == ("access.denied", "WS_FORBIDDEN")
    assert (at_event["event"], at_event["of"], at_event["identity"]) == ("access.denied", "guarded", "bob")
    assert at_event["connection"]
    assert (own["event"], own["code"], own["of"]) == ("access.denied", "NOT_YOURS", "own")


async def test_a_kick_is_noted_with_whose_connection_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async with sockets_test(Hall) as t:
        ann = await t.connect("/hall/a")
        bob = await t.connect("/hall/a", identity=BOB)
        await ann.request("kick", (id := await bob.request("who")))
    (kicked,) = noted(caplog)

    assert (kicked["event"], kicked["outcome"], kicked["code"]) == (
        "connection.kicked",
        "closed",
        "WS_KICKED",
    )
    assert (kicked["connection"], kicked["identity"]) == (id, "bob")


async def test_limits_are_noted_and_what_is_alike_in_a_second_is_one_record_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sockets_test(Hall, message_rate_limit=1, max_connections=1) as t:
        client = await t.connect("/hall/a")
        await t.clock.advance(0)
        for _ in range(2):
            await client.request("wrong", 1)
        for _ in range(9):
            with pytest.raises(Exception, match="WS_RATE_LIMIT_EXCEEDED"):
                await client.request("wrong", 1)
        await refused(t, "/hall/b")
        first, full = noted(caplog)
        await t.clock.advance(1)
        summed = noted(caplog)[2]

    assert (first["event"], first["code"], first["count"]) == ("limit.hit", "WS_RATE_LIMIT_EXCEEDED", 1)
    assert (full["event"], full["code"], full["namespace"]) == ("limit.hit", "WS_OVERLOADED", "/hall/b")
    assert (summed["event"], summed["count"]) == ("limit.hit", 8)
    assert "of" not in summed


async def test_what_is_no_matter_of_security_is_not_noted(caplog: pytest.LogCaptureFixture) -> None:
    async with sockets_test(Hall) as t:
        client = await t.connect("/hall/a")
        with pytest.raises(Exception, match="WS_MESSAGE_INVALID"):
            await client.request("wrong", "secret")
        with pytest.raises(Exception, match="WS_UNSUPPORTED_EVENT"):
            await client.request("secret")
        assert await client.request("wrong", 1) == 1
    assert noted(caplog) == []


async def test_a_flood_from_many_places_makes_few_records(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    async with sockets_test(Hall, audit=file) as t:
        await t.clock.advance(0)
        audit = t.application.sockets.audit
        for n in range(5000):
            scope = {
                "type": "websocket",
                "path": "/x",
                "headers": [],
                "client": (f"10.0.{n // 250}.{n % 250}", 1),
            }
            audit.note("handshake.refused", scope, outcome="refused", code="WS_FORBIDDEN")
        await t.clock.advance(1)
    records = [json.loads(line) for line in file.read_text().splitlines()]

    refusals = [record for record in records if record["event"] == "handshake.refused"]
    assert len(refusals) == 201
    assert sum(record.get("count", 1) for record in refusals) == 5000
    assert refusals[-1]["reason"] == "several clients"
    assert "address" not in refusals[-1]


async def test_an_act_of_the_application_is_noted_each_time_by_one_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with sockets_test(Hall) as t:
        audit = t.application.sockets.audit
        for _ in range(2):
            audit.note("credentials.revoked", outcome="done", identity=BOB, reason="lost his key")
    assert [(r["event"], r["identity"], r["reason"]) for r in noted(caplog)] == [
        ("credentials.revoked", "bob", "lost his key")
    ] * 2


async def test_what_a_client_chose_is_short_and_stays_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    async with sockets_test(Hall) as t:
        audit = t.application.sockets.audit
        scope = {
            "type": "websocket",
            "path": "/x\n2026-01-01 WARNING forged\u202e\ud800" + "y" * 5000,
            "headers": [(b"origin", b"https://\x1b[2J")],
            "client": ("10.0.0.1", 1),
        }
        audit.note("handshake.refused", scope, outcome="refused", code="WS_FORBIDDEN")
    (record,) = noted(caplog)

    assert len(record["namespace"]) == 200
    assert record["namespace"].isprintable()
    assert record["origin"].isprintable()
    assert "\n" not in caplog.messages[0]
    assert safe(None) == ""
    assert safe(12) == "12"


async def test_a_fault_in_on_connect_is_noted_where_it_denies(caplog: pytest.LogCaptureFixture) -> None:
    @Socket("/shut")
    class Shut(SocketController):
        @OnConnect()
        async def greet(self, conn: Connection) -> None:
            raise Fault("SHUT", "nobody may", status=403)

    async with sockets_test(Shut) as t:
        client = await t.connect("/shut")
        await client.closed()
    (record,) = noted(caplog)
    assert (record["event"], record["outcome"], record["code"]) == ("access.denied", "closed", "SHUT")
