"""The hub where the setting `revocation` is on: it hears of each revocation, and ends whom it concerns.

Nodes tell one another over the broker, in a namespace that no client can open. What a node heard is looked at again
for each connection that opens within `RECENT`: who was on the way in had been asked for before. A node that was cut
off from the broker may have missed some, so it then asks the store about each of its connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import msgspec

from aquilia.auth import ACCESS_REVOKED
from aquilia.sessions import Session
from aquilia.sockets.adapters.base import Broker, Publication
from aquilia.sockets.answers import close_with
from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import SocketFault, ws_auth_required
from aquilia.sockets.hub import Hub
from aquilia.sockets.mass_closing import SLICE
from aquilia.sockets.plan import SocketPlan
from aquilia.sockets.revocation import (
    Revocation,
    Revocations,
    concerned,
    names_of,
    session_name,
)
from aquilia.sockets.tasks import TaskSet

__all__ = ["RevokingHub", "watch"]

logger = logging.getLogger("aquilia.sockets")

CONTROL = "\0revocations"
"""A namespace that no client's can be: a path begins with a slash."""
EVENT = "revoked"
MAX_RECENT = 10_000
"""Beyond, the store is asked about who opens."""
GROUP = 32
AT_ONCE = 8
RETRY = 1.0


def watch(plan: SocketPlan, revocations: Revocations) -> None:
    """Have the AuthManagers of all apps look at what is revoked, for as long as their sessions may live.

    The sessions themselves are watched while the application runs.
    """
    for authenticator in plan.authenticators.values():
        authenticator.revoked = revocations.revoked
    for app in plan.registry.apps:
        if app.sessions is not None:
            revocations.remembered = max(revocations.remembered, app.sessions.max_age)


class RevokingHub(Hub):
    """See `Hub`, and the head of this module. `opening` is how long a connection may take to open, in seconds."""

    def __init__(
        self, broker: Broker, revocations: Revocations, tasks: TaskSet, *, opening: float, **options: Any
    ) -> None:
        super().__init__(broker, **options)
        self._revocations = revocations
        revocations.tell = self._tell
        self._watch = tasks
        self._opening = 3 * opening + 30.0
        self._heard: dict[str, Revocation] = {}
        """Not yet looked for among the connections."""
        self._looking = False
        self._recent: OrderedDict[str, tuple[float, Revocation]] = OrderedDict()
        """What opens is looked for among these, with the moment at which each was heard."""
        self._unsure_until = float("-inf")
        """Until then the store is asked about who opens: not all of `_recent` may be there."""
        self._asking = self._ask_again = False
        self._sessions: WeakKeyDictionary[Connection, tuple[str, ...]] = WeakKeyDictionary()
        """Their names: that of its cookie, and that of its ticket."""

    async def start(self) -> None:
        """Connect to the broker, and listen for revocations."""
        await super().start()
        try:
            await self._broker.subscribe(CONTROL, None)
        except BaseException:
            await self.stop()
            raise

    # Telling and hearing

    async def _tell(self, revocation: Revocation) -> None:
        self._hear(revocation)  # here it holds even if nobody else can be told
        payload = list(msgspec.structs.astuple(revocation))
        ts = int(self.clock.time() * 1000)
        told = Publication(id=uuid4().hex, namespace=CONTROL, event=EVENT, payload=payload, ts=ts)
        await self._broker.publish(told)

    def deliver(self, publication: Publication) -> None:
        """See `Hub`."""
        if publication.namespace != CONTROL:
            super().deliver(publication)
            return
        try:
            revocation = msgspec.convert(publication.payload, Revocation)
        except msgspec.ValidationError:  # of a later version: what it says is in the store
            self._ask_all()
        else:
            self._hear(revocation)

    def _hear(self, revocation: Revocation) -> None:
        name = revocation.name
        now = self.clock.monotonic()
        self._recent.pop(name, None)
        self._recent[name] = (now, revocation)
        self._forget_old(now)
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
            self._unsure_until = now + self._opening
        self._heard[name] = revocation
        if not self._looking:
            self._looking = True
            self._watch.start(self._look())

    def _forget_old(self, now: float) -> None:
        recent = self._recent
        while recent and next(iter(recent.values()))[0] < now - self._opening:
            recent.popitem(last=False)

    async def _look(self) -> None:
        """Look for whom the revocations concern: once through all connections for all that came meanwhile."""
        await asyncio.sleep(0)
        try:
            while self._heard:
                heard, self._heard = self._heard, {}
                connections = iter(self._everyone())
                while group := list(islice(connections, GROUP)):
                    deadline = self._fanout.clock() + SLICE
                    while group and self._fanout.clock() < deadline:
                        for conn in group:
                            self._judge(conn, heard)
                        group = list(islice(connections, GROUP))
                    for conn in group:
                        self._judge(conn, heard)
                    await asyncio.sleep(0)
        finally:
            self._looking = False

    def _everyone(self) -> list[Connection]:
        return [conn for home in self.homes.values() for conn in home.everyone()]

    def _names(self, conn: Connection) -> Iterator[str]:
        yield from names_of(conn.identity)
        yield from self._sessions.get(conn, ())

    def _judge(self, conn: Connection, revocations: Mapping[str, Revocation]) -> None:
        if conn._close is not None:
            return
        for name in self._names(conn):
            if name in revocations and concerned(conn.identity, revocations[name]):
                self._end(conn)
                return

    def _end(self, conn: Connection) -> None:
        """What waits for it is not for it any more, and nobody waits for it."""
        conn._discard()
        for room in conn._rooms:
            self.attendance.part(conn, room, lost=False)
        close_with(conn, ws_auth_required(ACCESS_REVOKED))
        if conn._blocked:
            self.show_out(conn)

    # Those who open, or become known

    def expect(self, conn: Connection) -> None:
        """See `Hub`."""
        super().expect(conn)
        self._arrived(conn)

    def add(self, conn: Connection) -> None:
        """See `HubPort`."""
        super().add(conn)
        self._arrived(conn)

    def bind(self, conn: Connection, session: str | None) -> None:
        """See `HubPort`."""
        bound = self._sessions.get(conn, ())
        if session is not None and session not in bound:
            self._sessions[conn] = (*bound, session)

    def identify(self, conn: Connection, identity: Any) -> None:
        """See `HubPort`."""
        super().identify(conn, identity)
        self._arrived(conn)

    def _arrived(self, conn: Connection) -> None:
        session = conn.session
        if isinstance(session, Session) and not session.is_new:
            self.bind(conn, session_name(session.id))
        now = self.clock.monotonic()
        self._forget_old(now)
        if self._recent:
            self._loop.call_soon(self._judge_recent, conn)  # it is not yet all that it will be in a moment
        if now < self._unsure_until:
            self._watch.start(self._ask(conn))

    def _judge_recent(self, conn: Connection) -> None:
        self._judge(conn, {name: told for name in self._names(conn) if (told := self._heard_of(name))})

    def _heard_of(self, name: str) -> Revocation | None:
        found = self._recent.get(name)
        return None if found is None else found[1]

    # What may have been missed

    def lost_touch(self) -> None:
        """See `Hub`. What was revoked meanwhile is in the store."""
        super().lost_touch()
        self._ask_all()

    def _ask_all(self) -> None:
        self._unsure_until = self.clock.monotonic() + self._opening
        self._ask_again = True
        if not self._asking:
            self._asking = True
            self._watch.start(self._ask_about_everyone())

    async def _ask_about_everyone(self) -> None:
        try:
            while self._ask_again:
                self._ask_again = False
                rest = iter(self._everyone())

                async def some(rest: Iterator[Connection] = rest) -> None:
                    for conn in rest:
                        await self._ask(conn)

                await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        finally:
            self._asking = False

    async def _ask(self, conn: Connection) -> None:
        """Ask the store about one connection until it answers: who may not be here shall not stay for its silence."""
        await asyncio.sleep(0)
        said = False
        while conn._close is None:
            try:
                if await self._is_revoked(conn) and conn._close is None:
                    self._end(conn)
                return
            except SocketFault as fault:
                if not said:
                    said = True
                    logger.warning("whether %s was revoked is asked again: %s", conn.id, fault)
                await asyncio.sleep(RETRY)

    async def _is_revoked(self, conn: Connection) -> bool:
        for session in self._sessions.get(conn, ()):
            if await self._revocations.session_revoked(session):
                return True
        return await self._revocations.revoked(conn.identity)
