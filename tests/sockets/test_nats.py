"""The NATS adapter where things go wrong: servers that end and return, two nodes, wrong URLs and logins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats_server import NatsServer

from aquilia.sockets import Publication, SocketFault
from aquilia.sockets.adapters.nats import NatsAdapter
from aquilia.sockets.adapters.nats.url import Target
from aquilia.sockets.history import History

HISTORY = History(size=5000, ttl=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    yield server
    server.kill()


class Node:
    """An adapter, what it got, and how often it lost its server."""

    def __init__(self, url: str) -> None:
        self.adapter = NatsAdapter(url)
        self.broker, self.store = self.adapter.broker, self.adapter.store
        self.got: list[Publication] = []
        self.lost = asyncio.Event()
        self.broker.on_lost = self.lost.set

    async def payloads(self, count: int) -> list[object]:
        async with asyncio.timeout(10):
            while len(self.got) < count:
                await asyncio.sleep(0.01)
        return [found.payload for found in self.got]

    async def hears(self, payload: object) -> None:
        async with asyncio.timeout(10):
            while payload not in [found.payload for found in self.got]:
                await asyncio.sleep(0.01)


@pytest.fixture
async def nodes(server: NatsServer) -> AsyncIterator[tuple[Node, Node]]:
    url = server.url()
    pair = Node(url), Node(url)
    for node in pair:
        await node.broker.start(node.got.append)
    yield pair
    for node in pair:
        await node.broker.stop()


def publication(n: int, room: str | None = "r") -> Publication:
    return Publication(id=f"p{n}", namespace="/a", event="e", payload=n, ts=n, room=room)


async def test_what_is_acknowledged_survives_the_server_and_is_stored_once(
    server: NatsServer, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    await two.broker.subscribe("/a", "r", HISTORY)
    first = await one.broker.publish(publication(0), HISTORY)
    sent = [asyncio.create_task(one.broker.publish(publication(n), HISTORY)) for n in range(1, 1000)]
    await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
    server.kill()
    server.start()
    places = [first, *await asyncio.gather(*sent)]
    async with asyncio.timeout(10):
        await asyncio.gather(one.lost.wait(), two.lost.wait())
    page = await two.broker.read("/a", "r", HISTORY, limit=5000)
    assert [found.payload for found in page.publications] == list(range(1000))
    assert [found.position for found in page.publications] == places
    assert len({place.epoch for place in places if place}) == 1
    await one.broker.publish(publication(2000), HISTORY)
    await two.hears(2000)


async def test_plain_rooms_are_back_after_an_outage(server: NatsServer, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    await two.broker.subscribe("/a", "r")
    server.kill()
    waiting = [asyncio.create_task(one.broker.publish(publication(n))) for n in range(20)]
    await asyncio.wait(waiting, timeout=0.05)
    server.start()
    await asyncio.wait_for(two.lost.wait(), 10)
    await asyncio.gather(*waiting, return_exceptions=True)
    await one.broker.publish(publication(99))
    await two.hears(99)
    assert await one.store.compare_and_swap("k", None, b"v")
    assert await two.store.get("k") == b"v"


async def test_behind_word_of_a_loss_nothing_is_missing(server: NatsServer, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    heard: list[object] = []

    def lost() -> None:
        heard.append("lost")
        two.lost.set()

    two.broker.on_lost = lost
    two.broker._deliver = lambda publication: heard.append(publication.payload)
    await two.broker.subscribe("/a", "r")
    for n in range(200):  # so that it takes a while until all is listened to again
        await two.broker.subscribe("/a", f"other {n}")
    sent: list[int] = []

    async def publish() -> None:
        for n in range(1_000_000):
            if one.broker.connected:
                sent.append(n)
                with contextlib.suppress(SocketFault):
                    await one.broker.publish(publication(n))
            await asyncio.sleep(0)

    publishing = asyncio.create_task(publish())
    for _ in range(3):
        two.lost.clear()
        server.kill()
        server.start()
        await asyncio.wait_for(two.lost.wait(), 10)
    async with asyncio.timeout(10):
        while heard[-1] == "lost":
            await asyncio.sleep(0.01)
    publishing.cancel()
    losses = [at for at, what in enumerate(heard) if what == "lost"]
    assert len(losses) == 3
    last = heard[losses[-1] + 1 :]
    assert last == sent[sent.index(last[0]) :][: len(last)]


async def test_storage_that_is_gone_begins_another_life(server: NatsServer, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    before = await one.broker.publish(publication(1), HISTORY)
    streams = await two.broker._logs._streams.info("unknown")
    assert streams is None
    (log,) = one.broker._logs._logs.values()
    await two.broker._connection.call(f"$JS.API.STREAM.DELETE.{log.stream}")
    after = await one.broker.publish(publication(2), HISTORY)
    assert before is not None
    assert after is not None
    assert before.epoch != after.epoch
    page = await two.broker.read("/a", "r", HISTORY, since=before)
    assert (page.complete, page.head) == (False, after)


async def allow_direct(node: Node, allowed: bool) -> str:
    """Whether servers answer direct reads of the one log; the subject of these."""
    (log,) = node.broker._logs._logs.values()
    (found,) = await node.broker._connection.call(f"$JS.API.STREAM.INFO.{log.stream}")
    config = {**msgspec.json.decode(found.data)["config"], "allow_direct": allowed}
    await node.broker._connection.call(f"$JS.API.STREAM.UPDATE.{log.stream}", msgspec.json.encode(config))
    return f"$JS.API.DIRECT.GET.{log.stream}"


async def test_where_no_server_answers_it_is_not_said_that_nothing_came(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    place = await one.broker.publish(publication(0), HISTORY)
    await one.broker.publish(publication(1), HISTORY)
    await allow_direct(one, False)
    with pytest.raises(SocketFault, match="no server answers") as refused:
        await one.broker.read("/a", "r", HISTORY, since=place)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"


async def test_a_replica_that_lags_is_asked_until_it_has_what_the_leader_has(
    nodes: tuple[Node, Node],
) -> None:
    one, replica = nodes
    place = await one.broker.publish(publication(0), HISTORY)
    await one.broker.publish(publication(1), HISTORY)
    asked: list[str] = []
    link = replica.broker._connection

    def nothing_so_far(request: Any) -> None:
        asked.append(request.reply)
        answering = link.client.publish(request.reply, headers={"Status": "404"})
        asyncio.get_running_loop().create_task(answering)

    subject = await allow_direct(one, False)
    await link.subscribe(subject, nothing_so_far)
    reading = asyncio.create_task(one.broker.read("/a", "r", HISTORY, since=place))
    async with asyncio.timeout(10):
        while len(asked) < 2:
            await asyncio.sleep(0.01)
    assert not reading.done()
    await allow_direct(one, True)
    await link.unsubscribe(subject)
    page = await reading
    assert ([found.payload for found in page.publications], page.complete) == ([1], True)


async def test_applications_with_other_prefixes_do_not_mix(
    server: NatsServer, nodes: tuple[Node, Node]
) -> None:
    other = Node(server.url())
    await other.broker.start(other.got.append)
    await other.broker.subscribe("/a", "r")
    await nodes[0].broker.subscribe("/a", "r")
    await nodes[1].broker.publish(publication(1))
    assert await nodes[0].payloads(1) == [1]
    assert other.got == []
    await other.broker.stop()


async def test_foreign_bytes_are_ignored(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    await one.broker.subscribe("/a", "r")
    (subject,) = one.broker._connection._subscribers
    for junk in (b"", b"\xff" * 40, b"\x91\x01"):
        await two.broker._connection.send(subject, junk)
    await two.broker.publish(publication(1))
    assert await one.payloads(1) == [1]


async def test_a_publication_above_the_servers_bound_is_refused_with_the_numbers(
    nodes: tuple[Node, Node],
) -> None:
    large = Publication(id="x", namespace="/a", event="e", payload="x" * 1_100_000, ts=1, room="r")
    for history in (None, HISTORY):
        with pytest.raises(SocketFault, match=r"1100\d\d\d bytes .* 1048576") as refused:
            await nodes[0].broker.publish(large, history)
        assert refused.value.code == "WS_PUBLISH_FAILED"


async def refusal(url: str) -> str:
    adapter = NatsAdapter(url)
    with pytest.raises(SocketFault) as refused:
        await adapter.broker.start(lambda publication: None)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    return refused.value.message


async def test_a_server_without_jetstream_is_refused_at_boot(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False)
    try:
        assert "start nats-server with -js" in await refusal(server.url())
    finally:
        server.kill()


async def test_a_wrong_login_is_refused_at_boot_and_never_shown(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, "--user", "ada", "--pass", "p@ss/w")
    try:
        message = await refusal(server.url(login="ada:s3cret@"))
        assert "refuses the login" in message
        assert "s3cret" not in message
        right = Node(server.url(login="ada:p%40ss%2Fw@"))
        await right.broker.start(right.got.append)
        await right.broker.stop()
    finally:
        server.kill()


async def test_a_server_that_is_not_there_is_refused_at_boot(server: NatsServer) -> None:
    url = server.url()
    server.kill()
    assert "cannot be reached" in await refusal(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://a", "nats://"),
        ("nats://", "host"),
        ("nats://a:x", "host"),
        ("nats://a/b.c", "prefix"),
        ("nats://a?replica=3", "replicas"),
        ("nats://a?replicas=2", "1, 3 or 5"),
        ("nats://u:p@a,v:q@b", "one login"),
        ("nats://u:p?w@a", "%3F"),
        ("nats://u:1?w@a", "%3F"),
        ("nats://a?Replicas=3", "did you mean replicas"),
        ("nats://a?replica=3", "did you mean replicas"),
        ("tls://a?cafile=x", r"did you mean ca\?"),
        ("tls://a?certs=x", r"did you mean cert\?"),
        ("tls://a?keys=x", r"did you mean key\?"),
        ("nats://a?credentials=x", r"did you mean creds\?"),
        ("nats://a?nkeys=x", r"did you mean nkey\?"),
        ("nats://a?tokenfile=x", r"did you mean token_file\?"),
        ("nats://a?passwordfile=x", r"did you mean password_file\?"),
        ("nats://a?replicas=3&replicas=3", "said twice"),
        ("nats://a?replicas", "replicas=…"),
        ("nats://a?ca=x", "write tls://"),
        ("tls://a?key=x", "cert=FILE"),
        ("nats://a?creds=x&nkey=y", "two logins"),
        ("nats://a:0", "1 to 65535"),
        ("nats://a:65536", "1 to 65535"),
        ("nats://a:²", "1 to 65535"),
        ("nats://a,", "host"),
        ("nats://a b", "host"),
        ("nats://a,tls://b", "host"),
        ("nats://a,b,a", "twice"),
        ("nats://::1:4222", "brackets"),
        ("nats://:p@a", "no user"),
        ("nats://a/b/c", "prefix"),
        ("nats://a/übung", "prefix"),
        ("nats://a/_INBOX", "begins with a letter"),
        (f"nats://a/{'x' * 101}", "100 characters"),
    ],
)
def test_a_wrong_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Target.parse(url)


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a:1,nats://b:2/app", ("nats://a:1", "nats://b:2")),  # as other clients of NATS have it
        ("tls://[::1]:4,b", ("tls://[::1]:4", "tls://b:4222")),
    ],
)
def test_hosts_are_parted_by_commas(url: str, servers: tuple[str, ...]) -> None:
    assert Target.parse(url).servers == servers


async def test_a_stream_that_is_kept_less_often_is_told_once(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    await nodes[0].broker.publish(publication(0), HISTORY)
    target = nodes[0].broker._connection.target
    three = Node(f"{target}/{target.prefix}?replicas=3")
    await three.broker.start(three.got.append)
    for n in (1, 2):
        await three.broker.publish(publication(n), HISTORY)
        three.broker._logs.clear()  # it is opened again
    await three.broker.stop()
    told = [words for words in caplog.messages if "is kept 1 times" in words and "_log_" in words]
    assert len(told) == 1


def test_a_login_may_have_any_character() -> None:
    target = Target.parse("nats://a%3Ab:p%25%2F%40%3F:@host")
    assert (target.user, target.password) == ("a:b", "p%/@?:")
    assert Target.parse("nats://a%3Ab@host").token == "a:b"


def test_a_file_is_decoded_once_and_a_plus_is_a_plus() -> None:
    assert Target.parse("tls://a?ca=/x+y/%26%20z").files["ca"] == Path("/x+y/& z")


async def other_streams(server: NatsServer, name: str, subjects: list[str]) -> None:
    """A stream that somebody else has made."""
    node = Node(server.url("elsewhere"))
    await node.broker.start(node.got.append)
    made = msgspec.json.encode({"name": name, "subjects": subjects})
    (reply,) = await node.broker._connection.call(f"$JS.API.STREAM.CREATE.{name}", made)
    assert b"error" not in reply.data
    await node.broker.stop()


@pytest.mark.parametrize(
    ("name", "subjects", "told"),
    [
        (
            "app_store",
            ["app.store.*"],
            "the stream app_store on NATS is not Aquilia's: give the adapter's URL another",
        ),
        (
            "orders",
            ["app.>"],
            "another stream takes what this application publishes; give the adapter's URL another",
        ),
    ],
)
async def test_a_stream_of_somebody_else_in_the_way_is_told_at_boot(
    server: NatsServer, name: str, subjects: list[str], told: str
) -> None:
    await other_streams(server, name, subjects)
    assert told in await refusal(server.url("app"))


def test_a_target_shows_no_secret() -> None:
    target = Target.parse("nats://ada:s3cret@a:1,b/app?replicas=3")
    assert "s3cret" not in repr(target) + str(target)
    assert (target.servers, target.prefix, target.replicas) == (("nats://a:1", "nats://b:4222"), "app", 3)
    assert target.password == "s3cret"
