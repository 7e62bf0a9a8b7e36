"""Where a client connects to, and what it says of itself there, checked before it goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

__all__ = ["checked_headers", "checked_url", "named_url"]

_INSTEAD = {"http": "ws", "https": "wss"}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110 section 5.6.2."""
_OURS = {"connection", "upgrade"}


def checked_url(url: str) -> str:
    """The URL of a WebSocket.

    Raises:
        ValueError: it is none. No message shows its user or its query.
    """
    try:
        parts = urlsplit(url)
        name = named_url(url)
    except ValueError:  # whose words show its user
        raise ValueError("the URL is no address of a WebSocket: no host can be read from it") from None
    _require_scheme(parts.scheme, name)
    if not parts.hostname:
        raise ValueError(f"{name!r} names no host")
    if not _is_host(parts.hostname):
        raise ValueError(f"{name!r} names {parts.hostname!r} as the host, which is no name of one")
    _require_port(parts)
    if parts.fragment:
        raise ValueError(f"{name!r} has a fragment (#…), which WebSockets have not (RFC 6455 section 3)")
    return url


def _require_scheme(scheme: str, name: str) -> None:
    if scheme in _INSTEAD:
        rest = name.partition(":")[2].lstrip("/")
        raise ValueError(f"{name!r} is an address for HTTP: say {_INSTEAD[scheme]}://{rest}")
    if scheme not in ("ws", "wss"):
        raise ValueError(f"{name!r} is no address of a WebSocket: it begins with ws:// or wss://")


def _require_port(parts: SplitResult) -> None:
    try:
        fine = parts.port != 0
    except ValueError:
        fine = False
    if not fine:  # what stands there may be a password whose / or ? is not written as %2F or %3F
        raise ValueError(
            f"the port behind the host {parts.hostname!r} is none: 1 to 65535 is needed "
            "(in a password, / is %2F, ? is %3F and # is %23)"
        )


def _is_host(host: str) -> bool:
    if ":" in host:  # an IPv6 address: urlsplit has looked at it
        return True
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return not re.search(r"[\s\x00-\x20<>\"{}|\\^`]", host)


def named_url(url: str) -> str:
    """A URL as errors may show it: without its query and its user, where secrets stand."""
    parts = urlsplit(url)
    place, path = parts.netloc.rpartition("@")[2], parts.path
    if not place:  # "user:password@host" without a scheme
        path = path.rpartition("@")[2]
    return SplitResult(parts.scheme, place, path, "", "").geturl()


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers for the handshake.

    Raises:
        ValueError: one cannot be sent, or is the client's own.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header (RFC 9110 section 5.1)")
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"the header {name} is set by the client itself")
        if not isinstance(value, str) or re.search(r"[\x00\r\n]", value):
            # The value may be a secret.
            raise ValueError(f"the value of the header {name} is a string in one line (RFC 9110 section 5.5)")
    return dict(headers)
