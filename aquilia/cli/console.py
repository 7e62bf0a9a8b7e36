"""What `aq` writes: results to stdout, problems to stderr. Colours go to terminals alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aquilia.aquilary import Problem

__all__ = [
    "columns",
    "count",
    "fail",
    "note",
    "note_printed",
    "print_json",
    "print_table",
    "show_error",
    "show_problems",
    "stderr",
    "stdout",
]

# No markup: paths like /chat/:room: and events like [x] are text, and mean nothing else.
stdout = Console(markup=False, emoji=False, highlight=False)
WIDEST = 8192
"""Columns of a line for another program: a namespace is part of a URL."""
stderr = Console(stderr=True, markup=False, emoji=False, highlight=False)


def fail(message: str) -> NoReturn:
    """Tell why a command ends here, and end it with exit code 1."""
    show_error(message, Path.cwd())
    raise typer.Exit(1)


def show_error(message: str, root: Path) -> None:
    """Tell what went wrong."""
    text = Text.assemble(("error: ", "bold red"), relative(message, root))
    stderr.print(text, soft_wrap=not stderr.is_terminal)


def show_problems(problems: Sequence[Problem], root: Path) -> None:
    """List what is wrong with a workspace, by file and line: each place, and below it what is wrong there."""
    problems = sorted(dict.fromkeys(problems), key=_place)
    for problem in problems:
        where, message = relative(problem.where, root), relative(problem.message, root)
        if stderr.is_terminal:
            stderr.print(Text(where, "cyan"))
            stderr.print(Padding(Text(message), (0, 0, 1, 2)))
        else:  # one line that an editor understands
            stderr.print(f"{where}: {message}", soft_wrap=True)
    stderr.print(Text(count(len(problems), "problem"), "bold red"))


def _place(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)


def note_printed(printed: str, root: Path) -> None:
    """Show what the workspace printed while it was imported."""
    if printed.strip():
        stderr.print(Text("printed while the workspace was imported:", "dim"))
        for line in relative(printed, root).rstrip().splitlines():
            stderr.print(Text(f"  {line}", "dim"), soft_wrap=True)


def note(message: str) -> None:
    """Tell beside the results what is good to know."""
    stderr.print(Text(message, "dim"), soft_wrap=True)


def relative(text: str, root: Path) -> str:
    """The text, with paths as they are seen from the workspace."""
    root = root.resolve()
    text = text.replace(f"{root}{os.sep}", "")
    return "." if text == str(root) else text


def count(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_json(text: str) -> None:
    """Print JSON, in UTF-8 whatever the terminal is, and as it is."""
    typer.echo(f"{text.rstrip()}\n".encode(), nl=False)


def print_table(table: Table) -> None:
    """Print a table, which another program reads by lines: for such a one nothing is folded."""
    width = stdout.width
    if not stdout.is_terminal:
        stdout.width = max(width, WIDEST)
    try:
        stdout.print(table)
    finally:
        stdout.width = width


def columns(*titles: str) -> Table:
    """A table without lines, whose titles are dim; one without titles has none."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", show_header=any(titles), pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
