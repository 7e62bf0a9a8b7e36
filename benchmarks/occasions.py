"""What is no steady load: programs of their own, each run once by `run.py`, and their parts of the page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from brokers import BROKERS

__all__ = ["OCCASIONS", "observe", "sections"]

HERE = Path(__file__).resolve().parent
BAR = 40
"""Signs of the longest bar of a plot."""

Result = dict[str, Any]


def observe(name: str, folder: Path, *, quick: bool) -> Result:
    """Run a program; its figures, or why it has none."""
    out = folder / f"{name}.json"
    out.unlink(missing_ok=True)
    words = OCCASIONS[name][0] if quick else ()
    print(f"{name}:", flush=True)
    process = subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--out", str(out), *words])
    if not out.exists():
        return {"failed": f"{name}.py ended with {process.returncode}"}
    seen: Result = json.loads(out.read_text())
    return seen


def sections(results: Result) -> Iterator[str]:
    """The parts of the page, in Markdown."""
    for name, seen in results.get("occasions", {}).items():
        title, lines = OCCASIONS[name][1:]
        yield f"## {title}"
        yield ""
        yield from [f"No figures: {seen['failed']}."] if "failed" in seen else lines(seen)
        yield ""
        if "measured" in seen:
            yield f"Measured alone, {seen['measured']}."
            yield ""


def _resume(seen: Result) -> Iterator[str]:
    rounds = seen["rounds"]
    yield (
        f"{seen['clients']:,} members of a room with history lose their connections at the same moment, and come "
        f"back at once; {seen['missed']} messages are published meanwhile. A client is back when it has all of them, "
        "in order and once. Cut: one server, in memory, whose connections are reset. Killed: one of two servers on "
        "one NATS is killed, and all come to the other. Seconds from there; the clients are one program on one core."
    )
    yield ""
    yield "|  | p50, s | p99, s | the last, s |"
    yield "|---|---:|---:|---:|"
    for way, each in rounds.items():
        cells = [_spread([figures[key] for figures in each]) for key in ("p50", "p99", "last")]
        yield f"| {way} | {' | '.join(cells)} |"


def _restart(seen: Result) -> Iterator[str]:
    earliest, latest = seen["told"]
    back = seen["back"]
    yield (
        f"The only process, on `local://`, is stopped by SIGTERM and started again, under load: {seen['clients']:,} "
        "clients of `aquilia.client`, 50 to a room with history. It asked them to come back within "
        f"{earliest:.1f} to {latest:.1f} s. It had ended after {seen['ended']:.1f} s, and the next one listened "
        f"after {seen['listening']:.1f} s."
    )
    yield ""
    yield (
        f"{seen['said']:,} messages, {seen['heard']:,} times heard: {seen['lost']} lost, {seen['doubled']} doubled, "
        f"{seen['gaps']} gaps. Back again: half of the clients after {back['median']:.1f} s, 99 % after "
        f"{back['p99']:.1f} s, the last after {back['last']:.1f} s; at most {seen['most_in_a_second']:,} within one "
        f"second. {seen['attempts_failed']:,} attempts found no server."
    )
    yield ""
    yield "Clients that came back, in each half second:"
    yield ""
    yield "```"
    halves = [sum(seen["connects"][step : step + 5]) for step in range(0, len(seen["connects"]), 5)]
    for half, count in enumerate(halves):
        yield f"{half / 2:5.1f} s {count:6,} {'█' * round(BAR * count / max(halves))}".rstrip()
    yield "```"


def _spool(seen: Result) -> Iterator[str]:
    yield (
        f"{seen['clients']} members of a room under `spool` read nothing, until {seen['megabytes']} megabytes wait "
        f"on disk for each of them, in messages of {seen['size']:,} bytes; then they read on. Frames count once for "
        "each member. Out is until the publisher itself has the last one; in again, until all members have."
    )
    yield ""
    yield "|  | frames/s | MB/s |"
    yield "|---|---:|---:|"
    for way, title in (("out", "out"), ("in", "in again")):
        rates, volumes = ([each[way][key] for each in seen["rounds"]] for key in ("rate", "megabytes"))
        yield f"| {title} | {median(rates):,.0f} | {median(volumes):,.0f} |"


def _cluster(seen: Result) -> Iterator[str]:
    yield (
        "Nodes, broker and load share two processors. A message is published on one node, to a room with "
        "members on every node, and is there when the last of them has it. What a message costs is the processor's "
        "time of all nodes, and of the broker: unlike the times, it depends little on what else is done there."
    )
    for part, (title, lines) in _CLUSTER.items():
        if part in seen:
            yield ""
            yield f"### {title}"
            yield ""
            yield from [f"No figures: {seen[part]['failed']}."] if "failed" in seen[part] else lines(seen)


def _cluster_rate(seen: Result) -> Iterator[str]:
    yield (
        "100 rooms and 100 publishers with four messages in flight each, by members of a room; then at half of that "
        "rate, from when a message was due."
    )
    yield ""
    head = (
        "| broker | room | members | messages/s | deliveries/s | p50, ms | p99, ms | nodes, µs | broker, µs |"
    )
    yield f"{head} load busy |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    shapes = dict.fromkeys((run["bus"], run["room"], run["members"]) for run in seen["rate"])
    for shape in shapes:
        runs = [run for run in seen["rate"] if (run["bus"], run["room"], run["members"]) == shape]
        whole = [_whole([run[key] for run in runs]) for key in ("publications", "deliveries")]
        times = [_spread([run[key] for run in runs]) for key in ("p50", "p99")]
        costs = [f"{median(run['cpu'][key] for run in runs):.0f}" for key in ("nodes", "bus")]
        busy = f"{median(run['busy'] for run in runs):.0%}"
        bus, room, members = shape
        yield f"| {BROKERS[bus].shown} | {room} | {members} | {' | '.join([*whole, *times, *costs, busy])} |"
    yield from _late(seen["rate"])


def _cluster_workers(seen: Result) -> Iterator[str]:
    runs = seen["workers"]
    times = [_spread([run[key] for run in runs]) for key in ("p50", "p99")]
    yield (
        f"{runs[0]['members']:,} members over `aq serve --workers 4`. One of them publishes, and again when all have "
        f"it: until the last one has it, {times[0]} ms at the median, and {times[1]} ms for 99 %; "
        f"{_whole([run['deliveries'] for run in runs])} deliveries/s."
    )


def _cluster_growth(seen: Result) -> Iterator[str]:
    yield f"{seen['steady']:,} messages/s. Each room has a member on all nodes, or on one that is not the first."
    yield ""
    yield "| nodes | with a member | rooms | µs of all nodes | of nats-server | p50, ms | p99, ms |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for run in seen["growth"]:
        costs = [f"{µs:.0f}" for µs in run["cpu"].values()]
        cells = [run["nodes"], run["homes"], f"{run['rooms']:,}", *costs]
        yield f"| {' | '.join(map(str, cells))} | {run['p50']:.2f} | {run['p99']:.2f} |"
    yield from _late(seen["growth"])


def _cluster_added(seen: Result) -> Iterator[str]:
    yield (
        f"One node, and rooms with one member. One message in flight; {2 * seen['steady']:,} messages/s; and 400 "
        "in flight, where many share each way to the broker. Signed is with `AQ_WS_BUS_SECRET`."
    )
    yield ""
    yield (
        "| room | way | single: p50, ms | p99, ms | steady: µs of the node | of the broker | full: µs of the node | "
        "of the broker | messages/s |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for run in seen["added"]:
        costs = [f"{µs:.0f}" for way in ("steady", "full") for µs in run[way].values()]
        cells = [run["room"], run["way"], f"{run['p50']:.2f}", f"{run['p99']:.2f}", *costs]
        yield f"| {' | '.join(cells)} | {run['publications']:,} |"


def _late(runs: Sequence[Result]) -> Iterator[str]:
    if late := max(run["missing"] for run in runs):
        yield ""
        yield f"In one run {late:,} messages had not reached everybody a second after the end, and are in no figure."


_CLUSTER: dict[str, tuple[str, Callable[[Result], Iterator[str]]]] = {
    "rate": ("Two nodes", _cluster_rate),
    "workers": ("A large room over four workers", _cluster_workers),
    "growth": ("What a message costs as nodes and rooms become more", _cluster_growth),
    "added": ("What the bus adds", _cluster_added),
}


def _whole(values: Sequence[float]) -> str:
    middle = f"{median(values):,.0f}"
    return f"{middle} ({min(values):,.0f}–{max(values):,.0f})" if len(values) > 1 else middle


def _spread(values: Sequence[float]) -> str:
    middle = f"{median(values):.2f}"
    return f"{middle} ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else middle


OCCASIONS: dict[str, tuple[Sequence[str], str, Callable[[Result], Iterator[str]]]] = {
    "resume": (("--clients", "500", "--rounds", "1"), "Coming back: all at once", _resume),
    "spool": (("--megabytes", "4", "--rounds", "1"), "The disk behind slow clients", _spool),
    "restart": (("--clients", "200"), "A restart of the only process", _restart),
    "cluster": (("--quick",), "Several nodes", _cluster),
}
"""Words that make it quick, the title of its part, and what writes that."""
