"""The command `aq`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aquilia import __version__
from aquilia.cli.commands import ws
from aquilia.cli.commands.compile import compile_command
from aquilia.cli.commands.doctor import doctor_command
from aquilia.cli.commands.init import init_command
from aquilia.cli.commands.inspect import inspect_command
from aquilia.cli.commands.serve import serve_command

__all__ = ["main"]

app = typer.Typer(
    name="aq",
    help="Realtime applications in Python: make a workspace, check it, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init_command)
app.command("compile")(compile_command)
app.command("serve")(serve_command)
app.command("inspect")(inspect_command)
app.command("doctor")(doctor_command)
app.add_typer(ws.app, name="ws")


def main() -> None:
    """Run `aq`. The exit code is 0, or 1 where what was asked for could not be done, or 2 for a wrong command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an old terminal shows "?" for what it has no character for
            stream.reconfigure(errors="replace")
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"Aquilia {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass
