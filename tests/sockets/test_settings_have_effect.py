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
from rawsocket import CLOSE, CONTINUATION, PING, TEXT, RawSocket, frame
from wire import TRANSPORTS, serving
from wire import Client as RealClient

from aquilia import Identity
from aquilia.aquilary import BootError
from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AquilaSockets,
    Compression,
    Connection,
    Event,
    History,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
    Subscribe,
)
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_forbidden
from aquilia.sockets.outbox import Backpressure
from aquilia.sockets.settings import SettingsError, node_settings
from aquilia.sockets.transports.native import NativeProtocol
from aquilia.testing import HandshakeRefused, SocketsTest, live_server, sockets_test

WHILE = 0.3
"""Seconds within which a bound of 0.05 has shown itself, if it is kept."""


class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("say")
    async def say(self, conn: Connection, payload: list[str]) -> None:
        for word in payload:
            await self.publish_room("hall", "said", word)

    @Event("recall")
    async def recall(self, conn: Connection) -> list[Any]:
        return [told.payload for told in (await self.history("hall")).messages]

    @Event("count", delivery="effectively_once")
    async def count(self, conn: Connection) -> int:
        conn.state["counted"] = conn.state.get("counted", 0) + 1
        return int(conn.state["counted"])

    @Event("wait")
    async def wait(self, conn: Connection) -> None:
        await asyncio.Event().wait()


def hall(path: str = "/hall/:name", **settings: Any) -> type[SocketController]:
    return Socket(path, **settings)(type("AnyHall", (Hall,), {}))


class Verdict(SocketGuard):
    def __init__(self, verdict: bool) -> None:
        self.verdict = verdict

    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return self.verdict


async def refusing(conn: Connection, envelope: Any, next: Any) -> Any:
    raise ws_forbidden()


async def passing(conn: Connection, envelope: Any, next: Any) -> Any:
    return await next(conn, envelope)


# What shows a setting: each looks at an application, and says whether it is bounded.


async def refused(*requests: Awaitable[Any]) -> bool:
    """Whether the last of these is refused, and only that."""
    *first, last = requests
    for request in first:
        await request
    try:
        await last
    except (HandshakeRefused, SocketFault):
        return True
    return False


async def one_connection(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a"), t.connect("/hall/a"))


async def one_of_ada(t: SocketsTest) -> bool:
    ada = Identity("ada")
    return await refused(t.connect("/hall/a", identity=ada), t.connect("/hall/b", identity=ada))


async def ten_handshakes(t: SocketsTest) -> bool:
    return await refused(*(t.connect("/hall/a") for _ in range(11)))


async def of_a_proxy(t: SocketsTest) -> bool:
    """Whether the kit's client, which is at 127.0.0.1, can say which host it came to."""
    told = {"forwarded": "for=192.0.2.1;host=a.example", "origin": "http://a.example"}
    return not await refused(t.connect("/hall/a", headers=told))


async def one_namespace(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a"), t.connect("/hall/b"))


async def one_message(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    return await refused(client.request("echo"), client.request("echo"))


async def few_bytes(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    return await refused(client.request("echo", "x" * 200), client.request("echo"))


async def impatient_with_the_silent(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    await t.clock.advance(20)
    try:
        await client.request("echo")
    except AssertionError:
        return (await client.closed()).code == 4508
    return False


async def no_message(t: SocketsTest) -> bool:
    return await refused((await t.connect("/hall/a")).request("echo"))


async def small_messages(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    await client.request("echo", "x" * 20)
    try:
        await client.request("echo", "x" * 200)
    except AssertionError:
        return (await client.closed()).code == 1009
    return False


async def nobody_anonymous(t: SocketsTest) -> bool:
    await t.connect("/hall/a", identity=Identity("ada"))
    return await refused(t.connect("/hall/a"))


async def no_page_of_b(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a", headers={"origin": "https://b.example"}))


async def no_localhost(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a", headers={"host": "localhost"}))


async def no_soap(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a", subprotocol="soap"))


async def remembered(t: SocketsTest) -> bool:
    """Whether a room remembers one message only."""
    client = await t.connect("/hall/a")
    await client.request("say", ["a", "b"])
    try:
        return bool(await client.request("recall") == ["b"])
    except SocketFault:  # it remembers nothing
        return False


async def one_room(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    return await refused(client.request("enter", "a"), client.request("enter", "b"))


async def one_member(t: SocketsTest) -> bool:
    ada, bob = await t.connect("/hall/a"), await t.connect("/hall/a")
    return await refused(ada.request("enter", "a"), bob.request("enter", "a"))


async def nothing_to_come_back_to(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a", subprotocol="aquilia.v1.json", hello=False)
    client._send(MessageEnvelope(type="control", event="hello"))
    return "resume" not in (await client.expect("welcome", type="system")).payload


async def timed_out(t: SocketsTest) -> bool:
    try:
        await (await t.connect("/hall/a")).request("wait", timeout=WHILE)
    except SocketFault as fault:
        return fault.code == "WS_OVERLOADED"
    except AssertionError:
        return False


async def forgetful(t: SocketsTest) -> bool:
    """Whether an answer is given anew after 200 seconds."""
    client = await t.connect("/hall/a")
    assert await client.request("count") == 1
    await t.clock.advance(200)
    client._requests = 0  # so that the next has the id of the first
    return bool(await client.request("count") == 2)


async def impatient_with_slow_readers(t: SocketsTest) -> bool:
    """Whether a client is shown out while three words wait for it."""
    slow, quick = await t.connect("/hall/a"), await t.connect("/hall/a")
    await slow.request("enter", "hall")
    slow.stop_reading()
    await quick.request("say", ["the wire takes one"])
    await quick.request("say", ["x"] * 3)
    slow.read_on()
    try:
        await slow.request("echo")
    except AssertionError:
        return (await slow.closed()).code == 4531
    return False


async def taking_access_back(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a", identity=Identity("ann"))
    try:
        await t.application.sockets.revoke(identity="ann")
    except RuntimeError:
        return False
    return (await client.closed()).code == 4401


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
    Row("max_rooms", "@Socket", 1, 2, one_room),
    Row("room_size", "@Socket", 1, 2, one_member),
    Row("resume", "@Socket", False, True, nothing_to_come_back_to),
]
ELSEWHERE = {
    ("heartbeat", "manifest"),
    ("handshake_timeout", "manifest"),
    ("metrics", "manifest"),
    ("health", "manifest"),
    ("compression", "manifest"),
    ("compression", "@Socket"),
    ("audit", "manifest"),
    ("max_fragments", "manifest"),
    ("max_fragments", "@Socket"),
    ("tickets", "manifest"),
    ("query_token", "manifest"),
    ("spool_dir", "manifest"),
    ("spool_bytes", "manifest"),
    ("spool_total_bytes", "manifest"),
}
"""Shown by tests of their own, below, and in test_audit.py, test_drain.py, test_metrics_serving.py, test_spool.py and
test_tickets.py."""


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


# What this version refuses

REFUSED = [
    ("redis_url", "manifest", "redis://localhost:6379", "leave it out"),
    ("store_url", "manifest", "redis://localhost:6379", "leave it out"),
    ("presence", "@Socket", True, "leave it out"),
    ("adapter", "manifest", "redis", "choose 'inmemory', 'local' or 'nats'"),
    ("adapter_url", "manifest", "redis://localhost", "choose 'memory://'"),
]


@pytest.mark.parametrize(("key", "where", "value", "told"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_not_in_this_version_is_refused_by_name(key: str, where: str, value: Any, told: str) -> None:
    for place in ("manifest", "@Socket") if where == "both" else (where,):
        both: dict[str, Any] = {"manifest": {}, "@Socket": {}, place: {key: value}}
        with pytest.raises(BootError) as refusal:
            AquilaSockets.from_controllers([hall(**both["@Socket"])], **both["manifest"])
        assert f"{key}: " in str(refusal.value)
        assert told in str(refusal.value)


# Nothing is left out


def manifest_keys() -> Sequence[str]:
    with pytest.raises(SettingsError) as error:
        node_settings({"?": None}, "here")
    return error.value.problem.partition("accepted: ")[2].rstrip(")").split(", ")


def test_every_setting_is_shown_here() -> None:
    shown = {(row.key, row.where) for row in ROWS} | {(key, where) for key, where, *_ in REFUSED}
    shown = {(key, place) for key, where in shown for place in places(where)} | ELSEWHERE

    on_socket = inspect.signature(Socket).parameters.keys() - {"path"}
    assert shown == {(key, "manifest") for key in manifest_keys()} | {(key, "@Socket") for key in on_socket}
    assert PARTS.keys() | {"key"} == Backpressure.__dataclass_fields__.keys()  # that one: test_conflation.py


def places(where: str) -> tuple[str, ...]:
    return ("manifest", "@Socket") if where == "both" else (where,)
