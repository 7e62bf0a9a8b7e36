"""Guards and message middleware of a whole app: in its settings, outside of all that its controllers declare."""

from __future__ import annotations

from typing import Any

import pytest
import websockets
from wire import TRANSPORTS, Client, serving

from aquilia.aquilary import BootError, Registry
from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    Guard,
    Handshake,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.compile import artifact_of

JOURNAL: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    JOURNAL.clear()


class Door(SocketGuard):
    def __init__(self, name: str, priority: int = 50) -> None:
        self.name, self.priority = name, priority

    def check_handshake(self, handshake: Handshake) -> bool:
        JOURNAL.append(f"{self.name} at the door")
        return self.name not in handshake.query_params

    def check_message(self, conn: Connection, envelope: Any) -> bool:
        JOURNAL.append(self.name)
        return envelope.id != self.name


class Around:
    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, conn: Connection, envelope: Any, next: Any) -> Any:
        JOURNAL.append(self.name)
        return await next(conn, envelope)


@Socket("/a", guards=[Door("socket guard")], middleware=[Around("socket middleware")])
class First(SocketController):
    @Guard()
    def method(self, conn: Connection, envelope: Any) -> None:
        JOURNAL.append("method guard")

    @Event("say", guards=[Door("event guard", 40)], middleware=[Around("event middleware")])
    async def say(self, conn: Connection) -> None:
        JOURNAL.append("handler")


@Socket("/b")
class Second(SocketController):
    @Event("say")
    async def say(self, conn: Connection) -> None:
        JOURNAL.append("handler")


@pytest.mark.parametrize("transport", list(TRANSPORTS))
async def test_what_an_app_declares_stands_outermost(transport: str) -> None:
    app = AquilaSockets.from_controllers(
        [First, Second],
        guards=[Door("app guard"), Door("first guard", 30)],
        message_middleware=[Around("app middleware"), Around("next middleware")],
    )
    async with serving(app, ws=TRANSPORTS[transport]) as base:
        async with Client.connect(f"{base}/a") as client:
            assert JOURNAL == ["first guard at the door", "app guard at the door", "socket guard at the door"]
            JOURNAL.clear()
            assert (await client.request("say"))["status"] == "ok"
            assert [
                *("app middleware", "next middleware", "socket middleware", "event middleware"),
                *("first guard", "event guard", "app guard", "socket guard", "method guard", "handler"),
            ] == JOURNAL
            await client.send("say", id="app guard", ack=True)
            assert (await client.receive())["payload"]["error"]["code"] == "WS_FORBIDDEN"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{base}/b?app%20guard=1", proxy=None)
        assert refused.value.response.status_code == 403
        async with Client.connect(f"{base}/b") as client:
            JOURNAL.clear()
            await client.request("say")
            assert JOURNAL == ["app middleware", "next middleware", "first guard", "app guard", "handler"]


async def test_one_app_does_not_guard_another() -> None:
    guarded = AppManifest(
        "guarded",
        controllers=[First],
        websockets={"guards": [Door("app guard")], "message_middleware": [Around("app middleware")]},
    )
    app = AquilaSockets(Registry.build([guarded, AppManifest("free", controllers=[Second])]))
    async with serving(app) as base, Client.connect(f"{base}/b") as client:
        await client.request("say")
        assert JOURNAL == ["handler"]


def test_two_apps_may_declare_different_ones() -> None:
    manifests = [
        AppManifest(name, controllers=[controller], websockets={"guards": [Door(name)]})
        for name, controller in (("one", First), ("two", Second))
    ]
    AquilaSockets(Registry.build(manifests))


def test_the_artifact_has_what_stands_before_a_controller() -> None:
    app = AquilaSockets.from_controllers(
        [First], guards=[Door("app guard", 99)], message_middleware=[Around("app middleware")]
    )
    (namespace,) = artifact_of(app.plan).namespaces
    door, around = f"{__name__}:Door", f"{__name__}:Around"
    assert [(guard.name, guard.priority) for guard in namespace.guards] == [
        (door, 50),
        ("method", 50),
        (door, 99),
    ]
    assert namespace.middleware == (around, around)


def sync(conn: Connection, envelope: Any, next: Any) -> Any: ...


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"guards": [Door]}, "guards: Door is a class; write Door()"),
        (
            {"guards": [object(), Door]},
            "is no guard; it needs check_message, check_handshake or check_room; Door is a class",
        ),
        ({"guards": Door("x")}, "guards: a list is needed, not <"),
        ({"guards": "Door"}, "guards: a list is needed, not 'Door'"),
        ({"guards": [Door("x", None)]}, "guards: Door: priority is a number, not None"),  # type: ignore[arg-type]
        ({"message_middleware": [Around]}, "message_middleware: Around is a class; write Around()"),
        ({"message_middleware": [sync]}, "message_middleware: sync is not async"),
        ({"message_middleware": {"a": 1}}, "message_middleware: a list is needed"),
        ({"guard": [Door("x")]}, "guard: unknown setting; did you mean 'guards'?"),
        (
            {"middleware": [Around("x")]},
            "middleware of messages is the setting 'message_middleware'; that of requests",
        ),
    ],
)
def test_what_could_not_stand_there_is_refused_at_boot(settings: dict[str, Any], told: str) -> None:
    manifest = AppManifest("shop", controllers=[First], websockets=settings)
    with pytest.raises(BootError) as refused:
        AquilaSockets(Registry.build([manifest]))
    assert "manifest 'shop'" in str(refused.value)
    assert told in str(refused.value)


def test_message_middleware_is_not_taken_for_that_of_handshakes() -> None:
    with pytest.raises(BootError, match=r"must take two arguments, \(ctx, call_next\)"):
        AquilaSockets.from_controllers([First], middleware=[Around("x")])
