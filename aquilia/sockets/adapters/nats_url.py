"""The URL of a NATS adapter, read: hosts, prefix, login and options. Nothing here opens a file or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

__all__ = ["Target", "options_of"]

_TLS = ("ca", "cert", "key")
_LOGINS = ("creds", "nkey", "token_file", "password_file")
_OPTIONS = ("replicas", *_TLS, *_LOGINS)
LONGEST_PREFIX = 100
"""Characters. JetStream bounds the name of a stream, which begins with it, to 255."""


@dataclass(frozen=True, slots=True)
class Target:
    """`nats://[user:password@|token@]host[:port][,host…][/prefix][?option=…&…]`; `tls://` demands TLS.

    What shares a prefix is one application. The options: `replicas` is how many servers of a cluster keep each
    stream; `ca`, `cert` and `key` are files in PEM for TLS; `creds`, `nkey`, `token_file` and `password_file` (of the
    user that stands before the host) are files with a login, in the place of one in the URL.
    """

    servers: tuple[str, ...]
    prefix: str = "aquilia"
    replicas: int = 1
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    files: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    """By the option that names them."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read an URL.

        Raises:
            ValueError: with what is wrong. It never shows what may be a part of a password.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in ("nats", "tls"):
            raise ValueError("it begins with nats:// or tls://")
        rest, _, query = rest.replace(f",{scheme}://", ",").partition("?")
        authority, _, path = rest.partition("/")
        login, _, hosts = authority.rpartition("@")
        if "@" in login or "@" in path:  # never shown: it may be a part of a password
            raise ValueError(
                "one login is accepted, before the first host; write / as %2F in it, and @ as %40"
            )
        if "@" in query:
            raise ValueError("write ? as %3F and @ as %40 in a login, and @ as %40 in an option")
        servers = tuple(_server(scheme, host) for host in hosts.split(","))
        if repeated := {server for server in servers if servers.count(server) > 1}:
            raise ValueError(f"{repeated.pop()} is named twice")
        options = options_of(query, _OPTIONS)
        replicas = options.pop("replicas", "1")
        if replicas not in ("1", "3", "5"):
            raise ValueError(f"replicas: 1, 3 or 5 is needed, not {replicas!r}")
        files = {name: Path(file) for name, file in options.items()}
        _require_sense(scheme, login, files)
        user, password, token = _login(login, files)
        return cls(
            servers,
            _prefix(path),
            int(replicas),
            scheme == "tls",
            user,
            password,
            token,
            MappingProxyType(files),
        )

    def __str__(self) -> str:
        return ",".join(self.servers)


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


def _server(scheme: str, host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "4222"
    if "/" in host or not name or name != "".join(name.split()):
        raise ValueError("there is no host[:port] where one should be; several are parted by commas")
    if ":" in name and not (name.startswith("[") and name.endswith("]")):
        raise ValueError(
            "host[:port] is needed; an IPv6 address is written in brackets, as in nats://[::1]:4222"
        )
    if not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        # It may be a password whose host was forgotten.
        raise ValueError("the port, behind the host: a number from 1 to 65535 is needed")
    return f"{scheme}://{name}:{int(port)}"


def _prefix(path: str) -> str:
    prefix = unquote(path.strip("/")) or "aquilia"
    accepted = "ASCII letters, digits, - and _ are accepted, as in nats://host/my-app"
    if not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in prefix):
        raise ValueError(f"the prefix, behind the host, is {prefix[:40]!r}: {accepted}")
    if prefix.startswith("_") or len(prefix) > LONGEST_PREFIX:
        raise ValueError(
            f"the prefix, behind the host, is {prefix[:40]!r}: it begins with a letter or digit, and has "
            f"{LONGEST_PREFIX} characters at most"
        )
    return prefix


def _require_sense(scheme: str, login: str, files: Mapping[str, Path]) -> None:
    if scheme != "tls" and (said := [name for name in _TLS if name in files]):
        raise ValueError(f"the option {said[0]} is for TLS: write tls:// in the place of nats://")
    if "key" in files and "cert" not in files:
        raise ValueError("the option key belongs to a certificate: name it with cert=FILE")
    logins = [name for name in _LOGINS if name in files]
    if len(logins) > 1:
        raise ValueError(f"the options {logins[0]} and {logins[1]} are two logins: one is needed")
    if not logins:
        return
    if logins == ["password_file"]:
        if not login or ":" in login:
            raise ValueError("the option password_file needs a user, without a password: nats://user@host")
    elif login:
        raise ValueError(
            f"the option {logins[0]} is a login, and another stands before the host: one is needed"
        )


def _login(login: str, files: Mapping[str, Path]) -> tuple[str | None, str | None, str | None]:
    """User, password and token."""
    if "password_file" in files:
        return unquote(login), None, None
    user, colon, password = login.partition(":")
    if not colon:
        return None, None, unquote(login) or None
    if not user:
        raise ValueError(
            "there is no user before the password: nats://user:password@host, or nats://token@host"
        )
    return unquote(user), unquote(password), None
