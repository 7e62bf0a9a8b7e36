"""Rooms with history over Kafka: what a node replays, keeps and forgets, and one that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from kafka_nodes import HISTORY, SMALL, Node, publication
from kafka_server import KafkaServer

from aquilia.sockets import Publication, SocketFault
from aquilia.sockets.adapters.kafka import logs as kafka_logs
from aquilia.sockets.history import History

# Logs


async def test_a_log_is_replayed_again_for_a_longer_time_to_live_and_nothing_comes_twice(
    kafka_server: KafkaServer,
) -> None:
    one, two = Node(kafka_server.url("longer")), Node(kafka_server.url("longer"))
    brief, longer = History(size=5000, ttl=1), History(size=5000, ttl=3000)
    for node in (one, two):
        await node.broker.start(node.got.append)
    rooms = [f"room {n}" for n in range(40)]
    for room in rooms:
        await one.broker.subscribe("/a", room, brief)
    await asyncio.gather(*(two.broker.publish(publication(room, room), brief) for room in rooms))
    await one.hears(*rooms)
    said = [asyncio.create_task(two.broker.publish(publication(f"{room}!", room), brief)) for room in rooms]
    for room in rooms:
        assert await one.broker.read("/a", f"{room} long", longer)
    await asyncio.gather(*said)
    await one.hears(*(f"{room}!" for room in rooms))
    assert sorted(found.payload for found in one.got) == sorted(rooms + [f"{room}!" for room in rooms])
    for node in (one, two):
        await node.broker.stop()


async def test_what_memory_has_no_room_for_is_read_from_kafka(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(kafka_server.url())
    await node.broker.start(node.got.append)
    await asyncio.gather(*(node.broker.publish(publication(n), HISTORY) for n in range(50)))
    await asyncio.gather(*(node.broker.publish(publication(f"x{n}", "other"), HISTORY) for n in range(50)))
    monkeypatch.setattr(kafka_logs, "DATA", 0)
    node.broker._logs.shed()
    assert sum(part.replay.bytes for part in node.broker._logs.all() if part.replay) == 0
    assert await node.remembered() == list(range(50))
    page = await node.broker.read("/a", "r", HISTORY, limit=3)
    assert [found.payload for found in page.publications] == [47, 48, 49]
    await node.broker.stop()


async def test_a_node_that_starts_late_has_what_the_others_have_and_no_more(
    kafka_server: KafkaServer,
) -> None:
    url = kafka_server.url()
    one = Node(url)
    await one.broker.start(one.got.append)
    for room in ("r", "s", "t"):
        await asyncio.gather(*(one.broker.publish(publication(n, room), SMALL) for n in range(400)))
    await one.broker.forget("/a", "s", SMALL)
    late = Node(url)
    await late.broker.start(late.got.append)
    for room in ("r", "s", "t"):
        assert await late.remembered(room, SMALL) == await one.remembered(room, SMALL)
    assert await late.remembered("r", SMALL) == [395, 396, 397, 398, 399]
    place = await late.broker.publish(publication(397), SMALL)
    page = await one.broker.read("/a", "r", SMALL)
    assert [found.position for found in page.publications][2] == place
    await one.broker.stop()
    await late.broker.stop()


async def test_a_long_replay_ends_before_a_subscription_does_and_is_not_delivered(
    kafka_server: KafkaServer,
) -> None:
    url = kafka_server.url()
    one = Node(url)
    await one.broker.start(one.got.append)
    for start in range(0, 16_000, 2000):
        told = (publication(n) for n in range(start, start + 2000))
        await asyncio.gather(*(one.broker.publish(each, HISTORY) for each in told))
    late = Node(url)
    await late.broker.start(late.got.append)
    subscribing = asyncio.create_task(late.broker.subscribe("/a", "r", HISTORY))
    published = await one.broker.publish(publication("during"), HISTORY)
    head = await subscribing
    assert head is not None
    assert published is not None
    await one.broker.publish(publication("behind"), HISTORY)
    await late.hears("behind")
    assert [found.payload for found in late.got] in (["behind"], ["during", "behind"])
    assert head >= published or late.got[0].payload == "during"
    assert (await late.remembered())[-2:] == ["during", "behind"]
    await one.broker.stop()
    await late.broker.stop()


async def test_what_is_forgotten_while_others_publish_is_forgotten_on_all_nodes(
    kafka_server: KafkaServer,
) -> None:
    url = kafka_server.url()
    nodes = [Node(url) for _ in range(3)]
    for node in nodes:
        await node.broker.start(node.got.append)
        await node.broker.subscribe("/a", "r", HISTORY)
    said = [nodes[n % 3].broker.publish(publication(n), HISTORY) for n in range(300)]
    sending = asyncio.gather(*said)
    gone = await nodes[0].broker.forget("/a", "r", HISTORY)
    await sending
    left = await nodes[0].remembered()
    assert gone + len(left) == 300
    for node in nodes:
        assert await node.remembered() == left
        await node.hears(*range(300))
        await node.broker.stop()


async def test_a_history_that_lives_longer_than_the_topic_keeps_it_is_refused(
    kafka_server: KafkaServer,
) -> None:
    node = Node(kafka_server.url(options="retention=100"))
    await node.broker.start(node.got.append)
    assert await node.broker.subscribe("/a", "r", History(ttl=100))
    for attempt in (
        node.broker.subscribe("/a", "s", History(ttl=101)),
        node.broker.publish(publication(1), History(ttl=101)),
    ):
        with pytest.raises(SocketFault, match=r"--add-config retention\.ms=101000"):
            await attempt
    await node.broker.stop()


async def test_large_publications_go_beside_small_ones_and_keep_their_order(
    kafka_server: KafkaServer,
) -> None:
    node = Node(kafka_server.url())
    await node.broker.start(node.got.append)
    await node.broker.subscribe("/a", "r", HISTORY)
    sizes = [1, 600_000, 2, 600_001, 600_002, 3, 4, 600_003, 5]
    told = [
        Publication(id=f"p{n}", namespace="/a", event="e", payload="x" * size, ts=1, room="r")
        for n, size in enumerate(sizes)
    ]
    await asyncio.gather(*(node.broker.publish(each, HISTORY) for each in told))
    assert [len(str(payload)) for payload in await node.remembered()] == sizes
    await node.broker.stop()


# A node that is killed

WRITER = """
import asyncio, sys
from aquilia.sockets import Publication
from aquilia.sockets.adapters.kafka import KafkaAdapter
from aquilia.sockets.history import History

async def main():
    broker = KafkaAdapter(sys.argv[1]).broker
    await broker.start(lambda publication: None)
    await broker.subscribe("/a", "r", History(size=5000, ttl=60))

    async def publish(n):
        told = Publication(id=f"p{n}", namespace="/a", event="e", payload=n, ts=1, room="r")
        await broker.publish(told, History(size=5000, ttl=60))
        print(n, flush=True)

    for start in range(int(sys.argv[2]), 4000, 20):
        await asyncio.gather(*(publish(n) for n in range(start, start + 20)))

asyncio.run(main())
"""


async def test_a_node_that_is_killed_while_it_publishes_loses_and_doubles_nothing(
    kafka_server: KafkaServer,
) -> None:
    url = kafka_server.url()
    node = Node(url)
    await node.broker.start(node.got.append)
    await node.broker.subscribe("/a", "r", HISTORY)
    acknowledged: set[int] = set()
    start = 0
    for _ in range(3):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, url, str(start), stdout=asyncio.subprocess.PIPE, env=os.environ
        )
        assert writer.stdout is not None
        for _ in range(90):
            acknowledged.add(int(await asyncio.wait_for(writer.stdout.readline(), 20)))
        writer.send_signal(signal.SIGKILL)
        acknowledged |= {int(line) for line in (await writer.stdout.read()).split()}
        await writer.wait()
        start = max(acknowledged) - 40  # what may have been stored is said again, under the same ids
    left = await node.remembered()
    assert len(left) == len(set(left))
    assert acknowledged <= set(left)
    await node.hears(*left)
    assert [found.payload for found in node.got] == left
    assert [found.previous for found in node.got[1:]] == [
        found.position.offset for found in node.got[:-1] if found.position
    ]
    await node.broker.stop()
