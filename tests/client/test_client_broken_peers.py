"""Servers that err behind the welcome: what the client makes of each, and that it survives them all."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import cbor2
import msgspec
import pytest
from peer import Peer, client, meet, peer, stopped
from wire import TIMEOUT

from aquilia.client import (
    ConnectionEnded,
    Disconnected,
    Gap,
    GoAway,
    Left,
    Message,
    PayloadInvalid,
    Position,
    Resumed,
    ServerFault,
    State,
)

CODECS = ["json", "msgpack", "cbor"]
WRITE: dict[str, Any] = {"json": json.dumps, "msgpack": msgspec.msgpack.encode, "cbor": cbor2.dumps}


@pytest.fixture
async def server() -> AsyncIterator[Peer]:
    async with asyncio.timeout(TIMEOUT), peer(max_size=None) as server:
        yield server


def system(event: str, **payload: Any) -> dict[str, Any]:
    return {"type": "system", "event": event, "payload": payload}


# What is no message


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "tree",
    [
        [1, 2],
        None,
        {"type": "nonsense", "event": "x"},
        {"type": "event"},
        {"type": "event", "event": "x" * 200},
        {"type": "event", "event": "error", "payload": "no"},
        {"type": "ack", "id": "c1", "payload": {"status": "error"}},
        {"type": "ack", "id": "c1", "payload": None},
        {"type": "ack", "id": 7, "payload": {"status": "ok"}},
        system("joined", room=5),
        system("joined", room="a", epoch="e", offset=-1),
        system("joined", room="a", epoch="e", offset=2**63),
        system("gap"),
        system("goaway", reconnect_in=-1),
        system("goaway", reconnect_in="soon"),
        system("welcome", connection="d"),
        system("resumed", rooms={}),
    ],
)
async def test_what_is_no_message_ends_it_for_good(server: Peer, codec: str, tree: Any) -> None:
    who = client(server.url, codec=codec)
    hand = await meet(server, who)
    await hand.raw(WRITE[codec](tree))
    ended = await stopped(who)
    assert ended.close_code == 1002
    assert "does not speak protocol v1" in str(ended)
    assert await hand.ended() == (1002, ended.reason)
    await who.close()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cut", [1, 2, 5])
async def test_half_a_message_ends_it_for_good(server: Peer, codec: str, cut: int) -> None:
    who = client(server.url, codec=codec)
    hand = await meet(server, who)
    await hand.raw(WRITE[codec]({"type": "event", "event": "x", "payload": [1, "ä", 3]})[:-cut])
    assert (await stopped(who)).close_code == 1002
    await who.close()


@pytest.mark.parametrize(("codec", "data"), [("json", b"{}"), ("msgpack", "{}"), ("cbor", "{}")])
async def test_a_frame_of_the_other_kind_ends_it_for_good(server: Peer, codec: str, data: Any) -> None:
    who = client(server.url, codec=codec)
    hand = await meet(server, who)
    await hand.raw(data)
    assert (await stopped(who)).close_code == 1003
    assert (await hand.ended())[0] == 1003
    await who.close()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x02\xff\xfe", 1007),  # a text that is not UTF-8
        (b"\xf1\x00", 1002),  # reserved bits
        (b"\x83\x00", 1002),  # an opcode that there is not
        (b"\x80\x00", 1002),  # a continuation of nothing
        (b"\x81\x80abcd", 1002),  # a server masks nothing
        (b"\x88\x01\x03", 1002),  # half a code
        (b"\x88\x02\x03\xee", 1002),  # 1006, which no frame may carry
    ],
)
async def test_a_frame_that_is_none_ends_it_for_good(server: Peer, frame: bytes, code: int) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    hand.socket.transport.write(frame)
    ended = await stopped(who)
    assert ended.close_code == code
    assert "this client closed the connection" in str(ended)
    await who.close()


@pytest.mark.parametrize("codec", CODECS)
async def test_a_message_may_be_as_large_as_the_bound_and_no_larger(server: Peer, codec: str) -> None:
    who = client(server.url, codec=codec, max_message_size=2 << 20)
    hand = await meet(server, who)
    said = who.messages("x")
    await hand.write("event", "x", payload="y" * 1_500_000)
    assert len((await anext(said)).payload) == 1_500_000
    await hand.write("event", "x", payload="y" * (2 << 20))
    ended = await stopped(who)
    assert ended.close_code == 1009
    assert "max_message_size" in str(ended)
    assert (await hand.ended())[0] == 1009
    await who.close()


async def test_words_that_it_does_not_know_are_for_later_versions(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    said = who.messages()
    await hand.system("forecast", rain=True)
    await hand.write("control", "dance")
    await hand.write("system", "pong", extra=1)
    await hand.write("event", "x", payload=1, later="field")
    assert (await anext(said)).event == "x"
    await who.close()


# Acks


async def test_acks_that_answer_nothing_change_nothing(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    call = asyncio.create_task(who.call("put", 1))
    sent = await hand.read()
    for id in ("c999", "x" * 60):
        await hand.write("ack", id=id, payload={"status": "ok", "data": "wrong"})
    await hand.write("ack", id=sent["id"], payload={"status": "ok", "data": "right"})
    await hand.write("ack", id=sent["id"], payload={"status": "error", "error": {"code": "WS_X"}})
    assert await call == "right"
    other = asyncio.create_task(who.call("put", 2))
    assert (await hand.ack(status="ok", data=2))["id"] != sent["id"]
    assert await other == 2
    await who.close()


async def test_an_ack_that_tells_an_error_in_its_own_way_is_an_error(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    call = asyncio.create_task(who.call("put", 1))
    await hand.ack(status="perhaps", error={"code": "OWN", "later": 1})
    with pytest.raises(ServerFault) as refused:
        await call
    assert (refused.value.code, refused.value.message) == ("OWN", "")
    await who.close()


# Positions


@pytest.mark.parametrize("codec", CODECS)
async def test_offsets_that_go_back_are_doubles_and_those_that_leap_are_not(server: Peer, codec: str) -> None:
    who = client(server.url, codec=codec)
    hand = await meet(server, who, resume="r")
    said = who.messages("m")
    await hand.system("joined", room="a", epoch="e", offset=5)
    for offset in (6, 4, 6, 1000, 7, 2**53):
        await hand.write("event", "m", room="a", payload=offset, meta={"epoch": "e", "offset": offset})
    await hand.write("event", "m", room="a", payload="anew", meta={"epoch": "f", "offset": 1})
    assert [(await anext(said)).payload for _ in range(4)] == [6, 1000, 2**53, "anew"]
    assert who.rooms == {"a": Position("f", 1)}
    await who.close()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("offset", [-1, 1.5, True, "7", 2**63, 2**64 - 1, None])
async def test_an_offset_that_is_none_is_no_position(server: Peer, codec: str, offset: Any) -> None:
    who = client(server.url, codec=codec)
    hand = await meet(server, who, resume="r")
    said, back = who.messages("m"), who.stream(Resumed)
    await hand.system("joined", room="a", epoch="e", offset=5)
    await hand.write("event", "m", room="a", payload=1, meta={"epoch": "e", "offset": offset})
    assert (await anext(said)).payload == 1
    assert who.rooms == {"a": Position("e", 5)}
    hand.cut()
    again = await server.accept()
    assert (await again.greet(resume="r"))["resume"]["rooms"] == {"a": {"epoch": "e", "offset": 5}}
    await again.system("resumed", rooms={"a": {"recovered": True, "epoch": "e", "offset": 5}})
    assert (await anext(back)).rooms["a"].recovered
    await who.close()


async def test_the_server_says_which_rooms_it_is_in_though_it_asked_for_others(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who, resume="r")
    news = who.stream(Resumed, Gap, Left)
    await hand.system("joined", room="a", epoch="e", offset=5)
    await hand.system("joined", room="b", epoch="e", offset=5)
    hand.cut()
    hand = await server.take(resume="r")
    await hand.system(
        "resumed", rooms={"b": {"recovered": False, "epoch": "f", "offset": 0}, "new": {"recovered": True}}
    )
    assert isinstance(await anext(news), Resumed)
    assert await anext(news) == Gap(cause="not_recovered", room="b", position=Position("f", 0))
    assert await anext(news) == Left(room="a", resumed=False)
    assert who.rooms == {"b": Position("f", 0), "new": None}
    await who.close()


# Numbers


@pytest.mark.parametrize("codec", ["msgpack", "cbor"])
@pytest.mark.parametrize("wrong", [{"heartbeat": math.nan}, {"heartbeat": -1}, {"expires": math.nan}])
async def test_a_welcome_of_absurd_numbers_ends_it(server: Peer, codec: str, wrong: dict[str, Any]) -> None:
    who = client(server.url, codec=codec)
    connecting = asyncio.create_task(who.connect())
    hand = await server.take(**wrong)
    with pytest.raises(ConnectionEnded, match="does not speak protocol v1"):
        await connecting
    assert (await hand.ended())[0] == 1002


@pytest.mark.parametrize("codec", ["msgpack", "cbor"])
@pytest.mark.parametrize("far", [1e12, 1e300, math.inf])
async def test_numbers_beyond_all_time_harm_nothing(server: Peer, codec: str, far: float) -> None:
    who = client(server.url, codec=codec, random=lambda: 0.0)
    hand = await meet(server, who, heartbeat=far, expires=far)
    news = who.stream(GoAway, Disconnected)
    await hand.system("goaway", reason="x", reconnect_in=far)
    assert (await anext(news)).reconnect_in == 3600
    assert 3500 < (await anext(news)).retry_in <= 3600
    assert who.state is State.RECONNECTING
    await who.close()


async def test_a_delay_in_a_close_has_a_bound(server: Peer) -> None:
    who = client(server.url, random=lambda: 0.0)
    hand = await meet(server, who)
    news = who.stream(Disconnected)
    await hand.close(4529, '{"after": 1e12}')
    assert (await anext(news)).retry_in == 3600
    await who.close()


# What a user meets


async def test_a_payload_of_another_type_is_told_as_a_fault_and_the_next_is_read(server: Peer) -> None:
    who = client(server.url)
    hand = await meet(server, who)
    numbers: list[Message[int]] = []
    who.on("n", type=int)(numbers.append)
    stream = who.messages("n", type=int)
    await hand.write("event", "n", payload="one")
    await hand.write("event", "n", payload=2)
    with pytest.raises(PayloadInvalid) as wrong:
        await anext(stream)
    assert (wrong.value.event, wrong.value.details) == ("n", [{"path": "$", "expected": "int", "got": "str"}])
    assert (await anext(stream)).payload == 2
    call = asyncio.create_task(who.call("ask", type=int))
    await hand.ack(status="ok", data="one")
    with pytest.raises(PayloadInvalid):
        await call
    await who.close()
    assert [message.payload for message in numbers] == [2]
