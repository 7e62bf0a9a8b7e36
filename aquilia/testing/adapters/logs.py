"""The promises of a broker for rooms with history, of one node and of several."""

from __future__ import annotations

import asyncio

import pytest

from aquilia.sockets.faults import SocketFault
from aquilia.sockets.history import History, Position
from aquilia.testing.adapters.contract import HISTORY, LONG, Contract, MakeAdapter, running, until
from aquilia.testing.adapters.promises import keeps

__all__ = ["LogContract", "SharedLogContract"]

_LOG = "A room with history is a log: one order, and each entry knows the one before"
_ONCE = "An id is stored once, and delivered once"
_ALL_OR_TOLD = "Who reads a log gets all that is behind a position, or is told that something is missing"
_FORGOTTEN = "A log is forgotten on demand, and goes on without a hole"
_OUTLIVES = "A log outlives a stop of its node"
_ONE_LOG = "All nodes have one log: one order, each id once, read and gone on with on any of them"


class LogContract(Contract):
    """Rooms with history, on one node."""

    @keeps(_LOG)
    async def test_a_log_numbers_what_is_published_in_order(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            head = await node.subscribe("r", HISTORY)
            assert head is not None
            places = await node.fill(4)
            assert {place.epoch for place in places} == {head.epoch}
            assert [place.offset for place in places] == sorted({place.offset for place in places})
            assert min(place.offset for place in places) > head.offset
            assert await node.payloads(4) == [0, 1, 2, 3]
            assert [found.position for found in node.got] == places
            assert [found.previous for found in node.got][1:] == [place.offset for place in places][:-1]

    @keeps(_ALL_OR_TOLD)
    async def test_an_empty_log_has_a_head_and_is_complete_from_there(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            page = await node.broker.read(node.namespace, "r", HISTORY)
            assert (list(page.publications), page.complete) == ([], True)
            await node.fill(2)
            page = await node.broker.read(node.namespace, "r", HISTORY, since=page.head)
            assert ([found.payload for found in page.publications], page.complete) == ([0, 1], True)

    @keeps(_ONCE)
    async def test_a_repeat_is_neither_stored_nor_delivered_again(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe("r", HISTORY)
            first = await node.publish(1, "r", HISTORY)
            assert await node.publish(1, "r", HISTORY) == first
            repeats = await asyncio.gather(*(node.publish(2, "r", HISTORY) for _ in range(10)))
            assert len(set(repeats)) == 1
            await node.publish(3, "r", HISTORY)
            assert await node.payloads(3) == [1, 2, 3]
            page = await node.broker.read(node.namespace, "r", HISTORY)
            assert [found.payload for found in page.publications] == [1, 2, 3]

    @keeps(_ONCE)
    async def test_the_same_id_in_another_room_is_another_publication(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            for room in "rs":
                await node.publish(1, room, HISTORY)
            for room in "rs":
                page = await node.broker.read(node.namespace, room, HISTORY)
                assert [found.payload for found in page.publications] == [1]

    @keeps(_LOG)
    async def test_a_log_has_a_publication_as_it_was(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe("r*.>", HISTORY)
            payload = {"n": [1, -2.5, None, True], "text": "ü 🙂", "large": "x" * (1 << 18)}
            sent = node.publication(payload, "r*.>", id="x", exclude="c1", ts=1_700_000_000_000)
            place = await node.broker.publish(sent, HISTORY)
            (read,) = (await node.broker.read(node.namespace, "r*.>", HISTORY)).publications
            await node.payloads(1)
            for found in (read, *node.got):
                assert (found.position, found.payload) == (place, payload)
                assert (found.id, found.exclude, found.ts, found.room) == ("x", "c1", sent.ts, "r*.>")

    @keeps(_ALL_OR_TOLD)
    async def test_a_log_is_read_in_pages_behind_a_position(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            places = await node.fill(5)
            page = await node.broker.read(node.namespace, "r", HISTORY, since=places[1], limit=2)
            found = [(each.payload, each.position) for each in page.publications]
            assert found == [(2, places[2]), (3, places[3])]
            assert (page.complete, page.head) == (True, places[4])
            rest = await node.broker.read(node.namespace, "r", HISTORY, since=places[3])
            assert [each.payload for each in rest.publications] == [4]
            end = await node.broker.read(node.namespace, "r", HISTORY, since=places[4])
            assert (list(end.publications), end.complete) == ([], True)

    @keeps(_ALL_OR_TOLD)
    async def test_without_a_position_the_newest_are_read(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.fill(5)
            await node.fill(3, room="other")
            page = await node.broker.read(node.namespace, "r", HISTORY, limit=2)
            assert [found.payload for found in page.publications] == [3, 4]
            every = await node.broker.read(node.namespace, "r", HISTORY)
            assert [found.payload for found in every.publications] == [0, 1, 2, 3, 4]

    @keeps(_ALL_OR_TOLD)
    async def test_what_the_size_let_go_of_is_missed(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            places = await node.fill(8)
            lost = await node.broker.read(node.namespace, "r", HISTORY, since=places[0])
            assert (list(lost.publications), lost.complete, lost.head) == ([], False, places[-1])
            kept = await node.broker.read(node.namespace, "r", HISTORY, since=places[3])
            assert ([found.payload for found in kept.publications], kept.complete) == ([4, 5, 6, 7], True)

    @keeps(_ALL_OR_TOLD)
    async def test_what_expired_is_missed_but_not_by_who_had_it_all(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            brief = History(size=5, ttl=0.3)
            await node.subscribe("r", brief)
            places = await node.fill(3, brief)
            assert await node.payloads(3) == [0, 1, 2]

            async def left() -> int:
                return len((await node.broker.read(node.namespace, "r", brief)).publications)

            await until(left, 0)
            lost = await node.broker.read(node.namespace, "r", brief, since=places[0])
            assert (list(lost.publications), lost.complete) == ([], False)
            await node.publish(9, "other", brief)
            assert (await node.broker.read(node.namespace, "r", brief, since=places[2])).complete

    @keeps(_ALL_OR_TOLD)
    async def test_a_position_of_the_future_or_of_another_life_is_not_complete(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            places = await node.fill(2)
            future = Position(places[1].epoch, places[1].offset + 9)
            for since in (future, Position("elsewhere", places[0].offset)):
                page = await node.broker.read(node.namespace, "r", HISTORY, since=since)
                assert (list(page.publications), page.complete, page.head) == ([], False, places[1])

    @keeps(_FORGOTTEN)
    async def test_what_was_forgotten_is_read_by_nobody_and_who_had_less_is_told(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            await node.fill(1, room="older")
            await node.subscribe("r", HISTORY)
            places = await node.fill(4)
            await node.fill(2, room="other")
            assert await node.payloads(4) == [0, 1, 2, 3]
            assert await node.broker.forget(node.namespace, "r", HISTORY) == 4
            assert await node.broker.forget(node.namespace, "r", HISTORY) == 0
            assert not (await node.broker.read(node.namespace, "r", HISTORY)).publications
            for place in places[:3]:
                page = await node.broker.read(node.namespace, "r", HISTORY, since=place)
                assert (list(page.publications), page.complete) == ([], False)
            kept = await node.broker.read(node.namespace, "other", HISTORY)
            assert [found.payload for found in kept.publications] == [0, 1]

    @keeps(_FORGOTTEN)
    async def test_what_is_published_behind_the_forgotten_follows_it_without_a_hole(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe("r", HISTORY)
            places = await node.fill(3)
            assert await node.payloads(3) == [0, 1, 2]
            await node.broker.forget(node.namespace, "r", HISTORY)
            late = await node.publish(9, "r", HISTORY)
            assert late is not None
            assert late > places[-1]
            assert await node.payloads(4) == [0, 1, 2, 9]
            assert node.got[-1].previous == places[-1].offset
            page = await node.broker.read(node.namespace, "r", HISTORY)
            assert ([found.payload for found in page.publications], page.head) == ([9], late)
            assert not (await node.broker.read(node.namespace, "r", HISTORY, since=places[1])).complete
            assert (await node.broker.read(node.namespace, "r", HISTORY, since=late)).complete

    @keeps(_LOG)
    async def test_a_payload_that_cannot_be_written_is_refused(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            with pytest.raises(SocketFault) as refused:
                await node.broker.publish(node.publication(object(), id="x"), HISTORY)
            assert refused.value.code == "WS_PUBLISH_FAILED"

    @keeps(_OUTLIVES)
    async def test_a_log_outlives_a_stop_and_a_start_of_its_node(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            places = await node.fill(3)
            await node.broker.stop()
            await node.broker.start(node.deliver)
            page = await node.broker.read(node.namespace, "r", HISTORY, since=places[0])
            assert ([found.payload for found in page.publications], page.head) == ([1, 2], places[2])
            assert await node.publish(1, "r", HISTORY) == places[1]


class SharedLogContract(LogContract):
    """Rooms with history, on several nodes."""

    @keeps(_ONE_LOG)
    async def test_all_nodes_see_one_order(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter, 2) as nodes:
            for node in nodes:
                await node.subscribe("r", LONG)
            said = [nodes[n % 2].publish(n, "r", LONG) for n in range(400)]
            places = [place for place in await asyncio.gather(*said) if place is not None]
            assert await nodes[0].payloads(400) == await nodes[1].payloads(400)
            for node in nodes:
                assert [found.position for found in node.got] == sorted(places)
                offsets = [found.position.offset for found in node.got if found.position is not None]
                assert [found.previous for found in node.got[1:]] == offsets[:-1]

    @keeps(_ONE_LOG)
    async def test_an_id_is_stored_once_whichever_nodes_publish_it(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter, 3) as nodes:
            for node in nodes:
                await node.subscribe("r", HISTORY)
            places = await asyncio.gather(*(nodes[n % 3].publish(1, "r", HISTORY) for n in range(12)))
            assert len(set(places)) == 1
            await nodes[0].publish(2, "r", HISTORY)
            for node in nodes:
                assert await node.payloads(2) == [1, 2]

    @keeps(_ONE_LOG)
    async def test_a_log_is_read_on_any_node(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter, 2) as (one, other):
            places = await one.fill(4)
            page = await other.broker.read(other.namespace, "r", HISTORY, since=places[0])
            assert [(found.payload, found.position) for found in page.publications] == list(
                enumerate(places)
            )[1:]
            assert (page.complete, page.head) == (True, places[3])
            assert await other.publish(4, "r", HISTORY) > places[3]  # type: ignore[operator]

    @keeps(_ONE_LOG)
    async def test_what_comes_behind_the_head_of_a_subscription_arrives(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 2) as (one, other):
            said = [asyncio.create_task(one.publish(n, "r", LONG)) for n in range(200)]
            await said[20]
            head = await other.subscribe("r", LONG)
            assert head is not None
            places = [place for place in await asyncio.gather(*said) if place is not None]
            await one.publish("end", "r", LONG)
            behind = [n for n, place in enumerate(places) if place > head]
            got = await other.payloads(len(behind) + 1)
            while got[-1] != "end":  # what stands before the head may come as well
                got = await other.payloads(len(got) + 1)
            assert [payload for payload in got[:-1] if payload in behind] == behind

    @keeps(_ONE_LOG)
    async def test_of_a_log_a_node_gets_only_what_it_is_subscribed_to(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 2) as (one, other):
            await other.subscribe("r", HISTORY)
            await other.subscribe("s", HISTORY)
            await other.broker.unsubscribe(other.namespace, "r")
            await one.publish(1, "r", HISTORY)
            await one.publish(2, "t", HISTORY)
            await one.publish(3, "s", HISTORY)
            assert await other.payloads(1) == [3]
