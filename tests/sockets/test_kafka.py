"""The Kafka adapter where things go wrong: brokers that end and return, logs that are lost, what others write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from kafka_nodes import HISTORY, SMALL, Node, publication
from kafka_server import KafkaServer
from roads import Road

from aquilia.sockets import Publication, SocketFault
from aquilia.sockets.adapters.kafka import KafkaAdapter
from aquilia.sockets.adapters.signing import Signer


@pytest.fixture
def server() -> Iterator[KafkaServer]:
    """One that the test may end."""
    server = KafkaServer()
    yield server
    server.close()


@pytest.fixture
async def road(server: KafkaServer) -> AsyncIterator[Road]:
    """The one way to the server for all nodes."""
    async with Road.to(server.port) as road:
        server.kill()
        server.advertised = road.port
        server.start()
        yield road


@pytest.fixture
async def nodes(server: KafkaServer, road: Road) -> AsyncIterator[tuple[Node, Node]]:
    url = server.url()
    pair = Node(url), Node(url)
    for node in pair:
        await node.broker.start(node.got.append)
    yield pair
    for node in pair:
        await node.broker.stop()


# The way to the broker


@pytest.mark.parametrize("how", ["closed", "silent"])
async def test_a_broker_that_cannot_be_reached_is_noticed_within_five_seconds(
    how: str, road: Road, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    await two.broker.subscribe("/a", "r")
    await two.broker.subscribe("/a", "kept", HISTORY)
    await road.break_down(how)
    assert await one.is_connected(False) < 5
    await two.is_connected(False)
    assert (one.broker.trouble, two.lost.is_set()) == ("unreachable", False)
    with pytest.raises(SocketFault, match="lost") as refused:
        await one.broker.publish(publication(1))
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    await road.mend()
    async with asyncio.timeout(15):
        await asyncio.gather(one.lost.wait(), two.lost.wait())
    assert two.broker.connected
    assert two.broker.trouble is None
    await one.broker.publish(publication(2))
    await one.broker.publish(publication(3, "kept"), HISTORY)
    await two.hears(2, 3)
    assert sorted(found.payload for found in two.got) == [2, 3]


async def test_nothing_is_delivered_between_a_loss_and_word_of_it(
    road: Road, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    heard: list[object] = []
    two.broker.on_lost = two.broker._connection.on_lost = lambda: heard.append("lost")
    two.broker._plain.deliver = lambda found: heard.append(found.payload)
    await two.broker.subscribe("/a", "r")
    for n in range(3):
        await one.broker.publish(publication(n))
        async with asyncio.timeout(15):
            while n not in heard:
                await asyncio.sleep(0.01)
        await road.close()
        await two.is_connected(False)
        await one.is_connected(False)
        await road.mend()
        await one.is_connected(True)
        await two.is_connected(True)
    assert heard == [0, "lost", 1, "lost", 2, "lost"]


async def test_a_publication_into_a_log_waits_for_the_broker_and_is_stored_once(
    road: Road, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    await two.broker.subscribe("/a", "r", HISTORY)
    sent = [asyncio.create_task(one.broker.publish(publication(n), HISTORY)) for n in range(300)]
    await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
    await road.close()
    late = [asyncio.create_task(one.broker.publish(publication(n), HISTORY)) for n in range(300, 600)]
    await one.is_connected(False)
    await road.mend()
    places = await asyncio.gather(*sent, *late)
    page = await two.broker.read("/a", "r", HISTORY, limit=1000)
    assert [found.payload for found in page.publications] == list(range(600))
    assert [found.position for found in page.publications] == places
    assert len({place.epoch for place in places if place}) == 1


async def test_a_publication_whose_answers_are_all_swallowed_fails_in_time(
    server: KafkaServer, road: Road
) -> None:
    node = Node(server.url(), publish_timeout=1.5)
    await node.broker.start(node.got.append)
    await node.broker.publish(publication(0), HISTORY)
    road.swallow()
    began = asyncio.get_running_loop().time()
    with pytest.raises(SocketFault) as refused:
        await node.broker.publish(publication(1), HISTORY)
    assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
    assert asyncio.get_running_loop().time() - began < 3
    await road.mend()
    async with asyncio.timeout(15):
        while await node.remembered() not in ([0], [0, 1]):
            await asyncio.sleep(0.05)
    await node.broker.stop()


# Epochs


async def test_a_broker_that_comes_back_empty_begins_another_epoch_for_all_nodes(
    server: KafkaServer, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    for node in nodes:
        await node.broker.subscribe("/a", "r", HISTORY)
    before = [await one.broker.publish(publication(n), HISTORY) for n in range(4)]
    assert before[3] is not None
    server.kill()
    server.start()
    async with asyncio.timeout(15):
        await asyncio.gather(one.lost.wait(), two.lost.wait())
    after = await asyncio.gather(
        *(node.broker.publish(publication(10 + n), HISTORY) for n, node in enumerate(nodes))
    )
    assert len({place.epoch for place in after if place}) == 1
    for node in nodes:
        page = await node.broker.read("/a", "r", HISTORY, since=before[3])
        assert (page.complete, page.head.epoch) == (False, after[0] and after[0].epoch)
        assert page.head.epoch != before[3].epoch
        await node.hears(10, 11)
        assert sorted(await node.remembered(), key=str) == [10, 11]  # type: ignore[type-var]
    third = Node(server.url(one.prefix))
    await third.broker.start(third.got.append)
    assert (await third.broker.read("/a", "r", HISTORY)).head.epoch == page.head.epoch
    await third.broker.stop()


async def test_the_end_of_all_nodes_is_no_new_epoch(kafka_server: KafkaServer) -> None:
    url, places = kafka_server.url(), []
    for n in range(3):
        node = Node(url)
        await node.broker.start(node.got.append)
        places.append(await node.broker.publish(publication(n), HISTORY))
        assert await node.remembered() == list(range(n + 1))
        await node.broker.stop()
    assert len({place.epoch for place in places if place}) == 1


async def test_nodes_that_start_at_once_agree_on_the_first_epoch(kafka_server: KafkaServer) -> None:
    url = kafka_server.url()
    nodes = [Node(url) for _ in range(4)]
    await asyncio.gather(*(node.broker.start(node.got.append) for node in nodes))
    heads = await asyncio.gather(*(node.broker.subscribe("/a", "r", HISTORY) for node in nodes))
    assert len({head.epoch for head in heads if head}) == 1
    await asyncio.gather(*(node.broker.stop() for node in nodes))


async def delete_topic(node: Node, name: str) -> None:
    from aiokafka.protocol.admin import DeleteTopicsRequest

    link = node.broker._connection.link
    (broker,) = link.brokers
    told = await link.ask(broker, "say", DeleteTopicsRequest([f"{node.prefix}.{name}"], 1000))
    assert [code for _, code in told.topic_error_codes] == [0]


async def test_a_log_that_is_deleted_under_its_nodes_begins_another_epoch(kafka_server: KafkaServer) -> None:
    url = kafka_server.url()
    one, two = Node(url), Node(url)
    for node in (one, two):
        await node.broker.start(node.got.append)
        await node.broker.subscribe("/a", "r", HISTORY)
    before = [await one.broker.publish(publication(n), HISTORY) for n in range(5)]
    assert before[4] is not None
    await delete_topic(one, "log")
    async with asyncio.timeout(15):
        await asyncio.gather(one.lost.wait(), two.lost.wait())
    heads = [(await node.broker.read("/a", "r", HISTORY, since=before[4])).head for node in (one, two)]
    assert heads[0].epoch == heads[1].epoch != before[4].epoch
    after = await two.broker.publish(publication(9), HISTORY)
    assert after is not None
    assert after.epoch == heads[0].epoch
    await one.hears(9)
    for node in (one, two):
        assert await node.remembered() == [9]
        await node.broker.stop()


async def test_a_log_that_was_deleted_while_no_node_was_there_begins_another_epoch(
    kafka_server: KafkaServer,
) -> None:
    url, epochs = kafka_server.url(), []
    for n in range(3):
        node = Node(url)
        await node.broker.start(node.got.append)
        place = await node.broker.publish(publication(n), HISTORY)
        assert place is not None
        epochs.append(place.epoch)
        assert await node.remembered() == [n]
        await delete_topic(node, "log")
        await node.broker.stop()
    assert len(set(epochs)) == 3


async def test_nodes_that_disagree_on_the_partitions_are_refused(kafka_server: KafkaServer) -> None:
    prefix = kafka_server.url().rpartition("/")[2]
    node = Node(kafka_server.url(prefix, options="partitions=4"))
    await node.broker.start(node.got.append)
    for count in (3, 16):
        other = Node(kafka_server.url(prefix, options=f"partitions={count}"))
        with pytest.raises(SocketFault, match=r"partitions=4\b") as refused:
            await other.broker.start(other.got.append)
        assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"
        await other.broker.stop()
    await node.broker.stop()


# Who else is there


async def test_two_applications_do_not_mix(kafka_server: KafkaServer) -> None:
    one, two = Node(kafka_server.url()), Node(kafka_server.url())
    for node in (one, two):
        await node.broker.start(node.got.append)
        await node.broker.subscribe("/a", "r")
        await node.broker.subscribe("/a", "kept", HISTORY)
    for room, history in (("r", None), ("kept", HISTORY)):
        await one.broker.publish(publication(room, room), history)
        await two.broker.publish(publication(f"{room}!", room), history)
    await one.hears("r", "kept")
    await two.hears("r!", "kept!")
    assert (len(one.got), len(two.got)) == (2, 2)
    for node in (one, two):
        await node.broker.stop()


async def test_what_is_not_signed_is_ignored_in_plain_rooms_and_in_logs(kafka_server: KafkaServer) -> None:
    url = kafka_server.url()
    secret = Signer([b"x" * 32])
    one, two, other = Node(url, signer=secret), Node(url, signer=secret), Node(url)
    foreign: list[None] = []
    two.broker.on_foreign = lambda: foreign.append(None)
    for node in (one, two):
        await node.broker.start(node.got.append)
    await two.broker.subscribe("/a", "r")
    await two.broker.subscribe("/a", "kept", SMALL)
    await other.broker.start(other.got.append)
    await other.broker.publish(publication("forged"))
    forging = asyncio.create_task(other.broker.publish(publication("forged", "kept"), SMALL))
    await one.broker.publish(publication("plain"))
    await one.broker.publish(publication("logged", "kept"), SMALL)
    await two.hears("plain", "logged")
    async with asyncio.timeout(10):
        while len(foreign) < 2:
            await asyncio.sleep(0.01)
    assert sorted(found.payload for found in two.got) == ["logged", "plain"]
    assert await two.remembered("kept", SMALL) == ["logged"]
    forging.cancel()
    await asyncio.wait([forging])
    for node in (one, two, other):
        await node.broker.stop()


async def test_a_record_that_is_moved_to_another_room_is_ignored(kafka_server: KafkaServer) -> None:
    node = Node(kafka_server.url(), signer=Signer([b"x" * 32]))
    foreign: list[None] = []
    node.broker.on_foreign = lambda: foreign.append(None)
    await node.broker.start(node.got.append)
    records = node.broker._records
    data = records.stored(b"here", publication(1, "here"), SMALL)
    assert records.read_log(b"here", data).history == SMALL
    with pytest.raises(ValueError, match="signature is wrong"):
        records.read_log(b"elsewhere", data)
    await node.broker.stop()


async def test_what_nodes_say_to_each_other_keeps_its_order_whichever_room_it_goes_to(
    kafka_server: KafkaServer,
) -> None:
    node = Node(kafka_server.url())
    await node.broker.start(node.got.append)
    rooms = [None, *(f"node {n}" for n in range(20))]
    for room in rooms:
        await node.broker.subscribe("\0nodes", room)
    told = [
        Publication(id="x", namespace="\0nodes", event="e", payload=n, ts=1, room=rooms[n % len(rooms)])
        for n in range(200)
    ]
    await asyncio.gather(*(node.broker.publish(each) for each in told))
    await node.hears(*range(200))
    assert [found.payload for found in node.got] == list(range(200))
    await node.broker.stop()


async def test_foreign_bytes_are_ignored(kafka_server: KafkaServer) -> None:
    node = Node(kafka_server.url())
    foreign: list[None] = []
    node.broker.on_foreign = lambda: foreign.append(None)
    await node.broker.start(node.got.append)
    await node.broker.subscribe("/a", "r")
    await node.broker.subscribe("/a", "kept", SMALL)
    (kept,) = [part for part in node.broker._logs.all() if part.keys]
    (key,) = kept.keys
    link = node.broker._connection.link
    for garbage in (b"", b"\x01", b"\xff" * 100):
        await link.produce((node.broker._logs.topic, kept.number), [(key, garbage)])
        for number in range(16):
            await link.produce((node.broker._plain_topic, number), [(b"nL2E.ncg", garbage)])
    await node.broker.publish(publication(1, "kept"), SMALL)
    await node.broker.publish(publication(2))
    await node.hears(1, 2)
    assert len(foreign) >= 3
    await node.broker.stop()


async def test_a_store_is_not_there_and_says_what_to_set(kafka_server: KafkaServer) -> None:
    store = KafkaAdapter(kafka_server.url()).store
    assert KafkaAdapter.has_store is False
    for attempt in (
        store.get("k"),
        store.put("k", b""),
        store.compare_and_swap("k", None, b""),
        store.get_and_delete("k"),
    ):
        with pytest.raises(SocketFault, match="store_url"):
            await attempt
