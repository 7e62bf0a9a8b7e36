"""The opening handshake: what a client asks for, and the decisions that need no controller.

Origin checks follow RFC 6455 section 10.2, subprotocol negotiation section 4.2.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection

from aquilia.sockets.envelope import PLAIN_JSON, PROFILES, Profile
from aquilia.sockets.faults import SocketFault, ws_handshake_failed, ws_origin_not_allowed
from aquilia.sockets.handshake.offered_credentials import CREDENTIALS, Credential

__all__ = [
    "Handshake",
    "Origin",
    "check_any_origin",
    "check_host",
    "check_origin",
    "choose_profile",
    "credible",
    "origin_allowed",
    "origin_problem",
    "read_origin",
    "wants_v1",
]


class Origin(NamedTuple):
    """Where a page comes from (RFC 6454), in lower case and with the default port of http and https."""

    scheme: str
    host: str
    port: int | None


def read_origin(text: str) -> Origin | None:
    """None for what is no origin: it has a scheme and a host, and nothing behind them but a slash."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    if not scheme or not host or "@" in parts.netloc:
        return None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return None
    return Origin(scheme, host, {"http": 80, "https": 443}.get(scheme) if port is None else port)


_WILDCARD = re.compile(r"(\*\.)?[^*.][^*]*")


def origin_problem(entry: object) -> str | None:
    """Why no page can have this as its origin, so that to allow it would allow nothing. None if one can."""
    if not isinstance(entry, str) or not entry:
        return f"each entry is a string, not {entry!r}"
    if entry == "*":
        return None
    origin = read_origin(entry)
    if origin is None:
        return (
            f"an origin is a scheme and a host, and nothing behind, like 'https://example.com', not {entry!r}"
        )
    if origin.scheme in ("ws", "wss"):
        return f"the origin is that of the page, {entry.replace(entry[:2], 'http', 1)!r}, not {entry!r}"
    if not _WILDCARD.fullmatch(origin.host):
        return f"a wildcard stands for subdomains, like 'https://*.example.com', not {entry!r}"
    if not origin.host.isascii():
        return f"browsers write a host in ASCII, like 'xn--bcher-kva.example', not {entry!r}"
    return None


@dataclass(slots=True)
class Handshake:
    """A client at the door: what guards on the handshake look at."""

    connection: HTTPConnection
    namespace: str
    path_params: Mapping[str, Any] = field(default_factory=dict)
    subprotocol: str | None = None
    identity: Any = None
    session: Any = None
    _carried: tuple[Credential, ...] = field(default=(), repr=False)
    """What was taken out of the query."""
    _bound_to: str | None = field(default=None, repr=False)
    """The name of the session with which the ticket was asked for."""

    @property
    def headers(self) -> Headers:
        """The request's headers, case-insensitive."""
        return self.connection.headers

    @property
    def query_params(self) -> QueryParams:
        """The query of the URL, without a token or ticket."""
        return self.connection.query_params

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies of the request."""
        return self.connection.cookies

    @property
    def origin(self) -> str | None:
        """The page's origin; browsers always say it, other clients rarely."""
        return self.connection.headers.get("origin")

    @property
    def client(self) -> str | None:
        """The peer's address."""
        return self.connection.client.host if self.connection.client else None


def check_origin(connection: HTTPConnection, allowed: Sequence[str] | None) -> None:
    """Refuse a browser's cross-origin handshake that is not allowed. Without `allowed`: same origin only.

    Raises:
        SocketFault: WS_ORIGIN_NOT_ALLOWED.
    """
    if not origin_allowed(connection, allowed):
        raise ws_origin_not_allowed(connection.headers["origin"][:200])


def origin_allowed(connection: HTTPConnection, allowed: Sequence[str] | None) -> bool:
    """What `check_origin` decides. Who says no origin is no browser, and need not be kept from anything."""
    origin = connection.headers.get("origin")
    if origin is None:
        return True
    return _same_origin(connection, origin) if allowed is None else _listed(origin, allowed)


def check_any_origin(connection: HTTPConnection, rules: Iterable[Sequence[str] | None]) -> None:
    """Refuse a page that not one of these controllers would let in: of what is not served, it learns nothing.

    Raises:
        SocketFault: WS_ORIGIN_NOT_ALLOWED.
    """
    if not any(origin_allowed(connection, allowed) for allowed in rules):
        check_origin(connection, None)


def credible(connection: HTTPConnection, allowed: Sequence[str] | None) -> HTTPConnection:
    """The handshake as the application sees it: without cookies, where nothing but `"*"` let the page in.

    A browser sends its visitor's cookies for a page of any origin, and who allows all of them has vouched for none.
    """
    if allowed is None or "*" not in allowed:
        return connection
    origin = connection.headers.get("origin")
    named = [entry for entry in allowed if entry != "*"]
    if origin is None or _same_origin(connection, origin) or _listed(origin, named):
        return connection
    kept = [field for field in connection.scope["headers"] if field[0].lower() != b"cookie"]
    return HTTPConnection({**connection.scope, "headers": kept})


def check_host(connection: HTTPConnection, allowed: Sequence[str] | None) -> None:
    """Refuse a Host header that is not one of ours; `*.example.com` stands for its subdomains.

    Raises:
        SocketFault: WS_HANDSHAKE_FAILED.
    """
    if allowed is None or "*" in allowed:
        return
    host = (_host_of("//" + connection.headers.get("host", "")) or "").lower()
    if not any(_host_matches(host, pattern.lower().strip("[]")) for pattern in allowed):
        raise ws_handshake_failed("the Host header names no host of this server")


def choose_profile(offered: Sequence[str], own: Sequence[str]) -> tuple[Profile, str | None]:
    """The profile for the first subprotocol of the client's list that is ours, and what to echo.

    `own` are subprotocols that the controller declares itself: they are spoken as plain JSON.

    Raises:
        SocketFault: WS_HANDSHAKE_FAILED if the list has none.
    """
    if not offered:
        return PLAIN_JSON, None
    for subprotocol in offered:
        if subprotocol.startswith(CREDENTIALS):
            continue  # a credential is never echoed
        profile = PROFILES.get(subprotocol)
        if profile is not None:
            return profile, subprotocol
        if subprotocol in own:
            return PLAIN_JSON, subprotocol
    accepted = ", ".join([*PROFILES, *own])
    if all(entry.startswith(CREDENTIALS) for entry in offered):
        raise ws_handshake_failed(
            f"a token is no subprotocol: offer one beside the token (accepted: {accepted})"
        )
    raise ws_handshake_failed(f"no subprotocol of the offered ones is supported (accepted: {accepted})")


def wants_v1(offered: Sequence[str]) -> bool:
    """Whether a client whose handshake fails can be told by a close code."""
    try:
        return choose_profile(offered, ())[0].v1
    except SocketFault:
        return any(subprotocol.startswith("aquilia.v1.") for subprotocol in offered)


def _same_origin(connection: HTTPConnection, origin: str) -> bool:
    secure = connection.scope.get("scheme") in ("wss", "https")
    ours = read_origin(("https://" if secure else "http://") + connection.headers.get("host", ""))
    return ours is not None and read_origin(origin) == ours


def _listed(origin: str, allowed: Sequence[str]) -> bool:
    if "*" in allowed:
        return True
    found = read_origin(origin)
    rules = [rule for entry in allowed if (rule := read_origin(entry)) is not None]
    return found is not None and any(
        found.scheme == rule.scheme and found.port == rule.port and _host_matches(found.host, rule.host)
        for rule in rules
    )


def _host_matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
