"""`aq inspect`: what the workspace consists of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec import UNSET
from rich.text import Text

from aquilia.cli.commands.compile import AppOption
from aquilia.cli.console import columns, note_printed, print_json, relative, show_problems, stdout
from aquilia.cli.examination import Examination, examine
from aquilia.sockets.artifact import Artifact

__all__ = ["inspect_command"]


def inspect_command(
    app: AppOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show the apps of the workspace in this folder, their services, routes and namespaces."""
    root = Path.cwd()
    found = examine(root, app)
    note_printed(found.printed, root)
    if found.artifact is None:
        show_problems(found.problems, root)
        raise typer.Exit(1)
    if json:
        content = _content(found, found.artifact, root)
        print_json(msgspec.json.format(msgspec.json.encode(content)).decode())
    else:
        _show(found, found.artifact, root)


def _content(found: Examination, artifact: Artifact, root: Path) -> dict[str, Any]:
    listed: dict[str, Any] = msgspec.to_builtins(
        {"apps": found.apps, "services": found.services, "routes": found.routes}
    )
    for entries in listed.values():
        for entry in entries:
            entry["where"] = relative(entry["where"], root)
    namespaces = [
        {
            "path": namespace.path,
            "app": namespace.app,
            "controller": namespace.controller,
            "events": [event.name for event in namespace.events],
            "emits": [emits.name for emits in namespace.emits],
            **({} if namespace.function is UNSET else {"function": namespace.function}),
            **({"presence": told["rooms"]} if (told := namespace.settings["presence"]) else {}),
        }
        for namespace in artifact.namespaces
    ]
    return {**listed, "namespaces": namespaces, "fingerprint": artifact.fingerprint}


def _show(found: Examination, artifact: Artifact, root: Path) -> None:
    _table(
        ("apps", "version", "depends on", "auth", "sessions", "manifest"),
        [
            (
                app.name,
                app.version,
                ", ".join(app.depends_on),
                (app.auth or "").partition(":")[2],
                (app.sessions or "").partition(":")[2],
                relative(app.where, root),
            )
            for app in found.apps
        ],
    )
    _table(
        ("services", "scope", "app", "declared at"),
        [
            (", ".join(service.provides), service.scope, service.app, relative(service.where, root))
            for service in found.services
        ],
    )
    _table(
        ("routes", "handler", "declared at"),
        [
            (f"{route.method} {route.path}", route.handler, relative(route.where, root))
            for route in found.routes
        ],
    )
    _table(
        ("namespaces", "controller", "in", "out"),
        [
            (
                namespace.path,
                namespace.controller.partition(":")[2],
                *(
                    (str(len(namespace.events)), str(len(namespace.emits)))
                    if namespace.function is UNSET
                    else ("raw", "raw")
                ),
            )
            for namespace in artifact.namespaces
        ],
    )
    stdout.print(Text.assemble(("fingerprint  ", "dim"), artifact.fingerprint), soft_wrap=True)


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if rows:
        table = columns(*titles)
        table.columns[0].header_style = "bold"
        table.columns[0].style = "cyan"
        for row in rows:
            table.add_row(*row)
        stdout.print(table)
        stdout.print()
