"""One connection to NATS, against a server that ends or stops where the test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from loops import on_each_loop

from aquilia.sockets.adapters.nats import dial, open_calls
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.adapters.nats.url import Target
from aquilia.sockets.faults import SocketFault

INFO = b'INFO {"server_id":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576}\r\n'


class Line:
    """What a server sees of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._inbox = b""
        writer.write(INFO)

    async def said(self) -> tuple[str, bytes]:
        """The next publication: its subject, and where its answer goes. Echoes are answered."""
        while line := await self._reader.readline():
            words = line.split()
            if words[0] == b"PING":
                self._writer.write(b"PONG\r\n")
            elif words[0] == b"SUB" and not self._inbox:
                self._inbox = words[-1]
            elif words[0] in (b"PUB", b"HPUB"):
                await self._reader.readexactly(int(words[-1]) + 2)
                reply = words[2] if len(words) > (3 if words[0] == b"PUB" else 4) else b""
                if not words[1].endswith(b".echo"):
                    return words[1].decode(), reply
                self.answer(words[1], reply=reply)
        raise ConnectionError

    def answer(self, subject: bytes, data: bytes = b"", reply: bytes = b"") -> None:
        self._writer.write(
            b" ".join([b"MSG", subject, self._inbox, *[reply] * bool(reply), str(len(data)).encode()])
        )
        self._writer.write(b"\r\n" + data + b"\r\n")

    def end(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(serve: Callable[[int, Line], Awaitable[None]]) -> AsyncIterator[NatsConnection]:
    """A connection to a server that has `serve` for each of its lines, which are counted from 0."""
    lines: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        lines.append(task)
        try:
            with contextlib.suppress(ConnectionError):
                await serve(len(lines) - 1, Line(reader, writer))
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    connection = NatsConnection(Target.parse(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}/t"))
    try:
        await connection.start()
        yield connection
    finally:
        await connection.stop()
        server.close()
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CLOSE", 0.1)


async def test_what_was_said_before_two_losses_is_known_to_be_said_twice() -> None:
    calls = 16

    async def serve(number: int, line: Line) -> None:
        for _ in range(1 if number == 1 else calls):  # the second takes one: the rest has not been said on it
            _, reply = await line.said()
            if number > 1:
                line.answer(reply, b"ok")
        if number > 1:
            await line.said()

    async with serving(serve) as connection:
        big, until = b"x" * 1_000_000, connection.deadline()
        told = await asyncio.gather(*(connection.call_telling("swap", big, {}, until) for _ in range(calls)))

    assert [(reply.data, twice) for reply, twice in told] == [(b"ok", True)] * calls


async def test_it_stops_while_it_comes_back_to_a_server_that_does_not_read() -> None:
    stalled, over = asyncio.Event(), asyncio.Event()

    async def serve(number: int, line: Line) -> None:
        await line.said()
        if number:
            stalled.set()
            await over.wait()

    async with serving(serve) as connection:
        calls = [asyncio.create_task(connection.call("big", b"x" * 1_000_000, again=True)) for _ in range(16)]
        await asyncio.wait_for(stalled.wait(), 10)
        await asyncio.wait_for(connection.stop(), 4)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        over.set()

    assert {str(end) for end in ends} == {"WS_ADAPTER_UNAVAILABLE: the connection to NATS was closed"}


@on_each_loop
async def test_a_loss_with_more_to_say_leaves_no_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def serve(number: int, line: Line) -> None:
        for _ in range(100 if number < 20 else 100_000):
            _, reply = await line.said()
            line.answer(reply, b"ok")

    async with serving(serve) as connection:

        async def say() -> None:
            while connection.links <= 20:
                await connection.call("word", again=True)

        await asyncio.wait_for(asyncio.gather(*(say() for _ in range(50))), 20)

    assert [record.message for record in caplog.records if record.name.startswith("nats")] == []


@on_each_loop
async def test_who_comes_to_listen_in_the_moment_of_a_loss_listens_on_the_next_connection() -> None:
    losses = 20

    async def serve(number: int, line: Line) -> None:
        for _ in range(20 if number < losses else 100_000):
            _, reply = await line.said()
            line.answer(reply, b"ok")

    def ignored(message: object) -> None:
        pass

    raised: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(str(context)))
    async with serving(serve) as connection:

        async def come(subject: str) -> None:
            await connection.subscribe(subject, ignored)
            await connection.unsubscribe(subject)

        async def say() -> None:
            while connection.links <= losses:
                await connection.call("word", again=True)

        saying = [asyncio.create_task(say()) for _ in range(5)]
        coming: list[asyncio.Task[None]] = []
        while connection.links <= losses:
            if sum(not task.done() for task in coming[-100:]) < 50:
                coming.append(asyncio.create_task(come(f"room.{len(coming)}")))
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*saying), 10)
        ends = await asyncio.wait_for(asyncio.gather(*coming, return_exceptions=True), 10)
        loop.set_exception_handler(None)

    strange = [end for end in ends if end is not None and not isinstance(end, SocketFault)]
    assert strange == []
    assert raised == []


async def test_a_process_that_stood_still_reads_the_answer_before_it_says_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_calls, "OUTAGE", 0.5)

    async def serve(number: int, line: Line) -> None:
        while True:
            _, reply = await line.said()
            if reply:
                line.answer(reply, b"ok")

    async with serving(serve) as connection:
        said = asyncio.create_task(connection.send("plain", b"x"))
        called = asyncio.create_task(connection.call("word"))
        await asyncio.sleep(0)
        time.sleep(1)  # noqa: ASYNC251
        await said
        assert [reply.data for reply in await called] == [b"ok"]
