"""Every setting does what it says, wherever it may be said; a key without a row here fails the last tests.

A row has two values of a setting, and looks whether the first of them shows: in the manifest, on `@Socket`, and
where both say something.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from rawsocket import CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, frame
from showing import (
    WHILE,
    Hall,
    Verdict,
    counting,
    few_bytes,
    few_bytes_of_ada,
    forgetful,
    hall,
    impatient_with_slow_readers,
    impatient_with_the_silent,
    no_localhost,
    no_message,
    no_page_of_b,
    no_soap,
    nobody_anonymous,
    nothing_to_come_back_to,
    of_a_proxy,
    one_connection,
    one_member,
    one_message,
    one_message_of_ada,
    one_namespace,
    one_of_ada,
    one_room,
    passing,
    refusing,
    remembered,
    small_messages,
    taking_access_back,
    ten_handshakes,
    timed_out,
)
from wire import TRANSPORTS, serving
from wire import Client as RealClient

from aquilia.aquilary import BootError
from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AquilaSockets,
    Compression,
    History,
    Socket,
)
from aquilia.sockets.outbox.queue import Backpressure
from aquilia.sockets.presence.values import Presence
from aquilia.sockets.settings import SettingsError, node_settings
from aquilia.sockets.transports.native import NativeProtocol
from aquilia.testing import HandshakeRefused, SocketsTest, live_server, sockets_test


@dataclass(frozen=True)
class Row:
    key: str
    where: Literal["manifest", "@Socket", "both"]
    bounding: Any
    generous: Any
    bounded: Callable[[SocketsTest], Awaitable[bool]]
    bounded_by_default: bool = False
    adds_up: bool = False
    """Where both say something, both hold; else that of @Socket goes first."""


ROWS = [
    Row("max_connections", "both", 1, 2, one_connection, adds_up=True),
    Row("max_connections_per_namespace", "both", 1, 2, one_connection),
    Row("max_connections_per_address", "manifest", 1, 2, one_connection),
    Row("max_connections_per_identity", "manifest", 1, 2, one_of_ada),
    Row("handshake_rate", "manifest", 1, 2, ten_handshakes),
    Row("max_namespaces", "manifest", 1, 2, one_namespace),
    Row("outbox_bytes", "manifest", 100, 10_000, impatient_with_slow_readers),
    Row("message_rate_limit", "both", 0.01, 100, one_message),
    Row("byte_rate_limit", "both", 50, 5000, few_bytes),
    Row("identity_rate_limit", "manifest", 0.01, 100, one_message_of_ada),
    Row("identity_byte_rate_limit", "manifest", 50, 5000, few_bytes_of_ada),
    Row("idle_timeout", "both", 10, 30, impatient_with_the_silent),
    Row("max_message_size", "both", 100, 1000, small_messages),
    Row("backpressure", "both", {"buffer_size": 2}, {"buffer_size": 3}, impatient_with_slow_readers),
    Row("allowed_origins", "both", ["https://a.example"], ["https://b.example"], no_page_of_b, True),
    Row("require_auth", "both", True, False, nobody_anonymous),
    Row("allowed_hosts", "manifest", ["a.example"], ["localhost"], no_localhost),
    Row("trusted_proxies", "manifest", ["127.0.0.0/8"], ["127.0.0.2", "::1", "unix"], of_a_proxy),
    Row("idempotence_ttl", "manifest", 120, 400, forgetful),
    Row("revocation", "manifest", True, False, taking_access_back),
    Row("handler_timeout", "manifest", 0.05, 30, timed_out),
    Row("guards", "both", [Verdict(False)], [Verdict(True)], no_message, adds_up=True),
    Row("message_middleware", "manifest", [refusing], [passing], no_message),
    Row("middleware", "@Socket", [refusing], [passing], no_message),
    Row("subprotocols", "@Socket", ["rest"], ["soap"], no_soap, True),
    Row("history", "@Socket", History(size=1), History(size=2), remembered),
    Row("presence", "@Socket", Presence(large=1), Presence(large=2), counting),
    Row("max_rooms", "@Socket", 1, 2, one_room),
    Row("room_size", "@Socket", 1, 2, one_member),
    Row("resume", "@Socket", False, True, nothing_to_come_back_to),
]
ELSEWHERE = {
    ("heartbeat", "manifest"),
    ("ping_timeout", "manifest"),
    ("handshake_timeout", "manifest"),
    ("metrics", "manifest"),
    ("health", "manifest"),
    ("compression", "manifest"),
    ("compression", "@Socket"),
    ("audit", "manifest"),
    ("max_fragments", "manifest"),
    ("max_fragments", "@Socket"),
    ("tickets", "manifest"),
    ("admin", "manifest"),
    ("admin_role", "manifest"),
    ("query_token", "manifest"),
    ("inbox_bytes", "manifest"),
    ("publish_timeout", "manifest"),
    ("adapter", "manifest"),
    ("adapter_url", "manifest"),
    ("redis_url", "manifest"),
    ("store_url", "manifest"),
    ("spool_dir", "manifest"),
    ("spool_bytes", "manifest"),
    ("spool_total_bytes", "manifest"),
}
"""Shown by tests of their own, below, and in test_adapter_choice.py, test_store_apart.py, test_admin_http.py,
test_admin_role.py, test_audit.py,
test_broker_lost.py, test_drain.py, test_intake.py, test_metrics_serving.py, test_spool.py and test_tickets.py."""


def said(where: str) -> list[Any]:
    rows = [row for row in ROWS if row.where in (where, "both")]
    return [pytest.param(row, where, id=f"{row.key} {where}") for row in rows]


@contextlib.asynccontextmanager
async def opened(manifest: Any, on_socket: Any) -> AsyncIterator[SocketsTest]:
    async with sockets_test(hall(**on_socket), **manifest) as t:
        yield t


@pytest.mark.parametrize(("row", "where"), said("manifest") + said("@Socket"))
async def test_a_setting_has_effect_where_it_is_said(row: Row, where: str) -> None:
    for value in (row.bounding, row.generous):
        both: dict[str, Any] = {"manifest": {}, "@Socket": {}, where: {row.key: value}}
        async with opened(both["manifest"], both["@Socket"]) as t:
            assert await row.bounded(t) is (value is row.bounding)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
async def test_without_a_setting_its_default_holds(row: Row) -> None:
    async with opened({}, {}) as t:
        assert await row.bounded(t) is row.bounded_by_default


@pytest.mark.parametrize("row", [row for row in ROWS if row.where == "both"], ids=lambda row: row.key)
async def test_a_controllers_own_setting_goes_first_or_both_hold(row: Row) -> None:
    for manifest, on_socket in ((row.bounding, row.generous), (row.generous, row.bounding)):
        async with opened({row.key: manifest}, {row.key: on_socket}) as t:
            assert await row.bounded(t) is (row.adds_up or on_socket is row.bounding)


async def test_a_controllers_bound_of_connections_is_for_all_its_namespaces_and_no_other_controller() -> None:
    one, other = hall("/one/:name", max_connections=2), hall("/other")
    async with sockets_test(one, other, max_connections=4) as t:
        await t.connect("/one/a")
        leaving = await t.connect("/one/b")
        with pytest.raises(HandshakeRefused, match="WS_OVERLOADED"):
            await t.connect("/one/c")
        await t.connect("/other")
        await t.connect("/other")
        with pytest.raises(HandshakeRefused, match="WS_OVERLOADED"):
            await t.connect("/other")
        await leaving.disconnect()
        await t.connect("/one/c")


async def test_one_manifests_settings_of_controllers_are_not_anothers() -> None:
    for key in ("message_rate_limit", "max_message_size", "backpressure", "allowed_origins", "guards"):
        row = next(row for row in ROWS if row.key == key)
        strict = AppManifest("strict", controllers=[hall("/strict")], websockets={key: row.bounding})
        async with sockets_test(strict, AppManifest("free", controllers=[hall()])) as t:
            assert await row.bounded(t) is row.bounded_by_default


# The parts of backpressure

PARTS: dict[str, tuple[Any, Any]] = {
    "strategy": (
        {"strategy": "disconnect", "buffer_size": 1},
        {"strategy": "drop_oldest", "buffer_size": 1},
    ),
    "buffer_size": ({"buffer_size": 2}, {"buffer_size": 3}),
    "buffer_bytes": ({"buffer_bytes": 100}, {"buffer_bytes": 1000}),
}


@pytest.mark.parametrize("part", PARTS)
async def test_each_part_of_backpressure_has_effect(part: str) -> None:
    impatient, patient = PARTS[part]
    for value in (impatient, patient):
        async with sockets_test(hall(), backpressure=value) as t:
            assert await impatient_with_slow_readers(t) is (value is impatient)


async def test_backpressure_is_said_as_a_whole() -> None:
    lossy = {"strategy": "drop_newest", "buffer_size": 1}
    async with opened({"backpressure": lossy}, {"backpressure": {"buffer_size": 2}}) as t:
        assert await impatient_with_slow_readers(t), "the strategy is the default's, not that of the manifest"


# What only a wire shows


async def test_the_heartbeat_is_that_of_the_manifest() -> None:
    app = AquilaSockets.from_controllers([hall()], heartbeat=0.2)
    with live_server(app) as url:
        async with RawSocket.open(f"{url.replace('http', 'ws')}/hall/a") as raw:
            assert [(await raw.read()).opcode for _ in range(2)] == [PING, PING]
            closing = await raw.read()
            assert (closing.opcode, closing.close_code) == (CLOSE, 4508)
        async with RealClient.connect(f"{url.replace('http', 'ws')}/hall/a", "v1.json") as client:
            assert client.welcome["payload"]["heartbeat"] == 0.2


@pytest.mark.parametrize(("seconds", "pings"), [(0.2, 1), (0.3, 2), (0.5, 3), (0.8, 4)])
async def test_so_long_behind_a_ping_that_nothing_follows_a_client_is_closed(
    seconds: float, pings: int
) -> None:
    app = AquilaSockets.from_controllers([hall()], heartbeat=0.2, ping_timeout=seconds)
    with live_server(app) as url:
        async with RawSocket.open(f"{url.replace('http', 'ws')}/hall/a") as raw:
            for _ in range(2):
                assert (await raw.read()).opcode == PING
                raw.send(frame(PONG, b""))
            began = asyncio.get_running_loop().time()
            assert [(await raw.read()).opcode for _ in range(pings)] == [PING] * pings
            assert await raw.closed() == 4508
            assert asyncio.get_running_loop().time() - began > seconds


def test_a_time_for_pings_below_the_heartbeat_is_refused_at_boot() -> None:
    with pytest.raises(BootError, match="ping_timeout: at least the heartbeat is needed, 25 seconds, not 20"):
        AquilaSockets.from_controllers([hall()], ping_timeout=20)
    AquilaSockets.from_controllers([hall()], ping_timeout=20, heartbeat=20)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_time_for_a_hello_is_that_of_the_manifest(transport: str) -> None:
    for seconds in (0.05, 30):
        app = AquilaSockets.from_controllers([hall()], handshake_timeout=seconds)
        async with (
            serving(app, ws=TRANSPORTS[transport]) as base,
            RealClient.connect(f"{base}/hall/a", "v1.json", hello=False) as client,
        ):
            if seconds < WHILE:
                assert (await client.closed())[0] == 4508
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.receive(), WHILE)
                await client.send(type="control", event="hello")
                await client.expect("welcome")


@pytest.mark.parametrize(
    ("manifest", "on_socket", "compresses"),
    [
        (None, None, False),
        (True, None, True),
        (None, True, True),
        (True, False, False),
        (False, Compression(mode="context"), True),
        (Compression(level=1), True, True),
    ],
)
async def test_messages_are_compressed_where_it_is_said(
    manifest: Any, on_socket: Any, compresses: bool
) -> None:
    own = {} if on_socket is None else {"compression": on_socket}
    node = {} if manifest is None else {"compression": manifest}
    app = AquilaSockets.from_controllers([hall(**own)], **node)
    async with serving(app, ws=NativeProtocol) as base, RealClient.connect(f"{base}/hall/a") as client:
        assert bool(client.socket.protocol.extensions) is compresses
        assert (await client.request("echo", "x" * 1000))["data"] == "x" * 1000


@pytest.mark.parametrize("where", ["manifest", "@Socket"])
async def test_a_message_has_so_many_frames_at_most(where: str) -> None:
    said = {"max_fragments": 3}
    path = Socket("/hall", **(said if where == "@Socket" else {}))(type("AnyHall", (Hall,), {}))
    app = AquilaSockets.from_controllers([path], **({} if where == "@Socket" else said))
    parts = [b'{"event":', b'"echo","id":"1",', b'"ack":true}']
    with live_server(app) as url:
        async with RawSocket.open(f"{url.replace('http', 'ws')}/hall") as raw:
            raw.send(frame(TEXT, parts[0], final=False), frame(CONTINUATION, parts[1], final=False))
            raw.send(frame(CONTINUATION, parts[2]))
            assert (await raw.read()).opcode == TEXT
            raw.send(frame(TEXT, b"", final=False), *[frame(CONTINUATION, b"", final=False)] * 3)
            assert await raw.closed() == 1009


# Nothing is left out


def manifest_keys() -> Sequence[str]:
    with pytest.raises(SettingsError) as error:
        node_settings({"?": None}, "here")
    return error.value.problem.partition("accepted: ")[2].rstrip(")").split(", ")


def test_every_setting_is_shown_here() -> None:
    shown = {(row.key, row.where) for row in ROWS}
    shown = {(key, place) for key, where in shown for place in places(where)} | ELSEWHERE

    on_socket = inspect.signature(Socket).parameters.keys() - {"path"}
    assert shown == {(key, "manifest") for key in manifest_keys()} | {(key, "@Socket") for key in on_socket}
    assert PARTS.keys() | {"key"} == Backpressure.__dataclass_fields__.keys()  # that one: test_conflation.py


def places(where: str) -> tuple[str, ...]:
    return ("manifest", "@Socket") if where == "both" else (where,)
