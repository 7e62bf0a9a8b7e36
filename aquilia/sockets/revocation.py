"""Revocation: access that is taken back before it ends by itself, on every node.

What was revoked is in the store, under a name that shows nothing of it, for as long as it could be used again. Who
comes with it is refused by that record, on whatever node and whenever that was started; who is connected with it is
ended as soon as the node hears of it. Only where the setting `revocation` is on does anybody look.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from math import isfinite
from typing import Any, Literal

import msgspec

from aquilia.auth import ACCESS_REVOKED, Identity
from aquilia.clock import Clock
from aquilia.sessions import Session
from aquilia.sessions.lifetime import lineage
from aquilia.sockets.adapters.base import Store
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.faults import ws_auth_required, ws_overloaded

__all__ = [
    "REMEMBERED",
    "Revocation",
    "Revocations",
    "concerned",
    "names_of",
    "session_name",
]

REMEMBERED = 24 * 3600.0
"""Seconds for which a revocation is remembered, where nobody says until when."""
AT_LEAST = 60.0
"""Seconds for which it is in any case: clocks differ, and who is on the way in shall not slip through."""
LONGEST = 100 * 365 * 24 * 3600.0
"""Seconds that a store counts without harm."""
TRIES = 16
"""So often it is written where others write the same at the same time."""

Kind = Literal["token", "identity", "session"]
_REASONS: dict[Kind, str] = {
    "token": "a token",
    "identity": "all that it has so far",
    "session": "a session",
}


class Revocation(msgspec.Struct, array_like=True, frozen=True):
    """One that is remembered, and told from node to node."""

    version: int
    kind: Kind
    name: str
    """Of the token, the identity or the session, as `names_of` has it."""
    moment: float
    """When it was said, in seconds since 1970."""
    until: float

    def pack(self) -> bytes:
        """Its bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def read(cls, data: bytes) -> Revocation | None:
        """What was packed; None for one of a later version."""
        try:
            found = _read(data)
        except msgspec.MsgspecError:
            return None
        return found if found.version == VERSION else None


VERSION = 1
_read = msgspec.msgpack.Decoder(Revocation).decode


def session_name(id: str) -> str:
    """The name of a session, which a new id does not change: an id is a secret."""
    return _name("session", lineage(id))


def _name(kind: Kind, value: str) -> str:
    return hashlib.sha256(f"{kind}\n{value}".encode()).hexdigest()[:40]


def names_of(identity: Any) -> list[str]:
    """The names by which an identity, and the token that it came by, can be revoked."""
    names = []
    if (id := getattr(identity, "id", None)) is not None:
        names.append(_name("identity", str(id)))
    if (token := getattr(identity, "token_id", None)) is not None:
        names.append(_name("token", str(token)))
    return names


def concerned(identity: Any, revocation: Revocation | None) -> bool:
    """Whether a revocation of one of its names is of this identity: a later token of it is good.

    None is one that this version cannot read: who may be meant by it, is.
    """
    if revocation is None or revocation.kind != "identity":
        return True
    issued = getattr(identity, "issued_at", None)
    return not isinstance(issued, int | float) or issued < revocation.moment


class Revocations:
    """Takes access back, on every node: `await revocations.revoke(identity="ann")`. DI provides it to every service.

    It needs the setting `revocation=True`, and works while the application is served.
    """

    def __init__(self, store: Store, clock: Clock, audit: AuditLog, *, enabled: bool) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._enabled = enabled
        self.tell: Callable[[Revocation], Awaitable[None]] | None = None
        """Ends who is connected, on all nodes. Set by the hub."""
        self.remembered = REMEMBERED
        """Seconds for which it is, where nobody says until when: no session lives longer unused."""

    async def revoke(
        self,
        *,
        token_id: str | Identity | None = None,
        identity: str | Identity | None = None,
        session: str | Session | None = None,
        until: float | None = None,
    ) -> None:
        """Take access back: of one token, of an identity by all tokens that it has so far, or of one session.

        Connections with it end with 4401, on every node; who comes with it is refused until `until`, in seconds since
        1970. That is the token's expiry where `token_id` is the `Identity` that it gave, and else 24 hours from now,
        or the `max_age` of sessions if that is more: say a later moment if tokens live longer. Of an identity, tokens
        that were issued later are good. Those say so in whole seconds, so one from the very second of the revocation
        is refused as well.

        Raises:
            RuntimeError: the setting `revocation` is not on.
            TypeError: if it is not exactly one of the three, or of another type.
            ValueError: for an empty name, or an `until` that is no moment.
            SocketFault: WS_ADAPTER_UNAVAILABLE, WS_PUBLISH_FAILED: not every node may know of it. Try again.
        """
        self._require_enabled()
        kind, name, known = _asked(token_id, identity, session)
        await self._revoke(kind, name, known, until)
        whose = identity if token_id is None else token_id if isinstance(token_id, Identity) else None
        whose = getattr(whose, "id", whose)
        self._audit.note("credentials.revoked", outcome="done", identity=whose, reason=_REASONS[kind])

    async def end_session(self, id: str) -> None:
        """See `SessionWatcher`: `revoke(session=id)`. A client may log out all day, so no audit is told."""
        await self._revoke("session", session_name(id), None, None)

    async def _revoke(self, kind: Kind, name: str, known: float | None, until: float | None) -> None:
        now = self._clock.time()
        if until is None:
            until = known if known is not None else now + self.remembered
        elif isinstance(until, bool) or not isinstance(until, int | float) or not isfinite(until):
            raise ValueError(f"revoke: until: seconds since 1970 are needed, not {until!r}")
        until = min(max(until, now + AT_LEAST), now + LONGEST)
        revocation = await self._keep(Revocation(VERSION, kind, name, now, until))
        assert self.tell is not None
        await self.tell(revocation)

    def _require_enabled(self) -> None:
        if not self._enabled:
            raise RuntimeError(
                "revoke: the setting 'revocation' is off, so nobody would look at what is revoked: say "
                "AppManifest(…, websockets={'revocation': True}), or from_controllers(…, revocation=True)"
            )

    async def _keep(self, revocation: Revocation) -> Revocation:
        """Write it, with the later moments where it is there already."""
        key = _key(revocation.name)
        for _ in range(TRIES):
            data = await self._store.get(key)
            former = None if data is None else Revocation.read(data)
            if former is not None:
                revocation = msgspec.structs.replace(
                    revocation,
                    moment=max(former.moment, revocation.moment),
                    until=max(former.until, revocation.until),
                )
            left = revocation.until - self._clock.time()
            if await self._store.compare_and_swap(key, data, revocation.pack(), left):
                return revocation
        raise ws_overloaded("too many revoke the same at once")

    async def revoked(self, identity: Any) -> bool:
        """Whether the access of this identity, or the token that it came by, was revoked.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: nobody knows.
        """
        names = names_of(identity)
        if not names:
            return False
        found = await asyncio.gather(*(self._store.get(_key(name)) for name in names))
        return any(data is not None and concerned(identity, Revocation.read(data)) for data in found)

    async def require(self, identity: Any, session: Any) -> None:
        """Refuse a client whose identity or session was revoked.

        Raises:
            SocketFault: WS_AUTH_REQUIRED; WS_ADAPTER_UNAVAILABLE: nobody knows.
        """
        known = isinstance(session, Session) and not session.is_new
        if await self.barred(identity, session_name(session.id) if known else None):
            raise ws_auth_required(ACCESS_REVOKED)

    async def barred(self, identity: Any, session: str | None) -> bool:
        """Whether the access of this identity, or the session of this `session_name`, was revoked.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: nobody knows.
        """
        return (session is not None and await self.session_revoked(session)) or await self.revoked(identity)

    async def over(self, session: Session) -> bool:
        """See `SessionWatcher`: whether a session, or the access of who is logged in to it, was revoked.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: nobody knows.
        """
        return await self.barred(session.identity, session_name(session.id))

    async def session_revoked(self, name: str) -> bool:
        """Whether the session of this `session_name` was revoked.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: nobody knows.
        """
        return await self._store.get(_key(name)) is not None


def _key(name: str) -> str:
    return f"revoked.{name}"


def _asked(token_id: Any, identity: Any, session: Any) -> tuple[Kind, str, float | None]:
    """What is to be revoked: its kind and name, and until when it is good, where that is known."""
    given: dict[Kind, Any] = {"token": token_id, "identity": identity, "session": session}
    said = [(kind, value) for kind, value in given.items() if value is not None]
    if len(said) != 1:
        raise TypeError(
            f"revoke takes exactly one of token_id, identity and session, not {len(said)} of them"
        )
    kind, value = said[0]
    known = None
    if kind == "session":
        value = value.id if isinstance(value, Session) else value
    elif isinstance(value, Identity):
        if kind == "token" and value.token_id is None:
            raise ValueError("revoke: token_id: the token of this identity had no id (its claim 'jti')")
        known = value.expires_at if kind == "token" else None
        value = value.token_id if kind == "token" else value.id
    argument = "token_id" if kind == "token" else kind
    if not isinstance(value, str):
        wanted = "a Session" if kind == "session" else "an Identity"
        raise TypeError(f"revoke: {argument}: an id or {wanted} is needed, not {type(value).__qualname__}")
    if not value:
        raise ValueError(f"revoke: {argument}: it is empty")
    return kind, session_name(value) if kind == "session" else _name(kind, value), known
