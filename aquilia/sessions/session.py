"""One session: the values that a server keeps for a client, from one request to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from aquilia.clock import now
from aquilia.faults import Fault, FaultDomain, Severity
from aquilia.identity import Identity, ending, expiry, packed, unpacked
from aquilia.sessions.lifetime import LimitedStore, lineage, new_id, next_id, parted_id
from aquilia.sessions.store import SessionStore
from aquilia.sessions.trace import follow, leave
from aquilia.sessions.watcher import SessionWatcher

__all__ = ["Session", "session_ended"]

_LOGIN = "aquilia.identity"
"""The key of who is logged in. It is none for handlers: they may put in what a client chose to send."""


def session_ended() -> Fault:
    """Changes to a session that was ended meanwhile, as by a logout in another tab. They are not kept."""
    return Fault(
        "SESSION_ENDED",
        "the session has ended meanwhile, and the changes to it are not kept",
        domain=FaultDomain.SECURITY,
        severity=Severity.WARN,
        status=409,
    )


class Session(MutableMapping[str, Any]):
    """What is kept for one client, by names: `ctx.session`, `handshake.session` and `conn.session`.

    It is saved by itself when a request, a handshake or a socket's handler is done, by the keys that were changed;
    a change inside a list or a dict counts as one. An empty session that nobody is logged in to is false.

    Values are plain data, as MessagePack has it: None, bool, int up to 64 bits, float, str, bytes, lists and dicts,
    and times with a zone. What msgspec can write of other types becomes plain at once, a tuple a list. What is put in
    is copied.

    Raises:
        TypeError: for a key that is no string, or a value that is no data.
        RuntimeError: for the first value when no cookie can be set any more.
        Fault: SESSION_ENDED, for changes to one that another request has ended.
    """

    __slots__ = (
        "_accessed", "_clock", "_cookie", "_ended", "_followed", "_kept", "_lock", "_login", "_new_id", "_removed",
        "_sealed", "_stale", "_store", "_stored", "_ttl", "_until", "_values", "_watchers", "id",
    )  # fmt: skip

    def __init__(
        self,
        store: SessionStore,
        ttl: float,
        *,
        id: str | None = None,
        stored: Mapping[str, bytes] | None = None,
        stale: bool = False,
        age: float = 0.0,
        clock: Callable[[], float] = now,
        watchers: Sequence[SessionWatcher] = (),
    ) -> None:
        self.id = id or new_id(clock())
        """Its name in the store: a secret between client and server, so do not show it."""
        self._store = store
        self._watchers = watchers  # those of the engine, as they come and go
        self._clock = clock
        self._ttl = ttl
        self._until = clock() + ttl - age  # so long it lives at least: longer, if others used it
        self._stored: Mapping[str, bytes] = stored or {}  # as the store has it
        self._values: dict[str, Any] = {}  # what was read or written since
        self._removed: set[str] = set()
        self._kept = stored is not None
        self._stale = stale
        self._ended = self._sealed = self._accessed = False
        self._new_id: str | None = None
        self._followed: str | None = None  # the id that others gave it meanwhile
        self._cookie: bool | None = None  # what the client has to be told: a new cookie, or to drop its own
        self._lock: asyncio.Lock | None = None
        self._login: tuple[bytes, Identity] | None = None

    @property
    def is_new(self) -> bool:
        """It is not in the store: nothing was put into it yet, or nothing was saved."""
        return not self._kept

    @property
    def modified(self) -> bool:
        """There are changes that are not saved yet."""
        return bool(self._removed or self._new_id or self._changes())

    @property
    def ended(self) -> bool:
        """It was ended by another request or connection, or has expired, as a save or `reload` found out."""
        return self._ended

    # A login

    @property
    def identity(self) -> Identity | None:
        """Who is logged in; None: nobody, or the identity has expired.

        It expires with the engine's `max_lifetime` at the latest.
        """
        data = self._take(_LOGIN) if self._holds(_LOGIN) else None
        if data is None:
            return None
        if self._login is None or self._login[0] != data:
            identity = unpacked(data)
            if isinstance(self._store, LimitedStore) and (end := self._store.end(self.id)) is not None:
                identity = ending(identity, end)
            self._login = data, identity
        identity = self._login[1]
        moment = expiry(identity)
        return identity if moment is None or self._clock() < moment else None

    def login(self, identity: Identity) -> None:
        """Keep who the client is, from now on, under a new id: see `rotate`.

        What the session held stays in it, unless it was of somebody else who is logged in: for them it ends.

        Raises:
            TypeError: for an identity that cannot be kept as it is.
            RuntimeError: on a connection, where the client cannot be told of the new id.
            Fault: SESSION_ENDED.
        """
        data = packed(identity, issued_at=self._clock())
        if self._ended:
            raise session_ended()
        if self._holds(_LOGIN) and unpacked(self._take(_LOGIN)).id != identity.id:
            self._rename(parted_id)
            self.clear()
        else:
            self.rotate()
        self._values[_LOGIN] = data
        self._removed.discard(_LOGIN)

    async def logout(self) -> None:
        """End the session: `invalidate`, by the name that goes with `login`."""
        await self.invalidate()

    # The mapping

    def _holds(self, key: str) -> bool:
        self._accessed = True
        return key in self._values or (key in self._stored and key not in self._removed)

    def _take(self, key: str) -> Any:
        self._accessed = True
        if key not in self._values:
            if key in self._removed:
                raise KeyError(key)
            self._values[key] = msgspec.msgpack.decode(self._stored[key])
        return self._values[key]

    def __getitem__(self, key: str) -> Any:
        if key == _LOGIN:
            raise KeyError(key)
        return self._take(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._accessed = True
        if not isinstance(key, str):
            raise TypeError(f"a session's keys are strings, not {key!r}")
        if key == _LOGIN:
            raise TypeError(f"session[{key!r}] is who is logged in: session.login(identity) says that")
        if self._ended:
            raise session_ended()
        if self._sealed and not self._kept:
            raise RuntimeError(
                f"session[{key!r}]: this client has no session, and no cookie can be set for a new one any more: "
                "begin it in an HTTP request, handshake middleware or a guard of the handshake; what is for this "
                "connection alone belongs into conn.state"
            )
        self._values[key] = _plain(key, value)
        self._removed.discard(key)

    def __delitem__(self, key: str) -> None:
        self._accessed = True
        if key not in self:
            raise KeyError(key)
        self._values.pop(key, None)
        if key in self._stored:
            self._removed.add(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key != _LOGIN and self._holds(key)

    def __iter__(self) -> Iterator[str]:
        self._accessed = True
        stored = [key for key in self._stored if key not in self._removed]
        held = [*stored, *(key for key in self._values if key not in self._stored)]
        return (key for key in held if key != _LOGIN)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return len(self) > 0 or self._holds(_LOGIN)

    def __repr__(self) -> str:  # without the id, which would let its reader in
        return f"<Session of {len(self)} keys{', ended' if self._ended else ''}>"

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is `default` now if there was none."""
        if key not in self:
            self[key] = default
        return self[key]  # not `default` itself, of which the session has a copy

    def clear(self) -> None:
        """Remove all keys. Saved without any, a session ends; to end it at once, and for all, `invalidate`."""
        self._accessed = True
        self._values.clear()
        self._removed.update(self._stored)

    # The store

    async def save(self) -> None:
        """Write the changes now, instead of when the request or handler is done.

        Raises:
            Fault: SESSION_ENDED.
        """
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            changes, removed = self._changes(), set(self._removed)
            if self._ended:
                if changes or removed:
                    raise session_ended()
            elif not self._kept:
                await self._create(changes)
            elif self._new_id or changes or removed:
                await self._update(changes, removed)

    async def invalidate(self) -> None:
        """End the session, for all tabs and connections that share it: a logout. What was in it is gone at once.

        In a request or handshake, what is put into it from here on begins another.
        """
        if self._kept:
            await self._tell_of_end(self.id)
            await self._store.delete(self.id)
        self._begin_anew()

    def rotate(self) -> None:
        """Give it a new id when it is saved: by the old one nobody finds it again. Do so at every login.

        It is the remedy against session fixation. Connections that were opened before stay open. They know the old
        id, so what they had read is all that they see, and changes of theirs raise SESSION_ENDED; a logout ends them.

        Raises:
            RuntimeError: on a connection, where the client cannot be told.
        """
        self._rename(next_id)

    def _rename(self, following: Callable[[str], str]) -> None:
        if self._sealed:
            raise RuntimeError(
                "a session is rotated in an HTTP request or a handshake: here is no cookie to set"
            )
        if self._kept:
            self._new_id = following(self._new_id or self.id)
        else:
            self.id = following(self.id)

    async def reload(self) -> None:
        """Read it again, as other requests and connections left it; own changes that are not saved stay.

        If it was ended meanwhile, it is empty then, and `ended` says so.
        """
        if not self._kept:
            return
        stored = await self._store.load(self.id)
        if stored is None:
            self._end()
            return
        self._values = {key: self._values[key] for key in self._changes()}
        self._stored = stored
        self._removed.intersection_update(stored)

    async def seconds_left(self) -> float | None:
        """How long it lives if nobody uses it; None: it is over, or nothing was ever saved. This is no use of it.

        Where the engine is watched, it is found by another id that others gave it too.
        """
        if not self._kept and not self._ended:
            return None
        self._followed, left = await follow(self._store, self._followed or self.id)
        if left is not None:
            self._until = self._clock() + left
        return left

    def _seconds_at_least(self) -> float | None:
        """How long it lives for all that is known here; None: it is not kept."""
        if not self._kept and not self._ended:
            return None
        end = self._store.end(self.id) if isinstance(self._store, LimitedStore) else None
        return (self._until if end is None else min(self._until, end)) - self._clock()

    def _changes(self) -> dict[str, bytes]:
        written = ((key, _encoded(key, value)) for key, value in self._values.items())
        return {key: value for key, value in written if self._stored.get(key) != value}

    async def _create(self, changes: Mapping[str, bytes]) -> None:
        if changes:
            await self._store.create(self.id, changes, self._ttl)
            self._kept = True
            self._written(changes, ())
            self._cookie = True

    async def _update(self, changes: Mapping[str, bytes], removed: set[str]) -> None:
        if self._new_id is not None:
            if lineage(self._new_id) != lineage(self.id):
                await self._tell_of_end(self.id)
            if not await self._store.rename(self.id, self._new_id, self._ttl):
                self._end()
                raise session_ended()
            former, self.id, self._new_id = self.id, self._new_id, None
            self._cookie = True
            if self._watchers and lineage(former) == lineage(self.id):
                await leave(self._store, former, self.id, self._ttl)
        left = await self._store.update(self.id, changes, removed, self._ttl)
        if left is None:
            self._end()
            raise session_ended()
        if left == 0:
            id = self.id
            self._begin_anew()
            await self._tell_of_end(id)
        else:
            self._written(changes, removed)

    async def _renew(self) -> None:
        """Let it live on, after a part of its time: nothing of it is lost if it has ended."""
        if self._stale and self._kept and self._cookie is None:
            if await self._store.update(self.id, {}, (), self._ttl) is None:
                self._end()
            else:
                self._cookie = True

    async def _tell_of_end(self, id: str) -> None:
        for watcher in [*self._watchers]:
            await watcher.end_session(id)

    def _written(self, changes: Mapping[str, bytes], removed: set[str] | tuple[()]) -> None:
        stored = {key: value for key, value in self._stored.items() if key not in removed}
        self._stored = stored | dict(changes)
        self._removed.difference_update(removed)
        self._removed.update(changes.keys() - self._values.keys())  # taken out while they were being written

    def _undo(self) -> None:
        """Drop the changes that are not saved."""
        self._values.clear()
        self._removed.clear()
        self._new_id = None

    def _forget(self) -> None:
        self._undo()
        self._stored = {}
        self._kept = False

    def _end(self) -> None:
        """It was ended elsewhere. The client's cookie stays: it may be that of the next session by now."""
        self._forget()
        self._ended = True

    def _begin_anew(self) -> None:
        if self._kept:
            self._cookie = False
        self._forget()
        self.id = new_id(self._clock())


def _plain(key: str, value: Any) -> Any:
    """What will come back from the store, so that it is the same now and in the next request."""
    try:
        return msgspec.msgpack.decode(_encoded(key, value))
    except msgspec.DecodeError as error:
        raise TypeError(f"session[{key!r}]: {value!r:.100} cannot be kept: {error}") from None


def _encoded(key: str, value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise TypeError(f"session[{key!r}]: {type(value).__name__} cannot be kept: {error}") from None
