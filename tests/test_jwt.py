"""JSON Web Tokens: which keys are taken, which tokens are believed, and what becomes of their claims."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jws, jwt
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry
from tokens import SECRET, part

from aquilia import Fault, Identity, JWTAuthManager
from aquilia.auth import MAX_TOKEN_LENGTH, Authenticator
from aquilia.jwt import KEY_VARIABLE

ANN = Identity("ann", type="service", roles=["admin"], scopes=["a", "b"], attributes={"team": "red"})

RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def private(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public(key: Any, encoding: Any = serialization.Encoding.PEM) -> bytes:
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(kid: str, secret: str = SECRET, **fields: Any) -> dict[str, Any]:
    return {"kty": "oct", "kid": kid, "k": part(secret.encode()), **fields}


def signed(claims: dict[str, Any], header: dict[str, Any] | None = None, key: str = SECRET) -> str:
    """A token with any claims; `exp` is a minute ahead where they do not say."""
    claims = {"exp": time.time() + 60, "sub": "ann", **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    header = header or {"alg": "HS256"}
    registry = JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    return jwt.encode(header, claims, OctKey.import_key(key), registry=registry)


async def refusal(token: str, manager: JWTAuthManager | None = None) -> Fault:
    with pytest.raises(Fault) as refused:
        await Authenticator(manager or JWTAuthManager(SECRET)).authenticate(token)
    assert refused.value.status == 401
    assert refused.value.retryable
    return refused.value


# Keys


@pytest.mark.parametrize("algorithm", KEYS)
async def test_who_has_the_public_key_believes_what_the_private_one_signed(algorithm: str) -> None:
    issuer, verifier = JWTAuthManager(private(KEYS[algorithm])), JWTAuthManager(public(KEYS[algorithm]))

    identity = await verifier.authenticate(issuer.issue(ANN, lifetime=60))

    assert (identity.id, verifier.algorithms) == ("ann", (algorithm,))
    with pytest.raises(ValueError, match="issues none"):
        verifier.issue(ANN, lifetime=60)


@pytest.mark.filterwarnings("error")
async def test_edwards_signatures_are_taken_by_their_former_name_where_it_is_allowed() -> None:
    key = KEYS["Ed25519"]
    token = JWTAuthManager(private(key), algorithms=["EdDSA"]).issue(ANN, lifetime=60)

    assert (await JWTAuthManager(public(key), algorithms=["EdDSA"]).authenticate(token)).id == "ann"
    assert (await refusal(token, JWTAuthManager(public(key)))).code == "AUTH_TOKEN_INVALID"


async def test_the_key_comes_from_the_environment_where_the_code_has_none(monkeypatch: Any) -> None:
    for text in (SECRET, json.dumps(jwk("a")), json.dumps({"keys": [jwk("a")]}), private(RSA).decode()):
        monkeypatch.setenv(KEY_VARIABLE, text)
        manager = JWTAuthManager()
        assert (await manager.authenticate(manager.issue(ANN, lifetime=60))).id == "ann"


def test_without_any_key_it_is_said_what_to_do(monkeypatch: Any) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    with pytest.raises(ValueError, match="set it to a secret of 32 bytes or more, such as `openssl rand"):
        JWTAuthManager()


SMALL = rsa.generate_private_key(65537, 1024)
OPENSSH = RSA.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    ("key", "options", "told"),
    [
        ("x" * 31, {}, r"31 bytes, and HS256 needs 32 or more \(RFC 7518 section 3.2\)"),
        ("x" * 47, {"algorithms": ["HS384"]}, "HS384 needs 48"),
        ("x" * 63, {"algorithms": ["HS256", "HS512"]}, "HS512 needs 64"),
        ("", {}, "it is empty"),
        (b"", {}, "it is empty"),
        (5, {}, "a str, bytes or mapping is needed, not a int"),
        (public(RSA), {"algorithms": ["HS256"]}, "HS256 takes a shared secret, and the key is an RSA key"),
        (public(RSA), {"algorithms": ["RS256", "HS256"]}, "HS256 takes a shared secret"),
        (public(RSA, serialization.Encoding.DER), {}, "this is a public key, which is no secret"),
        (b" " + OPENSSH, {}, "this is a public key, which is no secret"),
        (b'no-pty "' + OPENSSH + b'"', {}, "this is a public key, which is no secret"),
        (b"---- " + public(RSA)[5:], {}, "this is a public key, which is no secret"),
        (SECRET, {"algorithms": ["RS256"]}, "RS256 takes an RSA key, and the key is a shared secret"),
        (private(KEYS["ES256"]), {"algorithms": ["ES384"]}, "accepted: ES256"),
        (private(ec.generate_private_key(ec.SECP256K1())), {}, "no algorithm is for the curve"),
        (private(SMALL), {}, "2048 bits or more"),
        ("-----BEGIN PUBLIC KEY-----\nx", {}, "the PEM cannot be read"),
        ("{", {}, "JSON of a JWK or JWKS, and is none"),
        ({}, {}, "a JWK has a 'kty'"),
        ({"kty": "oct"}, {}, "cannot be read"),
        (jwk("a", "short"), {}, "5 bytes"),
        (jwk("a", alg="RS256"), {}, "RS256 takes an RSA key"),
        ({"keys": []}, {}, "a JWKS has a list of JWKs"),
        ({"keys": [5]}, {}, "a JWK is a mapping"),
        ({"keys": [jwk("a", use="enc")]}, {}, "no key for signatures"),
        ({"keys": [jwk("a"), jwk("a")]}, {}, "a 'kid' of its own"),
        (SECRET, {"algorithms": ["none"]}, "'none' is none of HS256"),
        (SECRET, {"algorithms": "HS256"}, "a list such as"),
        (SECRET, {"algorithms": []}, "a list such as"),
        (SECRET, {"leeway": -1}, "leeway"),
        (SECRET, {"leeway": float("nan")}, "leeway"),
        (SECRET, {"issuer": ""}, "issuer"),
        (SECRET, {"audience": ["a"]}, "audience"),
        (SECRET, {"id_claim": ""}, "id_claim"),
        (SECRET, {"scope_claims": "scope"}, "scope_claims"),
        (SECRET, {"scope_claims": [1]}, "scope_claims"),
    ],
)
def test_a_key_or_an_argument_that_is_not_safe_is_refused_at_once(key: Any, options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        JWTAuthManager(key, **options)
    assert SECRET not in str(refused.value)


def test_a_manager_does_not_show_its_key() -> None:
    assert SECRET not in repr(JWTAuthManager(SECRET))


# Tokens


def test_a_lifetime_is_a_time() -> None:
    for lifetime in (0, -1, float("inf"), "60", True):
        with pytest.raises(ValueError, match="lifetime"):
            JWTAuthManager(SECRET).issue(ANN, lifetime=lifetime)  # type: ignore[arg-type]


def test_a_token_is_issued_for_an_identity_alone() -> None:
    with pytest.raises(TypeError, match=r"issue takes an Identity, not 'ann'; write Identity\('ann'\)"):
        JWTAuthManager(SECRET).issue("ann", lifetime=60)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"issue takes an Identity, not 5$"):
        JWTAuthManager(SECRET).issue(5, lifetime=60)  # type: ignore[arg-type]


async def test_claims_become_an_identity() -> None:
    manager = JWTAuthManager(SECRET, issuer="https://id.example", audience="chat", leeway=5)
    before = time.time()

    identity = await manager.authenticate(manager.issue(ANN, lifetime=60))

    assert (identity.id, identity.type) == ("ann", "service")
    assert (identity.roles, identity.scopes) == ({"admin"}, {"a", "b"})
    assert identity.attributes == {"team": "red", "iss": "https://id.example"}
    assert identity.expires_at is not None
    assert 65 <= identity.expires_at - before < 70


async def test_scopes_are_a_text_or_a_list_and_claims_may_have_other_names() -> None:
    manager = JWTAuthManager(
        SECRET, id_claim="uid", type_claim="kind", roles_claim="groups", scope_claims=["scp"]
    )
    token = signed({"uid": "bob", "kind": "robot", "groups": ["g"], "scp": ["x"], "scope": "y"})

    identity = await manager.authenticate(token)

    assert (identity.id, identity.type, identity.roles, identity.scopes) == ("bob", "robot", {"g"}, {"x"})
    assert identity.attributes == {"sub": "ann", "scope": "y"}
    both = await JWTAuthManager(SECRET).authenticate(signed({"scope": "a b", "scopes": ["c"]}))
    assert both.scopes == {"a", "b", "c"}


async def test_the_key_is_found_by_its_name() -> None:
    manager = JWTAuthManager(
        {"keys": [jwk("old", "o" * 32), jwk("new", "n" * 32), {**jwk("x"), "use": "enc"}]}
    )

    for kid, secret in (("old", "o" * 32), ("new", "n" * 32)):
        token = signed({}, {"alg": "HS256", "kid": kid}, secret)
        assert (await manager.authenticate(token)).id == "ann"
    for header in ({"alg": "HS256", "kid": "old"}, {"alg": "HS256", "kid": "x"}, {"alg": "HS256"}):
        assert (await refusal(signed({}, header, "n" * 32), manager)).code == "AUTH_TOKEN_INVALID"


async def test_a_named_key_alone_is_not_for_tokens_of_another_name() -> None:
    manager = JWTAuthManager(jwk("ours"))

    assert (await manager.authenticate(signed({}))).id == "ann"
    await refusal(signed({}, {"alg": "HS256", "kid": "theirs"}), manager)


async def test_a_header_that_nobody_knows_is_ignored_but_not_a_critical_one() -> None:
    assert (await JWTAuthManager(SECRET).authenticate(signed({}, {"alg": "HS256", "x": 1}))).id == "ann"

    head = part({"alg": "HS256", "crit": ["x"], "x": 1})
    await refusal(f"{head}.{part({'sub': 'ann', 'exp': 1e10})}.{part(b'x')}")


NONE = f"{part({'alg': 'none'})}.{part({'sub': 'ann', 'exp': 1e10})}."


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "..",
        "a.b.c",
        "ä",
        "\ud800",
        "\x00",
        NONE,
        NONE + part(b"x"),
        NONE.replace(part({"alg": "none"}), part({"alg": "None"})),
        part({"alg": "HS256"}) + "." + part([]) + ".x",
        part([]) + "." + part({}) + ".x",
        part(b"[" * 500) + "." + part({}) + ".x",
        signed({})[:-2],
        signed({}) + "A",
        signed({}) + ".x",
        signed({}, key="another secret of thirty-two bytes"),
        signed({}, {"alg": "HS512"}, SECRET * 2),
        "x" * (MAX_TOKEN_LENGTH + 1),
        signed({"pad": "x" * MAX_TOKEN_LENGTH}),
    ],
    ids=range(20),
)
async def test_what_is_no_token_of_ours_is_not_believed(token: str) -> None:
    fault = await refusal(token)
    assert fault.code == "AUTH_TOKEN_INVALID"
    assert len(token) < 4 or token not in str(fault)


@pytest.mark.parametrize("claim", ["sub", "jti", "roles", "name", "\ud800"])
async def test_text_that_is_no_unicode_is_no_token_even_if_it_is_signed(claim: str) -> None:
    """RFC 8259 section 8.2. Whoever is to write it later could not."""
    claims = json.dumps({"sub": "ann", "exp": 1e10, claim: "\ud800"}).encode()
    key = OctKey.import_key(SECRET)
    await refusal(jws.serialize_compact({"alg": "HS256"}, claims, key))


async def test_a_public_key_is_no_secret_for_signatures() -> None:
    """The confusion of RFC 8725 section 2.1: signed by HMAC, with the RSA key that everybody may know."""
    import hashlib
    import hmac

    content = f"{part({'alg': 'HS256'})}.{part({'sub': 'ann', 'exp': 1e10})}"
    signature = hmac.digest(public(RSA), content.encode(), hashlib.sha256)

    await refusal(f"{content}.{part(signature)}", JWTAuthManager(public(RSA)))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 10**400},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": 1e10},  # the year 2286
        {"nbf": "now"},
        {"iat": 1e10},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": ["ann"]},
        {"type": 1},
        {"roles": 5},
        {"roles": {"admin": True}},
        {"roles": [1]},
        {"roles": ["a b"]},
        {"scope": 5},
        {"scopes": [None]},
        {"iss": None},
        {"iss": "https://evil.example"},
        {"aud": None},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": 5},
    ],
    ids=str,
)
async def test_claims_that_are_wrong_name_nobody(claims: dict[str, Any]) -> None:
    manager = JWTAuthManager(SECRET, issuer="https://id.example", audience="chat")
    good = {"iss": "https://id.example", "aud": ["chat", "other"]}
    assert (await manager.authenticate(signed(good))).id == "ann"

    fault = await refusal(signed({**good, **claims}), manager)

    assert fault.code == "AUTH_TOKEN_INVALID"


async def test_a_token_is_good_until_it_expires_and_the_clocks_may_differ_a_little() -> None:
    late = signed({"exp": time.time() - 30})

    assert (await refusal(late)).code == "AUTH_TOKEN_EXPIRED"
    assert (await refusal(late, JWTAuthManager(SECRET, leeway=0))).code == "AUTH_TOKEN_EXPIRED"
    identity = await JWTAuthManager(SECRET, leeway=60).authenticate(late)
    assert identity.expires_at is not None
    assert identity.expires_at > time.time()
