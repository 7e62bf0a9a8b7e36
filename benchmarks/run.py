"""Measure Aquilia beside its peers: `make bench`, or `python benchmarks/run.py --quick` for a first look.

Each server runs alone on one core, and the load generator on another; both on loopback. The servers take turns, and
the table shows the median of the rounds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from occasions import OCCASIONS, observe
from peers import BUILD, HERE, PEERS, ROOT, Peer, machine, versions
from plot import plot
from report import DISTURBED, report
from wire import free_port

Result = dict[str, Any]

RESERVED_FILES = 200
"""What a server holds open beside its connections, at most."""
START_SECONDS = 20.0
RUN_SECONDS = 180.0
"""No single run takes longer, whatever happens."""


def message(event: str, text: str, **more: object) -> str:
    """What clients send, to every server the same."""
    payload = {"text": text}
    return json.dumps({"type": "event", "event": event, **more, "payload": payload}, separators=(",", ":"))


ECHO = ("--message", message("echo", "hello"), "--expect", '"echo"')
PUBLISH = ("--message", message("pub", "hello"), "--expect", '"pub"')
LARGE = ("--message", message("pub", "x" * 2000), "--expect", '"pub"')
JOIN = ("--join", message("join", "all", id="1", ack=True))


@dataclass(frozen=True)
class Scenario:
    """One thing that is measured. `scales`: fewer connections where the limit of open files asks for it."""

    name: str
    mode: str
    connections: int
    options: tuple[str, ...]
    depth: int = 1
    rate: int = 0
    scales: bool = True
    frozen: int = 0
    """So many of the connections join and then read nothing."""
    stretch: float = 1
    """Takes so many times the seconds of the others."""

    def arguments(self, port: int, seconds: float, header: str | None = None) -> list[str]:
        """The words for the load generator."""
        seconds *= self.stretch
        words = [self.mode, "--port", str(port), "--connections", str(self.connections), *self.options]
        words += ["--depth", str(self.depth), "--seconds", str(seconds), "--warmup", str(seconds / 5)]
        if self.frozen:
            words += ["--frozen", str(self.frozen)]
        if self.rate:
            words += ["--rate", str(self.rate)]
        return words if header is None else [*words, "--header", header]

    def for_files(self, limit: int) -> Scenario:
        """With as many connections as the limit allows."""
        most = limit - RESERVED_FILES
        if self.connections <= most:
            return self
        return self._scaled(most)

    def quick(self) -> Scenario:
        """A tenth of it, where it is about many connections."""
        if not self.scales:
            return self
        return self._scaled(self.connections // 10)

    def _scaled(self, connections: int) -> Scenario:
        rate, frozen = (number * connections // self.connections for number in (self.rate, self.frozen))
        return replace(self, connections=connections, rate=rate, frozen=frozen)


SCENARIOS = (
    Scenario("echo-1", "echo", 100, ECHO, scales=False),
    Scenario("echo-16", "echo", 100, ECHO, depth=16, scales=False),
    Scenario("open", "open", 10_000, (*JOIN, *ECHO), rate=50_000, stretch=2),
    Scenario("fanout-5000", "fanout", 5_000, (*JOIN, *PUBLISH)),
    Scenario("fanout-10000", "fanout", 10_000, (*JOIN, *PUBLISH)),
    Scenario("frozen-none", "fanout", 4_000, (*JOIN, *LARGE)),
    Scenario("frozen-1000", "fanout", 5_000, (*JOIN, *LARGE), frozen=1_000),
    Scenario("idle", "idle", 10_000, JOIN),
)


class Failed(Exception):
    """A run gave no figure; the message says why."""


def build() -> None:
    """Compile the generator and the floor.

    Raises:
        SystemExit: without a compiler.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    for tool in ("gcc", "taskset"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is needed, and not installed")
    for name in ("load", "floor", "rooms"):
        flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", str(BUILD / name), str(HERE / f"{name}.c")], check=True)


@contextmanager
def server(peer: Peer, core: int) -> Iterator[tuple[int, int]]:
    """The peer on a core of its own; gives its process id and its port, and ends it.

    Raises:
        Failed: if it does not start.
    """
    port = free_port()
    with open(BUILD / f"{peer.name}.log", "w+") as log:
        command = ["taskset", "-c", str(core), *peer.command(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)
        try:
            _await_listening(process, port)
            yield process.pid, port
        except Failed as error:
            log.seek(0)
            said = log.read().strip().splitlines()
            raise Failed(f"{error}{f'; it said: {said[-1]}' if said else ''}") from error
        finally:
            _end(process)


def _await_listening(process: subprocess.Popen[Any], port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Failed(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Failed(f"the server did not listen within {START_SECONDS:.0f} s")


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Failed("the server is gone")


def queued(pid: int) -> float:
    """Seconds for which a process was ready to run and did not, because others had its core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def measure(peer: Peer, scenario: Scenario, seconds: float, cores: tuple[int, int]) -> Result:
    """One run, on a fresh server.

    Raises:
        Failed: if it gives no figure.
    """
    header = peer.header and peer.header()
    with server(peer, cores[0]) as (pid, port):
        warm_up = Scenario("warm-up", "echo", 20, (*JOIN, *ECHO))
        _load(warm_up.arguments(port, 0.25, header), cores[1])
        before, waited, start = resident(pid), queued(pid), time.monotonic()
        result = _load(scenario.arguments(port, seconds, header), cores[1], held=lambda: resident(pid))
        waited, passed = queued(pid) - waited, time.monotonic() - start
    result["disturbed"] = round(max(result["disturbed"], waited / passed), 3)
    result["bytes"] = (result.pop("held") - before) / scenario.connections
    if problem := problem_of(result):
        raise Failed(problem)
    del result["codes"]  # of closed connections, and there are none
    return result


def _load(arguments: list[str], core: int, held: Any = lambda: 0) -> Result:
    """Run the generator; `held` is asked in the middle of the time, when all connections have joined."""
    seconds = float(arguments[arguments.index("--seconds") + 1])
    command = ["taskset", "-c", str(core), str(BUILD / "load"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:  # it ends by itself: the generator bounds its own time
                if line == "ready\n":
                    break
                said.append(line.strip())
            else:
                raise Failed(f"not all connections joined: {'; '.join(said) or 'no answer'}")
            time.sleep(seconds / 2)
            amount = held()
            out, errors = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed("the load generator did not end in time") from None
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        raise Failed(f"the load generator ended with {process.returncode}: {errors.strip()}")
    return {**json.loads(out), "held": amount}


def problem_of(result: Result) -> str | None:
    """Why what the generator says is no figure."""
    if result["closed"]:
        return f"{result['closed']} connections were closed: codes {', '.join(result['codes'])}"
    if result["unexpected"]:
        return f"{result['unexpected']} messages came that were not expected"
    if result["mode"] == "fanout" and not result["rounds"]:
        return "no publication reached everybody in time"
    return None


def measure_all(
    scenarios: list[Scenario], peers: list[Peer], rounds: int, seconds: float
) -> dict[str, dict[str, list[Result]]]:
    """All runs, by scenario and peer. One that fails is `{"failed": why}`."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("two processors are needed: one for the server, one for the load")
    cores = (available[0], available[1])
    runs: dict[str, dict[str, list[Result]]] = {}
    for scenario in scenarios:
        taking_part = [peer for peer in peers if scenario.mode in peer.modes]
        by_peer = runs[scenario.name] = {peer.name: [] for peer in taking_part}
        for number in range(1, rounds + 1):
            for peer in taking_part:
                try:
                    result = measure(peer, scenario, seconds, cores)
                except Failed as error:
                    result = {"failed": str(error)}
                by_peer[peer.name].append(result)
                print(f"{scenario.name} {number}/{rounds}  {peer.title:24} {_line(result)}", flush=True)
    return runs


def _line(result: Result) -> str:
    if "failed" in result:
        return f"FAILED: {result['failed']}"
    if result["mode"] == "idle":
        return f"{result['bytes']:,.0f} bytes each, joined in {result['connect_seconds']:.2f} s"
    late = f", {result['missing']:,} not answered" if result["missing"] else ""
    late += (
        f", DISTURBED for {result['disturbed']:.0%} of the time" if result["disturbed"] > DISTURBED else ""
    )
    return (
        f"{result['rate']:,.0f}/s, p50 {result['p50'] / 1000:.2f} ms, p99 {result['p99'] / 1000:.2f} ms, "
        f"load {result['busy']:.0%} busy{late}"
    )


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us, servers included; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = 1_000_000 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round with a tenth of the connections"
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="a scenario or a server; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run, without the warm-up")
    parser.add_argument("--report", action="store_true", help="only write the page again, from results.json")
    parser.add_argument(
        "--keep", action="store_true", help=f"put {', '.join(OCCASIONS)}, measured alone, among the results"
    )
    asked = parser.parse_args()
    known = {entry.name for entry in (*SCENARIOS, *PEERS)} | OCCASIONS.keys()
    for name in asked.only or ():
        if name not in known:
            parser.error(f"--only {name}: known are {', '.join(sorted(known))}")
    if asked.keep and (asked.quick or not asked.only or not OCCASIONS.keys() >= set(asked.only)):
        parser.error(f"--keep is for --only with {', '.join(OCCASIONS)}, and not for --quick")
    if asked.rounds < 1 or asked.seconds <= 0:
        parser.error("--rounds and --seconds are above 0")
    return asked


def run(asked: argparse.Namespace) -> Result:
    """Measure what is asked for; the whole as it goes into results.json."""
    build()
    limit = raise_file_limit()
    notes = [] if not asked.quick else ["A quick run: a tenth of the connections, and one short round."]
    if (load := os.getloadavg()[0]) > 0.5:
        notes.append(f"The machine was not quiet before it began: its load was {load:.1f}.")
    scenarios, peers, occasions = list(SCENARIOS), list(PEERS), list(OCCASIONS)
    if asked.only:
        occasions = [name for name in OCCASIONS if name in asked.only]
        scenarios = [entry for entry in scenarios if entry.name in asked.only] or (
            [] if occasions else scenarios
        )
        peers = [entry for entry in peers if entry.name in asked.only] or peers
    scenarios = [entry.quick() if asked.quick else entry for entry in scenarios]
    scaled = [entry.for_files(limit) for entry in scenarios]
    for wanted, got in zip(scenarios, scaled, strict=True):
        if wanted != got:
            notes.append(f"{got.name}: {got.connections:,} connections instead of {wanted.connections:,}; "
                         f"only {limit:,} files may be open.")  # fmt: skip
    skipped = {peer.title: why for peer in peers if (why := peer.absent())}
    notes += [f"{title} is left out: {why}." for title, why in skipped.items()]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    peers = [peer for peer in peers if peer.title not in skipped]
    rounds, seconds = (1, 0.5) if asked.quick else (asked.rounds, asked.seconds)
    runs = [entry for entry in scaled for peer in peers if entry.mode in peer.modes]
    minutes = sum(entry.stretch * seconds * 1.2 + 3.5 for entry in runs) * rounds / 60
    print(f"about {minutes:.0f} minutes", flush=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "rounds": rounds,
        "seconds": seconds,
        "notes": notes,
        "peers": {peer.name: peer.title for peer in peers},
        "scenarios": {
            entry.name: {
                "connections": entry.connections,
                "depth": entry.depth,
                "rate": entry.rate,
                "frozen": entry.frozen,
                "seconds": entry.stretch * seconds,
            }
            for entry in scaled
        },
        "runs": measure_all(scaled, peers, rounds, seconds),
        "occasions": {name: observe(name, BUILD, quick=asked.quick) for name in occasions},
    }


def as_text(results: Result) -> str:
    """As JSON with a line for each run."""
    runs = re.compile(r"\{[^{}\[\]]*\}")
    return runs.sub(lambda run: re.sub(r"\n *", " ", run[0]), json.dumps(results, indent=1)) + "\n"


def kept(results: Result, file: Path) -> Result:
    """What is in a file of results, with the occasions of these in the place of its own."""
    before: Result = json.loads(file.read_text())
    when = f"{results['date']}, commit {results['versions'].get('commit', 'unknown')}"
    for name, seen in results["occasions"].items():
        before["occasions"][name] = {**seen, "measured": when}
    return before


def main() -> None:
    """Measure, and write the results; what is quick or partial goes to build/benchmarks, not into the documents."""
    asked = options()
    results_file, documents = HERE / "results.json", ROOT / "docs"
    if asked.quick or (asked.only and not asked.keep):
        results_file, documents = BUILD / "results.json", BUILD
    if asked.report:
        results = json.loads(results_file.read_text())
    else:
        results = kept(run(asked), results_file) if asked.keep else run(asked)
        results_file.write_text(as_text(results))
    (documents / "BENCHMARKS.md").write_text(report(results))
    (documents / "benchmarks.svg").write_text(plot(results))
    print(f"written: {results_file}, {documents / 'BENCHMARKS.md'}, {documents / 'benchmarks.svg'}")


if __name__ == "__main__":
    main()
