"""A room that is purged: nobody is in it, nobody comes back into it, and nobody is shown what it remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from admins import SECRET, admin_of, done, hall, halls
from brokers import BROKERS, Broker
from wire import Client, eventually, serving

ROOM = "log:a"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", SECRET)


@pytest.fixture(params=["inmemory", *BROKERS])
async def bases(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str]]:
    """The addresses of two nodes; in memory it is the same one."""
    if request.param == "inmemory":
        async with serving(hall()) as base:
            yield base, base
        return
    server: Broker = request.getfixturevalue(f"{request.param}_server")
    async with halls(server.url(), 2) as ((_, one), (_, other)):
        yield one, other


async def say(admin: Any, *texts: str, room: str = ROOM) -> None:
    for text in texts:
        order = {"namespace": "/hall/a", "room": room, "event": "notice", "payload": {"text": text}}
        await done(admin, "publish-room", **order)


async def purge(admin: Any, room: str = ROOM) -> Any:
    return await done(admin, "purge-room", namespace="/hall/a", room=room)


async def back(client: Client, token: str, **rooms: dict[str, Any]) -> dict[str, Any]:
    """Say hello with a token and positions of rooms; what `resumed` says of them."""
    resume = {"token": token, "rooms": rooms}
    await client.send(type="control", event="hello", payload={"resume": resume})
    await client.expect("welcome")
    frame = await client.expect("resumed")
    told: dict[str, Any] = frame["payload"]["rooms"]
    return told


def place(frame: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": frame["meta"]["epoch"], "offset": frame["meta"]["offset"]}


async def test_what_the_room_remembers_is_deleted_and_the_report_says_how_much(
    bases: tuple[str, str],
) -> None:
    one, other = bases
    async with (
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a", "v1.json") as ann,
        Client.connect(f"{other}/hall/a", "v1.json") as bob,
    ):
        for client in (ann, bob):
            await client.request("enter", ROOM)
        await say(admin, "one", "two")
        report = await purge(admin)
        assert (report["connections"], report["forgotten"]) == (2, 2)
        for client in (ann, bob):
            assert [(await client.receive())["event"] for _ in range(3)] == ["notice", "notice", "left"]
            assert (await client.request("remembered", ROOM))["data"] == []
            await client.request("enter", ROOM)
        await say(admin, "three")
        for client in (ann, bob):
            assert (await client.expect("notice"))["payload"] == {"text": "three"}
            assert (await client.request("remembered", ROOM))["data"] == [{"text": "three"}]
        assert (await purge(admin))["forgotten"] == 1
        again = await purge(admin)
        assert (again["connections"], again["forgotten"]) == (0, 0)


async def test_a_room_that_remembers_nothing_has_nothing_to_forget(bases: tuple[str, str]) -> None:
    async with admin_of(bases[0]) as admin:
        assert (await purge(admin, "stage"))["forgotten"] is None


async def test_who_was_away_does_not_come_back_into_the_room_and_is_told(bases: tuple[str, str]) -> None:
    one, other = bases
    async with admin_of(one) as admin:
        async with Client.connect(f"{one}/hall/a", "v1.json") as ann:
            for room in (ROOM, "stage", "log:kept"):
                await ann.request("enter", room)
            await say(admin, "one")
            seen = place(await ann.expect("notice"))
            token = ann.welcome["payload"]["resume"]
            ann.socket.transport.abort()
        await say(admin, "two")
        await purge(admin)
        await purge(admin, "stage")
        await say(admin, "three")
        async with Client.connect(f"{other}/hall/a", "v1.json", hello=False) as ann:
            told = await back(ann, token, **{ROOM: seen})
            assert told[ROOM] == {"recovered": False}
            left = [(await ann.expect("left"))["payload"]["room"] for _ in range(2)]
            assert left == [ROOM, "stage"]
            assert (await ann.request("rooms"))["data"] == ["log:kept"]


async def test_who_entered_it_again_behind_the_purge_comes_back_into_it(bases: tuple[str, str]) -> None:
    one, other = bases
    async with admin_of(one) as admin:
        async with Client.connect(f"{one}/hall/a", "v1.json") as ann:
            await ann.request("enter", ROOM)
            await say(admin, "one")
            await purge(admin)
            await ann.request("enter", ROOM)
            await say(admin, "two")
            while (frame := await ann.receive())["event"] != "notice" or frame["payload"]["text"] != "two":
                pass
            token = ann.welcome["payload"]["resume"]
            ann.socket.transport.abort()
        await say(admin, "three")
        async with Client.connect(f"{other}/hall/a", "v1.json", hello=False) as ann:
            told = await back(ann, token, **{ROOM: place(frame)})
            assert told[ROOM]["recovered"] is True
            assert (await ann.expect("notice"))["payload"] == {"text": "three"}


async def test_a_node_that_did_not_hear_of_it_says_that_something_is_missing(broker: Broker) -> None:
    url = broker.url()
    async with serving(hall(adapter_url=url)) as one, admin_of(one) as admin:
        await say(admin, "older", room="log:older")
        async with Client.connect(f"{one}/hall/a", "v1.json") as ann:
            await ann.request("enter", ROOM)
            await say(admin, "one")
            seen = place(await ann.expect("notice"))
            token = ann.welcome["payload"]["resume"]
            ann.socket.transport.abort()
        await say(admin, "two")
        await purge(admin)
        later = hall(adapter_url=url)
        async with serving(later) as other:
            await eventually(lambda: len(later.cluster.nodes()) == 2)
            async with Client.connect(f"{other}/hall/a", "v1.json", hello=False) as ann:
                assert (await back(ann, token, **{ROOM: seen}))[ROOM]["recovered"] is False


async def test_nobody_is_shown_the_forgotten_by_who_catches_up_beside_it(bases: tuple[str, str]) -> None:
    one, other = bases
    async with admin_of(one) as admin, Client.connect(f"{one}/hall/a", "v1.json") as ann:
        await ann.request("enter", ROOM)
        await say(admin, "one", "two", "three")
        seen = place(await ann.expect("notice"))
        async with Client.connect(f"{other}/hall/a", "v1.json") as bob:
            await bob.request("enter", ROOM)
            token = bob.welcome["payload"]["resume"]
            bob.socket.transport.abort()
        async with Client.connect(f"{other}/hall/a", "v1.json", hello=False) as bob:
            assert (await back(bob, token, **{ROOM: seen}))[ROOM]["recovered"] is True
            assert [(await bob.expect("notice"))["payload"]["text"] for _ in range(2)] == ["two", "three"]
            await purge(admin)
            await bob.expect("left")
            await bob.request("enter", ROOM)
            await say(admin, "four")
            assert (await bob.expect("notice"))["payload"] == {"text": "four"}
