"""A restart of the only process, under load: `python benchmarks/restart.py [--clients 2000] [--out FILE]`.

Clients of v1, by `aquilia.client`, sit in rooms with history on `local://`, and in each room one of them says
numbers, one after the other. The server is stopped by SIGTERM and started again on its port, as a supervisor does it.
Each client has to hear each number of its room, in order and once. What is printed, and written as JSON to `--out`:
when they were back, how many connected in each tenth of a second, how many attempts found nobody, and what was lost
or came twice. It exits with 1 where anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from wire import free_port

from aquilia.client import Client, Disconnected, Gap, GoAway, Message, Resumed

SERVER = Path(__file__).resolve().parent / "servers" / "restart_app.py"
AT_ONCE = 50
"""Clients that are opened together."""
MEMBERS = 50
"""Clients in a room."""
PATIENCE = 180.0
STEPS = 10
"""Bars of the plot in a second."""
WIDTH = 50
LOADED = 3.0
"""Seconds of load before the restart, and behind it."""

Figures = dict[str, Any]


class Member:
    """One client, and what befell it."""

    def __init__(self, port: int) -> None:
        self.client = Client(f"ws://127.0.0.1:{port}/", keep_trying=True)
        self.heard = self.lost = self.doubled = self.gaps = 0
        """The last number that it heard, and how many were missing before it, or had come before."""
        self.told: float | None = None
        self.back: float | None = None
        self.failed: list[float] = []
        """When attempts found nobody, or a server that stops."""
        self.client.on("said")(self._hear)
        self.client.on(Gap)(self._miss)
        self.client.on(GoAway)(self._be_told)
        self.client.on(Resumed)(self._return)
        self.client.on(Disconnected)(self._part)

    def _hear(self, message: Message[int]) -> None:
        number = message.payload
        if number <= self.heard:
            self.doubled += 1
            return
        self.lost += number - self.heard - 1
        self.heard = number

    def _miss(self, notice: Gap) -> None:
        self.gaps += 1

    def _be_told(self, notice: GoAway) -> None:
        self.told = notice.reconnect_in

    def _return(self, notice: Resumed) -> None:
        self.back = self.back or time.monotonic()

    def _part(self, notice: Disconnected) -> None:
        if "cannot be reached" in notice.reason or "HTTP" in notice.reason:
            self.failed.append(time.monotonic())

    async def speak(self, pause: float, stop: asyncio.Event) -> int:
        """Say numbers to its room until told to stop; the last one."""
        number = 0
        while not stop.is_set():
            number += 1
            await self.client.call("say", number, idempotent=True, timeout=PATIENCE)
            await asyncio.sleep(pause)
        return number


def started(port: int, folder: str) -> subprocess.Popen[bytes]:
    """The server, once it listens."""
    process = subprocess.Popen([sys.executable, str(SERVER), str(port), folder])
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.02)
    process.kill()
    raise SystemExit("the server did not start")


async def settle(members: list[Member]) -> None:
    """Open them all, so many at a time, and put each into its room."""

    async def enter(number: int, member: Member) -> None:
        await member.client.connect()
        await member.client.call("enter", f"room {number // MEMBERS}", timeout=PATIENCE)

    for first in range(0, len(members), AT_ONCE):
        some = range(first, min(first + AT_ONCE, len(members)))
        await asyncio.gather(*(enter(number, members[number]) for number in some))


async def until_all(members: list[Member], what: str, reached: Any) -> None:
    """Wait until each has reached it; say for how many it did not come."""
    end = time.monotonic() + PATIENCE
    while missing := sum(not reached(member) for member in members):
        if time.monotonic() > end:
            print(f"{missing:,} clients {what}", file=sys.stderr)
            return
        await asyncio.sleep(0.05)


async def restart(count: int, rate: float, port: int, folder: str) -> Figures:
    """Do it; what was seen."""
    process = await asyncio.to_thread(started, port, folder)
    members = [Member(port) for _ in range(count)]
    rooms = [members[first : first + MEMBERS] for first in range(0, count, MEMBERS)]
    stop = asyncio.Event()
    try:
        await settle(members)
        speaking = [asyncio.create_task(room[0].speak(len(rooms) / rate, stop)) for room in rooms]
        await asyncio.sleep(LOADED)
        gc.collect()
        gc.freeze()  # looking through so many clients would stop all of them for a second
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        ended = time.monotonic()
        process = await asyncio.to_thread(started, port, folder)
        ready = time.monotonic()
        await until_all(members, "did not come back", lambda member: member.back)
        await asyncio.sleep(LOADED)
        stop.set()
        last = await asyncio.gather(*speaking)
        for room, number in zip(rooms, last, strict=True):
            await until_all(room, "did not hear the last", lambda member, n=number: member.heard >= n)
            for member in room:
                member.lost += number - member.heard
    finally:
        await asyncio.gather(*(member.client.close() for member in members))
        process.terminate()
        process.wait()
    return figures(members, sum(last), begun, ended, ready)


def figures(members: list[Member], said: int, begun: float, ended: float, ready: float) -> Figures:
    """All that was seen, in seconds from the signal."""
    back = sorted(member.back - begun for member in members if member.back is not None)
    failed = sorted(moment - begun for member in members for moment in member.failed)
    told = [member.told for member in members if member.told is not None]
    return {
        "clients": len(members),
        "said": said,
        "heard": sum(member.heard - member.lost for member in members),
        "lost": sum(member.lost for member in members),
        "doubled": sum(member.doubled for member in members),
        "gaps": sum(member.gaps for member in members),
        "not_back": len(members) - len(back),
        "told": [min(told, default=0.0), max(told, default=0.0)],
        "ended": ended - begun,
        "listening": ready - begun,
        "back": {
            "median": statistics.median(back),
            "p99": back[min(len(back) - 1, len(back) * 99 // 100)],
            "last": back[-1],
        },
        "most_in_a_second": busiest(back),
        "attempts_failed": len(failed),
        "connects": tenths(back),
        "failures": tenths(failed),
    }


def busiest(moments: list[float]) -> int:
    """The most within any one second. The moments are sorted."""
    first = most = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def tenths(moments: list[float]) -> list[int]:
    """How many in each tenth of a second."""
    counted = Counter(int(moment * STEPS) for moment in moments)
    return [counted[step] for step in range(max(counted, default=-1) + 1)]


def show(seen: Figures) -> None:
    """Print it, with a plot of connects and of attempts that failed."""
    (earliest, latest), back = seen["told"], seen["back"]
    print(f"{seen['clients']:,} clients; told to come back within {earliest:.2f} to {latest:.2f} s")
    print(f"the process ended in {seen['ended']:.2f} s; the next one listened at {seen['listening']:.2f} s")
    print(
        f"back: median {back['median']:.2f} s, p99 {back['p99']:.2f} s, last {back['last']:.2f} s; at most "
        f"{seen['most_in_a_second']:,} within a second; {seen['attempts_failed']:,} attempts failed"
    )
    print(
        f"{seen['said']:,} messages said, {seen['heard']:,} heard; {seen['lost']:,} lost, {seen['doubled']:,} "
        f"doubled, {seen['gaps']:,} gaps; {seen['not_back']:,} clients did not come back"
    )
    print("connects (#) and attempts that failed (x) each second:")
    most = max([*seen["connects"], *seen["failures"]])
    for step, connects in enumerate(seen["connects"]):
        failures = seen["failures"][step] if step < len(seen["failures"]) else 0
        if not connects and not failures:
            continue
        bar = "#" * round(WIDTH * connects / most) + "x" * round(WIDTH * failures / most)
        print(f"  {step / STEPS:5.1f} s {connects * STEPS:7,} {failures * STEPS:7,} {bar}".rstrip())


def main() -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser(
        description="Restart a server under load, and see how its clients come back."
    )
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=40.0, help="messages a second, over all rooms")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(restart(asked.clients, asked.rate, port, os.path.join(folder, "broker")))
    show(seen)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(seen, indent=1) + "\n")
        print(f"written: {asked.out}")
    return 1 if seen["lost"] or seen["doubled"] or seen["gaps"] or seen["not_back"] else 0


if __name__ == "__main__":
    sys.exit(main())
