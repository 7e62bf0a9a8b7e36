"""Measure compression: `python benchmarks/compression.py [--members 1000] [--messages 500] [--out FILE]`.

Clients enter a room on one server, pinned to one core, and this program, pinned to another, publishes to it. That is
done without compression, in mode `shared` and in mode `context`. What is printed is how many bytes a message has on
the wire, what it costs the server's processor for each member, and the memory of a connection that receives. Nothing
may be missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

from wire import Listener, frame, free_port, upgrade

HERE = Path(__file__).resolve().parent
VARIANTS = {"off": "bare", "shared": "shared", "context": "context"}
LEAD = 4
"""Messages that may be published before all members have them."""
CORES = os.sched_getaffinity(0)
SECOND = os.sysconf("SC_CLK_TCK")

Figures = dict[str, float]


class Member(Listener):
    """One client. It counts what it gets; one that is `careful` reads it as well."""

    def __init__(self, *, careful: bool, alone: bool) -> None:
        super().__init__()
        self.entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = self.bytes = 0
        self.more = asyncio.Event()
        self._careful = careful
        self._alone = alone
        self._reader = zlib.decompressobj(-15)

    async def enter(self, port: int) -> None:
        """Connect, and join the room."""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        joining = frame({"event": "join", "payload": {"text": "all"}, "id": "1", "ack": True})
        self.transport.write(upgrade(extension="permessage-deflate") + joining)
        await self.entered

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.more.set()

    def take(self, body: bytearray) -> None:
        """One message of the server: an ack, or the next that was published."""
        if not self.entered.done():
            self.entered.set_result(None)
            return
        if self._careful and b'"text":"%d.' % self.got not in self._read(body):
            raise SystemExit(f"a client lost something: {bytes(body[:100])!r}")
        self.got += 1
        self.bytes += len(body)
        self.more.set()

    def _read(self, body: bytearray) -> bytes:
        if body.startswith(b"{"):  # which no compressed message does: it would be a stream's last block
            return bytes(body)
        reader = zlib.decompressobj(-15) if self._alone else self._reader
        return reader.decompress(body + b"\x00\x00\xff\xff")

    async def wait_for(self, count: int) -> None:
        """Wait until it has so many."""
        while self.got < count:
            if self.transport.is_closing():
                raise SystemExit("a connection has ended")
            self.more.clear()
            await self.more.wait()


def texts(count: int, size: int) -> list[str]:
    """What is published: prices, as a ticker would tell them, the same in each run."""
    chance = random.Random(7)
    names = [f"{chance.choice('ABCDEFGH')}{chance.randrange(100, 999)}" for _ in range(40)]
    told = []
    for number in range(count):
        text = f"{number}."
        while len(text) < size:
            price, side = chance.randrange(10_000, 99_999) / 100, chance.choice(("buy", "sell"))
            text += f" symbol: {chance.choice(names)}, side: {side}, price: {price:.2f};"
        told.append(text[:size])
    return told


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def seconds_of(pid: int) -> float:
    """What a process has had of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / SECOND


async def measure(mode: str, port: int, pid: int, members: int, told: list[str]) -> Figures:
    """One mode, in one room."""
    publisher = Member(careful=True, alone=mode != "context")
    await publisher.enter(port)
    before = memory_of(pid)
    others = [Member(careful=False, alone=True) for _ in range(members - 1)]
    for member in others:
        await member.enter(port)
    everyone = [publisher, *others]
    began, used = time.perf_counter(), seconds_of(pid)
    for number, text in enumerate(told):
        publisher.transport.write(frame({"event": "pub", "payload": {"text": text}}))
        for member in everyone:
            await member.wait_for(number - LEAD)
    for member in everyone:
        await member.wait_for(len(told))
    seconds, used = time.perf_counter() - began, seconds_of(pid) - used
    deliveries = members * len(told)
    memory = memory_of(pid) - before
    for member in everyone:
        member.transport.abort()
    return {
        "bytes": sum(member.bytes for member in everyone) / deliveries,
        "microseconds": used / deliveries * 1e6,
        "rate": deliveries / seconds,
        "kilobytes": memory / (members - 1) / 1000,
    }


def run(mode: str, members: int, told: list[str]) -> Figures:
    """Run the server and the clients, each on its core."""
    port = free_port()
    server = [sys.executable, str(HERE / "servers" / "aquilia_app.py"), str(port), "native", VARIANTS[mode]]
    process = subprocess.Popen(["taskset", "-c", str(min(CORES)), *server])
    try:
        os.sched_setaffinity(0, {max(CORES)})
        figures = asyncio.run(_once_up(mode, port, process, members, told))
    finally:
        process.terminate()
        process.wait()
    print(
        f"{mode:>8}, {members:,} members: {figures['bytes']:,.0f} bytes a message, "
        f"{figures['microseconds']:.1f} µs of the processor for each member, {figures['rate']:,.0f} a second, "
        f"{figures['kilobytes']:,.1f} kB a connection",
        flush=True,
    )
    return figures


async def _once_up(
    mode: str, port: int, process: subprocess.Popen[bytes], members: int, told: list[str]
) -> Figures:
    while process.poll() is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return await measure(mode, port, process.pid, members, told)
    raise SystemExit("the server did not start")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="See what compression saves, and what it costs.")
    parser.add_argument("--members", type=int, default=1000, help="of the room")
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--size", type=int, default=1000, help="bytes of a message, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    chosen = parser.parse_args()
    if not 2 <= chosen.members <= 10_000 or not 10 <= chosen.size <= 2000 or chosen.messages < 1:
        parser.error("2 to 10,000 members, messages of 10 to 2,000 bytes, and at least one of them")
    told = texts(chosen.messages, chosen.size)
    rounds = [
        {
            mode: {str(members): run(mode, members, told) for members in (2, chosen.members)}
            for mode in VARIANTS
        }
        for _ in range(chosen.rounds)
    ]
    if chosen.out is not None:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        asked = {"members": chosen.members, "messages": chosen.messages, "size": chosen.size}
        chosen.out.write_text(json.dumps({**asked, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
