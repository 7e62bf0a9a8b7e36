"""The exchange of `hello` and `welcome`, with which every connection of protocol v1 begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from aquilia.auth import expiry
from aquilia.faults import FaultEngine
from aquilia.sockets.answers import close_with, fault_of, internal_error_in_opening
from aquilia.sockets.codecs import Codec
from aquilia.sockets.connection import MESSAGE_OVERHEAD, Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import SocketFault, ws_connection_timeout, ws_handshake_failed
from aquilia.sockets.handshake.authentication import Arrival
from aquilia.sockets.handshake.offered_credentials import Credential, Kind
from aquilia.sockets.history import Position
from aquilia.sockets.hub_port import Recovery
from aquilia.sockets.limits.quotas import Seat
from aquilia.sockets.resume.records import MAX_TOKEN
from aquilia.sockets.resume.sessions import Resumption, Succession
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
        enqueue: Callable[..., None],
        connected: Callable[[Connection], None],
        messages: Messages,
    ) -> None:
        self._has_auth = contract.auth is not None
        self._has_tickets = contract.tickets is not None
        self._where = f"hello of {contract.controller.__qualname__}"
        self._timeout = node.handshake_timeout
        self._heartbeat = node.heartbeat
        self._engine = engine
        self._enqueue = enqueue
        self._connected = connected
        self._messages = messages
        self.resumption: Resumption | None = None
        """What keeps sessions for clients to come back to, if they may."""
        self._max_rooms = contract.settings.max_rooms + 1  # and what is sent to it directly
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
        what = "no hello came" if conn._pump is None else "the answer to hello took too long"
        close_with(conn, ws_connection_timeout(what))

    def take(self, conn: Connection, data: bytes) -> None:
        """What comes before the welcome. The first frame ends the connection, whatever it is but `hello`."""
        if conn._pump is not None:  # hello came, and its token is being looked at: the rest waits for that
            self._enqueue(conn, data, len(data) + MESSAGE_OVERHEAD)
            return
        try:
            asked = _asked(conn._codec, conn._codec.decode(data), max_rooms=self._max_rooms)
            shown = _shown(asked, has_auth=self._has_auth, has_tickets=self._has_tickets)
        except SocketFault as fault:
            close_with(conn, ws_handshake_failed(fault.message))
            return
        arrival = self._arrivals.pop(conn, None)
        if arrival is not None and shown is not None:
            self._enqueue(conn, partial(self._identify, arrival=arrival, asked=asked, shown=shown))
        elif arrival is not None and arrival.verdict is not None:
            self._refuse(conn, arrival.verdict)
        elif self.resumption is not None:
            seat = None if arrival is None else arrival.seat
            self._enqueue(conn, partial(self._enter, asked=asked, seat=seat))
        else:
            self._welcome(conn, asked)

    async def _identify(
        self, conn: Connection, *, arrival: Arrival, asked: dict[str, Any], shown: Credential
    ) -> None:
        """Authenticate by the token or ticket in `hello`."""
        try:
            await arrival.identify(shown)
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(conn, own_error(error, meant=conn._close is not None))
            pass_on(error)
            return
        if conn._close is not None:  # its time was up
            return
        conn._hub.bind(conn, arrival.handshake._bound_to)
        conn.identity = arrival.handshake.identity
        conn.session = arrival.handshake.session
        await self._enter(conn, asked=asked, seat=arrival.seat)

    async def _enter(self, conn: Connection, *, asked: dict[str, Any], seat: Seat | None) -> None:
        """Begin a session, or go on with one; then what has come meanwhile is taken after all."""
        succession = None
        try:
            former = None
            if seat is not None and seat.waits:
                former = await self._replaced(conn, seat, asked)
            if self.resumption is None:
                self._welcome_anew(conn, asked, None)
            elif (succession := await self._taken_up(conn, self.resumption, asked)) is None:
                if seat is not None and former is not None:
                    seat.require()
                token = await self.resumption.open(conn)
                if conn._close is None:
                    self._welcome_anew(conn, asked, token)
            elif seat is not None and former is not None:
                seat.vacate(former)
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(conn, own_error(error, meant=conn._close is not None))
            pass_on(error)
            return
        if conn._close is not None:
            return
        waiting = conn._inbox or ()
        conn._drop_inbox()
        if conn._paused:
            conn._balance_reading()
        conn._cancel_timer()
        self._connected(conn)
        self._take_waiting(conn, waiting)
        if succession is not None:
            await self._replay(conn, succession)

    async def _replaced(self, conn: Connection, seat: Seat, asked: dict[str, Any]) -> Connection | None:
        """The connection whose place this one is to take, since its identity has all that it may have.

        Raises:
            SocketFault: WS_QUOTA_EXCEEDED: there is none.
        """
        former, wanted = None, asked.get("resume")
        if wanted is not None and self.resumption is not None:
            former = await self.resumption.holder(conn, wanted["token"])
        return former if seat.settle(former) else None

    async def _taken_up(
        self, conn: Connection, resumption: Resumption, asked: dict[str, Any]
    ) -> Succession | None:
        """Go on with the session that the client names; None if there is none for it."""
        wanted = asked.get("resume")
        if wanted is None:
            return None
        positions = {name: Position(at["epoch"], at["offset"]) for name, at in wanted["rooms"].items()}
        succession = await resumption.take_up(conn, wanted["token"], positions.get(""))
        if succession is None or conn._close is not None:
            return succession
        self._tell_welcome(conn, resumption.token(conn))
        rooms = succession.record.rooms
        recovered = await conn._hub.rejoin(conn, {name: positions.get(name) for name in rooms})
        await conn._hub.vacate(conn._home, succession.vacated)
        if conn._close is not None:
            return succession
        conn._resumable.entering = ()
        direct = Recovery(succession.direct.recovered, succession.direct.position)
        elsewhere = dict.fromkeys(positions, Recovery(False, None))
        conn._system("resumed", _told({**elsewhere, **recovered, "": direct}))
        for name in sorted((elsewhere.keys() | set(rooms)) - recovered.keys() - {""}):
            conn._system("left", {"room": name})
        if len(recovered) < len(rooms):
            await conn._resumable.save(conn)
        return succession

    async def _replay(self, conn: Connection, succession: Succession) -> None:
        """Send what the client has missed, at its own pace, before any handler runs."""
        try:
            # All at once, since nothing that is sent meanwhile may come before: the log that they are of is small.
            conn._push_all(succession.direct.missed)
            await conn._hub.replay(conn)
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(conn, own_error(error, meant=conn._close is not None))
            pass_on(error)

    def _take_waiting(self, conn: Connection, waiting: Sequence[bytes]) -> None:
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
        self._welcome_anew(conn, asked, None)
        self._connected(conn)

    def _welcome_anew(self, conn: Connection, asked: dict[str, Any], token: str | None) -> None:
        """Welcome who comes anew, even if it wanted to come back."""
        self._tell_welcome(conn, token)
        wanted = asked.get("resume")
        if wanted is not None:
            conn._system("resumed", _told(dict.fromkeys(wanted["rooms"], Recovery(False, None))))

    def _tell_welcome(self, conn: Connection, token: str | None) -> None:
        welcome: dict[str, Any] = {"connection": conn.id, "heartbeat": self._heartbeat}
        if token is not None:
            welcome["resume"] = token
        moment = expiry(conn.identity)
        if moment is not None:
            welcome["expires"] = int(moment * 1000)
        conn._system("welcome", welcome)


def _asked(codec: Codec, envelope: MessageEnvelope, *, max_rooms: int) -> dict[str, Any]:
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
    if asked.get("resume") is not None:
        asked["resume"] = _wanted(asked["resume"], max_rooms)
    return asked


def _shown(asked: dict[str, Any], *, has_auth: bool, has_tickets: bool) -> Credential | None:
    """The token or ticket in `hello`.

    Raises:
        SocketFault: for both, for what is none, and where there are none of its kind.
    """
    token, ticket = asked.get("token"), asked.get("ticket")
    if token is not None and not has_auth:
        raise ws_handshake_failed("this server checks no tokens: it has no AuthManager")
    if ticket is not None and not has_tickets:
        raise ws_handshake_failed("this server takes no tickets")
    if token is not None and ticket is not None:
        raise ws_handshake_failed("hello has a token or a ticket, not both")
    kind: Kind = "token" if ticket is None else "ticket"
    text = token if ticket is None else ticket
    if not isinstance(text, str | None) or text == "":
        raise ws_handshake_failed(f"the {kind} in hello is a string")
    return None if text is None else Credential(kind, text)


def _wanted(resume: Any, max_rooms: int) -> dict[str, Any]:
    """What a client wants to resume: its token, and its positions."""
    if not isinstance(resume, dict):
        raise ws_handshake_failed("resume in hello is a map of token and rooms")
    token, rooms = resume.get("token"), resume.get("rooms")
    if not isinstance(token, str) or not 1 <= len(token) <= MAX_TOKEN:
        raise ws_handshake_failed("the token in resume is the string that a welcome had")
    if rooms is None:
        rooms = {}
    if not isinstance(rooms, dict) or len(rooms) > max_rooms:
        raise ws_handshake_failed(f"rooms in resume is a map of at most {max_rooms} rooms")
    for name, place in rooms.items():
        if not isinstance(name, str) or not isinstance(place, dict) or not _is_position(place):
            raise ws_handshake_failed("each of the rooms in resume has an epoch and an offset")
    return {"token": token, "rooms": rooms}


def _is_position(place: dict[Any, Any]) -> bool:
    epoch, offset = place.get("epoch"), place.get("offset")
    return isinstance(epoch, str) and type(offset) is int and offset >= 0


def _told(recoveries: Mapping[str, Recovery]) -> dict[str, Any]:
    """The payload of `resumed`."""
    rooms: dict[str, Any] = {}
    for room, (recovered, position) in recoveries.items():
        rooms[room] = {"recovered": recovered}
        if position is not None:
            rooms[room] |= {"epoch": position.epoch, "offset": position.offset}
    return {"rooms": rooms}
