"""Identities that expire: a client that can ask for tokens renews them in time, on the open link."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from peer import Peer, client, meet, peer
from tokens import JWT, token
from wire import TIMEOUT, serving

from aquilia.client import Connected, Disconnected, State
from aquilia.client.options import Options
from aquilia.client.session import Session
from aquilia.client.steps import TokenWanted
from aquilia.clock import Clock
from aquilia.sockets import AquilaSockets, Event, Socket, SocketController
from aquilia.sockets.codecs import codec

TODAY = 1_800_000_000.0


def live(lasts: float | None, *, chance: float = 1.0, renewable: bool = True) -> Session:
    """A session that is welcomed at the moment 0, with an identity that is good for so many seconds."""
    made = Session(codec("json"), random=lambda: chance, options=Options(renewable=renewable))
    made.start(0.0)
    made.opened("first", 0.0, today=TODAY)
    told = {} if lasts is None else {"expires": (TODAY + lasts) * 1000}
    welcome = {"type": "system", "event": "welcome", "payload": {"connection": "c", "heartbeat": 0, **told}}
    made.received(json.dumps(welcome), 0.0)
    drain(made)
    return made


def drain(machine: Session) -> list[dict[str, Any]]:
    frames = []
    while (data := machine.next_frame()) is not None:
        frames.append(json.loads(data))
    return frames


def wanted(machine: Session, now: float) -> bool:
    """Whether a token is asked for at that moment."""
    machine.take_events()
    machine.tick(now)
    return any(isinstance(event, TokenWanted) for event in machine.take_events())


def answer(machine: Session, id: str, now: float, **payload: Any) -> None:
    machine.received(json.dumps({"type": "ack", "id": id, "payload": payload}), now)


@pytest.mark.parametrize(
    ("lasts", "chance", "due"),
    [(3600, 1.0, 3540), (3600, 0.0, 3570), (100, 1.0, 80), (100, 0.0, 90), (10, 1.0, 8)],
)
def test_a_token_is_asked_for_a_while_before_the_identity_expires_and_not_by_all_at_once(
    lasts: float, chance: float, due: float
) -> None:
    machine = live(lasts, chance=chance)
    assert machine.deadline() == pytest.approx(due)
    assert not wanted(machine, due - 0.1)
    assert wanted(machine, due + 0.1)
    assert not wanted(machine, due + 0.2)


@pytest.mark.parametrize("lasts", [None, 0.5, 0, -600, math.inf])
def test_none_is_asked_for_where_there_is_no_time_or_all_time(lasts: float | None) -> None:
    machine = live(None if lasts == math.inf else lasts)
    assert machine.deadline() is None
    assert not wanted(machine, 10_000.0)


def test_none_is_asked_for_where_there_is_only_one() -> None:
    assert live(100, renewable=False).deadline() is None


def test_the_new_token_goes_before_all_that_waits_and_its_expiry_counts() -> None:
    machine = live(100)
    assert wanted(machine, 80)
    machine.send("x", 1)
    machine.renew(machine.link, "second", 80.0)
    auth, other = drain(machine)
    assert (auth["type"], auth["event"], auth["payload"]) == ("control", "auth", {"token": "second"})
    assert other["event"] == "x"
    answer(machine, auth["id"], 81.0, status="ok", data={"expires": (TODAY + 1081) * 1000})
    assert machine.deadline() == pytest.approx(81 + 1000 - 60)
    assert [event for event in machine.take_events() if not isinstance(event, State | Connected)] == []


@pytest.mark.parametrize("data", [None, {}, {"expires": None}])
def test_an_identity_that_does_not_expire_any_more_is_renewed_no_more(data: Any) -> None:
    machine = live(100)
    assert wanted(machine, 80)
    machine.renew(machine.link, "second", 80.0)
    (auth,) = drain(machine)
    answer(machine, auth["id"], 81.0, status="ok", data=data)
    assert machine.deadline() is None
    assert machine.state is State.CONNECTED


def test_a_token_that_lasts_no_longer_is_asked_for_again_but_not_for_ever() -> None:
    machine, asked = live(100), 0
    while (due := machine.deadline()) is not None:
        assert wanted(machine, due + 0.001)
        machine.renew(machine.link, "the same", due)
        (auth,) = drain(machine)
        answer(machine, auth["id"], due + 0.002, status="ok", data={"expires": (TODAY + 100) * 1000})
        asked += 1
    assert 2 <= asked <= 5


@pytest.mark.parametrize("how", ["no token", "refused"])
def test_what_fails_is_tried_again_while_there_is_time(how: str) -> None:
    machine, tries = live(100), []
    while (due := machine.deadline()) is not None:
        tries.append(due)
        assert wanted(machine, due)
        if how == "no token":
            machine.renew(machine.link, None, due)
        else:
            machine.renew(machine.link, "second", due)
            (auth,) = drain(machine)
            error = {"code": "WS_OVERLOADED", "message": "later", "retryable": True}
            answer(machine, auth["id"], due, status="error", error=error)
    assert tries == pytest.approx([80, 90, 95, 97.5, 98.75])
    assert machine.state is State.CONNECTED


def test_a_token_for_a_link_that_is_gone_is_not_said_on_the_next() -> None:
    machine = live(100)
    assert wanted(machine, 80)
    former = machine.link
    machine.lost(1006, "", 81.0)
    machine.tick(99.0)
    machine.opened("second", 99.0, today=TODAY + 99)
    drain(machine)
    machine.renew(former, "late", 99.5)
    assert drain(machine) == []


def test_a_client_that_was_told_to_go_renews_nothing() -> None:
    machine = live(100)
    machine.call("put", None, now=79.0)
    drain(machine)
    machine.received('{"type":"system","event":"goaway","payload":{"reconnect_in":0}}', 79.0)
    assert not wanted(machine, 80)
    machine.renew(machine.link, "second", 80.0)
    assert drain(machine) == []


@pytest.fixture
async def server() -> AsyncIterator[Peer]:
    async with asyncio.timeout(TIMEOUT), peer() as server:
        yield server


async def test_the_function_is_asked_and_its_token_shown_by_the_clock_of_the_client(server: Peer) -> None:
    tokens = iter(["first", "second", "third"])
    who = client(server.url, token=lambda: next(tokens), clock=Clock(time=lambda: TODAY))
    hand = await meet(server, who, expires=(TODAY + 1.1) * 1000)
    for expected in ("second", "third"):
        asked = await hand.read()
        assert (asked["type"], asked["event"]) == ("control", "auth")
        assert asked["payload"] == {"token": expected}
        expires = (TODAY + 2.5) * 1000
        await hand.write("ack", id=asked["id"], payload={"status": "ok", "data": {"expires": expires}})
    assert who.state is State.CONNECTED
    await who.close()


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_function_that_hangs_or_fails_leaves_the_link_alone_and_nothing_behind(
    server: Peer, how: str
) -> None:
    asked = asyncio.Event()

    async def given() -> str:
        if who.state is State.CONNECTED:
            asked.set()
            if how == "fails":
                raise OSError("the disk is gone")
            await asyncio.Event().wait()
        return "first"

    who = client(server.url, token=given, clock=Clock(time=lambda: TODAY))
    hand = await meet(server, who, expires=(TODAY + 1.1) * 1000)
    await asked.wait()
    assert who.state is State.CONNECTED
    await who.close()
    assert (await hand.ended())[0] == 1000
    assert [task for task in asyncio.all_tasks() if "client" in task.get_name()] == []


@Socket("/hall")
class Hall(SocketController):
    @Event("who")
    async def who(self, payload: Any = None) -> None:
        """Answer."""


@pytest.mark.parametrize("form", ["json", "msgpack", "cbor"])
async def test_a_connection_outlives_its_tokens(form: str) -> None:
    asked = 0

    def given() -> str:
        nonlocal asked
        asked += 1
        return token("ann", lifetime=4)

    app = AquilaSockets.from_controllers([Hall], auth=JWT, require_auth=True)
    async with asyncio.timeout(TIMEOUT), serving(app) as base:
        async with client(f"{base}/hall", codec=form, token=given) as who:
            gone = who.stream(Disconnected)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(gone), 5.0)
            await who.call("who")
    assert asked >= 2
