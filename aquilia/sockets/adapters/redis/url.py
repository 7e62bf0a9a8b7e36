"""The URL of a Redis adapter, read: servers, database, login and options. Nothing here opens a file or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote

from aquilia.sockets.adapters.urls import Parts, options_of, parts_of, prefix_of, servers_of

__all__ = ["Mode", "Target"]

Mode = Literal["single", "cluster", "sentinel"]

_MODES: dict[str, Mode] = {"": "single", "cluster": "cluster", "sentinel": "sentinel"}
_SCHEMES = tuple(f"{base}{'+' * bool(kind)}{kind}" for kind in _MODES for base in ("redis", "rediss"))
_PORTS = {"single": 6379, "cluster": 6379, "sentinel": 26379}
_TLS = ("ca", "cert", "key")
_OF_SENTINELS = ("service", "sentinel_user", "sentinel_password_file")
_FILES = (*_TLS, "password_file", "sentinel_password_file")
_OPTIONS = ("prefix", "replicas", *_TLS, "password_file", *_OF_SENTINELS)
_LONGEST_NUMBER = 9
"""Digits of a database's number: Redis has it in 32 bits."""


@dataclass(frozen=True, slots=True)
class Target:
    """`redis://[user:password@]host[:port][/db][?option=…&…]`; `rediss://` demands TLS.

    `redis+cluster://` and `redis+sentinel://` have several hosts, parted by commas, and are `rediss+…` with TLS as
    well. A user may be left out before the colon: it is the default one then, as in other clients of Redis.

    What shares a `prefix` is one application. `replicas` is how many replicas have to have a publication before it
    counts as stored. `service` is what the sentinels call the servers, and `sentinel_user` and
    `sentinel_password_file` the login at them. `ca`, `cert` and `key` are files in PEM for TLS, `password_file` one
    with the password of the user that stands before the host, or of the default one.
    """

    mode: Mode
    hosts: tuple[tuple[str, int], ...]
    """Of a server, of some of a cluster's, or of sentinels; an IPv6 address has its brackets."""
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int = 0
    prefix: str = "aquilia"
    replicas: int = 0
    service: str = ""
    sentinel_user: str | None = field(default=None, repr=False)
    files: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    """By the option that names them."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read an URL.

        Raises:
            ValueError: with what is wrong. It never shows what may be a part of a password.
        """
        scheme, parted, rest = url.partition("://")
        if parted and scheme == "unix":
            raise ValueError(_NO_SOCKET)
        if not parted or scheme not in _SCHEMES:
            accepted = [f"{known}://" for known in _SCHEMES]
            raise ValueError(f"it begins with {', '.join(accepted[:-1])} or {accepted[-1]}")
        base, _, kind = scheme.partition("+")
        mode = _MODES[kind]
        parts = _parts(scheme, rest)
        hosts = _hosts(scheme, mode, parts)
        options = options_of(parts.query, _OPTIONS)
        files = {name: Path(options.pop(name)) for name in _FILES if name in options}
        _require_sense(scheme, mode, options, files)
        user, password = _login(parts.login, "password_file" in files)
        return cls(
            mode,
            hosts,
            base == "rediss",
            user,
            password,
            _database(mode, parts.path),
            prefix_of(options.get("prefix", ""), f"{scheme}://host?prefix=my-app", "the option prefix"),
            _replicas(options.get("replicas", "0")),
            options.get("service", ""),
            options.get("sentinel_user"),
            MappingProxyType(files),
        )

    def __str__(self) -> str:
        kind = "" if self.mode == "single" else f"+{self.mode}"
        hosts = ",".join(f"{name}:{port}" for name, port in self.hosts)
        return f"redis{'s' * self.tls}{kind}://{hosts}"


_NO_SOCKET = "a Unix socket is not accepted: name a host and its port, as in redis://127.0.0.1:6379"


def _parts(scheme: str, rest: str) -> Parts:
    if f",{scheme}://" in rest:
        raise ValueError(f"{scheme}:// is written once, before the first of the hosts")
    parts = parts_of(rest)
    if parts.hosts in ("", "unix:") and "/" in parts.path:
        raise ValueError(_NO_SOCKET)
    return parts


def _hosts(scheme: str, mode: Mode, parts: Parts) -> tuple[tuple[str, int], ...]:
    hosts = servers_of(scheme, parts.hosts, _PORTS[mode])
    if mode == "single" and len(hosts) > 1:
        raise ValueError(
            f"{scheme}:// has one host, and {len(hosts)} are named: a cluster's are written {scheme}+cluster://, and "
            f"sentinels {scheme}+sentinel://"
        )
    return hosts


def _database(mode: Mode, path: str) -> int:
    # What is wrong is not shown: it may be the end of a password whose host was forgotten.
    if path and not (path.isascii() and path.isdecimal() and len(path) <= _LONGEST_NUMBER):
        raise ValueError(
            "behind the host, the number of a database is accepted, as in redis://host/1; what an application is "
            "called by is the option prefix"
        )
    number = int(path or 0)
    if number and mode == "cluster":
        raise ValueError(f"a cluster has the database 0 alone: /{number} is not accepted behind its hosts")
    return number


def _replicas(said: str) -> int:
    if said not in ("0", "1", "2", "3", "4", "5"):
        raise ValueError("replicas: a number from 0 to 5 is needed")
    return int(said)


def _require_sense(scheme: str, mode: Mode, options: Mapping[str, str], files: Mapping[str, Path]) -> None:
    base, plus, kind = scheme.partition("+")
    if base != "rediss" and (said := [name for name in _TLS if name in files]):
        raise ValueError(
            f"the option {said[0]} is for TLS: write rediss{plus}{kind}:// in the place of {scheme}://"
        )
    if "key" in files and "cert" not in files:
        raise ValueError("the option key belongs to a certificate: name it with cert=FILE")
    if mode != "sentinel":
        if said := [name for name in _OF_SENTINELS if name in (*options, *files)]:
            raise ValueError(f"the option {said[0]} is for sentinels: {base}+sentinel://host,host")
        return
    service = options.get("service", "")
    if not service:
        raise ValueError(
            "the option service is needed: what the sentinels call the servers, as service=mymaster"
        )
    if not service.isprintable() or " " in service:
        raise ValueError("the option service: a name without spaces is needed, as service=mymaster")
    if "sentinel_user" in options and "sentinel_password_file" not in files:
        raise ValueError(
            "the option sentinel_user needs a password: name a file with sentinel_password_file=FILE"
        )


def _login(login: str, from_file: bool) -> tuple[str | None, str | None]:
    """User and password. One alone may be meant as either, and is not shown."""
    user, colon, password = login.partition(":")
    if from_file:
        if colon:
            raise ValueError(
                "the option password_file is a password, and another stands before the host: one is needed"
            )
        return unquote(user) or None, None
    if colon and not password:
        raise ValueError("there is no password behind the colon, before the host")
    if user and not colon:
        raise ValueError(
            "there is a user without a password: write user:password@host, or name a file with password_file=FILE; "
            "the password alone, of the default user, is written :password@host"
        )
    return unquote(user) or None, unquote(password) or None
