"""The limits at the door: how often an address may knock, and how many connections it, and an identity, may have.

All of it counts in one process. A client without an address, as on a Unix socket, is not limited by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from aquilia.clock import Clock
from aquilia.sockets.addresses import AddressRates, address_key
from aquilia.sockets.faults import ws_quota_exceeded
from aquilia.sockets.recorder import Recorder
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
        limit = self.per_identity
        if limit is not None and self.identities[identity] >= limit:
            self._recorder.limited(pattern, "max_connections_per_identity")
            raise ws_quota_exceeded(f"at most {limit} connections of one identity")
        self.identities[identity] += 1


class Seat:
    """What one client is counted by."""

    __slots__ = ("_address", "_identity", "_pattern", "_quotas")

    def __init__(self, quotas: Quotas, address: str | None, pattern: str) -> None:
        self._quotas = quotas
        self._address = address
        self._pattern = pattern
        self._identity: Hashable = None
        if address is not None:
            quotas.addresses[address] += 1

    def claim(self, identity: Any) -> None:
        """It is known who it is, as far as anybody is.

        Raises:
            SocketFault: WS_QUOTA_EXCEEDED, if the identity has all the connections that it may have.
        """
        id: Hashable = getattr(identity, "id", None)
        if self._quotas.per_identity is None or id == self._identity:
            return
        if id is not None:
            self._quotas.claim(id, self._pattern)
        _discount(self._quotas.identities, self._identity)
        self._identity = id

    def leave(self) -> None:
        """The client is gone."""
        _discount(self._quotas.identities, self._identity)
        _discount(self._quotas.addresses, self._address)
        self._identity = self._address = None


def _discount(counts: Counter[Any], key: Hashable) -> None:
    if key is not None:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def _key(scope: Mapping[str, Any]) -> str | None:
    client = scope.get("client")
    return address_key(client[0]) if client and client[0] else None
