"""Tickets: credentials for one handshake, which a client that is logged in asks for a moment before.

The store has the SHA-256 of a ticket, never the ticket: who can read the store can open nothing by it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from aquilia.auth import Identity, expiry
from aquilia.clock import Clock
from aquilia.identity import packed, unpacked
from aquilia.sockets.adapters.base import Store
from aquilia.sockets.faults import SocketFault, ws_auth_required, ws_rate_limit_exceeded

__all__ = ["TICKET_TTL", "Tickets"]

TICKET_TTL = 30
"""Seconds for which a ticket is good."""
PER_IDENTITY = 100
"""Tickets that one identity gets of one process within `TICKET_TTL`."""

_FORM = re.compile(r"[A-Za-z0-9_-]{43}")
"""256 bits in base64url."""


class _Kept(msgspec.Struct, array_like=True):
    version: int
    namespace: str
    identity: bytes
    session: str | None = None


class Taken(NamedTuple):
    """What a ticket was given for."""

    identity: Identity
    session: str | None
    """The name by which the session that it was asked for with is revoked, if there was one."""


_VERSION = 1


class Tickets:
    """Those of an application, kept in its adapter's store: what one node gave, every node takes, once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._given: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()
        self.barred: Callable[[Any, str | None], Awaitable[bool]] | None = None
        """Whether the access of an identity, or a session, was taken back, where the setting `revocation` is on."""

    async def give(self, identity: Any, namespace: str, session: str | None = None) -> str:
        """A ticket for one handshake of this identity to this namespace; it ends with the session of this name.

        Raises:
            SocketFault: WS_RATE_LIMIT_EXCEEDED; WS_ADAPTER_UNAVAILABLE.
            TypeError: for an identity that cannot be kept as it is.
        """
        kept = msgspec.msgpack.encode(_Kept(_VERSION, namespace, packed(identity), session))
        self._count(identity.id)
        ticket = secrets.token_urlsafe(32)
        await self._store.put(_key(ticket), kept, TICKET_TTL)
        return ticket

    async def take(self, ticket: str, namespace: str) -> Taken:
        """Whose ticket it is. It is worth nothing from then on, whatever comes of it.

        Raises:
            SocketFault: WS_AUTH_REQUIRED, in the same words for whatever is wrong with it;
                WS_ADAPTER_UNAVAILABLE.
        """
        data = await self._store.get_and_delete(_key(ticket)) if _FORM.fullmatch(ticket) else None
        if data is None:
            raise _invalid()
        kept = msgspec.msgpack.decode(data, type=_Kept)
        if kept.version != _VERSION or kept.namespace != namespace:
            raise _invalid()
        identity = unpacked(kept.identity)
        moment = expiry(identity)
        if moment is not None and moment <= self._clock.time():
            raise _invalid()
        if self.barred is not None and await self.barred(identity, kept.session):
            raise _invalid()
        return Taken(identity, kept.session)

    def _count(self, id: str) -> None:
        now = self._clock.monotonic()
        while self._given and self._given[0][0] <= now - TICKET_TTL:
            _, earlier = self._given.popleft()
            self._counts[earlier] -= 1
            if not self._counts[earlier]:
                del self._counts[earlier]
        if self._counts[id] >= PER_IDENTITY:
            raise ws_rate_limit_exceeded(f"{PER_IDENTITY} tickets within {TICKET_TTL} s are enough")
        self._counts[id] += 1
        self._given.append((now, id))


def _key(ticket: str) -> str:
    return f"ticket.{hashlib.sha256(ticket.encode()).hexdigest()}"


def _invalid() -> SocketFault:
    return ws_auth_required("the ticket is not valid")
