"""Who is an admin over HTTP: whoever has the secret of the environment."""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request

from aquilia.aquilary import BootError, Problem
from aquilia.auth import bearer_token, token_invalid
from aquilia.faults import Fault
from aquilia.sockets.addresses import AddressRates, address_key
from aquilia.sockets.faults import ws_auth_required, ws_rate_limit_exceeded

__all__ = ["ADMIN_SECRET", "ADMIN_SECRET_FILE", "AdminAccess", "TooManyWrong", "admin_secret"]

ADMIN_SECRET = "AQ_ADMIN_SECRET"
"""The environment variable with the secret."""
ADMIN_SECRET_FILE = "AQ_ADMIN_SECRET_FILE"
"""The one with the path of a file that has it."""
LEAST_SECRET = 32
WRONG, PER_SECOND = 10, 0.2
"""So many wrong secrets of one address are looked at, and so many more a second."""
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


class AdminAccess:
    """Looks at the secret that a request brings. `now` is a clock that never goes back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._secret = b""
        self._wrong = AddressRates(PER_SECOND, WRONG)

    def load(self) -> None:
        """Take the secret from the environment.

        Raises:
            BootError: there is none, or it is unfit.
        """
        try:
            secret = admin_secret()
        except ValueError as error:
            raise BootError([Problem("admin", str(error))]) from error
        if secret is None:
            told = f"nobody could be an admin: set {ADMIN_SECRET} or {ADMIN_SECRET_FILE}, or leave the setting out"
            raise BootError([Problem("admin", f"{told}; {_MAKE}")])
        self._secret = sha256(secret.encode()).digest()

    def require(self, request: Request) -> None:
        """See to it that a request is an admin's: by `Authorization: Bearer`, and nothing else.

        Raises:
            Fault: WS_AUTH_REQUIRED for no secret, AUTH_TOKEN_INVALID for a wrong one.
            TooManyWrong: no secret of this address is looked at for a while.
        """
        given = bearer_token(request)
        if given is None:
            raise ws_auth_required("the admin's secret is needed, as Authorization: Bearer …")
        address = address_key(request.client.host if request.client else "")
        now = self._now()
        if (wait := self._wrong.wait(address, now)) > 0:
            raise TooManyWrong(wait)
        # As digests: neither the length nor the place of the first difference shows in the time.
        if not hmac.compare_digest(sha256(given.encode()).digest(), self._secret):
            self._wrong.take(address, now)
            raise token_invalid("this is not the admin's secret")
