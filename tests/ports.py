"""Ports for servers in processes of their own, which have to be told one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody else is given meanwhile, and that one server after another may listen on.

    What is bound with SO_REUSEADDR and does not listen leaves the port to others who ask for it by its number
    with SO_REUSEADDR, as servers do; the kernel gives it to none of those who ask for any.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
