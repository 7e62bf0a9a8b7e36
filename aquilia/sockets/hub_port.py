"""The hub port: what a connection and a controller ask of the process they live in.

Promises: `join` has taken effect when it returns: what is published to the room from then on reaches the
connection, and for a v1 client `joined` stands before it. `leave` and the end of a connection take effect at once.
`publish` returns when the broker has the publication; members of one room see publications in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aquilia.clock import Clock
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.history import History, Position
from aquilia.sockets.presence.roster import Kept
from aquilia.sockets.presence.values import PresencePage
from aquilia.sockets.room_answers import RoomAnswers

__all__ = ["HistoryMessage", "HistoryPage", "HubPort", "Member", "Namespace", "Recovery"]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A concrete path, like `/chat/acme`, and what its pattern captured. Services of the scope may ask for it."""

    path: str
    params: Mapping[str, Any] = field(default_factory=dict)


class HistoryMessage(NamedTuple):
    """An event that a room remembers."""

    event: str
    payload: Any
    """As builtins: what was a Struct or a model is a dict, and dates are strings."""
    ts: int
    """Milliseconds since 1970."""
    position: Position


class HistoryPage(NamedTuple):
    """A part of what a room remembers."""

    messages: Sequence[HistoryMessage]
    """In order, the oldest first."""
    head: Position
    """The room's newest entry when this was read."""
    complete: bool
    """Nothing behind the position that was asked for is lost; where it is, there are no messages."""


@dataclass(frozen=True, slots=True)
class Member:
    """A connection in a room."""

    connection: str
    identity: str | None = None


class Recovery(NamedTuple):
    """How a room was joined again: whether nothing behind the client's position is lost, and where its log stands."""

    recovered: bool
    position: Position | None
    """Where the replay starts if recovered, else the head. None: the room keeps no history."""


class Attending(Protocol):
    """Who is in the rooms that have presence."""

    def update(self, conn: Any, name: str, meta: Any) -> None:
        """Give a connection other metadata in a room.

        Raises:
            SocketFault: WS_NOT_SUBSCRIBED, if it is not in the room; WS_MESSAGE_INVALID for metadata that cannot be.
            ValueError: the room has no presence.
        """

    def kept(self, conn: Any) -> Mapping[str, Kept]:
        """The metadata that a connection has set, by rooms: for its session to keep."""

    async def page(self, namespace: str, name: str, limit: int, after: str | None) -> PresencePage:
        """Who is in a room, on all nodes.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: other nodes cannot be asked, or one lives and does not answer.
        """


class HubPort(Protocol):
    """See the head of this module for the promises. `conn` is a `Connection` of this process."""

    @property
    def clock(self) -> Clock:
        """What the time is here."""

    @property
    def audit(self) -> AuditLog:
        """Who is told what touches security."""

    @property
    def attendance(self) -> Attending:
        """Who is in the rooms that have presence."""

    def add(self, conn: Any) -> None:
        """A connection is open to its client: from here on it gets what is published to its namespace."""

    def bind(self, conn: Any, session: str | None) -> None:
        """A connection is to end when the session of this name is revoked, where anybody looks at that."""

    def identify(self, conn: Any, identity: Any) -> None:
        """A connection is about to be of this identity: publications to it shall find the connection."""

    async def join(self, conn: Any, room: str) -> bool:
        """Put a connection into a room. False: it was there already.

        Raises:
            SocketFault: WS_ROOM_FULL, WS_QUOTA_EXCEEDED, WS_CONNECTION_CLOSED, WS_ADAPTER_UNAVAILABLE.
        """

    async def leave(self, conn: Any, room: str) -> bool:
        """Take a connection out of a room. False: it was not there."""

    async def publish(
        self,
        namespace: str,
        event: str,
        payload: Any,
        *,
        room: str | None = None,
        identity: str | None = None,
        exclude: str | None = None,
        history: History | None = None,
    ) -> None:
        """Send an event to the members of a room, to an identity, or to all of a namespace.

        `history` is how much the room keeps. It is the caller's to know: nobody needs to be in the room.
        """

    async def ask(
        self,
        namespace: str,
        room: str,
        event: str,
        payload: Any,
        *,
        timeout: float,
        exclude: str | None = None,
    ) -> RoomAnswers:
        """Send an event to the members of a room on all nodes, and wait for their acks.

        Where a node dies or does not answer in time, it is among the `silent`, and its members are in none of the
        answers. Those of other nodes have a little less than `timeout`, for the way.

        Raises:
            SocketFault: WS_PUBLISH_FAILED, if it cannot be written for one of them here, or for other nodes;
                WS_ADAPTER_UNAVAILABLE, if other nodes cannot be asked. Nobody is asked then.
        """

    async def members(self, namespace: str, room: str) -> Sequence[Member]:
        """Who is in a room, on all nodes. Those of nodes that are dead are in none.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: other nodes cannot be asked, or one lives and does not answer.
        """

    async def read(
        self,
        namespace: str,
        room: str,
        history: History,
        *,
        since: Position | None = None,
        limit: int = 100,
    ) -> HistoryPage:
        """What the log of a room holds that keeps so much history.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE; WS_MESSAGE_INVALID for what is no room's name.
        """

    async def kick(self, namespace: str, connection: str) -> bool:
        """End a connection with 4409, on whatever node it is. Whether it was there.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: it is not here, and not all other nodes can be asked.
        """

    # For sessions that are resumed

    on_taken_over: Callable[[str, Mapping[str, str]], None]
    """Called with namespace, session and owner when another node says that a session has a new owner."""

    def find(self, namespace: str, id: str) -> Any:
        """The connection of this name, welcomed or not; None if it is not in this process."""

    def rename(self, conn: Any, id: str) -> None:
        """A connection that has not been welcomed yet has this name from here on."""

    def forget(self, conn: Any) -> Sequence[str]:
        """Take a connection out of everything, at once; the rooms that it left empty are for `vacate`."""

    async def vacate(self, home: Any, rooms: Sequence[str]) -> None:
        """Give back those of these rooms that are still empty."""

    async def rejoin(self, conn: Any, rooms: Mapping[str, Position | None]) -> dict[str, Recovery]:
        """Put a resumed connection into these rooms again, held back until `replay`.

        A room that does not take it, or whose guards do not, is left out. Whether nothing is missing is judged by
        the room's log.
        """

    async def review(self, conn: Any) -> None:
        """Take a connection out of the rooms whose guards would not let it in now."""

    async def replay(self, conn: Any) -> None:
        """Send what it missed in each room, in order and at its own pace, and make it live there."""

    async def tell_taken_over(self, namespace: str, owners: Mapping[str, str]) -> None:
        """Tell all nodes that have this namespace of the new owners of sessions."""

    # Writing

    def mark_dirty(self, conn: Any) -> None:
        """Frames wait in this connection's outbox: write them before the loop's turn is over."""

    async def keep_pace(self) -> None:
        """More was queued for a connection that is under `spool`: wait while the disk is behind."""

    def weigh(self, conn: Any) -> None:
        """What waits for this connection counts for the process: its transport takes no more, or takes again."""

    def weigh_inbox(self, conn: Any) -> None:
        """What was read from this connection and is not handled has changed, or what its transport holds."""

    def show_out(self, conn: Any) -> None:
        """This connection has its close code, and nothing that it waits for: close it soon."""

    def hold(self) -> None:
        """A group of handlers is about to run: what they send is written together, at `release`."""

    def release(self) -> None:
        """The group has ended: write what is there."""
