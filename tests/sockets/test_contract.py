"""Reading controllers: what is understood, and every problem with its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aquilia import GET, AppManifest
from aquilia.aquilary import BootError, Problem, Registry
from aquilia.sockets import (
    AquilaSockets,
    Connection,
    DisconnectReason,
    Emits,
    Event,
    Guard,
    Handshake,
    OnConnect,
    OnDisconnect,
    Schema,
    Socket,
    SocketController,
    SocketGuard,
    Subscribe,
)
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.contract_reading import read_contract
from aquilia.sockets.plan import SocketPlan
from aquilia.sockets.settings import NodeSettings


class Note(msgspec.Struct):
    text: str


class Answer(msgspec.Struct):
    n: int


def read(controller: type) -> tuple[SocketContract | None, list[str]]:
    problems: list[Problem] = []
    contract = read_contract(controller, NodeSettings(), problems)
    return contract, [
        f"{problem.where.rsplit('/', 1)[-1].split(':')[0]}: {problem.message}" for problem in problems
    ]


def problems_of(controller: type) -> str:
    return "\n".join(read(controller)[1])


def test_a_controller_is_read_whole() -> None:
    class Base(SocketController):
        said = Emits("said", Note)

        @Event("base")
        async def base(self, conn: Connection) -> None: ...

        @Event("changed")
        async def changed(self, conn: Connection) -> None: ...

    @Socket("/a/:id:int", max_rooms=3)
    class Whole(Base):
        @OnConnect()
        async def open(self, conn: Connection) -> None: ...

        @OnDisconnect()
        async def plain(self, conn: Connection) -> None: ...

        @OnDisconnect()
        async def close(self, conn: Connection, reason: DisconnectReason) -> None: ...

        async def changed(self, conn: Connection) -> None: ...

        @Event("note")
        @Event("remark", ack=True)
        async def note(self, conn: Connection, payload: Note) -> Answer: ...

        @Event("seed", schema=Schema({"text": str}))
        async def seed(self, conn: Connection, payload: Any) -> None: ...

        @Guard(priority=70)
        async def late(self, conn: Connection, envelope: Any) -> None: ...

        @Guard(priority=5, on="handshake")
        def early(self, handshake: Handshake) -> bool: ...

    contract, problems = read(Whole)
    assert problems == []
    assert contract is not None
    assert set(contract.events) == {"base", "changed", "note", "remark", "seed"}
    note = contract.events["note"]
    assert (note.payload.annotation, note.takes_payload) == (Note, True)
    assert note.answer is not None
    assert note.answer.annotation is Answer
    assert contract.events["remark"].declaration.ack
    assert contract.events["base"].answer is None
    assert not contract.events["base"].takes_payload
    assert [hook.takes_reason for hook in contract.on_disconnect] == [False, True]
    assert [guard.handler.attribute for guard in contract.guards] == ["early", "late"]
    assert list(contract.emits) == ["said"]
    assert contract.settings.max_rooms == 3
    assert contract.name.endswith(":test_a_controller_is_read_whole.<locals>.Whole")


def test_every_problem_of_a_controller_is_told_at_once_with_its_place() -> None:
    @Socket("/a", guards=[SocketGuard, object()], middleware=[str, 7])
    class Wrong(SocketController):
        def __init__(self, unknown) -> None:  # type: ignore[no-untyped-def]
            ...

        @GET("/page")
        async def page(self) -> str: ...

        @OnConnect()
        async def open(self) -> None: ...

        @OnDisconnect()
        async def close(self) -> None: ...

        @Event("sync")
        def sync(self, conn: Connection) -> None: ...

        @Event("bare")
        async def bare(self) -> None: ...

        @Event("one")
        async def first(self, conn: Connection) -> None: ...

        @Event("one")
        async def second(self, conn: Connection) -> None: ...

        @Event("later", backpressure={"strategy": "conflate"})
        async def later(self, conn: Connection) -> None: ...

        @Event("typed")
        async def typed(self, conn: Connection, payload: SocketController) -> None: ...

        @Event("lost")
        async def lost(self, conn: Connection, payload: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

        @Guard()
        async def guard(self) -> None: ...

        @Guard(on="handshake")
        async def door(self, a: Any, b: Any) -> None: ...

    told = problems_of(Wrong)
    for part in (
        "SocketGuard is a class; write SocketGuard()",
        "is no guard",
        "str is a class; write str()",
        "7 is not callable",
        "unknown",
        "put the HTTP route page into a Controller of its own",
        "open must take (self, conn)",
        "close must take (self, conn) or (self, conn, reason)",
        "sync is not async",
        "bare must take (self, conn, payload)",
        "event 'one' is handled by second, and already by first at",
        "declare it on the event that is sent, as in Emits(",
        "typed: the payload",
        "Nowhere",
        "guard must take (self, conn, envelope)",
        "door must take (self, handshake)",
    ):
        assert part in told, (part, told)
    assert all(line.startswith("test_contract.py:") for line in told.splitlines() if "planned" in line)


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Socket("/a")(type("Bare", (), {})), "does not extend SocketController"),
        (lambda: type("Lonely", (SocketController,), {}), "has no @Socket(path)"),
        (lambda: Socket("/a/:x:number")(type("Odd", (SocketController,), {})), "number"),
        (lambda: Socket("/a", presence=1)(type("Odd", (SocketController,), {})), "True, False, or Presence"),
    ],
)
def test_a_class_that_cannot_be_served(declare: Any, told: str) -> None:
    contract, problems = read(declare())
    assert contract is None
    assert told in problems[0]


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Event(""), "1 to 128 characters"),
        (lambda: Event("x" * 129), "1 to 128 characters"),
        (lambda: Subscribe("error"), "reserved"),
        (lambda: Event("x", delivery="at_leest_once"), "did you mean 'at_least_once'"),  # type: ignore[arg-type]
        (lambda: Guard(on="door"), "'message', 'handshake' or 'room'"),  # type: ignore[arg-type]
        (lambda: Emits("x", Note, durable=1), "True or False"),  # type: ignore[arg-type]
        (lambda: Emits("x", Note, backpressure={}), "{'strategy': 'conflate', 'key': 'symbol'} is needed"),
        (lambda: Emits("x", Note, backpressure={"strategy": "conflat"}), "did you mean 'conflate'"),
        (lambda: Emits("x", Note, backpressure={"strategy": "spol"}), "did you mean 'spool'"),
        (
            lambda: Emits("x", Note, backpressure={"strategy": "spool", "key": "a"}),
            "key is for .* 'conflate'",
        ),
        (
            lambda: Emits("x", Note, backpressure={"strategy": "drop_oldest", "key": "a"}),
            "key is for .* 'conflate'",
        ),
        (
            lambda: Emits("x", Note, backpressure={"strategy": "conflate", "key": 7}),
            "a function of the payload",
        ),
        (
            lambda: Emits("x", Note, backpressure={"strategy": "conflate", "buffer_size": 7}),
            "buffer_size is of a connection as a whole",
        ),
        (lambda: Emits("x", Note, backpressure={"strategy": "conflate", "kee": 7}), "unknown setting 'kee'"),
    ],
)
def test_a_declaration_that_can_never_be_right_is_refused_where_it_stands(declare: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        declare()


def test_an_emitted_event_shows_what_it_is() -> None:
    assert repr(Emits("said", Note)) == f"Emits('said', {Note!r})"


def plan_of(*manifests: AppManifest) -> tuple[SocketPlan, list[str]]:
    problems: list[Problem] = []
    plan = SocketPlan.read(Registry.build(manifests), problems)
    return plan, [problem.message for problem in problems]


@Socket("/one/:a")
class One(SocketController):
    pass


@Socket("/one/:b")
class Another(SocketController):
    pass


def test_two_controllers_of_the_same_paths_are_refused_with_both_places() -> None:
    _, (told,) = plan_of(AppManifest("a", controllers=[One, Another]))
    assert "/one/:a" in told
    assert "/one/:b" in told
    assert told.count("test_contract.py") == 2


def test_settings_of_the_process_may_be_said_once_or_alike() -> None:
    plan, problems = plan_of(
        AppManifest("a", controllers=[One], websockets={"heartbeat": 10}),
        AppManifest("b", websockets={"heartbeat": 10, "max_namespaces": 5}),
    )
    assert problems == []
    assert (plan.node.heartbeat, plan.node.max_namespaces) == (10, 5)


def test_settings_of_the_process_that_differ_are_refused() -> None:
    _, (told,) = plan_of(
        AppManifest("a", websockets={"heartbeat": 10}), AppManifest("b", websockets={"heartbeat": 20})
    )
    assert told == "websockets: heartbeat is 20.0 here, and 10.0 in another manifest"


def test_what_is_wrong_is_raised_as_one_error() -> None:
    with pytest.raises(BootError) as refused:
        AquilaSockets.from_controllers([One, Another], adapter="reddis", store_url="reddis://h")
    assert len(refused.value.problems) == 3
