"""`aq serve`: run the workspace."""

from __future__ import annotations

import logging.config
import math
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Literal

import typer

from aquilia.aquilary import BootError, Problem
from aquilia.cli.commands.compile import AppOption
from aquilia.cli.console import fail, show_problems
from aquilia.cli.proxies import ProxiesOption, named_proxies
from aquilia.cli.reload import Reloader
from aquilia.cli.serving import Options, Outline, announce, booted_by, serve_by, telling
from aquilia.cli.shared_folder import shared_folder
from aquilia.cli.worker import Line, child
from aquilia.cli.workers import Workers
from aquilia.logs import LogFormat, log_config
from aquilia.server import (
    Booted,
    Endpoint,
    ServerError,
    Transport,
    boot,
    configuration,
    listening,
)
from aquilia.sessions import MemorySessionStore
from aquilia.sockets.adapters import WORKERS
from aquilia.sockets.adapters.local.host import LocalServers
from aquilia.sockets.artifact import ArtifactError
from aquilia.sockets.boot_time import AHEAD, age
from aquilia.sockets.transports.http import MAX_HEAD
from aquilia.tls import Files, TLSError

__all__ = ["serve_command"]

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus-client for the folder in which workers share their figures."""
FAREWELL = 1.0
"""Seconds that the process which has checked the workspace has to end: the workspace may have begun threads."""
PATIENCE = 30.0
"""Seconds that a worker may take to end: more than clients, requests, and most applications do."""
SILENCE = 60.0
"""Seconds for which the event loop of a worker may stand still, by default: more than what is slow by mistake."""
LEAST_SILENCE = 1.0
"""Seconds that this has to be: a garbage collection or a busy machine takes less."""
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


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
        int,
        typer.Option(
            min=1, metavar="NUMBER", help="How many processes serve. SIGHUP replaces them, one by one."
        ),
    ] = 1,
    worker_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="A worker whose event loop stands still for so long is ended and replaced; 0: never.",
            show_default=f"{SILENCE:g}",
        ),
    ] = None,
) -> None:
    """Serve the workspace in this folder, as compiled."""
    _refuse_endless(drain_delay, "--drain-delay")
    silence = _silence(worker_timeout, workers)
    if workers > 1:
        _refuse_workers(reload)
    if uds is not None and (host is not None or port is not None):
        raise typer.BadParameter(
            "stands in the place of --host and --port: leave those out", param_hint="--uds"
        )
    files = _files(ssl_certfile, ssl_keyfile, ssl_password_file)
    host = host or "127.0.0.1"
    options = Options(
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
        elif workers > 1:
            _serve_by_workers(options, endpoint, workers, silence)
        else:
            _serve_compiled(options, endpoint)
    except BootError as error:
        show_problems(error.problems, options.root)
        raise typer.Exit(1) from None
    except (ServerError, TLSError, ArtifactError) as error:
        fail(str(error))


def _refuse_workers(reload: bool) -> None:
    if reload:
        raise typer.BadParameter(
            "--reload serves with one process: leave one of the two out", param_hint="--workers"
        )
    if os.name != "posix":
        raise typer.BadParameter("several need Linux or macOS: leave it out", param_hint="--workers")


def _refuse_endless(seconds: float, option: str) -> None:
    if not math.isfinite(seconds):
        raise typer.BadParameter("a number of seconds is needed", param_hint=option)


def _silence(given: float | None, workers: int) -> float:
    if given is None:
        return SILENCE
    _refuse_endless(given, "--worker-timeout")
    if workers == 1:
        raise typer.BadParameter(
            "is for several workers: add --workers, or leave it out", param_hint="--worker-timeout"
        )
    if 0 < given < LEAST_SILENCE:
        raise typer.BadParameter(
            f"0, or {LEAST_SILENCE:g} and more is needed, not {given:g}", param_hint="--worker-timeout"
        )
    return given


def _files(chain: Path | None, key: Path | None, password: Path | None) -> Files | None:
    if chain is not None:
        return Files(chain, key, password)
    for name, file in (("--ssl-keyfile", key), ("--ssl-password-file", password)):
        if file is not None:
            raise typer.BadParameter("needs --ssl-certfile", param_hint=name)
    return None


def _serve_compiled(options: Options, endpoint: Endpoint) -> None:
    booted = booted_by(options)
    certificate = options.certificate()
    with listening(endpoint) as sockets:
        started = partial(announce, options, Outline.of(booted), sockets)
        serve_by(options, booted, sockets, certificate, on_started=started)


def _serve_reloading(options: Options, endpoint: Endpoint) -> None:
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


def _serve_reloaded(options: Options, sockets: list[socket.socket] | None) -> None:
    """Runs in the child process, and ends with its parent, whatever happened to that."""
    threading.Thread(target=_end_after_parent, daemon=True).start()
    with telling(options, "the server starts when they are mended"):
        booted = boot(options.root, options.app)
        started = partial(announce, options, Outline.of(booted), sockets or ())
        certificate = options.certificate()
        serve_by(options, booted, sockets or (), certificate, on_started=started, hand_over=lambda: True)


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


# Several workers


def _serve_by_workers(options: Options, endpoint: Endpoint, count: int, silence: float) -> None:
    logging.config.dictConfig(dict(log_config(options.log_level, options.log_format)))
    options.certificate()  # its problems are told once
    if not os.isatty(0):  # else the terminal may have been closed
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until workers serve, there is nobody to replace
    os.environ[WORKERS] = str(count)
    with LocalServers():
        outline = _checked(options)
        os.environ[AHEAD] = f"{age():.3f}"
        with _shared_metrics(outline), listening(endpoint) as sockets:
            workers = Workers(
                count,
                partial(_work, options),
                sockets,
                patience=options.drain_delay + PATIENCE,
                silence=silence,
                on_serving=partial(announce, options, outline, sockets, count),
            )
            if not workers.run():
                raise typer.Exit(1)


def _checked(options: Options) -> Outline:
    """Boot it once in a process that then ends: problems are told once, and this process stays small."""
    heard, told = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = child(_check, options, told)
    told.close()
    outline: Outline | None = None
    with heard, suppress(EOFError):
        outline = heard.recv()
    process.join(FAREWELL)
    process.kill()
    if outline is None:
        raise typer.Exit(1)  # which the process has explained
    return outline


def _check(options: Options, told: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with told, telling(options), suppress(BrokenPipeError):  # Ctrl-C has ended who asks
        told.send(Outline.of(_booted_to_share(options)))


def _booted_to_share(options: Options) -> Booted:
    booted = booted_by(options)
    problems = [
        Problem(
            booted.workspace.places[app.manifest.name],
            "sessions: MemorySessionStore is the memory of one process, and each worker would have sessions of its "
            "own: take RedisSessionStore or SQLSessionStore, or --workers 1",
        )
        for app in booted.application.registry.apps
        if app.sessions is not None and isinstance(app.sessions.store, MemorySessionStore)
    ]
    if problems:
        raise BootError(problems)
    return booted


@contextmanager
def _shared_metrics(outline: Outline) -> Iterator[None]:
    """A folder for the figures of all workers, unless there is one."""
    if outline.metrics is None or METRICS_FOLDER in os.environ:
        yield
        return
    with shared_folder() as folder:
        os.environ[METRICS_FOLDER] = str(folder)
        yield


def _work(options: Options, sockets: list[socket.socket], line: Line) -> None:
    """Runs in a worker."""
    hand_over = line.follow()
    with telling(options):
        booted = _booted_to_share(options)
        certificate = options.certificate()
        serve_by(options, booted, sockets, certificate, on_started=line.serving, hand_over=hand_over)
