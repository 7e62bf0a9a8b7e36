"""Rates of identities: what all connections of one send, to all nodes. No message waits for the store.

See `shared_rate` for what passes when. The nodes count by one clock: each begins with its system's, and is set
forward by what it reads of the others; so clocks that differ let a burst more pass, once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Hashable, Mapping
from weakref import ref

from aquilia.clock import Clock
from aquilia.sockets.adapters.base import Store
from aquilia.sockets.connection import Connection
from aquilia.sockets.limits.rates import Bucket, excess_of
from aquilia.sockets.limits.shared_rate import Level, Share
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import TaskSet

__all__ = ["IdentityBucket", "IdentityRate", "IdentityRates"]

logger = logging.getLogger("aquilia.sockets")

MAX_IDENTITIES = 100_000
"""Identities that are remembered at a time."""
PATIENCE = 1.0
"""Seconds that the store may take; then the node goes alone"""
AWAY = 3.0
"""for so many seconds."""
PAUSE = 0.05
"""Seconds between two questions for one who is at its limit."""
TRIES = 8
"""So often it is written where others write the same at the same time."""
EXTRA_LIFE = 10.0
"""Seconds that a record is kept beyond the moment at which it says nothing any more."""
LONGEST = 365 * 24 * 3600.0
"""Seconds that a store counts without harm."""


class IdentityRate:
    """One limit: so many messages, or bytes, a second, and twice that at once."""

    def __init__(
        self,
        setting: str,
        rate: float,
        store: Store,
        tasks: TaskSet,
        clock: Clock,
        *,
        limit: int = MAX_IDENTITIES,
    ) -> None:
        self.setting = setting
        self.rate = rate
        self._burst = max(1.0, 2 * rate)
        self._store = store
        self._tasks = tasks
        self._monotonic = clock.monotonic
        self._ahead = clock.time() - clock.monotonic()
        """From this node's seconds to those of the clock that all share."""
        self._shares: dict[Hashable, Share] = {}
        self._limit = limit
        self._away = False

    def __len__(self) -> int:
        return len(self._shares)

    def take(self, id: Hashable, amount: float, now: float) -> bool:
        """Count what an identity sent. False: it is above the limit."""
        share = self._shares.get(id)
        if share is None:
            self._forget(now)
            share = self._shares[id] = Share(self.rate, self._burst, now)
        taken = share.take(amount, now)
        if share.due and not share.asking:
            if now >= share.ask_at:
                share.asking = True
                if self._tasks.start(self._tell(share, id)) is None and not share.alone:
                    share.ask_at = now  # the store is in this process: nothing has to be spared
            elif share.alone:
                share.go_alone(now)
        return taken

    def _forget(self, now: float) -> None:
        for _ in range(2):  # more than come, so that they become fewer
            if not self._shares:
                return
            oldest = next(iter(self._shares))
            share = self._shares.pop(oldest)
            if not share.forgettable(now) and len(self._shares) < self._limit - 1:
                self._shares[oldest] = share

    async def _tell(self, share: Share, id: Hashable) -> None:
        pause = PAUSE
        try:
            async with asyncio.timeout(PATIENCE):
                await self._settle(share, _key(self.setting, id))
            self._away = False
        except Exception as error:
            share.go_alone(self._monotonic())
            pause = AWAY
            if not self._away:
                self._away = True
                logger.warning(
                    "%s: the store cannot be asked, so each node counts by itself: %r", self.setting, error
                )
        finally:
            share.asking = False
        if pause is AWAY or share.used < share.step:  # much that came meanwhile is told at once
            share.ask_at = self._monotonic() + pause

    async def _settle(self, share: Share, key: str) -> None:
        for _ in range(TRIES):
            data = await self._store.get(key)
            now = self._monotonic()
            found = Level.read(data) or Level.full(self._burst, now + self._ahead)
            self._ahead = max(self._ahead, found.at - now)
            used = share.used
            level = found.after(self.rate, self._burst, used, now + self._ahead)
            life = min((self._burst - level.tokens) / self.rate + EXTRA_LIFE, LONGEST)
            if await self._store.compare_and_swap(key, data, level.pack(), life):
                share.told(level.tokens, used, now)
                return


class IdentityRates:
    """The limits of identities that the settings have."""

    def __init__(self, rates: Mapping[str, IdentityRate]) -> None:
        self._messages = rates.get("identity_rate_limit")
        self._bytes = rates.get("identity_byte_rate_limit")

    @classmethod
    def of(cls, node: NodeSettings, store: Store, tasks: TaskSet, clock: Clock) -> IdentityRates | None:
        """Those of a process; None where nothing limits identities."""
        said = {
            "identity_rate_limit": node.identity_rate_limit,
            "identity_byte_rate_limit": node.identity_byte_rate_limit,
        }
        rates = {
            setting: IdentityRate(setting, rate, store, tasks, clock)
            for setting, rate in said.items()
            if rate is not None
        }
        return cls(rates) if rates else None

    def bucket(self, conn: Connection, own: Bucket | None) -> IdentityBucket:
        """What counts the messages of a connection, beside its `own` limits."""
        return IdentityBucket(conn, own, self._messages, self._bytes)


class IdentityBucket:
    """The limits of a connection, and behind them those of its identity, whoever that is by then."""

    __slots__ = ("_bytes", "_conn", "_counted", "_messages", "_own", "_short")

    def __init__(
        self,
        conn: Connection,
        own: Bucket | None,
        messages: IdentityRate | None,
        bytes_: IdentityRate | None,
    ) -> None:
        self._conn = ref(conn)  # which has the bucket
        self._own = own
        self._messages = messages
        self._bytes = bytes_
        self._counted = 0
        self._short: IdentityRate | None = None

    def take(self, now: float) -> bool:
        """Count a message, and the bytes of all that has come since the one before: acks too."""
        self._short = None
        if self._own is not None and not self._own.take(now):
            return False
        conn = self._conn()
        id: Hashable = getattr(conn._identity, "id", None) if conn is not None else None
        if conn is None or id is None:
            return True
        size, self._counted = conn.bytes_received - self._counted, conn.bytes_received
        if self._bytes is not None and not self._bytes.take(id, size, now):
            self._short = self._bytes
        elif self._messages is not None and not self._messages.take(id, 1.0, now):
            self._short = self._messages
        return self._short is None

    @property
    def excess(self) -> tuple[str, str]:
        """The setting by which the last message was refused, and what the client is told."""
        short = self._short
        if short is None:
            assert self._own is not None
            return excess_of(self._own)
        unit = "messages" if short is self._messages else "bytes"
        return short.setting, f"more than {short.rate:g} {unit} a second, of all connections of this identity"


def _key(setting: str, id: Hashable) -> str:
    name = hashlib.sha256(f"{setting}\n{id}".encode()).hexdigest()
    return f"rate.{name[:40]}"
