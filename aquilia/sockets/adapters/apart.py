"""A store apart from the broker: an adapter of two, and one that has no store at all.

A store works between `start` and `stop` of its own adapter's broker. So that one runs along, and carries nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from aquilia.sockets.adapters.base import Adapter, Broker, Deliver, Page, Publication
from aquilia.sockets.adapters.choice import Choice
from aquilia.sockets.adapters.making import made
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.schemes import entry_point_of
from aquilia.sockets.faults import SocketFault, ws_adapter_unavailable
from aquilia.sockets.history import History, Position

__all__ = ["NoStore", "PairedAdapter", "PairedBroker", "has_store", "with_store"]


def has_store(adapter: Adapter) -> bool:
    """Whether it keeps anything: see the head of `adapters.base`."""
    return bool(getattr(adapter, "has_store", True))


def with_store(adapter: Adapter, choice: Choice, options: AdapterOptions) -> Adapter:
    """The adapter, with the store of another one in the place of its own.

    Raises:
        ValueError: the store's URL is wrong, or what it keeps would not be shared as the broker is.
    """
    where, url = choice
    scheme = url.partition("://")[0]
    try:
        keeper = made(entry_point_of(url), url, options)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error.__cause__
    if not has_store(keeper):
        raise ValueError(
            f"{where}: {scheme}:// has no store: name an adapter that has one, as redis://host:6379"
        )
    if getattr(keeper.broker, "alone", False) and not getattr(adapter.broker, "alone", False):
        raise ValueError(
            f"{where}: {scheme}:// is the memory of one process, and the nodes that share the broker have to share "
            "the store as well: name one that they reach, as redis://host:6379 or nats://host:4222"
        )
    return PairedAdapter(adapter, keeper, where)


class PairedAdapter:
    """The broker of one adapter, and the store of another, which `where` names in messages."""

    def __init__(self, adapter: Adapter, keeper: Adapter, where: str = "store_url") -> None:
        self.broker = PairedBroker(adapter.broker, keeper.broker, where)
        self.store = keeper.store


class PairedBroker:
    """A broker which has another one run along, for its store. All that it says of itself is said of the first."""

    def __init__(self, broker: Broker, keeper: Broker, where: str) -> None:
        self._broker = broker
        self._keeper = keeper
        self._where = where

    @property
    def on_lost(self) -> Callable[[], None] | None:
        """See `Broker`."""
        return self._broker.on_lost

    @on_lost.setter
    def on_lost(self, heard: Callable[[], None] | None) -> None:
        self._broker.on_lost = heard

    @property
    def on_foreign(self) -> Callable[[], None] | None:
        """See `Broker`."""
        return self._broker.on_foreign

    @on_foreign.setter
    def on_foreign(self, heard: Callable[[], None] | None) -> None:
        self._broker.on_foreign = heard

    @property
    def connected(self) -> bool:
        """See `Broker`."""
        return self._broker.connected

    @property
    def alone(self) -> bool:
        """See the head of `adapters.base`."""
        return bool(getattr(self._broker, "alone", False))

    @property
    def trouble(self) -> str | None:
        """See the head of `adapters.base`."""
        trouble: str | None = getattr(self._broker, "trouble", None)
        return trouble

    @property
    def store_trouble(self) -> str | None:
        """Why the store cannot be reached, in the words of `trouble`; None while it can."""
        if self._keeper.connected:
            return None
        return getattr(self._keeper, "trouble", None) or "unreachable"

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`. Either both run behind it, or none.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE; what is wrong with the store begins with what names it.
        """
        try:
            await self._keeper.start(_nothing)
        except SocketFault as fault:
            raise ws_adapter_unavailable(f"{self._where}: {fault.message}") from fault
        try:
            await self._broker.start(deliver)
        except BaseException:
            await self._keeper.stop()
            raise

    async def stop(self) -> None:
        """See `Broker`."""
        try:
            await self._broker.stop()
        finally:
            await self._keeper.stop()

    # No frame of ours is between a publication and its broker.

    def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Coroutine[Any, Any, Position | None]:
        """See `Broker`."""
        return self._broker.subscribe(namespace, room, history)

    def unsubscribe(self, namespace: str, room: str | None) -> Coroutine[Any, Any, None]:
        """See `Broker`."""
        return self._broker.unsubscribe(namespace, room)

    def publish(
        self, publication: Publication, history: History | None = None
    ) -> Coroutine[Any, Any, Position | None]:
        """See `Broker`."""
        return self._broker.publish(publication, history)

    def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Coroutine[Any, Any, Page]:
        """See `Broker`."""
        return self._broker.read(namespace, room, history, since=since, limit=limit)

    def forget(self, namespace: str, room: str, history: History) -> Coroutine[Any, Any, int]:
        """See `Broker`."""
        return self._broker.forget(namespace, room, history)


def _nothing(publication: Publication) -> None:
    """Nobody subscribes to anything there."""


class NoStore:
    """The `store` of an adapter that says `has_store = False`. An application that needs one does not boot."""

    async def get(self, key: str) -> NoReturn:
        """See `Store`."""
        raise _missing()

    async def put(self, key: str, value: bytes, ttl: float | None = None) -> NoReturn:
        """See `Store`."""
        raise _missing()

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> NoReturn:
        """See `Store`."""
        raise _missing()

    async def get_and_delete(self, key: str) -> NoReturn:
        """See `Store`."""
        raise _missing()


def _missing() -> SocketFault:
    return ws_adapter_unavailable("this adapter has no store: name one by the setting store_url")
