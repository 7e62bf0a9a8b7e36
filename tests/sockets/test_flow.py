"""What runs a function that has its connection as a whole: its bounds and its end, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from door import listening
from legacy import DEPRECATED, KIB, MIB, Seen, application, closed, closed_after_all, connect, write
from rawsocket import BINARY, RawSocket, handshake
from wire import TIMEOUT, TRANSPORTS, eventually, serving

from aquilia.sockets import AquilaSockets

pytestmark = DEPRECATED


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def app(seen: Seen) -> AquilaSockets:
    return application(seen)


@pytest.fixture
async def base(transport: Any, app: AquilaSockets) -> AsyncIterator[str]:
    """With a small buffer, so that a client that does not read is soon felt."""
    async with serving(app, ws=transport, send_buffer=16 * KIB) as base:
        yield base


# Bounds


async def test_a_message_above_the_limit_ends_the_connection(base: str) -> None:
    async with connect(f"{base}/echo/a") as client:
        await client.send("x" * 64 * KIB)
        assert len(await client.recv()) == 64 * KIB
        await client.send("x" * (64 * KIB + 1))

        assert (await closed_after_all(client))[0] == 1009


async def test_a_client_above_its_rate_is_sent_away_for_a_while(base: str, seen: Seen) -> None:
    async with connect(f"{base}/slow") as client:
        with contextlib.suppress(websockets.ConnectionClosed):
            await write(client, ["x"] * 10)

        code, reason = await closed_after_all(client)

    assert code == 4529
    assert json.loads(reason) == {"after": 10_000}
    assert len(seen.notes) <= 2


async def test_sending_waits_for_a_client_that_does_not_read(
    base: str, app: AquilaSockets, seen: Seen
) -> None:
    async with RawSocket.open(f"{base}/stream") as client:
        await eventually(lambda: seen.requests)
        sent = -1
        while sent != len(seen.notes):  # until nothing moves any more
            sent = len(seen.notes)
            await asyncio.sleep(0.3)
        conn: Any = seen.requests[0]._conn
        assert sent * 10_000 < 8 * MIB
        assert conn._outbox.waiting_bytes <= MIB

        assert await client.read() == (BINARY, b"x" * 10_000)
        async with asyncio.timeout(TIMEOUT):
            while sent == len(seen.notes):
                await client.read()  # it goes on where the client does
        client.writer.transport.abort()
    await eventually(lambda: app.live()["connections"] == 0 and app.live()["tasks"] == 0)


async def test_a_function_that_does_not_receive_holds_no_more_than_a_bound(
    base: str, app: AquilaSockets, seen: Seen
) -> None:
    count = 2000
    async with connect(f"{base}/late") as client:
        assert await client.recv() == "here"
        writing = asyncio.create_task(write(client, ["x" * 10_000] * count))
        await asyncio.wait([writing], timeout=0.5)

        assert not writing.done()  # 20 MB do not go anywhere

        seen.gate.set()
        await writing
        await eventually(lambda: len(seen.notes) == count)
    assert {len(note) for note in seen.notes} == {10_000}


# The end


async def test_the_loop_ends_when_the_client_leaves(base: str, app: AquilaSockets, seen: Seen) -> None:
    async with connect(f"{base}/echo/a") as client:
        await client.send("x")
        await client.recv()

    await eventually(lambda: app.live()["connections"] == 0)
    assert seen.notes == ["the end", "finally"]
    assert app.live()["tasks"] == 0


async def test_what_came_before_the_client_left_is_not_lost_to_who_waits_for_it(
    base: str, seen: Seen
) -> None:
    seen.gate.set()
    async with connect(f"{base}/late") as client:
        await client.recv()
        await write(client, ["a", "b", "c"])

    await eventually(lambda: seen.notes == ["a", "b", "c"])


async def test_a_function_that_waits_for_something_else_is_cancelled(
    base: str, app: AquilaSockets, seen: Seen
) -> None:
    with listening() as complaints:
        async with connect(f"{base}/busy") as client:
            await client.send("x")
            await client.recv()

        await eventually(lambda: app.live()["connections"] == 0)

        assert seen.notes == ["cancelled"]
        assert complaints.take() == []


async def test_a_client_that_vanishes_is_noticed(base: str, app: AquilaSockets, seen: Seen) -> None:
    async with connect(f"{base}/echo/a") as client:
        await client.send("x")
        await client.recv()
        client.transport.abort()

        await eventually(lambda: app.live()["connections"] == 0)
    assert seen.notes == ["the end", "finally"]


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("fault", 4401, "SIGN_IN: x"),
        ("error", 1011, "WS_INTERNAL_ERROR: internal error, incident "),
        ("cancelled", 1011, "WS_INTERNAL_ERROR: internal error, incident "),
        ("twice", 1011, "WS_INTERNAL_ERROR: internal error, incident "),
        ("nothing", 1000, ""),
    ],
)
async def test_how_a_function_ends_is_how_the_connection_ends(
    base: str, how: str, code: int, reason: str
) -> None:
    with listening() as complaints:
        async with connect(f"{base}/failing/{how}") as client:
            await client.send("x")
            ended, told = await closed_after_all(client)

        logged = complaints.take()
    assert ended == code
    assert told.startswith(reason)
    if code == 1011:
        assert any(told.split()[-1] in complaint for complaint in logged)
    else:
        assert logged == []


@pytest.mark.parametrize("ws", TRANSPORTS.values(), ids=list(TRANSPORTS))
async def test_a_server_that_stops_tells_clients_to_come_back(
    app: AquilaSockets, seen: Seen, ws: Any
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serving(app, ws=ws) as base:
            client = await stack.enter_async_context(connect(f"{base}/echo/a"))
            await client.send("x")
            await client.recv()

        assert (await closed(client))[0] == 1012
    assert seen.notes == ["the end", "finally"]
    assert app.live() == {"connections": 0, "namespaces": 0, "rooms": 0, "tasks": 0}


async def test_the_application_ends_the_connections_itself_where_its_server_goes_on(
    base: str, app: AquilaSockets, seen: Seen
) -> None:
    async with connect(f"{base}/echo/a") as client:
        await client.send("x")
        await client.recv()
        await app.shutdown()

        assert (await closed(client))[0] == 1012
    assert seen.notes == ["the end", "finally"]


async def test_a_controller_beside_it_can_end_it(base: str, app: AquilaSockets, seen: Seen) -> None:
    async with connect(f"{base}/echo/a") as client:
        await client.send("x")
        await client.recv()
        (conn,) = app.hub.homes["/echo/a"].connections.members

        assert await app.hub.kick("/echo/a", conn)

        assert await closed(client) == (4409, "kicked")


async def test_a_handshake_that_is_broken_off_leaves_nothing(
    base: str, app: AquilaSockets, seen: Seen
) -> None:
    host, _, port = base.removeprefix("ws://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(handshake("/refusing/never"))
    await writer.drain()
    writer.transport.abort()

    await eventually(lambda: seen.notes == ["given up"])
    await eventually(lambda: app.live()["tasks"] == 0)
    assert app.live()["connections"] == 0
