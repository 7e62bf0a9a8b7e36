"""JSON Web Tokens (RFC 7519) as credentials: `JWTAuthManager`, on joserfc.

What can be wrong with a key is said when the manager is made: see `aquilia.jwt_keys`. Keys that somebody else
publishes are looked at when they come: see `aquilia.jwks`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError

from aquilia.auth import Identity, token_expired, token_invalid
from aquilia.clock import now
from aquilia.jwks import JWKS, KeySource
from aquilia.jwt_keys import TrustedKeys, given_keys, kid_of, published_keys, require_algorithms, wrong

__all__ = ["KEY_VARIABLE", "JWTAuthManager"]

KEY_VARIABLE = "AQ_AUTH_KEY"
"""The environment variable that has the key where the code has none."""

_NOT_ATTRIBUTES = {"exp", "nbf", "iat", "jti", "aud"}


class JWTAuthManager:
    """An `AuthManager` for signed JSON Web Tokens.

    `key` is a secret (str or bytes), a PEM, a JWK or a JWKS as a mapping or JSON; without, what the environment has
    in AQ_AUTH_KEY. In its place, `jwks` is where keys are published, and changed: a URL, the path of a file, or a
    `JWKS`. `algorithms` are those that a token may be signed with: by default HS256 for a secret, RS256 for
    RSA, and for the others what their curve is for. A token needs `exp`; `issuer` and `audience`, where given, must
    be its `iss` and among its `aud`. `leeway` is what clocks may differ by, in seconds: an identity expires so much
    after its token.

    The id is in `id_claim`, that of the token in `jti`. The claims in `scope_claims` are lists, or texts with spaces
    between. What else a token says is in `identity.attributes`.

    Raises:
        ValueError: for a key or an algorithm that would not be safe, and for wrong arguments.
    """

    def __init__(
        self,
        key: str | bytes | Mapping[str, Any] | None = None,
        *,
        jwks: JWKS | str | os.PathLike[str] | None = None,
        algorithms: Sequence[str] | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 10,
        id_claim: str = "sub",
        type_claim: str = "type",
        roles_claim: str = "roles",
        scope_claims: Sequence[str] = ("scope", "scopes"),
    ) -> None:
        if isinstance(leeway, bool) or not isinstance(leeway, int | float) or not 0 <= leeway < float("inf"):
            raise wrong("leeway", f"a number of seconds is needed, not {leeway!r}")
        for name, value in (("issuer", issuer), ("audience", audience)):
            if value is not None and (not isinstance(value, str) or not value):
                raise wrong(name, f"a string is needed, not {value!r}")
        for name, value in (("id_claim", id_claim), ("type_claim", type_claim), ("roles_claim", roles_claim)):
            if not isinstance(value, str) or not value:
                raise wrong(name, f"the name of a claim is needed, not {value!r}")
        if key is not None and jwks is not None:
            raise wrong("jwks", "it takes the place of a key: give one of the two")
        self._given: TrustedKeys | None = None
        self._source: KeySource | None = None
        self._allowed: tuple[str, ...] | None = None
        if jwks is None:
            self._given = given_keys(_from_environment() if key is None else key, algorithms)
        else:
            self._source = self._published(jwks, algorithms)
        self.issuer = issuer
        self.audience = audience
        self.leeway = float(leeway)
        self._id, self._type, self._roles = id_claim, type_claim, roles_claim
        self._scopes = _claim_names(scope_claims)
        expected: dict[str, Any] = {"exp": {"essential": True}}
        if issuer is not None:
            expected["iss"] = {"essential": True, "value": issuer}
        if audience is not None:
            expected["aud"] = {"essential": True, "value": audience}
        self._claims = jwt.JWTClaimsRegistry(now=lambda: int(now()), leeway=int(leeway), **expected)

    def _published(self, jwks: JWKS | str | os.PathLike[str], algorithms: Any) -> KeySource:
        if isinstance(jwks, Mapping):
            raise wrong("jwks", "it is where a JWKS is: give the JWKS itself as the key")
        where = jwks if isinstance(jwks, JWKS) else JWKS(jwks)
        allowed = self._allowed = require_algorithms(algorithms, remote=where.remote)
        return where.keys(lambda data: published_keys(data, allowed, remote=where.remote))

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What a token may be signed with: by the keys that there are now, where somebody else publishes them."""
        trusted = self._trusted
        return (self._allowed or ()) if trusted is None else trusted.algorithms

    @property
    def secrets(self) -> list[bytes]:
        """The shared secrets among the keys that it was given: `aq doctor` looks at them. Do not show them."""
        return [] if self._given is None else self._given.secrets

    @property
    def _trusted(self) -> TrustedKeys | None:
        return self._given if self._source is None else self._source.trusted

    async def load_keys(self) -> None:
        """Have the keys of `jwks`: the app awaits this when it starts.

        Raises:
            Fault: AUTH_KEYS_UNAVAILABLE, with the reason.
        """
        if self._source is not None:
            await self._source.load()

    @classmethod
    def boot_problem(cls) -> str | None:
        """Why the class cannot be built in this environment, where nothing is to be injected into it."""
        if cls.__init__ is not JWTAuthManager.__init__:
            return None
        try:
            cls()
        except ValueError as error:
            return str(error)
        return None

    def __repr__(self) -> str:
        return f"JWTAuthManager(algorithms={self.algorithms!r}, issuer={self.issuer!r}, audience={self.audience!r})"

    async def authenticate(self, token: str) -> Identity:
        """See `AuthManager`. Where keys are published by somebody else, it may also raise AUTH_KEYS_UNAVAILABLE."""
        trusted = self._given or await self._current(token)
        try:
            claims = trusted.claims(token)
            # A lone surrogate (RFC 8259 section 8.2) would fail later, wherever it is to be written.
            json.dumps(claims, ensure_ascii=False).encode()
        except Exception:  # whatever a hostile text does to the parsers on its way
            # Nothing of the token is kept: neither in the message nor as the cause.
            raise token_invalid() from None
        try:
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise token_expired() from None
        except JoseError as error:
            claim = getattr(error, "claim", None)
            raise token_invalid(f"the claim {claim!r} of the token is not accepted") from None
        try:
            return self._identity(claims)
        except (ValueError, OverflowError) as error:
            raise token_invalid(f"the claims of the token name nobody: {error}") from None

    async def _current(self, token: str) -> TrustedKeys:
        assert self._source is not None
        return await self._source.keys_for(kid_of(token))

    def _identity(self, claims: dict[str, Any]) -> Identity:
        expires = claims["exp"] + self.leeway
        if not isfinite(expires):
            raise ValueError("exp is no moment")
        used = {self._id, self._type, self._roles, *self._scopes, *_NOT_ATTRIBUTES}
        return Identity(
            _text(claims, self._id),
            type=_text(claims, self._type, "user"),
            roles=_listed(claims, self._roles),
            scopes={scope for claim in self._scopes for scope in _listed(claims, claim)},
            attributes={name: value for name, value in claims.items() if name not in used},
            expires_at=expires,
            token_id=_text(claims, "jti") if "jti" in claims else None,
            issued_at=claims.get("iat"),
        )

    def issue(self, identity: Identity, *, lifetime: float) -> str:
        """A token for this identity, good for `lifetime` seconds: for tests, and for an app that signs its own.

        Raises:
            TypeError: what is no Identity.
            ValueError: the key can only verify, or the lifetime is no time.
        """
        if not isinstance(identity, Identity):
            hint = f"; write Identity({identity!r})" if isinstance(identity, str) else ""
            raise TypeError(f"JWTAuthManager.issue takes an Identity, not {identity!r}{hint}")
        if (
            isinstance(lifetime, bool)
            or not isinstance(lifetime, int | float)
            or not 0 < lifetime < float("inf")
        ):
            raise wrong("lifetime", f"a number of seconds above 0 is needed, not {lifetime!r}")
        trusted = self._trusted
        if trusted is None:
            raise ValueError("JWTAuthManager: there are no keys yet: they are had when the app starts")
        issued = now()
        claims: dict[str, Any] = {
            **identity.attributes,
            self._id: identity.id,
            self._type: identity.type,
            self._roles: sorted(identity.roles),
            self._scopes[0]: " ".join(sorted(identity.scopes)),
            "iat": int(issued),
            "exp": issued + lifetime,
        }
        if identity.token_id is not None:
            claims["jti"] = identity.token_id
        if self.issuer is not None:
            claims["iss"] = self.issuer
        if self.audience is not None:
            claims["aud"] = self.audience
        return trusted.sign(claims)


def _from_environment() -> str:
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise wrong(
            "key",
            f"none was given, and the environment has no {KEY_VARIABLE}; set it to a secret of 32 bytes or more, "
            "such as `openssl rand -base64 32` makes, or to a PEM, JWK or JWKS",
        )
    return key


# Claims


def _claim_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise wrong("scope_claims", f"a list of claims is needed, not {names!r}")
    if not all(isinstance(name, str) and name for name in names):
        raise wrong("scope_claims", f"a list of claims is needed, not {names!r}")
    return tuple(names)


def _text(claims: Mapping[str, Any], claim: str, default: str | None = None) -> str:
    value = claims.get(claim, default)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{claim} is no text")
    return value


def _listed(claims: Mapping[str, Any], claim: str) -> list[str]:
    value = claims.get(claim, [])
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{claim} is no list of texts")
    return value
