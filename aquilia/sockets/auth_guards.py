"""The guards that ask who a client is, and what it may do."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

from aquilia.auth import expiry
from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_auth_required, ws_forbidden, ws_token_expired
from aquilia.sockets.guards import SocketGuard
from aquilia.sockets.handshake.request import Handshake

__all__ = ["HandshakeAuthGuard", "MessageAuthGuard", "RoleGuard", "ScopeGuard"]


class HandshakeAuthGuard(SocketGuard):
    """Lets in who has an identity, a session, and an identity of one of the allowed types, as far as asked for.

    Who lacks one gets WS_AUTH_REQUIRED; a client of protocol v1 may bring its token in `hello`. An identity of
    another type gets WS_FORBIDDEN.

    Raises:
        ValueError: for arguments of the wrong kind, and for a guard that would ask for nothing.
    """

    def __init__(
        self,
        *,
        require_identity: bool = True,
        require_session: bool = False,
        allowed_identity_types: Collection[str] | None = None,
    ) -> None:
        for name, value in (("require_identity", require_identity), ("require_session", require_session)):
            if not isinstance(value, bool):
                raise ValueError(f"HandshakeAuthGuard: {name}: True or False is needed, not {value!r}")
        if allowed_identity_types is not None:
            _check_names("HandshakeAuthGuard: allowed_identity_types", allowed_identity_types)
        elif not require_identity and not require_session:
            raise ValueError("HandshakeAuthGuard: it asks for nothing; leave it out")
        self.require_identity = require_identity
        self.require_session = require_session
        self.allowed_identity_types = (
            None if allowed_identity_types is None else frozenset(allowed_identity_types)
        )

    def check_handshake(self, handshake: Handshake) -> None:
        """See `SocketGuard`."""
        identity, allowed = handshake.identity, self.allowed_identity_types
        if identity is None and self.require_identity:
            raise ws_auth_required()
        if not handshake.session and self.require_session:
            raise ws_auth_required("a session is required")
        if identity is not None and allowed is not None and getattr(identity, "type", None) not in allowed:
            raise ws_forbidden("this type of identity is not allowed here")


class MessageAuthGuard(SocketGuard):
    """Lets events pass while the connection's identity is good; else they end the connection.

    Who is anonymous gets WS_AUTH_REQUIRED, and who has expired WS_TOKEN_EXPIRED. Each `check_interval` seconds, when
    an event comes, the app's AuthManager is asked whether the identity is `still_valid`, if it can tell.

    Raises:
        ValueError: for an interval that is no time.
    """

    def __init__(self, *, check_interval: float = 300) -> None:
        if (
            isinstance(check_interval, bool)
            or not isinstance(check_interval, int | float)
            or not isfinite(check_interval)
            or check_interval <= 0
        ):
            raise ValueError(
                "MessageAuthGuard: check_interval: a number of seconds above 0 is needed, "
                f"not {check_interval!r}"
            )
        self.check_interval = float(check_interval)
        self._checked: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> Awaitable[None] | None:
        """See `SocketGuard`."""
        identity = conn._identity
        if identity is None:
            raise ws_auth_required()
        if conn._heard_at >= conn._good_until:
            moment = expiry(identity)
            if moment is not None and moment <= conn._hub.clock.time():
                raise ws_token_expired()
        auth = conn._home.auth
        if auth is None or not auth.revocable:
            return None
        now = conn._hub.clock.time()
        since = now - self._checked.get(conn, conn._created)
        if 0 <= since < self.check_interval:  # below 0 where the system's clock was set back
            return None
        return self._check(conn, identity, now)

    async def _check(self, conn: Connection, identity: Any, now: float) -> None:
        if not await conn._home.auth.still_valid(identity):
            raise ws_auth_required("the identity is not valid any more")
        self._checked[conn] = now


class _IdentityGuard(SocketGuard):
    """Looks at the identity alone: at the handshake, for each event, and before each room."""

    def check_handshake(self, handshake: Handshake) -> None:
        """See `SocketGuard`."""
        self._check(handshake.identity)

    def check_message(self, conn: Connection, envelope: MessageEnvelope) -> None:
        """See `SocketGuard`."""
        self._check(conn._identity)

    def check_room(self, conn: Connection, room: str) -> None:
        """See `SocketGuard`."""
        self._check(conn._identity)

    def _check(self, identity: Any) -> None:
        raise NotImplementedError


class RoleGuard(_IdentityGuard):
    """Lets in, also into rooms, and lets events pass of, identities that have one of these roles.

    Who is anonymous gets WS_AUTH_REQUIRED, who has none of the roles WS_FORBIDDEN.

    Raises:
        ValueError: without roles, or for what is no role.
    """

    def __init__(self, *roles: str) -> None:
        _check_names("RoleGuard: roles", roles)
        self.roles = frozenset(roles)

    def _check(self, identity: Any) -> None:
        if identity is None:
            raise ws_auth_required()
        if self.roles.isdisjoint(getattr(identity, "roles", ())):
            raise ws_forbidden("the identity has none of the roles that may do this")


class ScopeGuard(_IdentityGuard):
    """Lets in, also into rooms, and lets events pass of, identities with all of these scopes (RFC 6749 section 3.3).

    Who is anonymous gets WS_AUTH_REQUIRED, who lacks one of the scopes WS_FORBIDDEN.

    Raises:
        ValueError: without scopes, or for what is no scope.
    """

    def __init__(self, *scopes: str) -> None:
        _check_names("ScopeGuard: scopes", scopes)
        self.scopes = frozenset(scopes)

    def _check(self, identity: Any) -> None:
        if identity is None:
            raise ws_auth_required()
        if not self.scopes.issubset(getattr(identity, "scopes", ())):
            raise ws_forbidden("the identity lacks a scope for this")


def _check_names(what: str, names: object) -> None:
    if isinstance(names, str | Mapping) or not isinstance(names, Collection):
        raise ValueError(f"{what}: a list of strings is needed, not {names!r}")
    if not names:
        raise ValueError(f"{what}: at least one is needed")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{what}: each is a string, not {name!r}")
