"""An adapter as somebody else would write it, on one file of SQLite that processes share: `shelf:///path/to/file`.

Tests put this file into a package of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from uuid import uuid4

from aquilia.sockets import AdapterOptions, History, Position, Publication
from aquilia.sockets.adapters.base import Deliver, Page
from aquilia.sockets.adapters.stored import decode, encode
from aquilia.sockets.faults import ws_adapter_unavailable

TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS life (epoch TEXT);
CREATE TABLE IF NOT EXISTS said (
    offset INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT, id TEXT, previous INTEGER, at REAL, data BLOB
);
CREATE UNIQUE INDEX IF NOT EXISTS once ON said (place, id) WHERE id IS NOT NULL;
CREATE TABLE IF NOT EXISTS log (place TEXT PRIMARY KEY, head INTEGER, gone INTEGER);
CREATE TABLE IF NOT EXISTS value (key TEXT PRIMARY KEY, value BLOB, expires REAL);
"""
LOOK = 0.005
"""Seconds between two looks at what was said."""


class Shelf:
    """The file, between `start` and `stop`."""

    def __init__(self, file: Path, options: AdapterOptions) -> None:
        self.file = file
        self.now = options.clock.time
        self.base: sqlite3.Connection | None = None
        self.epoch = ""

    def open(self) -> None:
        try:
            self.base = sqlite3.connect(self.file, isolation_level=None, timeout=10)
        except sqlite3.Error as error:
            raise ws_adapter_unavailable(f"{self.file}: {error}") from error
        self.base.executescript(TABLES)
        with self.change() as base:
            base.execute("INSERT INTO life SELECT ? WHERE NOT EXISTS (SELECT * FROM life)", (uuid4().hex,))
            (self.epoch,) = base.execute("SELECT epoch FROM life").fetchone()

    @contextlib.contextmanager
    def change(self):
        """One step that nobody else comes between."""
        if self.base is None:
            raise ws_adapter_unavailable("the shelf is closed")
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield self.base
        finally:
            self.base.execute("COMMIT")

    def last(self) -> int:
        with self.change() as base:
            return base.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0]

    def log(self, base: sqlite3.Connection, place: str) -> tuple[int, int]:
        """The newest entry of a room, and the newest that is gone."""
        base.execute("INSERT OR IGNORE INTO log VALUES (?, 0, 0)", (place,))
        return base.execute("SELECT head, gone FROM log WHERE place = ?", (place,)).fetchone()

    def trim(self, base: sqlite3.Connection, place: str, history: History) -> None:
        beyond = "SELECT offset FROM said WHERE place = :p AND id IS NOT NULL ORDER BY offset DESC LIMIT -1 OFFSET :n"
        values = {"p": place, "n": history.size, "old": self.now() - history.ttl}
        leaves = f"place = :p AND id IS NOT NULL AND (at <= :old OR offset IN ({beyond}))"
        (gone,) = base.execute(f"SELECT max(offset) FROM said WHERE {leaves}", values).fetchone()
        if gone is not None:
            base.execute(f"DELETE FROM said WHERE {leaves}", values)
            base.execute("UPDATE log SET gone = ? WHERE place = ?", (gone, place))


def place_of(namespace: str, room: str | None) -> str:
    return repr((namespace, room))


class ShelfBroker:
    def __init__(self, shelf: Shelf) -> None:
        self.on_lost = None
        self.on_foreign = None
        self._shelf = shelf
        self._since: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._shelf.base is not None

    async def start(self, deliver: Deliver) -> None:
        self._shelf.open()
        self._looking = asyncio.create_task(self._look(deliver, self._shelf.last()))

    async def stop(self) -> None:
        if self._looking is None:
            return
        self._looking.cancel()
        self._looking = None
        self._since.clear()
        self._shelf.base.close()
        self._shelf.base = None

    async def subscribe(self, namespace, room, history=None):
        place = place_of(namespace, room)
        self._since[place] = self._shelf.last()
        if history is None:
            return None
        with self._shelf.change() as base:
            return Position(self._shelf.epoch, self._shelf.log(base, place)[0])

    async def unsubscribe(self, namespace, room):
        self._since.pop(place_of(namespace, room), None)

    async def publish(self, publication, history=None):
        data, shelf = encode(publication), self._shelf
        place = place_of(publication.namespace, publication.room)
        with shelf.change() as base:
            if history is None:
                base.execute("INSERT INTO said (place, data) VALUES (?, ?)", (place, data))
                base.execute("DELETE FROM said WHERE id IS NULL AND offset < last_insert_rowid() - 10000")
                return None
            head, _ = shelf.log(base, place)
            known = base.execute(
                "SELECT offset FROM said WHERE place = ? AND id = ?", (place, publication.id)
            )
            if (found := known.fetchone()) is not None:
                return Position(shelf.epoch, found[0])
            base.execute(
                "INSERT INTO said (place, id, previous, at, data) VALUES (?, ?, ?, ?, ?)",
                (place, publication.id, head, shelf.now(), data),
            )
            base.execute("UPDATE log SET head = last_insert_rowid() WHERE place = ?", (place,))
            position = Position(shelf.epoch, shelf.log(base, place)[0])
            shelf.trim(base, place, history)
            return position

    async def read(self, namespace, room, history, *, since=None, limit=100):
        shelf, place = self._shelf, place_of(namespace, room)
        with shelf.change() as base:
            shelf.trim(base, place, history)
            offset, gone = shelf.log(base, place)
            head = Position(shelf.epoch, offset)
            rows = "SELECT offset, previous, data FROM said WHERE place = ? AND id IS NOT NULL"
            if since is None:
                found = base.execute(f"{rows} ORDER BY offset DESC LIMIT ?", (place, limit)).fetchall()[::-1]
            elif since.epoch != shelf.epoch or not gone <= since.offset <= offset:
                return Page((), head, False)
            else:
                behind = f"{rows} AND offset > ? ORDER BY offset LIMIT ?"
                found = base.execute(behind, (place, since.offset, limit)).fetchall()
        return Page([self._entry(*row) for row in found], head, True)

    async def forget(self, namespace, room, history):
        shelf, place = self._shelf, place_of(namespace, room)
        with shelf.change() as base:
            head, _ = shelf.log(base, place)
            base.execute("UPDATE log SET gone = ? WHERE place = ?", (head, place))
            return base.execute("DELETE FROM said WHERE place = ? AND id IS NOT NULL", (place,)).rowcount

    def _entry(self, offset: int, previous: int, data: bytes) -> Publication:
        return decode(data, Position(self._shelf.epoch, offset), previous)

    async def _look(self, deliver: Deliver, seen: int) -> None:
        every = "SELECT offset, place, id, previous, data FROM said WHERE offset > ? ORDER BY offset"
        while True:
            with self._shelf.change() as base:
                rows = base.execute(every, (seen,)).fetchall()
            for seen, place, id, previous, data in rows:
                if seen > self._since.get(place, seen):
                    deliver(decode(data) if id is None else self._entry(seen, previous, data))
            await asyncio.sleep(LOOK)


class ShelfStore:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def _value(self, base: sqlite3.Connection, key: str) -> bytes | None:
        base.execute("DELETE FROM value WHERE expires <= ?", (self._shelf.now(),))
        found = base.execute("SELECT value FROM value WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def _set(self, base: sqlite3.Connection, key: str, value: bytes, ttl: float | None) -> None:
        expires = None if ttl is None else self._shelf.now() + ttl
        base.execute("INSERT OR REPLACE INTO value VALUES (?, ?, ?)", (key, value, expires))

    async def get(self, key):
        with self._shelf.change() as base:
            return self._value(base, key)

    async def put(self, key, value, ttl=None):
        with self._shelf.change() as base:
            self._set(base, key, value, ttl)

    async def compare_and_swap(self, key, expected, value, ttl=None):
        with self._shelf.change() as base:
            if fits := self._value(base, key) == expected:
                self._set(base, key, value, ttl)
            return fits

    async def get_and_delete(self, key):
        with self._shelf.change() as base:
            value = self._value(base, key)
            base.execute("DELETE FROM value WHERE key = ?", (key,))
            return value


class ShelfAdapter:
    """What the entry point names: it is called with the URL and the options."""

    def __init__(self, url: str, options: AdapterOptions) -> None:
        path = url.removeprefix("shelf://")
        if not path.startswith("/"):
            raise ValueError(f"{url}: a file is needed, as in shelf:///path/to/file")
        shelf = Shelf(Path(path), options)
        self.broker = ShelfBroker(shelf)
        self.store = ShelfStore(shelf)
