"""The two ports of an adapter: `Broker` carries publications between nodes, `Store` keeps small shared state.

A node is one process. Its hub subscribes to a room while it has a local member of it, and gets every publication
for that room by the one callback, its own ones included: nobody is served by a short cut.

What a broker promises:

- Delivery: in plain rooms a publication reaches every node that is subscribed when it is published at most once;
  while the broker is up and the node keeps pace, exactly once.
- Order: what one node publishes to one namespace arrives in the order of its `publish` calls. An adapter that keeps
  it for each room alone says so; and keeps it in namespaces that begin with "\\0", where nodes speak to each other.
- `subscribe` has taken effect when it returns: what is published afterwards, anywhere, arrives.
- While the broker cannot be reached, `connected` is false, and stays so until `on_lost` has been called: nothing that
  comes by the new way is delivered before that. In that time the hub does not call `publish` for what goes to a
  plain room, to a namespace or to an identity: it delivers that at once to its own members, and nobody else ever gets
  it. So a broker delivers nothing of that, and nothing comes twice. At `on_lost` the hub tells the members of plain
  rooms that something may be missing: behind all that came by the old way, before all that comes by the new.
- A publication that was on its way when the way broke is not repeated by anybody: `publish` fails, and it may have
  arrived, or arrive later than what was published behind it.
- The hub never calls `subscribe` and `unsubscribe` for one room concurrently; all else may be concurrent.
- `publish` returns when the broker has the publication; it raises `WS_ADAPTER_UNAVAILABLE` or
  `WS_PUBLISH_FAILED` when it has not.

A broker that no other process can reach may say so by an attribute `alone`, which is True: then its node does not
look for others. One that cannot be reached may say why by an attribute `trouble`: `unreachable`, or `refused`, where
somebody has to change a login, a certificate or a version; then its log says which. It is None otherwise. An adapter
that has no store says so by an attribute `has_store`, which is False; its `store` is then a `NoStore` of
`adapters.apart`.

A room with history is a log. Of it, a broker promises more:

- `publish` stores and numbers atomically, once for each publication id: a repeat is stored no second time, is
  delivered no second time, and has the position of the first, for as long as the log holds it.
- Offsets increase strictly within an epoch. A log that could have lost its head (it was deleted, or its storage
  was) goes on under a new epoch; a restart of the broker alone is none.
- Every subscribed node gets the publications in the log's order, each with its `position` and `previous`. The
  hub finds by these what it missed, reads that from the log, and drops what comes twice: so delivery may have holes
  and repeats while a broker is lost and found again, and the log has neither.
- What has been acknowledged to its publisher is in the log until the history's bounds let go of it, oldest first, or
  `forget` of all that is there. It is then as if the bounds had done so: nobody reads any of it; who had not had all
  is told by a page that is not complete; what is published behind it follows without a hole, and is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from aquilia.sockets.history import History, Position

__all__ = ["Adapter", "Broker", "Deliver", "Page", "Publication", "Store"]


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way to many connections of a namespace.

    Who gets it: the members of `room`; or every connection of the namespace where `room` is None; of these
    only the ones of `identity`, if given; never the connection named by `exclude`.
    """

    id: str
    namespace: str
    event: str
    payload: Any
    ts: int
    """Milliseconds since 1970."""
    room: str | None = None
    identity: str | None = None
    exclude: str | None = None
    position: Position | None = None
    """Where it stands in its room's log. The broker says so; None in a plain room."""
    previous: int | None = None
    """The offset of the entry before it, 0 if there is none in the log (any more); None where that is not known."""


Deliver = Callable[[Publication], None]


class Page(NamedTuple):
    """A part of a log."""

    publications: Sequence[Publication]
    """In order, each with its `position`."""
    head: Position
    """The log's newest entry when this was read; a place before all that it will have, while it has had none."""
    complete: bool
    """Nothing behind the position that was asked for is lost. Where it is not, there are no publications."""


class Broker(Protocol):
    """See the head of this module for the promises."""

    on_lost: Callable[[], None] | None
    """Set before `start`; called on the loop's thread when the way from the broker was broken and is there again:
    what was delivered may have holes."""

    on_foreign: Callable[[], None] | None
    """Set before `start`; called for each thing that came in place of a publication and is none: it is ignored."""

    @property
    def connected(self) -> bool:
        """Whether it can be reached now, as far as is known, and `on_lost` has been called for the last loss.

        Asked between `start` and `stop`, before each publication into a plain room: the answer is at hand.
        """

    async def start(self, deliver: Deliver) -> None:
        """Connect; `deliver` is then called, on the event loop's thread, with what arrives."""

    async def stop(self) -> None:
        """Deliver no more, and give back what is held. Safe to call twice."""

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        """Receive what is published to this room; with None, to the namespace as a whole.

        Of a room with history, returns a head of its log: what comes behind that one arrives.
        """

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """The opposite; a room that is not subscribed is no error."""

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        """Hand a publication to all nodes, this one included. With `history` it is stored, and its place returned."""

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        """The first `limit` publications behind `since`; without that, the newest `limit` that the log holds.

        A position of another epoch, or one from the future, is not complete.
        """

    async def forget(self, namespace: str, room: str, history: History) -> int:
        """Delete what the log of a room holds, for all nodes. How many publications that was.

        What is published meanwhile is in the log, or it was deleted. Where this fails, it may have been done. A node
        that subscribes to the room follows its log without a hole; another one may count even who had all as having
        lost something.
        """


class Store(Protocol):
    """Keys to bytes, each with a time to live in seconds, atomic by key. `put` with None as `ttl` keeps."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None if there is none or it has expired."""

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Set a value whatever was there."""

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> bool:
        """Set a value if the present one equals `expected` (None: if there is none). Whether it was set."""

    async def get_and_delete(self, key: str) -> bytes | None:
        """Take a value out: of concurrent callers one gets it, the others None."""


class Adapter(Protocol):
    """A broker with its store."""

    @property
    def broker(self) -> Broker:
        """What carries publications."""

    @property
    def store(self) -> Store:
        """What is shared besides. It works between the broker's `start` and `stop`."""
