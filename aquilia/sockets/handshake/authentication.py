"""Whose connection it is to be: the token or ticket of a handshake, and of protocol v1's `hello`.

A client of v1 may bring it in `hello`, which comes behind the upgrade. So where a guard wants to know who it
is (WS_AUTH_REQUIRED), and the client brought none to the handshake, the verdict waits for `hello`; until then
the connection can do nothing. Guards behind that one may rely on it, so they wait too, but for those on origins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aquilia.auth import TOKEN_EXPIRED, Authenticator, Identity, TokenFault, expiry
from aquilia.clock import now
from aquilia.faults import Fault
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.faults import ws_auth_required, ws_handshake_failed, ws_token_expired
from aquilia.sockets.guards import Check, OriginGuard, guard_checks, passes
from aquilia.sockets.handshake.offered_credentials import Credential, offered_credential
from aquilia.sockets.handshake.request import Handshake
from aquilia.sockets.limits.quotas import Seat

__all__ = [
    "Arrival",
    "Threshold",
    "authenticated",
    "check_identity",
    "require_same",
    "seconds_left",
]


async def authenticated(auth: Authenticator, token: str) -> Identity:
    """Whose token it is.

    Raises:
        SocketFault: WS_AUTH_REQUIRED, WS_TOKEN_EXPIRED.
    """
    try:
        return await auth.authenticate(token)
    except TokenFault as fault:
        make = ws_token_expired if fault.code == TOKEN_EXPIRED else ws_auth_required
        raise make(fault.message) from None


def check_identity(identity: Any) -> None:
    """Refuse what a middleware has set, and connections could not be kept by.

    Raises:
        TypeError: for an `id` that cannot be a key, or an `expires_at` that is no moment.
    """
    expiry(identity)
    id = getattr(identity, "id", None)
    try:
        hash(id)
    except TypeError:
        raise TypeError(
            f"{type(identity).__qualname__}.id: what can be a key is needed, not {type(id).__qualname__}"
        ) from None


def seconds_left(identity: Any) -> float | None:
    """How long an identity is good; None: for ever."""
    moment = expiry(identity)
    return None if moment is None else moment - now()


class Threshold:
    """What a client has to pass to open a connection to one controller, but for its address and its origin."""

    def __init__(self, contract: SocketContract) -> None:
        self.auth = contract.auth
        self.tickets = contract.tickets
        guards = guard_checks((*contract.chain.guards, *contract.declaration.guards), "check_handshake")
        self._checks = [check for _, check in sorted(guards, key=lambda entry: entry[0])]
        if contract.settings.require_auth:
            self._checks.insert(0, _require_identity)  # the guards may rely on it
        self._methods = [
            guard.handler.attribute for guard in contract.guards if guard.declaration.on == "handshake"
        ]

    @property
    def takes_credentials(self) -> bool:
        """Whether a client can say who it is."""
        return self.auth is not None or self.tickets is not None

    async def identify(self, handshake: Handshake, subprotocols: Iterable[str]) -> bool:
        """Authenticate by what the handshake brought, where no middleware has. Whether there was something.

        Raises:
            SocketFault: for a token or ticket that is not accepted.
        """
        if handshake.identity is not None or not self.takes_credentials:
            return False
        offered = offered_credential(handshake.connection, subprotocols, handshake._carried)
        if offered is None or (offered.kind == "token" and self.auth is None):
            return False
        handshake.identity = await self.identity_of(offered, handshake)
        return True

    async def identity_of(self, offered: Credential, handshake: Handshake) -> Identity:
        """Whose token or ticket it is that came with, or behind, this handshake.

        Raises:
            SocketFault: WS_AUTH_REQUIRED, WS_TOKEN_EXPIRED; WS_HANDSHAKE_FAILED, where there are none of its kind.
        """
        if offered.kind == "ticket":
            if self.tickets is None:
                raise ws_handshake_failed("this server takes no tickets")
            taken = await self.tickets.take(offered.text, handshake.namespace)
            handshake._bound_to = taken.session
            return taken.identity
        if self.auth is None:
            raise ws_handshake_failed("this server checks no tokens: it has no AuthManager")
        return await authenticated(self.auth, offered.text)

    async def ask_guards(self, handshake: Handshake, *, may_wait: bool = False) -> Fault | None:
        """Ask the guards in the order of their priorities. With `may_wait` returns a verdict that waits for `hello`.

        Raises:
            Exception: what a guard raised.
        """
        return await _ask(self._checks, handshake, may_wait)

    async def ask_methods(
        self, handshake: Handshake, controller: Any, *, may_wait: bool = False
    ) -> Fault | None:
        """Ask the controller's own guards, as `ask_guards` does the others."""
        return await _ask([getattr(controller, name) for name in self._methods], handshake, may_wait)


async def _ask(checks: Sequence[Check], handshake: Handshake, may_wait: bool) -> Fault | None:
    verdict = None
    for check in checks:
        if verdict is not None and not isinstance(getattr(check, "__self__", None), OriginGuard):
            continue
        try:
            await passes(check, handshake)
        except Fault as fault:
            if not may_wait or fault.code != "WS_AUTH_REQUIRED":
                raise
            verdict = fault.with_traceback(None)  # which leads back to this frame
    return verdict


def _require_identity(handshake: Handshake) -> None:
    if handshake.identity is None:
        raise ws_auth_required()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client of v1 that has been let in, and may say in its `hello` who it is."""

    threshold: Threshold
    handshake: Handshake
    controller: Any
    verdict: Fault | None
    """Why it may not stay as who it is now."""
    seat: Seat | None = None
    """What it is counted by."""
    resumes: bool = False
    """Whether its `hello` may name a session to come back to."""

    async def identify(self, shown: Credential) -> None:
        """Authenticate by what `hello` brought; all guards are asked again.

        Raises:
            SocketFault: for what is not accepted, or is of somebody else than that of the handshake; for an identity
                that has all the connections that it may have.
            Exception: what a guard raised.
        """
        identity = await self.threshold.identity_of(shown, self.handshake)
        require_same(self.handshake.identity, identity, "hello")
        if self.seat is not None:
            self.seat.claim(identity, may_wait=self.resumes)
        self.handshake.identity = identity
        await self.threshold.ask_guards(self.handshake)
        await self.threshold.ask_methods(self.handshake, self.controller)


def require_same(known: Any, identity: Identity, where: str) -> None:
    """Refuse that a connection changes hands; in `hello` an anonymous one may say who it is.

    Raises:
        SocketFault: WS_AUTH_REQUIRED.
    """
    if known is not None and getattr(known, "id", None) != identity.id:
        raise ws_auth_required(f"the token in {where} is of another identity than the connection")
