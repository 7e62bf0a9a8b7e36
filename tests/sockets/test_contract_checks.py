"""What would go wrong at run time, or be passed over in silence, is refused when a controller is read."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest

from aquilia.aquilary import Problem
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    Emits,
    Event,
    Guard,
    Handshake,
    OnConnect,
    Socket,
    SocketController,
    SocketGuard,
)
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.contract_reading import read_contract
from aquilia.sockets.guards import guard_checks
from aquilia.sockets.settings import NodeSettings


def read(controller: type) -> tuple[SocketContract | None, list[str]]:
    problems: list[Problem] = []
    contract = read_contract(controller, NodeSettings(), problems)
    return contract, [problem.message for problem in problems]


def on_socket(**given: Any) -> list[str]:
    @Socket("/a", **given)
    class Plain(SocketController):
        pass

    return read(Plain)[1]


def on_event(**given: Any) -> list[str]:
    @Socket("/a")
    class Plain(SocketController):
        @Event("x", **given)
        async def handle(self, conn: Connection) -> None: ...

    return read(Plain)[1]


class AtTheDoor(SocketGuard):
    def check_handshake(self, handshake: Handshake) -> bool:
        return True


class OnMessages(SocketGuard):
    async def check_message(self, conn: Connection, envelope: Any) -> bool:
        return True


class Both(AtTheDoor, OnMessages):
    pass


class Duck:
    def check_message(self, conn: Connection, envelope: Any) -> bool:
        return True


class Idle(SocketGuard):
    priority = 3


class Short:
    def check_message(self, conn: Connection) -> bool:
        return True

    def check_handshake(self) -> bool:
        return True


class Dumb:
    check_message = True


@pytest.mark.parametrize("guard", [AtTheDoor(), OnMessages(), Both(), Duck()])
def test_a_socket_takes_guards_of_either_kind(guard: Any) -> None:
    assert on_socket(guards=[guard]) == []


@pytest.mark.parametrize("guard", [OnMessages(), Both(), Duck()])
def test_an_event_takes_guards_of_messages(guard: Any) -> None:
    assert on_event(guards=[guard]) == []


def test_a_guard_that_would_never_be_asked_is_refused() -> None:
    (told,) = on_event(guards=[AtTheDoor()])
    assert told == "guards: AtTheDoor has no check_message: it guards handshakes; put it on @Socket"


@pytest.mark.parametrize("guard", [Idle(), Dumb(), object(), "admin"])
def test_a_guard_that_checks_nothing_is_refused(guard: Any) -> None:
    for (told,) in (on_socket(guards=[guard]), on_event(guards=[guard])):
        assert "is no guard; it needs check_message, check_handshake or check_room" in told


def test_a_check_that_cannot_be_called_is_refused() -> None:
    assert on_socket(guards=[Short()]) == [
        "guards: Short.check_message must take (conn, envelope)",
        "guards: Short.check_handshake must take (handshake)",
    ]


def test_only_checks_that_check_something_are_asked() -> None:
    guards = [AtTheDoor(), OnMessages(), Both(), Duck()]
    assert [check.__self__ for _, check in guard_checks(guards, "check_message")] == guards[1:]  # type: ignore[attr-defined]
    assert [check.__self__ for _, check in guard_checks(guards, "check_handshake")] == [guards[0], guards[2]]  # type: ignore[attr-defined]


async def passing(conn: Connection, envelope: Any, next: Any) -> Any:
    return await next(conn, envelope)


class Passing:
    async def __call__(self, conn: Connection, envelope: Any, next: Any) -> Any:
        return await next(conn, envelope)


async def configured(level: int, conn: Connection, envelope: Any, next: Any) -> Any:
    return await next(conn, envelope)


def sync(conn: Connection, envelope: Any, next: Any) -> Any: ...


class SyncCall:
    def __call__(self, conn: Connection, envelope: Any, next: Any) -> Any: ...


async def short(conn: Connection, next: Any) -> Any: ...


@pytest.mark.parametrize("entry", [passing, Passing(), functools.partial(configured, 3)])
def test_middleware_is_anything_async_that_takes_the_three(entry: Any) -> None:
    assert on_socket(middleware=[entry]) == on_event(middleware=[entry]) == []


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (sync, "middleware: sync is not async; write `async def (conn, envelope, next)`"),
        (SyncCall(), "middleware: SyncCall is not async; write `async def (conn, envelope, next)`"),
        (short, "middleware: short must take (conn, envelope, next)"),
        (Passing, "middleware: Passing is a class; write Passing()"),
        ("json:loads", "middleware: 'json:loads' is not callable as (conn, envelope, next)"),
    ],
)
def test_middleware_that_could_not_run_is_refused(entry: Any, problem: str) -> None:
    assert on_socket(middleware=[entry]) == on_event(middleware=[entry]) == [problem]


def test_a_handler_that_hides_what_a_controller_can_do_is_refused() -> None:
    @Socket("/a")
    class Hiding(SocketController):
        @Event("kick")
        async def kick(self, conn: Connection, payload: str) -> None: ...  # type: ignore[override]

    (told,) = read(Hiding)[1]
    assert told == "kick hides SocketController.kick; give the method another name"


def test_a_controller_may_extend_what_it_can_do() -> None:
    @Socket("/a")
    class Extending(SocketController):
        async def kick(self, connection_id: str) -> bool:
            return await super().kick(connection_id)

    assert read(Extending)[1] == []


class Old(msgspec.Struct):
    text: str


class New(msgspec.Struct):
    words: list[str]


def test_one_event_is_not_emitted_as_two_types() -> None:
    @Socket("/a")
    class Torn(SocketController):
        said = Emits("said", Old)
        spoken = Emits("said", New)

    (told,) = read(Torn)[1]
    assert told == "event 'said' is declared by said, and differently by spoken"


def test_one_event_may_be_declared_twice_alike() -> None:
    shared = Emits("said", Old)

    @Socket("/a")
    class Alike(SocketController):
        said = shared
        spoken = Emits("said", Old)

    contract, problems = read(Alike)
    assert problems == []
    assert contract is not None
    assert list(contract.emits) == ["said"]


def test_what_a_subclass_declares_takes_the_place_of_what_it_inherits() -> None:
    class Base(SocketController):
        said = Emits("said", Old)
        left = Emits("left", Old)

    @Socket("/a")
    class Changed(Base):
        said = Emits("spoken", New)
        left = None  # type: ignore[assignment]

    contract, problems = read(Changed)
    assert problems == []
    assert contract is not None
    assert list(contract.emits) == ["spoken"]


def test_wrong_settings_and_a_wrong_path_do_not_hide_what_else_is_wrong() -> None:
    @Socket(
        "/a/:x:number", presence="all", room_size=0, backpressure={"strategy": "bufer"}, guards=[AtTheDoor]
    )
    class Wrong(SocketController):
        @OnConnect()
        async def open(self) -> None: ...

    contract, problems = read(Wrong)
    assert contract is None
    for part in (
        "number",
        "presence: True, False, or Presence(rooms=…, large=…) is needed, not 'all'",
        "room_size: a whole number of at least 1",
        "backpressure.strategy: unknown strategy 'bufer'",
        "AtTheDoor is a class",
        "open must take (self, conn)",
    ):
        assert any(part in problem for problem in problems), (part, problems)
    assert len(problems) == 6


@pytest.mark.parametrize("priority", ["high", None, True])
def test_a_guards_priority_is_a_number(priority: Any) -> None:
    with pytest.raises(ValueError, match="priority"):
        Guard(priority=priority)
    guard = Duck()
    guard.priority = priority  # type: ignore[attr-defined]
    (told,) = on_socket(guards=[guard])
    assert told == f"guards: Duck: priority is a number, not {priority!r}"


def test_what_is_sound_boots() -> None:
    @Socket("/a", guards=[Both()], middleware=[passing, Passing()])
    class Sound(SocketController):
        pass

    AquilaSockets.from_controllers([Sound])
