"""The settings of the socket subsystem: `@Socket(…)` over `AppManifest(websockets={…})` over the defaults.

Every key is checked when the application boots: an unknown one, a value of the wrong type, and a feature that this
version does not have are errors that name what is accepted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from os import PathLike, fspath
from typing import Any

from aquilia.sockets.declaration import SocketDeclaration
from aquilia.sockets.emits import Emits, key_problem, strategy_problem
from aquilia.sockets.guards import guard_problems
from aquilia.sockets.handshake import origin_problem
from aquilia.sockets.history import Histories, History
from aquilia.sockets.middleware import middleware_problems
from aquilia.sockets.outbox import Backpressure

__all__ = [
    "ADAPTERS",
    "OUTBOX_BYTES",
    "AppChain",
    "NodeSettings",
    "SettingsError",
    "SocketSettings",
    "node_settings",
    "socket_settings",
    "spools",
]

ADAPTERS = ("inmemory", "local", "nats")
OUTBOX_BYTES = 1 << 28
"""Bytes that may wait for slow clients in a process, if nobody says otherwise."""
_PLANNED_ADAPTERS = ("redis", "kafka")
_SCHEMES = {"memory": "inmemory", "local": "local", "nats": "nats", "tls": "nats"}


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
class SocketSettings:
    """What holds for the connections of one controller. Sizes in bytes, times in seconds."""

    max_connections: int | None = None
    message_rate_limit: float | None = None
    max_message_size: int = 65_536
    backpressure: Backpressure = field(default_factory=Backpressure)
    allowed_origins: tuple[str, ...] | None = None
    max_rooms: int = 100
    room_size: int | None = None
    subprotocols: tuple[str, ...] = ()
    require_auth: bool = False
    history: Histories = field(default_factory=Histories)
    """Which rooms remember how much; none do by default."""
    resume: bool = True


@dataclass(frozen=True, slots=True)
class AppChain:
    """What stands before all controllers of one app, outside of their own."""

    guards: tuple[Any, ...] = ()
    message_middleware: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What holds for the process: one `AppManifest(websockets={…})`. Times in seconds.

    `sockets` and `chain` hold for the controllers of that manifest alone.
    """

    adapter: str = "inmemory"
    adapter_url: str | None = field(default=None, repr=False)
    """Where its server is. It may hold a password."""
    max_connections: int = 10_000
    max_namespaces: int = 10_000
    outbox_bytes: int = OUTBOX_BYTES
    spool_dir: str | None = None
    """Where what waits on disk is; None: in the system's folder for temporary files."""
    spool_bytes: int = 1 << 26
    """Of one connection."""
    spool_total_bytes: int = 1 << 30
    allowed_hosts: tuple[str, ...] | None = None
    heartbeat: float = 25.0
    handshake_timeout: float = 10.0
    handler_timeout: float | None = None
    idempotence_ttl: float = 300.0
    health: str | None = None
    """The path at which load balancers ask whether the process takes clients."""
    metrics: str | None = None
    """The path at which metrics are served, or "collect": they are kept, and the host serves them."""
    sockets: SocketSettings = field(default_factory=SocketSettings)
    chain: AppChain = field(default_factory=AppChain)


def node_settings(websockets: Mapping[str, Any], where: str) -> NodeSettings:
    """The settings of one manifest.

    Raises:
        SettingsError: for the first key that is unknown, wrong, or not available.
    """
    values: dict[str, Any] = {}
    sockets: dict[str, Any] = {}
    chain: dict[str, Any] = {}
    for key, value in websockets.items():
        rule = _RULES.get(key)
        if rule is None:
            raise SettingsError(where, key, _mistaken(key) or _unknown("setting", key, _RULES))
        checked = rule(_Place(where, key), value)
        if key in _SOCKET_KEYS:
            sockets[key] = checked
        elif key in _CHAIN_KEYS:
            chain[key] = checked
        elif key in _NODE_KEYS:
            values[key] = checked
    if "adapter_url" in values:
        told = _SCHEMES[values["adapter_url"].partition("://")[0]]
        if values.setdefault("adapter", told) != told:
            raise SettingsError(
                where, "adapter_url", f"it is that of {told!r}, and adapter says {values['adapter']!r}"
            )
    return NodeSettings(**values, sockets=SocketSettings(**sockets), chain=AppChain(**chain))


def socket_settings(declared: SocketDeclaration, node: NodeSettings, where: str) -> SocketSettings:
    """The settings of one controller: its own over its manifest's.

    Raises:
        SettingsError: for the first value that is wrong or not available.
    """
    merged: dict[str, Any] = {
        "max_message_size": node.sockets.max_message_size,
        "message_rate_limit": node.sockets.message_rate_limit,
        "backpressure": node.sockets.backpressure,
        "allowed_origins": node.sockets.allowed_origins,
        "require_auth": node.sockets.require_auth,
    }
    for key, rule in _DECLARED.items():
        value = getattr(declared, key)
        if value is not None:
            checked = rule(_Place(where, key), value)
            if key in SocketSettings.__dataclass_fields__:
                merged[key] = checked
    return SocketSettings(**merged)


def spools(settings: SocketSettings, emits: Mapping[str, Emits[Any]]) -> bool:
    """Whether anything that a controller sends may wait on disk."""
    return "spool" in (settings.backpressure.strategy, *(own.strategy for own in emits.values()))


@dataclass(frozen=True, slots=True)
class _Place:
    where: str
    key: str

    def error(self, problem: str) -> SettingsError:
        return SettingsError(self.where, self.key, problem)


_Rule = Callable[[_Place, Any], Any]

_LARGEST_MESSAGE = (1 << 31) - 1
"""What the length of a buffer can be on every platform."""
_LARGEST_NUMBER = sys.float_info.max
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 section 5.6.2; a subprotocol is one (RFC 6455 section 4.1)."""
_HOST = re.compile(
    r"(\*\.)?[A-Za-z0-9_-][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}"
)


_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def _unknown(what: str, name: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what}{hint} (accepted: {', '.join(sorted(known))})"


def _count(place: _Place, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise place.error(f"a whole number of at least 1 is needed, not {value!r}")
    return value


def _message_size(place: _Place, value: Any) -> int:
    size = _count(place, value)
    if size > _LARGEST_MESSAGE:
        raise place.error(f"one message has at most {_LARGEST_MESSAGE} bytes")
    return size


def _positive(place: _Place, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST_NUMBER:
        raise place.error(f"a number above 0 is needed, not {value!r}")
    return float(value)


_RESUMABLE = 120
"""Seconds in which a session can be resumed: its messages may come again as late as that."""


def _remembering(place: _Place, value: Any) -> float:
    seconds = _positive(place, value)
    if seconds < _RESUMABLE:
        raise place.error(f"at least {_RESUMABLE} seconds are needed, in which a client may come back")
    return seconds


def _or_none(rule: _Rule) -> _Rule:
    """For what is None by default: it may be said."""
    return lambda place, value: None if value is None else rule(place, value)


def _names(place: _Place, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise place.error(f"a list of strings is needed, not {value!r}")
    for item in value:
        if not isinstance(item, str) or not item:
            raise place.error(f"each entry is a string, not {item!r}")
    return tuple(value)


def _subprotocols(place: _Place, value: Any) -> tuple[str, ...]:
    names = _names(place, value)
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise place.error(f"a subprotocol is a word of ASCII, without spaces and commas, not {name!r}")
        if name.startswith("aquilia."):
            raise place.error(f"{name!r} is for Aquilia itself to speak")
    return names


def _origins(place: _Place, value: Any) -> tuple[str, ...]:
    origins = _names(place, value)
    for entry in origins:
        problem = origin_problem(entry)
        if problem is not None:
            raise place.error(problem)
    return origins


def _chain(problems: Callable[[Sequence[Any]], Iterable[str]], prefix: str) -> _Rule:
    """Guards or middleware of an app; every problem that they have is told at once."""

    def check(place: _Place, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise place.error(f"a list is needed, not {value!r}")
        found = [problem.removeprefix(prefix) for problem in problems(value)]
        if found:
            raise place.error("; ".join(found))
        return tuple(value)

    return check


def _guard_problems(guards: Sequence[Any]) -> Iterable[str]:
    return guard_problems(guards, of_event=False)


def _hosts(place: _Place, value: Any) -> tuple[str, ...]:
    hosts = _names(place, value)
    for entry in hosts:
        if entry != "*" and not _HOST.fullmatch(entry):
            raise place.error(
                "a host is a name without scheme and port, like 'example.com' or '*.example.com', "
                f"not {entry!r}"
            )
    return hosts


def _adapter(place: _Place, value: Any) -> str:
    if value in ADAPTERS:
        return str(value)
    choices = ", ".join(map(repr, ADAPTERS[:-1])) + f" or {ADAPTERS[-1]!r}"
    if value in _PLANNED_ADAPTERS:
        raise place.error(f"{value!r} is planned, and not in this version yet; choose {choices}")
    raise place.error(_unknown(f"adapter {value!r}", value, ADAPTERS))


def _adapter_url(place: _Place, value: Any) -> str:
    accepted = "'memory://', 'local://', or 'nats://host:4222/prefix'"
    if not isinstance(value, str) or "://" not in value:
        raise place.error(f"an URL is needed: {accepted}")
    scheme = value.partition("://")[0]  # the rest is not shown: it may hold a password
    if scheme in _PLANNED_ADAPTERS:
        raise place.error(f"{scheme}:// is planned, and not in this version yet; choose {accepted}")
    if scheme not in _SCHEMES or (scheme == "memory" and value != "memory://"):
        raise place.error(_unknown(f"adapter {scheme!r}", scheme, _SCHEMES) + f"; choose {accepted}")
    return value


def _switch(feature: str) -> _Rule:
    """A feature that is planned: False is honoured, True refused."""

    def check(place: _Place, value: Any) -> bool:
        if value is False:
            return False
        if value is True:
            raise place.error(f"{feature} is planned, and not in this version yet; leave it out")
        raise place.error(f"True or False is needed, not {value!r}")

    return check


def _folder(place: _Place, value: Any) -> str:
    """Whether it is there, and can be written to, is for the process to say that uses it."""
    if not isinstance(value, str | PathLike) or not (path := fspath(value)) or isinstance(path, bytes):
        raise place.error(f"the path of a folder is needed, not {value!r}")
    if "\0" in path:
        raise place.error(f"no folder can be called {value!r}")
    return path


def _not_yet(feature: str) -> _Rule:
    def refuse(place: _Place, value: Any) -> None:
        if value is not None:
            raise place.error(f"{feature} is planned, and not in this version yet; leave it out")

    return refuse


def _history(place: _Place, value: Any) -> Histories:
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


def _require_auth(place: _Place, value: Any) -> bool:
    """Whether the application has an AuthManager is for the plan to say."""
    if not isinstance(value, bool):
        raise place.error(f"True or False is needed, not {value!r}")
    return value


def _boolean(place: _Place, value: Any) -> bool:
    if not isinstance(value, bool):
        raise place.error(f"True or False is needed, not {value!r}")
    return value


def _backpressure(place: _Place, value: Any) -> Backpressure:
    if not isinstance(value, Mapping):
        raise place.error(
            f"a mapping like {{'strategy': 'buffer', 'buffer_size': 100}} is needed, not {value!r}"
        )
    accepted: dict[str, _Rule] = {
        "strategy": _strategy,
        "buffer_size": _count,
        "buffer_bytes": _count,
        "key": lambda place, value: value,
    }
    checked: dict[str, Any] = {}
    for key, part in value.items():
        inner = _Place(place.where, f"{place.key}.{key}")
        if key not in accepted:
            raise inner.error(_unknown("setting", key, accepted))
        checked[key] = accepted[key](inner, part)
    if problem := key_problem(checked.get("strategy", "buffer"), checked.get("key")):
        raise _Place(place.where, f"{place.key}.key").error(problem)
    return Backpressure(**checked)


def _metrics(place: _Place, value: Any) -> str | None:
    if value is False:
        return None
    if value is True:
        return "/metrics"
    if value == "collect" or (isinstance(value, str) and _PATH.fullmatch(value)):
        return str(value)
    raise place.error(f"True, False, a path like '/internal/metrics', or 'collect' is needed, not {value!r}")


def _health(place: _Place, value: Any) -> str | None:
    if isinstance(value, bool):
        return "/health" if value else None
    if isinstance(value, str) and _PATH.fullmatch(value):
        return value
    raise place.error(f"True, False, or a path like '/internal/health' is needed, not {value!r}")


def _strategy(place: _Place, value: Any) -> str:
    if problem := strategy_problem(value):
        raise place.error(problem)
    return str(value)


_SOCKET_KEYS = frozenset(
    {"message_rate_limit", "max_message_size", "backpressure", "allowed_origins", "require_auth"}
)
_CHAIN_KEYS = frozenset(AppChain.__dataclass_fields__)
_NODE_KEYS = frozenset(NodeSettings.__dataclass_fields__)

_RULES: dict[str, _Rule] = {
    "adapter": _adapter,
    "adapter_url": _adapter_url,
    "redis_url": _not_yet("the Redis adapter"),
    "store_url": _not_yet("a store apart from the adapter"),
    "max_connections": _count,
    "max_namespaces": _count,
    "outbox_bytes": _count,
    "spool_dir": _folder,
    "spool_bytes": _count,
    "spool_total_bytes": _count,
    "message_rate_limit": _or_none(_positive),
    "max_message_size": _message_size,
    "backpressure": _backpressure,
    "allowed_origins": _or_none(_origins),
    "allowed_hosts": _or_none(_hosts),
    "require_auth": _require_auth,
    "compression": _switch("compression"),
    "heartbeat": _positive,
    "handshake_timeout": _positive,
    "handler_timeout": _or_none(_positive),
    "idempotence_ttl": _remembering,
    "health": _health,
    "metrics": _metrics,
    "guards": _chain(_guard_problems, "guards: "),
    "message_middleware": _chain(middleware_problems, "middleware: "),
}


def _mistaken(key: str) -> str | None:
    """Where a key belongs that is known elsewhere."""
    if key == "middleware":
        return (
            "middleware of messages is the setting 'message_middleware'; that of requests and handshakes is "
            "AppManifest(middleware=[…])"
        )
    return f"each controller says that for itself: @Socket(…, {key}=…)" if key in _DECLARED else None


_DECLARED: dict[str, _Rule] = {
    "allowed_origins": _origins,
    "max_connections": _count,
    "message_rate_limit": _positive,
    "max_message_size": _message_size,
    "compression": _switch("compression"),
    "subprotocols": _subprotocols,
    "require_auth": _require_auth,
    "backpressure": _backpressure,
    "history": _history,
    "presence": _switch("presence"),
    "resume": _boolean,
    "max_rooms": _count,
    "room_size": _count,
}
