"""A client of protocol v1 hears nothing before its `hello` has been accepted, whoever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from wire import TRANSPORTS, Client, eventually, serving

from aquilia import Identity, JWTAuthManager
from aquilia.sockets import AquilaSockets, Connection, Event, OnConnect, Socket, SocketController
from aquilia.testing import sockets_test

V1 = "aquilia.v1.json"
TOKENS = JWTAuthManager("a key of this test, 32 bytes or more")


class Told(SocketController):
    @OnConnect()
    async def tell(self, conn: Connection) -> None:
        await self.broadcast("came", conn.identity and conn.identity.id)

    @Event("tell all")
    async def tell_all(self, conn: Connection, payload: str) -> None:
        await self.broadcast("told", payload)

    @Event("tell ann")
    async def tell_ann(self, conn: Connection, payload: str) -> None:
        await self.publish_identity("ann", "told", payload)


@Socket("/members", require_auth=True)
class MembersSocket(Told):
    pass


@Socket("/anybody")
class AnybodySocket(Told):
    pass


def token(name: str) -> str:
    return TOKENS.issue(Identity(name), lifetime=60)


def bearer(name: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token(name)}"}}


def opened(**settings: Any) -> Any:
    return sockets_test(MembersSocket, AnybodySocket, auth=TOKENS, **settings)


async def test_a_stranger_who_may_still_say_who_it_is_hears_nothing_meanwhile() -> None:
    async with opened() as t:
        stranger = await t.connect("/members", subprotocol=V1, hello=False)
        bob = await t.connect("/members", token=token("bob"))
        await bob.request("tell all", "a secret")

        await stranger.expect_nothing()
        assert (await bob.expect("told")).payload == "a secret"


async def test_a_token_in_hello_is_where_publications_find_its_owner() -> None:
    async with opened() as t:
        ann = await t.connect("/members", subprotocol=V1, token=token("ann"))
        bob = await t.connect("/members", token=token("bob"))
        await bob.request("tell ann", "hello")

        assert (await ann.expect("told")).payload == "hello"


async def test_who_leaves_before_its_hello_leaves_nothing_behind() -> None:
    async with opened() as t:
        live = t.application.sockets.live
        silent = await t.connect("/anybody", subprotocol=V1, hello=False)
        assert live()["connections"] == 1
        await silent.disconnect()
        assert live()["connections"] == 0


async def test_who_is_silent_is_told_when_the_application_stops() -> None:
    async with opened() as t:
        silent = await t.connect("/anybody", subprotocol=V1, hello=False)
        await t.application.shutdown()
        assert (await silent.closed()).code == 1012


@pytest.fixture(params=list(TRANSPORTS))
async def base(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    app = AquilaSockets.from_controllers([MembersSocket, AnybodySocket], auth=TOKENS, metrics="collect")
    async with serving(app, ws=TRANSPORTS[request.param]) as base:
        yield base
        await eventually(lambda: app.live()["connections"] == 0)


@pytest.mark.parametrize("event", ["tell all", "tell ann"])
async def test_what_was_published_before_the_welcome_does_not_come_behind_it(base: str, event: str) -> None:
    async with (
        Client.connect(f"{base}/members", "v1.json", hello=False, **bearer("ann")) as ann,
        Client.connect(f"{base}/members", **bearer("bob")) as bob,
    ):
        await bob.request(event, "too early")
        await ann.send("hello", type="control")
        assert [(await ann.receive())["event"] for _ in range(2)] == ["welcome", "came"]
        await bob.request(event, "in time")
        assert (await ann.receive())["payload"] == "in time"
