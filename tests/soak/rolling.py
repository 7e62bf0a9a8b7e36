"""A rolling restart under load: every worker is replaced, and its clients come back to others.

`aq serve --workers` on `local://`, as in production, and clients of v1 in processes of their own. In each of their
rooms one says 1, 2, 3 and so on, which every member has to hear once and in order; in a room that remembers nothing
it may miss what it is told of by a gap. The workers are replaced by SIGHUP, or, with `--by drain`, each is sent away
by `aq ws drain`, and ended.

What is held against a storm is what the clients were told, not how fast this machine was: those of one worker come
back evenly over its window, each of them connects once for each time that it was asked to leave, and none in vain.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from processes import gone

from aquilia.sockets.drain import reconnection_times
from aquilia.sockets.presence.peers import TRAVEL

HERE = Path(__file__).parent
APP = "rolling_app:manifest"
MEMBERS = 50
"""Clients in a room, about."""
LOADED = 2.0
"""Seconds of load before it begins, and behind it."""
PATIENCE = 300.0
SLICES = 10
"""Of a window, in which the clients of a worker have to be spread."""


class Service:
    """`aq serve` in its folder, and `aq` about it."""

    def __init__(self, folder: Path, port: int, workers: int) -> None:
        self.folder, self.port, self.workers = folder, port, workers
        self.url = f"local://{folder}/broker"
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AQ_")}
        self._env = {**kept, "PYTHONPATH": path, "AQ_APP": APP, "AQ_WS_ADAPTER_URL": self.url}
        self.log = folder / "server.log"
        self._process: asyncio.subprocess.Process | None = None

    async def aq(self, *words: str) -> tuple[int, str]:
        """Run `aq`; its exit code, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aquilia.cli", *words),
            cwd=self.folder,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    async def start(self) -> None:
        """Serve, until all workers do."""
        code, told = await self.aq("compile")
        assert code == 0, told
        words = ("serve", "--workers", str(self.workers), "--port", str(self.port), "--log-level", "warning")
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aquilia.cli", *words),
                cwd=self.folder,
                env=self._env,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            heading = await self._process.stdout.readline()
        assert heading.startswith(b"Aquilia"), self.log.read_text()

    async def nodes(self) -> dict[str, int]:
        """The workers that take clients: their ids, and their processes."""
        code, told = await self.aq("ws", "inspect", "--live", "--json", "--adapter-url", self.url)
        if code:
            return {}
        return {each["id"]: each["pid"] for each in json.loads(told)["nodes"] if each["phase"] == "live"}

    async def replaced(self, former: dict[str, int]) -> dict[str, int]:
        """Wait until these workers have ended, and others serve."""
        async with asyncio.timeout(PATIENCE):
            while not all(map(gone, former.values())):
                await asyncio.sleep(0.1)
            while len(nodes := await self.nodes()) != self.workers or not nodes.keys().isdisjoint(former):
                await asyncio.sleep(0.5)
        return nodes

    def restart(self) -> None:
        """Replace all workers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    async def end(self) -> int:
        """End it as an operator does; its exit code."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()


class Crowds:
    """The clients, in processes of their own, and what they are asked to do."""

    def __init__(self, options: argparse.Namespace, port: int) -> None:
        share = options.clients // options.crowds
        rooms = max(options.crowds, options.clients // MEMBERS)
        words = [f"ws://127.0.0.1:{port}/rolling"]
        self._words = [
            [*words, *map(str, (number, options.crowds, share, rooms, options.rate))]
            for number in range(options.crowds)
        ]
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        for words in self._words:
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, str(HERE / "crowd.py"), *words),
                    env={**os.environ, "PYTHONPATH": path},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    limit=1 << 28,
                )
            )

    async def do(self, word: str, *given: Any) -> list[Any]:
        """Have all do it; their answers."""
        return list(await asyncio.gather(*(self._do(process, [word, *given]) for process in self._processes)))

    async def _do(self, process: asyncio.subprocess.Process, said: list[Any]) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(said).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            answer = await process.stdout.readline()
        assert answer, f"a process of clients ended while it was asked to {said[0]}"
        return json.loads(answer)

    def kill(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()


async def drain_each(service: Service, nodes: dict[str, int]) -> list[str]:
    """Send the clients of each worker away from afar, and end it, one after the other; what was wrong with that."""
    problems = []
    for node, pid in nodes.items():
        code, told = await service.aq("ws", "drain", node, "--json", "--adapter-url", service.url)
        if code != 0 or list(json.loads(told)["nodes"]) != [node]:
            problems.append(f"`aq ws drain {node}` ended with {code}: {told}")
        os.kill(pid, signal.SIGTERM)
        await service.replaced({node: pid})
    code, _ = await service.aq("ws", "drain", next(iter(nodes)), "--adapter-url", service.url)
    if code != 1:
        problems.append(f"`aq ws drain` of a node that is not there any more ended with {code}")
    return problems


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One map of several."""
    return {key: value for part in parts for key, value in part.items()}


def busiest(moments: Iterable[float]) -> int:
    """The most within any one second."""
    moments = sorted(moments)
    first = most = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def storms(told: dict[int, list[float]]) -> list[str]:
    """Workers that did not spread their clients evenly over the window that their number asks for."""
    problems = []
    for process, times in told.items():
        window = max(reconnection_times(len(times)))
        absence = min(times)
        slices = Counter(int((time - absence) / window * SLICES) for time in times)
        most = max(slices.values())
        # The golden ratio leaves no slice with more than a few above its share.
        if max(times) - absence > window + 0.001 or most > len(times) / SLICES + 3:
            problems.append(
                f"process {process} told {len(times)} clients to come back within "
                f"{absence:.2f} to {max(times):.2f} s, {most} of them within a tenth of that"
            )
    return problems


def judged(options: argparse.Namespace, found: list[dict[str, Any]], said: dict[str, int]) -> list[str]:
    """What of it may not be; and print the figures."""
    problems = []
    heard: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in found:
        for room, each in part["heard"]:
            heard[room.partition(" ")[0]].append({**each, "rest": said[room] - each["last"]})
    for kind, rooms in heard.items():
        lost = sum(each["lost"] + each["rest"] for each in rooms)
        doubled = sum(each["doubled"] for each in rooms)
        covered = sum(each["covered"] for each in rooms)
        gaps = Counter(cause for each in rooms for cause in each["told"])
        total = sum(number for room, number in said.items() if room.startswith(kind))
        print(
            f"{kind}: {total:,} numbers said; of {sum(each['last'] for each in rooms):,} due, {lost} lost, "
            f"{doubled} doubled, {covered:,} missing where a gap was told; gaps: {dict(gaps) or 'none'}"
        )
        if lost or doubled:
            problems.append(f"{kind}: {lost} lost, {doubled} doubled")
        if kind == "log" and gaps:
            problems.append(f"rooms that remember have gaps: {dict(gaps)}")
    return problems + moved(options, [each for part in found for each in part["travels"]])


def moved(options: argparse.Namespace, travels: list[dict[str, Any]]) -> list[str]:
    """What may not be of how the clients were moved."""
    told: dict[int, list[float]] = defaultdict(list)
    for each in travels:
        for process, seconds in each["told"]:
            told[process].append(seconds)
    told.pop(0, None)  # asked before it had said which one it is
    returns = [moment for each in travels for moment in each["connects"][1:]]
    failed = Counter(reason for each in travels for reason in each["failed"])
    cut = Counter(reason for each in travels for reason in each["cut"])
    asked = sum(len(each["told"]) for each in travels)
    windows = [f"{len(times)} in {min(times):.2f}–{max(times):.2f} s" for times in told.values()]
    print(f"told to come back: {asked:,} times; by worker: {', '.join(windows)}")
    print(
        f"came back {len(returns):,} times, at most {busiest(returns):,} within a second; "
        f"{sum(failed.values())} attempts failed"
    )
    problems = storms(told)
    counts = {
        "have another session": sum(len(each["sessions"]) != 1 for each in travels),
        "were put out of a room": sum(bool(each["put_out"]) for each in travels),
        "were cut off without a word": sum(bool(each["cut"]) for each in travels),
        "connected more or less often than they were asked to": sum(
            len(each["connects"]) != 1 + len(each["told"]) + len(each["cut"]) for each in travels
        ),
    }
    problems += [f"{count} clients {what}" for what, count in counts.items() if count]
    problems += [f"{count} connections ended without goaway: {reason}" for reason, count in cut.items()]
    if options.by == "sighup":  # a worker that is sent away still accepts until it is ended, to refuse
        problems += [f"{count} attempts failed: {reason}" for reason, count in failed.items()]
    return problems


async def watch(options: argparse.Namespace, service: Service, crowds: Crowds) -> list[str]:
    """The whole run; its problems."""
    before = await service.nodes()
    entered = sum(await crowds.do("enter"))
    print(f"{entered:,} clients on {len(before)} workers", flush=True)
    await crowds.do("speak")
    await asyncio.sleep(LOADED)
    began = time.monotonic()
    problems = []
    if options.by == "drain":
        problems += await drain_each(service, before)
    else:
        service.restart()
    after = await service.replaced(before)
    print(f"all workers were replaced within {time.monotonic() - began:.0f} s", flush=True)
    await asyncio.sleep(LOADED)
    if away := sum(await crowds.do("stop")):
        problems.append(f"{away} clients did not come back")
    said = merged(await crowds.do("last"))
    found = await crowds.do("settle", said)
    problems += judged(options, found, said)
    where = {process for part in found for process in part["processes"]}
    if not where <= set(after.values()):
        problems.append(f"clients are served by {where}, the workers are {after}")
    problems += await present(crowds, found)
    if code := await service.end():
        problems.append(f"aq serve ended with {code}")
    return problems


async def present(crowds: Crowds, found: list[dict[str, Any]]) -> list[str]:
    """What is wrong with who is said to be present."""
    problems = []
    who = merged(part["who"] for part in found)
    there: dict[str, list[str]] = defaultdict(list)
    for part in found:
        for room, id in part["members"]:
            there[room].append(id)
    for room, ids in there.items():
        if sorted(who[room]) != sorted(ids):
            problems.append(f"{room} has {len(ids)} members, and its presence is {len(who[room])} others")
    told = await crowds.do("rosters", who)
    wrong, leaves = sum(part["wrong"] for part in told), sum(part["leaves"] for part in told)
    travels = [each for part in found for each in part["travels"]]
    late = sorted(
        seconds - told
        for each in travels
        for seconds, (_, told) in zip(each["away"], each["told"], strict=False)
    )
    longest = max(late, default=0.0)
    print(f"presence: {sum(map(len, who.values())):,} entries; {leaves:,} leaves told")
    print(
        f"back later than told: half of them by {late[len(late) // 2]:.1f} s, the last by {longest:.1f} s; "
        f"{sum(each > TRAVEL for each in late):,} by more than the {TRAVEL:g} s that presence waits"
    )
    if leaves and longest < TRAVEL:  # nobody was away for longer than it is awaited
        problems.append(f"{leaves} leaves were told of clients that were back in time")
    if wrong:
        problems.append(f"{wrong} clients were told of others than those who are there")
    await crowds.do("end")
    return problems


@contextlib.asynccontextmanager
async def staged(
    options: argparse.Namespace, folder: Path, port: int
) -> AsyncIterator[tuple[Service, Crowds]]:
    """The server and the clients, as processes that are there."""
    service = Service(folder, port, options.workers)
    crowds = Crowds(options, port)
    try:
        await service.start()
        await crowds.start()
        yield service, crowds
    finally:
        crowds.kill()
        await service.end()
        if text := service.log.read_text():
            print(f"== {service.log.name}\n{text[-6000:]}")


async def run(options: argparse.Namespace, folder: Path, port: int) -> int:
    """Do it; 1 where anything was wrong."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.monotonic()
    async with staged(options, folder, port) as (service, crowds):
        problems = await watch(options, service, crowds)
    for problem in problems:
        print("PROBLEM:", problem)
    verdict = f"{len(problems)} problems" if problems else "nothing lost, nothing doubled, nobody stormed"
    print(f"{verdict}; {time.monotonic() - began:.0f} s")
    return 1 if problems else 0
