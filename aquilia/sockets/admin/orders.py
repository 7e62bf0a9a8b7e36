"""What an admin may ask for, and what is answered: the values of `aquilia.sockets.admin.operations`."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

__all__ = [
    "Broadcast",
    "ConnectionRecord",
    "Connections",
    "ConnectionsPage",
    "DrainNode",
    "Kick",
    "LiveNamespace",
    "Namespaces",
    "NamespacesPage",
    "NodeRecord",
    "Nodes",
    "NodesPage",
    "Order",
    "PublishIdentity",
    "PublishRoom",
    "PurgeReport",
    "PurgeRoom",
    "Report",
    "RoomRecord",
    "Rooms",
    "RoomsPage",
]

Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Room = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00]")]
Event = Annotated[str, Meta(min_length=1, max_length=128)]
Limit = Annotated[int, Meta(ge=1, le=1000)]


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for."""


# Asking


class Nodes(Order, frozen=True):
    """Who lives."""


class Namespaces(Order, frozen=True):
    """The namespaces that are open on any node."""

    limit: Limit = 100
    after: Text | None = None
    """`next` of the page before."""


class Rooms(Order, frozen=True):
    """The rooms that anybody is in."""

    namespace: Text | None = None
    pattern: Text | None = None
    """With `*` for any characters."""
    limit: Limit = 100
    after: Text | None = None


class Connections(Order, frozen=True):
    """The connections that fit all that is given."""

    namespace: Text | None = None
    room: Text | None = None
    identity: Text | None = None
    address: Text | None = None
    limit: Limit = 100
    after: Text | None = None


# Acting


class Broadcast(Order, frozen=True, kw_only=True):
    """An event to every connection of a namespace."""

    namespace: Text
    event: Event
    payload: Any = None
    force: bool = False
    """Also an event that its controller does not declare."""


class PublishRoom(Broadcast, frozen=True, kw_only=True):
    """An event to the members of a room."""

    room: Room


class PublishIdentity(Broadcast, frozen=True, kw_only=True):
    """An event to the connections of an identity in a namespace."""

    identity: Text


class Kick(Order, frozen=True):
    """End the connection of this id, or all of an identity, with close code 4409; in one namespace, or in all."""

    connection: Text | None = None
    identity: Text | None = None
    namespace: Text | None = None


class PurgeRoom(Order, frozen=True):
    """Delete what a room remembers, and have all members leave it. Who is away does not come back into it."""

    namespace: Text
    room: Room


class DrainNode(Order, frozen=True):
    """Have a node tell its clients to go elsewhere, and take no more."""

    node: Text


# Answers


class NodeRecord(Struct, frozen=True, kw_only=True):
    """A node, as it told last."""

    id: str
    host: str
    pid: int
    started: float
    """Seconds since 1970."""
    phase: str
    """`live` or `leaving`."""
    connections: int
    fingerprint: str


class LiveNamespace(Struct, frozen=True, kw_only=True):
    """A namespace that is open."""

    namespace: str
    pattern: str
    connections: int
    nodes: int
    """On so many it is open."""


class RoomRecord(Struct, frozen=True, kw_only=True):
    """A room that somebody is in."""

    namespace: str
    room: str
    members: int


class ConnectionRecord(Struct, frozen=True, kw_only=True):
    """A connection."""

    id: str
    namespace: str
    node: str
    identity: str | None
    address: str
    since: str
    """ISO 8601, UTC."""
    rooms: int
    messages_received: int
    messages_sent: int


class NodesPage(Struct, frozen=True, kw_only=True):
    """All nodes."""

    items: list[NodeRecord]
    broker: str = "connected"
    """To the node that was asked; or `unreachable` or `refused`: then the others are as it knew them last."""
    store: str = "connected"
    """Likewise; it may be apart from the broker."""


class NamespacesPage(Struct, frozen=True, kw_only=True):
    """Some of the namespaces, in order."""

    items: list[LiveNamespace]
    next: str | None = None
    """What the page behind this one comes `after`; None: this is the last."""
    silent: list[str] = field(default_factory=list)
    """The nodes that did not answer: what is there is not among the items."""


class RoomsPage(Struct, frozen=True, kw_only=True):
    """Some of the rooms, in order."""

    items: list[RoomRecord]
    next: str | None = None
    silent: list[str] = field(default_factory=list)


class ConnectionsPage(Struct, frozen=True, kw_only=True):
    """Some of the connections, in order."""

    items: list[ConnectionRecord]
    next: str | None = None
    silent: list[str] = field(default_factory=list)


class Report(Struct, frozen=True, kw_only=True):
    """What was really done."""

    connections: int
    """To so many it was delivered; so many were ended, left, or are told to go."""
    nodes: dict[str, int] = field(default_factory=dict)
    """The same by node; each that answered is there."""
    silent: list[str] = field(default_factory=list)
    """The nodes that did not answer: what was done there is not known."""


class PurgeReport(Report, frozen=True, kw_only=True):
    """What was really done to a room."""

    forgotten: int | None
    """So many publications it remembered, and does not any more; None: it has no history."""
