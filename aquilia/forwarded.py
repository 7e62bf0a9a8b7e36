"""Who a client is behind proxies: `Forwarded` (RFC 7239), and `X-Forwarded-For` and `-Proto`.

Anybody can send these headers. They count only where the peer is a proxy that is trusted. Each proxy adds at the
right end who came to it; so the chain is walked from there, and its first address that is no trusted proxy is the
client. `X-Forwarded-Host` has no such chain: most proxies pass on the client's own, so it does not count.

What cannot be read leaves nobody to count by: the proxy's own address would be that of all its clients, and of each
that sends nonsense. So it is an error, which whoever serves answers with 400.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

from aquilia.clock import Clock

__all__ = ["UNIX", "ForwardedError", "TrustedProxies"]

logger = logging.getLogger("aquilia")

UNIX = "unix"
"""Stands for the peers of a Unix socket, which have no address."""

MAX_FORWARDED = 4096
"""Characters of `Forwarded`, which is read from its left end, where a client writes: 64 KiB would take 0.2 s."""

QUIET = 60.0
"""Seconds between two lines of the log about what cannot be read."""
_SHOWN = 60

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'[ \t]*(?:({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*)?([;,]|$)')
"""A pair of RFC 7239 section 4, or none, and what stands behind."""
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HIDDEN = re.compile(r"unknown|_[A-Za-z0-9._-]+")
"""What stands for an address that a proxy does not tell (RFC 7239 section 6)."""
_SECURE = {"http": False, "ws": False, "https": True, "wss": True}


class _Malformed(ValueError):
    """What is wrong in a header."""


class ForwardedError(ValueError):
    """What a trusted proxy passed on does not tell who its client is; the text names the header."""


class _Told(NamedTuple):
    """What proxies tell of a client; None: nothing."""

    client: tuple[str, int] | None
    secure: bool | None
    host: str | None


_NOTHING = _Told(None, None, None)


class TrustedProxies:
    """The proxies whose word counts: addresses, networks like `"10.0.0.0/8"`, and `"unix"`.

    Raises:
        ValueError: for an entry that is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = list(entries)
        self._unix = UNIX in entries
        self._networks = [_network(entry) for entry in entries if entry != UNIX]
        self._silent_until = -math.inf
        self._untold = 0

    def apply(self, scope: MutableMapping[str, Any]) -> None:
        """Put into an ASGI scope whom a trusted proxy tells of: `client`, `scheme`, and the header `Host`.

        In place, as servers do it, so that their own logs show it too. A port that nobody tells is 0.

        Raises:
            ForwardedError: something on the way to the client is malformed, or the two kinds of headers contradict
                each other. The scope is as it was, and the log says so, once a minute.
        """
        if not (self._networks or self._unix):
            return
        client = scope.get("client")
        if not (self._trusts(client[0]) if client else self._unix):
            return
        try:
            told = self._told(scope["headers"])
        except ForwardedError as error:
            self._log(client[0] if client else UNIX, error)
            raise
        if told.client is not None:
            scope["client"] = told.client
        if told.secure is not None:
            kind = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = kind + "s" * told.secure
        if told.host is not None:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [(b"host", told.host.encode()), *others]

    def _log(self, proxy: str, error: ForwardedError) -> None:
        now = Clock.current().monotonic()
        if now < self._silent_until:
            self._untold += 1
            return
        more = f"; {self._untold} others since it was said" if self._untold else ""
        logger.warning("the trusted proxy %s does not tell who its client is: %s%s", proxy, error, more)
        self._silent_until, self._untold = now + QUIET, 0

    def _told(self, headers: Sequence[tuple[bytes, bytes]]) -> _Told:
        standard = self._forwarded(_joined(headers, b"forwarded"))
        customary = self._x_forwarded(
            _joined(headers, b"x-forwarded-for"),
            _joined(headers, b"x-forwarded-proto"),
        )
        if _NOTHING in (standard, customary):
            return standard if customary == _NOTHING else customary
        if standard.client is None or customary.client is None or standard.client[0] != customary.client[0]:
            # A proxy wrote one of them, and passed the client's own on as the other.
            raise ForwardedError(
                "Forwarded and X-Forwarded-For contradict each other: have it remove one of them"
            )
        if customary.secure not in (standard.secure, None):
            raise ForwardedError(
                "Forwarded and X-Forwarded-Proto contradict each other: have it remove one of them"
            )
        return standard

    def _forwarded(self, text: str) -> _Told:
        told = _NOTHING
        with _reading("Forwarded"):
            for element in reversed(_elements(text)):
                node = _node(element["for"]) if "for" in element else None
                told = _Told(node, _secure(element.get("proto")), _host(element.get("host")))
                if node is None or not self._trusts(node[0]):
                    break
        return told

    def _x_forwarded(self, clients: str, schemes: str) -> _Told:
        node, place = None, 0
        with _reading("X-Forwarded-For"):
            for passed, entry in enumerate(reversed(_listed(clients))):
                node, place = _node(entry), passed
                if not self._trusts(node[0]):
                    break
        with _reading("X-Forwarded-Proto"):
            return _Told(node, _secure(_from_right(schemes, place)), None)

    def _trusts(self, host: str) -> bool:
        try:
            address = _plain(ip_address(host))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _network(entry: str) -> Any:
    network = ip_network(entry)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{entry!r} is written as an IPv4 network")
    return network


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """A socket that listens for both has its IPv4 peers as addresses of IPv6."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _joined(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    """The lines of a header as one (RFC 9110 section 5.3)."""
    return ", ".join(value.decode("latin-1") for name, value in headers if name == wanted).strip()


@contextmanager
def _reading(header: str) -> Iterator[None]:
    try:
        yield
    except _Malformed as problem:
        raise ForwardedError(f"{header} is malformed: {problem}") from None


def _shown(text: str) -> str:
    """What stands in a header, for the log: a client may have written it."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _listed(text: str) -> list[str]:
    """The entries of a list; empty ones are to be ignored (RFC 9110 section 5.6.1.2)."""
    return [entry for entry in (part.strip() for part in text.split(",")) if entry]


def _elements(text: str) -> list[dict[str, str]]:
    """What each proxy wrote."""
    if len(text) > MAX_FORWARDED:
        raise _Malformed(f"it has more than {MAX_FORWARDED} characters")
    elements: list[dict[str, str]] = [{}]
    for name, value, delimiter in _pairs(text):
        if name:
            if name in elements[-1]:
                raise _Malformed(f"{name!r} stands twice in one element")
            elements[-1][name] = value
        if delimiter == ",":
            elements.append({})
    return [element for element in elements if element]


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    at = 0
    while at < len(text):
        found = _PAIR.match(text, at)
        if found is None:
            raise _Malformed(f"no pair of RFC 7239 begins with {_shown(text[at:].strip())}")
        name, token, quoted, delimiter = found.groups()
        yield (name or "").lower(), token or re.sub(r"\\(.)", r"\1", quoted or ""), delimiter
        at = found.end()


def _node(text: str) -> tuple[str, int]:
    """An address, with or without a port (RFC 7239 section 6); of one of IPv6 with a port, in brackets."""
    if _HIDDEN.fullmatch(text):
        return text, 0
    host, port = text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise _Malformed(f"{_shown(text)} is no address")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ip_address(host)
    except ValueError:
        raise _Malformed(f"{_shown(text)} is no address") from None
    if "%" in host:
        raise _Malformed(f"{_shown(text)} is an address of one machine only")
    return str(_plain(address)), _port(port)


def _port(text: str) -> int:
    if not text or _HIDDEN.fullmatch(text):
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65_536):
        raise _Malformed(f"{_shown(text)} is no port")
    return int(text)


def _secure(scheme: str | None) -> bool | None:
    if scheme is None:
        return None
    try:
        return _SECURE[scheme.lower()]
    except KeyError:
        raise _Malformed(f"{_shown(scheme)} is neither http nor https") from None


def _host(host: str | None) -> str | None:
    if host is not None and not _HOST.fullmatch(host):
        raise _Malformed(f"{_shown(host)} is no host")
    return host


def _from_right(text: str, place: int) -> str | None:
    """What the proxy told at this place of the chain; one that stands alone is of the outermost."""
    entries = _listed(text)
    if len(entries) <= 1:
        return entries[0] if entries else None
    if place >= len(entries):
        raise _Malformed(f"it has {len(entries)} entries, and the chain is longer")
    return entries[-1 - place]
