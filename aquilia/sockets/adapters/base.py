"""The two ports of an adapter: `Broker` carries publications between nodes, `Store` keeps small shared state.

A node is one process. Its hub subscribes to a room while it has a local member of it, and gets every publication
for that room by the one callback, its own ones included: nobody is served by a short cut.

What a broker promises:

- Delivery: in plain rooms a publication reaches every node that is subscribed when it is published at most once;
  while the broker is up and the node keeps pace, exactly once.
- Order: what one node publishes to one namespace arrives in the order of its `publish` calls.
- `subscribe` has taken effect when it returns: what is published afterwards, anywhere, arrives.
- The hub never calls `subscribe` and `unsubscribe` for one room concurrently; all else may be concurrent.
- `publish` returns when the broker has the publication; it raises `WS_ADAPTER_UNAVAILABLE` or
  `WS_PUBLISH_FAILED` when it has not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

__all__ = ["Adapter", "Broker", "Deliver", "Publication", "Store"]


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


Deliver = Callable[[Publication], None]


class Broker(Protocol):
    """See the head of this module for the promises."""

    async def start(self, deliver: Deliver) -> None:
        """Connect; `deliver` is then called, on the event loop's thread, with what arrives."""

    async def stop(self) -> None:
        """Deliver no more, and give back what is held. Safe to call twice."""

    async def subscribe(self, namespace: str, room: str | None) -> None:
        """Receive what is published to this room; with None, to the namespace as a whole."""

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """The opposite; a room that is not subscribed is no error."""

    async def publish(self, publication: Publication) -> None:
        """Hand a publication to all nodes, this one included."""


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

    broker: Broker
    store: Store
