"""What `@OnConnect` raises decides how the connection ends."""

from __future__ import annotations

import pytest
from wire import Client

from aquilia import Fault
from aquilia.sockets import AquilaSockets, Connection, Event, OnConnect, Socket, SocketController
from aquilia.sockets.faults import (
    ws_auth_required,
    ws_forbidden,
    ws_kicked,
    ws_namespace_not_found,
    ws_overloaded,
    ws_quota_exceeded,
    ws_room_full,
)

REFUSALS: dict[str, tuple[Exception, int]] = {
    "auth": (ws_auth_required(), 4401),
    "forbidden": (ws_forbidden(), 4403),
    "nowhere": (ws_namespace_not_found("/x"), 4404),
    "kicked": (ws_kicked(), 4409),
    "quota": (ws_quota_exceeded("enough of you"), 4429),
    "overloaded": (ws_overloaded("come back later"), 1013),
    "room": (ws_room_full("lobby", 5), 1011),
    "own-401": (Fault("NO_TICKET", "no ticket", status=401), 4401),
    "own-403": (Fault("BANNED", "banned", status=403), 4403),
    "own-404": (Fault("NO_SUCH_BOARD", "no such board", status=404), 4404),
    "own-503": (Fault("MAINTENANCE", "closed for today", status=503), 1013),
    "own-500": (Fault("BROKEN", "broken"), 1011),
    "error": (RuntimeError("a secret"), 1011),
}


@Socket("/strict/:reason")
class Strict(SocketController):
    @OnConnect()
    async def first(self, conn: Connection) -> None:
        if self.path_params["reason"] != "none":
            raise REFUSALS[self.path_params["reason"]][0]

    @OnConnect()
    async def second(self, conn: Connection) -> None:
        await conn.send_event("greeting")

    @Event("echo")
    async def echo(self, conn: Connection) -> str:
        return "answered"


@pytest.fixture
def app() -> AquilaSockets:
    return AquilaSockets.from_controllers([Strict])


@pytest.mark.parametrize("profile", ["plain", "v1.json"])
async def test_the_close_code_tells_why(base: str, profile: str) -> None:
    ends = {}
    for reason, (error, _) in REFUSALS.items():
        async with Client.connect(f"{base}/strict/{reason}", profile, hello=False) as client:
            if profile != "plain":
                await client.send(type="control", event="hello")
            ends[reason], text = await client.closed()
        assert text.startswith(error.code if isinstance(error, Fault) else "WS_INTERNAL_ERROR: ")
        assert "secret" not in text
    assert ends == {reason: code for reason, (_, code) in REFUSALS.items()}


async def test_without_a_refusal_all_run_and_then_the_messages(base: str) -> None:
    async with Client.connect(f"{base}/strict/none") as client:
        await client.send("echo", id="1", ack=True)
        await client.expect("greeting")
        assert (await client.receive())["payload"]["data"] == "answered"
