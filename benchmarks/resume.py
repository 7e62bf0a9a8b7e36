"""Measure how long it takes until all are back: `python benchmarks/resume.py [--clients 5000] [--out FILE]`.

Clients of protocol v1 sit in one room with history. Then they lose their connections, all at once:

- cut: on one server, in memory, pinned to one core; this program, pinned to another, resets the connections;
- killed: on one of two servers on NATS, which is killed; they come to the other one. Both share a core, and
  NATS takes what it finds.

While they are away, messages are published. A client is back when it has all of them, in order and once; its time
counts from the reset, or the kill. Clients are as slim as can be, and come back at once: real ones spread their
attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec
import uvloop
from wire import Listener, frame, free_port, upgrade

_read = msgspec.json.Decoder().decode
HERE = Path(__file__).resolve().parent
MISSED = 10
CORES = os.sched_getaffinity(0)

Figures = dict[str, float]


class Member(Listener):
    """One client, over its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.place: dict[str, Any] = {}
        self.connected: asyncio.Future[None]
        self.seen: list[int] = []
        self.wanted = 0
        self.whole: asyncio.Future[float]

    async def connect(self, port: int) -> None:
        """Open a connection, coming back if there was one before."""
        loop = asyncio.get_running_loop()
        self.begin()
        self.connected = loop.create_future()
        await loop.create_connection(lambda: self, "127.0.0.1", port)
        self.transport.write(upgrade("aquilia.v1.json"))
        hello: dict[str, Any] = {"type": "control", "event": "hello"}
        if self.token:
            hello["payload"] = {"resume": {"token": self.token, "rooms": {"all": self.place}}}
        self.transport.write(frame(hello))
        await self.connected

    def refused(self) -> None:
        """There are too many at once: again."""
        self.transport.abort()

    def take(self, body: bytearray) -> None:
        """One message of the server."""
        message = _read(body)
        event, payload = message.get("event"), message.get("payload")
        if event == "welcome":
            self.token = payload["resume"]
            if not self.place:
                self.transport.write(frame({"event": "join", "payload": {"text": "all"}}))
        elif event == "joined":
            self.place = {"epoch": payload["epoch"], "offset": payload["offset"]}
            self.connected.set_result(None)
        elif event == "resumed":
            if not payload["rooms"]["all"]["recovered"]:
                raise SystemExit("a client could not come back")
            self.connected.set_result(None)
        elif event == "pub":
            if message["meta"]["offset"] != self.place["offset"] + 1:
                raise SystemExit("a client lost something, or got it twice")
            self.place["offset"] += 1
            self.seen.append(message["meta"]["offset"])
            if len(self.seen) == self.wanted:
                self.whole.set_result(time.perf_counter())

    async def come_back(self, port: int) -> None:
        """Open a connection again, until one is taken."""
        while True:
            try:
                await asyncio.wait_for(self.connect(port), 10)
                return
            except (OSError, TimeoutError):
                self.transport.abort()  # what still comes there is not for the next attempt
                await asyncio.sleep(0.05)


async def measure(
    port: int, clients: int, *, other: int = 0, kill: Callable[[], None] | None = None
) -> Figures:
    """Cut them all off, by a `kill` of their server if there is an `other`, and wait until they are back. Seconds."""
    loop = asyncio.get_running_loop()
    members = [Member() for _ in range(clients)]
    for start in range(0, clients, 100):
        await asyncio.gather(*(member.connect(port) for member in members[start : start + 100]))
    publisher = Member()
    await publisher.connect(other or port)
    for member in members:
        member.wanted, member.whole = MISSED, loop.create_future()
        member.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    began = time.perf_counter()
    if kill is not None:
        kill()
    for member in members:
        member.transport.abort()
    for number in range(MISSED):
        publisher.transport.write(frame({"event": "pub", "payload": {"text": str(number)}}))
    gate = asyncio.Semaphore(500)  # of what this program can do at once

    async def back(member: Member) -> None:
        async with gate:
            await member.come_back(other or port)

    await asyncio.gather(*(back(member) for member in members))
    times = sorted([await member.whole - began for member in members])
    return {"p50": times[clients // 2], "p99": times[int(clients * 0.99)], "last": times[-1]}


class Started:
    """Processes, ended at the end; servers of ours are on the first core."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def process(self, port: int, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one, and wait until it listens."""
        process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
        self._processes.append(process)
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.05)
        return process

    def server(self, port: int, **environment: str) -> subprocess.Popen[bytes]:
        """One of ours."""
        app = str(HERE / "servers" / "aquilia_app.py")
        words = ("taskset", "-c", str(min(CORES)), sys.executable, app, str(port), "native", "history")
        return self.process(port, *words, **environment)


def cut(clients: int) -> Figures:
    """Reset the connections to one server."""
    with Started() as started:
        port = free_port()
        started.server(port)
        return uvloop.run(measure(port, clients))


def killed(clients: int) -> Figures:
    """Kill one of two servers."""
    with Started() as started, tempfile.TemporaryDirectory() as folder:
        nats, port, other = free_port(), free_port(), free_port()
        anywhere = ("taskset", "-c", ",".join(map(str, sorted(CORES))))
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        started.process(
            nats, *anywhere, str(binary), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", folder
        )
        environment = {"AQ_WS_ADAPTER_URL": f"nats://127.0.0.1:{nats}/resume"}
        process = started.server(port, **environment)
        started.server(other, **environment)
        return uvloop.run(measure(port, clients, other=other, kill=process.kill))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="Cut many clients off at once, and see how they come back.")
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {max(CORES)})
    rounds: dict[str, list[Figures]] = {"cut": [], "killed": []}
    for way in [cut, killed] * asked.rounds:
        seen = way(asked.clients)
        rounds[way.__name__].append(seen)
        shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in seen.items())
        print(
            f"{way.__name__}: {asked.clients:,} clients are back with {MISSED} messages each: {shown}",
            flush=True,
        )
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        figures = {"clients": asked.clients, "missed": MISSED, "rounds": rounds}
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
