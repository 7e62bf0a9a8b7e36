"""A real server on a real port, in a thread: for the clients of an application's own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from aquilia.asgi import Application
from aquilia.server import websocket_options
from aquilia.sockets.runtime import AquilaSockets
from aquilia.sockets.transports.http import HTTPProtocol
from aquilia.sockets.transports.native import NativeProtocol

__all__ = ["live_server"]

START = 10.0
"""Seconds that the server may take to start."""
GRACE = 3
"""Seconds that requests and connections may take to end."""
STOP = 20.0
"""Seconds that the server may take to stop, with what its application has to end."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answered = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.answered.set()

    def serve_on(self, listener: socket.socket) -> None:
        try:
            with contextlib.suppress(SystemExit):  # uvicorn's way to say that the application does not start
                self.run([listener])
        finally:
            self.answered.set()


@contextlib.contextmanager
def live_server(app: ASGIApp) -> Iterator[str]:
    """Serve an application over the native transport, on a free port of 127.0.0.1; the base URL is what it yields.

        with live_server(AquilaSockets.from_controllers([ChatSocket])) as url:
            assert url == "http://127.0.0.1:49152"  # ws://127.0.0.1:49152/chat/x connects

    It runs in a thread with a loop of its own, so that clients may block or await. Its log goes where logs go.

    Raises:
        RuntimeError: the application did not start, or does not stop.
        TypeError: for what is no application.
    """
    if isinstance(app, type) or not callable(app):
        raise TypeError(f"live_server takes an ASGI application, such as AquilaSockets, not {app!r}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http=HTTPProtocol,
                ws=NativeProtocol,
                log_config=None,
                timeout_graceful_shutdown=GRACE,
                **_options(app),
            )
        )
        thread = threading.Thread(target=server.serve_on, args=(listener,), name="live_server", daemon=True)
        thread.start()
        try:
            if not server.answered.wait(START) or not server.started:
                raise RuntimeError("the application did not start: the log says why")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            _stop(server, thread)


def _options(app: ASGIApp) -> dict[str, Any]:
    """What `aq serve` sets for an application of ours."""
    sockets = app.sockets if isinstance(app, Application) else app
    if not isinstance(sockets, AquilaSockets):
        return {}
    return {"proxy_headers": False, **websocket_options(sockets.plan)}


def _stop(server: _Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(STOP)
    if thread.is_alive():
        server.force_exit = True
        raise RuntimeError("the application does not stop: what holds its loop?")
