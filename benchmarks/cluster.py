"""Measure several nodes: `python benchmarks/cluster.py [--quick] [--only PART] [--out FILE]`.

Clients publish on one node, and a message is followed until its last member, on any node, has it: `rooms.c` is the
load. The nodes, their broker and the load share two processors, whoever of them needs one. Parts:

- rate: two nodes, by broker, with history and without, 100 rooms that have as many members on either: messages a
  second with 400 in flight, and how long one takes at half of that rate;
- workers: one room of 10,000 over the four processes of `aq serve --workers 4`, one message at a time;
- growth: what a message costs the processor, as nodes and rooms become more: each room has a member on every node, or
  on one other alone;
- added: the same for one node, in memory and on each broker, without history and with it; and how long a single
  message takes.

What a message costs is what the processes have used, as the system counts it, at a steady rate. It hardly depends on
what else the machine does; all else does.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from brokers import BROKERS, command_of
from peers import BUILD, HERE
from run import Failed, build, message, problem_of, raise_file_limit
from wire import free_port

Figures = dict[str, Any]

CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
PATIENCE = 60.0
SAID = {"room": "ROOM", "text": "NUMBER"}
JOIN = json.dumps({"event": "join", "id": "1", "ack": True, "payload": {"text": "ROOM"}})
SAY = json.dumps({"event": "say", "payload": SAID})
SECRET = {"AQ_WS_BUS_SECRET": "the secret of the benchmark which is none"}
MANIFEST = "from aquilia_app import manifest as variant\n\nmanifest = variant('usual')\n"


@dataclass(frozen=True)
class Size:
    """How much of it."""

    seconds: float = 4.0
    rounds: int = 3
    members: int = 10_000
    most_rooms: int = 10_000
    steady: int = 1_000
    """Messages a second where the processor's time is counted."""


QUICK = Size(seconds=0.5, rounds=1, members=400, most_rooms=1_000, steady=300)


@dataclass(frozen=True)
class Nodes:
    """Nodes of one application that run, and their broker."""

    ports: Sequence[int]
    pids: Sequence[int]
    bus: int | None
    """The process of the broker."""


@contextmanager
def nodes(
    count: int, bus: str | None = "nats", *, variant: str = "usual", **environment: str
) -> Iterator[Nodes]:
    """So many nodes, on one broker or each in its memory."""
    with ExitStack() as stack:
        broker = None
        if bus is not None:
            port, command, url = stack.enter_context(command_of(bus))
            broker = stack.enter_context(running(port, command)).pid
            environment["AQ_WS_ADAPTER_URL"] = url
            if (store := BROKERS[bus].store) is not None:
                port, command, url = stack.enter_context(command_of(store))
                stack.enter_context(running(port, command))
                environment["AQ_WS_STORE_URL"] = url
        ports = [free_port() for _ in range(count)]
        app = [sys.executable, str(HERE / "servers" / "aquilia_app.py")]
        started = [
            stack.enter_context(running(port, [*app, str(port), "native", variant], environment))
            for port in ports
        ]
        yield Nodes(ports, [process.pid for process in started], broker)


@contextmanager
def running(
    port: int, command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens, on the two processors; ended at the end."""
    process = subprocess.Popen(
        ["taskset", "-c", CORES, *command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
    )
    try:
        until = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"{Path(command[0]).name} did not start")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(
    on: Nodes,
    seconds: float,
    *,
    rooms: int = 1,
    each: int = 1,
    publishers: int = 100,
    depth: int = 1,
    rate: float = 0,
    members_on: Sequence[int] | None = None,
) -> Figures:
    """Publish on the first node, and follow that to the members on all of them, or on the ports that are named."""
    words = ["--port", on.ports[0], "--rooms", rooms, "--each", each, "--publishers", publishers]
    words += ["--depth", depth, "--rate", rate, "--seconds", seconds, "--warmup", seconds / 4]
    words += ["--join", JOIN, "--message", SAY]
    for port in members_on or on.ports:
        words += ["--at", port]
    for pid in (*on.pids, *([on.bus] if on.bus is not None else [])):
        words += ["--pid", pid]
    seen = generated("rooms", [str(word) for word in words])
    if seen["unexpected"] or seen["closed"]:
        raise Failed(f"{seen['unexpected']} messages were not expected, {seen['closed']} connections closed")
    return seen


def generated(program: str, words: Sequence[str]) -> Figures:
    """What a generator says."""
    command = ["taskset", "-c", CORES, str(BUILD / program), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
    if done.returncode:
        raise Failed(f"the load ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    seen: Figures = json.loads(done.stdout)
    return seen


def cost(on: Nodes, seen: Figures) -> Figures:
    """What a publication cost the processor: in all nodes, and in the broker. µs."""
    each = [1e6 * seconds / max(1, seen["count"]) for seconds in seen["cpu"]]
    count = len(on.pids)
    return {"nodes": round(sum(each[:count]), 1), "bus": round(sum(each[count:]), 1)}


def latency(seen: Figures) -> Figures:
    """In ms; and what did not come in time, whose latency is in none of the percentiles."""
    return {
        "p50": round(seen["p50"] / 1000, 3),
        "p99": round(seen["p99"] / 1000, 3),
        "missing": seen["missing"],
    }


def rate(size: Size) -> list[Figures]:
    """Two nodes, by broker, kind of room and members of a room."""
    found = []
    shapes = [
        (bus, variant, each) for bus in BROKERS for variant in ("usual", "history") for each in (100, 500)
    ]
    for bus, variant, each in shapes * size.rounds:
        with nodes(2, bus, variant=variant) as on:
            full = load(on, size.seconds, rooms=100, each=each, depth=4)
        with nodes(2, bus, variant=variant) as on:
            steady = full["rate"] / 2
            half = load(on, size.seconds, rooms=100, each=each, rate=steady)
        found.append(
            {
                "bus": bus,
                "room": "history" if variant == "history" else "plain",
                "members": full["members"],
                "publications": round(full["rate"]),
                "deliveries": round(full["rate"] * full["members"]),
                "steady": round(steady),
                **latency(half),
                "cpu": cost(on, full),
                "busy": full["busy"],
            }
        )
        tell("rate", found[-1])
    return found


@contextmanager
def serving(workers: int) -> Iterator[int]:
    """`aq serve`, with so many processes; gives its port."""
    port = free_port()
    aq = str(Path(sysconfig.get_path("scripts")) / "aq")
    modules = [str(HERE / "servers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(modules)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "manifest.py").write_text(MANIFEST)
        subprocess.run([aq, "compile"], cwd=folder, env={**os.environ, **environment}, check=True)
        command = [aq, "serve", "--port", str(port), "--workers", str(workers), "--log-level", "error"]
        with running(port, command, environment, folder):
            yield port


def workers(size: Size) -> list[Figures]:
    """One room over four workers."""
    found = []
    words = ["fanout", "--connections", str(size.members), "--seconds", str(2 * size.seconds)]
    words += ["--join", message("join", "all", id="1", ack=True), "--patience", str(PATIENCE)]
    words += ["--message", message("pub", "hello"), "--expect", '"pub"']
    for _ in range(size.rounds):
        with serving(4) as port:
            seen = generated("load", [*words, "--port", str(port)])
        if problem := problem_of(seen):
            raise Failed(problem)
        times = {key: round(seen[key] / 1000, 2) for key in ("p50", "p99")}
        figures = {"members": seen["connected"], "rounds": seen["rounds"], **times}
        found.append({**figures, "deliveries": round(seen["rate"])})
        tell("workers", found[-1])
    return found


def growth(size: Size) -> list[Figures]:
    """By nodes and rooms: members on all of the nodes, or on the second alone. On NATS."""
    found = []
    shapes = [(count, rooms, count) for count in (1, 2, 4) for rooms in (1, 100, size.most_rooms)]
    for count, rooms, homes in [*shapes, (2, 100, 1), (4, 100, 1)]:
        with nodes(count) as on:
            ports = on.ports if homes == count else [on.ports[1]]
            seen = load(
                on,
                size.seconds,
                rooms=rooms,
                each=min(rooms, 100),
                rate=size.steady,
                members_on=ports,
            )
        found.append({"nodes": count, "rooms": rooms, "homes": homes, "cpu": cost(on, seen), **latency(seen)})
        tell("growth", found[-1])
    return found


def added(size: Size) -> list[Figures]:
    """One node, in memory and on each broker."""
    found = []
    ways: list[tuple[str | None, Mapping[str, str]]] = [(None, {}), *((bus, {}) for bus in BROKERS)]
    ways.insert(2, ("nats", SECRET))
    for variant, (bus, environment) in product(("usual", "history"), ways):
        with nodes(1, bus, variant=variant, **environment) as on:
            alone = load(on, size.seconds / 2, publishers=1)
        with nodes(1, bus, variant=variant, **environment) as on:
            steady = load(on, size.seconds, rooms=100, each=100, rate=2 * size.steady)
            full = load(on, size.seconds, rooms=100, each=100, depth=4)
        way = "memory" if bus is None else BROKERS[bus].shown
        found.append(
            {
                "room": "history" if variant == "history" else "plain",
                "way": f"{way}, signed" if environment else way,
                **latency(alone),
                "steady": cost(on, steady),
                "full": cost(on, full),
                "publications": round(full["rate"]),
            }
        )
        tell("added", found[-1])
    return found


PARTS: dict[str, Callable[[Size], list[Figures]]] = {
    "rate": rate,
    "workers": workers,
    "growth": growth,
    "added": added,
}


def tell(part: str, seen: Figures) -> None:
    """Show a line."""
    print(f"{part}: {', '.join(f'{name} {value}' for name, value in seen.items())}", flush=True)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(
        description="Measure several nodes, and what the way between them costs."
    )
    parser.add_argument("--quick", action="store_true", help="a little of each part: does it work?")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    asked = parser.parse_args()
    build()
    raise_file_limit()
    size = QUICK if asked.quick else Size()
    figures: Figures = {}
    for name in asked.only or PARTS:
        try:
            figures[name] = PARTS[name](size)
        except Failed as error:
            figures[name] = {"failed": str(error)}
            print(f"{name}: FAILED: {error}", file=sys.stderr)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps({"steady": size.steady, **figures}, indent=1) + "\n")
    if any("failed" in seen for seen in figures.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
