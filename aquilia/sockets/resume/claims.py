"""Who may come back to which session: the tokens of all nodes, and the record that the newest connection claims."""

from __future__ import annotations

import secrets
from collections.abc import Hashable

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Store
from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import ws_overloaded
from aquilia.sockets.resume.records import Record, Refusal, Ticket, Tokens

__all__ = ["ResumeClaims", "record_key"]

TRIES = 16
"""So often a connection tries to take up a session that others write at the same time."""
LOOK_AGAIN = 30.0
"""Seconds after which the key of tokens that are not accepted may be looked up anew."""
_KEY = "resume-key"


def record_key(session: str) -> str:
    """Where the store has the record of a session."""
    return f"resume.{session}"


class ResumeClaims:
    """Issues and reads tokens, and claims the sessions that they name. One per process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: Tokens | None = None
        self._looked = 0.0

    async def prepare(self, *, anew: bool = False) -> Tokens:
        """What signs: by a key that the first node made, and all share.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        now = self._clock.monotonic()
        if self._known is not None and not (anew and now - self._looked > LOOK_AGAIN):
            return self._known
        self._looked = now
        key = await self._store.get(_KEY)
        if key is None:
            made = secrets.token_bytes(32)
            key = (
                made if await self._store.compare_and_swap(_KEY, None, made) else await self._store.get(_KEY)
            )
        self._known = Tokens(key or secrets.token_bytes(32))
        return self._known

    def token(self, conn: Connection, generation: int) -> str:
        """The token for the connection of this generation of its session; after `prepare`."""
        assert self._known is not None
        return self._known.issue(Ticket(conn.id, generation), conn.namespace, _whose(conn))

    async def ticket(self, conn: Connection, token: str) -> Ticket | None:
        """What a token says that this client has shown; None if it is none for it.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE.
        """
        ticket = (await self.prepare()).read(token, conn.namespace, _whose(conn))
        if ticket is None:
            ticket = (await self.prepare(anew=True)).read(token, conn.namespace, _whose(conn))
        return ticket

    async def claim(self, conn: Connection, token: str, ttl: float) -> tuple[str, Record, Record] | Refusal:
        """Make a connection the owner of the session of its token: its name, its record before and now.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE; WS_OVERLOADED.
        """
        ticket = await self.ticket(conn, token)
        if ticket is None:
            return "invalid"
        key = record_key(ticket.session)
        for _ in range(TRIES):
            data = await self._store.get(key)
            record = None if data is None else Record.read(data)
            if record is None:
                return "unknown"
            claimed = record.claimed(ticket.generation, conn.id)
            if isinstance(claimed, str):
                return claimed
            if await self._store.compare_and_swap(key, data, claimed.pack(), ttl):
                return ticket.session, record, claimed
        raise ws_overloaded("too many connections resume this session at once")


def _whose(conn: Connection) -> Hashable:
    whose: Hashable = getattr(conn.identity, "id", None)
    return whose
