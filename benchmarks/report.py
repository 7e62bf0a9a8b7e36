"""The results as a page: tables of medians, each figure beside those of the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

from occasions import sections
from peers import AQUILIA, BARE, FLOOR, FULL, HISTORY

__all__ = ["DISTURBED", "figures", "headline", "report"]

Result = dict[str, Any]
Format = Callable[[float], str]

DISTURBED = 0.03
"""Share of the time that other programs may have a core that is measured, before the page says so."""


def count(value: float) -> str:
    """A whole number, with three digits that count."""
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}"


def milliseconds(value: float) -> str:
    """From µs."""
    value /= 1000
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def seconds(value: float) -> str:
    """With two decimals."""
    return f"{value:.2f}"


COLUMNS: dict[str, tuple[str, Format]] = {
    "rate": ("messages/s", count),
    "p50": ("p50, ms", milliseconds),
    "p99": ("p99, ms", milliseconds),
    "bytes": ("bytes per connection", count),
    "connect_seconds": ("seconds to connect all", seconds),
}

HEADLINES = {"echo": "rate", "open": "p99", "fanout": "rate", "frozen": "p99", "idle": "bytes"}
"""The figure of a scenario that goes into ratios and the plot."""
SHOWN = {
    "echo": ("rate", "p50", "p99"),
    "open": ("p50", "p99", "rate"),
    "fanout": ("rate", "p50", "p99"),
    "frozen": ("p50", "p99", "bytes"),
    "idle": ("bytes", "connect_seconds"),
}


def figures(results: Result, scenario: str, peer: str, key: str) -> list[float]:
    """What the successful runs of a peer gave."""
    return [run[key] for run in results["runs"][scenario].get(peer, ()) if "failed" not in run]


def headline(results: Result, scenario: str) -> tuple[str, str, Format]:
    """Title, key and format of a scenario's main figure."""
    kind = scenario.partition("-")[0]
    asked = results["scenarios"][scenario]
    key = HEADLINES[kind]
    return _titles(kind, asked), key, COLUMNS[key][1]


def _titles(kind: str, asked: Result) -> str:
    connections = f"{asked['connections']:,}"
    return {
        "echo": f"Echo: {connections} connections, {asked['depth']} in flight each",
        "open": f"Steady load: {asked['rate']:,} messages/s over {connections} connections",
        "fanout": f"Fan-out: a room of {connections}",
        "frozen": f"Slow members: a room of {connections}, of whom {asked.get('frozen', 0):,} do not read",
        "idle": f"Memory: {connections} connections that have joined",
    }[kind]


MEANINGS = {
    "echo": "Each connection sends a message as soon as one of its own has been answered.",
    "open": (
        "Messages are due at fixed times, whether the server answers or not, and a latency counts from that time. "
        "“Messages/s” is what came back while the load lasted: a server that cannot keep up shows less than what "
        "was sent, and latencies that grow as long as it lasts."
    ),
    "fanout": (
        "One member publishes; when all members have the message, it publishes again. Messages/s counts deliveries, "
        "a latency is the time until the last member has the message."
    ),
    "frozen": (
        "As above, with messages of two kilobytes, until the last of those who read has the message. Bytes are of "
        "all connections, in the middle of the run: what waits for those who do not read is in them."
    ),
    "idle": (
        "The growth of the server's resident memory, divided by the connections. Buffers of the kernel are not in "
        "it. Connecting includes the handshake and joining a room."
    ),
}


def report(results: Result) -> str:
    """The page, in Markdown."""
    return (
        "\n".join(
            [
                *_opening(results),
                *_summary(results),
                *_scenarios(results),
                *sections(results),
                *_closing(results),
            ]
        )
        + "\n"
    )


def _opening(results: Result) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield (
        "One process on one core, measured by a load generator on another core of the same machine. All servers get "
        "the same small JSON message and do the same with it. The ratios say more than the figures: other machines "
        "have other figures."
    )
    yield ""
    yield "- **Aquilia** has on what an application would have: checked payloads, a guard, a rate limit."
    yield "  It runs in uvicorn with its native transport; “ASGI transport” is the same under uvicorn's own."
    yield "  “Bare” has no guard and no limit; “everything on” has authentication, three more guards and metrics too."
    yield "- **FastAPI** is written as its documentation has it: Pydantic models and a connection manager."
    yield "- **ws on Node** parses JSON and checks one type."
    yield "- The **floor** is a C program that echoes bytes, without JSON, rooms or checks: the least work possible."
    yield ""
    yield from (f"> {note}\n" for note in [*results["notes"], *_disturbed(results)])
    yield "![The same figures as bars](benchmarks.svg)"
    yield ""


def _disturbed(results: Result) -> Iterator[str]:
    runs = [run for peers in results["runs"].values() for each in peers.values() for run in each]
    shares = [run["disturbed"] for run in runs if run.get("disturbed", 0) > DISTURBED]
    if shares:
        yield (
            f"In {len(shares)} of {len(runs)} runs other programs had a core for more than {DISTURBED:.0%} of the "
            f"time, at most {max(shares):.0%}. Such figures are not to be relied on: measure again."
        )


def _summary(results: Result) -> Iterator[str]:
    others = [name for name in results["peers"] if name not in (AQUILIA, BARE, FULL, HISTORY)]
    if AQUILIA not in results["peers"] or not others:
        return
    yield "## Aquilia beside the others"
    yield ""
    yield "Aquilia's figure divided by the other's. For messages/s more is better; for latency and bytes, less."
    yield ""
    yield from _row("", "", *(f"to {results['peers'][name]}" for name in others))
    yield _rule(2, len(others))
    for scenario in results["runs"]:
        title, key, _ = headline(results, scenario)
        own = figures(results, scenario, AQUILIA, key)
        ratios = [
            "–" if (name, key) == (FLOOR, "bytes") else _ratio(own, figures(results, scenario, name, key))
            for name in others
        ]
        yield from _row(title, COLUMNS[key][0], *ratios)
    yield ""
    kept = {
        scenario: _ratio(figures(results, scenario, FULL, "rate"), figures(results, scenario, BARE, "rate"))
        for scenario, peers in results["runs"].items()
        if BARE in peers and FULL in peers
    }
    if kept:
        shares = [
            f"{share} with {results['scenarios'][name]['depth']} in flight" for name, share in kept.items()
        ]
        yield f"Of its own bare throughput, echo keeps with everything on: {', '.join(shares)}."
        yield ""
    for name, peers in results["runs"].items():
        if HISTORY in peers and name.startswith("fanout"):
            share = _ratio(figures(results, name, HISTORY, "rate"), figures(results, name, AQUILIA, "rate"))
            members = results["scenarios"][name]["connections"]
            yield f"Fan-out to {members:,} members, in a room with history: {share} of the rate without."
            yield ""


def _ratio(own: Sequence[float], other: Sequence[float]) -> str:
    if not own or not other or median(other) <= 0:
        return "–"
    ratio = median(own) / median(other)
    if ratio < 0.01:
        return f"{ratio:.1g}"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _scenarios(results: Result) -> Iterator[str]:
    explained = set()
    for scenario, peers in results["runs"].items():
        kind = scenario.partition("-")[0]
        yield f"## {headline(results, scenario)[0]}"
        yield ""
        if kind not in explained:
            yield MEANINGS[kind]
            yield ""
        explained.add(kind)
        own = results["scenarios"][scenario].get("seconds", results["seconds"])
        if own != results["seconds"]:
            yield f"Each run takes {own:g} s."
            yield ""
        yield from _table(results, scenario, SHOWN[kind], busy=kind in ("echo", "fanout", "frozen"))
        yield from _failures(results, scenario, peers)
        yield ""


def _table(results: Result, scenario: str, keys: Sequence[str], *, busy: bool) -> Iterator[str]:
    extra = ["generator busy"] if busy else []
    yield from _row("", *(COLUMNS[key][0] for key in keys), *extra)
    yield _rule(1, len(keys) + len(extra))
    for peer, title in results["peers"].items():
        if peer not in results["runs"][scenario]:
            continue
        cells = [_cell(figures(results, scenario, peer, key), COLUMNS[key][1]) for key in keys]
        if busy:
            cells.append(_cell(figures(results, scenario, peer, "busy"), "{:.0%}".format, spread=False))
        yield from _row(title, *cells)


def _cell(values: Sequence[float], form: Format, *, spread: bool = True) -> str:
    if not values:
        return "–"
    middle = form(median(values))
    return f"{middle} ({form(min(values))}–{form(max(values))})" if spread and len(values) > 1 else middle


def _failures(results: Result, scenario: str, peers: dict[str, list[Result]]) -> Iterator[str]:
    for peer, runs in peers.items():
        reasons = [run["failed"] for run in runs if "failed" in run]
        late = [run["missing"] for run in runs if run.get("missing")]
        title = results["peers"][peer]
        if reasons:
            yield f"\n{title}: {len(reasons)} of {len(runs)} runs gave no figure. The last one: {reasons[-1]}."
        if late:
            yield f"\n{title}: up to {max(late):,} messages had no answer a second after the end; their age counts."


def _closing(results: Result) -> Iterator[str]:
    yield "## How it was measured"
    yield ""
    yield (
        f"{results['date']}; {', '.join(results['machine'].values())}. {_rounds(results)}; the servers took turns, "
        "each freshly started and warmed up."
    )
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
    yield ""
    limit = [
        figures(results, "echo-16", FLOOR, key) for key in ("rate", "busy") if "echo-16" in results["runs"]
    ]
    if all(limit) and limit:
        yield (
            f"The generator's own limit is not below {count(max(limit[0]))} messages/s, its echo against the floor. "
            "“Generator busy” is its use of its own core: where it is near 100 %, the figure is the generator's, and "
            "the server could do more."
        )
        yield ""
    yield "Loopback has no network in it, and one small message says nothing about large ones. To repeat it:"
    yield ""
    yield "```sh"
    yield "make bench"
    yield "```"
    yield ""
    yield (
        "It needs Linux, gcc, two processors and about half an hour on a quiet machine; Node is optional. "
        "[benchmarks/](../benchmarks/README.md) explains the parts, and has every run in results.json."
    )


def _rounds(results: Result) -> str:
    each = f"{results['seconds']:g} s"
    if results["rounds"] == 1:
        return f"One round of {each}"
    return (
        f"Medians of {results['rounds']} rounds of {each} each, with the lowest and the highest in brackets"
    )


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _rule(left: int, right: int) -> str:
    return "|" + "---|" * left + "---:|" * right
