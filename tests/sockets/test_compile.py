"""The compiler: what stands in the artifact for each thing that a controller declares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aquilia.aquilary import Registry
from aquilia.manifest import AppManifest
from aquilia.sockets import (
    AckEvent,
    Connection,
    Emits,
    Event,
    Guard,
    OnConnect,
    OnDisconnect,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
    Unsubscribe,
)
from aquilia.sockets.artifact import Artifact, NamespaceRecord, canonical_text, read, write
from aquilia.sockets.compile import artifact_of
from aquilia.sockets.plan import SocketPlan


class Line(msgspec.Struct):
    text: str
    tags: tuple[str, ...] = ()


class Members(SocketGuard):
    priority = 20

    def check_message(self, conn: Any, envelope: Any) -> None: ...


class Door:
    """No SocketGuard, and a guard all the same."""

    def check_handshake(self, handshake: Any) -> None: ...

    def check_message(self, conn: Any, envelope: Any) -> None: ...


async def timed(conn: Any, envelope: Any, next: Any) -> Any: ...


class Counting:
    async def __call__(self, conn: Any, envelope: Any, next: Any) -> Any: ...


@Socket(
    "//chat/:team/:room:int/",
    guards=[Door(), Members()],
    middleware=[timed],
    max_message_size=1000,
    allowed_origins=["https://example.com"],
)
class Chat(SocketController):
    """People who
    talk.

    More of it.
    """

    said = Emits("said", Line)
    counted = Emits("counted", int)

    @OnConnect()
    async def enter(self, conn: Connection) -> None: ...

    @OnDisconnect()
    async def leave(self, conn: Connection) -> None: ...

    @Guard(priority=30)
    def check(self, conn: Any, envelope: Any) -> None: ...

    @Guard(priority=10, on="handshake")
    def admit(self, handshake: Any) -> None: ...

    @Event("say", guards=[Members()], middleware=[Counting()])
    async def say(self, conn: Connection, payload: Line) -> int:
        """Say something."""
        return 1

    @AckEvent("anything")
    async def anything(self, conn: Connection) -> None: ...

    @Subscribe("join")
    async def join(self, conn: Connection, payload: str) -> str:
        return payload

    @Unsubscribe("part")
    async def part(self, conn: Connection, payload: str) -> str:
        return payload


@Socket("/a")
class Bare(SocketController): ...


def compiled(*manifests: AppManifest) -> Artifact:
    problems: list[Any] = []
    plan = SocketPlan.read(Registry.build(manifests), problems)
    assert not problems
    return artifact_of(plan)


@pytest.fixture(scope="module")
def chat() -> NamespaceRecord:
    [namespace] = compiled(AppManifest("chat", controllers=[Chat])).namespaces
    return namespace


def test_apps_and_namespaces_are_sorted() -> None:
    found = compiled(
        AppManifest("zebra", version="2.1", controllers=[Chat]),
        AppManifest("ant", controllers=[Bare], depends_on=["zebra"]),
    )

    assert [(app.name, app.version, app.depends_on) for app in found.apps] == [
        ("ant", "0.0.0", ("zebra",)),
        ("zebra", "2.1", ()),
    ]
    assert [(each.path, each.app) for each in found.namespaces] == [
        ("/a", "ant"),
        ("/chat/:team/:room:int", "zebra"),
    ]


def test_a_namespace_names_its_controller_and_its_parameters(chat: NamespaceRecord) -> None:
    assert chat.controller == f"{__name__}:Chat"
    assert [(each.name, each.kind) for each in chat.parameters] == [("team", "str"), ("room", "int")]


def test_the_first_paragraph_of_the_docstring_is_one_line(chat: NamespaceRecord) -> None:
    assert chat.doc == "People who talk."


def test_a_class_does_not_have_the_docstring_of_its_base() -> None:
    [bare] = compiled(AppManifest("a", controllers=[Bare])).namespaces

    assert bare.doc == ""


def test_settings_are_those_in_force() -> None:
    manifest = AppManifest(
        "chat", controllers=[Chat, Bare], websockets={"max_message_size": 7, "message_rate_limit": 3}
    )

    bare, chat = compiled(manifest).namespaces
    assert bare.settings["max_message_size"] == 7
    assert chat.settings["max_message_size"] == 1000
    assert chat.settings["message_rate_limit"] == 3.0
    assert chat.settings["allowed_origins"] == ["https://example.com"]
    assert chat.settings["backpressure"]["strategy"] == "buffer"


def test_events_are_sorted_and_say_how_they_are_handled(chat: NamespaceRecord) -> None:
    assert [(each.name, each.kind, each.handler, each.ack, each.delivery) for each in chat.events] == [
        ("anything", "event", "anything", True, "at_most_once"),
        ("join", "subscribe", "join", False, "at_most_once"),
        ("part", "unsubscribe", "part", False, "at_most_once"),
        ("say", "event", "say", False, "at_most_once"),
    ]


def test_an_event_has_the_schemas_of_its_payload_and_of_its_answer(chat: NamespaceRecord) -> None:
    anything, join, _, say = chat.events

    assert say.payload["properties"]["text"] == {"type": "string"}
    assert say.payload["required"] == ["text"]
    assert say.answer == {"type": "integer"}
    assert join.payload == {"type": "string"}
    assert anything.payload == {}
    assert anything.answer is msgspec.UNSET


def test_an_event_names_its_own_guards_and_middleware(chat: NamespaceRecord) -> None:
    say = chat.events[-1]

    assert say.doc == "Say something."
    assert say.guards == (f"{__name__}:Members",)
    assert say.middleware == (f"{__name__}:Counting",)


def test_emitted_events_are_sorted_and_have_a_schema(chat: NamespaceRecord) -> None:
    assert [each.name for each in chat.emits] == ["counted", "said"]
    assert chat.emits[0].payload == {"type": "integer"}


def test_guards_stand_in_the_order_in_which_they_run_with_what_they_check(chat: NamespaceRecord) -> None:
    assert [(guard.name, guard.priority, guard.on) for guard in chat.guards] == [
        ("admit", 10, ("handshake",)),
        (f"{__name__}:Members", 20, ("message",)),
        ("check", 30, ("message",)),
        (f"{__name__}:Door", 50, ("handshake", "message")),
    ]


def test_middleware_and_hooks_are_named(chat: NamespaceRecord) -> None:
    assert chat.middleware == (f"{__name__}:timed",)
    assert [(hook.handler, hook.on) for hook in chat.hooks] == [("enter", "connect"), ("leave", "disconnect")]


def test_what_was_compiled_equals_what_is_read_again(tmp_path: Path) -> None:
    artifact = compiled(AppManifest("chat", controllers=[Chat]))
    write(tmp_path / "ws.crous", artifact)

    again = read(tmp_path / "ws.crous")
    assert again == artifact
    assert canonical_text(again) == canonical_text(artifact)


SOURCE = """
import msgspec
from typing import Literal
from aquilia.sockets import Event, Socket, SocketController
from aquilia.manifest import AppManifest

class Pick(msgspec.Struct):
    one: Literal["b", "a", "c"]
    some: set[Literal["x", "y", "z"]] = set()

@Socket("/x")
class X(SocketController):
    @Event("pick")
    async def pick(self, conn, payload: Pick) -> frozenset[str]: ...

manifest = AppManifest("x", controllers=[X])
"""

COMPILE = """
import sys
from aquilia.aquilary import Registry
from aquilia.sockets.artifact import canonical_text
from aquilia.sockets.compile import artifact_of
from aquilia.sockets.plan import SocketPlan
from app import manifest
sys.stdout.write(canonical_text(artifact_of(SocketPlan.read(Registry.build([manifest]), []))))
"""


def test_the_same_sources_give_the_same_bytes_in_any_folder_and_process(tmp_path: Path) -> None:
    texts = set()
    for seed, folder in (("1", "here"), ("2", "there")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "app.py").write_text(SOURCE)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        texts.add(
            subprocess.check_output(
                [sys.executable, "-c", COMPILE], cwd=tmp_path / folder, env=environment, text=True
            )
        )

    [text] = texts
    assert str(tmp_path) not in text
    assert '"/x"' in text
