"""An error that was answered is gone at once, with the connection that it leads to: nobody waits for garbage."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from weakref import WeakSet

import pytest
from door import expect_close
from legacy import DEPRECATED
from members import bearer, hello
from wire import Client, eventually

from aquilia import Fault, Identity, SessionEngine
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Guard,
    Handshake,
    OnConnect,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
)
from aquilia.sockets.compat import Flow, FlowRequest

pytestmark = DEPRECATED

KEPT: WeakSet[Exception] = WeakSet()


class Broken(Exception):
    def __init__(self) -> None:
        KEPT.add(self)


class Refused(Fault):
    def __init__(self) -> None:
        super().__init__("WS_AUTH_REQUIRED", "who are you", status=401)
        KEPT.add(self)


class Doorkeeper:
    """Whose token is their role."""

    async def authenticate(self, token: str) -> Identity:
        if token == "broken":
            raise Broken
        return Identity("ann", roles=[token])


class Known(SocketGuard):
    def check_handshake(self, handshake: Handshake) -> None:
        if handshake.identity is None:
            raise Refused


@Socket("/known", guards=[Known()])
class Members(SocketController):
    pass


@Socket("/desk")
class Desk(SocketController):
    @Event("refuse")
    async def refuse(self, conn: Connection) -> None:
        raise Refused


@Socket("/greeted")
class Greeted(SocketController):
    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        raise Broken


@Socket("/halls")
class Halls(SocketController):
    @Subscribe("enter")
    async def enter(self, conn: Connection) -> str:
        return "hall"

    @Guard(on="room")
    async def may_enter(self, conn: Connection, room: str) -> None:
        if "nobody" in conn.identity.roles:
            raise Broken


@pytest.fixture
def app() -> AquilaSockets:
    flow = Flow()

    @flow.ws("/flow")
    async def broken(request: FlowRequest) -> None:
        await request.accept()
        raise Broken

    controllers = [Greeted, Halls, Members, Desk, *flow.controllers]
    return AquilaSockets.from_controllers(controllers, auth=Doorkeeper(), sessions=SessionEngine("s" * 32))


@pytest.fixture(autouse=True)
def nobody_collects(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "aquilia.faults")  # pytest keeps what is logged
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    KEPT.clear()


async def test_what_a_greeting_raised(base: str) -> None:
    async with Client.connect(f"{base}/greeted") as client:
        await expect_close(client, 1011)
    await eventually(lambda: not KEPT)


async def test_what_a_manager_raised_of_a_token(base: str) -> None:
    async with Client.connect(f"{base}/halls", "v1.json", **bearer("clerk")) as client:
        answer = await client.request("auth", {"token": "broken"}, type="control")
        assert answer["error"]["code"] == "WS_INTERNAL_ERROR"
        await eventually(lambda: not KEPT)


async def test_what_the_guard_of_a_room_raised_of_another_identity(base: str) -> None:
    async with Client.connect(f"{base}/halls", "v1.json", **bearer("clerk")) as client:
        assert (await client.request("enter"))["status"] == "ok"
        await client.send("auth", {"token": "nobody"}, type="control", id="auth")
        await expect_close(client, 1011)
    await eventually(lambda: not KEPT)


async def test_what_a_handler_raised_that_has_a_session(base: str) -> None:
    async with Client.connect(f"{base}/desk") as client:
        assert (await client.request("refuse"))["error"]["code"] == "WS_AUTH_REQUIRED"
        await eventually(lambda: not KEPT)


async def test_why_a_client_has_to_say_who_it_is(base: str) -> None:
    async with Client.connect(f"{base}/known", "v1.json", hello=False) as client:
        await hello(client)
        await expect_close(client, 4401)
    await eventually(lambda: not KEPT)


async def test_what_a_function_raised_that_has_its_connection_as_a_whole(base: str) -> None:
    async with Client.connect(f"{base}/flow") as client:
        await expect_close(client, 1011)
    await eventually(lambda: not KEPT)
