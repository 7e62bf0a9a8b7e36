"""The outbox: its bound, its order, and what each strategy makes of a message that does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aquilia.sockets.outbox.queue import Backpressure, Outbox, Strategy

ENDING = ["buffer", "disconnect"]
DROPPING = ["drop_oldest", "drop_newest", "conflate"]
PLENTY = 1 << 20
STRATEGIES = [*ENDING, *DROPPING]
"""Those of an outbox without a disk: `test_spooling.py` has the other."""


def gap(dropped: int) -> bytes:
    return b"<%d lost>" % dropped


def outbox(strategy: str, size: int = 3, bytes: int = PLENTY) -> Outbox:
    return Outbox(Backpressure(strategy, size, bytes))  # type: ignore[arg-type]


def everything(box: Outbox) -> list[bytes]:
    return box.take(PLENTY, gap)


def push_all(box: Outbox, *frames: bytes) -> list[bool]:
    return [box.push(frame) for frame in frames]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frames_come_out_in_the_order_in_which_they_went_in(strategy: str) -> None:
    box = outbox(strategy)
    push_all(box, b"1", b"2")
    box.push_urgent(b"answer")
    box.push(b"3")
    assert everything(box) == [b"1", b"2", b"answer", b"3"]
    assert box.empty


@pytest.mark.parametrize("strategy", ENDING)
def test_the_message_beyond_the_bound_is_refused_and_what_waits_is_kept(strategy: str) -> None:
    box = outbox(strategy, size=2)
    assert push_all(box, b"1", b"2", b"3") == [True, True, False]
    assert (len(box), box.dropped) == (2, 0)
    assert everything(box) == [b"1", b"2"]


@pytest.mark.parametrize("strategy", ENDING)
def test_bytes_are_bounded_as_well(strategy: str) -> None:
    box = outbox(strategy, bytes=10)
    assert push_all(box, b"12345", b"67890", b"!") == [True, True, False]


def test_drop_oldest_puts_the_gap_where_the_lost_messages_stood() -> None:
    box = outbox("drop_oldest", size=2)
    assert push_all(box, b"1", b"2", b"3", b"4") == [True, True, False, False]
    assert everything(box) == [b"<2 lost>", b"3", b"4"]


def test_drop_newest_puts_the_gap_where_the_lost_messages_would_have_come() -> None:
    box = outbox("drop_newest", size=2)
    push_all(box, b"1", b"2", b"3", b"4")
    assert box.take(1, gap) == [b"1"]
    push_all(box, b"5", b"6")
    assert everything(box) == [b"2", b"<2 lost>", b"5", b"<1 lost>"]


def test_each_run_of_losses_has_its_own_gap_between_answers() -> None:
    box = outbox("drop_oldest", size=2)
    box.push(b"1")
    box.push_urgent(b"a")
    box.push(b"2")
    box.push_urgent(b"b")
    push_all(box, b"3", b"4", b"5")
    assert everything(box) == [b"<1 lost>", b"a", b"<1 lost>", b"b", b"<1 lost>", b"4", b"5"]


def test_a_large_message_drops_as_many_small_ones_as_it_needs() -> None:
    box = outbox("drop_oldest", size=10, bytes=10)
    push_all(box, b"123", b"456", b"789", b"x" * 7)
    assert everything(box) == [b"<2 lost>", b"789", b"x" * 7]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_outbox_lets_a_message_through_that_is_larger_than_its_bound(strategy: str) -> None:
    box = outbox(strategy, bytes=10)
    assert box.push(b"x" * 100) is True
    assert everything(box) == [b"x" * 100]


def test_answers_fit_however_full_it_is_and_count_as_bytes_that_wait() -> None:
    box = outbox("buffer", size=1, bytes=10)
    box.push(b"12345")
    for _ in range(5):
        box.push_urgent(b"123")
    assert (len(box), box.waiting_bytes) == (1, 20)
    assert everything(box) == [b"12345", *[b"123"] * 5]
    assert box.waiting_bytes == 0


@pytest.mark.parametrize(
    ("frames", "urgent", "half_full"),
    [
        ([], [], False),
        ([b"1"] * 5, [], False),
        ([b"1"] * 6, [], True),
        ([b"x" * 50], [], False),
        ([b"x" * 51], [], True),
        ([b"x" * 30], [b"y" * 21], True),
        ([], [b"y" * 51], True),
    ],
)
def test_it_is_half_full_above_half_of_either_bound(
    frames: list[bytes], urgent: list[bytes], half_full: bool
) -> None:
    box = outbox("buffer", size=10, bytes=100)
    push_all(box, *frames)
    for frame in urgent:
        box.push_urgent(frame)
    assert box.half_full is half_full


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize(
    ("max_bytes", "taken"), [(0, 1), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3), (15, 3), (1000, 3)]
)
def test_taking_stops_at_the_first_frame_that_reaches_the_asked_size(
    max_bytes: int, taken: int, mixed: bool
) -> None:
    box = outbox("buffer", size=10)
    if mixed:
        box.push_urgent(b"12345")
    else:
        box.push(b"12345")
    push_all(box, b"12345", b"12345")
    assert len(box.take(max_bytes, gap)) == taken


def test_nothing_is_taken_from_an_empty_one() -> None:
    assert outbox("buffer").take(100, gap) == []


def test_the_gap_frame_is_made_only_when_it_is_due() -> None:
    asked: list[int] = []

    def count(dropped: int) -> bytes:
        asked.append(dropped)
        return b"gap"

    box = outbox("drop_newest", size=1)
    push_all(box, b"1", b"2", b"3")
    assert box.take(1, count) == [b"1"]
    assert asked == []
    assert not box.empty
    assert box.take(1, count) == [b"gap"]
    assert asked == [2]


@pytest.mark.parametrize("strategy", DROPPING)
def test_a_cleared_outbox_is_as_new(strategy: str) -> None:
    box = outbox(strategy, size=2)
    push_all(box, b"1", b"2", b"3")
    box.push_urgent(b"a")
    box.clear()
    assert (box.empty, len(box), box.waiting_bytes, box.half_full) == (True, 0, 0, False)
    push_all(box, b"4", b"5")
    assert everything(box) == [b"4", b"5"]


def test_what_is_conflated_stands_where_the_older_one_stood() -> None:
    box = outbox("buffer")
    for key, frame in [("a", b"a1"), ("b", b"b1"), ("a", b"a2"), ("a", b"a3")]:
        assert box.push_as(frame, "conflate", key)
    assert (len(box), box.conflated, box.waiting_bytes) == (2, 2, 4)
    assert everything(box) == [b"a3", b"b1"]
    box.push_as(b"a4", "conflate", "a")
    assert everything(box) == [b"a4"]


def test_too_many_keys_drop_the_oldest_and_put_a_gap_there() -> None:
    box = outbox("conflate", size=2)
    assert [box.push_as(key.encode(), "conflate", key) for key in "abc"] == [True, True, False]
    box.push_as(b"a2", "conflate", "a")
    assert everything(box) == [b"<2 lost>", b"c", b"a2"]


def test_a_newer_one_that_is_larger_makes_the_others_give_way() -> None:
    box = outbox("conflate", bytes=10)
    for key in "abc":
        box.push_as(b"123", "conflate", key)
    assert box.push_as(b"12345678", "conflate", "c") is False
    assert everything(box) == [b"<2 lost>", b"12345678"]


def test_what_may_be_dropped_gives_way_to_what_may_not() -> None:
    box = outbox("buffer", size=2)
    box.push(b"kept")
    box.push_as(b"price", "drop_oldest")
    assert box.push(b"kept too") is False
    assert (box.dropped, box.overflowed) == (1, False)
    assert box.push_as(b"price", "drop_oldest") is False
    assert (box.dropped, box.overflowed) == (2, False)
    assert box.push(b"one too many") is False
    assert box.overflowed
    assert everything(box) == [b"kept", b"<1 lost>", b"kept too", b"<1 lost>"]


class Message:
    def __init__(self, frame: bytes, strategy: str, key: object) -> None:
        self.frame, self.strategy, self.key = frame, strategy, key

    def gives_way(self) -> bool:
        return self.strategy in ("drop_oldest", "conflate")


class Model:
    """What the outbox promises, as slowly and plainly as it can be said."""

    def __init__(self, limits: Backpressure) -> None:
        self.limits = limits
        self.entries: list[Any] = []  # a Message, an answer's bytes, or the number of a gap
        self.dropped = self.conflated = 0

    def messages(self) -> list[Message]:
        return [entry for entry in self.entries if isinstance(entry, Message)]

    def fits(self, more: int, size: int) -> bool:
        waiting = self.messages()
        volume = sum(len(message.frame) for message in waiting) + size
        return len(waiting) + more <= self.limits.buffer_size and volume <= self.limits.buffer_bytes

    def lose(self, message: Message) -> None:
        self.dropped += 1
        self.entries[self.entries.index(message)] = 1
        joined: list[Any] = []
        for entry in self.entries:
            if isinstance(entry, int) and joined and isinstance(joined[-1], int):
                joined[-1] += entry
            else:
                joined.append(entry)
        self.entries = joined

    def push(self, frame: bytes, strategy: str, key: object = None) -> bool:
        """False: something was lost, or the connection has to end."""
        before = self.dropped
        if strategy == "conflate" and key is not None:
            for message in self.messages():
                if message.key == key:
                    message.frame = frame
                    self.conflated += 1
                    while len(self.messages()) > 1 and not self.fits(0, 0) and self.make_room():
                        pass
                    return self.dropped == before
        if strategy != "drop_newest":
            while self.messages() and not self.fits(1, len(frame)) and self.make_room():
                pass
        if self.messages() and not self.fits(1, len(frame)):
            if strategy not in ENDING:
                lost = Message(frame, strategy, None)
                self.entries.append(lost)
                self.lose(lost)
            return False
        self.entries.append(Message(frame, strategy, key if strategy == "conflate" else None))
        return self.dropped == before

    def make_room(self) -> bool:
        for message in self.messages():
            if message.gives_way():
                self.lose(message)
                return True
        return False

    def frames(self) -> list[bytes]:
        return [
            entry.frame if isinstance(entry, Message) else gap(entry) if isinstance(entry, int) else entry
            for entry in self.entries
        ]


class OutboxMachine(RuleBasedStateMachine):
    """Every strategy in one outbox: some messages have that of the connection, others one of their own."""

    box: Outbox
    model: Model

    def __init__(self) -> None:
        super().__init__()
        self.numbers: Iterator[int] = iter(range(PLENTY))

    @initialize(strategy=st.sampled_from(STRATEGIES), size=st.integers(1, 5), bytes=st.integers(1, 60))
    def open(self, strategy: Strategy, size: int, bytes: int) -> None:
        limits = Backpressure(strategy, size, bytes)
        self.box, self.model = Outbox(limits), Model(limits)

    def frame(self, kind: str, length: int) -> bytes:
        return f"{kind}{next(self.numbers)}".encode().ljust(length, b".")

    @rule(length=st.integers(1, 30))
    def push(self, length: int) -> None:
        frame = self.frame("m", length)
        self.pushed(self.box.push(frame), self.model.push(frame, self.model.limits.strategy))

    @rule(
        length=st.integers(1, 30),
        strategy=st.sampled_from(STRATEGIES),
        key=st.sampled_from([None, "a", "b", "c"]),
    )
    def push_as(self, length: int, strategy: Strategy, key: str | None) -> None:
        frame = self.frame("s", length)
        self.pushed(self.box.push_as(frame, strategy, key), self.model.push(frame, strategy, key))

    def pushed(self, box: bool, model: bool) -> None:
        assert box is model
        if self.box.overflowed:
            assert not box
            self.box.overflowed = False  # a connection would end here

    @rule(length=st.integers(1, 30))
    def push_urgent(self, length: int) -> None:
        frame = self.frame("u", length)
        self.box.push_urgent(frame)
        self.model.entries.append(frame)

    @precondition(lambda self: self.model.entries)
    @rule(max_bytes=st.integers(1, 80))
    def take(self, max_bytes: int) -> None:
        expected = self.model.frames()
        taken = self.box.take(max_bytes, gap)
        assert taken
        assert taken == expected[: len(taken)]
        assert sum(map(len, taken[:-1])) < max_bytes
        assert len(taken) == len(expected) or sum(map(len, taken)) >= max_bytes
        del self.model.entries[: len(taken)]

    @invariant()
    def it_says_what_it_holds(self) -> None:
        if not hasattr(self, "box"):
            return
        waiting = [message.frame for message in self.model.messages()]
        urgent = [entry for entry in self.model.entries if isinstance(entry, bytes)]
        assert len(self.box) == len(waiting) <= self.model.limits.buffer_size
        assert self.box.waiting_bytes == sum(map(len, waiting + urgent))
        assert self.box.empty is (not self.model.entries)
        assert (self.box.dropped, self.box.conflated) == (self.model.dropped, self.model.conflated)
        if len(waiting) > 1:
            assert sum(map(len, waiting)) <= self.model.limits.buffer_bytes

    def teardown(self) -> None:
        if hasattr(self, "box"):
            assert self.box.take(PLENTY, gap) == self.model.frames()
            assert self.box.empty


TestAnySequence = OutboxMachine.TestCase
