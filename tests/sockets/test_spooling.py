"""The outbox under `spool`: its order, its bounds, and what a disk that answers late or never makes of it."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import get_args

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aquilia.sockets.outbox import spooling
from aquilia.sockets.outbox.blocks import Block, Record
from aquilia.sockets.outbox.queue import Backpressure, Strategy
from aquilia.sockets.outbox.spooling import SpoolingOutbox

PLENTY = 1 << 20
SMALL = 20
"""Bytes of a block, in the place of 64 KiB."""


class Shelf:
    """A disk that does nothing by itself: a test says what it has done."""

    def __init__(self) -> None:
        self.takes = True
        self.writing: deque[Block] = deque()
        self.reading: deque[Block] = deque()
        self.content: dict[Block, list[Record]] = {}

    def write(self, block: Block) -> bool:
        if self.takes:
            assert block.records
            assert block not in self.content
            self.content[block] = [*block.records]
            self.writing.append(block)
        return self.takes

    def read(self, block: Block) -> None:
        assert block in self.content
        assert block not in self.writing
        self.reading.append(block)

    def free(self, block: Block) -> None:
        del self.content[block]
        for queue in (self.writing, self.reading):
            if block in queue:
                queue.remove(block)


def gap(dropped: int) -> bytes:
    return b"<%d lost>" % dropped


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "BLOCK_BYTES", SMALL)


def outbox(
    strategy: str = "spool", size: int = 2, bytes: int = PLENTY, spool: int = PLENTY
) -> SpoolingOutbox:
    box = SpoolingOutbox(Backpressure(strategy, size, bytes), spool)  # type: ignore[arg-type]
    box.disk = Shelf()
    return box


def shelf(box: SpoolingOutbox) -> Shelf:
    assert isinstance(box.disk, Shelf)
    return box.disk


def push_all(box: SpoolingOutbox, *frames: bytes) -> list[bool]:
    return [box.push_as(frame, "spool") for frame in frames]


def everything(box: SpoolingOutbox) -> list[bytes]:
    """All of it, from a disk that does at once what it is asked."""
    taken: list[bytes] = []
    while not box.empty:
        taken += box.take(PLENTY, gap)
        settle(box)
    return taken


def settle(box: SpoolingOutbox) -> None:
    disk = shelf(box)
    while disk.writing:
        box.written(disk.writing.popleft())
    while disk.reading:
        block = disk.reading.popleft()
        box.returned(block, [*disk.content[block]])


LONG = [b"%09d|" % number for number in range(20)]


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_what_goes_to_disk_comes_back_in_its_place(strategy: str) -> None:
    box = outbox(strategy)
    box.push(b"1")
    assert all(push_all(box, *LONG))
    box.push_urgent(b"answer")
    assert all(push_all(box, *LONG))
    settle(box)
    assert everything(box) == [b"1", *LONG, b"answer", *LONG]


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_the_size_of_what_waits_is_told_wherever_it_is(strategy: str) -> None:
    box = outbox(strategy)
    assert box.mean_bytes == 0
    box.push_urgent(b"an answer does not count")
    assert all(push_all(box, *LONG))
    settle(box)
    sizes = []
    while not box.empty:
        sizes.append(box.mean_bytes)
        box.take(1, gap)
        settle(box)
    assert set(sizes[:-1]) == {10}
    assert (len(box), box.waiting_bytes, box.spooled_bytes, box.half_full) == (0, 0, 0, False)
    assert not shelf(box).content


def test_what_fits_never_sees_a_disk() -> None:
    box = outbox(size=3)
    push_all(box, b"1", b"2", b"3")
    assert (box.spooled_bytes, box.waiting_bytes) == (0, 3)
    assert everything(box) == [b"1", b"2", b"3"]


def test_what_is_on_disk_takes_no_memory_and_still_waits() -> None:
    box = outbox()
    push_all(box, *LONG)
    settle(box)
    assert (len(box), box.waiting_bytes, box.spooled_bytes) == (20, 20, 180)
    assert box.half_full


def test_a_few_messages_are_gathered_before_they_are_written_and_may_be_read_before() -> None:
    box = outbox()
    push_all(box, b"1", b"2", b"3", b"4")
    assert not shelf(box).content
    assert everything(box) == [b"1", b"2", b"3", b"4"]


def test_nothing_is_taken_before_it_is_read_and_nothing_passes_it() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:2])
    box.push_urgent(b"answer")
    settle(box)
    assert box.take(PLENTY, gap) == [b"1"]
    assert box.take(PLENTY, gap) == []
    assert box.stalled
    assert not box.empty
    settle(box)
    assert box.take(PLENTY, gap) == [*LONG[:2], b"answer"]
    assert not box.stalled


def test_nothing_is_read_before_all_that_stands_before_it_is_gone() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:4])
    settle(box)
    box.take(PLENTY, gap)
    assert not shelf(box).reading
    box.take(PLENTY, gap)
    assert len(shelf(box).reading) == 1


def test_what_has_not_been_written_yet_is_taken_from_memory_and_forgotten_by_the_disk() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:4])
    assert box.take(PLENTY, gap) == [b"1", *LONG[:4]]
    assert not shelf(box).content


def test_beyond_the_bound_of_the_disk_the_newest_is_lost_and_told() -> None:
    box = outbox(size=1, spool=40)
    assert push_all(box, b"1", *LONG[:6]) == [True] * 5 + [False] * 2
    assert (box.unspooled, box.dropped, box.overflowed) == (2, 0, False)
    settle(box)
    assert everything(box) == [b"1", *LONG[:4], b"<2 lost>"]
    assert push_all(box, *LONG[:4]) == [True] * 4


def test_a_disk_that_takes_no_more_leaves_it_in_memory_up_to_a_bound() -> None:
    box = outbox(size=1, bytes=40)
    shelf(box).takes = False
    assert push_all(box, b"1", *LONG[:6]) == [True] * 5 + [False] * 2
    assert box.waiting_bytes == 41
    shelf(box).takes = True
    assert push_all(box, LONG[7]) == [True]
    assert box.waiting_bytes == 11
    assert everything(box) == [b"1", *LONG[:4], b"<2 lost>", LONG[7]]


def test_a_block_that_fails_is_a_gap_in_its_place() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:6])
    box.push_urgent(b"answer")
    blocks = [*shelf(box).writing]
    shelf(box).writing.clear()
    box.written(blocks[0])
    box.failed(blocks[2])
    box.failed(blocks[1])
    assert len(box) == 3
    assert everything(box) == [b"1", *LONG[:2], b"<4 lost>", b"answer"]


def test_others_send_it_to_disk_before_they_end_the_connection_or_drop_anything() -> None:
    box = outbox(size=3)
    box.push(b"1")
    box.push_as(b"price", "drop_oldest")
    box.push(b"2")
    assert box.push_as(b"vital", "buffer") is True
    assert box.push_as(b"vital too", "buffer") is True
    assert box.push_as(b"too many", "buffer") is False  # the price gave way
    assert (box.dropped, box.overflowed) == (1, False)
    assert box.push_as(b"far too many", "buffer") is False
    assert box.overflowed
    assert everything(box) == [b"1", b"<1 lost>", b"2", b"vital", b"vital too", b"too many"]


def test_it_gives_way_by_going_to_disk_and_loses_nothing() -> None:
    box = outbox(size=10)
    push_all(box, *LONG)
    before = box.waiting_bytes
    assert box.give_way(10)
    assert (box.dropped, box.waiting_bytes, before) == (0, 0, 100)
    assert not box.give_way(10)
    settle(box)
    assert everything(box) == LONG


def test_what_was_read_gives_way_without_a_loss() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:6])
    settle(box)
    assert [box.take(1, gap) for _ in range(2)] == [[b"1"], []]
    settle(box)
    assert box.waiting_bytes == 20
    taken = box.take(1, gap)  # a part of it
    assert box.waiting_bytes == 10
    shelf(box).takes = False
    assert box.give_way(10)
    assert (box.waiting_bytes, box.dropped) == (0, 0)
    shelf(box).takes = True
    assert taken + everything(box) == LONG[:6]
    assert not shelf(box).content


def test_what_is_taken_in_part_while_it_is_written_takes_no_memory_then() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:6])
    taken = box.take(5, gap)
    settle(box)
    assert box.waiting_bytes == 0
    assert taken + everything(box) == [b"1", *LONG[:6]]


def test_it_loses_its_oldest_where_the_disk_takes_no_more() -> None:
    box = outbox(size=4)
    push_all(box, *LONG[:5])
    shelf(box).takes = False
    assert box.give_way(30)
    assert (box.dropped, len(box)) == (4, 1)
    assert everything(box) == [b"<4 lost>", LONG[4]]


def test_a_cleared_one_is_as_new_and_the_disk_forgets_it() -> None:
    box = outbox()
    push_all(box, *LONG)
    box.written(shelf(box).writing.popleft())
    box.clear()
    assert not shelf(box).content
    assert (len(box), box.waiting_bytes, box.spooled_bytes, box.half_full) == (0, 0, 0, False)
    push_all(box, *LONG)
    assert everything(box) == LONG


@pytest.mark.parametrize("other", ["drop_oldest", "drop_newest", "conflate"])
def test_events_that_are_lost_among_it_do_not_cut_it_into_pieces(
    other: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "BLOCK_BYTES", 1000)
    box = outbox(size=100)
    for number in range(2000):
        assert box.push_as(b"%010d" % number, "spool")
        box.push_as(b"other", other)
    assert len(shelf(box).content) < 130
    settle(box)
    found = everything(box)
    assert [frame for frame in found if frame.isdigit()] == [b"%010d" % number for number in range(2000)]
    told = [int(frame[1:].split()[0]) for frame in found if frame.startswith(b"<")]
    assert sum(told) == box.dropped == 2000 - found.count(b"other")
    assert sum(told[:-1]) == len(told) - 1  # each in its place


class SpoolingMachine(RuleBasedStateMachine):
    """Every strategy in one outbox, over a disk that does what it is asked, late, in any order, or never.

    Whatever is taken is what was pushed, in that order; where something is missing stands a gap that says how much.
    """

    box: SpoolingOutbox

    @initialize(
        strategy=st.sampled_from(get_args(Strategy)),
        size=st.integers(1, 5),
        bytes=st.integers(1, 60),
        spool=st.integers(1, 200),
    )
    def open(self, strategy: Strategy, size: int, bytes: int, spool: int) -> None:
        self.box = outbox(strategy, size, bytes, spool)
        self.disk = shelf(self.box)
        self.strategy, self.spool = strategy, spool
        self.numbers = count()
        self.pushed: deque[tuple[bytes, bool]] = deque()
        """What was pushed and not taken, and whether it is an answer."""
        self.failed = 0
        self.taken_losses = 0

    def frame(self, kind: str, length: int) -> bytes:
        return f"{kind}{next(self.numbers)}".encode().ljust(length, b".")

    @rule(length=st.integers(1, 30), strategy=st.sampled_from([*get_args(Strategy), *["spool"] * 5, None]))
    def push(self, length: int, strategy: Strategy | None) -> None:
        frame = self.frame("m", length)
        self.pushed.append((frame, False))
        losses = self.losses
        fits = self.disk.takes and self.box.spooled_bytes + len(frame) <= self.spool
        stays = self.box.push(frame) if strategy is None else self.box.push_as(frame, strategy)
        if self.box.overflowed:
            assert (strategy or self.strategy) in ("buffer", "disconnect")
            self.box.overflowed = False  # a connection would end here
            self.pushed.pop()
        else:
            assert stays is (self.losses == losses)
            assert stays or not fits or (strategy or self.strategy) != "spool"

    @rule(length=st.integers(1, 30))
    def push_urgent(self, length: int) -> None:
        frame = self.frame("u", length)
        self.box.push_urgent(frame)
        self.pushed.append((frame, True))

    @rule(takes=st.booleans())
    def fill_or_empty_the_disk(self, takes: bool) -> None:
        self.disk.takes = takes

    @precondition(lambda self: self.disk.writing)
    @rule(data=st.data(), works=st.booleans())
    def write(self, data: st.DataObject, works: bool) -> None:
        block = data.draw(st.sampled_from([*self.disk.writing]))
        self.disk.writing.remove(block)
        if works:
            self.box.written(block)
        else:
            self.fail(block)

    @precondition(lambda self: self.disk.reading)
    @rule(works=st.booleans())
    def read(self, works: bool) -> None:
        block = self.disk.reading.popleft()
        if works:
            self.box.returned(block, [*self.disk.content[block]])
        else:
            self.fail(block)

    def fail(self, block: Block) -> None:
        self.failed += block.count
        del self.disk.content[block]
        self.box.failed(block)

    @rule(max_bytes=st.integers(1, 80))
    def take(self, max_bytes: int) -> None:
        taken = self.box.take(max_bytes, gap)
        self.follow(taken)
        assert sum(map(len, taken[:-1])) < max_bytes
        assert self.box.stalled is (not taken and bool(self.pushed))
        assert not self.box.stalled or self.disk.reading

    def follow(self, taken: list[bytes]) -> None:
        """Each frame is the next that was pushed; a gap stands for as many messages."""
        for frame in taken:
            if frame.startswith(b"<"):
                for _ in range(int(frame[1:].split()[0])):
                    assert not self.pushed.popleft()[1]
                    self.taken_losses += 1
            else:
                assert frame == self.pushed.popleft()[0]

    @rule()
    def spill(self) -> None:
        spilled = self.box.spill()
        assert spilled or not self.disk.takes

    @rule(volume=st.integers(1, 100))
    def give_way(self, volume: int) -> None:
        before = self.box.waiting_bytes
        gave = self.box.give_way(volume)
        assert gave is (self.box.waiting_bytes < before)

    @property
    def losses(self) -> int:
        return self.box.dropped + self.box.unspooled + self.failed

    @invariant()
    def it_says_what_it_holds(self) -> None:
        if not hasattr(self, "box"):
            return
        box = self.box
        messages = [frame for frame, urgent in self.pushed if not urgent]
        assert len(box) == len(messages) - (self.losses - self.taken_losses)
        assert box.empty is (not self.pushed)
        stored = [record for records in self.disk.content.values() for record in records]
        on_disk = sum(len(record) for record in stored if isinstance(record, bytes))
        assert on_disk <= box.spooled_bytes <= self.spool
        if self.losses == self.taken_losses:
            waiting = sum(len(frame) for frame, _ in self.pushed)
            assert waiting <= box.waiting_bytes + on_disk
            if not on_disk:
                assert waiting == box.waiting_bytes

    def teardown(self) -> None:
        if hasattr(self, "box"):
            settle(self.box)
            self.follow(everything(self.box))
            assert not self.pushed
            assert not self.disk.content
            assert self.losses == self.taken_losses
            assert (len(self.box), self.box.waiting_bytes, self.box.spooled_bytes) == (0, 0, 0)


TestAnySequence = SpoolingMachine.TestCase
