"""What a client of protocol v1 is before its `hello`, or while its token is looked at: nobody."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import websockets
from door import denial, expect_close
from members import CONTROLLERS, Slow, bearer, by_cookie, hello
from wire import Client, eventually, serving

from aquilia import Identity
from aquilia.sockets import AquilaSockets, Connection, Event, Socket, SocketController


@Socket("/news", require_auth=True)
class News(SocketController):
    @Event("tell")
    async def tell(self, conn: Connection, payload: str) -> None:
        await self.broadcast("told", payload)

    @Event("whisper")
    async def whisper(self, conn: Connection, payload: list[str]) -> None:
        await self.publish_identity(payload[0], "whispered", payload[1])

    @Event("kick")
    async def throw_out(self, conn: Connection, payload: str) -> bool:
        return await self.kick(payload)


@pytest.fixture
def users() -> Slow:
    return Slow()


@pytest.fixture
def app(users: Slow) -> AquilaSockets:
    return AquilaSockets.from_controllers(
        [News, *CONTROLLERS], auth=users, middleware=[by_cookie], handshake_timeout=5
    )


async def test_nothing_is_published_to_who_has_not_said_hello(base: str) -> None:
    async with (
        Client.connect(f"{base}/news", "v1.json", hello=False) as nobody,
        Client.connect(f"{base}/news", "v1.json", hello=False, **bearer("ann")) as silent,
        Client.connect(f"{base}/news", **bearer("bob")) as bob,
    ):
        await bob.request("tell", "a secret")
        await bob.request("whisper", ["ann", "another"])

        await hello(silent)
        assert (await silent.receive())["event"] == "welcome"
        await bob.send("tell", "now")
        assert (await silent.receive())["payload"] == "now"

        await hello(nobody)
        with pytest.raises(websockets.ConnectionClosed):
            assert await nobody.receive() is None


async def test_nothing_is_published_to_who_waits_for_its_verdict(base: str, users: Slow) -> None:
    async with (
        Client.connect(f"{base}/news", "v1.json", hello=False) as waiting,
        Client.connect(f"{base}/news", **bearer("bob")) as bob,
    ):
        await hello(waiting, token="slow")
        await eventually(lambda: users.asked == ["bob", "asked slow"])
        await bob.request("tell", "a secret")
        await bob.request("whisper", ["slow", "another"])
        users.let_go.set()
        assert (await waiting.receive())["event"] == "welcome"
        await bob.request("whisper", ["slow", "now"])
        assert (await waiting.receive())["payload"] == "now"


async def test_who_has_not_said_hello_can_be_thrown_out(base: str, app: AquilaSockets) -> None:
    async with (
        Client.connect(f"{base}/news", "v1.json", hello=False) as nobody,
        Client.connect(f"{base}/news", **bearer("bob")) as bob,
    ):
        (conn,) = app.hub.homes["/news"].arriving
        assert (await bob.request("kick", conn))["data"] is True
        await expect_close(nobody, 4409)
    await eventually(lambda: app.live()["connections"] == 0)


async def test_what_waits_for_the_answer_to_hello_is_counted_once(transport: Any, users: Slow) -> None:
    app = AquilaSockets.from_controllers(CONTROLLERS, auth=users, metrics="/metrics")
    async with serving(app, ws=transport) as base:
        async with Client.connect(f"{base}/members", "v1.json", hello=False) as client:
            await hello(client, token="slow")
            for n in range(3):
                await client.send("say", str(n))
            await client.socket.ping()
            await eventually(lambda: users.asked == ["asked slow"])
            users.let_go.set()
            await client.expect("welcome")
            assert (await client.request("say", "last"))["status"] == "ok"
        meter = app.recorder.meter("/members")
        assert meter is not None
        assert meter.received["say"].messages == 4
        assert meter.received_kinds["control"].messages == 1


class Odd(Slow):
    """Does with some tokens what no AuthManager should."""

    async def authenticate(self, token: str) -> Identity:
        if token == "cancels":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        if token == "exits":
            raise asyncio.CancelledError
        if token == "deaf":
            await self.let_go.wait()
        return await super().authenticate(token)


@pytest.mark.parametrize("token", ["cancels", "exits"])
async def test_an_authentication_that_is_cancelled_lets_nobody_in(transport: Any, token: str) -> None:
    app = AquilaSockets.from_controllers([News], auth=Odd(), handshake_timeout=5)
    async with serving(app, ws=transport) as base:
        async with Client.connect(f"{base}/news", "v1.json", hello=False) as client:
            await hello(client, token=token)
            with contextlib.suppress(websockets.ConnectionClosed):
                await (await client.socket.ping())  # the authentication has failed by now
                await hello(client)  # and who has no token is not let in by another hello
            assert (await expect_close(client, 1011)).startswith("WS_INTERNAL_ERROR")
        await eventually(lambda: app.live()["connections"] == 0)
        assert app.live()["tasks"] == 0


async def test_who_waits_too_long_takes_no_place_behind_that(transport: Any) -> None:
    app = AquilaSockets.from_controllers([News], auth=Odd(), handshake_timeout=0.2)
    async with serving(app, ws=transport) as base:
        async with Client.connect(f"{base}/news", "v1.json", hello=False) as client:
            await hello(client, token="deaf")
            await expect_close(client, 4508)
        async with asyncio.timeout(3):  # a handler would have longer
            while app.live()["connections"]:
                await asyncio.sleep(0.005)


async def test_a_handshake_waits_no_longer_for_the_manager_either(transport: Any) -> None:
    app = AquilaSockets.from_controllers([News], auth=Odd(), handshake_timeout=0.2, max_connections=1)
    async with serving(app, ws=transport) as base:
        status, body = await denial(f"{base}/news", **bearer("deaf"))
        assert (status, body["code"]) == (503, "WS_OVERLOADED")
        assert "0.2 s" in body["message"]
        async with Client.connect(f"{base}/news", **bearer("ann")):
            pass
