"""nats-py's client, which asks for TLS before it says who it is, and ends in peace.

Imports nats-py: import this where it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.errors import ConnectionClosedError

from aquilia.sockets.adapters.nats_parser import QuickParser

__all__ = ["DemandingClient", "NoTLSError"]

SOON = 1 << 16
"""Bytes that may wait in the socket's own buffer when more is written to it."""


class NoTLSError(Exception):
    """The server has no TLS, and it was demanded."""


class DemandingClient(Client):
    """Where `tls` is among its options, it says nothing to a server without TLS.

    nats-py itself takes the server's word for whether TLS is used, which whoever sits in between can change, and then
    sends the login in plain text.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and "tls" in self.options:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoTLSError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_op_err(self, e: Exception) -> None:
        """The stream has failed. What still waits goes nowhere: on uvloop its own end would raise at that."""
        self._pending, self._pending_data_size = [], 0
        await super()._process_op_err(e)

    def __init__(self) -> None:
        super().__init__()
        self._ps = QuickParser(self)

    def _connect_command(self) -> bytes:
        """The first words behind TLS."""
        transport: Any = self._transport
        stream = transport._io_writer.transport
        protocol = stream.get_protocol()  # none if it has ended
        if protocol is not None and stream.get_extra_info("ssl_object") is not None:
            # As asyncio's own start_tls does; else it warns at each end of the stream that it is ignored.
            protocol._over_ssl = True
        return super()._connect_command()

    # nats-py's publish wakes a task for each write, and takes several coroutines for each message.

    def say(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish, in the order of all that is said; it is written by `write_now`. Headers are not checked."""
        if self.is_closed:
            raise ConnectionClosedError
        if headers is None:
            command = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data)
        else:
            lines = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            sizes = f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n".encode()
            command = b"%b%b%b\r\n" % (sizes, head, data)
        self._pending.append(command)
        self._pending_data_size += len(command)

    def write_now(self) -> None:
        """Write all that was said; where the server does not keep pace, nats-py does, and waits for it."""
        if not self._pending or not self.is_connected:
            return
        transport: Any = self._transport
        if transport._io_writer.transport.get_write_buffer_size() < SOON:
            said, self._pending, self._pending_data_size = self._pending, [], 0
            transport.write(b"".join(said))
        elif self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
