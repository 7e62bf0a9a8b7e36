"""What shows the settings: each function looks at an application, and says whether it is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

from aquilia import Identity
from aquilia.sockets import (
    Connection,
    Event,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
    Subscribe,
)
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_forbidden
from aquilia.testing import Client, HandshakeRefused, SocketsTest

WHILE = 0.3
"""Seconds within which a bound of 0.05 has shown itself, if it is kept."""


class Hall(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection, payload: str) -> str:
        return payload

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("say")
    async def say(self, conn: Connection, payload: list[str]) -> None:
        for word in payload:
            await self.publish_room("hall", "said", word)

    @Event("recall")
    async def recall(self, conn: Connection) -> list[Any]:
        return [told.payload for told in (await self.history("hall")).messages]

    @Event("count", delivery="effectively_once")
    async def count(self, conn: Connection) -> int:
        conn.state["counted"] = conn.state.get("counted", 0) + 1
        return int(conn.state["counted"])

    @Event("wait")
    async def wait(self, conn: Connection) -> None:
        await asyncio.Event().wait()


def hall(path: str = "/hall/:name", **settings: Any) -> type[SocketController]:
    return Socket(path, **settings)(type("AnyHall", (Hall,), {}))


class Verdict(SocketGuard):
    def __init__(self, verdict: bool) -> None:
        self.verdict = verdict

    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return self.verdict


async def refusing(conn: Connection, envelope: Any, next: Any) -> Any:
    raise ws_forbidden()


async def passing(conn: Connection, envelope: Any, next: Any) -> Any:
    return await next(conn, envelope)


async def refused(*requests: Awaitable[Any]) -> bool:
    """Whether the last of these is refused, and only that."""
    *first, last = requests
    for request in first:
        await request
    try:
        await last
    except (HandshakeRefused, SocketFault):
        return True
    return False


async def one_connection(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a"), t.connect("/hall/a"))


async def one_of_ada(t: SocketsTest) -> bool:
    ada = Identity("ada")
    return await refused(t.connect("/hall/a", identity=ada), t.connect("/hall/b", identity=ada))


async def ten_handshakes(t: SocketsTest) -> bool:
    return await refused(*(t.connect("/hall/a") for _ in range(11)))


async def of_a_proxy(t: SocketsTest) -> bool:
    """Whether the kit's client, which is at 127.0.0.1, can say which host it came to."""
    told = {"forwarded": "for=192.0.2.1;host=a.example", "origin": "http://a.example"}
    return not await refused(t.connect("/hall/a", headers=told))


async def one_namespace(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a"), t.connect("/hall/b"))


async def one_message(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    return await refused(client.request("echo"), client.request("echo"))


async def few_bytes(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    return await refused(client.request("echo", "x" * 200), client.request("echo"))


async def two_of_ada(t: SocketsTest) -> list[Client]:
    return [await t.connect(f"/hall/{name}", identity=Identity("ada")) for name in "ab"]


async def one_message_of_ada(t: SocketsTest) -> bool:
    first, second = await two_of_ada(t)
    return await refused(first.request("echo"), second.request("echo"))


async def few_bytes_of_ada(t: SocketsTest) -> bool:
    first, second = await two_of_ada(t)
    return await refused(first.request("echo", "x" * 200), second.request("echo"))


async def impatient_with_the_silent(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    await t.clock.advance(20)
    try:
        await client.request("echo")
    except AssertionError:
        return (await client.closed()).code == 4508
    return False


async def no_message(t: SocketsTest) -> bool:
    return await refused((await t.connect("/hall/a")).request("echo"))


async def small_messages(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    await client.request("echo", "x" * 20)
    try:
        await client.request("echo", "x" * 200)
    except AssertionError:
        return (await client.closed()).code == 1009
    return False


async def nobody_anonymous(t: SocketsTest) -> bool:
    await t.connect("/hall/a", identity=Identity("ada"))
    return await refused(t.connect("/hall/a"))


async def no_page_of_b(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a", headers={"origin": "https://b.example"}))


async def no_localhost(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a", headers={"host": "localhost"}))


async def no_soap(t: SocketsTest) -> bool:
    return await refused(t.connect("/hall/a", subprotocol="soap"))


async def remembered(t: SocketsTest) -> bool:
    """Whether a room remembers one message only."""
    client = await t.connect("/hall/a")
    await client.request("say", ["a", "b"])
    try:
        return bool(await client.request("recall") == ["b"])
    except SocketFault:  # it remembers nothing
        return False


async def one_room(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a")
    return await refused(client.request("enter", "a"), client.request("enter", "b"))


async def counting(t: SocketsTest) -> bool:
    ada, bob = await t.connect("/hall/a", subprotocol="aquilia.v1.json"), await t.connect("/hall/a")
    await ada.request("enter", "a")
    await bob.request("enter", "a")
    await t.clock.advance(1)
    told: dict[str, Any] = {}
    with contextlib.suppress(AssertionError):  # where there is no more, or none
        while "count" not in told:
            told = (await ada.expect("presence", type="system", timeout=0.1)).payload
    return "count" in told


async def one_member(t: SocketsTest) -> bool:
    ada, bob = await t.connect("/hall/a"), await t.connect("/hall/a")
    return await refused(ada.request("enter", "a"), bob.request("enter", "a"))


async def nothing_to_come_back_to(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a", subprotocol="aquilia.v1.json", hello=False)
    client._send(MessageEnvelope(type="control", event="hello"))
    return "resume" not in (await client.expect("welcome", type="system")).payload


async def timed_out(t: SocketsTest) -> bool:
    try:
        await (await t.connect("/hall/a")).request("wait", timeout=WHILE)
    except SocketFault as fault:
        return fault.code == "WS_OVERLOADED"
    except AssertionError:
        return False


async def forgetful(t: SocketsTest) -> bool:
    """Whether an answer is given anew after 200 seconds."""
    client = await t.connect("/hall/a")
    assert await client.request("count") == 1
    await t.clock.advance(200)
    client._requests = 0  # so that the next has the id of the first
    return bool(await client.request("count") == 2)


async def impatient_with_slow_readers(t: SocketsTest) -> bool:
    """Whether a client is shown out while three words wait for it."""
    slow, quick = await t.connect("/hall/a"), await t.connect("/hall/a")
    await slow.request("enter", "hall")
    slow.stop_reading()
    await quick.request("say", ["the wire takes one"])
    await quick.request("say", ["x"] * 3)
    slow.read_on()
    try:
        await slow.request("echo")
    except AssertionError:
        return (await slow.closed()).code == 4531
    return False


async def taking_access_back(t: SocketsTest) -> bool:
    client = await t.connect("/hall/a", identity=Identity("ann"))
    try:
        await t.application.sockets.revoke(identity="ann")
    except RuntimeError:
        return False
    return (await client.closed()).code == 4401
