"""The brokers that tests of whole applications run on: each is a real server, killed, frozen and cut off alike."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from nats_server import NatsServer
from processes import status
from redis_servers import RedisServer, within

BROKERS = ("nats", "redis")


class Broker(Protocol):
    """One server; it may be ended, and started again on the same port with all that it was given to keep."""

    @property
    def folder(self) -> Path: ...

    @property
    def port(self) -> int: ...

    @property
    def pid(self) -> int: ...

    def use(self, *options: str) -> None: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def url(self, prefix: str | None = None, login: str = "", *, port: int | None = None) -> str:
        """Where nodes find it, by a road's port if one is given; what shares a prefix is one application."""
        ...


@contextlib.contextmanager
def broker_of(kind: str, folder: Path, *options: str) -> Iterator[Broker]:
    """A server of one's own, which keeps what it was given when it is killed, unless its options say otherwise.

    It also tells `listening_at` of its connections.
    """
    if kind == "nats":
        nats = NatsServer(folder, "-m", "-1", *options)
        try:
            yield nats
        finally:
            nats.kill()
    else:
        # Without `always`, what was acknowledged may wait in the process for a write of before to reach the disk.
        with RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always", *options) as redis:
            yield redis


def emptied(folder: Path) -> None:
    """Have a server that was killed begin without anything."""
    for name in ("store", "appendonlydir"):
        for file in sorted((folder / name).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, while its connections stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        with within(10, "the process stands still") as pause:
            while status(pid)[0] != "T":
                pause()
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def patience(kind: str) -> tuple[str, int]:
    """For `monkeypatch.setattr`: has a node take a silent server for lost after two seconds, not after five."""
    adapters = "aquilia.sockets.adapters"
    return (
        (f"{adapters}.nats.dial.PING", 1) if kind == "nats" else (f"{adapters}.redis.connection.SILENCE", 6)
    )


Make = Callable[..., contextlib.AbstractContextManager[Broker]]
"""What a test calls with options for a server of its own."""
