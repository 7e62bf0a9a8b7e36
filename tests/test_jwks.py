"""Keys that somebody else publishes by URL: from real servers that rotate, fail, hang and lie."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from issuer import KINDS, OTHER, Hands, Issuer, accepted, jwks, public, refusal, serving, token
from tokens import SECRET, part

from aquilia import JWKS, Clock, Fault, Identity, JWTAuthManager
from aquilia.clock import CURRENT, now


@pytest.fixture
def hands() -> Any:
    hands = Hands()
    before = CURRENT.set(Clock(monotonic=hands.monotonic))
    yield hands
    CURRENT.reset(before)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with serving(Issuer()) as issuer:
        yield issuer


@pytest.mark.parametrize("algorithm", KINDS)
async def test_tokens_of_each_algorithm_are_checked_by_the_key_that_they_name(
    algorithm: str, issuer: Issuer
) -> None:
    issuer.publish(public(algorithm, "a", alg=algorithm), {**OTHER, "kid": "other"})
    manager = JWTAuthManager(jwks=issuer.url)

    await manager.load_keys()

    assert await accepted(manager, token(algorithm, "a"))
    assert await refusal(manager, token(algorithm, "other")) == "AUTH_TOKEN_INVALID"
    assert issuer.asked == 1
    with pytest.raises(ValueError, match="issues none"):
        manager.issue(Identity("ann"), lifetime=60)


async def test_a_new_key_is_known_at_its_first_token_and_a_former_one_no_more(
    issuer: Issuer, hands: Hands
) -> None:
    issuer.publish(public("ES256", "old"))
    manager = JWTAuthManager(jwks=issuer.url)
    assert await accepted(manager, token("ES256", "old"))

    issuer.publish(public("RS256", "new"))
    assert await refusal(manager, token("RS256", "new")) == "AUTH_TOKEN_INVALID"  # fetched just before
    hands.moved += 5
    assert await accepted(manager, token("RS256", "new"))

    assert await refusal(manager, token("ES256", "old")) == "AUTH_TOKEN_INVALID"
    assert (issuer.asked, manager.algorithms) == (2, ("RS256",))


async def test_made_up_keys_cause_one_fetch_in_five_seconds_for_all_who_wait(
    issuer: Issuer, hands: Hands
) -> None:
    issuer.publish(public("ES256", "a"))
    manager = JWTAuthManager(jwks=issuer.url)
    await manager.load_keys()
    hands.moved += 5
    issuer.arrived.clear()
    issuer.answering.clear()

    waiting = [asyncio.create_task(refusal(manager, token("ES256", f"x{n}"))) for n in range(50)]
    await issuer.arrived.wait()
    assert await accepted(manager, token("ES256", "a"))  # who is known waits for nobody
    issuer.answering.set()

    assert set(await asyncio.gather(*waiting)) == {"AUTH_TOKEN_INVALID"}
    assert await refusal(manager, token("ES256", "y")) == "AUTH_TOKEN_INVALID"
    assert issuer.asked == 2


async def test_keys_are_renewed_in_the_background_of_their_use(issuer: Issuer, hands: Hands) -> None:
    issuer.publish(public("ES256", "a"))
    manager = JWTAuthManager(jwks=JWKS(issuer.url, refresh=60))
    await manager.load_keys()
    issuer.publish(public("RS256", "b"))
    hands.moved += 59
    assert await accepted(manager, token("ES256", "a"))
    assert issuer.asked == 1

    hands.moved += 1
    assert await accepted(manager, token("ES256", "a"))  # it did not wait

    async with asyncio.timeout(10):
        while manager.algorithms != ("RS256",):
            await asyncio.sleep(0.005)
    assert await refusal(manager, token("ES256", "a")) == "AUTH_TOKEN_INVALID"
    assert issuer.asked == 2


async def test_former_keys_are_used_for_a_while_that_is_bounded_and_it_is_said_once(
    issuer: Issuer, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aquilia.auth")
    issuer.publish(public("ES256", "a"))
    manager = JWTAuthManager(jwks=JWKS(issuer.url, refresh=10, max_age=1000))
    await manager.load_keys()
    issuer.say(b"busy", "500 Internal Server Error")

    for _ in range(100):  # it is asked less and less often
        hands.moved += 9.9
        assert await refusal(manager, token("ES256", "unknown")) == "AUTH_TOKEN_INVALID"
        assert await accepted(manager, token("ES256", "a"))
    assert issuer.asked < 25
    hands.moved += 60
    assert await refusal(manager, token("ES256", "a")) == "AUTH_KEYS_UNAVAILABLE"

    issuer.publish(public("ES256", "b"))
    hands.moved += 60
    assert await accepted(manager, token("ES256", "b"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "it answers with status 500" in caplog.text


NUMBER = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
SMALL = {"kty": "RSA", "n": part(NUMBER.to_bytes(128)), "e": "AQAB"}
GOOD = public("RS256", "a")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "it is no JSON"),
        (b"<html>", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it is no JWKS"),
        (b'{"keys": {}}', "it is no JWKS"),
        (b'{"keys": [5]}', "one of its keys is no map"),
        (jwks(), "none of its keys is for signatures"),
        (jwks({**GOOD, "use": "enc"}), "none of its keys is for signatures"),
        (jwks({**GOOD, "alg": "RSA-OAEP"}), "none of its keys is for signatures"),
        (jwks({**GOOD, "kid": 5}), "'kid' of one of its keys is no string"),
        (jwks(GOOD, {"kty": "oct", "kid": "s", "k": part(SECRET.encode())}), "it publishes a secret"),
        (jwks({**KINDS["RS256"].as_dict(private=True), "kid": "a"}), "it publishes a secret"),
        (jwks(GOOD, {**SMALL, "kid": "b"}), "an RSA key has 2048 bits or more"),
        (jwks(GOOD, GOOD), "needs a 'kid' of its own"),
        (jwks(GOOD, {**GOOD, "kid": None}), "'kid' of one of its keys is no string"),
        (jwks({**GOOD, "n": "?"}), "cannot be read"),
        (jwks(*(public("RS256", f"k{n}") for n in range(101))), "more than 100 keys"),
        (jwks(GOOD) + b" " * (1 << 19), "more than 524288 bytes"),
    ],
)
async def test_a_set_that_is_wrong_does_not_start_the_app_and_replaces_no_other(
    body: bytes, told: str, issuer: Issuer, hands: Hands
) -> None:
    issuer.say(body)
    with pytest.raises(Fault, match=told):
        await JWTAuthManager(jwks=issuer.url).load_keys()

    issuer.publish(public("ES256", "a"))
    manager = JWTAuthManager(jwks=issuer.url)
    await manager.load_keys()
    issuer.say(body)
    hands.moved += 10
    assert await refusal(manager, token("ES256", "unknown")) == "AUTH_TOKEN_INVALID"
    assert await accepted(manager, token("ES256", "a"))


async def test_keys_of_a_kind_that_is_not_known_are_left_out(issuer: Issuer) -> None:
    strange = [
        {"kty": "AKP", "alg": "ML-DSA-65"},
        {"kty": "OKP", "crv": "X25519"},
        {**GOOD, "key_ops": ["encrypt"]},
    ]
    issuer.publish(*({**key, "kid": f"s{n}"} for n, key in enumerate(strange)), public("ES256", "a"))
    manager = JWTAuthManager(jwks=issuer.url, algorithms=["ES256", "RS256"])

    assert await accepted(manager, token("ES256", "a"))
    assert manager.algorithms == ("ES256",)


async def test_an_edwards_key_that_names_no_algorithm_is_for_both_of_its_names(issuer: Issuer) -> None:
    issuer.publish(public("Ed25519", "a"))
    manager = JWTAuthManager(jwks=issuer.url)

    for name in ("Ed25519", "EdDSA"):
        assert await accepted(manager, token(name, "a", KINDS["Ed25519"]))


async def test_a_published_key_is_no_secret_to_sign_with_and_none_signs_nothing(issuer: Issuer) -> None:
    issuer.publish(public("RS256", "a"), public("ES256", "pinned", alg="ES256"))
    manager = JWTAuthManager(jwks=issuer.url)
    pem = KINDS["RS256"].as_pem(private=False)
    for_nobody = f"{part({'alg': 'none', 'kid': 'a'})}.{part({'sub': 'ann', 'exp': now() + 100})}."
    signed = f"{part({'alg': 'HS256', 'kid': 'a'})}.{part({'sub': 'ann', 'exp': now() + 100})}"
    forged = f"{signed}.{part(hmac.digest(pem, signed.encode(), hashlib.sha256))}"

    for bad in (for_nobody, forged, token("PS512", "a", KINDS["RS256"]), "", "x", f"{part([1])}.x.y"):
        assert await refusal(manager, bad) == "AUTH_TOKEN_INVALID"


async def test_a_server_that_hangs_is_given_up(issuer: Issuer) -> None:
    issuer.answer = None
    with pytest.raises(
        Fault, match=r"no keys from http://127.0.0.1:\d+/jwks.json: .*(timed out|no answer within)"
    ):
        await JWTAuthManager(jwks=JWKS(issuer.url, timeout=0.2)).load_keys()


class Dripping(Issuer):
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)


async def test_a_server_that_drips_is_given_up() -> None:
    async with serving(Dripping()) as issuer:
        with pytest.raises(Fault, match=r"no answer within 0\.3 s"):
            await JWTAuthManager(jwks=JWKS(issuer.url, timeout=0.3)).load_keys()


async def test_nobody_there_is_told(issuer: Issuer) -> None:
    async with serving(Issuer()) as closed:
        pass
    with pytest.raises(Fault, match=r"no keys from .*: ConnectionRefusedError"):
        await JWTAuthManager(jwks=closed.url).load_keys()


# TLS and redirects


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """A certificate authority that the system trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_keys_come_by_tls_from_a_server_that_is_trusted_alone(authority: trustme.CA) -> None:
    for ca, trusted in ((authority, True), (trustme.CA(), False)):
        async with serving(Issuer(), server_tls(ca)) as issuer:
            issuer.publish(public("ES256", "a"))
            manager = JWTAuthManager(jwks=issuer.url)
            if trusted:
                assert await accepted(manager, token("ES256", "a"))
            else:
                with pytest.raises(Fault, match="CERTIFICATE_VERIFY_FAILED"):
                    await manager.load_keys()


async def test_redirects_are_followed_to_https_alone(authority: trustme.CA, issuer: Issuer) -> None:
    async with serving(Issuer(), server_tls(authority)) as safe:
        safe.publish(public("ES256", "a"))
        issuer.say(b"", "302 Found", f"location: {safe.url}")
        assert await accepted(JWTAuthManager(jwks=issuer.url), token("ES256", "a"))

        for target in (issuer.url, "/elsewhere", "file:///etc/passwd", "ftp://127.0.0.1/x"):
            issuer.say(b"", "302 Found", f"location: {target}")
            with pytest.raises(Fault, match="it redirects to what is no https:// URL"):
                await JWTAuthManager(jwks=issuer.url).load_keys()

        safe.say(b"", "307 Temporary Redirect", f"location: {safe.url}")
        with pytest.raises(Fault, match="it redirects more than 3 times"):
            await JWTAuthManager(jwks=safe.url).load_keys()
