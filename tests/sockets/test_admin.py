"""The admin over nodes: what it sees and does is so on all of them, and its reports say what was really done."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from admins import SECRET, admin_of, done, hall, halls, seen
from nats_server import NatsServer
from nodes import node
from ports import reserved_port
from wire import Client, eventually, serving

from aquilia.sockets.admin.orders import Rooms


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", SECRET)


FROZEN = """
from aquilia.sockets import AquilaSockets, Socket, SocketController


@Socket("/hall/:name")
class Hall(SocketController):
    pass


app = AquilaSockets.from_controllers([Hall])
"""


def named(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


async def test_it_sees_nodes_namespaces_rooms_and_connections_of_all_nodes(nats_server: NatsServer) -> None:
    async with (
        halls(nats_server.url(), 2) as ((first, one), (second, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a", additional_headers=named("ann")) as ann,
        Client.connect(f"{other}/hall/a", additional_headers=named("bob")) as bob,
        Client.connect(f"{other}/hall/b") as cem,
    ):
        ids = [(await client.request("enter", "stage"))["data"] for client in (ann, bob, cem)]
        nodes = (await seen(admin, "nodes"))["items"]
        assert {node["id"] for node in nodes} == {first.cluster.id, second.cluster.id}
        assert {node["phase"] for node in nodes} == {"live"}
        namespaces = await seen(admin, "namespaces")
        assert [(each["namespace"], each["connections"], each["nodes"]) for each in namespaces["items"]] == [
            ("/hall/a", 2, 2),
            ("/hall/b", 1, 1),
        ]
        rooms = await seen(admin, "rooms", namespace="/hall/a", pattern="st*")
        assert rooms["items"] == [{"namespace": "/hall/a", "room": "stage", "members": 2}]
        assert (await seen(admin, "rooms", pattern="nothing*"))["items"] == []
        connections = (await seen(admin, "connections"))["items"]
        assert {each["id"] for each in connections} == set(ids)
        [bobs] = (await seen(admin, "connections", identity="bob"))["items"]
        assert (bobs["id"], bobs["node"], bobs["rooms"]) == (ids[1], second.cluster.id, 1)
        assert (bobs["address"], bobs["messages_received"]) == ("127.0.0.1", 1)
        assert (await seen(admin, "connections", address="192.0.2.1"))["items"] == []
        in_room = await seen(admin, "connections", namespace="/hall/b", room="stage")
        assert [each["id"] for each in in_room["items"]] == [ids[2]]


async def test_a_namespace_is_found_however_its_path_is_written() -> None:
    async with (
        serving(hall()) as base,
        admin_of(base) as admin,
        Client.connect(f"{base}/hall/a", additional_headers=named("ann")) as ann,
    ):
        await ann.request("enter", "stage")
        for path in ("/hall/a", "/hall/a/", "//hall//a", "hall/a"):
            assert len((await seen(admin, "connections", namespace=path))["items"]) == 1
            assert len((await seen(admin, "rooms", namespace=path))["items"]) == 1
        assert (await seen(admin, "rooms", namespace="/hall/b/"))["items"] == []
        assert (await seen(admin, "rooms", namespace="/elsewhere"))["items"] == []
        assert (await done(admin, "purge-room", namespace="/hall/a/", room="stage"))["connections"] == 1
        assert (await done(admin, "kick", identity="ann", namespace="/hall/a/"))["connections"] == 1


async def test_a_page_of_a_large_node_leaves_the_others_their_turns() -> None:
    app = hall()
    async with serving(app) as base, Client.connect(f"{base}/hall/a") as ann:
        await ann.request("enter", "stage")
        rooms = app.hub.homes["/hall/a"].rooms
        many = {f"r{number:05}": rooms["stage"] for number in range(50_000)}
        rooms.update(many)
        try:
            looking, turns = asyncio.create_task(app.admin.rooms(Rooms(limit=3))), 0
            while not looking.done():
                await asyncio.sleep(0)
                turns += 1
            found = [each.room for each in (await looking).items]
        finally:
            for name in many:
                del rooms[name]
    assert found == ["r00000", "r00001", "r00002"]
    assert turns >= 40


async def test_pages_have_each_thing_once_in_order(nats_server: NatsServer) -> None:
    async with (
        halls(nats_server.url(), 2) as ((_, one), (_, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a") as ann,
        Client.connect(f"{other}/hall/a") as bob,
    ):
        for number in range(5):
            await ann.request("enter", f"room {number}")
            await bob.request("enter", f"room {number + 2}")
        found, after = [], {}
        while True:
            page = await seen(admin, "rooms", limit=2, **after)
            found += [(each["room"], each["members"]) for each in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert found == [(f"room {number}", 2 if 2 <= number < 5 else 1) for number in range(7)]


async def test_a_broadcast_tells_to_how_many_it_went_on_each_node(nats_server: NatsServer) -> None:
    async with (
        halls(nats_server.url(), 2) as ((first, one), (second, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a") as ann,
        Client.connect(f"{other}/hall/a") as bob,
        Client.connect(f"{other}/hall/a", "v1.msgpack") as cem,
        Client.connect(f"{other}/hall/b") as elsewhere,
    ):
        report = await done(admin, "broadcast", namespace="/hall/a", event="notice", payload={"text": "hi"})
        assert report == {
            "connections": 3,
            "nodes": {first.cluster.id: 1, second.cluster.id: 2},
            "silent": [],
        }
        for client in (ann, bob, cem):
            assert (await client.expect("notice"))["payload"] == {"text": "hi"}
        assert (await elsewhere.request("rooms"))["data"] == []
        nobody = await done(admin, "broadcast", namespace="/hall/z", event="notice", payload={"text": "hi"})
        assert nobody["connections"] == 0
        assert nobody["silent"] == []


async def test_what_goes_to_a_room_or_an_identity_is_counted_alike(nats_server: NatsServer) -> None:
    order = {"namespace": "/hall/a", "event": "notice", "payload": {"text": "hi"}}
    async with (
        halls(nats_server.url(), 2, metrics=True) as ((_, one), (second, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a") as ann,
        Client.connect(f"{other}/hall/a", additional_headers=named("bob")) as bob,
    ):
        await ann.request("enter", "stage")
        await bob.request("enter", "stage")
        await bob.request("enter", "log:b")
        assert (await done(admin, "publish-room", room="stage", **order))["connections"] == 2
        assert (await ann.expect("notice"))["room"] == "stage"
        await bob.expect("notice")
        report = await done(admin, "publish-identity", identity="bob", **order)
        assert report["connections"] == report["nodes"][second.cluster.id] == 1
        await bob.expect("notice")
        assert (await done(admin, "publish-room", room="log:b", **order))["connections"] == 1
        await bob.expect("notice")
        assert (await done(admin, "publish-room", room="log:empty", **order))["connections"] == 0
        assert (await ann.request("remembered", "log:empty"))["data"] == [{"text": "hi"}]


async def test_many_that_are_counted_at_once_are_each_counted(nats_server: NatsServer) -> None:
    async with (
        halls(nats_server.url(), 2) as ((_, one), (_, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a") as ann,
        Client.connect(f"{other}/hall/a") as bob,
    ):
        orders = [
            done(admin, "broadcast", namespace="/hall/a", event="notice", payload={"text": str(number)})
            for number in range(20)
        ]
        assert {report["connections"] for report in await asyncio.gather(*orders)} == {2}
        for client in (ann, bob):
            texts = {(await client.expect("notice"))["payload"]["text"] for _ in range(20)}
            assert texts == {str(number) for number in range(20)}


async def test_a_connection_or_all_of_an_identity_is_ended_wherever_it_is(nats_server: NatsServer) -> None:
    async with (
        halls(nats_server.url(), 2) as ((_, one), (second, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a", additional_headers=named("ann")) as ann,
        Client.connect(f"{other}/hall/b", additional_headers=named("ann")) as again,
        Client.connect(f"{other}/hall/a") as bob,
    ):
        id = (await bob.request("enter", "stage"))["data"]
        assert (await done(admin, "kick", connection=id, namespace="/hall/b"))["connections"] == 0
        report = await done(admin, "kick", connection=id)
        assert (report["connections"], report["nodes"][second.cluster.id]) == (1, 1)
        assert (await bob.closed())[0] == 4409
        assert (await done(admin, "kick", identity="ann"))["connections"] == 2
        assert (await ann.closed())[0] == (await again.closed())[0] == 4409
        assert (await done(admin, "kick", identity="ann"))["connections"] == 0


async def test_a_purged_room_has_no_members_and_they_are_told(nats_server: NatsServer) -> None:
    async with (
        halls(nats_server.url(), 2) as ((_, one), (_, other)),
        admin_of(one) as admin,
        Client.connect(f"{one}/hall/a", "v1.json") as ann,
        Client.connect(f"{other}/hall/a", "v1.json") as bob,
    ):
        for client in (ann, bob):
            await client.request("enter", "stage")
        assert (await done(admin, "purge-room", namespace="/hall/a", room="stage"))["connections"] == 2
        for client in (ann, bob):
            assert (await client.expect("left"))["payload"] == {"room": "stage"}
            assert (await client.request("rooms"))["data"] == []
        assert (await seen(admin, "rooms"))["items"] == []
        assert (await done(admin, "purge-room", namespace="/hall/a", room="stage"))["connections"] == 0


async def test_a_node_that_is_drained_sends_its_clients_away_and_answers_its_admin(
    nats_server: NatsServer,
) -> None:
    async with (
        halls(nats_server.url(), 2) as ((_, one), (second, other)),
        admin_of(one) as admin,
        admin_of(other) as there,
        Client.connect(f"{one}/hall/a") as ann,
        Client.connect(f"{other}/hall/a") as bob,
    ):
        id = second.cluster.id
        assert await done(admin, "drain", node=id) == {"connections": 1, "nodes": {id: 1}, "silent": []}
        assert (await bob.closed())[0] == 1012
        phases = {node["id"]: node["phase"] for node in (await seen(there, "nodes"))["items"]}
        assert phases[id] == "leaving"
        assert (await ann.request("rooms"))["data"] == []
        assert await done(admin, "drain", node="nobody") == {"connections": 0, "nodes": {}, "silent": []}


async def test_a_node_that_does_not_answer_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    url = nats_server.url()
    app = hall(adapter="nats", adapter_url=url)
    async with serving(app) as base, admin_of(base) as admin, Client.connect(f"{base}/hall/a") as ann:
        with reserved_port() as port:
            async with node(tmp_path, FROZEN, url, port):
                await eventually(lambda: len(app.cluster.nodes()) == 2)
                [other] = [each for each in app.cluster.nodes().values() if each.id != app.cluster.id]
                os.kill(other.pid, signal.SIGSTOP)
                try:
                    order = {"namespace": "/hall/a", "event": "notice", "payload": {"text": "hi"}}
                    report = await done(admin, "broadcast", **order)
                finally:
                    os.kill(other.pid, signal.SIGCONT)
        assert report == {"connections": 1, "nodes": {app.cluster.id: 1}, "silent": [other.id]}
        await ann.expect("notice")


async def test_in_memory_there_is_one_node_and_all_of_it_works_alike() -> None:
    async with serving(hall()) as base, admin_of(base) as admin, Client.connect(f"{base}/hall/a") as ann:
        await ann.request("enter", "stage")
        order = {"namespace": "/hall/a", "event": "notice", "payload": {"text": "hi"}}
        assert (await done(admin, "publish-room", room="stage", **order))["connections"] == 1
        await ann.expect("notice")
        assert len((await seen(admin, "nodes"))["items"]) == 1
        assert (await done(admin, "purge-room", namespace="/hall/a", room="stage"))["connections"] == 1


@pytest.mark.parametrize(
    ("operation", "order", "status", "said"),
    [
        ("broadcast", {"namespace": "/hal/a", "event": "notice"}, 404, "did you mean '/hall/:name'?"),
        ("broadcast", {"namespace": "/hall/a", "event": "notise"}, 422, "did you mean 'notice'?"),
        ("broadcast", {"namespace": "/hall/a", "event": "notice", "payload": {"text": 1}}, 422, "text"),
        ("broadcast", {"namespace": "/hall/a", "event": "error", "force": True}, 422, "'error'"),
        ("broadcast", {"namespace": "/hall/a", "event": "n", "payload": 2**70, "force": True}, 422, "ints"),
        (
            "broadcast",
            {"namespace": "\0cluster", "event": "beat", "force": True},
            404,
            "no socket controller",
        ),
        ("broadcast", {"namespace": "/hall/a", "event": "n" * 129, "force": True}, 422, "max_length=128"),
        ("publish-room", {"namespace": "/hall/a", "room": "", "event": "notice"}, 422, "body.room"),
        ("publish-room", {"namespace": "/hall/a", "room": "\0r", "event": "notice"}, 422, "body.room"),
        ("kick", {}, 422, "one of connection and identity"),
        ("kick", {"connection": "a", "identity": "b"}, 422, "one of connection and identity"),
        ("kick", {"identiti": "b"}, 422, "identiti"),
        ("purge-room", {"namespace": "/hall/a"}, 422, "room"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_what_is_accepted(
    operation: str, order: dict[str, object], status: int, said: str
) -> None:
    async with serving(hall()) as base, admin_of(base) as admin:
        response = await admin.post(f"/{operation}", json=order)
        assert response.status_code == status
        assert said in response.text
        assert response.json()["retryable"] is False


async def test_an_event_that_nobody_declared_goes_by_force() -> None:
    async with serving(hall()) as base, admin_of(base) as admin, Client.connect(f"{base}/hall/a") as ann:
        report = await done(admin, "broadcast", namespace="/hall/a", event="news", payload=[1], force=True)
        assert report["connections"] == 1
        assert (await ann.expect("news"))["payload"] == [1]


async def test_what_is_done_is_audited_with_its_result(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aquilia.audit")
    async with serving(hall()) as base, admin_of(base) as admin:
        await done(admin, "broadcast", namespace="/hall/a", event="notice", payload={"text": "a secret"})
        await seen(admin, "nodes")
        await admin.post("/broadcast", json={"namespace": "/hall/a", "event": "other"})
    records = [vars(record) for record in caplog.records if record.name == "aquilia.audit"]
    told = [record for record in records if record.get("event") == "admin.action"]
    assert [(each["of"], each["outcome"], each["identity"], each["address"]) for each in told] == [
        ("broadcast", "done", "the secret's holder", "127.0.0.1"),
        ("broadcast", "refused", "the secret's holder", "127.0.0.1"),
    ]
    assert told[0]["reason"] == "0 connections: namespace /hall/a, event notice"
    assert told[1]["code"] == "WS_UNSUPPORTED_EVENT"
    assert "a secret" not in caplog.text
