"""The outbox: order, bounds, and a gap in the very place of a loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.outbox.queue import Backpressure, Outbox

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 40)),
        st.tuples(st.just("urgent"), st.integers(1, 40)),
        st.tuples(st.just("take"), st.integers(1, 120)),
    ),
    max_size=80,
)
LIMITS = {"buffer_size": 5, "buffer_bytes": 100}


def gap(dropped: int) -> bytes:
    return b"gap %d" % dropped


def run(strategy: Any, steps: list[tuple[str, int]]) -> tuple[Outbox, list[bytes], list[bytes], bool]:
    """What was offered, what came out in the end, and whether the policy ended the connection."""
    outbox = Outbox(Backpressure(strategy, **LIMITS))
    offered: list[bytes] = []
    came: list[bytes] = []
    for number, (step, size) in enumerate(steps):
        frame = (b"u" if step == "urgent" else b"m") + b"%d " % number + b"x" * size
        if step == "take":
            came += outbox.take(size, gap)
            continue
        offered.append(frame)
        if step == "urgent":
            outbox.push_urgent(frame)
        elif not outbox.push(frame) and not strategy.startswith("drop"):
            return outbox, offered, came, True
        assert len(outbox) <= 5
        plain = outbox.waiting_bytes - sum(len(f) for f in offered if f[:1] == b"u" and f not in came)
        assert plain <= 100 or len(outbox) == 1
    while not outbox.empty:
        came += outbox.take(50, gap)
    return outbox, offered, came, False


@given(STEPS)
def test_a_buffer_gives_everything_in_order_or_ends_the_connection(steps: list[tuple[str, int]]) -> None:
    _, offered, came, ended = run("buffer", steps)
    if not ended:
        assert came == offered


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest"])
@given(steps=STEPS)
def test_what_is_dropped_is_told_by_gaps_and_nothing_else_is_lost(
    strategy: Any, steps: list[tuple[str, int]]
) -> None:
    outbox, offered, came, ended = run(strategy, steps)
    assert not ended
    messages = [frame for frame in came if not frame.startswith(b"gap")]
    told = sum(int(frame[4:]) for frame in came if frame.startswith(b"gap"))
    assert told == outbox.dropped == len(offered) - len(messages)
    for kind in (b"m", b"u"):
        kept = [frame for frame in messages if frame[:1] == kind]
        assert kept == [frame for frame in offered if frame in kept]  # in order
    assert all(frame in messages for frame in offered if frame[:1] == b"u")


def filled(strategy: Any) -> Outbox:
    outbox = Outbox(Backpressure(strategy, buffer_size=3, buffer_bytes=1000))
    for number in range(5):
        outbox.push(b"%d" % number)
    return outbox


def test_the_oldest_give_way_and_the_gap_stands_before_the_rest() -> None:
    assert filled("drop_oldest").take(1000, gap) == [b"gap 2", b"2", b"3", b"4"]


def test_the_newest_give_way_and_the_gap_stands_behind_the_rest() -> None:
    outbox = filled("drop_newest")
    assert outbox.take(1, gap) == [b"0"]
    outbox.push(b"5")
    assert outbox.take(1000, gap) == [b"1", b"2", b"gap 2", b"5"]


@pytest.mark.parametrize("strategy", ["buffer", "disconnect"])
def test_beyond_the_bound_the_connection_ends(strategy: Any) -> None:
    outbox = Outbox(Backpressure(strategy, buffer_size=2, buffer_bytes=1000))
    assert [outbox.push(b"x") for _ in range(3)] == [True, True, False]
    by_bytes = Outbox(Backpressure(strategy, buffer_size=100, buffer_bytes=10))
    assert [by_bytes.push(b"12345") for _ in range(3)] == [True, True, False]


def test_a_frame_beyond_the_whole_bound_passes_an_empty_outbox() -> None:
    outbox = Outbox(Backpressure("buffer", buffer_size=2, buffer_bytes=10))
    assert outbox.push(b"x" * 50)
    assert not outbox.push(b"x")
    assert outbox.take(5, gap) == [b"x" * 50]


def test_urgent_frames_pass_the_bound() -> None:
    outbox = filled("buffer")
    outbox.push_urgent(b"ack")
    assert outbox.take(1000, gap) == [b"0", b"1", b"2", b"ack"]


def test_half_full_counts_messages_and_all_bytes() -> None:
    outbox = Outbox(Backpressure("buffer", buffer_size=4, buffer_bytes=100))
    outbox.push(b"x")
    outbox.push(b"x")
    assert not outbox.half_full
    outbox.push(b"x")
    assert outbox.half_full
    outbox.clear()
    assert outbox.empty
    outbox.push_urgent(b"x" * 51)
    assert outbox.half_full
    assert outbox.waiting_bytes == 51


def test_take_gives_at_least_one_and_stops_at_the_bound() -> None:
    outbox = Outbox(Backpressure())
    for _ in range(10):
        outbox.push(b"x" * 10)
    assert len(outbox.take(1, gap)) == 1
    assert len(outbox.take(25, gap)) == 3
    assert len(outbox.take(1000, gap)) == 6
    assert outbox.take(1000, gap) == []
