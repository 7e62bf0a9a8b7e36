"""Servers for `local://` that outlive the processes which use them: one process has them, the others ask it.

Where to ask, and a secret to do so, stand in the environment, which children inherit and nobody else sees.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from secrets import token_bytes
from types import TracebackType
from typing import Self

from aquilia.sockets.adapters import LOCAL_HOST
from aquilia.sockets.adapters.local.server import LocalServer
from aquilia.sockets.faults import SocketFault, ws_adapter_unavailable

__all__ = ["LocalServers", "url_of"]

logger = logging.getLogger("aquilia.sockets.local")

WAIT = 5.0
"""Seconds that an answer may still take in the end. What it starts later ends with the process all the same."""


class LocalServers:
    """Starts what its children ask for, at the first time, and stops all of it in the end."""

    def __init__(self) -> None:
        self._secret = token_bytes(32)
        self._servers: dict[tuple[str, bool], LocalServer] = {}
        self._listener = Listener(("127.0.0.1", 0), authkey=self._secret)
        self._answering = threading.Thread(target=self._answer, name="aquilia local servers", daemon=True)
        self._ended = False

    def __enter__(self) -> Self:
        os.environ[LOCAL_HOST] = f"{self._listener.address[1]}:{self._secret.hex()}"
        self._answering.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del os.environ[LOCAL_HOST]
        self._ended = True
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.address).close()  # it waits for somebody
        self._answering.join(WAIT)
        self._listener.close()
        for server in self._servers.values():
            server.stop()

    def _answer(self) -> None:
        while not self._ended:
            # Whoever fails here is the other side: without the secret, or ended in the middle.
            with (
                contextlib.suppress(OSError, EOFError, AuthenticationError, ValueError),
                self._listener.accept() as asking,
            ):
                folder, sync = json.loads(asking.recv_bytes())
                asking.send_bytes(json.dumps(self._reply(folder, sync)).encode())

    def _reply(self, folder: str, sync: bool) -> tuple[str, str]:
        """An URL, or what went wrong; the other is empty."""
        server = self._servers.get((folder, sync))
        if server is None:
            for known in [each for each in self._servers if each[0] == folder]:  # said otherwise before
                self._servers.pop(known).stop()
            server = LocalServer(Path(folder), sync=sync)
            try:
                server.start()
            except SocketFault as error:
                return "", error.message
            except Exception as error:
                logger.exception("the server of %s does not start", folder)
                return "", f"local://: {error!r}"
            self._servers[folder, sync] = server
        return server.url, ""


def url_of(server: LocalServer) -> str:
    """Where this server is: started by the process that has such servers for us, else here and now. It blocks.

    Raises:
        SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
    """
    address = os.environ.get(LOCAL_HOST)
    if address is None:
        server.start()
        return server.url
    try:
        with _connect(address) as host:
            host.send_bytes(json.dumps([str(server.folder), server.sync]).encode())
            url, problem = json.loads(host.recv_bytes())
    except (OSError, EOFError, AuthenticationError, ValueError) as error:
        raise ws_adapter_unavailable(
            f"local://: the process that {LOCAL_HOST} names does not answer: {error}"
        ) from error
    if problem:
        raise ws_adapter_unavailable(problem)
    return str(url)


def _connect(address: str) -> Connection:
    port, _, secret = address.partition(":")
    return Client(("127.0.0.1", int(port)), authkey=bytes.fromhex(secret))
