"""The exchange of `hello` and `welcome`, with which every connection of protocol v1 begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from aquilia.auth import expiry
from aquilia.faults import FaultEngine
from aquilia.sockets.answers import close_with, fault_of, internal_error_in_opening
from aquilia.sockets.authentication import Arrival
from aquilia.sockets.codecs import Codec
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import SocketFault, ws_connection_timeout, ws_handshake_failed
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import own_error, pass_on

__all__ = ["HelloExchange"]


class Messages(Protocol):
    """What takes a client's messages, as `TransportEvents` has it."""

    def on_message(self, conn: Connection, data: bytes, *, binary: bool) -> None:
        """One message."""


class HelloExchange:
    """Waits for the `hello` of each client of one controller, finds out whose it is, and welcomes it.

    `enqueue` puts into a connection's inbox what is to be awaited in the place of its first handler, and what came
    behind; that goes to `messages` after all when the client is welcome. `connected` is told of each one that is.
    """

    def __init__(
        self,
        contract: SocketContract,
        node: NodeSettings,
        engine: FaultEngine,
        *,
        enqueue: Callable[[Connection, Any], None],
        connected: Callable[[Connection], None],
        messages: Messages,
    ) -> None:
        self._has_auth = contract.auth is not None
        self._where = f"hello of {contract.controller.__qualname__}"
        self._timeout = node.handshake_timeout
        self._heartbeat = node.heartbeat
        self._engine = engine
        self._enqueue = enqueue
        self._connected = connected
        self._messages = messages
        self._arrivals: dict[Connection, Arrival] = {}
        """Clients whose `hello` is to come, and may say who they are."""

    def expect(self, conn: Connection, arrival: Arrival | None) -> None:
        """The upgrade is done: `hello`, and what it takes to answer it, have their time from now on."""
        if arrival is not None:
            self._arrivals[conn] = arrival
        conn._timer = asyncio.get_running_loop().call_later(self._timeout, self._missing, conn)

    def forget(self, conn: Connection) -> None:
        """The connection has ended."""
        self._arrivals.pop(conn, None)

    def _missing(self, conn: Connection) -> None:
        conn._timer = None
        what = "no hello came" if conn._pump is None else "the authentication took too long"
        close_with(conn, ws_connection_timeout(what))

    def take(self, conn: Connection, data: bytes) -> None:
        """What comes before the welcome. The first frame ends the connection, whatever it is but `hello`."""
        if conn._pump is not None:  # hello came, and its token is being looked at: the rest waits for that
            self._enqueue(conn, data)
            return
        try:
            asked = _asked(conn._codec, conn._codec.decode(data), has_auth=self._has_auth)
        except SocketFault as fault:
            close_with(conn, ws_handshake_failed(fault.message))
            return
        arrival = self._arrivals.pop(conn, None)
        if arrival is not None and asked.get("token") is not None:
            self._enqueue(conn, partial(self._identify, arrival=arrival, asked=asked))
        elif arrival is not None and arrival.verdict is not None:
            self._refuse(conn, arrival.verdict)
        else:
            self._welcome(conn, asked)

    async def _identify(self, conn: Connection, *, arrival: Arrival, asked: dict[str, Any]) -> None:
        """Authenticate by the token in `hello`."""
        try:
            await arrival.identify(asked["token"])
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(conn, own_error(error, meant=conn._close is not None))
            pass_on(error)
            return
        if conn._close is not None:  # its time was up
            return
        conn.identity = arrival.handshake.identity
        conn.session = arrival.handshake.session
        waiting, conn._inbox = conn._inbox or (), None
        if conn._paused:
            conn._balance_reading()
        self._welcome(conn, asked)
        for data in waiting:
            if conn._close is not None:
                break
            # It was counted when it came, and is so again.
            conn.messages_received -= 1
            conn.bytes_received -= len(data)
            self._messages.on_message(conn, data, binary=conn._codec.binary)

    def _refuse(self, conn: Connection, error: Exception) -> None:
        close_with(conn, fault_of(self._engine, error, self._where, conn, internal=internal_error_in_opening))

    def _welcome(self, conn: Connection, asked: dict[str, Any]) -> None:
        conn._cancel_timer()
        told: dict[str, Any] = {"connection": conn.id, "heartbeat": self._heartbeat}
        moment = expiry(conn.identity)
        if moment is not None:
            told["expires"] = int(moment * 1000)
        conn._system("welcome", told)
        if asked.get("resume") is not None:
            # Nothing is resumable here: no room was joined again, and the client has to know.
            conn._system("resumed", {"rooms": {}})
        self._connected(conn)


def _asked(codec: Codec, envelope: MessageEnvelope, *, has_auth: bool) -> dict[str, Any]:
    """What the first frame of protocol v1 asks for.

    Raises:
        SocketFault: if it is no `hello`, or asks for what is not there.
    """
    if envelope.type != "control" or envelope.event != "hello":
        raise ws_handshake_failed("the first frame must be the control frame hello")
    asked = codec.plain(envelope.payload)
    if not isinstance(asked, dict | None):
        raise ws_handshake_failed("the payload of hello is a map")
    asked = asked or {}
    token = asked.get("token")
    if token is not None and not has_auth:
        raise ws_handshake_failed("this server checks no tokens: it has no AuthManager")
    if not isinstance(token, str | None) or token == "":
        raise ws_handshake_failed("the token in hello is a string")
    if not isinstance(asked.get("resume"), dict | None):
        raise ws_handshake_failed("resume in hello is a map of token and rooms")
    return asked
