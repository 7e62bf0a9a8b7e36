"""What each setting accepts. A rule takes a value as it was written, and returns it as it is kept, or says what is
wrong with it, what is accepted, and the nearest name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike, fsencode, fspath
from typing import Any

from aquilia.forwarded import TrustedProxies
from aquilia.sockets.adapters.schemes import (
    adapter_names,
    adapter_of_scheme,
    entry_point_of,
    url_of,
    urls_of,
)
from aquilia.sockets.deflate import Compression
from aquilia.sockets.emits import key_problem, strategy_problem
from aquilia.sockets.handshake.offered_credentials import TICKET_PARAMETER
from aquilia.sockets.handshake.request import origin_problem
from aquilia.sockets.history import Histories, History
from aquilia.sockets.outbox.queue import Backpressure
from aquilia.sockets.presence.values import Presence

__all__ = [
    "Place",
    "Rule",
    "SettingsError",
    "adapter",
    "adapter_url",
    "audit",
    "backpressure",
    "boolean",
    "chain_of",
    "compression",
    "count",
    "endpoint",
    "folder",
    "history",
    "hosts",
    "message_size",
    "not_negative",
    "or_none",
    "origins",
    "positive",
    "presence",
    "proxies",
    "query_token",
    "redis_url",
    "remembering",
    "role",
    "subprotocols",
    "unknown",
]


class SettingsError(ValueError):
    """A setting that cannot be honoured. `where` is the manifest or controller, `key` the setting."""

    def __init__(self, where: str, key: str, problem: str) -> None:
        super().__init__(where, key, problem)
        self.where = where
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Place:
    """What is checked: the setting `key` of the manifest or controller `where`."""

    where: str
    key: str

    def error(self, problem: str) -> SettingsError:
        """That it cannot be honoured."""
        return SettingsError(self.where, self.key, problem)


Rule = Callable[[Place, Any], Any]

_LARGEST_MESSAGE = (1 << 31) - 1
"""What the length of a buffer can be on every platform."""
_LARGEST_NUMBER = sys.float_info.max
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 section 5.6.2; a subprotocol is one (RFC 6455 section 4.1)."""
_HOST = re.compile(
    r"(\*\.)?[A-Za-z0-9_-][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}"
)
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}")


def unknown(what: str, name: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    """That a name is none of those known, and which is near."""
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what}{hint} (accepted: {', '.join(sorted(known))})"


def count(place: Place, value: Any) -> int:
    """How many."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise place.error(f"a whole number of at least 1 is needed, not {value!r}")
    return value


def message_size(place: Place, value: Any) -> int:
    """Bytes of one message."""
    size = count(place, value)
    if size > _LARGEST_MESSAGE:
        raise place.error(f"one message has at most {_LARGEST_MESSAGE} bytes")
    return size


def positive(place: Place, value: Any) -> float:
    """A number, mostly of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST_NUMBER:
        raise place.error(f"a number above 0 is needed, not {value!r}")
    return float(value)


_RESUMABLE = 120
"""Seconds in which a session can be resumed: its messages may come again as late as that."""


def not_negative(place: Place, value: Any) -> float:
    """Seconds, or none at all."""
    return 0.0 if value == 0 and not isinstance(value, bool) else positive(place, value)


def remembering(place: Place, value: Any) -> float:
    """Seconds for which answers are kept."""
    seconds = positive(place, value)
    if seconds < _RESUMABLE:
        raise place.error(f"at least {_RESUMABLE} seconds are needed, in which a client may come back")
    return seconds


def or_none(rule: Rule) -> Rule:
    """For what is None by default: it may be said."""
    return lambda place, value: None if value is None else rule(place, value)


def _names(place: Place, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise place.error(f"a list of strings is needed, not {value!r}")
    for item in value:
        if not isinstance(item, str) or not item:
            raise place.error(f"each entry is a string, not {item!r}")
    return tuple(value)


def subprotocols(place: Place, value: Any) -> tuple[str, ...]:
    """Further subprotocols (RFC 6455 section 1.9)."""
    names = _names(place, value)
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise place.error(f"a subprotocol is a word of ASCII, without spaces and commas, not {name!r}")
        if name.startswith("aquilia."):
            raise place.error(f"{name!r} is for Aquilia itself to speak")
    return names


def origins(place: Place, value: Any) -> tuple[str, ...]:
    """Rules for the origins of pages."""
    origins = _names(place, value)
    for entry in origins:
        problem = origin_problem(entry)
        if problem is not None:
            raise place.error(problem)
    return origins


def chain_of(problems: Callable[[Sequence[Any]], Iterable[str]], prefix: str) -> Rule:
    """Guards or middleware of an app; every problem that they have is told at once."""

    def check(place: Place, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise place.error(f"a list is needed, not {value!r}")
        found = [problem.removeprefix(prefix) for problem in problems(value)]
        if found:
            raise place.error("; ".join(found))
        return tuple(value)

    return check


def hosts(place: Place, value: Any) -> tuple[str, ...]:
    """Names that a Host header may have."""
    hosts = _names(place, value)
    for entry in hosts:
        if entry != "*" and not _HOST.fullmatch(entry):
            raise place.error(
                "a host is a name without scheme and port, like 'example.com' or '*.example.com', "
                f"not {entry!r}"
            )
    return hosts


def proxies(place: Place, value: Any) -> tuple[str, ...]:
    """Addresses and networks of proxies."""
    entries = _names(place, value)
    for entry in entries:
        try:
            TrustedProxies([entry])
        except ValueError:
            raise place.error(
                "a proxy is an address or a network without host bits, like '10.0.0.5', '10.0.0.0/8' or "
                f"'2001:db8::/32', or 'unix' for the peers of a Unix socket, not {entry!r}"
            ) from None
    return entries


def adapter(place: Place, value: Any) -> str:
    """Which broker and store."""
    names = adapter_names()
    if value not in names:
        raise place.error(unknown(f"adapter {value!r}", value, names))
    _require_adapter(place, url_of(value))
    return str(value)


def adapter_url(place: Place, value: Any) -> str:
    """Where they are. What stands behind the scheme is for the adapter to say."""
    return _require_adapter(place, value if isinstance(value, str) else "")


def redis_url(place: Place, value: Any) -> str:
    """Where the server of the Redis adapter is."""
    if not isinstance(value, str) or adapter_of_scheme(value.partition("://")[0]) != "redis":
        raise place.error(f"a URL of Redis is needed: {urls_of('redis')}")
    return _require_adapter(place, value)


def _require_adapter(place: Place, url: str) -> str:
    try:
        entry_point_of(url)
    except ValueError as error:
        raise place.error(str(error)) from None
    return url


def presence(place: Place, value: Any) -> Presence | None:
    """Which rooms tell who is in them."""
    if isinstance(value, Presence):
        return value
    if not isinstance(value, bool):
        raise place.error(f"True, False, or Presence(rooms=…, large=…) is needed, not {value!r}")
    return Presence() if value else None


def folder(place: Place, value: Any) -> str:
    """Whether it is there, and can be written to, is for the process to say that uses it."""
    return _path(place, value, "folder", "the path of a folder")


def audit(place: Place, value: Any) -> str | None:
    """The file of the audit; None: the log alone."""
    if isinstance(value, bool):
        return "artifacts/audit.crous" if value else None
    path = _path(place, value, "file", "True, False, or the path of a file")
    if path.endswith(("/", ".")):
        raise place.error(f"no file can be called {value!r}")
    return path


def _path(place: Place, value: Any, kind: str, wanted: str) -> str:
    if not isinstance(value, str | PathLike) or not (path := fspath(value)) or isinstance(path, bytes):
        raise place.error(f"{wanted} is needed, not {value!r}")
    if "\0" in path or not _can_be_named(path):
        raise place.error(f"no {kind} can be called {value!r}")
    return path


def _can_be_named(path: str) -> bool:
    try:
        fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def history(place: Place, value: Any) -> Histories:
    """Which rooms remember how much."""
    if isinstance(value, History):
        return Histories({"*": value})
    if not isinstance(value, Mapping) or not value:
        raise place.error(
            f"History(size=…, ttl=…), or a map of room patterns to such is needed, not {value!r}"
        )
    for pattern, own in value.items():
        if not isinstance(pattern, str) or not pattern:
            raise place.error(f"a room pattern is a string like 'chat:*', not {pattern!r}")
        if not isinstance(own, History):
            raise place.error(f"{pattern!r} keeps History(size=…, ttl=…), not {own!r}")
    histories = Histories(value)
    if hidden := histories.hidden():
        raise place.error("{!r} is never asked, since {!r} before it fits all of its rooms".format(*hidden))
    return histories


def boolean(place: Place, value: Any) -> bool:
    """A switch."""
    if not isinstance(value, bool):
        raise place.error(f"True or False is needed, not {value!r}")
    return value


def compression(place: Place, value: Any) -> Compression | None:
    """How messages are compressed; None: not at all."""
    if value is True:
        return Compression()
    if value is False:
        return None
    if not isinstance(value, Compression):
        given = dict(value) if isinstance(value, Mapping) else value
        raise place.error(f"True, False, or Compression(mode=…) is needed, not {given!r}")
    return value


def backpressure(place: Place, value: Any) -> Backpressure:
    """What may wait for one client."""
    if not isinstance(value, Mapping):
        raise place.error(
            f"a mapping like {{'strategy': 'buffer', 'buffer_size': 100}} is needed, not {value!r}"
        )
    accepted: dict[str, Rule] = {
        "strategy": _strategy,
        "buffer_size": count,
        "buffer_bytes": count,
        "key": lambda place, value: value,
    }
    checked: dict[str, Any] = {}
    for key, part in value.items():
        inner = Place(place.where, f"{place.key}.{key}")
        if key not in accepted:
            raise inner.error(unknown("setting", key, accepted))
        checked[key] = accepted[key](inner, part)
    if problem := key_problem(checked.get("strategy", "buffer"), checked.get("key")):
        raise Place(place.where, f"{place.key}.key").error(problem)
    return Backpressure(**checked)


def endpoint(default: str, example: str, *, also: str | None = None) -> Rule:
    """The path at which something is served over HTTP; None: nowhere. `also` is a word that may be in its place."""
    accepted = f"True, False, or a path like {example!r}"
    if also is not None:
        accepted = f"True, False, a path like {example!r}, or {also!r}"

    def check(place: Place, value: Any) -> str | None:
        if isinstance(value, bool):
            return default if value else None
        if isinstance(value, str) and (value == also or _PATH.fullmatch(value)):
            return value
        raise place.error(f"{accepted} is needed, not {value!r}")

    return check


def query_token(place: Place, value: Any) -> str:
    """The parameter of a handshake's query that is a token."""
    if not isinstance(value, str) or not _PARAMETER.fullmatch(value):
        raise place.error(f"the name of a parameter is needed, like 'access_token', not {value!r}")
    if value == TICKET_PARAMETER:
        raise place.error(f"{value!r} is where tickets stand; choose another name, like 'access_token'")
    return value


def role(place: Place, value: Any) -> str:
    """A role of identities."""
    if not isinstance(value, str) or not value or set(value) & set(" \t\r\n"):
        raise place.error(f"the name of a role without spaces is needed, like 'admin', not {value!r}")
    return value


def _strategy(place: Place, value: Any) -> str:
    if problem := strategy_problem(value):
        raise place.error(problem)
    return str(value)
