"""Sessions in a table of a database, by SQLAlchemy: one row for each, which is changed only as it was read."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from aquilia.clock import now
from aquilia.sessions.reach import Reach
from aquilia.sessions.store import require_fit, require_numbers

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.sql import Executable

__all__ = ["SQLSessionStore"]

logger = logging.getLogger("aquilia.sessions")

_SWEEP_EVERY = 60.0
_SWEPT_AT_ONCE = 500
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}")
_decode = msgspec.msgpack.Decoder(dict[str, bytes]).decode


class SQLSessionStore:
    """Keeps sessions in the table of a database, for all processes that use it.

    `url` is one of SQLAlchemy's, with a driver for asyncio, which is yours to install: `postgresql+asyncpg://…`,
    `sqlite+aiosqlite:///sessions.db`. With `create_tables` the table is made where it is missing; `ddl()` is the
    statement for those who make it themselves. A row holds the SHA-256 of a session's id. One session holds up to
    `max_session_size` bytes of keys and values. Expired ones are swept away about once a minute, 500 at a time, when
    new ones come. At most `max_connections` are open, and a call takes `timeout` seconds. `clock` tells the seconds
    since 1970: those of the processes, not of the database, say when a session ends. Needs
    `pip install 'aquilia[sql]'`.

    Raises:
        ValueError: for a URL that names no database for asyncio, a table's name that would need quotes, or bounds
            that nothing would fit in.
        ModuleNotFoundError: if SQLAlchemy or the driver is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        table: str = "aquilia_sessions",
        create_tables: bool = False,
        max_session_size: int = 65_536,
        max_connections: int = 10,
        timeout: float = 5.0,
        clock: Callable[[], float] = now,
    ) -> None:
        try:
            import sqlalchemy as sa
            from sqlalchemy.dialects import mysql
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "SQLSessionStore needs SQLAlchemy: pip install 'aquilia[sql]'"
            ) from None
        require_numbers(
            "SQLSessionStore",
            max_session_size=max_session_size,
            max_connections=max_connections,
            timeout=timeout,
        )
        if not isinstance(table, str) or not _NAME.fullmatch(table):
            raise ValueError(
                f"SQLSessionStore: table: up to 51 letters, digits and '_' are needed, not {table!r}"
            )
        self._engine, self._reach = _connect(url, max_connections, timeout)
        self._create_tables = create_tables
        self._max_session_size = max_session_size
        self._clock = clock
        self._next_sweep = 0.0
        blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
        self._table = sa.Table(
            table,
            sa.MetaData(),
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("data", blob, nullable=False),
            sa.Column("version", sa.BigInteger, nullable=False),
            sa.Column("expires", sa.BigInteger, nullable=False, index=True),  # milliseconds since 1970, UTC
        )

    def __repr__(self) -> str:
        return f"<SQLSessionStore {self._reach.place}>"

    def ddl(self) -> str:
        """The statements that make the table in this database."""
        from sqlalchemy.schema import CreateIndex, CreateTable

        made: list[Any] = [CreateTable(self._table), *map(CreateIndex, self._table.indexes)]
        return (
            "\n".join(f"{str(each.compile(dialect=self._engine.dialect)).strip()};" for each in made) + "\n"
        )

    async def start(self) -> None:
        """Find out whether it can be used, and make the table if that was asked for.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE, with the reason.
        """
        try:
            async with self._reach.start():
                problem = await self._make_table() if self._create_tables else None
                try:
                    await self._first(self._table.select().limit(1))
                except Exception as error:
                    raise problem or error from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the connections. A later call opens others."""
        await self._engine.dispose()

    async def load(self, id: str) -> Mapping[str, bytes] | None:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        async with self._reach.call():
            row = await self._first(self._table.select().where(*self._living(id)))
            return None if row is None else _decode(row.data)

    async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
        """See `SessionStore`.

        Raises:
            ValueError: above `max_session_size`.
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        require_fit(values, self._max_session_size)
        row = {"id": _digest(id), "data": _encode(values), "version": 0, "expires": self._end(ttl)}
        async with self._reach.call():
            await self._count(self._table.insert().values(row))
        if self._clock() >= self._next_sweep:
            await self._sweep_now_and_then()

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        """See `SessionStore`.

        Raises:
            ValueError: above `max_session_size`; then nothing of it is written.
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        require_fit(changes, self._max_session_size)
        wait = 0.001
        async with self._reach.call():  # which bounds the tries
            while True:
                row = await self._first(self._table.select().where(*self._living(id)))
                if row is None:
                    return None
                values = {key: value for key, value in _decode(row.data).items() if key not in removed}
                values.update(changes)
                require_fit(values, self._max_session_size)
                if await self._replace(id, row.version, values, ttl):
                    return len(values)
                await asyncio.sleep(wait * random.random())  # another was faster: they come apart by chance
                wait = min(wait * 2, 0.05)

    async def rename(self, id: str, new: str, ttl: float) -> bool:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        table = self._table
        moved = {"id": _digest(new), "version": table.c.version + 1, "expires": self._end(ttl)}
        async with self._reach.call():
            return await self._count(table.update().where(*self._living(id)).values(moved)) == 1

    async def delete(self, id: str) -> None:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        async with self._reach.call():
            await self._count(self._table.delete().where(self._table.c.id == _digest(id)))

    async def remaining(self, id: str) -> float | None:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        from sqlalchemy import select

        async with self._reach.call():
            row = await self._first(select(self._table.c.expires).where(*self._living(id)))
        return None if row is None else row.expires / 1000 - self._clock()

    async def sweep(self) -> int:
        """Delete up to 500 sessions that have expired, those that did first; how many it were.

        It is done by itself while new sessions come; a job of yours may do it too.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        table, ends = self._table, self._end(0)
        oldest = self._ids(table.c.expires <= ends)
        async with self._reach.call():
            async with self._engine.connect() as connection:
                ids = (await connection.execute(oldest)).scalars().all()
            if not ids:
                return 0
            # One that is written meanwhile has another end by now.
            return await self._count(table.delete().where(table.c.id.in_(ids), table.c.expires <= ends))

    def _ids(self, condition: Any) -> Any:
        from sqlalchemy import select

        return select(self._table.c.id).where(condition).order_by(self._table.c.expires).limit(_SWEPT_AT_ONCE)

    async def _sweep_now_and_then(self) -> None:
        """The session that was created is kept, whatever comes of it."""
        self._next_sweep = self._clock() + _SWEEP_EVERY
        try:
            if await self.sweep() == _SWEPT_AT_ONCE:
                self._next_sweep = 0.0
        except Exception as error:
            logger.warning("%s: expired sessions were not swept away: %s", self._reach.place, error)

    async def _replace(self, id: str, version: int, values: Mapping[str, bytes], ttl: float) -> bool:
        """Whether the row was still as it was read."""
        table = self._table
        same = (table.c.id == _digest(id), table.c.version == version)
        if not values:
            return await self._count(table.delete().where(*same)) == 1
        written = {"data": _encode(values), "version": version + 1, "expires": self._end(ttl)}
        return await self._count(table.update().where(*same).values(written)) == 1

    async def _make_table(self) -> Exception | None:
        """What went wrong: it may be that another process has made it at the same time."""
        try:
            async with self._engine.connect() as connection:
                await connection.run_sync(self._table.metadata.create_all)
        except Exception as error:
            return error
        return None

    async def _first(self, statement: Executable) -> Any:
        async with self._engine.connect() as connection:
            return (await connection.execute(statement)).first()

    async def _count(self, statement: Executable) -> int:
        async with self._engine.connect() as connection:
            return int((await connection.execute(statement)).rowcount)

    def _living(self, id: str) -> tuple[Any, ...]:
        return self._table.c.id == _digest(id), self._table.c.expires > self._end(0)

    def _end(self, ttl: float) -> int:
        return int((self._clock() + ttl) * 1000)


def _connect(url: str, connections: int, timeout: float) -> tuple[AsyncEngine, Reach]:
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError, InvalidRequestError, NoSuchModuleError
    from sqlalchemy.ext.asyncio import create_async_engine

    forms = "one of SQLAlchemy's for asyncio is needed, as postgresql+asyncpg://user:password@host/database"
    try:
        read = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"SQLSessionStore: url: it cannot be read; {forms}") from None
    sqlite = read.get_backend_name() == "sqlite"
    if sqlite and (not read.database or ":memory:" in read.database):
        raise ValueError("SQLSessionStore: url: a database in memory is that of one connection: name a file")
    try:
        engine = create_async_engine(
            read,
            isolation_level="AUTOCOMMIT",  # each statement stands for itself: what was read is checked by its version
            pool_pre_ping=True,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
            hide_parameters=True,
            connect_args={"timeout": timeout} if sqlite else {},
        )
    except NoSuchModuleError:
        raise ValueError(
            f"SQLSessionStore: url: SQLAlchemy does not know {read.drivername!r}; {forms}"
        ) from None
    except InvalidRequestError:
        raise ValueError(f"SQLSessionStore: url: {read.drivername!r} is not for asyncio; {forms}") from None
    except ModuleNotFoundError as error:
        told = f"SQLSessionStore: {read.drivername!r} needs its driver: pip install {error.name}"
        raise ModuleNotFoundError(told, name=error.name) from None
    place = URL.create(read.drivername, host=read.host, port=read.port, database=read.database)
    return engine, Reach(str(place), timeout=timeout, secret=str(read.password) if read.password else None)


def _digest(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest()


def _encode(values: Mapping[str, bytes]) -> bytes:
    return msgspec.msgpack.encode(dict(values))
