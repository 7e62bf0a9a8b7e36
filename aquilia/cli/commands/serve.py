"""`aq serve`: run the workspace."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from aquilia import __version__
from aquilia.aquilary import BootError
from aquilia.cli.commands.compile import AppOption
from aquilia.cli.console import columns, fail, show_error, show_problems, stderr, stdout
from aquilia.cli.proxies import ProxiesOption, named_proxies
from aquilia.cli.reload import Reloader
from aquilia.logs import LogFormat
from aquilia.server import (
    Booted,
    Endpoint,
    ServerError,
    Transport,
    boot,
    configuration,
    listening,
    serve,
)
from aquilia.sockets.adapters.local_host import LocalServers
from aquilia.sockets.artifact import ARTIFACT_PATH, Artifact, ArtifactError, differences, read
from aquilia.sockets.transports.http import MAX_HEAD
from aquilia.tls import Certificate, Files, TLSError
from aquilia.workspace import environment

__all__ = ["serve_command"]

LogLevel = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True)
class _Options:
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
        return Certificate(self.tls) if self.tls else None


def serve_command(
    app: AppOption = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The address to listen on.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="The port; 0 is any free one.", show_default="8000"
        ),
    ] = None,
    uds: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Listen on a Unix socket instead of host and port.")
    ] = None,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="Start anew when a Python file changes. Implies AQ_ENV=development."),
    ] = False,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Serve https and wss with this chain of certificates (PEM). Changed files are taken up.",
        ),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Its key, where the certificate's file has none.")
    ] = None,
    ssl_password_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The password of the key, in a file.")
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(case_sensitive=False, help="info also logs every request.")
    ] = "info",
    log_format: Annotated[
        LogFormat,
        typer.Option(
            case_sensitive=False,
            envvar="AQ_LOG_FORMAT",
            help="A line of the log: text, or a JSON object.",
        ),
    ] = "text",
    transport: Annotated[
        Transport, typer.Option(help="The WebSocket server: Aquilia's own, or uvicorn's.")
    ] = "native",
    drain_delay: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="How long only /health says that it stops, before clients are told.",
        ),
    ] = 0.0,
    trusted_proxies: ProxiesOption = None,
    max_header_size: Annotated[
        int, typer.Option(min=1024, metavar="BYTES", help="Of a request's line and headers; beyond it 431.")
    ] = MAX_HEAD,
    workers: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="How many processes; this version has one.")
    ] = 1,
) -> None:
    """Serve the workspace in this folder, as compiled."""
    if workers > 1:
        raise typer.BadParameter(
            "each process would have rooms of its own with the in-memory adapter; rooms that several share "
            "are planned, and not in this version yet: leave it out",
            param_hint="--workers",
        )
    if uds is not None and (host is not None or port is not None):
        raise typer.BadParameter(
            "stands in the place of --host and --port: leave those out", param_hint="--uds"
        )
    files = _files(ssl_certfile, ssl_keyfile, ssl_password_file)
    host = host or "127.0.0.1"
    options = _Options(
        Path.cwd(),
        app,
        log_level,
        files,
        uds,
        host,
        transport,
        log_format,
        drain_delay,
        named_proxies(trusted_proxies),
        max_header_size,
    )
    endpoint = Endpoint(host, 8000 if port is None else port, uds)
    try:
        if reload:
            _serve_reloading(options, endpoint)
        else:
            _serve_compiled(options, endpoint)
    except BootError as error:
        show_problems(error.problems, options.root)
        raise typer.Exit(1) from None
    except (ServerError, TLSError, ArtifactError) as error:
        fail(str(error))


def _files(chain: Path | None, key: Path | None, password: Path | None) -> Files | None:
    if chain is not None:
        return Files(chain, key, password)
    for name, file in (("--ssl-keyfile", key), ("--ssl-password-file", password)):
        if file is not None:
            raise typer.BadParameter("needs --ssl-certfile", param_hint=name)
    return None


def _serve_compiled(options: _Options, endpoint: Endpoint) -> None:
    booted = boot(options.root, options.app)
    if environment() == "production":
        _refuse_stale(options.root, booted.artifact)
    certificate = options.certificate()
    with listening(endpoint) as sockets:
        _serve(options, booted, sockets, certificate)


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


def _serve(
    options: _Options,
    booted: Booted,
    sockets: Sequence[socket.socket],
    certificate: Certificate | None,
    *,
    hand_over: bool = False,
) -> None:
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
        on_started=partial(_announce, options, booted, sockets),
    )


def _serve_reloading(options: _Options, endpoint: Endpoint) -> None:
    os.environ["AQ_ENV"] = "development"
    options.certificate()  # its problems are told at once
    config = configuration(
        "aquilia.server:create_application",
        options.log_level,
        transport=options.transport,
        log_format=options.log_format,
        factory=True,
        reload=True,
        reload_dirs=[str(options.root)],
    )
    with LocalServers(), listening(endpoint) as sockets:
        Reloader(config, partial(_serve_reloaded, options), sockets, options.root).run()


def _serve_reloaded(options: _Options, sockets: list[socket.socket] | None) -> None:
    """Runs in the child process, and ends with its parent, whatever happened to that."""
    threading.Thread(target=_end_after_parent, daemon=True).start()
    try:
        booted = boot(options.root, options.app)
        _serve(options, booted, sockets or (), options.certificate(), hand_over=True)
    except BootError as error:
        show_problems(error.problems, options.root)
        stderr.print("the server starts when they are mended")
        sys.exit(1)
    except (ServerError, TLSError) as error:
        show_error(str(error), options.root)
        sys.exit(1)  # not typer's: this is a process of its own


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _announce(options: _Options, booted: Booted, sockets: Sequence[socket.socket]) -> None:
    stdout.print(Text.assemble(("Aquilia", "bold"), f" {__version__}, {environment()}; Ctrl-C stops it"))
    secure = "s" if options.tls else ""
    if options.uds is not None:
        address = ""
        stdout.print(Text(f"  unix:{options.uds}", "bold cyan"))
    else:
        address = _address(options.host, sockets[0].getsockname()[1])
        stdout.print(Text(f"  http{secure}://{address}", "bold cyan"))
    table = columns("", "")
    for namespace in booted.artifact.namespaces:
        controller = Text(namespace.controller.partition(":")[2], "dim")
        path = namespace.path if options.uds else f"ws{secure}://{address}{namespace.path}"
        table.add_row(f"  {path}", controller)
    metrics = booted.application.sockets.plan.node.metrics
    if metrics is not None and metrics != "collect":
        table.add_row(f"  {metrics}" if options.uds else f"  http{secure}://{address}{metrics}", "metrics")
    stdout.print(table)


def _address(host: str, port: int) -> str:
    """How a browser on this machine reaches it: "every address" is none that one can go to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
