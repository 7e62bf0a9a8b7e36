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
        ValueError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address of a WebSocket: {error}") from None
    if parts.scheme in _INSTEAD:
        raise ValueError(
            f"{url!r} is an address for HTTP: say {_INSTEAD[parts.scheme]}://{url.split('://')[1]}"
        )
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(f"{url!r} is no address of a WebSocket: it begins with ws:// or wss://")
    if not parts.hostname:
        raise ValueError(f"{url!r} names no host")
    if not _is_host(parts.hostname):
        raise ValueError(f"{url!r} names {parts.hostname!r} as the host, which is no name of one")
    if port == 0:
        raise ValueError(f"{url!r} names the port 0: 1 to 65535")
    if parts.fragment:
        raise ValueError(f"{url!r} has a fragment (#…), which WebSockets have not (RFC 6455 section 3)")
    return url


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
    place = parts.netloc.rpartition("@")[2]
    return SplitResult(parts.scheme, place, parts.path, "", "").geturl()


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
