"""Values of every kind, for every setting: each is honoured, or refused at boot by name; nothing else happens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aquilia.aquilary import BootError
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Event,
    MessageEnvelope,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.settings import SettingsError, node_settings
from aquilia.testing import HandshakeRefused, sockets_test


class Door(SocketGuard):
    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> None: ...


def words() -> Iterator[str]:
    yield "a"


NUMBERS = [True, False, 0, -1, 1, 0.5, 1e308, 10**400, -(10**400), float("nan"), float("inf")]
TEXTS = ["", "x", "a b", "ü\n", "\ud800", b"x"]
LISTS = [[], (), set(), [None], [[]], ["x"], ["a, b"], ["ü"], ["aquilia.v1.json"], range(3), [float("nan")]]
MAPPINGS = [{}, {"a": 1}, {7: 1}, {"strategy": []}, {"buffer_size": float("nan")}, {"buffer_bytes": 10**400}]
OBJECTS = [None, object(), int, len, Door, Door(), [Door], [Door()], words(), iter([Door()])]
VALUES = [*NUMBERS, *TEXTS, *LISTS, *MAPPINGS, *OBJECTS]

with pytest.raises(SettingsError) as unknown:
    node_settings({"?": None}, "here")
MANIFEST = unknown.value.problem.partition("accepted: ")[2].rstrip(")").split(", ")


def subject(**declared: Any) -> type[SocketController]:
    @Socket(**{"path": "/a", **declared})
    class Subject(SocketController):
        @Event("say")
        async def say(self, conn: Connection) -> None: ...

    return Subject


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these values name files, which are then written."""
    monkeypatch.chdir(tmp_path)


async def is_honoured_or_refused(key: str, declared: dict[str, Any], settings: dict[str, Any]) -> None:
    try:
        AquilaSockets.from_controllers([subject(**declared)], **settings)
    except BootError as refused:
        assert key in str(refused)
        return
    async with sockets_test(subject(**declared), **settings) as t:
        try:
            await t.connect("/a")
        except HandshakeRefused as refused:
            assert refused.code in {"WS_HANDSHAKE_FAILED", "WS_NAMESPACE_NOT_FOUND"}


@pytest.mark.parametrize("key", MANIFEST)
async def test_a_setting_of_a_manifest_is_honoured_or_refused_by_name(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", "what-an-admin-says-in-these-tests-alone")
    for value in VALUES:
        await is_honoured_or_refused(key, {}, {key: value})


@pytest.mark.parametrize("key", inspect.signature(Socket).parameters)
async def test_an_argument_of_socket_is_honoured_or_refused_by_name(key: str) -> None:
    for value in VALUES:
        if not (key == "path" and isinstance(value, type)):
            await is_honoured_or_refused(key, {key: value}, {})


@pytest.mark.parametrize("key", ["guards", "middleware"])
@pytest.mark.parametrize(
    "value", [None, 7, "Door", Door, Door(), {"a": 1}, words()], ids=lambda value: type(value).__name__
)
def test_guards_and_middleware_are_lists(key: str, value: Any) -> None:
    class Subject(SocketController):
        @Event("say", **{key: value})
        async def say(self, conn: Connection) -> None: ...

    for controller in (Socket("/a")(Subject), subject(**{key: value})):
        with pytest.raises(BootError) as refused:
            AquilaSockets.from_controllers([controller])
        assert f"{key}: a list is needed, not {value!r}" in str(refused.value)


def test_socket_without_a_path_is_refused_where_it_stands() -> None:
    with pytest.raises(
        TypeError, match=r"@Socket needs a path, as in @Socket\('/chat/:room'\), above .*Bare"
    ):

        @Socket  # type: ignore[arg-type]
        class Bare(SocketController): ...


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a b", "a subprotocol is a word of ASCII, without spaces and commas, not 'a b'"),
        ("ü", "not 'ü'"),
        ("aquilia.v1.json", "'aquilia.v1.json' is for Aquilia itself to speak"),
    ],
)
def test_a_subprotocol_that_no_client_can_offer_is_refused(name: str, told: str) -> None:
    with pytest.raises(BootError) as refused:
        AquilaSockets.from_controllers([subject(subprotocols=["soap", name])])
    assert "subprotocols: " in str(refused.value)
    assert told in str(refused.value)


def test_a_message_size_that_no_buffer_has_is_refused() -> None:
    assert node_settings({"max_message_size": 2**31 - 1}, "here").sockets.max_message_size == 2**31 - 1
    with pytest.raises(SettingsError, match="one message has at most 2147483647 bytes"):
        node_settings({"max_message_size": 2**31}, "here")


@pytest.mark.parametrize("key", ["message_rate_limit", "allowed_origins", "allowed_hosts", "handler_timeout"])
def test_what_is_none_by_default_may_be_said(key: str) -> None:
    assert node_settings({key: None}, "here") == node_settings({}, "here")


def test_guards_are_not_ordered_by_what_is_no_number() -> None:
    door = Door()
    door.priority = float("nan")  # type: ignore[assignment]
    with pytest.raises(BootError, match="guards: Door: priority is a number, not nan"):
        AquilaSockets.from_controllers([subject(guards=[door])])


@pytest.mark.parametrize("path", ["/чат/:комната", "/чат/:room", "/🙂/:room", "/a b/:room", "/%41/:room"])
async def test_a_path_of_any_letters_is_served_or_refused_at_boot(path: str) -> None:
    try:
        app = subject(path=path)
        AquilaSockets.from_controllers([app])
    except BootError as refused:
        assert path in str(refused)
        return
    async with sockets_test(app) as t:
        client = await t.connect(path.replace(":room", "ü"))
        await client.request("say")


@pytest.mark.parametrize("ack", [None, 1, "yes"])
def test_an_event_is_acked_or_not(ack: Any) -> None:
    with pytest.raises(ValueError, match="say: ack is True or False, not"):
        Event("say", ack=ack)


@pytest.mark.parametrize("development", [None, "production", 1])
def test_development_is_not_whatever_is_true(development: Any) -> None:
    with pytest.raises(TypeError, match="development is True or False, not"):
        AquilaSockets.from_controllers([subject()], development=development)


@pytest.mark.parametrize("registry", [[subject()], subject(), None])
def test_controllers_are_no_registry(registry: Any) -> None:
    with pytest.raises(TypeError, match=r"controllers go to AquilaSockets.from_controllers\(\[…\]\)"):
        AquilaSockets(registry)


def test_an_event_name_can_be_written() -> None:
    with pytest.raises(ValueError, match="an event's name is text"):
        Event("\ud800")
