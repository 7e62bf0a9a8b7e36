"""Blocks: the messages that go to disk and come back as one, and what is asked of the disk.

Pure: whoever is the disk says later how that ended.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol, cast

__all__ = ["Block", "Disk", "Record", "Where"]

Record = bytes | int
"""A frame; or how many messages were lost in this place, so that a loss does not cut a block in two."""


class Where(enum.Enum):
    """Where the messages of a block are."""

    GATHERED = enum.auto()
    """In memory: nobody has been asked to write them yet."""
    LEAVING = enum.auto()
    """Handed to the disk, which counts them from there on; they are in memory until they are written."""
    STORED = enum.auto()
    COMING = enum.auto()
    """On disk, and asked for."""
    BACK = enum.auto()
    """In memory again, and on disk until the last of it is taken: so it can be dropped here, and read again."""
    GONE = enum.auto()


class Block:
    """Messages that stand together in a queue, and are written and read as one."""

    __slots__ = ("bytes", "count", "lost", "place", "records", "size", "taken", "where")

    def __init__(self) -> None:
        self.records: list[Record] | None = []
        """Those that have not been taken."""
        self.count = self.bytes = 0
        """Of the frames that have not been taken."""
        self.lost = 0
        """The messages that were lost among these."""
        self.size = 0
        """Bytes of all that are, or will be, on disk."""
        self.taken = 0
        """Records that were taken and are on disk, or on their way there."""
        self.where = Where.GATHERED
        self.place: Any = None
        """The disk's own note of where it is."""

    def add(self, frame: bytes) -> None:
        """One more message, while it is being gathered."""
        cast(list[Record], self.records).append(frame)
        self.count += 1
        self.bytes += len(frame)
        self.size = self.bytes

    def lose(self, count: int) -> None:
        """So many messages were lost at its end, while it is being gathered."""
        records = cast(list[Record], self.records)
        if records and isinstance(last := records[-1], int):
            records[-1] = last + count
        else:
            records.append(count)
        self.lost += count


class Disk(Protocol):
    """What an outbox asks of the disk. Nothing is waited for here."""

    def write(self, block: Block) -> bool:
        """Write its records, and call `written` or `failed`. False: the disk takes no more for now."""

    def read(self, block: Block) -> None:
        """Read what was written, and call `returned` or `failed`. What was read stays on disk."""

    def free(self, block: Block) -> None:
        """Forget a block, whether it is written by now or not; nothing more is called for it."""
