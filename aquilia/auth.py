"""Authentication: who a client is, and how an app finds out.

An app's manifest names an AuthManager: `AppManifest("chat", auth=JWTAuthManager())`. It gets the token of each
request that has one (`Authorization: Bearer …`, RFC 6750) and of each WebSocket, and what it returns is
`ctx.identity` and `conn.identity`. It is asked after the app's middleware, and leaves alone an identity that one of
them has set.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from starlette.requests import HTTPConnection
from starlette.responses import Response

from aquilia.controller import RequestCtx
from aquilia.di import Constructor, Consumer, Scope, ScopeContainer, Services, constructor_dependencies
from aquilia.faults import Fault, FaultDomain, Severity
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

_NEVER = 2.0**53 / 1000
"""A moment that its milliseconds cannot be told of: JavaScript has no whole numbers from there on."""

TOKEN_INVALID = "AUTH_TOKEN_INVALID"
TOKEN_EXPIRED = "AUTH_TOKEN_EXPIRED"
ACCESS_REVOKED = "access was revoked"
"""What is told to whom it was taken from."""


@dataclass(frozen=True, slots=True, init=False)
class Identity:
    """Who a client is. Immutable.

    `id` names it within the application, `type` says what it is ("user", "service", …). `attributes` is what else is
    known of it. At `expires_at`, in seconds since 1970, its connections are closed; None is never. `token_id` and
    `issued_at` are of the token that it came by, where that has them (RFC 7519: `jti`, `iat`): by these its access
    can be taken back. Identities are equal without regard to those two.

    Raises:
        ValueError: for values of the wrong kind.
    """

    id: str
    type: str
    roles: frozenset[str]
    scopes: frozenset[str]
    attributes: Mapping[str, Any] = field(hash=False)
    expires_at: float | None
    token_id: str | None = field(compare=False)
    issued_at: float | None = field(compare=False)

    def __init__(
        self,
        id: str,
        *,
        type: str = "user",
        roles: Collection[str] = (),
        scopes: Collection[str] = (),
        attributes: Mapping[str, Any] = MappingProxyType({}),
        expires_at: float | None = None,
        token_id: str | None = None,
        issued_at: float | None = None,
    ) -> None:
        for name, value in (
            ("id", id),
            ("type", type),
            *([] if token_id is None else [("token_id", token_id)]),
        ):
            if not isinstance(value, str) or not value:
                raise ValueError(f"Identity: {name}: a string is needed, not {value!r}")
        if not isinstance(attributes, Mapping) or not all(isinstance(key, str) for key in attributes):
            raise ValueError("Identity: attributes: a mapping with strings as keys is needed")
        fields: dict[str, Any] = {
            "id": id,
            "type": type,
            "roles": _names("roles", roles),
            "scopes": _names("scopes", scopes),
            "attributes": MappingProxyType(dict(attributes)),
            "expires_at": _moment("expires_at", expires_at),
            "token_id": token_id,
            "issued_at": _moment("issued_at", issued_at),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def has_role(self, *roles: str) -> bool:
        """Whether it has one of these roles."""
        return not self.roles.isdisjoint(roles)

    def has_scope(self, *scopes: str) -> bool:
        """Whether it has all of these scopes."""
        return self.scopes.issuperset(scopes)


def _names(what: str, values: object) -> frozenset[str]:
    wanted = f"Identity: {what}: a list of strings without spaces is needed, not {values!r}"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Collection):
        raise ValueError(wanted)
    if not all(isinstance(value, str) and value and not set(value) & set(" \t\r\n") for value in values):
        raise ValueError(wanted)
    return frozenset(values)


def _moment(what: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"Identity: {what}: seconds since 1970 are needed, or None, not {value!r}")
    return float(value)


def expiry(identity: Any) -> float | None:
    """When an identity expires, in seconds since 1970; None: never. One of an application's own need not say.

    Raises:
        TypeError: for what is no moment: nobody would know when it is over.
    """
    moment = getattr(identity, "expires_at", None)
    if moment is None:
        return None
    if not isinstance(moment, int | float) or isnan(moment):
        raise TypeError(
            f"{type(identity).__qualname__}.expires_at: seconds since 1970 are needed, or None, not {moment!r}"
        )
    return moment if moment < _NEVER else None


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
        if ctx.identity is None and (token := bearer_token(ctx.request)) is not None:
            ctx.identity = await self.authenticate(token)
        return await call_next(ctx)
