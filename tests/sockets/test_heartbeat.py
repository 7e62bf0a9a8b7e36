"""The heartbeat wheel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.heartbeat import HeartbeatWheel


@given(st.integers(1, 60), st.integers(0, 200), st.integers(0, 100))
def test_everyone_is_due_once_in_a_round(slots: int, members: int, turned: int) -> None:
    wheel: HeartbeatWheel[int] = HeartbeatWheel(slots)
    for _ in range(turned):
        wheel.turn()
    for member in range(members):
        wheel.add(member)
    assert len(wheel) == members
    for _ in range(3):
        assert sorted(member for _ in range(slots) for member in wheel.turn()) == list(range(members))


def test_a_new_member_is_first_due_in_the_last_quarter_of_a_round() -> None:
    wheel: HeartbeatWheel[int] = HeartbeatWheel(40)
    for member in range(100):
        wheel.add(member)
    due = [len(wheel.turn()) for _ in range(40)]
    assert due == [0] * 30 + [10] * 10


def test_it_says_who_was_due_so_many_turns_ago() -> None:
    wheel: HeartbeatWheel[str] = HeartbeatWheel(4)
    wheel.add("a")
    assert [wheel.turn() for _ in range(3)] == [[], [], []]
    assert wheel.behind(0) == wheel.turn() == ["a"]
    for turns in (1, 2, 3):
        assert wheel.behind(turns) == ["a"]
        assert wheel.turn() == []


def test_who_was_removed_is_not_due() -> None:
    wheel: HeartbeatWheel[str] = HeartbeatWheel(2)
    wheel.add("a")
    wheel.add("a")
    wheel.add("b")
    wheel.remove("a")
    wheel.remove("stranger")
    assert len(wheel) == 1
    assert [*wheel.turn(), *wheel.turn()] == ["b"]


def test_a_wheel_has_slots() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        HeartbeatWheel(0)
