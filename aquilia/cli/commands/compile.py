"""`aq compile`: check everything, and write the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec import UNSET
from rich.text import Text

from aquilia.cli.console import columns, count, fail, note_printed, show_problems, stdout
from aquilia.sockets.artifact import ARTIFACT_PATH, Artifact, ArtifactError, write

__all__ = ["AppOption", "compile_command"]

AppOption = Annotated[
    str | None,
    typer.Option(
        "--app",
        envvar="AQ_APP",
        metavar="MODULE:NAME",
        help="The manifest to load, or a list of them, instead of those found in the folder.",
    ),
]


def compile_command(app: AppOption = None) -> None:
    """Check the workspace in this folder, and write artifacts/ws.crous."""
    from aquilia.cli.examination import examine

    root = Path.cwd()
    found = examine(root, app)
    note_printed(found.printed, root)
    if found.artifact is None:
        show_problems(found.problems, root)
        raise typer.Exit(1)
    try:
        write(root / ARTIFACT_PATH, found.artifact)
    except ArtifactError as error:
        fail(str(error))
    _summarise(found.artifact)


def _summarise(artifact: Artifact) -> None:
    table = columns("", "", "")
    for namespace in artifact.namespaces:
        controller = namespace.controller.partition(":")[2]
        traffic = f"{count(len(namespace.events), 'event')} in, {len(namespace.emits)} out"
        if namespace.function is not UNSET:
            traffic = "raw messages"
        table.add_row(f"  {namespace.path}", controller, traffic)
    if not artifact.namespaces:
        table.add_row("  no namespaces: no controller has @Socket")
    stdout.print(table)
    stdout.print(Text.assemble((ARTIFACT_PATH.as_posix(), "bold green"), f"  {artifact.fingerprint[:12]}"))
