"""Sessions in Redis: a hash for each, and a script for each change, which Redis runs as one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from aquilia.sessions.reach import Reach
from aquilia.sessions.store import require_fit, require_numbers, too_large

__all__ = ["RedisSessionStore"]

_SCHEMES = ("redis", "rediss", "unix")
_GONE, _TOO_LARGE = -1, -2


class _Script:
    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()  # the name in EVALSHA


# A value at a time: Lua's stack is too small to hand a large hash over at once.
_CREATE = _Script("""
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
""")
# ttl, bound, number of keys to remove, those, and keys with their values
_UPDATE = _Script("""
local found = redis.call('HGETALL', KEYS[1])
if #found == 0 then return {-1, 0} end
local values, first = {}, 4 + tonumber(ARGV[3])
for i = 1, #found, 2 do values[found[i]] = found[i + 1] end
for i = 4, first - 1 do values[ARGV[i]] = nil end
for i = first, #ARGV, 2 do values[ARGV[i]] = ARGV[i + 1] end
local count, size = 0, 0
for key, value in pairs(values) do count, size = count + 1, size + #key + #value end
if size > tonumber(ARGV[2]) then return {-2, size} end
if count == 0 then redis.call('DEL', KEYS[1]) return {0, 0} end
for i = 4, first - 1 do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {count, size}
""")
_RENAME = _Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
""")
_TAKE = _Script("""
local found = redis.call('HGETALL', KEYS[1])
redis.call('DEL', KEYS[1])
return found
""")


class RedisSessionStore:
    """Keeps sessions in Redis 7 or newer, for all processes that use it: `redis://`, `rediss://` or `unix://`.

    A session is a hash, named by `prefix` and the SHA-256 of its id; Redis ends it when its time is over. One holds
    up to `max_session_size` bytes of keys and values. At most `max_connections` are open, and a call takes `timeout`
    seconds. Needs `pip install 'aquilia[redis]'`.

    `cluster` is for Redis Cluster. There a new id may be another node's: a rename takes the session away under the
    old id, and then puts it under the new one. A process that dies between the two logs its client out.

    Raises:
        ValueError: for a URL of another kind, or bounds that nothing would fit in.
        ModuleNotFoundError: if redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "aquilia:session:",
        cluster: bool = False,
        max_session_size: int = 65_536,
        max_connections: int = 50,
        timeout: float = 5.0,
    ) -> None:
        try:
            import redis.asyncio  # noqa: F401
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "RedisSessionStore needs redis-py: pip install 'aquilia[redis]'"
            ) from None
        place, secret = _read(url, cluster)
        self._reach = Reach(place, timeout=timeout, secret=secret)
        require_numbers(
            "RedisSessionStore",
            max_session_size=max_session_size,
            max_connections=max_connections,
            timeout=timeout,
        )
        if not isinstance(prefix, str):
            raise ValueError(f"RedisSessionStore: prefix: a string is needed, not {prefix!r}")
        self._url = url
        self._prefix = prefix
        self._cluster = cluster
        self._max_session_size = max_session_size
        self._max_connections = max_connections
        self._timeout = timeout
        self._opened: tuple[Any, asyncio.Semaphore] | None = None

    def __repr__(self) -> str:
        return f"<RedisSessionStore {self._reach.place}>"

    async def start(self) -> None:
        """Find out whether it can be used.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE, with the reason.
        """
        from redis.exceptions import NoPermissionError

        try:
            async with self._reach.start():
                client, _ = self._open()
                await client.hgetall(self._key("none"))
                if not self._cluster:
                    try:
                        info = await client.info("cluster")
                    except NoPermissionError:  # a login that may not ask
                        info = {}
                    if info.get("cluster_enabled"):
                        raise RuntimeError(
                            "this is a node of a Redis Cluster: RedisSessionStore(…, cluster=True)"
                        )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the connections. A later call opens others."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened[0].aclose()

    async def load(self, id: str) -> Mapping[str, bytes] | None:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        async with self._reach.call():
            client, free = self._open()
            async with free:
                found: dict[bytes, bytes] = await client.hgetall(self._key(id))
        return {key.decode(): value for key, value in found.items()} or None

    async def create(self, id: str, values: Mapping[str, bytes], ttl: float) -> None:
        """See `SessionStore`.

        Raises:
            ValueError: above `max_session_size`.
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        require_fit(values, self._max_session_size)
        await self._run(_CREATE, [id], _milliseconds(ttl), *_flat(values))

    async def update(
        self, id: str, changes: Mapping[str, bytes], removed: Collection[str], ttl: float
    ) -> int | None:
        """See `SessionStore`.

        Raises:
            ValueError: above `max_session_size`; then nothing of it is written.
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        names = [key.encode() for key in removed]
        bounds = (_milliseconds(ttl), self._max_session_size, len(names))
        count, size = await self._run(_UPDATE, [id], *bounds, *names, *_flat(changes))
        if count == _TOO_LARGE:
            raise too_large(size, self._max_session_size)
        return None if count == _GONE else int(count)

    async def rename(self, id: str, new: str, ttl: float) -> bool:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        if not self._cluster:
            return bool(await self._run(_RENAME, [id, new], _milliseconds(ttl)))
        # Nobody knows the new id before this returns: so nobody finds the session in neither place, or in both.
        taken = await self._run(_TAKE, [id])
        if taken:
            await self._run(_CREATE, [new], _milliseconds(ttl), *taken)
        return bool(taken)

    async def delete(self, id: str) -> None:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        async with self._reach.call():
            client, free = self._open()
            async with free:
                await client.delete(self._key(id))

    async def remaining(self, id: str) -> float | None:
        """See `SessionStore`.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        async with self._reach.call():
            client, free = self._open()
            async with free:
                left: int = await client.pttl(self._key(id))
        return None if left < 0 else left / 1000

    def _key(self, id: str) -> str:
        return self._prefix + hashlib.sha256(id.encode()).hexdigest()

    async def _run(self, script: _Script, ids: list[str], *arguments: Any) -> Any:
        from redis.exceptions import NoScriptError

        given = [*map(self._key, ids), *arguments]
        async with self._reach.call():
            client, free = self._open()
            async with free:
                try:
                    return await client.evalsha(script.digest, len(ids), *given)
                except NoScriptError:  # this server has not seen it yet
                    return await client.eval(script.source, len(ids), *given)

    def _open(self) -> tuple[Any, asyncio.Semaphore]:
        if self._opened is None:
            self._opened = self._client(), asyncio.Semaphore(self._max_connections)
        return self._opened

    def _client(self) -> Any:
        from redis.asyncio import Redis, RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        limits: dict[str, Any] = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "protocol": 2,
        }
        if self._cluster:
            return RedisCluster.from_url(self._url, **limits)
        # What was sent may have been done: a rename that is sent again would find nothing.
        return Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), **limits)


def _read(url: str, cluster: bool) -> tuple[str, str | None]:
    """The place that a URL names, without the login, and its password.

    Raises:
        ValueError: for another kind of URL. It shows nothing of it, since part of a password may stand anywhere.
    """
    forms = "redis://host:6379/0, rediss://… with TLS, or unix:///path"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"RedisSessionStore: url: it cannot be read; {forms} is needed") from None
    if parts.scheme not in _SCHEMES or not (parts.path if parts.scheme == "unix" else host) or parts.fragment:
        marks = " (write '#', '/', '?' and '@' of a password as %23, %2F, %3F and %40)"
        raise ValueError(f"RedisSessionStore: url: {forms} is needed{marks}")
    if cluster and parts.scheme == "unix":
        raise ValueError(
            "RedisSessionStore: cluster=True: the nodes of a cluster are reached by redis:// or rediss://"
        )
    secret = unquote(parts.password) if parts.password else None
    if parts.scheme == "unix":
        return f"unix://{parts.path}", secret
    shown = f"[{host}]" if host and ":" in host else host
    return f"{parts.scheme}://{shown}:{port or 6379}{parts.path}", secret


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))


def _flat(values: Mapping[str, bytes]) -> list[bytes]:
    return [part for key, value in values.items() for part in (key.encode(), value)]
