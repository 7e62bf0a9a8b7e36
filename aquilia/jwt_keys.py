"""The keys that JSON Web Tokens are checked by, and what each may be used for.

What can be wrong with a key is said when it is read: an algorithm that is not for this kind of key (RFC 8725 section
3.1), a secret that is shorter than its algorithm's hash (RFC 7518 section 3.2), an RSA key below 2048 bits (section
3.3).
"""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry

__all__ = ["TrustedKeys", "given_keys", "kid_of", "published_keys", "require_algorithms", "wrong"]

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
_MOST_RSA_BITS = 16_384
MOST_KEYS = 100
"""Of a set that somebody publishes."""
_PUBLIC = (b"BEGIN ", b"ssh-rsa ", b"ssh-ed25519 ", b"ssh-dss ", b"ecdsa-sha2-")
"""What is in the text of keys that are no secrets."""


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


class TrustedKeys:
    """Keys, and the algorithms that tokens may be signed with. Immutable."""

    __slots__ = ("_keys", "_kids", "_registry", "_verify_with", "algorithms")

    def __init__(self, keys: Sequence[_Key], algorithms: tuple[str, ...]) -> None:
        self._keys = keys
        self.algorithms = algorithms
        self._registry = _Registry(algorithms)
        # A key that is named is found by its name alone; one without a name is for every token.
        named = len(keys) > 1 or keys[0].kid is not None
        self._verify_with: Any = KeySet(list(keys)) if named else keys[0]
        self._kids = {key.kid for key in keys} if named else None

    @property
    def secrets(self) -> list[bytes]:
        """Those that are shared secrets, and no key pairs. Do not show them."""
        return [key.raw_value for key in self._keys if isinstance(key, OctKey)]

    def knows(self, kid: str | None) -> bool:
        """Whether there is a key for tokens that name this one."""
        return kid is None or self._kids is None or kid in self._kids

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says, if one of the keys has signed it.

        Raises:
            Exception: whatever a hostile text does to the parsers on its way.
        """
        return jwt.decode(token, self._verify_with, registry=self._registry).claims

    def sign(self, claims: dict[str, Any]) -> str:
        """A token that says this.

        Raises:
            ValueError: the keys can only verify.
        """
        key, algorithm = self._signing()
        header = {"alg": algorithm} if key.kid is None else {"alg": algorithm, "kid": key.kid}
        return jwt.encode(header, claims, key, registry=self._registry)

    def _signing(self) -> tuple[_Key, str]:
        for key in self._keys:
            if key.is_private:
                for algorithm in self.algorithms:
                    if _fits(algorithm, key):
                        return key, algorithm
        raise ValueError("JWTAuthManager: this is a public key: it verifies tokens, and issues none")


def given_keys(given: object, algorithms: object) -> TrustedKeys:
    """The keys that an application gives, all of which have to be good.

    Raises:
        ValueError: for a key or an algorithm that would not be safe.
    """
    keys = _keys(given)
    return TrustedKeys(keys, _algorithms(keys, algorithms))


def require_algorithms(asked: object, *, remote: bool) -> tuple[str, ...] | None:
    """The algorithms that an application allows, before there are keys to compare them with.

    Raises:
        ValueError: for what is no list of algorithms, or one that nobody else's keys may be for.
    """
    if asked is None:
        return None
    if isinstance(asked, str) or not isinstance(asked, Sequence) or not asked:
        raise wrong("algorithms", f"a list such as ['RS256'] is needed, not {asked!r}")
    for algorithm in asked:
        if algorithm not in _ALGORITHMS:
            raise wrong("algorithms", f"{algorithm!r} is none of {', '.join(_ALGORITHMS)}")
        if remote and _ALGORITHMS[algorithm][0] == "oct":
            raise wrong("algorithms", f"{algorithm} takes a shared secret, which no URL may publish")
    return tuple(asked)


def published_keys(data: bytes, algorithms: tuple[str, ...] | None, *, remote: bool) -> TrustedKeys:
    """The keys of a JWKS that somebody publishes: those for signatures by algorithms that are known and allowed.

    The others are left out, as RFC 7517 section 5 says. One that is known and not safe makes the whole set wrong; so
    do, where it is `remote`, secrets.

    Raises:
        ValueError: for a set that is wrong, or has no key left.
    """
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("it is no JWKS: that is a map with a list of keys in 'keys'")
    if len(found["keys"]) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    for jwk in found["keys"]:
        if not isinstance(jwk, dict):
            raise ValueError("one of its keys is no map")
        if not isinstance(jwk.get("kid", ""), str):
            raise ValueError("the 'kid' of one of its keys is no string")
        if remote and (jwk.get("kty") == "oct" or "d" in jwk):
            raise ValueError("it publishes a secret, so anybody could sign")
    usable = [jwk for jwk in found["keys"] if _understood(jwk, algorithms or tuple(_ALGORITHMS))]
    if not usable:
        raise ValueError("none of its keys is for signatures by an algorithm that is accepted")
    try:
        keys = _keys({"keys": usable})
    except ValueError:
        raise
    except Exception as error:  # whatever a hostile text does to the parsers on its way
        raise ValueError(f"one of its keys cannot be read: {type(error).__name__}") from None
    allowed = algorithms and [name for name in algorithms if any(_fits(name, key) for key in keys)]
    chosen = _algorithms(keys, allowed)
    if not algorithms and any(_fits("EdDSA", key) and key.get("alg") is None for key in keys):
        chosen = tuple(dict.fromkeys((*chosen, "EdDSA")))  # issuers use the former name still (RFC 9864)
    return TrustedKeys(keys, chosen)


def _understood(jwk: dict[str, Any], algorithms: Sequence[str]) -> bool:
    """Whether a key is for signatures by one of these algorithms, as far as it says."""
    use, may, alg = jwk.get("use", "sig"), jwk.get("key_ops"), jwk.get("alg")
    if use != "sig" or (isinstance(may, list) and not {"verify", "sign"}.intersection(map(str, may))):
        return False
    for name in algorithms:
        kind, curve = _ALGORITHMS[name]
        if alg in (None, name) and jwk.get("kty") == kind and (not curve or jwk.get("crv") == curve):
            return True
    return False


def kid_of(token: str) -> str | None:
    """The key that a token names, before anybody has looked whether it is true."""
    head = token.partition(".")[0]
    try:
        kid = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))).get("kid")
    except (ValueError, AttributeError, RecursionError):
        return None
    return kid if isinstance(kid, str) else None


def wrong(argument: str, problem: str) -> ValueError:
    """What is raised for an argument of `JWTAuthManager` that is not accepted."""
    return ValueError(f"JWTAuthManager: {argument}: {problem}")


# Keys


def _keys(given: object) -> tuple[_Key, ...]:
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except ValueError:
            raise wrong("key", "it begins like the JSON of a JWK or JWKS, and is none") from None
    try:
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):  # we refuse where it warns
            found = _imported(given)
    except (JoseError, KeyError, TypeError) as error:
        # The key itself is in no message.
        raise wrong("key", f"it cannot be read: {type(error).__name__}") from None
    for key in found:
        if isinstance(key, RSAKey) and key.raw_value.key_size < _LEAST_RSA_BITS:
            raise wrong("key", f"an RSA key has {_LEAST_RSA_BITS} bits or more (RFC 7518 section 3.3)")
        if isinstance(key, RSAKey) and key.raw_value.key_size > _MOST_RSA_BITS:
            raise wrong("key", f"an RSA key has {_MOST_RSA_BITS} bits or less: each token would take seconds")
    return tuple(found)


def _imported(given: object) -> list[_Key]:
    if isinstance(given, Mapping):
        return _of_mapping(given)
    if isinstance(given, str | bytes):
        return [_of_text(given.encode() if isinstance(given, str) else given)]
    raise wrong("key", f"a str, bytes or mapping is needed, not a {type(given).__qualname__}")


def _of_mapping(given: Mapping[str, Any]) -> list[_Key]:
    if "keys" not in given:
        return [_jwk(given)]
    if not isinstance(given["keys"], list) or not given["keys"]:
        raise wrong("key", "a JWKS has a list of JWKs in 'keys'")
    found = [
        _jwk(each)
        for each in given["keys"]
        if not isinstance(each, Mapping) or each.get("use", "sig") == "sig"
    ]
    if not found:
        raise wrong("key", "the JWKS has no key for signatures: all of them have another 'use'")
    names = [key.kid for key in found]
    if len(found) > 1 and (None in names or len(set(names)) < len(names)):
        raise wrong("key", "each key of a JWKS needs a 'kid' of its own, by which tokens name it")
    return found


def _jwk(given: Any) -> _Key:
    if not isinstance(given, Mapping):
        raise wrong("key", "a JWK is a mapping")
    if given.get("kty") not in _KINDS:
        raise wrong("key", f"a JWK has a 'kty': {', '.join(_KINDS)}; not {given.get('kty')!r}")
    try:
        return import_key(dict(given))
    except ValueError:
        raise wrong("key", f"the JWK {given.get('kid')!r} cannot be read") from None


def _of_text(given: bytes) -> _Key:
    if not given:
        raise wrong("key", "it is empty")
    if b"-----BEGIN" in given:
        for kind in (RSAKey, ECKey, OKPKey):
            try:
                return kind.import_key(given)
            except (ValueError, TypeError, JoseError):
                continue
        raise wrong("key", "the PEM cannot be read as an RSA, EC or Ed25519 key")
    try:
        if any(mark in given for mark in _PUBLIC):  # with a space before it, no loader would know it
            raise ValueError
        return OctKey.import_key(given)
    except ValueError:
        raise wrong("key", "this is a public key, which is no secret: give it as PEM or JWK") from None


# Algorithms


def _algorithms(keys: Sequence[_Key], asked: object) -> tuple[str, ...]:
    if asked is None:
        chosen = tuple(dict.fromkeys(_usual(key) for key in keys))
    elif isinstance(asked, str) or not isinstance(asked, Sequence) or not asked:
        raise wrong("algorithms", f"a list such as ['HS256'] is needed, not {asked!r}")
    else:
        chosen = tuple(asked)
    for algorithm in chosen:
        if algorithm not in _ALGORITHMS:
            raise wrong("algorithms", f"{algorithm!r} is none of {', '.join(_ALGORITHMS)}")
        if not any(_fits(algorithm, key) for key in keys):
            own = ", ".join(name for name in _ALGORITHMS if _fits(name, keys[0]))
            kinds = " and ".join(dict.fromkeys(_KINDS[key.key_type] for key in keys))
            raise wrong(
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
        raise wrong("key", f"no algorithm is for the curve of this key (accepted: {', '.join(_ALGORITHMS)})")
    return fitting[0]


def _fits(algorithm: str, key: _Key) -> bool:
    kind, curve = _ALGORITHMS[algorithm]
    declared = key.get("alg")
    if key.key_type != kind or declared not in (None, algorithm):
        return False
    return not curve or key.get("crv") == curve


def _check_strength(key: _Key, algorithms: Sequence[str]) -> None:
    if not algorithms:
        raise wrong("algorithms", f"none is for one of the keys, {_KINDS[key.key_type]}")
    if isinstance(key, OctKey):
        needed, has = max(int(name[2:]) // 8 for name in algorithms), len(key.raw_value)
        if has < needed:
            raise wrong(
                "key",
                f"the secret has {has} bytes, and {max(algorithms)} needs {needed} or more (RFC 7518 section 3.2); "
                "`openssl rand -base64 48` makes a good one",
            )
