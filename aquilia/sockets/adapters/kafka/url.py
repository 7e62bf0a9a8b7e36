"""The URL of a Kafka adapter, read: hosts, prefix, login and options. Nothing here opens a file or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from aquilia.sockets.adapters.urls import options_of, parts_of, prefix_of, servers_of

__all__ = ["SCHEMES", "Target"]

SCHEMES = ("kafka", "kafka+ssl")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
MOST_PARTITIONS = 1000
_TLS = ("ca", "cert", "key")
_NUMBERS = ("partitions", "replicas", "retention")
_OPTIONS = (*_NUMBERS, "mechanism", "password_file", *_TLS)


@dataclass(frozen=True, slots=True)
class Target:
    """`kafka://[user:password@]host[:port][,host…][/prefix][?option=…&…]`; `kafka+ssl://` is the same with TLS.

    What shares a prefix is one application. The options: `partitions` of each topic; `replicas` that a topic is made
    with; `retention`, the seconds that the log's topic is made to keep; `mechanism` of the login; `password_file` of
    the user that stands before the host; `ca`, `cert` and `key`, files in PEM for TLS.
    """

    servers: tuple[tuple[str, int], ...]
    prefix: str = "aquilia"
    partitions: int = 16
    replicas: int | None = None
    """None: three, or one for each broker where there are fewer."""
    retention: int = 86_400
    tls: bool = False
    mechanism: str = "PLAIN"
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    files: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    """By the option that names them."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read an URL.

        Raises:
            ValueError: with what is wrong. It never shows what may be a part of a password.
        """
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES:
            raise ValueError("it begins with kafka:// or kafka+ssl://")
        login, hosts, path, query = parts_of(rest.replace(f",{scheme}://", ","))
        servers = servers_of(scheme, hosts, 9092)
        options = options_of(query, _OPTIONS)
        numbers = {name: _number(name, options.pop(name)) for name in _NUMBERS if name in options}
        mechanism = options.pop("mechanism", None)
        files = {name: Path(file) for name, file in options.items()}
        user, password = _login(login, files, mechanism)
        if scheme != "kafka+ssl" and (said := [name for name in _TLS if name in files]):
            raise ValueError(f"the option {said[0]} is for TLS: write kafka+ssl:// in the place of kafka://")
        if "key" in files and "cert" not in files:
            raise ValueError("the option key belongs to a certificate: name it with cert=FILE")
        return cls(
            servers,
            prefix_of(path, "kafka://host/my-app", "the prefix, behind the host,"),
            tls=scheme == "kafka+ssl",
            mechanism=mechanism or MECHANISMS[0],
            user=user,
            password=password,
            files=MappingProxyType(files),
            **numbers,
        )

    def __str__(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.servers)

    def topic(self, name: str) -> str:
        """What one of the application's topics is called."""
        return f"{self.prefix}.{name}"


def _number(name: str, said: str) -> int:
    most = {"partitions": MOST_PARTITIONS, "replicas": 100}.get(name, 1 << 31)
    if not (said.isascii() and said.isdecimal()) or not 1 <= int(said[:12]) <= most:
        raise ValueError(f"{name}: a number from 1 to {most} is needed, not {said[:20]!r}")
    return int(said)


def _login(login: str, files: Mapping[str, Path], mechanism: str | None) -> tuple[str | None, str | None]:
    """User and password."""
    if mechanism is not None and mechanism not in MECHANISMS:
        near = get_close_matches(mechanism.upper(), MECHANISMS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"mechanism: one of {', '.join(MECHANISMS)} is needed, not {mechanism[:40]!r}{hint}")
    user, colon, password = login.partition(":")
    if "password_file" in files and (not user or colon):
        raise ValueError("the option password_file needs a user, without a password: kafka://user@host")
    if login and not user:
        raise ValueError("there is no user before the password: kafka://user:password@host")
    if user and not colon and "password_file" not in files:
        raise ValueError(
            "there is no password behind the user: kafka://user:password@host, or user@host?password_file=FILE"
        )
    if mechanism is not None and not user:
        raise ValueError("the option mechanism is for a login: kafka://user:password@host")
    return unquote(user) or None, unquote(password) if colon else None
