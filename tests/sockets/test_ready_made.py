"""The guard of origins, and the middleware that measures messages and that logs them."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import cbor2
import msgspec
import pytest
import websockets
from wire import PROFILES, TRANSPORTS, Client, eventually, serving

from aquilia import Fault
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    LoggingMiddleware,
    MessageValidationMiddleware,
    OriginGuard,
    Socket,
    SocketController,
)

WIRES = pytest.mark.parametrize("transport", list(TRANSPORTS))

# OriginGuard


@Socket("/inner", guards=[OriginGuard(["https://*.example.com", "http://localhost:3000"])])
class Inner(SocketController):
    pass


@WIRES
@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_a_page_of_another_origin_is_refused_before_the_upgrade(profile: str, transport: str) -> None:
    app = AquilaSockets.from_controllers([Inner], allowed_origins=["*"])
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        for origin in ("https://evil.example", "https://example.com", "http://a.example.com"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with Client.connect(f"{base}/inner", profile, origin=origin):
                    pass
            assert refused.value.response.status_code == 403
            assert json.loads(refused.value.response.body) == {
                "code": "WS_ORIGIN_NOT_ALLOWED",
                "message": f"origin {origin!r} is not allowed",
            }
        for allowed in ("https://app.example.com", "http://localhost:3000", None):
            async with Client.connect(f"{base}/inner", profile, origin=allowed):
                pass


async def test_the_guard_allows_nothing_that_the_setting_refuses() -> None:
    async with serving(AquilaSockets.from_controllers([Inner])) as base:
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"{base}/inner", origin="https://app.example.com", proxy=None)


async def test_any_origin_is_allowed_by_a_star() -> None:
    @Socket("/any", guards=[OriginGuard({"*"})])
    class Any_(SocketController):
        pass

    async with serving(AquilaSockets.from_controllers([Any_], allowed_origins=["*"])) as base:
        async with Client.connect(f"{base}/any", origin="https://a.example"):
            pass


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("https://a.example", "a list of strings is needed, not 'https://a.example'"),
        (None, "a list of strings is needed, not None"),
        ([""], "each entry is a string, not ''"),
        (["https://a.example", 7], "each entry is a string, not 7"),
        (
            ["example.com"],
            "an origin is a scheme and a host, and nothing behind, like 'https://example.com', not 'example.com'",
        ),
        (["wss://a.example"], "the origin is that of the page, 'https://a.example', not 'wss://a.example'"),
        (
            ["https://a.*.example"],
            "a wildcard stands for subdomains, like 'https://*.example.com', not 'https://a.*.example'",
        ),
    ],
)
def test_an_origin_that_no_page_has_is_refused(entries: Any, told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        OriginGuard(entries)
    assert str(refused.value) == f"OriginGuard: allowed_origins: {told}"


# MessageValidationMiddleware


def measured(**sizes: int) -> AquilaSockets:
    @Socket("/measured")
    class Measured(SocketController):
        @Event("put", middleware=[MessageValidationMiddleware(**sizes)])
        async def put(self, conn: Connection, payload: Any) -> str:
            return "put"

        @Event("free")
        async def free(self, conn: Connection, payload: Any) -> str:
            return "free"

    return AquilaSockets.from_controllers([Measured])


ENCODERS = {"json": json.dumps, "msgpack": msgspec.msgpack.encode, "cbor": cbor2.dumps}


@WIRES
@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("payload", ["x" * 40, {"a": [1, 2.5, None], "b": "ü"}, [], 7])
async def test_a_payload_may_have_just_its_size(profile: str, payload: Any, transport: str) -> None:
    size = len(ENCODERS[profile.removeprefix("v1.").replace("plain", "json")](payload))
    async with (
        serving(measured(max_payload_size=size), ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/measured", profile) as client,
    ):
        assert (await client.request("put", payload))["data"] == "put"
        assert (await client.request("put"))["status"] == "ok"  # none at all
        assert (await client.request("free", "x" * 100))["status"] == "ok"
        await client.send("put", "x" * 60)
        code, reason = await client.closed()
        assert code == 1009
        assert reason.startswith("WS_PAYLOAD_TOO_LARGE: a payload of 6")
        assert reason.endswith(f" bytes is above the limit of {size}")


async def test_white_space_in_a_json_payload_counts() -> None:
    async with (
        serving(measured(max_payload_size=9)) as base,
        Client.connect(f"{base}/measured") as client,
    ):
        await client.raw('{"event": "put", "payload":     {"a" : 1}     , "id": "1", "ack": true}')
        assert (await client.receive())["payload"]["data"] == "put"
        await client.raw('{"event": "put", "payload": {"a" :  1}, "id": "1", "ack": true}')
        assert await client.closed() == (
            1009,
            "WS_PAYLOAD_TOO_LARGE: a payload of 10 bytes is above the limit of 9",
        )


@WIRES
@pytest.mark.parametrize("profile", list(PROFILES))
async def test_a_message_may_have_just_its_size(profile: str, transport: str) -> None:
    _, encode, _ = PROFILES[profile]
    message = {"type": "event", "ack": True, "event": "put", "id": "1", "payload": "x" * 30}
    compact = encode(message, separators=(",", ":")) if encode is json.dumps else encode(message)
    async with (
        serving(measured(max_message_size=len(compact)), ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/measured", profile) as client,
    ):
        await client.raw(encode(message))
        assert (await client.receive())["payload"]["data"] == "put"
        await client.raw(encode(message | {"unknown": "x" * 30}))  # is no part of it
        assert (await client.receive())["payload"]["data"] == "put"
        await client.raw(encode(message | {"id": "22"}))
        size = len(compact)
        assert await client.closed() == (
            1009,
            f"WS_PAYLOAD_TOO_LARGE: a message of {size + 1} bytes is above the limit of {size}",
        )


async def test_what_its_codec_can_read_can_be_measured() -> None:
    odd = (
        b'{"event":"put","id":"1","ack":true,"meta":{"a":1'
        + b"0" * 400
        + b'},"payload":1'
        + b"0" * 400
        + b"}"
    )
    async with (
        serving(measured(max_message_size=5000, max_payload_size=500)) as base,
        Client.connect(f"{base}/measured") as client,
    ):
        await client.raw(odd.decode())
        assert (await client.receive())["payload"]["data"] == "put"


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({}, "one of max_message_size and max_payload_size is needed"),
        ({"max_message_size": 0}, "max_message_size: a whole number of at least 1 is needed, not 0"),
        ({"max_payload_size": 1.5}, "max_payload_size: a whole number of at least 1 is needed, not 1.5"),
        ({"max_payload_size": True}, "max_payload_size: a whole number of at least 1 is needed, not True"),
    ],
)
def test_sizes_that_say_nothing_are_refused(sizes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        MessageValidationMiddleware(**sizes)
    assert str(refused.value) == f"MessageValidationMiddleware: {told}"


# LoggingMiddleware


def logged(**given: Any) -> AquilaSockets:
    @Socket("/logged/:name", middleware=[LoggingMiddleware(**given)])
    class Logged(SocketController):
        @Event("ok")
        async def ok(self, conn: Connection, payload: Any) -> str:
            if isinstance(payload, dict):
                payload.clear()
            return conn.id

        @Event("fault")
        async def fault(self, conn: Connection) -> None:
            raise Fault("SHOP_CLOSED", "come back tomorrow")

        @Event("broken")
        async def broken(self, conn: Connection) -> None:
            raise ZeroDivisionError

        @Event("ask")
        async def ask(self, conn: Connection) -> None:
            await conn.request("really")

        @Event("wait")
        async def wait(self, conn: Connection) -> None:
            await conn.send_event("waiting")
            await asyncio.Event().wait()

    return AquilaSockets.from_controllers([Logged])


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "aquilia.sockets.messages")
    return caplog


def told(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.name == "aquilia.sockets.messages"]


@WIRES
@pytest.mark.parametrize("profile", list(PROFILES))
async def test_an_event_is_logged_when_it_is_done(
    profile: str, transport: str, log: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(logged(), ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/logged/a%20b", profile) as client,
    ):
        id = (await client.request("ok", {"secret": "hush hush"}))["data"]
        (record,) = told(log)
        fields = vars(record)
        assert [fields[key] for key in ("connection", "namespace", "event", "outcome")] == [
            *(id, "/logged/a b", "ok", "ok")
        ]
        assert 0 <= fields["milliseconds"] < 10_000
        assert fields["milliseconds"] == round(fields["milliseconds"], 3)
        assert record.levelno == logging.INFO
        assert record.getMessage().startswith(f"{id} '/logged/a b' ok: ok in ")
        assert record.getMessage().endswith(" ms")
        assert "payload" not in fields
        assert "hush" not in str(fields) + record.getMessage()


@WIRES
@pytest.mark.parametrize("profile", list(PROFILES))
async def test_payloads_are_logged_as_they_came_if_that_is_asked_for(
    profile: str, transport: str, log: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(logged(log_payloads=True), ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/logged/a", profile) as client,
    ):
        await client.request("ok", {"text": "hi"})
        await client.request("ok")
        first, second = told(log)
        assert vars(first)["payload"] == {"text": "hi"}
        assert first.getMessage().endswith(" ms, payload {'text': 'hi'}")
        assert vars(second)["payload"] is None


async def test_a_payload_that_cannot_be_read_is_logged_as_bytes(log: pytest.LogCaptureFixture) -> None:
    async with (
        serving(logged(log_payloads=True)) as base,
        Client.connect(f"{base}/logged/a") as client,
    ):
        await client.raw('{"event": "ok", "payload": 1e999}')
        assert (await client.expect("error"))["payload"]["code"] == "WS_MESSAGE_INVALID"
        (record,) = told(log)
        assert (vars(record)["outcome"], vars(record)["payload"]) == ("WS_MESSAGE_INVALID", b"1e999")


@WIRES
@pytest.mark.parametrize(
    ("event", "code", "outcome"),
    [
        ("fault", "SHOP_CLOSED", "SHOP_CLOSED"),
        ("broken", "WS_INTERNAL_ERROR", "ZeroDivisionError"),
    ],
)
async def test_a_failure_is_logged_by_its_code(
    event: str, code: str, outcome: str, transport: str, log: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(logged(), ws=TRANSPORTS[transport]) as base,
        Client.connect(f"{base}/logged/a") as client,
    ):
        assert (await client.request(event))["error"]["code"] == code
        assert [vars(record)["outcome"] for record in told(log)] == [outcome]


async def test_a_clients_own_error_code_is_not_put_into_the_log(log: pytest.LogCaptureFixture) -> None:
    async with serving(logged()) as base, Client.connect(f"{base}/logged/a") as client:
        await client.send("ask")
        asked = await client.expect("really")
        error = {"code": "all fine\n2026 forged line", "message": "no"}
        await client.send(type="ack", id=asked["id"], payload={"status": "error", "error": error})
        await client.expect("error")
        assert [vars(record)["outcome"] for record in told(log)] == ["WS_CLIENT_ERROR"]


@WIRES
async def test_a_handler_whose_client_left_is_logged_as_cancelled(
    transport: str, log: pytest.LogCaptureFixture
) -> None:
    async with serving(logged(), ws=TRANSPORTS[transport]) as base:
        async with Client.connect(f"{base}/logged/a") as client:
            await client.request("ok")
            await client.send("wait")
            await client.expect("waiting")
        await eventually(lambda: len(told(log)) == 2)
        assert vars(told(log)[1])["outcome"] == "cancelled"


async def test_nothing_is_written_where_the_logger_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "aquilia.sockets.messages")
    async with serving(logged()) as base, Client.connect(f"{base}/logged/a") as client:
        assert (await client.request("ok"))["status"] == "ok"
    assert not told(caplog)


def test_whether_payloads_are_logged_is_said_plainly() -> None:
    with pytest.raises(ValueError, match="log_payloads: True or False is needed, not 'no'"):
        LoggingMiddleware(log_payloads="no")  # type: ignore[arg-type]
