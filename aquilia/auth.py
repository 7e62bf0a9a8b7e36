"""Authentication: who a client is, and how an app finds out.

An app's manifest names an AuthManager: `AppManifest("chat", auth=JWTAuthManager())`. It gets the token of each
request that has one (`Authorization: Bearer …`, RFC 6750) and of each WebSocket, and what it returns is
`ctx.identity` and `conn.identity`. It is asked after the app's middleware, and leaves alone an identity that one of
them has set.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from starlette.requests import HTTPConnection
from starlette.responses import Response

from aquilia.controller import RequestCtx
from aquilia.di import Constructor, Consumer, Scope, ScopeContainer, Services, constructor_dependencies
from aquilia.faults import Fault, FaultDomain, Severity
from aquilia.identity import Identity, expiry
from aquilia.middleware import CallNext

__all__ = [
    "ACCESS_REVOKED",
    "MAX_TOKEN_LENGTH",
    "TOKEN_EXPIRED",
    "TOKEN_INVALID",
    "AuthManager",
    "Authenticator",
    "Identity",
    "RevocableAuthManager",
    "TokenFault",
    "bearer_token",
    "expiry",
    "token_expired",
    "token_invalid",
]

MAX_TOKEN_LENGTH = 16_384
"""Characters of a token; a longer one is refused before anybody looks at it."""

TOKEN_INVALID = "AUTH_TOKEN_INVALID"
TOKEN_EXPIRED = "AUTH_TOKEN_EXPIRED"
ACCESS_REVOKED = "access was revoked"
"""What is told to whom it was taken from."""


@runtime_checkable
class AuthManager(Protocol):
    """Knows whose a token is. Any object with this method is one.

    With a method `still_valid` it is also a `RevocableAuthManager`.
    """

    async def authenticate(self, token: str) -> Identity:
        """Whose token this is. It comes from outside: do not log it.

        Raises:
            Fault: `token_invalid()` or `token_expired()`, or one of the application's own.
        """
        ...


@runtime_checkable
class RevocableAuthManager(AuthManager, Protocol):
    """An AuthManager that can also tell whether an identity which is connected is still good."""

    async def still_valid(self, identity: Identity) -> bool:
        """Asked now and then by `MessageAuthGuard`, never for each message."""
        ...


class TokenFault(Fault):
    """A token that cannot be accepted; a new one may be."""

    headers: Mapping[str, str] = MappingProxyType({"www-authenticate": 'Bearer error="invalid_token"'})
    """What goes with an HTTP response of it (RFC 6750 section 3)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(
            code, message, domain=FaultDomain.SECURITY, severity=Severity.WARN, retryable=True, status=401
        )


def token_invalid(message: str = "the token is not valid") -> TokenFault:
    """The token is malformed, not signed by whom it should be, or not meant for us."""
    return TokenFault(TOKEN_INVALID, message)


def token_expired(message: str = "the token has expired") -> TokenFault:
    """The token was valid once."""
    return TokenFault(TOKEN_EXPIRED, message)


def bearer_token(connection: HTTPConnection) -> str | None:
    """The token in the header `Authorization` (RFC 6750 section 2.1); None where there is none, or another scheme.

    Raises:
        Fault: AUTH_TOKEN_INVALID, if the header is there twice, or empty behind the scheme.
    """
    values = connection.headers.getlist("authorization")
    found = [value.strip() for value in values if value.strip().partition(" ")[0].lower() == "bearer"]
    if not found:
        return None
    if len(values) > 1:
        raise token_invalid("the header Authorization came more than once")
    token = found[0].partition(" ")[2].strip()
    if not token or " " in token:
        raise token_invalid("the header Authorization is not of the form 'Bearer TOKEN'")
    return token


class Authenticator:
    """An app's AuthManager at work. As middleware it authenticates HTTP requests.

    `declared` is an AuthManager, or a class that DI builds when the app starts.

    Raises:
        TypeError: for what is no AuthManager.
        DIError: for a class whose constructor does not say what it needs.
    """

    def __init__(self, declared: Any) -> None:
        self._declared = declared
        self._constructor: Constructor[Any] | None = None
        self._manager: AuthManager | None = None
        self._name = declared.__qualname__ if isinstance(declared, type) else type(declared).__qualname__
        self._check("authenticate", "token")
        self.revocable = hasattr(declared, "still_valid")
        """Whether it can tell of an identity in use that it is no longer good."""
        if self.revocable:
            self._check("still_valid", "identity")
        self._dependencies = constructor_dependencies(declared) if isinstance(declared, type) else ()
        if not isinstance(declared, type):
            self._manager = declared
        self.revoked: Callable[[Any], Awaitable[bool]] | None = None
        """Asked of each identity whether its access was taken back; None: it never is."""

    def _check(self, method: str, argument: str) -> None:
        function = getattr(self._declared, method, None)
        if not callable(function):
            raise TypeError(
                f"{self._name} is no AuthManager: it needs `async def authenticate(self, token)`, "
                "as JWTAuthManager(key) has"
            )
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - what is asked is whether it is async
        ):
            raise TypeError(
                f"{self._name}.{method} is not async: write `async def {method}(self, {argument})`"
            )
        given = (None, None) if isinstance(self._declared, type) else (None,)
        try:
            inspect.signature(function).bind(*given)
        except TypeError:
            raise TypeError(f"{self._name}.{method} must take (self, {argument})") from None

    # The life of the app

    def consumers(self) -> list[Consumer]:
        """What DI has to provide, for its check at boot."""
        if self._manager is not None:
            return []
        return [Consumer(self._declared, Scope.APP, self._dependencies)]

    def prepare(self, services: Services) -> None:
        """Look up, at boot, what the constructor of a class needs."""
        if self._manager is None:
            self._constructor = services.constructor(self._declared, Scope.APP)

    async def start(self, container: ScopeContainer) -> None:
        """Build the AuthManager, if it is given as a class; and have its keys, if it says where they are.

        Raises:
            Fault: AUTH_KEYS_UNAVAILABLE, of a `JWTAuthManager`.
        """
        if self._constructor is not None:
            self._manager = await self._constructor.build(container)
        load = getattr(self._manager, "load_keys", None)
        if inspect.iscoroutinefunction(load):
            await load()

    # The work

    async def authenticate(self, token: str) -> Identity:
        """Whose token this is.

        Raises:
            Fault: whatever the AuthManager says of it; AUTH_TOKEN_INVALID, if its access was taken back.
            TypeError: it returned something else than an `Identity`.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise token_invalid(f"the token is longer than {MAX_TOKEN_LENGTH} characters")
        assert self._manager is not None  # the app has started
        identity: object = await self._manager.authenticate(token)
        if not isinstance(identity, Identity):
            kind = type(identity).__qualname__
            raise TypeError(f"{self._name}.authenticate returned a {kind}: it must return an Identity")
        if self.revoked is not None and await self.revoked(identity):
            raise token_invalid(ACCESS_REVOKED)
        return identity

    async def still_valid(self, identity: Any) -> bool:
        """Whether an identity that is in use is still good; yes, where the AuthManager cannot tell.

        Raises:
            TypeError: it returned neither True nor False.
        """
        if not isinstance(self._manager, RevocableAuthManager):
            return True
        valid: object = await self._manager.still_valid(identity)
        if not isinstance(valid, bool):
            kind = type(valid).__qualname__
            raise TypeError(f"{self._name}.still_valid returned a {kind}: it must return True or False")
        return valid

    async def __call__(self, ctx: RequestCtx, call_next: CallNext) -> Response:
        """See `aquilia.middleware.Middleware`."""
        if ctx._identity is None and (token := bearer_token(ctx.request)) is not None:
            ctx.identity = await self.authenticate(token)
        return await call_next(ctx)
