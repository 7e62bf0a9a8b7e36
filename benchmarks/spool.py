"""Measure the strategy `spool`: `python benchmarks/spool.py [--clients 20] [--megabytes 32] [--out FILE]`.

Clients enter a room on one server, pinned to one core, and stop reading; this program, pinned to another, publishes
until so many megabytes wait on disk for each of them. Then they read on. What is printed is how fast it went out to
the disk, and how fast it came back, was written to the clients and read by them. Nothing may be missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from wire import Listener, frame, free_port, upgrade

HERE = Path(__file__).resolve().parent
LEAD = 64
"""Messages that may be published before the publisher itself has them back."""
CORES = os.sched_getaffinity(0)

Figures = dict[str, float]


class Member(Listener):
    """One client. It counts what it gets, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = self.bytes = 0
        self.more = asyncio.Event()

    async def enter(self, port: int) -> None:
        """Connect, and join the room."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.create_connection(lambda: self, sock=sock.dup())
        self.transport.write(
            upgrade() + frame({"event": "join", "payload": {"text": "all"}, "id": "1", "ack": True})
        )
        await self.entered

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.more.set()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self.more.set()

    def take(self, body: bytearray) -> None:
        """One message of the server: an ack, or the next that was published."""
        if b'"text":"%d.' % self.got in body:
            self.got += 1
            self.bytes += len(body)
        elif b'"ack"' in body:
            self.entered.set_result(None)
        else:
            raise SystemExit(f"a client lost something: {bytes(body[:100])!r}")

    async def wait_for(self, count: int) -> None:
        """Wait until it has so many."""
        while self.got < count:
            if self.transport.is_closing():
                raise SystemExit("a connection has ended")
            self.more.clear()
            await self.more.wait()


async def measure(port: int, clients: int, size: int, volume: int) -> dict[str, Figures]:
    """All of it."""
    members = [Member() for _ in range(clients)]
    publisher = Member()
    for member in (*members, publisher):
        await member.enter(port)
    for member in members:
        member.transport.pause_reading()
    count = volume // size
    began = time.perf_counter()
    for number in range(count):
        text = f"{number}.".ljust(size, "x")
        publisher.transport.write(frame({"event": "pub", "payload": {"text": text}}))
        await publisher.wait_for(number - LEAD)
    await publisher.wait_for(count)
    out = report("out", clients * count, clients * publisher.bytes, time.perf_counter() - began)
    began = time.perf_counter()
    for member in members:
        member.transport.resume_reading()
    await asyncio.gather(*(member.wait_for(count) for member in members))
    read = sum(member.bytes for member in members)
    return {"out": out, "in": report("in again", clients * count, read, time.perf_counter() - began)}


def report(what: str, frames: int, size: int, seconds: float) -> Figures:
    """What came of one way, printed as well."""
    seen = {"frames": frames, "rate": frames / seconds, "megabytes": size / seconds / 1e6}
    print(
        f"{what}: {frames:,} frames, {seen['rate']:,.0f} a second, {seen['megabytes']:,.0f} MB/s", flush=True
    )
    return seen


def run(clients: int, size: int, volume: int) -> dict[str, Figures]:
    """Run the server and the clients, each on its core."""
    port = free_port()
    server = [sys.executable, str(HERE / "servers" / "aquilia_app.py"), str(port), "native", "spool"]
    process = subprocess.Popen(["taskset", "-c", str(min(CORES)), *server])
    try:
        os.sched_setaffinity(0, {max(CORES)})
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        return asyncio.run(measure(port, clients, size, volume))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="Let slow clients' messages wait on disk, and see how fast.")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--size", type=int, default=1000, help="bytes of a message")
    parser.add_argument("--megabytes", type=int, default=32, help="for each client, at most 48")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    chosen = parser.parse_args()
    if not 1 <= chosen.megabytes <= 48 or not 10 <= chosen.size <= 2000 or chosen.clients < 1:
        parser.error("1 to 48 megabytes, messages of 10 to 2,000 bytes, and at least one client")
    rounds = [run(chosen.clients, chosen.size, chosen.megabytes * 1_000_000) for _ in range(chosen.rounds)]
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        asked = {"clients": chosen.clients, "size": chosen.size, "megabytes": chosen.megabytes}
        chosen.out.write_text(json.dumps({**asked, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
