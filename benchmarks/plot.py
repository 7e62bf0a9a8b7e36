"""The main figures as bars, in one SVG that is readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from statistics import median
from typing import Any

from report import COLUMNS, figures, headline

__all__ = ["plot"]

WIDTH, LABEL, BAR, GAP = 420, 150, 18, 6
"""Of one panel, the names at its left, and the bars, in pixels."""
SPACE = 30
COLOURS = {
    "floor": "#8b949e",
    "aquilia": "#2f81f7",
    "aquilia-asgi": "#79b8ff",
    "aquilia-bare": "#79b8ff",
    "aquilia-full": "#79b8ff",
    "fastapi": "#2da44e",
}
OTHER = "#bf8700"
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.unit{fill:#6e7781}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.unit{fill:#9198a1}}"
)


def plot(results: dict[str, Any]) -> str:
    """An SVG with a panel for each scenario."""
    scenarios = list(results["runs"])
    height = 44 + len(results["peers"]) * (BAR + GAP) + SPACE
    width, total = 2 * WIDTH + SPACE, -(-len(scenarios) // 2) * height
    panels = []
    for number, scenario in enumerate(scenarios):
        x, y = number % 2 * (WIDTH + SPACE), number // 2 * height
        panels += [f'<g transform="translate({x} {y})">', *_panel(results, scenario), "</g>"]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" role="img">'
    return "\n".join([head, "<title>Benchmarks</title>", f"<style>{STYLE}</style>", *panels, "</svg>"]) + "\n"


def _panel(results: dict[str, Any], scenario: str) -> Iterator[str]:
    title, key, form = headline(results, scenario)
    better = "more is better" if key == "rate" else "less is better"
    yield f'<text class="title" y="16">{escape(title)}</text>'
    yield f'<text class="unit" y="32">{escape(COLUMNS[key][0])}; {better}</text>'
    values = {name: figures(results, scenario, name, key) for name in results["runs"][scenario]}
    if key == "bytes":
        values.pop("floor", None)
    most = max((median(runs) for runs in values.values() if runs), default=0) or 1
    for number, (name, runs) in enumerate(values.items()):
        y = 44 + number * (BAR + GAP)
        value = median(runs) if runs else 0
        length = max(1, value / most * (WIDTH - LABEL - 72))
        yield f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(results["peers"][name])}</text>'
        yield (
            f'<rect x="{LABEL}" y="{y}" width="{length:.0f}" height="{BAR}" rx="2" '
            f'fill="{COLOURS.get(name, OTHER)}"/>'
        )
        yield f'<text x="{LABEL + length + 6:.0f}" y="{y + 13}">{form(value) if runs else "no figure"}</text>'
