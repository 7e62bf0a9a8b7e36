"""The promises of a broker for plain rooms, of one node and of several."""

from __future__ import annotations

import asyncio

import pytest

from aquilia.sockets.faults import SocketFault
from aquilia.testing.adapters.contract import Contract, MakeAdapter, running
from aquilia.testing.adapters.promises import keeps

__all__ = ["BrokerContract", "NamespaceOrderContract", "SharedBrokerContract"]

_ARRIVES = "In a plain room, each publication arrives once, and those of one publisher in their order"
_AS_IT_WAS = "It arrives as it was, up to half a mebibyte, and whatever its room is called"
_NOTHING_ELSE = "Nothing arrives but what was asked for"
_STARTS = "A broker that does not run says so; it stops, and starts again"
_ONE_ORDER = "The rooms of one namespace share one order"
_ON_ALL_NODES = "All nodes that ask for a room get what is said there, and no others do"

STRANGE = [
    "a b",
    "A b",
    "a.b",
    "*",
    ">",
    "a.>",
    "a*b",
    "ü/ñ 漢字 🙂",
    "'\"\\",
    "%41",
    "..",
    "{a}",
    "[0]",
    "-",
    "a:b",
    "x" * 200,
]
"""Rooms whose names mean something to one broker or another."""


class BrokerContract(Contract):
    """Plain rooms, on one node."""

    @keeps(_ARRIVES)
    async def test_what_is_published_to_a_subscribed_room_arrives_in_order(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe()
            for n in range(100):
                await node.publish(n)
            assert await node.payloads(100) == list(range(100))

    @keeps(_ARRIVES)
    async def test_what_is_published_at_once_arrives_once_and_in_the_order_of_the_calls(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe()
            await asyncio.gather(*(node.publish(n) for n in range(300)))
            await node.publish("end")
            assert await node.payloads(301) == [*range(300), "end"]

    @keeps(_AS_IT_WAS)
    async def test_a_publication_arrives_as_it_was(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe(None)
            await node.subscribe("r")
            payload = {"n": [1, -2.5, None, True], "text": "ü 🙂", "bytes": b"\x00\xff"}
            sent = [
                node.publication("x", None, identity="ada", exclude="c1", ts=1_700_000_000_000),
                node.publication("y", "r", id="an id, with: anything?\n", event="an event"),
                node.publication(payload, "r", id="z"),
            ]
            for each in sent:
                await node.broker.publish(each)
            await node.payloads(3)
            assert sorted(node.got, key=lambda found: found.id) == sorted(sent, key=lambda told: told.id)

    @keeps(_NOTHING_ELSE)
    async def test_other_rooms_and_namespaces_do_not_arrive(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe()
            for other in ("other", "R", "r ", "r.", "r*", "rr", "%72", None):
                await node.publish(other, room=other)
            for namespace in (f"{node.namespace}/b", f"{node.namespace} ", node.namespace.upper(), ""):
                await node.broker.publish(node.publication(1, namespace=namespace))
            await node.publish("own")
            assert await node.payloads(1) == ["own"]

    @keeps(_NOTHING_ELSE)
    async def test_what_goes_to_a_namespace_is_not_for_its_rooms(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe(None)
            await node.publish(1, room="r")
            await node.publish(3, room=None)
            assert await node.payloads(1) == [3]

    @keeps(_NOTHING_ELSE)
    async def test_after_unsubscribe_nothing_arrives(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe("r")
            await node.subscribe("s")
            await node.broker.unsubscribe(node.namespace, "r")
            await node.broker.unsubscribe(node.namespace, "never there")
            await node.publish(1, "r")
            await node.publish(2, "s")
            assert await node.payloads(1) == [2]
            await node.subscribe("r")
            await node.publish(3, "r")
            assert await node.payloads(2) == [2, 3]

    @keeps(_AS_IT_WAS)
    async def test_rooms_and_namespaces_may_have_any_name(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            places = [(namespace, room) for namespace in ("", "/a b", "/*/>", "/ü") for room in STRANGE]
            for namespace, room in places:
                await node.broker.subscribe(node.namespace + namespace, room)
            for number, (namespace, room) in enumerate(places):
                told = node.publication(number, room, namespace=node.namespace + namespace)
                await node.broker.publish(told)
            assert sorted(await node.payloads(len(places))) == list(range(len(places)))
            for found in node.got:
                place = (found.namespace.removeprefix(node.namespace), found.room)
                assert place == places[found.payload]

    @keeps(_AS_IT_WAS)
    async def test_a_payload_of_half_a_mebibyte_arrives(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe()
            large = node.publication("x" * (1 << 19), id="large")
            await node.broker.publish(large)
            await node.payloads(1)
            assert node.got == [large]

    @keeps(_STARTS)
    async def test_a_broker_that_does_not_run_says_so(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            await node.broker.stop()
            for broker in (node.broker, make_adapter().broker):
                with pytest.raises(SocketFault) as refused:
                    await broker.publish(node.publication(1))
                assert refused.value.code == "WS_ADAPTER_UNAVAILABLE"

    @keeps(_STARTS)
    async def test_it_is_connected_once_it_has_started(self, make_adapter: MakeAdapter) -> None:
        async with running(make_adapter) as (node,):
            assert node.broker.connected is True

    @keeps(_STARTS)
    async def test_stop_may_be_called_twice_and_nothing_is_delivered_behind_it(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe()
            await node.publish(1)
            await node.payloads(1)
            await asyncio.gather(*(node.publish(n) for n in range(2, 50)))
            await node.broker.stop()
            got = len(node.got)
            await node.broker.stop()
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert len(node.got) == got

    @keeps(_STARTS)
    async def test_it_starts_again_after_it_was_stopped_and_has_no_subscription(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            await node.subscribe("r")
            await node.broker.stop()
            await node.broker.start(node.deliver)
            await node.subscribe("s")
            await node.publish(1, "r")
            await node.publish(2, "s")
            assert await node.payloads(1) == [2]


class NamespaceOrderContract(Contract):
    """One order for all rooms of a namespace, of what one node publishes there."""

    @keeps(_ONE_ORDER)
    async def test_rooms_of_one_namespace_share_the_order_of_the_calls(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter) as (node,):
            for room in ("r", "s", None):
                await node.subscribe(room)
            await asyncio.gather(*(node.publish(n, ("r", "s", None)[n % 3]) for n in range(60)))
            assert await node.payloads(60) == list(range(60))


class SharedBrokerContract(BrokerContract):
    """Plain rooms, on several nodes."""

    @keeps(_ON_ALL_NODES)
    async def test_every_subscribed_node_gets_each_publication_once_and_each_publishers_in_order(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 3) as nodes:
            for node in nodes:
                await node.subscribe()
            said = [(number, n) for n in range(60) for number in range(3)]
            await asyncio.gather(*(nodes[number].publish([number, n]) for number, n in said))
            for node in nodes:
                await node.payloads(180)
                for number in range(3):
                    own = [found.payload[1] for found in node.got if found.payload[0] == number]
                    assert own == list(range(60))

    @keeps(_ON_ALL_NODES)
    async def test_a_subscription_is_in_effect_on_all_nodes_when_it_returns(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 2) as (one, other):
            for n in range(50):
                await other.subscribe(f"room {n}")
                await one.publish(n, f"room {n}")
            assert sorted(await other.payloads(50)) == list(range(50))

    @keeps(_ON_ALL_NODES)
    async def test_a_node_gets_nothing_of_a_room_that_only_others_have(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 2) as (one, other):
            await one.subscribe("r")
            await other.subscribe("r")
            await other.subscribe("s")
            await other.broker.unsubscribe(other.namespace, "r")
            await one.publish(1, "r")
            await one.publish(2, "s")
            assert await other.payloads(1) == [2]
            assert await one.payloads(1) == [1]

    @keeps(_ON_ALL_NODES)
    async def test_whom_a_publication_is_for_and_not_for_is_told_to_other_nodes(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 2) as (one, other):
            await other.subscribe(None)
            sent = [
                one.publication(1, None, identity="ada"),
                one.publication(2, None, exclude="c7"),
                one.publication(3, None),
            ]
            for each in sent:
                await one.broker.publish(each)
            await other.payloads(3)
            assert other.got == sent

    @keeps(_ON_ALL_NODES)
    async def test_a_node_that_stops_gets_nothing_more_and_the_others_go_on(
        self, make_adapter: MakeAdapter
    ) -> None:
        async with running(make_adapter, 3) as (one, other, third):
            for node in (one, other, third):
                await node.subscribe()
            await one.publish(1)
            await third.payloads(1)
            await third.broker.stop()
            await one.publish(2)
            await other.publish(3)
            assert sorted(await one.payloads(2 + 1)) == [1, 2, 3]
            assert sorted(await other.payloads(2 + 1)) == [1, 2, 3]
            assert [found.payload for found in third.got] == [1]
