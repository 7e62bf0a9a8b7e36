"""The base of socket controllers: what an application's class can do in its namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, overload

from aquilia.auth import Identity
from aquilia.controller import Controller
from aquilia.sessions import Session
from aquilia.sockets.emits import Emits, emitted
from aquilia.sockets.history import Histories, Position
from aquilia.sockets.hub_port import HistoryPage, HubPort, Member
from aquilia.sockets.limits.buckets import require_timeout
from aquilia.sockets.presence.values import Presence, PresencePage
from aquilia.sockets.revocation import Revocations
from aquilia.sockets.room_answers import RoomAnswers

__all__ = ["SocketController"]

Payload = TypeVar("Payload")

NOWHERE = Position("", 0)
"""A position that no log has."""


class SocketController(Controller):
    """Extend this, decorate it with `@Socket(path)`, and its methods with `@Event` and the others.

    One instance lives per namespace and process: it is built, with its constructor's dependencies, when the first
    connection opens the namespace, and dropped a while after the last has gone. `namespace` and `path_params` are
    set before the constructor runs, so background work of an instance publishes to its own namespace.
    """

    namespace: str
    """The concrete path, like `/chat/acme`."""
    path_params: Mapping[str, Any]
    """What the path's pattern captured."""

    _hub: HubPort
    _revocations: Revocations
    _emits: Mapping[str, Emits[Any]] = MappingProxyType({})
    _histories = Histories()
    _presence: Presence | None = None

    @overload
    async def publish_room(
        self, room: str, event: str, payload: Any = None, *, exclude: Any = None
    ) -> None: ...
    @overload
    async def publish_room(
        self, room: str, event: Emits[Payload], payload: Payload, *, exclude: Any = None
    ) -> None: ...
    async def publish_room(
        self, room: str, event: str | Emits[Any], payload: Any = None, *, exclude: Any = None
    ) -> None:
        """Send an event to everyone in a room of this namespace, but the connection `exclude` (or its id).

        Raises:
            SocketFault: WS_PUBLISH_FAILED, WS_ADAPTER_UNAVAILABLE.
        """
        name, value = self._emitted(event, payload)
        history = self._histories.of(room)
        await self._hub.publish(
            self.namespace, name, value, room=room, exclude=_connection_id(exclude), history=history
        )

    @overload
    async def broadcast(self, event: str, payload: Any = None, *, exclude: Any = None) -> None: ...
    @overload
    async def broadcast(self, event: Emits[Payload], payload: Payload, *, exclude: Any = None) -> None: ...
    async def broadcast(self, event: str | Emits[Any], payload: Any = None, *, exclude: Any = None) -> None:
        """Send an event to every connection of this namespace."""
        name, value = self._emitted(event, payload)
        await self._hub.publish(self.namespace, name, value, exclude=_connection_id(exclude))

    @overload
    async def publish_identity(self, id: str, event: str, payload: Any = None) -> None: ...
    @overload
    async def publish_identity(self, id: str, event: Emits[Payload], payload: Payload) -> None: ...
    async def publish_identity(self, id: str, event: str | Emits[Any], payload: Any = None) -> None:
        """Send an event to every connection of one identity in this namespace."""
        name, value = self._emitted(event, payload)
        await self._hub.publish(self.namespace, name, value, identity=id)

    @overload
    async def request_room(
        self, room: str, event: str, payload: Any = None, *, timeout: float = 10.0, exclude: Any = None
    ) -> RoomAnswers: ...
    @overload
    async def request_room(
        self,
        room: str,
        event: Emits[Payload],
        payload: Payload,
        *,
        timeout: float = 10.0,
        exclude: Any = None,
    ) -> RoomAnswers: ...
    async def request_room(
        self,
        room: str,
        event: str | Emits[Any],
        payload: Any = None,
        *,
        timeout: float = 10.0,
        exclude: Any = None,
    ) -> RoomAnswers:
        """Send an event that each member of a room must ack, but the connection `exclude` (or its id).

        Those are asked that are in the room now, on all nodes. Returns when all have answered or left, at the latest
        after `timeout` seconds; who has not answered by then is `missing`, which is no error. Nodes that died or did
        not answer are `silent`.

        Raises:
            SocketFault: WS_PUBLISH_FAILED, or WS_ADAPTER_UNAVAILABLE where there are other nodes and the broker is
                away: before anybody is asked.
            ValueError: for a timeout that is not a number.
        """
        require_timeout(timeout)
        name, value = self._emitted(event, payload)
        asked_but = _connection_id(exclude)
        return await self._hub.ask(self.namespace, room, name, value, timeout=timeout, exclude=asked_but)

    async def room_members(self, room: str) -> Sequence[Member]:
        """The connections in a room of this namespace, on all nodes.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: the broker is away, or a node does not answer.
        """
        return await self._hub.members(self.namespace, room)

    async def presence(self, room: str, *, limit: int = 1000, after: str | None = None) -> PresencePage:
        """Who is in a room of this namespace, on all nodes: the first `limit` by their ids, or those behind `after`.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: the broker is away, or a node does not answer.
            ValueError: if the room has no presence, or for a limit below 1.
            TypeError: for an `after` that is no string, or a limit that is no whole number.
        """
        if type(limit) is not int or not isinstance(after, str | None):
            raise TypeError(
                f"limit and after: a whole number and a string are needed, not {limit!r}, {after!r}"
            )
        if limit < 1:
            raise ValueError(f"limit: at least 1 is needed, not {limit!r}")
        if self._presence is None or not isinstance(room, str) or not self._presence.has(room):
            raise ValueError(f"the room {room!r} has no presence: declare it by @Socket(…, presence=…)")
        return await self._hub.attendance.page(self.namespace, room, limit, after)

    async def history(self, room: str, *, since: Position | None = None, limit: int = 100) -> HistoryPage:
        """What a room of this namespace remembers: the first `limit` messages behind `since`, or the newest `limit`.

        Not complete, and without messages, is what could leave something out: a position of an earlier life of the
        room, one from the future, or one behind which the history's bounds have let go of something.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
            ValueError: if the room keeps no history, or for a limit below 1.
            TypeError: for what is no position, or a limit that is no whole number.
        """
        if since is not None and (
            not isinstance(since, Position)
            or not isinstance(since.epoch, str)
            or type(since.offset) is not int
        ):
            raise TypeError(f"since: a Position(epoch, offset) of a string and a whole number, not {since!r}")
        if type(limit) is not int:
            raise TypeError(f"limit: a whole number is needed, not {limit!r}")
        if limit < 1:
            raise ValueError(f"limit: at least 1 is needed, not {limit!r}")
        history = self._histories.of(room)
        if history is None:
            raise ValueError(f"the room {room!r} keeps no history: declare it by @Socket(…, history=…)")
        if since is not None and since.offset < 0:
            since = NOWHERE
        return await self._hub.read(self.namespace, room, history, since=since, limit=limit)

    async def kick(self, connection_id: str) -> bool:
        """End a connection of this namespace with close code 4409, on whatever node. Whether it was there.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: it is not on this node, and not all others can be asked.
        """
        return await self._hub.kick(self.namespace, connection_id)

    async def revoke(
        self,
        *,
        token_id: str | Identity | None = None,
        identity: str | Identity | None = None,
        session: str | Session | None = None,
        until: float | None = None,
    ) -> None:
        """Take back the access of a token, an identity or a session, on every node: see `Revocations.revoke`."""
        await self._revocations.revoke(token_id=token_id, identity=identity, session=session, until=until)

    def _emitted(self, event: str | Emits[Any], payload: Any) -> tuple[str, Any]:
        return emitted(event, payload, self._emits)


def _connection_id(exclude: Any) -> str | None:
    return exclude if exclude is None or isinstance(exclude, str) else exclude.id
