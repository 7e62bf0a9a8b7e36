"""The socket under a wire, asked without a duplicate of it, as uvloop's own stand-in makes one for each question."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Address", "ends", "set_receive_buffer"]

Address = tuple[str, int | None]
"""Host and port, or the path of a Unix socket and None."""
T = TypeVar("T")


def ends(wire: asyncio.BaseTransport) -> tuple[tuple[str, int] | None, Address | None]:
    """The addresses of client and server, as ASGI has them; None where there is none."""
    try:
        client, server = _borrowed(wire, lambda borrowed: (borrowed.getpeername(), borrowed.getsockname()))
    except OSError:  # the client has gone
        return None, None
    return _address(client), (server, None) if server and isinstance(server, str) else _address(server)


def set_receive_buffer(wire: asyncio.BaseTransport, size: int) -> None:
    """How many bytes the kernel is to keep for it.

    Raises:
        OSError: the wire is gone.
    """
    _borrowed(wire, lambda borrowed: borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size))


def _borrowed(wire: asyncio.BaseTransport, use: Callable[[socket.socket], T]) -> T:
    known = wire.get_extra_info("socket")
    if known is None:
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    if known.fileno() < 0:  # there is none any more; or it has none, and answers by itself
        return use(known)
    borrowed = socket.socket(known.family, known.type, known.proto, fileno=known.fileno())
    try:
        return use(borrowed)
    finally:
        borrowed.detach()


def _address(info: Any) -> tuple[str, int] | None:
    return (str(info[0]), int(info[1])) if isinstance(info, tuple) and len(info) >= 2 else None
