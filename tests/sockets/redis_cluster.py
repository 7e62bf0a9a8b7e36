"""A Redis Cluster of real servers for the tests: it loses masters, replaces them, and moves slots.

As with one server: a test whose event loop goes on meanwhile calls what waits by `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ports import reserved_port
from redis_servers import PASSWORD, USER, RedisServer, fresh_prefix, within

SLOTS = 16384


@dataclass(frozen=True)
class Seen:
    """A server as a line of CLUSTER NODES has it."""

    id: str
    port: int
    flags: frozenset[str]
    master: str
    slots: frozenset[int]

    @classmethod
    def read(cls, line: str) -> Seen:
        id_, address, flags, master, _, _, _, _, *ranges = line.split()
        slots: set[int] = set()
        for each in ranges:
            if not each.startswith("["):  # [slot->-id]: on its way
                first, _, last = each.partition("-")
                slots |= set(range(int(first), int(last or first) + 1))
        port = int(address.partition("@")[0].rpartition(":")[2])
        return cls(id_, port, frozenset(flags.split(",")), master, frozenset(slots))


class RedisCluster:
    """So many masters, each with so many replicas, in `servers`: first the masters, by their slots.

    A replica whose master is away for `node_timeout` milliseconds wants to take its place, so where it is short, a
    busy machine loses masters that are well. Replicas stay with the slots that they began with.
    `options` and `server` are those of `RedisServer`, for each.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        masters: int = 3,
        replicas: int = 1,
        node_timeout: int = 2000,
        **server: Any,
    ) -> None:
        self._held = contextlib.ExitStack()
        self._bus: dict[RedisServer, int] = {}
        self._shard: dict[RedisServer, int] = {}
        self._ids: dict[RedisServer, str] = {}
        words = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        words += ["--cluster-node-timeout", str(node_timeout), "--cluster-allow-replica-migration", "no"]
        words += ["--cluster-replica-validity-factor", "0", "--repl-ping-replica-period", "1"]
        if server.get("tls"):
            words += ["--tls-cluster", "yes"]
        for n in range(masters * (1 + replicas)):
            bus = self._held.enter_context(reserved_port())
            made = RedisServer(folder / str(n), *words, "--cluster-port", str(bus), *options, **server)
            self._held.callback(made.close)
            self._bus[made] = bus
            self._shard[made] = n % masters
        self.servers = list(self._bus)
        self._masters = masters

    def __enter__(self) -> Self:
        try:
            self._form()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all of them for good."""
        self._held.close()

    def _form(self) -> None:
        for server in self.servers:
            server.launch()
        for n, server in enumerate(self.servers):
            server.wait()
            self._ids[server] = server.command("CLUSTER", "MYID")
            server.command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)  # or they settle it among them later
        masters, replicas = self.servers[: self._masters], self.servers[self._masters :]
        for n, server in enumerate(masters):
            first, behind = (SLOTS * each // self._masters for each in (n, n + 1))
            server.command("CLUSTER", "ADDSLOTSRANGE", first, behind - 1)
        for n, server in enumerate(self.servers):
            for other in self.servers[n + 1 :]:
                server.command("CLUSTER", "MEET", "127.0.0.1", other.port, self._bus[other])
        with within(30, "the servers know each other") as pause:
            known = set(self._ids.values())  # before they do, those whom they meet have others
            while not all(self.seen_by(server).keys() == known for server in self.servers):
                pause()
        for server in replicas:
            server.command("CLUSTER", "REPLICATE", self._ids[masters[self._shard[server]]])
        self.settle()

    def settle(self) -> None:
        """Wait until all that run agree on who has which slots, call that well, and every replica follows."""
        with within(30, "the cluster settles") as pause:
            while not self._settled():
                pause()

    def _settled(self) -> bool:
        running = [server for server in self.servers if server.running]
        if any("cluster_state:ok" not in server.command("CLUSTER", "INFO") for server in running):
            return False
        views = [self.seen_by(server) for server in running]
        for view in views:
            masters = {(id_, seen.slots) for id_, seen in view.items() if seen.slots}
            if masters != {(id_, seen.slots) for id_, seen in views[0].items() if seen.slots}:
                return False
            for server in running:
                seen = view[self._ids[server]]
                if seen.flags & {"fail", "fail?", "handshake"} or not (seen.slots or "slave" in seen.flags):
                    return False
                if seen.master != views[0][seen.id].master:
                    return False
        return all(self._follows(server) for server in running)

    def _follows(self, server: RedisServer) -> bool:
        told = server.info("replication")
        if told["role"] == "master":
            return True
        master = next(each for each in self.servers if str(each.port) == told["master_port"])
        return not master.running or (
            told["master_link_status"] == "up"
            # Its master counts it only from its first acknowledgement on: WAIT and failover look at that.
            and f"port={server.port},state=online" in str(master.info("replication"))
        )

    def seen_by(self, server: RedisServer) -> dict[str, Seen]:
        """All servers as this one sees them, by their ids."""
        lines = server.command("CLUSTER", "NODES").splitlines()
        return {seen.id: seen for seen in map(Seen.read, lines)}

    def _view(self, without: RedisServer | None = None) -> dict[str, Seen]:
        return self.seen_by(next(each for each in self.servers if each.running and each is not without))

    def slot_of(self, key: str) -> int:
        return int(next(each for each in self.servers if each.running).command("CLUSTER", "KEYSLOT", key))

    def owner(self, slot: int) -> RedisServer:
        """The master that has this slot."""
        [port] = [seen.port for seen in self._view().values() if slot in seen.slots]
        return next(server for server in self.servers if server.port == port)

    def master_of(self, key: str) -> RedisServer:
        """The master that has this key."""
        return self.owner(self.slot_of(key))

    def masters(self) -> list[RedisServer]:
        """Who has slots, by them."""
        having = sorted((min(seen.slots), seen.port) for seen in self._view().values() if seen.slots)
        return [server for _, port in having for server in self.servers if server.port == port]

    def replicas_of(self, master: RedisServer) -> list[RedisServer]:
        """Those that run."""
        ports = {seen.port for seen in self._view().values() if seen.master == self._ids[master]}
        return [server for server in self.servers if server.running and server.port in ports]

    def kill(self, server: RedisServer) -> None:
        server.kill()

    def restart(self, server: RedisServer) -> None:
        """Start one that was killed, and wait until it is one of them again."""
        server.start()
        self.settle()

    def promoted(self, away: RedisServer) -> RedisServer:
        """Wait until one of its replicas has the place of this master, which was killed or frozen; gives the new one.

        All that run agree on it then.
        """
        shard = {self._ids[each] for each in self.servers if self._shard[each] == self._shard[away]}
        with within(30, f"a replica takes the place of {away.address}") as pause:
            while True:
                view = self._view(without=away)
                new = [id_ for id_ in shard if view[id_].slots]
                if new and new != [self._ids[away]]:
                    break
                pause()
        self.settle()
        return next(server for server in self.servers if self._ids[server] == new[0])

    def failover(self, master: RedisServer) -> RedisServer:
        """As for maintenance: a replica takes the place of this master, which lives and becomes its replica."""
        self.replicas_of(master)[0].command("CLUSTER", "FAILOVER")
        return self.promoted(master)

    @contextlib.contextmanager
    def moving(self, slot: int, to: RedisServer) -> Iterator[None]:
        """Inside, this slot is on its way to another master, and its keys are where they were; then they move too.

        New ones come to be over there: the old master says ASK of keys that it has not. `carry` moves some inside.
        """
        source = self.owner(slot)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[to])
        yield
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.carry(keys, source, to)
        for server in (to, source, *(each for each in self.masters() if each not in (to, source))):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", self._ids[to])
        self.settle()

    def carry(self, keys: list[str], source: RedisServer, to: RedisServer) -> None:
        """Move these keys of a slot that is on its way."""
        names = [key.encode(errors="surrogateescape") for key in keys]
        where = ("127.0.0.1", to.port, "", 0, 5000, "AUTH2", USER, PASSWORD)
        source.command("MIGRATE", *where, "KEYS", *names)

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Move a slot with its keys to another master, while all of them serve."""
        with self.moving(slot, to):
            pass

    def url(self, prefix: str | None = None, login: str = "", scheme: str = "redis+cluster") -> str:
        """The URL of all servers, with a prefix of its own unless one is given; a login ends in `@`."""
        hosts = ",".join(server.address for server in self.servers)
        return f"{scheme}://{login}{hosts}/?prefix={fresh_prefix() if prefix is None else prefix}"
