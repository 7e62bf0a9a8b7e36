"""Where a server listens: on the addresses of a host, or on a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Endpoint", "ServerError", "listening"]


class ServerError(Exception):
    """The server cannot start; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: a host and port (0: any free one), or a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None

    def __str__(self) -> str:
        if self.uds is not None:
            return f"unix:{self.uds}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@contextmanager
def listening(endpoint: Endpoint) -> Iterator[list[socket.socket]]:
    """Bind the endpoint, a socket for each address of the host, and give it back in the end.

    Raises:
        ServerError: it is taken, or cannot be had.
    """
    try:
        sockets = [_unix_socket(endpoint.uds)] if endpoint.uds is not None else _internet_sockets(endpoint)
    except OSError as error:
        raise ServerError(_refusal(endpoint, error)) from error
    try:
        yield sockets
    finally:
        for listener in sockets:
            listener.close()
        if endpoint.uds is not None:
            endpoint.uds.unlink(missing_ok=True)


def _internet_sockets(endpoint: Endpoint) -> list[socket.socket]:
    bound: list[socket.socket] = []
    refusal: OSError | None = None
    port = endpoint.port
    addresses = socket.getaddrinfo(
        endpoint.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let a second server take the port over
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
        except OSError as error:
            listener.close()
            refusal = error
            if error.errno == errno.EADDRNOTAVAIL:  # "localhost" may have an address that the machine lacks
                continue
            break
        bound.append(listener)
        port = listener.getsockname()[1]
    if refusal is not None and (not bound or refusal.errno != errno.EADDRNOTAVAIL):
        for listener in bound:
            listener.close()
        raise refusal
    return bound


def _unix_socket(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with closing(socket.socket(socket.AF_UNIX)) as probe, suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        path.unlink()  # left behind by a server that was killed
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    path.chmod(0o666)  # who may connect is for its folder to say: the proxy is mostly another user
    return listener


def _refusal(endpoint: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = "another --uds" if endpoint.uds else "another --port, such as --port 0 for any free one"
        return f"{endpoint} is taken by another process: end it, or choose {other}"
    if error.errno == errno.EACCES:
        return f"{endpoint} needs rights that this user does not have"
    return f"cannot listen on {endpoint}: {error.strerror or error}"
