"""Sessions in real databases: a file of SQLite, and PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_app import client_of
from session_pages import SECRET, Clock, serving, shown
from session_servers import PASSWORD, OfTwoProcesses, Server, postgres
from session_store_contract import BOUND, PassTime

from aquilia import Fault, SessionEngine, SQLSessionStore


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with postgres() as server:
        yield server


def url(server: Server, login: str = f"aq:{PASSWORD}", name: str = "postgres") -> str:
    return f"postgresql+asyncpg://{login}@127.0.0.1:{server.port}/{name}"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/sessions.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


class _OnSQL(OfTwoProcesses):
    @pytest.fixture
    def pair(self, place: str, clock: Clock) -> list[SQLSessionStore]:
        table = f"sessions_{secrets.token_hex(8)}"  # which both make at once
        options: Any = {"table": table, "create_tables": True, "max_session_size": BOUND, "clock": clock}
        return [SQLSessionStore(place, **options) for _ in range(2)]

    @pytest.fixture
    def pass_time(self, clock: Clock) -> PassTime:
        async def pass_time(seconds: float) -> None:
            clock.now += seconds

        return pass_time


class TestSQLite(_OnSQL):
    @pytest.fixture
    def place(self, file: str) -> str:
        return file


class TestPostgreSQL(_OnSQL):
    @pytest.fixture
    def place(self, database: Server) -> str:
        return url(database)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        found: str = request.getfixturevalue("file")
        return found
    return url(request.getfixturevalue("database"))


async def test_without_a_table_it_does_not_start_and_with_the_ddl_it_does(file: str, tmp_path: Path) -> None:
    store = SQLSessionStore(file, table="shop_sessions")
    with pytest.raises(Fault, match="no such table: shop_sessions") as refused:
        await store.start()
    assert not refused.value.recoverable
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        connection.executescript(store.ddl())
    connection.close()
    await store.start()
    await store.create("a", {"x": b"1"}, 10)
    assert await store.load("a") == {"x": b"1"}
    await store.stop()


async def test_the_table_holds_no_id(file: str, tmp_path: Path) -> None:
    store = SQLSessionStore(file, create_tables=True)
    await store.start()
    await store.create("an-id-of-a-session", {"x": b"1"}, 10)
    await store.stop()
    assert b"an-id-of" not in (tmp_path / "sessions.db").read_bytes()


async def test_expired_sessions_are_swept_away_when_new_ones_come(
    file: str, tmp_path: Path, clock: Clock
) -> None:
    store = SQLSessionStore(file, create_tables=True, clock=clock)
    await store.start()
    for n in range(5):
        await store.create(f"old{n}", {"x": b"1"}, 10)
    await store.create("young", {"x": b"1"}, 1000)
    clock.now += 59
    await store.create("early", {"x": b"1"}, 1000)
    assert rows(tmp_path) == 7  # once a minute is enough
    clock.now += 1
    await store.create("new", {"x": b"1"}, 1000)
    assert rows(tmp_path) == 3
    assert await store.sweep() == 0
    await store.stop()


async def test_a_sweep_is_bounded(file: str, tmp_path: Path, clock: Clock) -> None:
    store = SQLSessionStore(file, create_tables=True, clock=clock)
    await store.start()
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        connection.executemany(
            "INSERT INTO aquilia_sessions VALUES (?, x'80', 0, 5)", [(str(n),) for n in range(700)]
        )
    connection.close()
    await store.create("a", {"x": b"1"}, 10)
    assert rows(tmp_path) == 201
    await store.create("b", {"x": b"1"}, 10)  # as that was not all, the next one goes on
    assert rows(tmp_path) == 2
    await store.stop()


def rows(folder: Path) -> int:
    connection = sqlite3.connect(folder / "sessions.db")
    count: int = connection.execute("SELECT count(*) FROM aquilia_sessions").fetchone()[0]
    connection.close()
    return count


_WRITER = """
import asyncio, sys
from aquilia import SQLSessionStore

async def write():
    store = SQLSessionStore(sys.argv[1], create_tables=True, timeout=30)
    await store.start()
    for n in range(20):
        assert await store.update("a", {f"{sys.argv[2]}-{n}": b"1"}, (), 600)
    await store.stop()

asyncio.run(write())
"""


async def test_several_processes_do_not_undo_what_the_others_did(place: str) -> None:
    store = SQLSessionStore(place, create_tables=True)
    await store.start()
    await store.create("a", {"x": b"1"}, 600)
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, place, name) for name in "bcd"
    ]
    assert [await writer.wait() for writer in writers] == [0, 0, 0]
    found = await store.load("a")
    assert found is not None
    assert set(found) == {"x", *(f"{name}-{n}" for name in "bcd" for n in range(20))}
    await store.delete("a")
    await store.stop()


async def test_a_server_that_is_away_is_a_fault_and_one_that_is_back_is_used_again(
    database: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aquilia.sessions")
    store = SQLSessionStore(url(database), table="away", create_tables=True)
    async with serving(SessionEngine(SECRET, store=store)) as app, client_of(app) as client:
        await client.post("/set", json={"a": 1})
        database.kill()
        for _ in range(3):
            answer = await client.get("/show")
            assert answer.status_code == 503
            assert answer.json()["code"] == "SESSION_STORE_UNAVAILABLE"
        database.start()
        async with asyncio.timeout(20):
            while (await client.get("/show")).status_code == 503:  # it listens before it is done recovering
                await asyncio.sleep(0.02)
        assert await shown(client) == {"a": 1}
    told = [record.getMessage() for record in caplog.records if record.name == "aquilia.sessions"]
    assert [("cannot be reached" in line, "again" in line) for line in told] == [(True, False), (False, True)]
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    ("login", "name", "told"),
    [
        ("aq:wrong-word", "postgres", 'password authentication failed for user "aq"'),
        (f"aq:{PASSWORD}", "nowhere", 'database "nowhere" does not exist'),
        (f"aq:{PASSWORD}", "postgres", 'relation "missing" does not exist'),
    ],
)
async def test_what_cannot_be_used_does_not_start(database: Server, login: str, name: str, told: str) -> None:
    store = SQLSessionStore(url(database, login, name), table="missing")
    with pytest.raises(Fault, match=told) as refused:
        async with serving(SessionEngine(SECRET, store=store)):
            pass
    assert refused.value.code == "SESSION_STORE_UNAVAILABLE"
    assert not refused.value.recoverable
    assert PASSWORD not in str(refused.value)
    assert "wrong-word" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"url": "pa55word"}, "url: it cannot be read; one of SQLAlchemy's for asyncio is needed"),
        ({"url": None}, "url: it cannot be read"),
        ({"url": "nosql://me:pa55word@host/db"}, "SQLAlchemy does not know 'nosql'"),
        ({"url": "sqlite:///x.db"}, "'sqlite' is not for asyncio"),
        ({"url": "sqlite+aiosqlite://"}, "a database in memory is that of one connection: name a file"),
        ({"url": "sqlite+aiosqlite:///x.db", "table": "a b"}, "table: up to 51 letters, digits and '_'"),
        (
            {"url": "sqlite+aiosqlite:///x.db", "max_connections": 0},
            "max_connections: a whole number above 0",
        ),
        (
            {"url": "sqlite+aiosqlite:///x.db", "timeout": float("inf")},
            "timeout: a number of seconds above 0",
        ),
    ],
)
def test_wrong_arguments_are_refused_when_it_is_made(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        SQLSessionStore(**arguments)
    assert "pa55word" not in str(refused.value)


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"'mysql\+asyncmy' needs its driver: pip install asyncmy"):
        SQLSessionStore("mysql+asyncmy://me:pa55@host/db")


def test_no_password_is_shown(file: str) -> None:
    shown = repr(SQLSessionStore("postgresql+asyncpg://me:pa55@db.example/shop?ssl=pa55"))
    assert shown == "<SQLSessionStore postgresql+asyncpg://db.example/shop>"
