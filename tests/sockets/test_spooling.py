"""The outbox under `spool`: its order, its bounds, and what a disk that answers late or never makes of it."""

from __future__ import annotations

from collections import deque
from typing import get_args

import pytest

from aquilia.sockets import spooling
from aquilia.sockets.outbox import Backpressure, Strategy
from aquilia.sockets.spooling import Block, SpoolingOutbox

PLENTY = 1 << 20
SMALL = 20
"""Bytes of a block, in the place of 64 KiB."""


class Shelf:
    """A disk that does nothing by itself: a test says what it has done."""

    def __init__(self) -> None:
        self.takes = True
        self.writing: deque[Block] = deque()
        self.reading: deque[Block] = deque()
        self.content: dict[Block, list[bytes]] = {}
        self.losses = 0

    def write(self, block: Block) -> bool:
        if self.takes:
            assert block.frames
            assert block not in self.content
            self.content[block] = [*block.frames]
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

    def lost(self, count: int) -> None:
        self.losses += count


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
        box.returned(block, disk.content.pop(block))


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


def test_what_is_next_is_asked_for_while_what_is_before_it_goes() -> None:
    box = outbox(size=1)
    push_all(box, b"1", *LONG[:4])
    settle(box)
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
    assert (shelf(box).losses, box.dropped, box.overflowed) == (2, 0, False)
    settle(box)
    assert everything(box) == [b"1", *LONG[:4], b"<2 lost>"]
    assert push_all(box, *LONG[:4]) == [True] * 4


def test_a_disk_that_takes_no_more_leaves_it_in_memory_up_to_a_bound() -> None:
    box = outbox(size=1, bytes=40)
    shelf(box).takes = False
    assert push_all(box, b"1", *LONG[:6]) == [True] * 5 + [False] * 2
    assert box.waiting_bytes == 41
    shelf(box).takes = True
    assert everything(box) == [b"1", *LONG[:4], b"<2 lost>"]


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
