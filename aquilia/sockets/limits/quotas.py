"""The limits at the door: how often an address may knock, and how many connections it, and an identity, may have.

All of it counts in one process. A client without an address, as on a Unix socket, is not limited by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any, NoReturn

from aquilia.clock import Clock
from aquilia.sockets.faults import ws_quota_exceeded
from aquilia.sockets.limits.addresses import AddressRates, address_key
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.settings import NodeSettings

__all__ = ["Quotas", "Seat"]

SAVED = 10.0
"""Seconds whose handshakes an address may make at once."""


class Quotas:
    """Counts the clients of a process, from the door to the end of their connections."""

    def __init__(self, node: NodeSettings, clock: Clock, recorder: Recorder) -> None:
        rate = node.handshake_rate
        self._rates = AddressRates(rate, max(1.0, SAVED * rate)) if rate else None
        self._clock = clock
        self._recorder = recorder
        self.per_address = node.max_connections_per_address
        self.per_identity = node.max_connections_per_identity
        self.addresses: Counter[str] = Counter()
        self.identities: Counter[Hashable] = Counter()
        self.waiting: Counter[Hashable] = Counter()
        """Clients of v1 whose identity has all its connections, until `hello` tells whose place they take."""
        self._seats: dict[Any, Seat] = {}

    def knock(self, scope: Mapping[str, Any]) -> float:
        """Count a handshake. Seconds that its address has to wait; 0.0: it need not."""
        if self._rates is None or (key := _key(scope)) is None:
            return 0.0
        return self._rates.take(key, self._clock.monotonic())

    def is_full(self, scope: Mapping[str, Any]) -> bool:
        """Whether the address has all the connections that it may have."""
        if self.per_address is None or (key := _key(scope)) is None:
            return False
        return self.addresses[key] >= self.per_address

    def seat(self, scope: Mapping[str, Any], pattern: str) -> Seat | None:
        """Count a client in; None where nothing of it is counted."""
        if self.per_address is None and self.per_identity is None:
            return None
        return Seat(self, _key(scope) if self.per_address is not None else None, pattern)

    def keep(self, conn: Any, seat: Seat | None) -> None:
        """From now on it is the seat of a connection."""
        if seat is not None:
            self._seats[conn] = seat

    def left(self, conn: Any) -> None:
        """The connection has gone."""
        seat = self._seats.pop(conn, None)
        if seat is not None:
            seat.leave()

    def claim(self, identity: Hashable, pattern: str) -> None:
        """Count a connection of this identity.

        Raises:
            SocketFault: WS_QUOTA_EXCEEDED.
        """
        if self.has_all(identity):
            self.refuse(pattern)
        self.identities[identity] += 1

    def has_all(self, identity: Hashable) -> bool:
        """Whether an identity has all the connections that it may have."""
        return self.per_identity is not None and self.identities[identity] >= self.per_identity

    def may_wait(self, identity: Hashable) -> bool:
        """Whether one more of its clients may wait: there are never more of those than may have a connection."""
        return self.per_identity is not None and self.waiting[identity] < self.per_identity

    def refuse(self, pattern: str) -> NoReturn:
        """Raise WS_QUOTA_EXCEEDED: the identity of a client has all its connections."""
        self._recorder.limited(pattern, "max_connections_per_identity")
        raise ws_quota_exceeded(f"at most {self.per_identity} connections of one identity")

    def is_of(self, conn: Any, identity: Hashable) -> bool:
        """Whether a connection is here that counts for this identity."""
        seat = self._seats.get(conn)
        return seat is not None and seat.identity == identity

    def vacate(self, conn: Any) -> None:
        """Another connection has the session of this one, which ends, and counts for no identity any more."""
        seat = self._seats.get(conn)
        if seat is not None:
            _discount(self.identities, seat.identity)
            seat.identity = None


class Seat:
    """What one client is counted by."""

    __slots__ = ("_address", "_pattern", "_quotas", "_waiting", "identity")

    def __init__(self, quotas: Quotas, address: str | None, pattern: str) -> None:
        self._quotas = quotas
        self._address = address
        self._pattern = pattern
        self._waiting: Hashable = None
        self.identity: Hashable = None
        """The id that it counts for; None: for none."""
        if address is not None:
            quotas.addresses[address] += 1

    def claim(self, identity: Any, *, may_wait: bool = False) -> None:
        """It is known who it is, as far as anybody is.

        `may_wait`: its `hello` is to come, which may tell that it takes the place of another: see `settle`.

        Raises:
            SocketFault: WS_QUOTA_EXCEEDED, if the identity has all the connections that it may have.
        """
        id: Hashable = getattr(identity, "id", None)
        quotas = self._quotas
        self._wait_for(None)
        if quotas.per_identity is None or id == self.identity:
            return
        waits = may_wait and id is not None and quotas.has_all(id) and quotas.may_wait(id)
        if id is not None and not waits:
            quotas.claim(id, self._pattern)
        _discount(quotas.identities, self.identity)
        self.identity = None if waits else id
        self._wait_for(id if waits else None)

    def _wait_for(self, id: Hashable) -> None:
        _discount(self._quotas.waiting, self._waiting)
        self._waiting = id
        if id is not None:
            self._quotas.waiting[id] += 1

    @property
    def waits(self) -> bool:
        """Whether it is to be settled."""
        return self._waiting is not None

    def settle(self, former: Any) -> bool:
        """Count it after all: in the place of its `former` connection, which counts for the same identity.

        Whether it is so; else as any other. Then `vacate` the former, or `require` a place if it stays.

        Raises:
            SocketFault: WS_QUOTA_EXCEEDED.
        """
        id = self._waiting
        self._wait_for(None)
        if self._quotas.is_of(former, id):
            self._quotas.identities[id] += 1
            self.identity = id
            return True
        self._quotas.claim(id, self._pattern)
        self.identity = id
        return False

    def vacate(self, former: Any) -> None:
        """It has taken the place of this connection."""
        self._quotas.vacate(former)

    def require(self) -> None:
        """It takes nobody's place.

        Raises:
            SocketFault: WS_QUOTA_EXCEEDED, if there is none but those that are taken.
        """
        limit = self._quotas.per_identity
        if limit is not None and self._quotas.identities[self.identity] > limit:
            self._quotas.refuse(self._pattern)

    def leave(self) -> None:
        """The client is gone."""
        self._wait_for(None)
        _discount(self._quotas.identities, self.identity)
        _discount(self._quotas.addresses, self._address)
        self.identity = self._address = None


def _discount(counts: Counter[Any], key: Hashable) -> None:
    if key is not None:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def _key(scope: Mapping[str, Any]) -> str | None:
    client = scope.get("client")
    return address_key(client[0]) if client and client[0] else None
