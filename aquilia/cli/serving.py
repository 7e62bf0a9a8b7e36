"""What each way to serve does: boot the workspace, refuse what is older than the code, serve, and say where."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.text import Text

from aquilia import __version__
from aquilia.aquilary import BootError
from aquilia.cli.console import columns, show_error, show_problems, stderr, stdout
from aquilia.logs import LogFormat
from aquilia.server import Booted, ServerError, Transport, boot, serve
from aquilia.sockets.artifact import ARTIFACT_PATH, Artifact, ArtifactError, differences, read
from aquilia.sockets.transports.http import MAX_HEAD
from aquilia.tls import Certificate, Files, TLSError
from aquilia.workspace import environment

__all__ = ["Options", "Outline", "announce", "booted_by", "serve_by", "telling"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a serving process needs to know; a child process gets it pickled."""

    root: Path
    app: str | None
    log_level: str
    tls: Files | None
    uds: Path | None
    host: str
    transport: Transport
    log_format: LogFormat
    drain_delay: float = 0.0
    trusted_proxies: tuple[str, ...] | None = None
    max_header_size: int = MAX_HEAD

    def certificate(self) -> Certificate | None:
        """What is shown to clients.

        Raises:
            TLSError: the files do not make one.
        """
        return Certificate(self.tls) if self.tls else None


def booted_by(options: Options) -> Booted:
    """The workspace, as compiled where it is in production.

    Raises:
        BootError: with every problem.
        ServerError, ArtifactError: it was not compiled as it is now.
    """
    booted = boot(options.root, options.app)
    if environment() == "production":
        _refuse_stale(options.root, booted.artifact)
    return booted


def _refuse_stale(root: Path, now: Artifact) -> None:
    compiled = read(root / ARTIFACT_PATH)
    if compiled.fingerprint == now.fingerprint:
        return
    changes = differences(compiled, now)
    shown = [*changes[:8], *([f"and {len(changes) - 8} more"] if len(changes) > 8 else [])]
    listed = "".join(f"\n  {change}" for change in shown)
    raise ServerError(
        f"{ARTIFACT_PATH.as_posix()} is older than the code: run `aq compile` (or serve with --reload while "
        f"you work){listed}"
    )


def serve_by(
    options: Options,
    booted: Booted,
    sockets: Sequence[socket.socket],
    certificate: Certificate | None,
    *,
    on_started: Callable[[], None],
    hand_over: Callable[[], bool] = lambda: False,
) -> None:
    """`aquilia.server.serve`, by these options."""
    serve(
        booted.application,
        sockets,
        log_level=options.log_level,
        certificate=certificate,
        transport=options.transport,
        log_format=options.log_format,
        drain_delay=options.drain_delay,
        trusted_proxies=options.trusted_proxies,
        max_header_size=options.max_header_size,
        hand_over=hand_over,
        on_started=on_started,
    )


@contextmanager
def telling(options: Options, advice: str = "") -> Iterator[None]:
    """What is wrong is told by the child process, which ends with it."""
    try:
        yield
    except BootError as error:
        show_problems(error.problems, options.root)
        if advice:
            stderr.print(advice)
    except (ServerError, TLSError, ArtifactError) as error:
        show_error(str(error), options.root)
    else:
        return
    sys.exit(1)  # not typer's: this is a process of its own


# What it says


@dataclass(frozen=True, slots=True)
class Outline:
    """What is served, as it is told when it is."""

    namespaces: tuple[tuple[str, str], ...]
    """With the controller of each."""
    metrics: str | None

    @classmethod
    def of(cls, booted: Booted) -> Self:
        """That of a workspace."""
        namespaces = [(each.path, each.controller.partition(":")[2]) for each in booted.artifact.namespaces]
        return cls(tuple(namespaces), booted.application.sockets.plan.node.metrics)


def announce(options: Options, outline: Outline, sockets: Sequence[socket.socket], workers: int = 1) -> None:
    """Say that it serves, and where."""
    try:
        _announce(options, outline, sockets, workers)
    except SystemExit:  # rich, where nobody reads it (a broken pipe): that is no reason not to serve
        return


def _announce(options: Options, outline: Outline, sockets: Sequence[socket.socket], workers: int) -> None:
    several = f", {workers} workers" if workers > 1 else ""
    told = f" {__version__}, {environment()}{several}; Ctrl-C stops it"
    stdout.print(Text.assemble(("Aquilia", "bold"), told))
    secure = "s" if options.tls else ""
    if options.uds is not None:
        address = ""
        stdout.print(Text(f"  unix:{options.uds}", "bold cyan"))
    else:
        address = _address(options.host, sockets[0].getsockname()[1])
        stdout.print(Text(f"  http{secure}://{address}", "bold cyan"))
    table = columns("", "")
    for namespace, controller in outline.namespaces:
        path = namespace if options.uds else f"ws{secure}://{address}{namespace}"
        table.add_row(f"  {path}", Text(controller, "dim"))
    metrics = outline.metrics
    if metrics is not None and metrics != "collect":
        table.add_row(f"  {metrics}" if options.uds else f"  http{secure}://{address}{metrics}", "metrics")
    stdout.print(table)


def _address(host: str, port: int) -> str:
    """How a browser on this machine reaches it: "every address" is none that one can go to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
