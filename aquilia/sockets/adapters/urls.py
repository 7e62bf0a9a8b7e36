"""The parts that URLs of adapters share: hosts, the application's prefix, and options."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["LONGEST_PREFIX", "Parts", "options_of", "parts_of", "prefix_of", "servers_of"]

LONGEST_PREFIX = 100
"""Characters. JetStream bounds the name of a stream, which begins with it, to 255."""


class Parts(NamedTuple):
    """What stands behind the scheme of a URL, undecoded."""

    login: str
    hosts: str
    path: str
    query: str


def parts_of(rest: str) -> Parts:
    """The parts of `[login@]host[,host…][/path][?query]`.

    Raises:
        ValueError: an `@` stands where none is accepted. What may be a part of a password is not shown.
    """
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    if "@" in login or "@" in path:
        raise ValueError("one login is accepted, before the first host; write / as %2F in it, and @ as %40")
    if "@" in query:
        raise ValueError("write ? as %3F and @ as %40 in a login, and @ as %40 in an option")
    if at and not login:
        raise ValueError("there is no login before the @: take it away, or write one")
    return Parts(login, hosts, path.strip("/"), query)


def servers_of(scheme: str, hosts: str, port_by_default: int) -> tuple[tuple[str, int], ...]:
    """The names and ports of hosts; an IPv6 address keeps its brackets.

    Raises:
        ValueError: one is none, or named twice. What may be a part of a password is not shown.
    """
    servers = tuple(_server(scheme, host, port_by_default) for host in hosts.split(","))
    if repeated := [server for server in servers if servers.count(server) > 1]:
        raise ValueError("{}:{} is named twice".format(*repeated[0]))
    return servers


def options_of(query: str, accepted: tuple[str, ...]) -> dict[str, str]:
    """The options behind the question mark of an URL, decoded; "+" is a plus.

    Raises:
        ValueError: one that is not accepted, is empty, or is said twice. Its value is not shown.
    """
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in accepted:
            near = get_close_matches(name.lower(), accepted, n=1)
            near += [known for known in accepted if name.startswith(known)]
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown option {name[:40]!r}{hint} (accepted: {', '.join(accepted)})")
        if name in options:
            raise ValueError(f"the option {name} is said twice")
        if not value:
            raise ValueError(f"the option {name} is empty: write {name}=…")
        options[name] = unquote(value)
    return options


def _server(scheme: str, host: str, port_by_default: int) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, str(port_by_default)
    if "/" in host or not name or name != "".join(name.split()):
        raise ValueError("there is no host[:port] where one should be; several are parted by commas")
    if ":" in name and not (name.startswith("[") and name.endswith("]")):
        raise ValueError(
            f"host[:port] is needed; an IPv6 address is written in brackets, as in {scheme}://[::1]:{port_by_default}"
        )
    if not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        # It may be a password whose host was forgotten.
        raise ValueError("the port, behind the host: a number from 1 to 65535 is needed")
    return name, int(port)


def prefix_of(said: str, example: str, where: str = "the prefix") -> str:
    """What an application is called by on a broker that others use as well; "aquilia" where nothing is said.

    Raises:
        ValueError: it has letters that mean something to a broker, or too many.
    """
    prefix = unquote(said) or "aquilia"
    accepted = f"ASCII letters, digits, - and _ are accepted, as in {example}"
    if not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in prefix):
        raise ValueError(f"{where} is {prefix[:40]!r}: {accepted}")
    if prefix.startswith("_") or len(prefix) > LONGEST_PREFIX:
        raise ValueError(
            f"{where} is {prefix[:40]!r}: it begins with a letter or digit, and has "
            f"{LONGEST_PREFIX} characters at most"
        )
    return prefix
