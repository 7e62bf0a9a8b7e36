"""The two examples of configuration that Aquilia began with: all of them has its effect."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from redis_servers import RedisServer

from aquilia import Identity, JWTAuthManager
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Socket,
    SocketController,
    SocketFault,
    Subscribe,
)
from aquilia.testing import HandshakeRefused, SocketsTest, sockets_test

Where = Literal["manifest", "@Socket"]

MANIFEST = {
    "adapter": "redis",
    "redis_url": "redis://localhost:6379",
    "max_connections": 10000,
    "message_rate_limit": 10,
    "max_message_size": 65536,
    "backpressure": {"strategy": "buffer", "buffer_size": 100},
    "allowed_origins": ["https://example.com"],
    "require_auth": True,
}
SOCKET = {
    "allowed_origins": ["https://example.com"],
    "max_connections": 1000,
    "message_rate_limit": 10,
    "max_message_size": 65536,
    "compression": True,
}
PAGE = {"origin": "https://example.com"}
ADA, BOB = Identity("ada"), Identity("bob")
AUTH = JWTAuthManager("a secret of 32 bytes, or of more")


class Chat(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "general"

    @Event("echo")
    async def echo(self, conn: Connection, payload: Any) -> Any:
        return payload

    @Event("say")
    async def say(self, conn: Connection, payload: int) -> None:
        for number in range(payload):
            await self.publish_room("general", "message.receive", number)


def chat(**settings: Any) -> type[SocketController]:
    return Socket("/chat/:namespace", **settings)(type("ChatSocket", (Chat,), {}))


@pytest.fixture(autouse=True)
def redis_of_the_example(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is elsewhere than at the port of the example, which somebody else may have."""
    monkeypatch.setitem(MANIFEST, "redis_url", redis_server.url())


def example(where: Where, keys: set[str]) -> tuple[type[SocketController], dict[str, Any]]:
    """A controller, and the settings of its manifest, that say these keys of the example."""
    if where == "manifest":
        return chat(), {key: MANIFEST[key] for key in keys}
    return chat(**{key: SOCKET[key] for key in keys}), {}


@pytest.mark.parametrize(("where", "keys"), [("manifest", MANIFEST.keys()), ("@Socket", SOCKET.keys())])
def test_each_of_it_is_taken(where: Where, keys: set[str]) -> None:
    for key in keys:
        controller, settings = example(where, {key})
        AquilaSockets.from_controllers([controller], auth=AUTH, **settings)


@pytest.mark.parametrize(("where", "keys"), [("manifest", MANIFEST.keys()), ("@Socket", SOCKET.keys())])
async def test_what_is_taken_has_its_effect(where: Where, keys: set[str]) -> None:
    controller, settings = example(where, keys)
    async with sockets_test(controller, **settings) as t:
        with pytest.raises(HandshakeRefused, match="WS_ORIGIN_NOT_ALLOWED"):
            await t.connect("/chat/a", headers={"origin": "https://evil.example"})

        if "require_auth" in keys:
            with pytest.raises(HandshakeRefused, match="WS_AUTH_REQUIRED"):
                await t.connect("/chat/a", headers=PAGE)

        ada = await t.connect("/chat/a", headers=PAGE, identity=ADA)
        answers = await asyncio.gather(*(ada.request("echo", n) for n in range(20)))
        assert answers == [*range(20)]
        with pytest.raises(SocketFault, match="WS_RATE_LIMIT_EXCEEDED: more than 10 messages a second"):
            await asyncio.gather(*(ada.request("echo") for _ in range(10)))

        bob = await t.connect("/chat/a", headers=PAGE, identity=BOB)
        assert len(await bob.request("echo", "x" * 65_000)) == 65_000
        await bob.send("echo", "x" * 65_536)
        assert (await bob.closed()).code == 1009


@pytest.mark.parametrize(("waiting", "ended"), [(100, False), (101, True)])
async def test_a_hundred_messages_may_wait(waiting: int, ended: bool) -> None:
    controller, settings = example("manifest", MANIFEST.keys())
    async with sockets_test(controller, **settings) as t:
        slow, quick = [await t.connect("/chat/a", identity=who) for who in (ADA, BOB)]
        for client in (slow, quick):
            await client.request("enter")
        slow.stop_reading()
        await quick.send("say", 1)
        await quick.expect("message.receive")  # the other's is in the wire
        await quick.send("say", waiting)
        for _ in range(waiting):
            await quick.expect("message.receive")
        slow.read_on()
        if ended:
            assert (await slow.closed()).code == 4531
        else:
            numbers = [(await slow.expect("message.receive")).payload for _ in range(1 + waiting)]
            assert numbers == [0, *range(waiting)]


@pytest.mark.parametrize(("where", "limit"), [("manifest", 10_000), ("@Socket", 1000)])
async def test_connections_are_bounded(where: Where, limit: int) -> None:
    controller, settings = example(where, {"max_connections"})
    async with sockets_test(controller, **settings) as t:
        await connect_many(t, limit)
        with pytest.raises(HandshakeRefused, match="WS_OVERLOADED"):
            await t.connect("/chat/a")


async def connect_many(t: SocketsTest, count: int) -> None:
    for _ in range(count):
        await t.connect("/chat/a")
