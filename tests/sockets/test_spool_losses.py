"""What is lost under `spool`: a client, the process or the disk is full, or the file is not what was written."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from door import Complaints
from slow import (
    COUNT,
    entered,
    frozen_at,
    hall,
    lost,
    members,
    numbers,
    profiles,
    publish_all,
    served,
    wires,
    written,
)
from test_slow_members import told_of
from wire import eventually


def whole(messages: list[dict[str, Any]], count: int = COUNT) -> tuple[list[int], int]:
    """The notes, each at its place, and of how many more the client was told."""
    got: list[int] = []
    place = told = 0
    for message in messages:
        if message["event"] == "note":
            assert message["payload"][0] == place
            got.append(place)
            place += 1
        else:
            dropped = told_of(message)
            assert dropped is not None
            told += dropped
            place += dropped
    assert place == count
    return got, told


@wires
@profiles
async def test_beyond_its_bound_the_newest_are_lost_and_told(transport: str, profile: str) -> None:
    app = hall(spool_bytes=1_000_000)
    async with members(app, transport, profile) as (ada, frozen):
        await publish_all(ada)
        counted = lost(app, "spool_full")
        got, told = whole(await frozen.read_on())
        assert got[:50] == [*range(50)]
        assert 150 < told == counted < 260
        await publish_all(ada)
        whole(await frozen.read_on())


async def test_the_bound_of_the_process_is_shared() -> None:
    app = hall(spool_total_bytes=1_000_000)
    async with served(app) as base, entered(base) as ada, frozen_at(base) as frozen, frozen_at(base) as other:
        await publish_all(ada)
        for client in (frozen, other):
            _, told = whole(await client.read_on())
            assert 150 < told < COUNT
        await publish_all(ada)


@profiles
async def test_what_others_lose_among_it_is_told_in_its_place(profile: str) -> None:
    app = hall()
    async with members(app, "native", profile) as (ada, frozen):
        for number in range(COUNT):
            for event in ("late", "tick"):
                await ada.send("say", [event, [number]])
                await ada.expect(event)
        found = await frozen.read_on()
        assert numbers(found, "late") == [*range(COUNT)]
        place = 0
        for message in found:
            if (dropped := told_of(message)) is None:
                assert message["payload"][0] == place // 2
            place += dropped or 1
        assert place == 2 * COUNT
        assert 200 < lost(app, "slow_consumer") < COUNT
        assert not lost(app, "spool_full")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as the kernel has it: writing beyond that is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@wires
@profiles
async def test_a_disk_that_is_full_loses_what_it_cannot_take_and_nothing_else(
    transport: str, profile: str, complaints: Complaints
) -> None:
    app = hall()
    async with members(app, transport, profile) as (ada, frozen):
        with files_of_at_most(1_000_000):
            await publish_all(ada)
            await eventually(lambda: lost(app, "spool_failed") > 100)
        got, told = whole(await frozen.read_on())
        assert got[:40] == [*range(40)]
        assert told == lost(app, "spool_failed") == COUNT - len(got)
        assert len(complaints.take()) == 1
        await publish_all(ada)
        assert whole(await frozen.read_on()) == ([*range(COUNT)], 0)


@pytest.mark.parametrize("damage", ["changed", "cut"])
async def test_what_is_not_what_was_written_is_lost_and_never_sent(
    damage: str, tmp_path: Path, complaints: Complaints
) -> None:
    app = hall(spool_dir=str(tmp_path))
    async with members(app, "native") as (ada, frozen):
        await publish_all(ada)
        file = await written(app, tmp_path)
        if damage == "changed":
            with file.open("r+b") as damaged:
                damaged.seek(200_000)
                damaged.write(b"y")
        else:
            os.truncate(file, 200_000)
        got, told = whole(await frozen.read_on())
        assert told == lost(app, "spool_failed") == COUNT - len(got)
        assert (1 <= told <= 5) if damage == "changed" else told > 100
        assert len(complaints.take()) == 1
        await publish_all(ada)
        assert whole(await frozen.read_on()) == ([*range(COUNT)], 0)
