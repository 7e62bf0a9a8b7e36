"""The opening handshake: what a client asks for, and the decisions that need no controller.

Origin checks follow RFC 6455 section 10.2, subprotocol negotiation section 4.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection

from aquilia.sockets.envelope import PLAIN_JSON, PROFILES, Profile
from aquilia.sockets.faults import SocketFault, ws_handshake_failed, ws_origin_not_allowed

__all__ = ["Handshake", "check_host", "check_origin", "choose_profile"]

BEARER_PREFIXES = ("aquilia.bearer.", "aquilia.bearer64.")


@dataclass(slots=True)
class Handshake:
    """A client at the door: what guards on the handshake look at."""

    connection: HTTPConnection
    namespace: str
    path_params: Mapping[str, Any] = field(default_factory=dict)
    subprotocol: str | None = None
    identity: Any = None
    session: Any = None

    @property
    def headers(self) -> Headers:
        """The request's headers, case-insensitive."""
        return self.connection.headers

    @property
    def query_params(self) -> QueryParams:
        """The query of the URL."""
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
    origin = connection.headers.get("origin")
    if origin is None:
        return
    permitted = _same_origin(connection, origin) if allowed is None else _listed(origin, allowed)
    if not permitted:
        raise ws_origin_not_allowed(origin[:200])


def check_host(connection: HTTPConnection, allowed: Sequence[str] | None) -> None:
    """Refuse a Host header that is not one of ours; `*.example.com` stands for its subdomains.

    Raises:
        SocketFault: WS_HANDSHAKE_FAILED.
    """
    if allowed is None or "*" in allowed:
        return
    host = (_host_of("//" + connection.headers.get("host", "")) or "").lower()
    if not any(_host_matches(host, pattern.lower()) for pattern in allowed):
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
        profile = PROFILES.get(subprotocol)
        if profile is not None:
            return profile, subprotocol
        if subprotocol in own:
            return PLAIN_JSON, subprotocol
    accepted = ", ".join([*PROFILES, *own])
    raise ws_handshake_failed(f"no subprotocol of the offered ones is supported (accepted: {accepted})")


def wants_v1(offered: Sequence[str]) -> bool:
    """Whether a client whose handshake fails can be told by a close code."""
    try:
        return choose_profile(offered, ())[0].v1
    except SocketFault:
        return any(subprotocol.startswith("aquilia.v1.") for subprotocol in offered)


def _same_origin(connection: HTTPConnection, origin: str) -> bool:
    secure = connection.scope.get("scheme") in ("wss", "https")
    ours = _origin_key(("https://" if secure else "http://") + connection.headers.get("host", ""))
    return ours is not None and _origin_key(origin) == ours


def _listed(origin: str, allowed: Sequence[str]) -> bool:
    key = _origin_key(origin)
    for entry in allowed:
        if entry == "*":
            return True
        if key is None:
            continue
        rule = _origin_key(entry)
        if rule is None:
            continue
        if key[0] == rule[0] and key[2] == rule[2] and _host_matches(key[1], rule[1]):
            return True
    return False


def _host_matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _origin_key(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, with the scheme's default port filled in; None for what is no origin."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    default = {"http": 80, "https": 443}.get(parts.scheme.lower())
    if not parts.hostname or (default is None and port is None) or parts.path not in ("", "/"):
        return None
    return parts.scheme.lower(), parts.hostname.lower(), port or default or 0


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
