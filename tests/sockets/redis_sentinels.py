"""A real Redis server, its replica, and three sentinels that let one take the place of the other, for the tests.

As with one server: a test whose event loop goes on meanwhile calls what waits by `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import redis
from certificates import Authority
from redis_servers import PASSWORD, USER, RedisServer, fresh_prefix, within

SERVICE = "main"


class RedisSentinel(RedisServer):
    """One that watches `master`. It writes what it learns into its configuration, and has that after a restart."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        master: RedisServer,
        tls: Authority | None = None,
        executable: Path | None = None,
    ) -> None:
        super().__init__(folder, *options, tls=tls, executable=executable)
        self._configuration = folder / "sentinel.conf"
        lines = [
            f"user {USER} on >{PASSWORD} ~* &* +@all",
            f"sentinel sentinel-user {USER}",
            f"sentinel sentinel-pass {PASSWORD}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
            f"sentinel auth-user {SERVICE} {USER}",
            f"sentinel auth-pass {SERVICE} {PASSWORD}",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        self._configuration.write_text("\n".join(lines) + "\n")

    def _words(self) -> list[str]:
        return [str(self._configuration), "--sentinel", *self._listening(), *self._options]

    def wait(self) -> None:
        super().wait()
        # Milliseconds; of themselves they look at replicas every 10 s, and tell a master of old its place after 8 s.
        self.command("SENTINEL", "DEBUG", "info-period", 500, "publish-period", 500)

    def about(self) -> dict[str, str]:
        """What it says of the service."""
        told = self.command("SENTINEL", "MASTER", SERVICE)
        return dict(zip(told[::2], told[1::2], strict=True))


def _replication(server: RedisServer) -> dict[str, str]:
    """What it says of that; nothing where a sentinel gives it orders meanwhile, as that cuts its connections."""
    try:
        return server.info("replication")
    except redis.ConnectionError:
        return {}


class RedisSentinels:
    """`servers`, a master and its replica as it begins, and `sentinels`, who call the service "main".

    A master that is away for a second is replaced. `options` and `acl` are those of the servers, `tls` and
    `executable` are for the sentinels too.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        sentinel_options: Sequence[str] = (),
        acl: Sequence[str] | None = None,
        **each: Any,
    ) -> None:
        self._held = contextlib.ExitStack()
        options = ("--repl-ping-replica-period", "1", *options)
        master = RedisServer(folder / "0", *options, acl=acl, **each)
        following = ("--replicaof", f"127.0.0.1 {master.port}")
        self.servers = [master, RedisServer(folder / "1", *options, *following, acl=acl, **each)]
        self.sentinels = [
            RedisSentinel(folder / f"sentinel-{n}", *sentinel_options, master=master, **each)
            for n in range(3)
        ]
        for server in [*self.servers, *self.sentinels]:
            self._held.callback(server.close)

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            self._followed()
            for sentinel in self.sentinels:
                sentinel.launch()
            for sentinel in self.sentinels:
                sentinel.wait()
            self.settle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all of them for good."""
        self._held.close()

    def master(self) -> RedisServer:
        """Who it is, as the first sentinel that runs has it."""
        sentinel = next(each for each in self.sentinels if each.running)
        return self._told(sentinel)

    def _told(self, sentinel: RedisSentinel) -> RedisServer:
        _, port = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def replica(self) -> RedisServer:
        """The other one."""
        return next(server for server in self.servers if server is not self.master())

    def _followed(self) -> None:
        with within(30, "one server follows the other") as pause:
            while not any("state=online" in str(_replication(each)) for each in self.servers):
                pause()

    def settle(self) -> None:
        """Wait until both servers run, one follows the other, and all sentinels that run know all of that."""
        self._followed()
        with within(40, "the sentinels know all") as pause:
            while not all(self._knows_all(each) for each in self.sentinels if each.running):
                pause()

    def _knows_all(self, sentinel: RedisSentinel) -> bool:
        told = sentinel.about()
        if (told["flags"], told["num-slaves"], told["num-other-sentinels"]) != ("master", "1", "2"):
            return False
        [replica] = sentinel.command("SENTINEL", "REPLICAS", SERVICE)
        told = dict(zip(replica[::2], replica[1::2], strict=True))
        return (told["flags"], told["master-link-status"]) == ("slave", "ok")

    def promoted(self, away: RedisServer) -> RedisServer:
        """Wait until the other server has the place of this one, and all sentinels that run say so; gives it."""
        other = next(server for server in self.servers if server is not away)
        with within(30, f"{other.address} takes the place of {away.address}") as pause:
            while _replication(other).get("role") != "master" or any(
                self._told(sentinel) is away for sentinel in self.sentinels if sentinel.running
            ):
                pause()
        return other

    def kill(self, server: RedisServer) -> None:
        """One of the servers or of the sentinels."""
        server.kill()

    def restart(self, server: RedisServer) -> None:
        """Start one that was killed, and wait until it has its place again.

        A master that was replaced takes itself for one until the sentinels tell it otherwise, seconds later:
        `server.start()` does not wait for that.
        """
        server.start()
        self.settle()

    def failover(self) -> RedisServer:
        """As for maintenance: the replica takes the place of the master, which lives; gives the new one."""
        before = self.master()
        self.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE)
        return self.promoted(before)

    def url(self, prefix: str | None = None, login: str = "", scheme: str = "redis+sentinel") -> str:
        """The URL of the service, with a prefix of its own unless one is given; a login ends in `@`."""
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        asked = f"service={SERVICE}&prefix={fresh_prefix() if prefix is None else prefix}"
        return f"{scheme}://{login}{hosts}/0?{asked}"
