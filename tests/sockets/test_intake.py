"""The bound of the process for what was read and is not handled: who holds the most gives way, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from members import CONTROLLERS, Slow, hello
from rawsocket import BINARY, CLOSE, CONTINUATION, TEXT, RawSocket, frame
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import AckEvent, AquilaSockets, Connection, Event, Socket, SocketController
from aquilia.sockets.compat import Flow, FlowRequest
from aquilia.sockets.metrics.recorder import Counters
from aquilia.sockets.transports.native import NativeProtocol
from aquilia.testing import sockets_test

KB = 1000
OVERLOADED = 1013
NEWS = '{"event": "grind", "payload": "%s"}'


@dataclass
class Mill:
    """A server whose handlers of `grind` wait at a gate."""

    base: str
    sockets: AquilaSockets
    gate: asyncio.Event
    ground: Counter[str] = field(default_factory=Counter)

    @property
    def held(self) -> int:
        return self.sockets.hub.intake.total

    @property
    def open(self) -> set[Connection]:
        return {conn for home in self.sockets.hub.homes.values() for conn in home.everyone()}

    def limited(self) -> int:
        recorder = self.sockets.recorder
        assert isinstance(recorder, Counters)
        return recorder.counts["limited", "/mill", "inbox_bytes"]


def controllers(gate: asyncio.Event, ground: Counter[str]) -> list[type[SocketController]]:
    @Socket("/mill")
    class MillSocket(SocketController):
        @Event("grind")
        async def grind(self, conn: Connection, payload: str) -> None:
            await gate.wait()
            ground[payload[:1]] += 1

        @AckEvent("ask")
        async def ask(self, conn: Connection, payload: Any) -> Any:
            return payload

    flow = Flow()

    async def raw(request: FlowRequest) -> None:
        await request.accept()
        await gate.wait()
        async for message in request:
            ground[str(message)[:1]] += 1

    async def slow(request: FlowRequest) -> None:
        await request.accept()
        async for message in request:
            ground[str(message)[:1]] += 1
            await gate.wait()

    for path, function in {"/raw": raw, "/slow": slow}.items():
        with pytest.warns(DeprecationWarning, match="is a function that handles a WebSocket"):
            flow.ws(path)(function)
    return [MillSocket, *flow.controllers]


@contextlib.asynccontextmanager
async def mill(transport: Any = NativeProtocol, **settings: Any) -> AsyncIterator[Mill]:
    gate, ground = asyncio.Event(), Counter[str]()
    sockets = AquilaSockets.from_controllers(controllers(gate, ground), **settings)
    async with serving(sockets, ws=transport) as base:
        served = Mill(base, sockets, gate, ground)
        yield served
        gate.set()
    assert served.held == 0


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> Any:
    return TRANSPORTS[request.param]


async def holding(stack: contextlib.AsyncExitStack, served: Mill, part: bytes) -> RawSocket:
    """A client that has sent a part of a message, which the server has read."""
    raw = await stack.enter_async_context(RawSocket.open(f"{served.base}/mill"))
    before = {conn for conn in served.open if conn._transport.held}
    raw.send(part)
    await eventually(lambda: any(conn._transport.held >= len(part) for conn in served.open - before))
    return raw


def beginning(size: int) -> bytes:
    """The first fragment of a message."""
    return frame(BINARY, b"x" * size, final=False)


def half(size: int) -> bytes:
    """The first half of a frame."""
    return frame(TEXT, b"x" * 2 * size)[:size]


@pytest.mark.parametrize("part", [beginning, half])
async def test_beyond_the_bound_the_largest_unfinished_message_is_given_up(part: Any) -> None:
    async with mill(inbox_bytes=100 * KB) as served, contextlib.AsyncExitStack() as stack:
        async with Client.connect(f"{served.base}/mill") as healthy:
            small = [await holding(stack, served, part(12 * KB)) for _ in range(2)]
            large = await holding(stack, served, part(30 * KB))
            assert not served.limited()
            more = [await holding(stack, served, part(12 * KB)) for _ in range(4)]
            assert (await large.read()).close_code == OVERLOADED
            assert served.held <= 100 * KB
            assert (await healthy.request("ask", 1))["data"] == 1
        assert served.limited() == 1
        for raw in small + more:
            raw.writer.close()
        await eventually(lambda: served.held == 0)


async def test_a_message_that_is_complete_is_held_no_more() -> None:
    async with mill(inbox_bytes=100 * KB) as served, RawSocket.open(f"{served.base}/mill") as raw:
        text = b'{"event": "ask", "id": "a", "payload": "xxxx"}'
        raw.send(frame(TEXT, text[:20], final=False))
        await eventually(lambda: served.held)
        raw.send(frame(CONTINUATION, text[20:]))
        assert b"xxxx" in (await raw.read()).payload
        assert served.held == 0


async def kept_by(work: Callable[[int], Awaitable[int]]) -> int:
    """By how many bytes the memory grows while this is done forty times and no garbage is collected."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before = await work(2)
        return await work(40) - before
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    "begins",
    [
        b'{"event": "ask", "payload": !',
        b'{"type": "rumour", "payload": "',
        b'{"event": "grind", "payload": ["',
    ],
    ids=["no JSON", "no envelope", "wrong shape"],
)
async def test_a_message_that_is_refused_is_not_kept_until_garbage_is_collected(begins: bytes) -> None:
    end = b'"]}' if begins.endswith(b'["') else b'"}'
    refused = frame(TEXT, begins + b"x" * 50 * KB + end)
    async with mill() as served, RawSocket.open(f"{served.base}/mill") as raw:

        async def refuse(times: int) -> int:
            for _ in range(times):
                raw.send(refused)
                assert b"WS_MESSAGE_INVALID" in (await raw.read()).payload
            return tracemalloc.get_traced_memory()[0]

        assert await kept_by(refuse) < 10 * 50 * KB


async def test_the_message_of_a_handler_whose_client_has_left_is_not_kept_until_garbage_is_collected() -> (
    None
):
    message = frame(TEXT, (NEWS % ("x" * 60 * KB)).encode())
    async with mill() as served:

        async def come_and_go(times: int) -> int:
            for _ in range(times):
                async with RawSocket.open(f"{served.base}/mill") as raw:
                    raw.send(message)
                    await eventually(lambda: served.held)
                await eventually(lambda: not served.open)
            return tracemalloc.get_traced_memory()[0]

        assert await kept_by(come_and_go) < 10 * 60 * KB


async def test_buffers_that_are_empty_are_given_back_before_anybody_is_closed() -> None:
    async with mill(inbox_bytes=100 * KB) as served, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(f"{served.base}/mill")) for _ in range(20)]
        for client in clients:
            assert len((await client.request("ask", "x" * 50 * KB))["data"]) == 50 * KB
        await eventually(lambda: served.held <= 100 * KB)
        for size in (1, 50 * KB, 2 * KB):  # those whose buffers were renewed go on as before
            for client in clients:
                assert len((await client.request("ask", "x" * size))["data"]) == size
        assert served.limited() == 0


async def test_who_has_much_waiting_is_not_read_from_and_loses_nothing() -> None:
    gate, ground = asyncio.Event(), Counter[str]()
    async with sockets_test(*controllers(gate, ground), inbox_bytes=100 * KB) as t:
        intake = t.application.sockets.hub.intake
        slow = [await t.connect("/mill") for _ in range(4)]
        for client in slow:
            for _ in range(40):
                await client.send("grind", "x" * KB)
        healthy = await t.connect("/mill")
        for number in range(30):
            assert await healthy.request("ask", number) == number
        assert 50 * KB <= intake.total <= 100 * KB
        gate.set()
        for client in slow:
            assert await client.request("ask", "after all") == "after all"
        assert ground == {"x": 160}
        assert intake.total == 0


async def test_many_messages_behind_slow_handlers_stay_within_the_bound(transport: Any) -> None:
    async with mill(transport, inbox_bytes=1500 * KB) as served, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(f"{served.base}/mill")) for _ in range(20)]
        async with Client.connect(f"{served.base}/mill") as healthy:
            for number in range(30):
                for client in clients:
                    await client.send("grind", "x" * 2 * KB)
                assert (await healthy.request("ask", number))["data"] == number
                assert served.held <= 1500 * KB
        assert any(conn._paused and len(conn._inbox or ()) < 30 for conn in served.open)
        served.gate.set()
        for client in clients:
            assert (await client.request("ask", "after all"))["data"] == "after all"
        assert served.ground == {"x": 600}
        assert not served.limited()


async def test_functions_are_counted_as_controllers_are(transport: Any) -> None:
    async with mill(transport, inbox_bytes=400 * KB) as served:
        async with Client.connect(f"{served.base}/raw") as client:
            for _ in range(5):
                await client.raw("x" * 2 * KB)
            await eventually(lambda: served.held >= 10 * KB)
            served.gate.set()
            await eventually(lambda: served.ground["x"] == 5)
            assert sum(conn._unhandled for conn in served.open) == 0
        await eventually(lambda: served.held == 0)


async def test_a_part_of_a_message_counts_no_more_once_the_server_closes() -> None:
    async with mill() as served, contextlib.AsyncExitStack() as stack:
        raw = await holding(stack, served, beginning(1 * KB))
        [conn] = served.open
        await conn.disconnect(4001)
        assert (await raw.read()).close_code == 4001
        await eventually(lambda: served.held == 0)
        assert served.sockets.live()["connections"] == 1  # the client has not answered


async def test_what_comes_with_the_message_that_a_slow_function_has_counts_too() -> None:
    async with mill() as served:
        async with RawSocket.open(f"{served.base}/slow") as raw:
            raw.send(*[frame(TEXT, b"x")] * 50)
            await eventually(lambda: served.ground["x"] == 1)
            assert served.held >= 20 * KB


async def test_what_comes_behind_hello_counts_until_it_is_handled(transport: Any) -> None:
    users = Slow()
    sockets = AquilaSockets.from_controllers(CONTROLLERS, auth=users)
    async with serving(sockets, ws=transport) as base:
        async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
            await hello(client, token="slow")
            for _ in range(10):
                await client.send("say", "x" * 1000)
            await eventually(lambda: sockets.hub.intake.total > 10 * KB)
            users.let_go.set()
            assert await client.expect("welcome")
            for _ in range(10):
                await client.expect("said")
            [conn] = [conn for home in sockets.hub.homes.values() for conn in home.everyone()]
            assert conn._unhandled == 0


async def test_who_is_ended_is_in_the_audit_and_the_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aquilia.audit")
    async with mill(inbox_bytes=20 * KB, metrics="collect") as served, contextlib.AsyncExitStack() as stack:
        metrics = served.sockets.metrics
        assert metrics is not None

        def value(name: str) -> float:
            samples = [sample for family in metrics.collect() for sample in family.samples]
            return sum(sample.value for sample in samples if sample.name == name)

        one = await stack.enter_async_context(RawSocket.open(f"{served.base}/mill"))
        one.send(beginning(12 * KB))
        await eventually(lambda: value("aquilia_inbox_bytes") > 12 * KB)
        one.send(frame(CONTINUATION, b"x" * 12 * KB, final=False))
        assert (await one.read()).close_code == OVERLOADED
        assert value("aquilia_limited_total") == 1
        [audited] = [record for record in caplog.records if record.name == "aquilia.audit"]
        assert "limit.hit" in audited.getMessage()
        assert "inbox_bytes" in audited.getMessage()


async def test_whatever_connections_do_and_however_they_end_nothing_stays_counted(transport: Any) -> None:
    chance = random.Random(1)
    async with mill(transport, inbox_bytes=60 * KB, max_message_size=30 * KB) as served:
        for _ in range(8):
            async with contextlib.AsyncExitStack() as stack:
                raws = []
                for _ in range(10):
                    path = chance.choice(["mill", "mill", "raw"])
                    v1 = {"Sec_WebSocket_Protocol": "aquilia.v1.json"} if chance.random() < 0.2 else {}
                    raws.append(
                        await stack.enter_async_context(RawSocket.open(f"{served.base}/{path}", **v1))
                    )
                for _ in range(60):
                    raw, size = chance.choice(raws), chance.randrange(9 * KB)
                    grind = frame(TEXT, (NEWS % ("x" * size)).encode())
                    ways = [grind, grind, grind * 5, beginning(size), frame(CONTINUATION, b"x" * size)]
                    raw.send(chance.choice([*ways, half(size), frame(CLOSE), frame(TEXT, b"\xff"), b""]))
                    if chance.random() < 0.1:
                        raw.writer.transport.abort()
                    if chance.random() < 0.3:
                        await asyncio.sleep(0)
                if chance.random() < 0.5:
                    served.gate.set()
                for raw in raws:
                    raw.writer.transport.abort()
            served.gate.set()
            await eventually(lambda: served.sockets.live()["connections"] == 0)
            await eventually(lambda: served.sockets.live()["tasks"] == 0)
            assert served.held == 0
            served.gate.clear()
