"""The server: the workspace in a folder, booted, and served by uvicorn over the native transport.

`aq serve` is the usual way. By hand, without its check of the artifact:

    uvicorn aquilia.server:create_application --factory --ws aquilia.sockets.transports.native:NativeProtocol
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from aquilia.aquilary import BootError, Problem, Registry
from aquilia.asgi import Application
from aquilia.forwarded import TrustedProxies
from aquilia.listening import Endpoint, ServerError, listening
from aquilia.logs import LogFormat, log_config
from aquilia.sockets.artifact import Artifact
from aquilia.sockets.compile import artifact_of
from aquilia.sockets.plan import SocketPlan
from aquilia.sockets.runtime import AquilaSockets
from aquilia.sockets.transports.http import MAX_HEAD, HTTPProtocol
from aquilia.tls import Certificate
from aquilia.workspace import Workspace, environment, load_workspace

__all__ = [
    "Booted",
    "Endpoint",
    "ServerError",
    "Transport",
    "boot",
    "configuration",
    "create_application",
    "listening",
    "serve",
    "websocket_options",
]

logger = logging.getLogger("aquilia.sockets")

GC_THRESHOLD = 20_000
"""Allocations between two collections: messages are many objects and next to no cycles."""
GRACE = 10
"""Seconds that requests and connections may still take when the server stops."""
TLS_GOODBYE = 3.0
"""Seconds that a client has to answer the end of its TLS connection, as it has for the close of a WebSocket."""
ACCEPTED = 16
"""Connections that are accepted in one turn of the event loop. libuv takes one for each handle that listens."""
LAST_REQUEST = 0.3
"""Seconds from when others accept alone, in which who was accepted here before may still say what for."""
FORCED = 0.1
"""Seconds between two looks for a second Ctrl-C."""


def create_application() -> Application:
    """The application of the workspace in the current folder, as `AQ_APP` and `AQ_ENV` say: for any ASGI server.

    Raises:
        BootError: with every problem.
    """
    return boot(Path.cwd(), os.environ.get("AQ_APP") or None).application


# Booting


@dataclass(frozen=True, slots=True)
class Booted:
    """A workspace, which stays open, and its application."""

    workspace: Workspace
    application: Application

    @property
    def artifact(self) -> Artifact:
        """What `aq compile` writes."""
        return artifact_of(self.application.sockets.plan)


def boot(root: Path, app: str | None = None, *, to_run: bool = True) -> Booted:
    """Load the workspace in `root`, or the manifests that `app` names in it, and check all of it.

    Not `to_run`: to look at it, for which the environment needs no secrets.

    Raises:
        BootError: with every problem of manifests, controllers, routes, settings and services; also where the
            code of the workspace wants to end the process.
    """
    try:
        workspace = load_workspace(root, app)
        try:
            return Booted(workspace, _application(workspace, to_run=to_run))
        except BaseException:
            workspace.close()
            raise
    except SystemExit as error:
        where = _place(error, root.resolve())
        raise BootError([Problem(where, f"ends the process while it is imported: {error!r}")]) from error


def _application(workspace: Workspace, *, to_run: bool) -> Application:
    registry = Registry.build(
        workspace.manifests, places=workspace.places, import_module=workspace.import_module
    )
    try:
        return Application(registry, environment=environment(), to_run=to_run)
    except BootError as error:
        raise BootError([_located(problem, workspace) for problem in error.problems]) from error


def _located(problem: Problem, workspace: Workspace) -> Problem:
    """A problem of a manifest, by its file instead of its name."""
    for name, file in workspace.places.items():
        label = f"manifest {name!r}"
        if problem.where == label:
            return Problem(file, problem.message)
        if problem.where.startswith(f"{label}: "):
            return Problem(file, f"{problem.where.removeprefix(f'{label}: ')}: {problem.message}")
    return problem


def _place(error: BaseException, root: Path) -> str:
    """The last line within the workspace that an exception came through."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [f"{file}:{line}" for file, line in frames if file.startswith(f"{root}{os.sep}")]
    return own[-1] if own else str(root)


# Serving


Transport = Literal["native", "asgi"]
"""The WebSocket server: our own, or uvicorn's."""


def _protocols(transport: Transport) -> dict[str, Any]:
    if transport == "native":
        try:
            from aquilia.sockets.transports.native import NativeProtocol
        except ImportError as error:  # there is no wheel of picows for every machine
            logging.getLogger("aquilia").warning(
                "the native transport cannot be used (%s); WebSockets are served by uvicorn's own", error
            )
        else:
            return {"http": HTTPProtocol, "ws": NativeProtocol}
    return {"http": HTTPProtocol, "ws": "websockets-sansio"}


def configuration(
    application: ASGIApp | str,
    log_level: str = "info",
    context: ssl.SSLContext | None = None,
    *,
    transport: Transport = "native",
    log_format: LogFormat = "text",
    **options: Any,
) -> uvicorn.Config:
    """How uvicorn runs here; `options` are further ones of `uvicorn.Config`."""
    if context is not None:
        options["ssl_context_factory"] = lambda config, default: context
    return uvicorn.Config(
        cast(Any, application),
        **_protocols(transport),
        lifespan="on",
        interface="asgi3",
        log_config=dict(log_config(log_level, log_format)),
        server_header=False,
        proxy_headers=False,  # which proxies are trusted is the application's to say
        timeout_graceful_shutdown=GRACE,
        workers=1,
        **options,
    )


def websocket_options(plan: SocketPlan) -> dict[str, Any]:
    """What uvicorn is to know of an application's sockets."""
    sizes = [contract.settings.max_message_size for _, contract in plan.contracts]
    return {
        "ws_max_size": max(sizes, default=0) + 1,  # a message one byte beyond a bound is ours to refuse
        "ws_ping_interval": plan.node.heartbeat,
        "ws_ping_timeout": plan.node.ping_timeout or plan.node.heartbeat,
        "ws_per_message_deflate": False,
    }


def serve(
    application: Application,
    sockets: Sequence[socket.socket],
    *,
    log_level: str = "info",
    certificate: Certificate | None = None,
    transport: Transport = "native",
    log_format: LogFormat = "text",
    drain_delay: float = 0.0,
    trusted_proxies: Sequence[str] | None = None,
    max_header_size: int = MAX_HEAD,
    hand_over: Callable[[], bool] = lambda: False,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Serve on these sockets until SIGINT or SIGTERM, after which clients are told to come back.

    `trusted_proxies` stand in the place of the setting. `max_header_size` is in bytes, of a request's whole head.

    For `drain_delay` seconds before that only the setting `health` says it, and `health` is answered until they have
    left. `hand_over` tells, when it stops, whether others go on serving on the same sockets: then it stops at once to
    accept, and clients may come back at once. `on_started` is called when clients can connect.

    Raises:
        ServerError: the application did not start; the log says why.
    """
    if trusted_proxies is not None:
        application.sockets.proxies = TrustedProxies(trusted_proxies)
    plan = application.sockets.plan
    config = configuration(
        _AccessLog(application),
        log_level,
        certificate.context if certificate is not None else None,
        transport=transport,
        log_format=log_format,
        h11_max_incomplete_event_size=max_header_size,
        **websocket_options(plan),
    )
    if transport == "asgi":
        application.sockets.tell_of_compression("with --transport asgi: nothing is compressed")
    server = _Server(
        config,
        application.sockets,
        on_started,
        certificate=certificate,
        drain_delay=drain_delay,
        hand_over=hand_over,
    )
    with suppress(KeyboardInterrupt), _ending_cleanly():
        try:
            server.run(sockets=list(sockets))
        except SystemExit as error:
            if error.code:
                raise ServerError("the application did not start") from error


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        clients: AquilaSockets,
        on_started: Callable[[], None],
        *,
        certificate: Certificate | None,
        drain_delay: float,
        hand_over: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._following: asyncio.Task[None] | None = None
        self._clients = clients
        self._on_started = on_started
        self._drain_delay = drain_delay
        self._hand_over = hand_over

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        sockets = _multiplied(sockets or [])
        if self._certificate is None:
            await super().startup(sockets=sockets)
        else:
            await super().startup(sockets=[])
            await self._listen_by_tls(self._certificate, sockets)
        gc.collect()
        gc.freeze()  # what the boot made lives as long as the process
        gc.set_threshold(GC_THRESHOLD)
        self._on_started()

    async def _listen_by_tls(self, certificate: Certificate, sockets: Sequence[socket.socket]) -> None:
        """uvicorn gives a handshake the minute, and its end the half of one, that are asyncio's defaults."""
        loop = asyncio.get_running_loop()
        for warning in certificate.warnings:
            logging.getLogger("aquilia.tls").warning("TLS: %s", warning)
        for listener in sockets:
            server = await loop.create_server(
                partial(
                    cast(Any, self.config.http_protocol_class),
                    config=self.config,
                    server_state=self.server_state,
                    app_state=self.lifespan.state,
                ),
                sock=listener,
                ssl=certificate.context,
                ssl_handshake_timeout=self._clients.plan.node.handshake_timeout,
                ssl_shutdown_timeout=TLS_GOODBYE,
                backlog=self.config.backlog,
            )
            self.servers.append(server)
        self._following = loop.create_task(certificate.follow())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._hand_over():
            self._clients.not_ready()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which closes the listeners first, begins when our clients have left."""
        others_serve = self._hand_over()
        if others_serve:
            for server in self.servers:
                server.close()
            await self._unless_forced(asyncio.sleep(LAST_REQUEST))
        else:
            self._clients.not_ready()
            await self._unless_forced(asyncio.sleep(self._drain_delay))
        begun = time.monotonic()
        await self._unless_forced(self._clients.drain(others_serve=others_serve))
        self.config.timeout_graceful_shutdown = max(1, GRACE - round(time.monotonic() - begun))
        await super().shutdown(sockets=sockets)
        if self._following is not None:
            self._following.cancel()

    async def _unless_forced(self, step: Coroutine[Any, Any, None]) -> None:
        """A second Ctrl-C ends it at once."""
        task = asyncio.get_running_loop().create_task(step)
        while not task.done() and not self.force_exit:
            await asyncio.wait([task], timeout=FORCED)
        if not task.done():
            task.cancel()
        elif (error := task.exception()) is not None:
            logging.getLogger("aquilia").error("the clients could not be told to leave", exc_info=error)


def _multiplied(listeners: list[socket.socket]) -> list[socket.socket]:
    """As many handles of each listener as connections are to be accepted in a turn.

    With one for a turn, a busy server would let clients that all come back wait at its door, and do by the single
    connection what costs a turn: a flush to the broker, a read from it.
    """
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        return listeners  # asyncio's own accepts all that wait
    for listener in listeners:
        listener.setblocking(False)  # else `dup` blocks it, for a moment and for all workers that share it
    return [listener.dup() for listener in listeners for _ in range(ACCEPTED)]


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """uvicorn, once it has stopped, raises the signal again that stopped it: then SIGTERM is a success as well."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _AccessLog:
    """Notes WebSocket handshakes, as uvicorn does requests. Paths are without their query: it may hold a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._logger = logging.getLogger("uvicorn.access")

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or not self._logger.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        answered = False

        async def note(message: Message) -> None:
            nonlocal answered
            if not answered:
                answered = True
                status = {"websocket.accept": 101, "websocket.close": 403}.get(message["type"])
                client = scope.get("client")
                told = {
                    "client": f"{client[0]}:{client[1]}" if client else "",
                    "path": quote(scope["path"]),
                    "status": status or message["status"],
                }
                self._logger.info(
                    '%s - "WebSocket %s" %d', *told.values(), extra={"method": "WebSocket", **told}
                )
            await send(message)

        await self._app(scope, receive, note)
