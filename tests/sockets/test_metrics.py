"""Metrics: what a scrape tells after real clients have done something, and that clients cannot make it grow."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
import websockets
from hall import PATTERN, Hall, Scrape, hall, scraped, shows
from wire import Client, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Socket,
    SocketController,
)
from aquilia.sockets.metrics.figures import MAX_CODES, MAX_EVENTS


async def test_messages_and_bytes_are_counted_each_way_by_pattern_and_event(transport: Any) -> None:
    async with serving(hall(), ws=transport) as base, Client.connect(f"{base}/hall/a") as ann:
        await ann.expect("welcome")
        await ann.request("enter")
        said = json.dumps({"event": "say", "payload": "hello", "id": "1", "ack": True})
        await ann.raw(said)
        await ann.expect("heard")
        assert (await ann.receive())["type"] == "ack"
        figures = await scraped(base)

    of_say, of_heard = {"type": "event", "event": "say"}, {"type": "event", "event": "heard"}
    assert figures.get_one("aquilia_messages_received_total", **of_say) == 1
    assert figures.get_one("aquilia_received_bytes_total", **of_say) == len(said)
    assert figures.get_one("aquilia_messages_sent_total", **of_heard) == 1
    assert figures.get_one("aquilia_sent_bytes_total", **of_heard) > 50
    assert figures.get_one("aquilia_messages_sent_total", type="event", event="welcome") == 1
    assert figures.get_one("aquilia_messages_sent_total", type="ack", event="") == 2


async def test_the_frames_and_bytes_that_were_counted_are_those_of_the_connections() -> None:
    @Socket(PATTERN)
    class Summed(Hall):
        @Event("sums")
        async def sums(self, conn: Connection) -> list[int]:
            return [conn.messages_received, conn.bytes_received, conn.messages_sent, conn.bytes_sent]

    sockets = AquilaSockets.from_controllers([Summed], metrics=True)
    async with serving(sockets) as base, Client.connect(f"{base}/hall/a", "v1.cbor") as ann:
        for event in ("enter", "fail", "nothing"):
            await ann.send(event, id="1")
        await ann.raw(b"\xff")
        await ann.request("say", "hello")
        got = (await ann.request("sums"))["data"]
        figures = await scraped(base)

    names = ["messages_received_total", "received_bytes_total", "messages_sent_total", "sent_bytes_total"]
    summed = [
        sum(value for (name, _), value in figures.items() if name == f"aquilia_{family}") for family in names
    ]
    answer = figures.get_one("aquilia_sent_bytes_total", type="ack", event="")
    assert summed[:2] == got[:2]
    assert summed[2] == got[2] + 1  # that answer itself
    assert got[3] < summed[3] <= got[3] + answer


async def test_what_is_no_event_is_counted_by_its_type() -> None:
    async with serving(hall()) as base, Client.connect(f"{base}/hall/a", "v1.json") as ann:
        await ann.send(type="control", event="ping")
        await ann.send(type="ack", id="nobody asked")
        await ann.raw("{")
        await ann.raw(json.dumps({"type": "system", "event": "joined"}))
        await ann.send("ask", id="1")
        asked = await ann.receive()
        while asked.get("event") != "really":
            asked = await ann.receive()
        await ann.send(type="ack", id=asked["id"], payload={"status": "ok"})
        await ann.request("enter")
        figures = await scraped(base)

    by_type = {
        kind: figures.get_one("aquilia_messages_received_total", type=kind, event="") for kind in TYPES
    }
    assert by_type == {"control": 2, "ack": 2, "invalid": 2, "other": 0}
    assert (
        figures.get_one("aquilia_messages_sent_total", type="system", event="") == 3
    )  # welcome, pong, joined
    assert figures.get_one("aquilia_unmatched_acks_total") == 1


TYPES = ("control", "ack", "invalid", "other")


async def test_connections_are_counted_as_they_come_and_go(transport: Any) -> None:
    async with serving(hall(), ws=transport) as base:
        async with Client.connect(f"{base}/hall/a"), Client.connect(f"{base}/hall/b") as bob:
            await bob.request("enter")
            figures = await scraped(base)
            assert figures.get_one("aquilia_connections") == 2
            assert figures.get_one("aquilia_namespaces") == 2
            assert figures.get_one("aquilia_rooms") == 1
            await bob.socket.close(3999)
            await shows(base, "aquilia_connections_closed_total", 1, code="other")
        await shows(base, "aquilia_connections", 0)
        figures = await scraped(base)
        assert figures.get_one("aquilia_connections_opened_total") == 2
        assert figures.get_one("aquilia_connections_closed_total", code="1000") == 1
        assert figures.get_one("aquilia_rooms") == 0


async def test_handshakes_are_counted_by_outcome() -> None:
    async with serving(hall()) as base:
        async with Client.connect(f"{base}/hall/a"):
            pass
        for path, origin in (("/hall/a", "https://example.com"), ("/nowhere", None)):
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(f"{base}{path}", proxy=None, origin=origin)
        figures = await scraped(base)

    refused = frozenset({("pattern", "none"), ("outcome", "WS_NAMESPACE_NOT_FOUND")})
    assert figures.get_one("aquilia_handshakes_total", outcome="accepted") == 1
    assert figures.get_one("aquilia_handshakes_total", outcome="WS_ORIGIN_NOT_ALLOWED") == 1
    assert figures["aquilia_handshakes_total", refused] == 1


async def test_handling_is_timed_for_each_event_and_a_middleware_times_what_stands_inside_of_it() -> None:
    async with serving(hall()) as base, Client.connect(f"{base}/hall/a") as ann:
        await ann.request("say", "hello")
        await ann.request("say", 5)  # the wrong shape takes its time as well
        await ann.request("enter")
        figures = await scraped(base)

    assert figures.get_one("aquilia_handler_seconds_count", event="say") == 2
    assert figures.get_one("aquilia_handler_seconds_count", event="enter") == 1
    assert figures.get_one("aquilia_handler_seconds_bucket", event="say", le="10.0") == 2
    assert figures.get_one("aquilia_span_seconds_count", event="say", span="handler") == 2
    whole = figures.get_one("aquilia_handler_seconds_sum", event="say")
    assert whole > figures.get_one("aquilia_span_seconds_sum", event="say", span="handler") > 0


async def test_fan_out_is_counted_by_members_and_seconds(transport: Any) -> None:
    async with serving(hall(), ws=transport) as base:
        async with (
            Client.connect(f"{base}/hall/a") as ann,
            Client.connect(f"{base}/hall/a", "v1.cbor") as bob,
            Client.connect(f"{base}/hall/a", "v1.msgpack"),
        ):
            await ann.request("enter")
            await bob.request("enter")
            await ann.request("say", "hello")
            figures = await scraped(base)

    assert figures.get_one("aquilia_fanout_members_sum", event="heard") == 2
    assert figures.get_one("aquilia_fanout_members_bucket", event="heard", le="1.0") == 0
    assert figures.get_one("aquilia_fanout_members_bucket", event="heard", le="2.0") == 1
    assert figures.get_one("aquilia_fanout_seconds_count", event="heard") == 1
    assert figures.get_one("aquilia_fanout_seconds_sum", event="heard") > 0
    assert figures.get_one("aquilia_messages_sent_total", type="event", event="heard") == 2


def narrow_socket(base: str) -> socket.socket:
    """A connection that takes little in while nobody reads."""
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.connect(("127.0.0.1", int(base.rpartition(":")[2])))
    return connected


async def test_what_waits_for_a_slow_reader_is_shown_and_what_it_loses_is_counted(transport: Any) -> None:
    async with serving(hall(), ws=transport, send_buffer=8192) as base:
        options: dict[str, Any] = {"sock": narrow_socket(base), "max_queue": 1, "compression": None}
        slow = await websockets.connect(f"{base}/hall/a", **options)
        await slow.send(json.dumps({"event": "enter"}))
        async with Client.connect(f"{base}/hall/a") as ann:
            await shows(base, "aquilia_rooms", 1)
            await ann.request("flood", 200)
            figures = await scraped(base)
            waiting = figures.get_one("aquilia_outbox_messages")
            assert 1 <= waiting <= 10
            assert figures.get_one("aquilia_outbox_messages_max") == waiting
            assert figures.get_one("aquilia_outbox_bytes") >= waiting * 60_000
            slow.transport.abort()
            await shows(base, "aquilia_connections", 1)
            figures = await scraped(base)
    lost = figures.get_one("aquilia_messages_dropped_total", cause="slow_consumer")
    assert lost > 100
    assert figures.get_one("aquilia_messages_dropped_total", cause="disconnected") == waiting
    assert figures.get_one("aquilia_outbox_messages") == 0


async def test_a_connection_that_is_not_read_from_is_shown() -> None:
    asked = asyncio.Event()

    @Socket(PATTERN)
    class Waiting(SocketController):
        @Event("wait")
        async def wait(self, conn: Connection) -> None:
            await asked.wait()

    async with serving(AquilaSockets.from_controllers([Waiting], metrics=True)) as base:
        async with Client.connect(f"{base}/hall/a") as ann:
            for _ in range(100):
                await ann.send("wait")
            await shows(base, "aquilia_connections_paused", 1)
            asked.set()
            await shows(base, "aquilia_connections_paused", 0)


async def test_faults_are_counted_by_code() -> None:
    async with serving(hall()) as base, Client.connect(f"{base}/hall/a") as ann:
        await ann.request("say", 5)
        await ann.request("fail", "HALL_CLOSED")
        figures = await scraped(base)

    assert figures.get_one("aquilia_faults_total", code="WS_MESSAGE_INVALID") == 1
    assert figures.get_one("aquilia_faults_total", code="HALL_CLOSED") == 1


# Bounds


async def test_clients_cannot_make_series_whatever_they_send() -> None:
    async with serving(hall(max_namespaces=5000)) as base:
        async with Client.connect(f"{base}/hall/a") as ann:
            await ann.request("nothing")
            await ann.request("tell", "warm")
            await ann.socket.close(1000)
        for path in ("/nowhere", "/hall/0"):
            await visited(base, path)
        await shows(base, "aquilia_connections", 0)
        before = await scraped(base)
        async with Client.connect(f"{base}/hall/a") as ann:
            for number in range(3000):
                await ann.send(f"unknown {number}")
                await ann.receive()  # a client that does not read takes ten seconds to close
            for number in range(30):
                await visited(base, f"/hall/{number}")
                await visited(base, f"/nowhere/{number}")
            await shows(base, "aquilia_messages_received_total", 3001, type="other", event="")
        await shows(base, "aquilia_connections", 0)
        after = await scraped(base)

    assert names(after) == names(before)


async def visited(base: str, path: str) -> None:
    try:
        async with Client.connect(f"{base}{path}") as client:
            await client.socket.close(1000)
    except websockets.InvalidStatus:
        pass


def names(figures: Scrape) -> set[Any]:
    return {key for key in figures if key[0].startswith("aquilia_")}


async def test_codes_and_events_of_the_applications_own_are_counted_together_beyond_a_number() -> None:
    async with serving(hall()) as base, Client.connect(f"{base}/hall/a") as ann:
        for number in range(MAX_CODES + 5):
            await ann.request("fail", f"CODE_{number}")
            await ann.request("tell", f"event {number}")
        await ann.request("say", 5)
        figures = await scraped(base)

    assert figures.get_one("aquilia_faults_total", code="CODE_3") == 1
    assert figures.get_one("aquilia_faults_total", code="other") == 5
    assert figures.get_one("aquilia_faults_total", code="WS_MESSAGE_INVALID") == 1
    sent = [dict(labels)["event"] for name, labels in figures if name == "aquilia_messages_sent_total"]
    assert len([event for event in sent if event.startswith("event ")]) in (MAX_EVENTS, MAX_EVENTS - 1)
    assert figures.get_one("aquilia_messages_sent_total", type="other", event="") >= 5
