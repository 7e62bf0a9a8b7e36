"""Measure how long it takes until all are back: `python benchmarks/resume.py --clients 5000`.

Clients of protocol v1 sit in one room with history, on one server, pinned to one core; this program, pinned to
another, has all their connections reset at once. While they are away, messages are published. A client is back when
it has all of them, in order and once; its time counts from the reset. Clients are as slim as can be, and come back
at once: real ones spread their attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: aquilia.v1.json\r\n\r\n"
)
MISSED = 10


def frame(message: dict[str, Any]) -> bytes:
    """A masked text frame; the mask is zero."""
    data = json.dumps(message, separators=(",", ":")).encode()
    head = bytes((0x81, 0x80 | len(data))) if len(data) < 126 else struct.pack("!BBH", 0x81, 0xFE, len(data))
    return head + b"\0\0\0\0" + data


class Member(asyncio.Protocol):
    """One client, over its connections."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.token = ""
        self.place: dict[str, Any] = {}
        self.connected: asyncio.Future[None]
        self.seen: list[int] = []
        self.wanted = 0
        self.whole: asyncio.Future[float]

    async def connect(self, port: int) -> None:
        """Open a connection, coming back if there was one before."""
        loop = asyncio.get_running_loop()
        self.buffer = b""
        self.upgraded = False
        self.connected = loop.create_future()
        await loop.create_connection(lambda: self, "127.0.0.1", port)
        self.transport.write(UPGRADE)
        hello: dict[str, Any] = {"type": "control", "event": "hello"}
        if self.token:
            hello["payload"] = {"resume": {"token": self.token, "rooms": {"all": self.place}}}
        self.transport.write(frame(hello))
        await self.connected

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.buffer += data
        if not self.upgraded:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self.transport.abort()  # too many at once: again
                return
            self.upgraded, self.buffer = True, rest
        while len(self.buffer) >= 2:
            size, start = self.buffer[1], 2
            if size == 126:
                if len(self.buffer) < 4:
                    return
                size, start = struct.unpack_from("!H", self.buffer, 2)[0], 4
            if len(self.buffer) < start + size:
                return
            opcode = self.buffer[0] & 15
            body, self.buffer = self.buffer[start : start + size], self.buffer[start + size :]
            if opcode == 1:
                self.take(json.loads(body))

    def take(self, message: dict[str, Any]) -> None:
        """One message of the server."""
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
                await asyncio.sleep(0.05)


async def measure(port: int, clients: int) -> None:
    """All of it."""
    loop = asyncio.get_running_loop()
    members = [Member() for _ in range(clients)]
    for start in range(0, clients, 100):
        await asyncio.gather(*(member.connect(port) for member in members[start : start + 100]))
    publisher = Member()
    await publisher.connect(port)
    for member in members:
        member.wanted, member.whole = MISSED, loop.create_future()
        member.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    began = time.perf_counter()
    for member in members:
        member.transport.abort()
    for number in range(MISSED):
        publisher.transport.write(frame({"event": "pub", "payload": {"text": str(number)}}))
    gate = asyncio.Semaphore(500)  # of what this program can do at once

    async def back(member: Member) -> None:
        async with gate:
            await member.come_back(port)

    await asyncio.gather(*(back(member) for member in members))
    times = sorted([await member.whole - began for member in members])
    shown = {"p50": times[clients // 2], "p99": times[int(clients * 0.99)], "last": times[-1]}
    print(f"{clients} clients back, {MISSED} messages each:", *(f"{k} {v:.2f} s" for k, v in shown.items()))


def main() -> None:
    """Run the server and the clients, each on its core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5000)
    clients = parser.parse_args().clients
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = [sys.executable, str(HERE / "servers" / "aquilia_app.py"), str(port), "native", "history"]
    cores = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(["taskset", "-c", str(cores[0]), *server])
    try:
        os.sched_setaffinity(0, {cores[-1]})
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        asyncio.run(measure(port, clients))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
