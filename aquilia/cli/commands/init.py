"""`aq init NAME`: a workspace that runs at once."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from aquilia.cli.console import fail, stdout
from aquilia.cli.templates import workspace_files
from aquilia.manifest import AppManifest, ManifestError

__all__ = ["init_command"]


def init_command(
    name: Annotated[str, typer.Argument(help="The name of the app, and of its folder.")],
) -> None:
    """Make a workspace in the folder NAME: one app, ready to be served."""
    if (problem := _problem(name)) is not None:
        raise typer.BadParameter(problem, param_hint="NAME")
    root = Path(name)
    files = {root / path: text for path, text in workspace_files(name).items()}
    if there := [path for path in files if path.exists() or path.is_symlink()]:
        listed = "".join(f"\n  {path.as_posix()}" for path in there)
        fail(f"{name} has files of these names already; nothing was written{listed}")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
    except OSError as error:
        fail(f"{error.filename} cannot be written: {error.strerror}")
    for path in files:
        stdout.print(Text.assemble(("made ", "dim"), path.as_posix()), soft_wrap=True)
    stdout.print(Text(f"\nNext:\n  cd {name}\n  aq compile\n  aq serve"))


def _problem(name: str) -> str | None:
    """Why this cannot be both an app and a Python package."""
    try:
        AppManifest(name)
    except ManifestError as error:
        return error.problems[0].removeprefix("name: ")
    package = re.sub("-", "_", name)
    if keyword.iskeyword(package):
        return (
            f"{name!r} is a word of Python's own, and no package can be called so; for instance 'my-{name}'"
        )
    return None
