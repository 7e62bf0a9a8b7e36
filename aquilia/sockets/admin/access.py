"""Who is an admin over HTTP: whoever has the secret of the environment, or a token of somebody with the admins' role.

Either comes in the header `Authorization`, and from nowhere else: no session, cookie or middleware counts.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import os
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from starlette.requests import Request

from aquilia.aquilary import BootError, Problem
from aquilia.auth import TOKEN_EXPIRED, Authenticator, bearer_token, expiry, token_expired, token_invalid
from aquilia.clock import Clock
from aquilia.faults import Fault
from aquilia.sockets.faults import (
    ws_auth_required,
    ws_forbidden,
    ws_overloaded,
    ws_rate_limit_exceeded,
)
from aquilia.sockets.limits.addresses import AddressRates, address_key

__all__ = [
    "ADMIN_SECRET",
    "ADMIN_SECRET_FILE",
    "AdminAccess",
    "LacksRole",
    "TooManyWrong",
    "admin_secret",
]

ADMIN_SECRET = "AQ_ADMIN_SECRET"
"""The environment variable with the secret."""
ADMIN_SECRET_FILE = "AQ_ADMIN_SECRET_FILE"
"""The one with the path of a file that has it."""
LEAST_SECRET = 32
WRONG, PER_SECOND = 10, 0.2
"""So many wrong secrets and tokens of one address are looked at, and so many more a second."""
HOLDER = "the secret's holder"
"""What the audit calls whoever came with it."""
_MAKE = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


def admin_secret() -> str | None:
    """What the environment has; None: nothing.

    Raises:
        ValueError: it is unfit, or its file cannot be read.
    """
    said, file = os.environ.get(ADMIN_SECRET), os.environ.get(ADMIN_SECRET_FILE)
    if said and file:
        raise ValueError(f"{ADMIN_SECRET} and {ADMIN_SECRET_FILE} are both set: leave one of the two out")
    where = ADMIN_SECRET
    if file:
        where = f"the file that {ADMIN_SECRET_FILE} names"
        try:
            said = Path(file).read_text("utf-8").strip()
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError:
            raise ValueError(f"{where} has no text") from None
        if not said:
            raise ValueError(f"{where} is empty; {_MAKE}")
    if not said:
        return None
    if not said.isascii() or not said.isprintable() or " " in said:
        raise ValueError(
            f"{where} has characters that no header takes: only ASCII without spaces does; {_MAKE}"
        )
    if len(said) < LEAST_SECRET:
        raise ValueError(f"{where} has {len(said)} characters, and {LEAST_SECRET} are needed; {_MAKE}")
    return said


class TooManyWrong(Exception):
    """Too many wrong secrets came from this address. Nothing of it is looked at for `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.wait = math.ceil(wait)

    @property
    def fault(self) -> Fault:
        """What is answered."""
        return ws_rate_limit_exceeded("too many wrong secrets came from this address: wait")


class LacksRole(Exception):
    """The token is good, and its `identity` is no admin."""

    def __init__(self, identity: Any) -> None:
        super().__init__()
        self.identity = identity
        self.fault: Fault = ws_forbidden("this is for admins")


class AdminAccess:
    """Looks at what a request brings.

    With a `role`, a token counts whose identity has it by the word of `auth`, the AuthManager of the app that asks
    for this; it has `patience` seconds for that.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        role: str | None = None,
        auth: Authenticator | None = None,
        patience: float = 10.0,
    ) -> None:
        self._clock = clock
        self._role = role
        self._auth = auth if role is not None else None
        self._patience = patience
        self._secret = b""
        self._wrong = AddressRates(PER_SECOND, WRONG)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def load(self) -> None:
        """Take the secret from the environment.

        Raises:
            BootError: there is none, and no role is set; or it is unfit.
        """
        try:
            secret = admin_secret()
        except ValueError as error:
            raise BootError([Problem("admin", str(error))]) from error
        if secret is None and self._auth is None:
            told = (
                f"nobody could be an admin: set {ADMIN_SECRET} or {ADMIN_SECRET_FILE}, or the setting admin_role, or "
                "leave the setting out"
            )
            raise BootError([Problem("admin", f"{told}; {_MAKE}")])
        self._secret = b"" if secret is None else sha256(secret.encode()).digest()

    async def require(self, request: Request) -> str:
        """See to it that a request is an admin's: by `Authorization: Bearer`, and nothing else. Who it is.

        Raises:
            Fault: WS_AUTH_REQUIRED for no secret or token, AUTH_TOKEN_INVALID for a wrong one; AUTH_TOKEN_EXPIRED;
                WS_OVERLOADED if the AuthManager takes too long; whatever else it raises.
            LacksRole: the token is of somebody else.
            TooManyWrong: nothing of this address is looked at for a while.
        """
        given = bearer_token(request)
        if given is None:
            wanted = "the admin's secret" if self._auth is None else "the secret or token of an admin"
            raise ws_auth_required(f"{wanted} is needed, as Authorization: Bearer …")
        address = address_key(request.client.host if request.client else "")
        self._require_patience(address)
        # As digests: neither the length nor the place of the first difference shows in the time.
        if hmac.compare_digest(sha256(given.encode()).digest(), self._secret):
            return HOLDER
        if self._auth is None:
            raise self._miss(address)
        # One after the other: else as many are looked at as come while the first is.
        turn = self._turns.setdefault(address, asyncio.Lock())
        async with turn:
            self._require_patience(address)
            return await self._named(self._auth, given, address)

    def _require_patience(self, address: str) -> None:
        if (wait := self._wrong.wait(address, self._clock.monotonic())) > 0:
            raise TooManyWrong(wait)

    def _miss(self, address: str) -> Fault:
        self._wrong.take(address, self._clock.monotonic())
        return token_invalid("this is not the admin's secret")

    async def _named(self, auth: Authenticator, token: str, address: str) -> str:
        try:
            async with asyncio.timeout(self._patience):
                identity = await auth.authenticate(token)
        except TimeoutError:
            raise ws_overloaded("the AuthManager did not answer in time") from None
        except Fault as fault:
            if fault.status == 401 and fault.code != TOKEN_EXPIRED:  # which somebody had once: it is no guess
                raise self._miss(address) from fault
            raise
        except Exception:
            self._miss(address)
            raise
        moment = expiry(identity)
        if moment is not None and moment <= self._clock.time():
            raise token_expired()
        if self._role is None or not identity.has_role(self._role):
            raise LacksRole(identity)
        return identity.id
