"""The pure machine of the client, on scripted frames: no network, and the time is passed in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.client import ConnectionEnded, ConnectionLost, Gap, GoAway, Left, Position, State
from aquilia.client.frames import words_in
from aquilia.client.options import Options
from aquilia.client.session import Session
from aquilia.client.steps import Answered, CallFailed, Phase
from aquilia.sockets.codecs import codec


def session(**options: Any) -> Session:
    made = Session(codec("json"), random=lambda: 1.0, options=Options(**options))
    made.start(0.0)
    return made


def frame(kind: str, event: str | None = None, **fields: Any) -> str:
    return json.dumps({"type": kind, "event": event, **fields})


def system(event: str, **payload: Any) -> str:
    return frame("system", event, payload=payload)


def said(offset: int, room: str = "a", epoch: str = "e") -> str:
    return frame("event", "m", room=room, meta={"epoch": epoch, "offset": offset})


def written(machine: Session) -> list[dict[str, Any]]:
    frames = []
    while (data := machine.next_frame()) is not None:
        frames.append(json.loads(data))
    return frames


def welcomed(machine: Session, *frames: str, now: float = 0.0) -> Session:
    machine.opened(None, now)
    for data in (system("welcome", connection="c", heartbeat=10, resume="r1"), *frames):
        machine.received(data, now)
    return machine


def test_a_client_comes_back_with_its_token_and_positions_and_drops_doubles() -> None:
    machine = welcomed(session(), system("joined", room="a", epoch="e", offset=4), said(7), said(9), said(9))
    assert machine.doubles == 1
    machine.lost(1012, "", 1.0)
    assert (machine.phase, machine.state) == (Phase.WAITING, State.RECONNECTING)
    machine.tick(machine.deadline() or 0)
    machine.take_events()
    machine.opened(None, 2.0)
    resume = {"token": "r1", "rooms": {"a": {"epoch": "e", "offset": 9}}}
    (hello,) = written(machine)
    assert hello == {"type": "control", "event": "hello", "payload": {"resume": resume}}

    machine.received(system("welcome", connection="d", heartbeat=10, resume="r2"), 2.0)
    assert machine.state is State.RECONNECTING
    machine.received(system("resumed", rooms={"a": {"recovered": True, "epoch": "e", "offset": 9}}), 2.0)
    machine.received(said(9), 2.0)
    machine.received(said(12), 2.0)
    assert (machine.doubles, machine.positions.rooms) == (2, {"a": Position("e", 12)})


def test_what_was_not_recovered_is_told() -> None:
    machine = welcomed(session(), system("joined", room="a", epoch="e", offset=4), system("joined", room="b"))
    machine.lost(1006, "", 1.0)
    machine.tick(99.0)
    machine.take_events()
    welcomed(
        machine, system("resumed", rooms={"a": {"recovered": False, "epoch": "f", "offset": 2}}), now=99.0
    )
    events = machine.take_events()
    assert Gap(cause="not_recovered", room="a", position=Position("f", 2)) in events
    assert Left(room="b", resumed=False) in events


def test_a_session_that_begins_anew_is_in_no_room() -> None:
    machine = welcomed(session(), system("joined", room="a", epoch="e", offset=4), system("joined", room="b"))
    machine.lost(1006, "", 1.0)
    machine.tick(99.0)
    machine.opened(None, 99.0)
    machine.take_events()
    machine.received(system("welcome", connection="another", heartbeat=10, resume="r9"), 99.0)
    machine.received(system("resumed", rooms={"a": {"recovered": False}}), 99.0)
    events = machine.take_events()
    assert [event for event in events if isinstance(event, Left)] == [
        Left(room="a", resumed=False),
        Left(room="b", resumed=False),
    ]
    assert machine.positions.rooms == {}


def test_a_log_that_has_gone_back_is_followed_from_where_it_is() -> None:
    machine = welcomed(session(), system("joined", room="a", epoch="e", offset=9))
    machine.lost(1006, "", 1.0)
    machine.tick(99.0)
    told = system("resumed", rooms={"a": {"recovered": False, "epoch": "e", "offset": 2}})
    welcomed(machine, told, said(3), now=99.0)
    assert (machine.doubles, machine.positions.rooms) == (0, {"a": Position("e", 3)})


def test_a_call_in_flight_is_lost_and_an_idempotent_one_goes_again_with_its_id_before_what_waited() -> None:
    machine = welcomed(session())
    lost = machine.call("pay", 1, now=0.0)
    again = machine.call("put", 2, now=0.0, idempotent=True)
    written(machine)
    machine.lost(1006, "", 1.0)
    (failed,) = [event for event in machine.take_events() if isinstance(event, CallFailed)]
    assert failed.id == lost
    assert isinstance(failed.fault, ConnectionLost)
    machine.send("later", 3)
    machine.tick(99.0)
    welcomed(machine, system("resumed", rooms={}), now=99.0)
    assert [sent["event"] for sent in written(machine)] == ["hello", "put", "later"]
    assert machine.call("new", None, now=99.0) not in (lost, again)
    machine.received(frame("ack", id=again, payload={"status": "ok"}), 99.0)
    machine.received(frame("ack", id=again, payload={"status": "ok"}), 99.0)
    assert [event.id for event in machine.take_events() if isinstance(event, Answered)] == [again]
    assert machine.unmatched == 1


def test_silence_is_met_with_a_ping_and_then_taken_for_a_dead_link() -> None:
    machine = welcomed(session())
    written(machine)
    assert machine.deadline() == 15.0
    machine.tick(15.0)
    assert [sent["event"] for sent in written(machine)] == ["ping"]
    assert machine.deadline() == 20.0
    machine.tick(20.0)
    assert machine.closing is not None
    assert machine.closing.abort
    machine.lost(1006, "", 20.0)
    assert machine.phase is Phase.WAITING


def test_a_program_that_was_held_up_itself_asks_again_before_it_takes_a_link_for_dead() -> None:
    machine = welcomed(session())
    written(machine)
    machine.tick(15.0)
    machine.tick(40.0)
    assert [sent["event"] for sent in written(machine)] == ["ping", "ping"]
    assert machine.closing is None
    assert machine.deadline() == 45.0
    machine.tick(45.0)
    assert machine.closing is not None


def test_goaway_is_followed_once_the_acks_are_there_and_the_client_comes_back_when_it_was_told() -> None:
    machine = welcomed(session())
    id = machine.call("put", None, now=0.0)
    written(machine)
    machine.received(system("goaway", reason="drain", reconnect_in=3000), 0.0)
    assert machine.take_events()[-2:] == [GoAway(reason="drain", reconnect_in=3.0), State.CONNECTED]
    machine.tick(0.5)
    assert machine.closing is None
    later = machine.call("put", None, now=0.5)
    assert not machine.has_frames()
    machine.received(frame("ack", id=id, payload={"status": "ok"}), 1.0)
    assert machine.deadline() == 0.0  # at once
    machine.tick(1.0)
    assert machine.closing is not None
    machine.lost(1001, "", 1.1)
    assert machine.deadline() == 3.0
    machine.tick(3.0)
    machine.opened(None, 3.0)
    machine.received(system("welcome", connection="c", heartbeat=10), 3.0)
    machine.received(system("resumed", rooms={}), 3.0)
    assert written(machine)[-1]["id"] == later


def test_who_is_told_to_go_again_waits_no_longer_for_its_acks() -> None:
    machine = welcomed(session())
    machine.call("put", None, now=0.0)
    written(machine)
    for now in (0.0, 4.0):
        machine.received(system("goaway", reason="drain", reconnect_in=9000), now)
    machine.tick(4.9)
    assert machine.closing is None
    assert machine.deadline() == 5.0
    machine.tick(5.0)
    assert machine.closing is not None


def test_a_close_behind_goaway_does_not_change_the_moment_that_was_told() -> None:
    machine = welcomed(session())
    machine.call("put", None, now=0.0)
    machine.received(system("goaway", reason="restart", reconnect_in=3000), 0.0)
    machine.lost(1012, '{"after": 2000}', 1.0)
    assert machine.deadline() == 3.0


def test_a_server_that_takes_longer_to_leave_says_so_in_its_close() -> None:
    machine = welcomed(session())
    machine.call("put", None, now=0.0)
    machine.received(system("goaway", reason="restart", reconnect_in=3000), 0.0)
    machine.lost(1012, '{"after": 2500}', 2.0)
    assert machine.deadline() == 4.5


def waits(machine: Session, now: float, attempts: int) -> list[float]:
    """The seconds before each attempt, where nobody is there."""
    seconds = []
    for _ in range(attempts):
        machine.tick(now)
        machine.unreachable("nobody", now)
        due = machine.deadline()
        assert due is not None
        seconds.append(due - now)
        now = due
    return seconds


def leave(machine: Session, how: str, after: float) -> None:
    """Be asked to come back in so many seconds, at the moment 0."""
    milliseconds = round(after * 1000)
    if how == "goaway":
        machine.received(system("goaway", reason="restart", reconnect_in=milliseconds), 0.0)
        machine.tick(0.0)
        machine.lost(1001, "", 0.0)
    else:
        machine.lost(1012, f'{{"after": {milliseconds}}}', 0.0)
    assert machine.deadline() == after


@pytest.mark.parametrize("how", ["goaway", "close"])
def test_a_restarted_server_that_is_late_is_tried_without_waiting_longer_each_time_for_half_a_minute(
    how: str,
) -> None:
    machine = welcomed(session())
    leave(machine, how, 3.0)
    assert waits(machine, 3.0, 14) == [3.0] * 10 + [0.5, 1, 2, 4]


def test_clients_of_a_small_server_try_again_soon_and_those_of_a_large_one_do_not_overrun_it() -> None:
    for after, wait in ((0.1, 0.5), (1.5, 1.5), (29.0, 29.0), (500.0, 30.0)):
        machine = welcomed(session())
        leave(machine, "goaway", after)
        assert waits(machine, after, 1) == [wait]


def test_a_server_that_restarts_may_say_when_it_is_back() -> None:
    machine = welcomed(session())
    leave(machine, "goaway", 1.0)
    machine.tick(1.0)
    machine.refused(503, "WS_OVERLOADED", "the server stops", 1.0, retry_after=2.0)
    assert machine.deadline() == 4.0
    assert waits(machine, 4.0, 2) == [1.0, 1.0]


def test_once_somebody_was_there_failures_count_as_ever() -> None:
    machine = welcomed(session())
    leave(machine, "goaway", 5.0)
    machine.tick(5.0)
    machine.opened(None, 5.0)
    machine.lost(1013, "", 5.0)
    assert machine.deadline() == 5.5
    assert waits(machine, 5.5, 3) == [1, 2, 4]


def test_the_server_may_say_how_long_to_stay_away() -> None:
    machine = welcomed(session())
    machine.lost(4529, '{"after": 10000}', 1.0)
    assert machine.deadline() == 11.5  # and full jitter behind it


def test_attempts_wait_longer_and_longer_until_a_connection_lasts() -> None:
    machine = session(keep_trying=True)
    waits = []
    for _ in range(8):
        machine.unreachable("nobody", 0.0)
        waits.append(machine.deadline())
        machine.tick(1000.0)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]
    welcomed(machine, now=1000.0).lost(1006, "", 1006.0)
    assert machine.deadline() == 1006.5


def test_what_is_no_message_ends_the_connection_for_good() -> None:
    for data, code in (("{", 1002), (b"{}", 1003), (frame("ack", id="x", payload={"status": "bad"}), 1002)):
        machine = welcomed(session())
        machine.received(data, 1.0)
        assert machine.closing is not None
        assert machine.closing.code == code
        machine.lost(code, "", 1.0)
        assert isinstance(machine.ended, ConnectionEnded)


def test_sessions_share_what_reads_the_words_of_a_codec() -> None:
    assert words_in("json") is words_in("json")
    assert words_in("json") is not words_in("cbor")


rooms = st.sampled_from(["a", "b", ""])
epochs = st.sampled_from(["e", "f"])
offsets = st.integers(0, 6)
place = {"room": rooms, "epoch": epochs, "offset": offsets}
frames = st.one_of(
    st.builds(said, offsets, rooms, epochs),
    st.builds(lambda name, **told: system(name, **told), st.sampled_from(["joined", "left"]), **place),
    st.builds(lambda **told: system("gap", cause="x", **told), **place),
    st.builds(
        lambda room, epoch, offset, recovered: system(
            "resumed", rooms={room: {"recovered": recovered, "epoch": epoch, "offset": offset}}
        ),
        recovered=st.booleans(),
        **place,
    ),
    st.just(system("welcome", connection="c", heartbeat=1, resume="r")),
    st.just(system("goaway", reconnect_in=5)),
    st.text(max_size=20),
    st.binary(max_size=20),
)
steps = st.lists(st.one_of(frames, st.sampled_from([1000, 1006, 4401, 4531])), max_size=40)


@given(steps)
def test_whatever_comes_raises_nothing_and_no_position_goes_back(script: list[Any]) -> None:
    machine = session(keep_trying=True)
    now = 0.0
    for step in script:
        now += 1.0
        machine.tick(now)
        if machine.phase is Phase.DIALING:
            welcomed(machine, *([system("resumed", rooms={})] if machine.link else []), now=now)
        before = machine.positions.rooms
        if isinstance(step, int):
            machine.lost(step, "", now)
        else:
            machine.received(step, now)
        for room, position in machine.positions.rooms.items():
            known = before.get(room)
            if known is not None:
                assert position is not None
                assert position.epoch != known.epoch or position.offset >= known.offset
        machine.take_events()
        written(machine)
