"""The URL of a NATS adapter, read: hosts, prefix, login and options. Nothing here opens a file or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from aquilia.sockets.adapters.urls import options_of, parts_of, prefix_of, servers_of

__all__ = ["Target"]

_TLS = ("ca", "cert", "key")
_LOGINS = ("creds", "nkey", "token_file", "password_file")
_OPTIONS = ("replicas", *_TLS, *_LOGINS)


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
        login, hosts, path, query = parts_of(rest.replace(f",{scheme}://", ","))
        servers = tuple(f"{scheme}://{host}:{port}" for host, port in servers_of(scheme, hosts, 4222))
        options = options_of(query, _OPTIONS)
        replicas = options.pop("replicas", "1")
        if replicas not in ("1", "3", "5"):
            raise ValueError(f"replicas: 1, 3 or 5 is needed, not {replicas!r}")
        files = {name: Path(file) for name, file in options.items()}
        _require_sense(scheme, login, files)
        user, password, token = _login(login, files)
        return cls(
            servers,
            prefix_of(path, "nats://host/my-app", "the prefix, behind the host,"),
            int(replicas),
            scheme == "tls",
            user,
            password,
            token,
            MappingProxyType(files),
        )

    def __str__(self) -> str:
        return ",".join(self.servers)


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
