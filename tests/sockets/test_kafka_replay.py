"""The logs of one partition of Kafka as a machine: what every node makes of the same records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aquilia.sockets.adapters.kafka.replay import MARGIN, Replay
from aquilia.sockets.history import History, RoomLog

BRIEF = History(size=3, ttl=100, max_bytes=50)
ROOMS = (b"r", b"s")

records = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sampled_from(ROOMS),
        st.sampled_from(["store", "store", "store", "store", "forget", "skip"]),
        st.integers(0, 8),
        st.integers(0, 30),
    ),
    max_size=60,
)
"""Seconds since the one before, room, what it is, id, and size."""


def fed(replay: Replay, told: list[tuple[Any, ...]], after: int = 0, at: float = 0.0) -> list[Any]:
    """What became of each record."""
    outcomes = []
    for place, (seconds, room, kind, id, size) in enumerate(told, after + 1):
        at += seconds
        if kind == "store":
            outcomes.append(replay.store(place, at, room, b"%d" % id, BRIEF, b"x" * size).place)
        elif kind == "forget":
            outcomes.append(replay.forget(place, at, room))
        else:
            outcomes.append(replay.skip(place, at))
    return outcomes


def places(replay: Replay, room: bytes, now: float) -> list[int]:
    return [entry.place for entry in replay.read(room, None, 100, now).entries]


@given(records)
def test_a_room_has_what_its_log_in_memory_would_have(told: list[tuple[Any, ...]]) -> None:
    replay = Replay(0)
    fed(replay, told)
    logs, where, at = {room: RoomLog("e", BRIEF) for room in ROOMS}, {}, 0.0
    for place, (seconds, room, kind, id, size) in enumerate(told, 1):
        at += seconds
        log = logs[room]
        log.expire(at)
        if kind == "store":
            offset, new = log.append(str(id), b"x" * size, at)
            if new:
                where[room, offset] = place
        while kind == "forget" and len(log):
            log.drop_oldest()
    for room, log in logs.items():
        expected = [where[room, entry.offset] for entry in log.read(None, 100, at).entries]
        assert places(replay, room, at) == expected
        for offset in range(1, log.head + 1):
            ours = replay.read(room, where[room, offset], 100, at)
            theirs = log.read(offset, 100, at)
            assert ours.complete == theirs.complete
            assert [entry.place for entry in ours.entries] == [
                where[room, entry.offset] for entry in theirs.entries
            ]


@given(records, st.integers(0, 60))
def test_who_begins_later_soon_has_what_everybody_has(told: list[tuple[Any, ...]], cut: int) -> None:
    """Ids are told apart here, so that none comes again after longer than the margin."""
    cut = min(cut, len(told))
    seen: dict[tuple[bytes, int], tuple[float, int]] = {}
    at, plain = 0.0, []
    for number, (seconds, room, kind, id, size) in enumerate(told):
        at += seconds
        first, name = seen.get((room, id), (at, id))
        if at - first > MARGIN:
            first, name = at, 1000 + number
        seen[room, id] = (first, name)
        plain.append((seconds, room, kind, name, size))
    whole, late = Replay(0), Replay(cut)
    fed(whole, plain)
    begun = sum(each[0] for each in plain[:cut])
    fed(late, plain[cut:], cut, begun)
    if at < begun + BRIEF.ttl + MARGIN:
        return
    for room in ROOMS:
        assert places(late, room, at) == places(whole, room, at)


def test_a_repeat_has_the_place_of_the_first_as_long_as_that_is_there() -> None:
    replay = Replay(0)
    first = replay.store(1, 10, b"r", b"x", BRIEF, b"")
    assert (first.place, first.entry is not None) == (1, True)
    assert replay.store(2, 11, b"r", b"x", BRIEF, b"") == (1, None)
    assert replay.store(3, 11, b"s", b"x", BRIEF, b"").place == 3
    assert replay.store(4, 110, b"r", b"x", BRIEF, b"").place == 4


def test_each_entry_names_the_one_before_it_even_if_that_is_gone() -> None:
    replay = Replay(7)
    entries = [replay.store(place, 0, b"r", b"%d" % place, BRIEF, b"").entry for place in (8, 10)]
    replay.forget(11, 0, b"r")
    entries.append(replay.store(12, 500, b"r", b"z", BRIEF, b"").entry)
    assert [entry.previous for entry in entries if entry] == [0, 8, 10]


def test_time_never_goes_back() -> None:
    replay = Replay(0)
    replay.store(1, 1000, b"r", b"x", BRIEF, b"")
    replay.store(2, 10, b"r", b"y", BRIEF, b"")
    replay.store(3, 1099, b"r", b"z", BRIEF, b"")
    assert places(replay, b"r", 0) == [1, 2, 3]
    assert places(replay, b"r", 1100) == [3]
    with pytest.raises(ValueError, match="behind that at 3"):
        replay.skip(3, 2000)


def test_what_was_before_its_beginning_is_not_said_to_be_complete() -> None:
    replay = Replay(10)
    for since, complete in ((9, False), (10, True), (11, False), (None, True)):
        assert replay.read(b"r", since, 10, 0).complete is complete
    replay.store(11, 0, b"r", b"x", BRIEF, b"")
    for since, complete in ((9, False), (10, True), (11, True), (12, False)):
        assert replay.read(b"r", since, 10, 0).complete is complete


def test_the_head_of_an_empty_room_is_before_all_that_it_will_have() -> None:
    replay = Replay(10)
    replay.skip(12, 0)
    assert replay.head(b"r") == 12
    replay.store(13, 0, b"r", b"x", BRIEF, b"")
    replay.skip(20, 0)
    assert replay.head(b"r") == 13


def test_of_several_lives_that_follow_one_the_first_is_believed() -> None:
    replay = Replay(0)
    assert replay.begin(1, 0, "a", "")
    assert not replay.begin(2, 0, "b", "")
    assert not replay.begin(3, 0, "c", "z")
    assert replay.life == "a"
    assert replay.begin(4, 0, "d", "a")
    assert replay.life == "d"


def test_rooms_in_which_nothing_is_left_take_no_memory_but_those_that_somebody_needs() -> None:
    replay = Replay(0)
    for number in range(100):
        replay.store(number + 1, 0, b"%d" % number, b"x", BRIEF, b"data")
    assert replay.bytes == 400
    replay.sweep(BRIEF.ttl + MARGIN - 1, lambda key: False)
    assert (len(replay), replay.bytes) == (100, 400)
    replay.sweep(BRIEF.ttl + MARGIN, lambda key: key == b"5")
    assert (len(replay), replay.bytes) == (1, 0)
    assert replay.read(b"5", 6, 10, 200).complete
    assert not replay.read(b"7", 99, 10, 200).complete
    assert replay.read(b"7", 100, 10, 200).complete


def test_data_is_let_go_of_where_nobody_has_written_for_longest() -> None:
    replay = Replay(0)
    for place, room in enumerate((b"r", b"s", b"r", b"s", b"r"), 1):
        replay.store(place, 0, room, b"%d" % place, BRIEF, b"0123456789")
    replay.shed(40)
    assert replay.bytes == 30
    assert [entry.data for entry in replay.read(b"s", None, 10, 0).entries] == [None, None]
    assert all(entry.data for entry in replay.read(b"r", None, 10, 0).entries)
    replay.forget(6, 0, b"s")
    replay.forget(7, 0, b"r")
    assert replay.bytes == 0
