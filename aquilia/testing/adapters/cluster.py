"""What an application promises over nodes, with whatever adapter: two real processes, and clients of both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from aquilia.sockets.publisher import Publisher
from aquilia.testing.adapters.contract import until
from aquilia.testing.adapters.promises import keeps
from aquilia.testing.adapters.visitors import NodeProcess, Visitor

__all__ = ["ClusterContract"]

_TOGETHER = "Clients of all nodes hear, count, ask and kick one another"
_FROM_AFAR = "Another program publishes, and is told how many connections on which nodes that reached"
_PRESENCE = "Presence is that of all nodes, and who was on a killed one has left"
_COMES_BACK = "Who comes back to another node has missed nothing that is kept"
_ONE_EFFECT = "What takes effect once does so on whatever node it is repeated"


@dataclass
class _Cluster:
    adapter_url: str
    nodes: list[NodeProcess]


_CLUSTER = pytest.StashKey[_Cluster]()


@contextlib.asynccontextmanager
async def _visitors(urls: Sequence[str], *names: str, room: str = "") -> AsyncIterator[list[Visitor]]:
    """Clients with these names on the one node and the other in turn, in a room if there is one."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number, name in enumerate(names):
            url = urls[number % len(urls)]
            found.append(await stack.enter_async_context(Visitor.at(url, name)))
            if room:
                await found[-1].request("enter", room)
        yield found


@pytest.mark.asyncio
class ClusterContract:
    """Two nodes of one application, as processes that are started once for a class and talk by its adapter."""

    @pytest.fixture
    def adapter_url(self) -> str:
        """To fill in: the URL of the adapter, which the processes get as `AQ_WS_ADAPTER_URL`.

        They start with the first test of a class, and have its URL for all of them.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a fixture adapter_url, which gives a URL")

    @pytest.fixture
    def cluster(self, request: pytest.FixtureRequest, adapter_url: str) -> _Cluster:
        """The two, and what they share."""
        of_class: pytest.Class | None = request.node.getparent(pytest.Class)
        assert of_class is not None
        if _CLUSTER not in of_class.stash:
            started = [NodeProcess(adapter_url) for _ in range(2)]
            for node in started:
                of_class.addfinalizer(node.stop)
            for node in started:
                node.started()
            of_class.stash[_CLUSTER] = _Cluster(adapter_url, started)
        return of_class.stash[_CLUSTER]

    @pytest.fixture
    def urls(self, cluster: _Cluster) -> list[str]:
        """Those of one namespace on both, that no other test has."""
        name = uuid4().hex
        return [f"{node.url}/hall/{name}" for node in cluster.nodes]

    @keeps(_TOGETHER)
    @pytest.mark.parametrize("room", ["plain", "kept"])
    async def test_every_member_gets_each_message_once_and_each_speakers_in_order(
        self, urls: list[str], room: str
    ) -> None:
        async with _visitors(urls, "ann", "bob", "cem", "dora", room=room) as members:

            async def speak(number: int) -> None:
                for n in range(100):
                    await members[number].say("say", {"room": room, "said": [number, n]})

            await asyncio.gather(speak(0), speak(1))
            heard = [await member.heard(200) for member in members]
            for each in heard:
                for speaker in (0, 1):
                    assert [n for who, n in each if who == speaker] == list(range(100))
            await members[0].say("say", {"room": room, "said": "end"})
            assert [await member.heard(1) for member in members] == [["end"]] * 4
            if room == "kept":
                assert all(each == heard[0] for each in heard)
                for member in members:
                    assert await member.request("remembered", room) == [*heard[0], "end"]

    @keeps(_TOGETHER)
    async def test_who_has_left_and_who_is_excluded_hears_nothing(self, urls: list[str]) -> None:
        async with _visitors(urls, "ann", "bob", "cem", "dora", room="r") as (ann, bob, cem, dora):
            await dora.request("exit", "r")
            await ann.say("say", {"room": "r", "said": 1, "to_me": False})
            await bob.heard(1)
            await bob.say("say", {"room": "r", "said": 2, "to_me": False})
            assert await cem.heard(2) == [1, 2]
            assert await ann.heard(1) == [2]
            await ann.say("call", "end")
            assert [await each.heard(1) for each in (ann, bob, cem, dora)] == [["end"]] * 4

    @keeps(_TOGETHER)
    async def test_a_namespace_and_an_identity_are_reached_on_all_nodes(self, urls: list[str]) -> None:
        async with (
            _visitors(urls, "ann", "bob", "cem", "ann") as everybody,
            _visitors([f"{url}-other" for url in urls], "ann", "ann") as elsewhere,
        ):
            ann, bob, _, ann_too = everybody
            await bob.say("whisper", ["ann", "psst"])
            for each in (ann, ann_too):
                assert await each.heard(1) == ["psst"]
            await bob.say("call", "all")
            for each in everybody:
                assert await each.heard(1) == ["all"]
            await elsewhere[0].say("call", "end")
            for each in elsewhere:
                assert await each.heard(1) == ["end"]

    @keeps(_TOGETHER)
    async def test_the_members_of_a_room_are_those_on_all_nodes(self, urls: list[str]) -> None:
        async with _visitors(urls, "ann", "bob") as (ann, bob):
            assert await ann.request("members", "r") == []
            ids = [await each.request("enter", "r") for each in (ann, bob)]
            async with _visitors(urls[1:], "cem", room="r") as (cem,):
                everybody = sorted([*ids, cem.welcome["connection"]])
                for each in (ann, bob):
                    assert await each.request("members", "r") == everybody
            await bob.request("exit", "r")
            await until(lambda: ann.request("members", "r"), ids[:1])

    @keeps(_PRESENCE)
    async def test_members_on_all_nodes_see_who_comes_and_goes(self, urls: list[str]) -> None:
        async with _visitors(urls, "ann", "bob", "bob", room="r") as (ann, bob, bob_too):
            await ann.sees("r", "ann", "bob")
            await bob.sees("r", "ann", "bob")
            await until(lambda: bob.request("present", "r"), {"ann": 1, "bob": 2})
            async with _visitors(urls[1:], "cem", room="r") as (cem,):
                await cem.sees("r", "ann", "bob", "cem")
                told = await ann.expect("presence")
                assert list(told["payload"]["joins"]) == ["cem"]
                await cem.request("exit", "r")
                told = await ann.expect("presence")
                assert list(told["payload"]["leaves"]) == ["cem"]
            await bob_too.request("exit", "r")
            await bob.request("exit", "r")
            told = await ann.expect("presence")
            assert list(told["payload"]["leaves"]) == ["bob"]

    @keeps(_TOGETHER)
    async def test_a_connection_is_kicked_on_whatever_node(self, urls: list[str]) -> None:
        async with _visitors(urls, "ann", "bob", room="r") as (ann, bob):
            id = bob.welcome["connection"]
            assert await ann.request("kick", "nobody") is False
            assert await ann.request("kick", id) is True
            assert await bob.closed() == 4409
            assert await ann.request("kick", id) is False

    @keeps(_TOGETHER)
    async def test_members_on_all_nodes_answer_one_question(self, urls: list[str]) -> None:
        async with _visitors(urls, "ann", "bob", "cem", room="r") as (ann, bob, cem):
            asking = asyncio.create_task(ann.request("ask", "r"))
            for number, member in enumerate((bob, cem)):
                question = await member.expect("asked")
                answer = {"status": "ok", "data": number}
                await member.send({"type": "ack", "id": question["id"], "payload": answer})
            told = await asking
            ids = [member.welcome["connection"] for member in (bob, cem)]
            assert told == {"answers": {ids[0]: 0, ids[1]: 1}, "missing": 0, "silent": 0}

    @keeps(_COMES_BACK)
    async def test_who_comes_back_to_another_node_has_missed_nothing_of_a_room_that_remembers(
        self, urls: list[str]
    ) -> None:
        async with _visitors(urls[::-1], "bob", room="kept") as (bob,):
            async with _visitors(urls, "ann", room="kept") as (ann,):
                await bob.say("say", {"room": "kept", "said": 0})
                place = ann.place(await ann.expect("said"))
                token = ann.welcome["resume"]
                ann.socket.transport.abort()
            for n in range(1, 300):
                await bob.say("say", {"room": "kept", "said": n})
            await bob.heard(300)
            async with self._back(urls[1], "ann", token, {"kept": place}) as (ann, rooms):
                assert rooms["kept"] == {"recovered": True, **place}
                assert await ann.heard(299) == list(range(1, 300))
                await bob.say("say", {"room": "kept", "said": 300})
                assert await ann.heard(1) == [300]

    @keeps(_COMES_BACK)
    async def test_what_is_durable_reaches_a_client_that_comes_back_to_another_node(
        self, urls: list[str]
    ) -> None:
        async with _visitors(urls, "ann") as (former,):
            for n in range(3):
                await former.say("book", n)
            booked = [await former.expect("booked") for _ in range(3)]
            place = {"": former.place(booked[0])}  # the rest it did not get to keep
            async with self._back(urls[1], "ann", former.welcome["resume"], place) as (ann, _):
                assert [(await ann.expect("booked"))["payload"] for _ in range(2)] == [1, 2]
                assert await former.closed() == 4410
                await ann.say("book", 3)
                assert (await ann.expect("booked"))["payload"] == 3

    @keeps(_ONE_EFFECT)
    async def test_what_takes_effect_once_does_so_once_whichever_node_gets_the_repeat(
        self, urls: list[str]
    ) -> None:
        async with _visitors(urls, "ann") as (former,):
            sold = await former.request("sell", id="s1")
            assert await former.request("sell", id="s1") == sold
            async with self._back(urls[1], "ann", former.welcome["resume"], {}) as (ann, _):
                assert await ann.request("sell", id="s1") == sold
                assert await ann.request("sell", id="s2") != sold

    @keeps(_FROM_AFAR)
    async def test_another_program_reaches_the_members_on_all_nodes(
        self, urls: list[str], cluster: _Cluster
    ) -> None:
        namespace = "/hall/" + urls[0].rpartition("/")[2]
        async with (
            _visitors(urls, "ann", "bob", room="kept") as members,
            Publisher(cluster.adapter_url) as publisher,
        ):
            report = await publisher.publish_room(namespace, "kept", "said", "from afar")
            assert (report.connections, sorted(report.nodes.values())) == (2, [1, 1])
            for member in members:
                assert await member.heard(1) == ["from afar"]

    @keeps(_PRESENCE)
    async def test_who_was_on_a_node_that_is_killed_has_left(
        self, urls: list[str], cluster: _Cluster
    ) -> None:
        doomed = NodeProcess(cluster.adapter_url)
        try:
            await asyncio.to_thread(doomed.started)
            far = f"{doomed.url}/hall/{urls[0].rpartition('/')[2]}"
            async with _visitors(urls[:1], "ann", room="r") as (ann,):
                await until(lambda: ann.request("present", "r"), {"ann": 1})
                async with _visitors([far], "bob", room="r"):
                    await ann.sees("r", "ann", "bob")
                    doomed.kill()
                    told = await ann.expect("presence")
                    assert list(told["payload"]["leaves"]) == ["bob"]
                assert await ann.request("members", "r") == [ann.welcome["connection"]]
        finally:
            doomed.kill()
            doomed.stop()

    @contextlib.asynccontextmanager
    async def _back(
        self, url: str, name: str, token: str, rooms: dict[str, Any]
    ) -> AsyncIterator[tuple[Visitor, dict[str, Any]]]:
        """A client that comes back, and what it is told of its rooms."""
        hello = {"resume": {"token": token, "rooms": rooms}}
        async with Visitor.at(url, name, hello) as visitor:
            yield visitor, (await visitor.expect("resumed"))["payload"]["rooms"]
