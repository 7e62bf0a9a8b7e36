"""What a client tells its user: messages, and notices of what happens to its connection and its rooms."""

from __future__ import annotations

import enum
from typing import Any, Generic, TypeVar

import msgspec

from aquilia.client.faults import ServerFault

__all__ = [
    "Connected",
    "Disconnected",
    "Gap",
    "GoAway",
    "Joined",
    "Left",
    "Message",
    "Notice",
    "Position",
    "Presence",
    "Recovery",
    "Rejected",
    "Resumed",
    "State",
]

T = TypeVar("T")


class State(enum.StrEnum):
    """Where a client stands. `RECONNECTING` is `CONNECTING` for one that has been connected before."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Position(msgspec.Struct, frozen=True):
    """A place in the log of a room. Offsets rise within one epoch, and may have holes."""

    epoch: str
    offset: int


class Message(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An event from the server. `room` is the one that it came through, `id` is set where it wants an answer."""

    event: str
    payload: T
    room: str | None = None
    id: str | None = None
    meta: dict[str, Any] = {}

    @property
    def offset(self) -> int | None:
        """Its place in the room's log, where the room keeps one."""
        return self.meta.get("offset")

    @property
    def epoch(self) -> str | None:
        """The life of the log that the offset belongs to."""
        return self.meta.get("epoch")

    @property
    def ts(self) -> int | None:
        """When it was published: milliseconds since 1970."""
        return self.meta.get("ts")


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """The server welcomed this client. `heartbeat` in seconds; `expires`: of the identity, seconds since 1970."""

    connection: str
    heartbeat: float
    expires: float | None = None


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """The connection ended, or an attempt failed. `retry_in`: seconds until the next one; None: there is none."""

    code: int
    reason: str
    retry_in: float | None


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The server put this client into a room."""

    room: str
    position: Position | None = None


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """This client is in the room no more. `resumed=False`: a reconnection did not bring it back."""

    room: str
    resumed: bool = True


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What a reconnection made of a room: `recovered` if and only if nothing is missing."""

    recovered: bool
    position: Position | None = None


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer to a client that came back. The room named "" is what was sent to it directly."""

    rooms: dict[str, Recovery]


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Messages are missing at this place. `room` is None where that is not known.

    `cause` is the server's: slow_consumer, history_expired, broker_lost, epoch_changed; or not_recovered, where a
    reconnection could not bring all of a room.
    """

    cause: str
    room: str | None = None
    dropped: int | None = None
    position: Position | None = None


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Who came and went, or just the count in a large room. The first behind `Joined` has all who are there, this
    client included; a count takes the place of all that was known.
    """

    room: str
    joins: dict[str, Any] = {}
    leaves: dict[str, Any] = {}
    count: int | None = None


class GoAway(msgspec.Struct, frozen=True, kw_only=True):
    """The server is about to leave. The client comes back after `reconnect_in` seconds by itself."""

    reason: str
    reconnect_in: float


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """The server refused a message that wanted no ack. `event` is that message's, where it is known."""

    fault: ServerFault
    event: str | None = None


Notice = Connected | Disconnected | Joined | Left | Resumed | Gap | Presence | GoAway | Rejected | State
"""All that `Client.on` takes beside the names of events."""
