"""The log of a room, and what follows one: pure machines, against naive models."""

from __future__ import annotations

from dataclasses import dataclass
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aquilia.sockets.history import Follower, Histories, History, Position, RoomLog, RoomLogs

SIZE, TTL, BYTES = 5, 10.0, 30


class LogModel(RuleBasedStateMachine):
    """A log is what was appended, less what its bounds let go of; it never says complete where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.log = RoomLog("e", History(size=SIZE, ttl=TTL, max_bytes=BYTES))
        self.kept: list[tuple[int, str, bytes, float]] = []
        self.head = 0

    @rule(seconds=st.floats(0.1, 6))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(id=st.integers(0, 8), data=st.binary(max_size=12))
    def append(self, id: int, data: bytes) -> None:
        self.let_go()
        known = {name: offset for offset, name, _, _ in self.kept}
        offset, new = self.log.append(str(id), data, self.now)
        assert new is (str(id) not in known)
        if new:
            self.head += 1
            self.kept.append((self.head, str(id), data, self.now))
            self.let_go()
            assert offset == self.head
        else:
            assert offset == known[str(id)]

    def let_go(self) -> None:
        self.kept = [entry for entry in self.kept if entry[3] > self.now - TTL]
        while len(self.kept) > SIZE or (sum(len(e[2]) for e in self.kept) > BYTES and len(self.kept) > 1):
            self.kept.pop(0)

    @rule(back=st.integers(-2, 9), limit=st.integers(1, 7))
    def read(self, back: int, limit: int) -> None:
        self.let_go()
        since = self.head - back
        found = self.log.read(since, limit, self.now)
        behind = [entry for entry in self.kept if entry[0] > since]
        whole = 0 <= since <= self.head and len(behind) == self.head - since
        assert found.complete is whole
        assert [entry.offset for entry in found.entries] == ([e[0] for e in behind][:limit] if whole else [])

    @rule(limit=st.integers(1, 7))
    def read_the_newest(self, limit: int) -> None:
        self.let_go()
        found = self.log.read(None, limit, self.now)
        assert found.complete
        assert [entry.data for entry in found.entries] == [e[2] for e in self.kept[-limit:]]

    @invariant()
    def it_counts_its_bytes(self) -> None:
        assert self.log.head == self.head
        assert self.log.bytes >= sum(len(entry[2]) for entry in self.kept if entry[3] > self.now - TTL)


TestLogModel = LogModel.TestCase


@dataclass(frozen=True)
class Item:
    position: Position | None
    previous: int | None


class FollowerModel(RuleBasedStateMachine):
    """Between a log and its follower, deliveries are lost, doubled and late; the log forgets, and begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.log: list[Item] = []
        self.head = Position("1", 0)
        self.forgotten = 0
        self.wire: list[Item] = []
        self.seen: list[Position] = []
        self.all: list[Position] = []
        self.gaps = 0

    @initialize(entries=st.integers(0, 3))
    def begin(self, entries: int) -> None:
        for _ in range(entries):
            self.publish(1)
        self.wire.clear()
        self.start = len(self.all)
        self.follower: Follower[Item] = Follower(self.head)

    @rule(step=st.integers(1, 3))
    def publish(self, step: int) -> None:
        """Offsets may have holes: a log shares its numbers with others."""
        previous = self.head.offset
        self.head = Position(str(self.epoch), previous + step)
        item = Item(self.head, previous)
        self.log.append(item)
        self.all.append(self.head)
        self.wire.append(item)

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """In the log's order, but for what is lost or comes twice."""
        item = self.wire.pop(0)
        for _ in range(data.draw(st.sampled_from([0, 1, 1, 1, 2]))):
            if self.follower.offer(item):
                assert item.position is not None
                self.seen.append(item.position)

    @rule()
    def lose_touch(self) -> None:
        self.wire.clear()
        self.follower.lost_touch()

    @precondition(lambda self: len(self.log) > 2)
    @rule()
    def forget(self) -> None:
        gone = self.log.pop(0)
        assert gone.position is not None
        self.forgotten = gone.position.offset

    @rule()
    def begin_anew(self) -> None:
        self.epoch += 1
        self.log, self.forgotten = [], 0
        self.head = Position(str(self.epoch), 0)
        self.wire.clear()

    @precondition(lambda self: self.follower.wants is not None)
    @rule(limit=st.integers(1, 4))
    def read(self, limit: int) -> None:
        wants = self.follower.wants
        assert wants is not None
        complete = wants.epoch == self.head.epoch and self.forgotten <= wants.offset <= self.head.offset
        behind = [
            item for item in self.log if item.position is not None and item.position.offset > wants.offset
        ]
        items, gap = self.follower.fill(behind[:limit] if complete else [], self.head, complete=complete)
        self.gaps += gap is not None
        if gap is not None:
            self.skip_to(gap.position)
        self.seen += [item.position for item in items if item.position is not None]

    def skip_to(self, position: Position) -> None:
        """What is told to be lost needs not be seen."""
        self.lost = getattr(self, "lost", set())
        for place in self.all[self.start :]:
            before = (int(place.epoch), place.offset) <= (int(position.epoch), position.offset)
            if before and place not in self.seen:
                self.lost.add(place)

    @invariant()
    def nothing_is_seen_twice_or_out_of_order_or_left_out(self) -> None:
        if not hasattr(self, "follower"):
            return
        order = [(int(place.epoch), place.offset) for place in self.seen]
        assert order == sorted(set(order))
        lost = getattr(self, "lost", set())
        if self.seen:
            upto = self.all.index(self.seen[-1]) + 1
            assert {*self.all[self.start : upto]} <= {*self.seen, *lost}

    def teardown(self) -> None:
        """Once it has read all, it has all."""
        if not hasattr(self, "follower"):
            return
        self.follower.lost_touch()
        for _ in range(200):
            if self.follower.wants is None:
                break
            self.read(4)
        assert self.follower.wants is None
        if self.all[self.start :]:
            assert self.all[-1] in {*self.seen, *getattr(self, "lost", set())}


TestFollowerModel = FollowerModel.TestCase
TestFollowerModel.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(min_size=1, max_size=40)), max_size=60))
def test_all_logs_together_stay_within_their_bound(appended: list[tuple[int, bytes]]) -> None:
    logs, history = RoomLogs(limit=100), History()
    for number, (room, data) in enumerate(appended):
        log = logs.open(room, history, 0.0)
        logs.append(log, str(number), data, 0.0)
        assert logs.bytes <= 100 + len(data)
        assert len(log) >= 1


def test_a_log_that_nobody_used_for_long_is_given_up_and_begins_a_new_life() -> None:
    logs, history = RoomLogs(), History(ttl=10)
    log = logs.open("a", history, 0.0)
    logs.append(log, "1", b"x", 0.0)
    assert logs.open("a", history, 200.0).epoch == log.epoch
    logs.open("b", history, 900.0)
    assert logs.open("a", history, 900.0).epoch != log.epoch


def test_a_log_that_somebody_follows_lives_on_and_so_long_behind_that_as_behind_a_message() -> None:
    logs, history = RoomLogs(), History(ttl=10)
    log = logs.follow("a", history, 0.0)
    logs.open("b", history, 900.0)
    assert logs.open("a", history, 900.0) is log
    logs.unfollow("a", 900.0)
    assert logs.open("a", history, 1000.0) is log
    logs.open("b", history, 1900.0)
    assert logs.open("a", history, 1900.0) is not log


@pytest.mark.parametrize(
    ("room", "size"),
    [("chat:a", 1), ("chat:", 1), ("chat", 3), ("a.b", 2), ("axb", 3), ("a\nb", 3), ("news:chat:a", 3)],
)
def test_the_first_pattern_that_fits_counts_and_only_a_star_is_special(room: str, size: int) -> None:
    histories = Histories({"chat:*": History(size=1), "a.b": History(size=2), "*": History(size=3)})
    for _ in range(2):
        found = histories.of(room)
        assert found is not None
        assert found.size == size


def test_a_room_that_fits_no_pattern_remembers_nothing() -> None:
    assert Histories({"chat:*": History()}).of("hall") is None
    assert Histories().of("hall") is None


def test_what_is_too_long_for_a_room_is_not_remembered_either() -> None:
    assert Histories({"*": History()}).of("x" * 256) is not None
    assert Histories({"*": History()}).of("x" * 257) is None


@pytest.mark.parametrize(("pattern", "fits"), [("*a*a*a*a*a*a*b", False), ("*a*a*a*a*a*a*", True)])
def test_a_pattern_of_many_stars_takes_no_time(pattern: str, fits: bool) -> None:
    began = process_time()
    assert (Histories({pattern: History()}).of("a" * 256) is not None) is fits
    assert process_time() - began < 1


def test_patterns_that_share_only_some_rooms_hide_nothing() -> None:
    assert (
        Histories({"a*": History(), "*b": History(), "c:*:d": History(), "c:*": History()}).hidden() is None
    )
