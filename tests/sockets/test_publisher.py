"""`Publisher` and `SyncPublisher`: programs that are no nodes send events to those that are."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from admins import Notice, hall, halls
from brokers import Broker
from nats_server import NatsServer
from wire import Client, serving

from aquilia.sockets import Publisher, SocketFault, SyncPublisher


@contextlib.asynccontextmanager
async def town(url: str) -> AsyncIterator[tuple[Client, Client]]:
    """A client at each of two nodes, in one room; the second is Bob."""
    async with (
        halls(url, 2, admin=False) as ((_, one), (_, other)),
        Client.connect(f"{one}/hall/a") as ann,
        Client.connect(f"{other}/hall/a", additional_headers={"authorization": "Bearer bob"}) as bob,
    ):
        for client in (ann, bob):
            await client.request("enter", "stage")
        yield ann, bob


async def test_what_a_program_publishes_arrives_on_all_nodes_and_it_has_the_report(
    broker: Broker,
) -> None:
    url = broker.url()
    async with town(url) as (ann, bob), Publisher(url) as publisher:
        report = await publisher.publish_room("/hall/a", "stage", "notice", Notice("hi"))
        assert (report.connections, len(report.nodes), report.silent) == (2, 2, [])
        for client in (ann, bob):
            frame = await client.expect("notice")
            assert (frame["room"], frame["payload"]) == ("stage", {"text": "hi"})
        assert (await publisher.broadcast("/hall/a", "notice", {"text": "all"})).connections == 2
        await ann.expect("notice")
        assert (await bob.expect("notice"))["payload"] == {"text": "all"}
        assert (await publisher.publish_identity("/hall/a", "bob", "notice", {"text": "b"})).connections == 1
        assert (await bob.expect("notice"))["payload"] == {"text": "b"}
        nobody = await publisher.publish_room("/hall/a", "log:x", "notice", {"text": "kept"})
        assert nobody.connections == 0
        assert (await ann.request("remembered", "log:x"))["data"] == [{"text": "kept"}]


async def test_a_program_without_a_loop_does_the_same(broker: Broker) -> None:
    url = broker.url()

    def job() -> list[int]:
        with SyncPublisher(url) as publisher:
            return [
                publisher.publish_room("/hall/a", "stage", "notice", {"text": "1"}).connections,
                publisher.broadcast("/hall/a", "notice", {"text": "2"}).connections,
                publisher.publish_identity("/hall/a", "bob", "notice", {"text": "3"}).connections,
            ]

    async with town(url) as (_, bob):
        assert await asyncio.to_thread(job) == [2, 2, 1]
        assert [(await bob.expect("notice"))["payload"]["text"] for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("namespace", "event", "payload", "code"),
    [
        ("/hal/a", "notice", {"text": ""}, "WS_NAMESPACE_NOT_FOUND"),
        ("/hall/a", "notise", {"text": ""}, "WS_UNSUPPORTED_EVENT"),
        ("/hall/a", "notice", {"text": 1}, "WS_PUBLISH_FAILED"),
        ("/hall/a", "notice", object(), "WS_PUBLISH_FAILED"),
        ("/hall/a", "", {"text": ""}, "WS_MESSAGE_INVALID"),
        (None, "notice", {"text": ""}, "WS_MESSAGE_INVALID"),
    ],
)
async def test_what_does_not_fit_the_contract_is_refused(
    nats_server: NatsServer, namespace: str, event: str, payload: object, code: str
) -> None:
    url = nats_server.url()
    async with serving(hall(adapter="nats", adapter_url=url, admin=False)), Publisher(url) as publisher:
        with pytest.raises(SocketFault) as refused:
            await publisher.broadcast(namespace, event, payload)
        assert refused.value.code == code


async def test_where_no_node_is_there_it_says_so_and_goes_on_when_one_comes(nats_server: NatsServer) -> None:
    url = nats_server.url()
    async with Publisher(url) as publisher:
        with pytest.raises(SocketFault, match="no node is there"):
            await publisher.broadcast("/hall/a", "notice", {"text": ""})
        for _ in range(2):  # the second is another node, in the place of one that has gone
            async with serving(hall(adapter="nats", adapter_url=url, admin=False)):
                assert (await publisher.broadcast("/hall/a", "notice", {"text": ""})).connections == 0


async def test_a_publisher_is_no_node(nats_server: NatsServer) -> None:
    url = nats_server.url()
    app = hall(adapter="nats", adapter_url=url, admin=False)
    async with serving(app), Publisher(url) as publisher:
        await publisher.broadcast("/hall/a", "notice", {"text": ""})
        assert len(app.cluster.nodes()) == 1


@pytest.mark.parametrize("kind", [Publisher, SyncPublisher])
def test_a_url_that_reaches_nobody_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"Publisher: memory:// .* reaches nobody else"):
        kind("memory://")
    with pytest.raises(ValueError, match="a user without a password"):
        kind("redis://secret@host")


def test_a_broker_that_is_away_is_told_and_nothing_stays_behind() -> None:
    with pytest.raises(SocketFault, match="WS_ADAPTER_UNAVAILABLE"), SyncPublisher("nats://127.0.0.1:1"):
        pass


async def test_it_works_inside_of_with_and_tells_everyone_else_so(nats_server: NatsServer) -> None:
    url = nats_server.url()
    async with town(url):
        publisher = Publisher(url)
        with pytest.raises(RuntimeError, match="inside of `async with`"):
            await publisher.broadcast("/hall/a", "notice", {"text": "1"})
        async with publisher:
            with pytest.raises(RuntimeError, match="open already"):
                await publisher.__aenter__()
            assert (await publisher.broadcast("/hall/a", "notice", {"text": "1"})).connections == 2
        with pytest.raises(RuntimeError, match="inside of `async with`"):
            await publisher.broadcast("/hall/a", "notice", {"text": "1"})

        async def again() -> int:
            async with publisher:
                return (await publisher.broadcast("/hall/a", "notice", {"text": "1"})).connections

        assert await asyncio.to_thread(asyncio.run, again()) == 2  # in another loop


async def test_without_a_loop_it_is_the_same_and_it_may_be_entered_again(nats_server: NatsServer) -> None:
    url = nats_server.url()
    publisher = SyncPublisher(url)

    def say() -> int:
        return publisher.broadcast("/hall/a", "notice", {"text": "1"}).connections

    def job() -> int:
        with pytest.raises(RuntimeError, match="inside of `with`"):
            say()
        with publisher:
            with pytest.raises(RuntimeError, match="open already"):
                publisher.__enter__()
            assert say() == 2
        with publisher:
            return say()

    async with town(url):
        assert await asyncio.to_thread(job) == 2


def test_behind_a_fork_it_says_so_and_leaves_the_first_process_its_own(nats_server: NatsServer) -> None:
    """The child would wait for a thread that it does not have."""
    script = """
import os, sys
from aquilia.sockets import SocketFault, SyncPublisher
with SyncPublisher(sys.argv[1]) as publisher:
    if (child := os.fork()) == 0:
        try:
            publisher.broadcast("/hall/a", "notice")
        except RuntimeError as error:
            print("child:", error, flush=True)
        publisher.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    try:
        publisher.broadcast("/hall/a", "notice")
    except SocketFault as fault:
        print("parent:", fault.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, nats_server.url()], capture_output=True, text=True, timeout=30
    )
    assert "child: SyncPublisher: use it in the process that entered it" in done.stdout
    assert "parent: WS_ADAPTER_UNAVAILABLE" in done.stdout, done.stderr
