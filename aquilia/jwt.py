"""JSON Web Tokens (RFC 7519) as credentials: `JWTAuthManager`, on joserfc.

What can be wrong with a key is said when the manager is made: an algorithm that is not for this kind of key (RFC 8725
section 3.1), a secret that is shorter than its algorithm's hash (RFC 7518 section 3.2), an RSA key below 2048 bits
(section 3.3).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError, SecurityWarning, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry

from aquilia.auth import Identity, token_expired, token_invalid
from aquilia.clock import now

__all__ = ["KEY_VARIABLE", "JWTAuthManager"]

KEY_VARIABLE = "AQ_AUTH_KEY"
"""The environment variable that has the key where the code has none."""

_Key = OctKey | RSAKey | ECKey | OKPKey

_ALGORITHMS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), ("oct", "")),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    **dict.fromkeys(("Ed25519", "EdDSA"), ("OKP", "Ed25519")),
}
"""The kind of key, and its curve, by algorithm. EdDSA is what Ed25519 was called before RFC 9864."""
_KINDS = {
    "oct": "a shared secret",
    "RSA": "an RSA key",
    "EC": "an elliptic curve key",
    "OKP": "an Edwards curve key",
}
_LEAST_RSA_BITS = 2048
_PUBLIC = (b"BEGIN ", b"ssh-rsa ", b"ssh-ed25519 ", b"ssh-dss ", b"ecdsa-sha2-")
"""What is in the text of keys that are no secrets."""
_NOT_ATTRIBUTES = {"exp", "nbf", "iat", "jti", "aud"}


class _Registry(JWSRegistry):
    """Algorithms by our list alone; header parameters that it does not know are ignored (RFC 7515 section 4)."""

    max_header_length = 4096

    def __init__(self, algorithms: Sequence[str]) -> None:
        super().__init__(algorithms=list(algorithms), strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        """One of ours. Without the library's warnings: what may be used was decided when the manager was made."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"{name!r} is not allowed")
        return self.algorithms[name]


class JWTAuthManager:
    """An `AuthManager` for signed JSON Web Tokens.

    `key` is a secret (str or bytes), a PEM, a JWK or a JWKS as a mapping or JSON; without, what the environment has
    in AQ_AUTH_KEY. `algorithms` are those that a token may be signed with: by default HS256 for a secret, RS256 for
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
            raise _wrong("leeway", f"a number of seconds is needed, not {leeway!r}")
        for name, value in (("issuer", issuer), ("audience", audience)):
            if value is not None and (not isinstance(value, str) or not value):
                raise _wrong(name, f"a string is needed, not {value!r}")
        for name, value in (("id_claim", id_claim), ("type_claim", type_claim), ("roles_claim", roles_claim)):
            if not isinstance(value, str) or not value:
                raise _wrong(name, f"the name of a claim is needed, not {value!r}")
        self._keys = _keys(_from_environment() if key is None else key)
        self.algorithms = _algorithms(self._keys, algorithms)
        """What a token may be signed with."""
        self.issuer = issuer
        self.audience = audience
        self.leeway = float(leeway)
        self._id, self._type, self._roles = id_claim, type_claim, roles_claim
        self._scopes = _claim_names(scope_claims)
        self._registry = _Registry(self.algorithms)
        # A key that is named is found by its name alone; one without a name is for every token.
        named = len(self._keys) > 1 or self._keys[0].kid is not None
        self._verify_with: Any = KeySet(list(self._keys)) if named else self._keys[0]
        expected: dict[str, Any] = {"exp": {"essential": True}}
        if issuer is not None:
            expected["iss"] = {"essential": True, "value": issuer}
        if audience is not None:
            expected["aud"] = {"essential": True, "value": audience}
        self._claims = jwt.JWTClaimsRegistry(now=lambda: int(now()), leeway=int(leeway), **expected)

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
        """See `AuthManager`."""
        try:
            claims = jwt.decode(token, self._verify_with, registry=self._registry).claims
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
            raise _wrong("lifetime", f"a number of seconds above 0 is needed, not {lifetime!r}")
        key, algorithm = self._signing()
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
        header = {"alg": algorithm} if key.kid is None else {"alg": algorithm, "kid": key.kid}
        return jwt.encode(header, claims, key, registry=self._registry)

    def _signing(self) -> tuple[_Key, str]:
        for key in self._keys:
            if key.is_private:
                for algorithm in self.algorithms:
                    if _fits(algorithm, key):
                        return key, algorithm
        raise ValueError("JWTAuthManager: this is a public key: it verifies tokens, and issues none")


def _wrong(argument: str, problem: str) -> ValueError:
    return ValueError(f"JWTAuthManager: {argument}: {problem}")


# Keys


def _from_environment() -> str:
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise _wrong(
            "key",
            f"none was given, and the environment has no {KEY_VARIABLE}; set it to a secret of 32 bytes or more, "
            "such as `openssl rand -base64 32` makes, or to a PEM, JWK or JWKS",
        )
    return key


def _keys(given: object) -> tuple[_Key, ...]:
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except ValueError:
            raise _wrong("key", "it begins like the JSON of a JWK or JWKS, and is none") from None
    try:
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):  # we refuse where it warns
            found = _imported(given)
    except (JoseError, KeyError, TypeError) as error:
        # The key itself is in no message.
        raise _wrong("key", f"it cannot be read: {type(error).__name__}") from None
    for key in found:
        if isinstance(key, RSAKey) and key.raw_value.key_size < _LEAST_RSA_BITS:
            raise _wrong("key", f"an RSA key has {_LEAST_RSA_BITS} bits or more (RFC 7518 section 3.3)")
    return tuple(found)


def _imported(given: object) -> list[_Key]:
    if isinstance(given, Mapping):
        return _of_mapping(given)
    if isinstance(given, str | bytes):
        return [_of_text(given.encode() if isinstance(given, str) else given)]
    raise _wrong("key", f"a str, bytes or mapping is needed, not a {type(given).__qualname__}")


def _of_mapping(given: Mapping[str, Any]) -> list[_Key]:
    if "keys" not in given:
        return [_jwk(given)]
    if not isinstance(given["keys"], list) or not given["keys"]:
        raise _wrong("key", "a JWKS has a list of JWKs in 'keys'")
    found = [
        _jwk(each)
        for each in given["keys"]
        if not isinstance(each, Mapping) or each.get("use", "sig") == "sig"
    ]
    if not found:
        raise _wrong("key", "the JWKS has no key for signatures: all of them have another 'use'")
    names = [key.kid for key in found]
    if len(found) > 1 and (None in names or len(set(names)) < len(names)):
        raise _wrong("key", "each key of a JWKS needs a 'kid' of its own, by which tokens name it")
    return found


def _jwk(given: Any) -> _Key:
    if not isinstance(given, Mapping):
        raise _wrong("key", "a JWK is a mapping")
    if given.get("kty") not in _KINDS:
        raise _wrong("key", f"a JWK has a 'kty': {', '.join(_KINDS)}; not {given.get('kty')!r}")
    try:
        return import_key(dict(given))
    except ValueError:
        raise _wrong("key", f"the JWK {given.get('kid')!r} cannot be read") from None


def _of_text(given: bytes) -> _Key:
    if not given:
        raise _wrong("key", "it is empty")
    if b"-----BEGIN" in given:
        for kind in (RSAKey, ECKey, OKPKey):
            try:
                return kind.import_key(given)
            except (ValueError, TypeError, JoseError):
                continue
        raise _wrong("key", "the PEM cannot be read as an RSA, EC or Ed25519 key")
    try:
        if any(mark in given for mark in _PUBLIC):  # with a space before it, no loader would know it
            raise ValueError
        return OctKey.import_key(given)
    except ValueError:
        raise _wrong("key", "this is a public key, which is no secret: give it as PEM or JWK") from None


# Algorithms


def _algorithms(keys: Sequence[_Key], asked: object) -> tuple[str, ...]:
    if asked is None:
        chosen = tuple(dict.fromkeys(_usual(key) for key in keys))
    elif isinstance(asked, str) or not isinstance(asked, Sequence) or not asked:
        raise _wrong("algorithms", f"a list such as ['HS256'] is needed, not {asked!r}")
    else:
        chosen = tuple(asked)
    for algorithm in chosen:
        if algorithm not in _ALGORITHMS:
            raise _wrong("algorithms", f"{algorithm!r} is none of {', '.join(_ALGORITHMS)}")
        if not any(_fits(algorithm, key) for key in keys):
            own = ", ".join(name for name in _ALGORITHMS if _fits(name, keys[0]))
            kinds = " and ".join(dict.fromkeys(_KINDS[key.key_type] for key in keys))
            raise _wrong(
                "algorithms",
                f"{algorithm} takes {_KINDS[_ALGORITHMS[algorithm][0]]}, and the key is {kinds} (accepted: {own})",
            )
    for key in keys:
        _check_strength(key, [name for name in chosen if _fits(name, key)])
    return chosen


def _usual(key: _Key) -> str:
    declared = key.get("alg")
    if isinstance(declared, str):
        return declared
    fitting = [name for name in _ALGORITHMS if _fits(name, key)]
    if not fitting:
        raise _wrong("key", f"no algorithm is for the curve of this key (accepted: {', '.join(_ALGORITHMS)})")
    return fitting[0]


def _fits(algorithm: str, key: _Key) -> bool:
    kind, curve = _ALGORITHMS[algorithm]
    declared = key.get("alg")
    if key.key_type != kind or declared not in (None, algorithm):
        return False
    return not curve or key.get("crv") == curve


def _check_strength(key: _Key, algorithms: Sequence[str]) -> None:
    if not algorithms:
        raise _wrong("algorithms", f"none is for one of the keys, {_KINDS[key.key_type]}")
    if isinstance(key, OctKey):
        needed, has = max(int(name[2:]) // 8 for name in algorithms), len(key.raw_value)
        if has < needed:
            raise _wrong(
                "key",
                f"the secret has {has} bytes, and {max(algorithms)} needs {needed} or more (RFC 7518 section 3.2); "
                "`openssl rand -base64 48` makes a good one",
            )


# Claims


def _claim_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise _wrong("scope_claims", f"a list of claims is needed, not {names!r}")
    if not all(isinstance(name, str) and name for name in names):
        raise _wrong("scope_claims", f"a list of claims is needed, not {names!r}")
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
