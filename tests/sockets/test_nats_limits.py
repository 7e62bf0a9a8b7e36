"""What a NATS server does not take: it is full, its disk is, it is too old, or its login may not do something."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nats_server import NatsServer

from aquilia.sockets import Publication, SocketFault
from aquilia.sockets.adapters.nats import NatsAdapter, open_calls
from aquilia.sockets.history import History, Position

HISTORY = History(size=5000, ttl=600)
LARGE = History(size=5000, ttl=600, max_bytes=64 << 20)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    servers: list[NatsServer] = []

    def start(configuration: str, *, jetstream: bool = True) -> NatsServer:
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        (folder / "nats.conf").write_text(configuration.replace("FOLDER", str(folder)))
        servers.append(NatsServer(folder, "-c", str(folder / "nats.conf"), jetstream=jetstream))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


class Node:
    """An adapter, and what it got."""

    def __init__(self, url: str) -> None:
        adapter = NatsAdapter(url)
        self.broker, self.store = adapter.broker, adapter.store
        self.got: asyncio.Queue[Publication] = asyncio.Queue()

    async def __aenter__(self) -> Node:
        await self.broker.start(self.got.put_nowait)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.stop()

    async def publish(self, n: int, history: History | None = HISTORY, *, fill: int = 0) -> None:
        told = Publication(id=f"p{n}", namespace="/a", event="e", payload=[n, "x" * fill], ts=n, room="r")
        await self.broker.publish(told, history)

    async def remembered(self) -> list[int]:
        page = await self.broker.read("/a", "r", HISTORY, limit=5000)
        return [found.payload[0] for found in page.publications]


async def refusal(url: str) -> str:
    """Why it does not start."""
    with pytest.raises(SocketFault) as refused:
        async with Node(url):
            pass
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    return refused.value.message


# Room


def allow_files(server: NatsServer, size: int) -> None:
    """Bound the files of a server, as a full disk does."""
    _, most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, most))


async def test_what_a_full_disk_does_not_take_fails_and_what_it_took_is_there_when_it_has_room(
    serve: Callable[..., NatsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("")
    monkeypatch.setattr(open_calls, "OUTAGE", 1.5)
    async with Node(server.url("app")) as node:
        await node.broker.subscribe("/a", "r")
        await node.publish(0)
        allow_files(server, 500_000)
        acknowledged = [0]

        async def publish() -> None:
            for n in range(1, 100):
                await node.publish(n, fill=50_000)
                acknowledged.append(n)

        with pytest.raises(SocketFault) as refused:
            await publish()
        # Up to version 2.12 the server says so; later ones say nothing any more.
        assert refused.value.code in ("WS_ADAPTER_UNAVAILABLE", "WS_PUBLISH_FAILED")
        assert 5 < len(acknowledged) < 12
        unknown = len(acknowledged)
        await node.publish(1000, None)
        assert (await asyncio.wait_for(node.got.get(), 5)).payload[0] == 1000

        server.kill()
        server.start()
        monkeypatch.setattr(open_calls, "OUTAGE", 10.0)
        await node.publish(2000)
        assert set(await node.remembered()) - {unknown} == {*acknowledged, 2000}


def bounded(size: str) -> str:
    return f'jetstream {{ max_file_store: {size}, store_dir: "FOLDER/store" }}'


async def test_values_beyond_the_servers_bound_are_refused_until_there_is_room(
    serve: Callable[..., NatsServer],
) -> None:
    async with Node(serve(bounded("1MB"), jetstream=False).url()) as node:

        async def fill() -> None:
            for n in range(20):
                await node.store.put(f"k{n}", b"x" * 100_000, ttl=1)

        with pytest.raises(SocketFault, match="raise max_file_store") as refused:
            await fill()
        assert refused.value.code == "WS_PUBLISH_FAILED"
        async with asyncio.timeout(20):
            while await node.store.get("more") is None:  # until what has expired is removed
                with contextlib.suppress(SocketFault):
                    await node.store.put("more", b"x" * 200_000)
                await asyncio.sleep(0.05)


async def test_a_log_for_which_the_server_has_no_room_is_told_with_its_size(
    serve: Callable[..., NatsServer],
) -> None:
    async with Node(serve(bounded("10MB"), jetstream=False).url()) as node:
        with pytest.raises(SocketFault, match="it reserves 256 MiB, so raise max_file_store") as refused:
            await node.publish(1)
        assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
        await node.publish(1, None)


async def test_a_server_with_a_smaller_max_payload_keeps_its_connection(
    serve: Callable[..., NatsServer],
) -> None:
    async with Node(serve("max_payload: 5000").url()) as node:
        for history in (None, HISTORY):
            with pytest.raises(SocketFault, match=r"what NATS takes, 5000 \(max_payload\)") as refused:
                await node.publish(1, history, fill=6000)
            assert refused.value.code == "WS_PUBLISH_FAILED"
        for size in range(4600, 5000, 7):  # up to the bound, nothing ends the connection
            try:
                await node.publish(size, fill=size)
            except SocketFault as refused:
                assert refused.code == "WS_PUBLISH_FAILED"
        assert node.broker.connected
        assert 4600 in await node.remembered()


# Permissions


def permissions(denied: str) -> str:
    return f"authorization {{ users: [ {{ user: ada, password: x, permissions: {{ {denied} }} }} ] }}"


@pytest.mark.parametrize(
    ("denied", "told"),
    [
        ('publish: {deny: "app.plain.>"}', "publish to 'app.plain"),
        ('publish: {deny: "app.log.>"}', "publish to 'app.log"),
        ('publish: {deny: "app.store.>"}', "publish to 'app.store"),
        ('publish: {deny: "$JS.API.>"}', "publish to '$JS.API.STREAM.INFO.app_store'"),
        ('publish: {deny: "$JS.API.DIRECT.>"}', "publish to '$JS.API.DIRECT.GET.app_log"),
        ('publish: {deny: "$JS.API.STREAM.PURGE.>"}', "publish to '$JS.API.STREAM.PURGE.app_log"),
        ('publish: {deny: "$JS.API.STREAM.MSG.>"}', "publish to '$JS.API.STREAM.MSG.GET.app_store'"),
        ('subscribe: {deny: "app.stored.>"}', "subscribe to 'app.stored."),
        ('subscribe: {deny: "app.plain.>"}', "subscribe to 'app.plain."),
        ('subscribe: {deny: "_INBOX.>"}', "subscribe to '_INBOX.>'"),
    ],
)
async def test_what_a_login_may_not_do_is_told_at_boot(
    serve: Callable[..., NatsServer], denied: str, told: str
) -> None:
    message = await refusal(serve(permissions(denied)).url("app", login="ada:x@"))
    assert f"does not allow this login to {told}" in message
    assert (
        "allow it to publish and to subscribe to app.> and _INBOX.>, and to publish to $JS.API.>" in message
    )


async def test_what_the_message_says_is_enough(serve: Callable[..., NatsServer]) -> None:
    allowed = 'publish: ["app.>", "_INBOX.>", "$JS.API.>"], subscribe: ["app.>", "_INBOX.>"]'
    async with Node(serve(permissions(allowed)).url("app", login="ada:x@")) as node:
        await node.broker.subscribe("/a", "r", HISTORY)
        await node.publish(1)
        assert (await asyncio.wait_for(node.got.get(), 5)).payload[0] == 1
        assert await node.remembered() == [1]
        assert await node.broker.forget("/a", "r", HISTORY) == 1
        assert await node.store.compare_and_swap("k", None, b"v")


async def test_a_room_that_is_denied_fails_at_once_and_by_its_name(
    serve: Callable[..., NatsServer],
) -> None:
    server = serve(permissions('publish: {deny: "app.plain.*.ncg"}, subscribe: {deny: "app.plain.*.ncg"}'))
    async with Node(server.url("app", login="ada:x@")) as node:
        for doing in (node.publish(1, None), node.broker.subscribe("/a", "r")):
            with pytest.raises(SocketFault, match=r"'app\.plain\.[a-zA-Z0-9]+\.ncg'") as refused:
                await doing
            assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
        assert node.broker.connected


async def test_a_log_that_may_not_be_emptied_stays_whole(serve: Callable[..., NatsServer]) -> None:
    stream = f"app_log_{HISTORY.size}_{round(HISTORY.ttl * 1000)}_{HISTORY.max_bytes}"
    server = serve(permissions(f'publish: {{deny: "$JS.API.STREAM.PURGE.{stream}"}}'))
    async with Node(server.url("app", login="ada:x@")) as node:
        for n in range(2):
            await node.publish(n)
        with pytest.raises(SocketFault, match=r"publish to '\$JS\.API\.STREAM\.PURGE"):
            await node.broker.forget("/a", "r", HISTORY)
        for n in range(2, 4):
            await node.publish(n)
        assert await node.remembered() == [0, 1, 2, 3]
        found, since = [], Position((await node.broker.read("/a", "r", HISTORY)).head.epoch, 0)
        while (page := await node.broker.read("/a", "r", HISTORY, since=since, limit=1)).publications:
            assert page.complete
            found.append(page.publications[0].payload[0])
            assert page.publications[0].position is not None
            since = page.publications[0].position
        assert found == [0, 1, 2, 3]


async def test_an_account_without_jetstream_is_told_from_a_server_without(
    serve: Callable[..., NatsServer],
) -> None:
    server = serve(
        "accounts { A { users: [{user: ada, password: x}] }\n"
        "B { jetstream: enabled, users: [{user: bo, password: x}] } }"
    )
    assert "no JetStream for the account of this login" in await refusal(server.url(login="ada:x@"))


async def test_large_messages_are_read_in_parts_of_what_the_server_holds_for_a_client(
    serve: Callable[..., NatsServer],
) -> None:
    async with Node(serve("max_pending: 8MB").url()) as node:
        for n in range(600):
            await node.publish(n, LARGE, fill=20_000)
        newest = await node.broker.read("/a", "r", LARGE, limit=512)
        assert [found.payload[0] for found in newest.publications] == [*range(600 - 512, 600)]
        behind = await node.broker.read("/a", "r", LARGE, since=newest.publications[0].position, limit=512)
        assert [found.payload[0] for found in behind.publications] == [*range(600 - 511, 600)]


# Versions


@pytest.mark.parametrize("version", ["2.10.29", "1.4.1"])
async def test_a_server_that_is_too_old_is_named_with_the_version_that_is_needed(version: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f'INFO {{"server_id":"x","version":"{version}","max_payload":1048576}}\r\n'.encode())
        await reader.readline()
        writer.write(b"PONG\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        told = await refusal(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert f"is version {version}: Aquilia needs 2.11 or later" in told
