"""nats-py's client, which asks for TLS before it says who it is, and ends in peace.

Imports nats-py: import this where it is used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import Client
from nats.errors import ConnectionClosedError

from aquilia.sockets.adapters.nats.parser import QuickParser

__all__ = ["DemandingClient", "Ear", "NoTLSError"]

logger = logging.getLogger("aquilia.sockets.nats")

SOON = 1 << 16
"""Bytes that may wait in the socket's own buffer when more is written to it."""


class Ear:
    """In the place of nats-py's subscription, and of its future: it gets each message at once, in the wire's order.

    A callback would have a task and a bounded queue for each subject, which loses what does not fit, and the order
    between the subjects. Here nothing is read from the socket before what came earlier has been handed over.
    """

    __slots__ = ("_receive", "_received")

    _max_msgs = 0
    _jsi = _wait_for_msgs_task = _message_iterator = _pending_next_msgs_calls = None

    def __init__(self, receive: Callable[[Any], None]) -> None:
        self._receive = receive
        self._received = 0

    @property
    def _future(self) -> Ear:
        return self

    def cancelled(self) -> bool:
        """See `asyncio.Future`."""
        return False

    def set_result(self, message: Any) -> None:
        """See `asyncio.Future`."""
        try:
            self._receive(message)
        except Exception:  # it would end the reading
            logger.exception("a message from NATS could not be handled")


class NoTLSError(Exception):
    """The server has no TLS, and it was demanded."""


class DemandingClient(Client):
    """Where `tls` is among its options, it says nothing to a server without TLS.

    nats-py itself takes the server's word for whether TLS is used, which whoever sits in between can change, and then
    sends the login in plain text.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ps = QuickParser(self)

    @property
    def heard(self) -> int:
        """How often anything has come from the server."""
        reader: Any = self._ps
        return int(reader.reads)

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

    def _connect_command(self) -> bytes:
        """The first words behind TLS."""
        transport: Any = self._transport
        stream = transport._io_writer.transport
        protocol = stream.get_protocol()  # none if it has ended
        if protocol is not None and stream.get_extra_info("ssl_object") is not None:
            # As asyncio's own start_tls does; else it warns at each end of the stream that it is ignored.
            protocol._over_ssl = True
        return super()._connect_command()

    # nats-py's publish wakes a task for each write, and takes several coroutines for each message; its subscriptions
    # have four kilobytes each.

    def listen(self, subject: str, receive: Callable[[Any], None]) -> int:
        """Subscribe; the number of that. It is said by `write_now`, as all that follows here."""
        self._sid += 1
        self._say(b"SUB %b  %d\r\n" % (subject.encode(), self._sid))
        subscriptions: Any = self._subs
        subscriptions[self._sid] = Ear(receive)
        return self._sid

    def unlisten(self, number: int) -> None:
        """The opposite."""
        if self._subs.pop(number, None) is not None and not self.is_closed:
            self._say(b"UNSUB %d\r\n" % number)

    def say(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish. Headers are not checked."""
        if headers is None:
            self._say(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(data), data))
        else:
            lines = "".join([f"{key}: {value}\r\n" for key, value in headers.items()])
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            sizes = f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n".encode()
            self._say(b"%b%b%b\r\n" % (sizes, head, data))

    def _say(self, command: bytes) -> None:
        if self.is_closed:
            raise ConnectionClosedError
        self._pending.append(command)
        self._pending_data_size += len(command)

    def write_now(self) -> None:
        """Write all that was said; where the server does not keep pace, nats-py does, and waits for it."""
        if not self._pending or not self.is_connected:
            return
        transport: Any = self._transport
        stream = transport._io_writer.transport
        if stream.is_closing():  # which is noticed in a moment; on uvloop, writing would raise
            return
        if stream.get_write_buffer_size() < SOON:
            said, self._pending, self._pending_data_size = self._pending, [], 0
            transport.write(b"".join(said))
        elif self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
