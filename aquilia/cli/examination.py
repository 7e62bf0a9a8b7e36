"""A workspace, booted in a process of its own: whatever its code does there, it does to that process alone.

`examine` starts that process, and `main` is what runs in it.
"""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from aquilia.aquilary import BootError, Problem, qualified_name
from aquilia.cli.posture import Posture, posture_of
from aquilia.di import service_declaration
from aquilia.di.problems import name_of
from aquilia.di.signatures import return_type
from aquilia.patterns import normalise_path
from aquilia.server import Booted, boot
from aquilia.sockets.artifact import Artifact
from aquilia.source import SourceLocation

__all__ = ["AppView", "Examination", "RouteView", "ServiceView", "examine"]


class AppView(msgspec.Struct, frozen=True):
    """An app, and the file of its manifest."""

    name: str
    version: str
    depends_on: tuple[str, ...]
    where: str
    auth: str | None = None
    """Its AuthManager, as `module:Class`."""
    sessions: str | None = None
    """The store of its sessions, in the same form."""


class ServiceView(msgspec.Struct, frozen=True):
    """A service: the types that it provides, how long an instance lives, and where it is declared."""

    provides: tuple[str, ...]
    scope: str
    app: str
    where: str


class RouteView(msgspec.Struct, frozen=True):
    """An HTTP route."""

    method: str
    path: str
    handler: str
    where: str


class Examination(msgspec.Struct, frozen=True):
    """What was found: problems, or else what the workspace consists of. `printed` is what its code wrote."""

    problems: tuple[Problem, ...] = ()
    artifact: Artifact | None = None
    apps: tuple[AppView, ...] = ()
    services: tuple[ServiceView, ...] = ()
    routes: tuple[RouteView, ...] = ()
    posture: Posture | None = None
    printed: str = ""


def examine(root: Path, app: str | None) -> Examination:
    """Boot the workspace in a fresh process. A crash, or an exit, of that process is a problem like others."""
    with tempfile.TemporaryDirectory(prefix="aq-") as folder:
        result, printed = Path(folder, "result"), Path(folder, "printed")
        # -P: a file of the workspace must not take the place of a module that is imported before it.
        program = f"from {__name__} import main; main()"
        command = [sys.executable, "-P", "-X", "faulthandler", "-c", program]
        with printed.open("wb") as output:  # no pipe: processes that the workspace starts could keep it open
            child = subprocess.run(
                [*command, str(root), app or "", str(result)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if result.exists():
            found = msgspec.json.decode(result.read_bytes(), type=Examination)
        else:
            problem = Problem(str(root), f"its import ended the process, with {_ending(child.returncode)}")
            found = Examination((problem,))
        return msgspec.structs.replace(found, printed=printed.read_text(errors="replace"))


def _ending(code: int) -> str:
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"exit code {code}"


def _examined(root: Path, app: str | None) -> Examination:
    try:
        booted = boot(root, app, to_run=False)
    except BootError as error:
        return Examination(tuple(error.problems))
    return msgspec.structs.replace(_found(booted), posture=posture_of(booted, root))


def _found(booted: Booted) -> Examination:
    application, places = booted.application, booted.workspace.places
    return Examination(
        artifact=booted.artifact,
        apps=tuple(
            AppView(
                app.manifest.name,
                app.manifest.version,
                app.manifest.depends_on,
                places[app.manifest.name],
                None if app.auth is None else qualified_name(app.auth),
                None if app.sessions is None else qualified_name(app.sessions.store),
            )
            for app in application.registry.apps
        ),
        services=tuple(
            _service(service, app.manifest.name)
            for app in application.registry.apps
            for service in app.services
        ),
        routes=tuple(
            RouteView(route.declaration.method, normalise_path(route.pattern), route.name, route.where)
            for route in application.http.routes
        ),
    )


def _service(target: Any, app: str) -> ServiceView:
    declared = service_declaration(target)
    assert declared is not None  # else the workspace would not have booted
    scope = "transient" if declared.scope is None else str(declared.scope)
    provides = declared.provides or (target if inspect.isclass(target) else return_type(target),)
    return ServiceView(tuple(map(name_of, provides)), scope, app, str(SourceLocation.of(target)))


def main() -> None:
    """Examine, and leave the result in a file."""
    root, app, result = sys.argv[1:]
    found = _examined(Path(root), app or None)
    Path(result).write_bytes(msgspec.json.encode(found))
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the workspace may have closed or replaced it
            stream.flush()
    os._exit(0)  # whatever threads and exit handlers the workspace has left behind
