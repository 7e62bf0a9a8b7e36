"""What the host believes of strangers: what proxies tell, tokens, and the cookies of sessions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any

from starlette.requests import HTTPConnection

from aquilia import Identity, JWTAuthManager, SessionEngine
from aquilia.auth import TokenFault
from aquilia.forwarded import UNIX, ForwardedError, TrustedProxies
from aquilia.sessions import Session
from fuzzing.choices import Choices

PROXY, REAL = "10.0.0.5", "203.0.113.9"
TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", UNIX])
PIECES = [
    b"for=", b"192.0.2.7", b",", b"for=192.0.2.1", b";", b"proto=https", b"host=a.example", b'"', b"10.0.0.9", b"wss",
    b"[2001:db8::7]", b":443", b"unknown", b"_x", b" ", b"=", b"\\", b"10.0.0.9,", b"192.0.2.1,",
    b'for="[fd00::1]:_x"',
]  # fmt: skip
NAMES = [b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"host"]


def proxies(data: bytes) -> None:
    """Any headers that tell of a client: read, or refused as a whole; and no word of a stranger counts."""
    choices = Choices(data)
    kind = choices.of(["websocket", "http"])
    headers = [(choices.of(NAMES), _told(choices)) for _ in range(1 + choices.number(4))]

    told = _applied(PROXY, kind, headers)
    host = told["client"][0]
    assert host == "unknown" or host.startswith("_") or ip_address(host)
    assert 0 <= told["client"][1] < 65_536
    assert told["scheme"] in (("ws", "wss") if kind == "websocket" else ("http", "https"))
    hosts = [value for name, value in told["headers"] if name == b"host"]
    assert hosts == [value for name, value in headers if name == b"host"] or (
        len(hosts) == 1 and hosts[0].isascii()
    )

    for stranger in (REAL, "not an address"):
        assert _applied(stranger, kind, headers) == _scope(stranger, kind, headers), "a stranger was believed"

    # The proxy adds who came to it at the right end: whatever stands before, that is who it is, or it is refused.
    for name, added in ((b"forwarded", f"for={REAL}"), (b"x-forwarded-for", REAL)):
        mine = [(name, value) for given, value in headers if given == name]
        passed_on = _applied(PROXY, kind, [*mine, (name, added.encode())])
        assert passed_on["client"][0] in (REAL, PROXY), "a client chose its own address"


def _applied(client: str, kind: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """What comes of it; where it is refused, all is as it was."""
    scope = _scope(client, kind, headers)
    try:
        TRUSTED.apply(scope)
    except ForwardedError:
        assert scope == _scope(client, kind, headers)
    return scope


def _told(choices: Choices) -> bytes:
    """The value of a header."""
    if choices.once_in(4):
        return choices.some(80)
    return b"".join(choices.of(PIECES) for _ in range(choices.number(10)))


def _scope(client: str, kind: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    scheme = "ws" if kind == "websocket" else "http"
    return {"type": kind, "scheme": scheme, "client": (client, 5000), "headers": list(headers)}


SECRET = b"a secret of more than thirty-two bytes"
JWT = JWTAuthManager(SECRET, issuer="us", audience="here")
GOOD = JWT.issue(Identity("ann"), lifetime=1e6)
CLAIMS = ["sub", "type", "roles", "scope", "scopes", "exp", "nbf", "iat", "jti", "iss", "aud", "b64", "more"]
HEADERS = ["alg", "typ", "kid", "crit", "jku", "jwk", "x5u", "zip", "enc", "b64"]


def jwt(data: bytes) -> None:
    """Any token: that of nobody, said by a fault; with any claims under a good signature, an identity or a fault."""
    text = data.decode("utf-8", "replace")
    assert _authenticated(text) is None or text == GOOD
    assert _authenticated(GOOD) is not None
    choices = Choices(data)
    claims: dict[str, Any] = {"sub": "ann", "exp": 2**40, "iss": "us", "aud": "here"}
    for _ in range(choices.number(6)):
        claims[choices.of(CLAIMS)] = choices.value()
    head: dict[str, Any] = {"alg": "HS256"}
    if choices.once_in(3):
        head = {choices.of(HEADERS): choices.value() for _ in range(choices.number(4))}
        head.setdefault("alg", choices.of(["HS256", "none", "HS512", "RS256", "hs256", "", "dir"]))
    signed = ".".join(_part(json.dumps(each)) for each in (head, claims))
    signature = _part(hmac.digest(SECRET, signed.encode(), hashlib.sha256))
    identity = _authenticated(f"{signed}.{signature}")
    if identity is not None:
        assert head["alg"] == "HS256", head
        assert (claims["iss"], identity.id) == ("us", claims["sub"]), claims
        assert claims["aud"] == "here" or "here" in claims["aud"], claims
        json.dumps([dict(identity.attributes), sorted(identity.roles), sorted(identity.scopes)])
        # Names of the standard itself, or none, may be ignored (RFC 7515 section 4.1.11).
        assert {*HEADERS} >= set(head.get("crit", ())), "what is critical was ignored"
    for forged in (f"{signed}.", f"{signed}.{_part(choices.some())}"):
        assert _authenticated(forged) is None, "a token without a signature was believed"


def _part(value: str | bytes) -> str:
    data = value.encode() if isinstance(value, str) else value
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _authenticated(token: str) -> Identity | None:
    try:
        return _done(JWT.authenticate(token))
    except TokenFault as fault:
        assert fault.status == 401
        return None


def _done(call: Coroutine[Any, Any, Any]) -> Any:
    """What it returns; with keys and stores at hand it waits for nothing."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")


ENGINE = SessionEngine("x" * 32, cookie="s")
SESSION = "an-id-of-a-session"
COOKIE = ENGINE.sign(SESSION)
SIGNED = COOKIE.rpartition(".")[0]
_done(ENGINE.store.create(SESSION, {"a": b"1"}, 1e9))


def cookies(data: bytes) -> None:
    """Any cookies: they name no session, but for the one that is signed."""
    header = data.replace(b"\r", b"").replace(b"\n", b"")
    assert not _loaded(f"s={COOKIE}".encode()).is_new
    place = data[0] % len(COOKIE) if data else 0
    damaged = COOKIE[:place].encode() + header[1:] + COOKIE[place + 1 :].encode()
    for sent in (header, b"s=" + header, b"s=" + damaged, b"a=" + header + b"; s=" + COOKIE.encode()):
        session = _loaded(sent)
        # The last sign of a signature in base64 has bits that do not count.
        is_ours = SIGNED in sent.decode("latin-1")
        assert session.is_new or (is_ours and session.id == SESSION), "a forged cookie opened a session"


def _loaded(cookies: bytes) -> Session:
    """The session that these cookies open."""
    session: Session = _done(ENGINE.load(HTTPConnection({"type": "http", "headers": [(b"cookie", cookies)]})))
    return session
