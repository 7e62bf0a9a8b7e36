"""What stands before a handler and before a connection: guards, middleware, limits, timeouts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets
from wire import TRANSPORTS, Client, eventually, serving

from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Guard,
    Handshake,
    OnConnect,
    Schema,
    Socket,
    SocketController,
    SocketFault,
    SocketGuard,
)
from aquilia.sockets.faults import ws_auth_required, ws_forbidden
from aquilia.sockets.namespaces import Namespaces
from aquilia.testing import sockets_test

JOURNAL: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    JOURNAL.clear()


class Note(SocketGuard):
    def __init__(self, name: str, priority: int, verdict: Any = None) -> None:
        self.name, self.priority, self.verdict = name, priority, verdict

    def check_handshake(self, handshake: Handshake) -> Any:
        JOURNAL.append(f"{self.name} {handshake.namespace}")
        return "deny" not in handshake.query_params

    async def check_message(self, conn: Connection, envelope: Any) -> Any:
        JOURNAL.append(self.name)
        return self.verdict


class Around:
    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, conn: Connection, envelope: Any, next: Any) -> Any:
        JOURNAL.append(f"{self.name} in")
        if envelope.id == "stop":
            return "stopped"
        answer = await next(conn, envelope)
        JOURNAL.append(f"{self.name} out")
        return answer


@Socket(
    "/guarded/:who",
    guards=[Note("late", 90), Note("early", 10)],
    middleware=[Around("outer")],
)
class Guarded(SocketController):
    @Guard(on="handshake")
    async def known(self, handshake: Handshake) -> None:
        if handshake.path_params["who"] == "nobody":
            raise ws_auth_required("who are you?")

    @Guard(priority=50)
    def method(self, conn: Connection, envelope: Any) -> bool:
        JOURNAL.append("method")
        return envelope.id != "no"

    @Event("open", schema=Schema({"n": int}), guards=[Note("event", 60)], middleware=[Around("inner")])
    async def opened(self, conn: Connection, payload: dict[str, int]) -> int:
        JOURNAL.append("handler")
        return payload["n"]

    @Event("shut", guards=[Note("wall", 70, verdict=False)])
    async def shut(self, conn: Connection) -> None:
        JOURNAL.append("never")


@pytest.mark.parametrize("transport", list(TRANSPORTS))
async def test_guards_run_by_priority_within_the_middleware(transport: str) -> None:
    async with serving(AquilaSockets.from_controllers([Guarded]), ws=TRANSPORTS[transport]) as base:
        async with Client.connect(f"{base}/guarded/ada") as client:
            assert JOURNAL == ["early /guarded/ada", "late /guarded/ada"]
            JOURNAL.clear()
            assert (await client.request("open", {"n": 3}))["data"] == 3
            assert [
                *("outer in", "inner in", "early", "method", "event", "late"),
                *("handler", "inner out", "outer out"),
            ] == JOURNAL
            JOURNAL.clear()
            assert (await client.request("shut"))["error"]["code"] == "WS_FORBIDDEN"
            assert JOURNAL == ["outer in", "early", "method", "wall"]
            JOURNAL.clear()
            await client.send("open", {"n": "bad"}, id="no", ack=True)
            assert (await client.receive())["payload"]["error"]["code"] == "WS_FORBIDDEN"
            assert "event" not in JOURNAL  # nor is the payload looked at
            await client.send("open", {"n": 1}, id="stop", ack=True)
            assert (await client.receive())["payload"] == {"status": "ok", "data": "stopped"}


@pytest.mark.parametrize("transport", list(TRANSPORTS))
@pytest.mark.parametrize(("path", "status", "close"), [("ada?deny=1", 403, 4403), ("nobody", 401, 4401)])
async def test_a_guard_refuses_a_handshake(transport: str, path: str, status: int, close: int) -> None:
    app = AquilaSockets.from_controllers([Guarded])
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/guarded/{path}", proxy=None)
        assert refused.value.response.status_code == status
        async with Client.connect(f"{base}/guarded/{path}", "v1.json", hello=False) as client:
            assert (await client.closed())[0] == close
        await eventually(lambda: app.live()["connections"] == 0)


@Socket("/room/:name", max_connections=2, message_rate_limit=5)
class Limited(SocketController):
    @Event("hit")
    async def hit(self, conn: Connection) -> None:
        pass

    @Event("slow")
    async def slow(self, conn: Connection) -> None:
        await asyncio.Event().wait()


@Socket("/refusing")
class Refusing(SocketController):
    @OnConnect()
    async def refuse(self, conn: Connection) -> None:
        raise ws_forbidden("not today")


async def test_more_connections_than_allowed_are_refused_with_503() -> None:
    app = AquilaSockets.from_controllers([Limited, Refusing], max_connections=3)
    async with serving(app) as base, Client.connect(f"{base}/room/a"):
        async with Client.connect(f"{base}/room/b"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(f"{base}/room/c", proxy=None)
            assert refused.value.response.status_code == 503
            assert b"WS_OVERLOADED" in refused.value.response.body
        await eventually(lambda: app.live()["connections"] == 1)
        async with Client.connect(f"{base}/room/c"):
            pass


async def test_messages_above_the_rate_are_refused_and_too_many_of_them_end_it() -> None:
    async with (
        serving(AquilaSockets.from_controllers([Limited])) as base,
        Client.connect(f"{base}/room/a") as client,
    ):
        for n in range(40):
            await client.send("hit", id=str(n), ack=True)
        answers: dict[int, Any] = {}
        try:
            while True:
                ack = await client.receive()
                answers[int(ack["id"])] = ack["payload"]
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd is not None
            assert closed.rcvd.code == 4529
            assert closed.rcvd.reason == '{"after":10000}'
        refused = [answer["error"]["code"] for answer in answers.values() if answer["status"] == "error"]
        assert refused == ["WS_RATE_LIMIT_EXCEEDED"] * 19  # the twentieth ends it
        assert all(answers[n]["status"] == "error" for n in answers if n > 12)


async def test_the_rate_allows_a_burst_of_twice_itself() -> None:
    async with sockets_test(Limited) as t:
        t.clock.freeze()
        ann = await t.connect("/room/a")
        for _ in range(10):
            await ann.request("hit")
        with pytest.raises(SocketFault, match="WS_RATE_LIMIT_EXCEEDED"):
            await ann.request("hit")


async def test_a_handler_that_takes_too_long_is_answered_as_overload() -> None:
    async with sockets_test(Limited, handler_timeout=30) as t:
        t.clock.freeze()
        ann = await t.connect("/room/a")
        answer = asyncio.create_task(ann.request("slow"))
        await asyncio.sleep(0)
        await t.clock.advance(30)
        with pytest.raises(SocketFault, match="WS_OVERLOADED: slow did not finish within 30 s"):
            await answer
        await ann.request("hit")


async def test_on_connect_may_refuse() -> None:
    async with (
        serving(AquilaSockets.from_controllers([Refusing])) as base,
        Client.connect(f"{base}/refusing") as client,
    ):
        code, reason = await client.closed()
        assert code == 4403
        assert reason == "WS_FORBIDDEN: not today"


async def test_only_known_hosts_are_served() -> None:
    app = AquilaSockets.from_controllers([Limited], allowed_hosts=["app.example"])
    async with serving(app) as base:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/room/a", proxy=None)
        assert refused.value.response.status_code == 400


async def test_namespaces_have_a_quota_and_idle_ones_give_way() -> None:
    app = AquilaSockets.from_controllers([Limited], max_namespaces=2)
    async with serving(app) as base:
        async with Client.connect(f"{base}/room/a"):
            async with Client.connect(f"{base}/room/b"):
                pass
            await eventually(lambda: app.live()["connections"] == 1)
            async with Client.connect(f"{base}/room/c"):
                assert set(app.hub.homes) == {"/room/a", "/room/c"}
                assert app.live()["namespaces"] == 2
    assert isinstance(app._namespaces, Namespaces)
