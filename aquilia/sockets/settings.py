"""The settings of the socket subsystem: `@Socket(…)` over `AppManifest(websockets={…})` over the defaults.

Every key is checked when the application boots: an unknown one, a value of the wrong type, and a feature that this
version does not have are errors that name what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aquilia.sockets.accepted import (
    Place,
    Rule,
    SettingsError,
    adapter,
    adapter_url,
    audit,
    backpressure,
    boolean,
    chain_of,
    compression,
    count,
    endpoint,
    folder,
    history,
    hosts,
    message_size,
    not_negative,
    or_none,
    origins,
    positive,
    presence,
    proxies,
    query_token,
    redis_url,
    remembering,
    role,
    subprotocols,
    unknown,
)
from aquilia.sockets.adapters.schemes import adapter_of_scheme
from aquilia.sockets.declaration import SocketDeclaration
from aquilia.sockets.deflate import Compression
from aquilia.sockets.emits import Emits
from aquilia.sockets.guards import guard_problems
from aquilia.sockets.history import Histories
from aquilia.sockets.middleware import middleware_problems
from aquilia.sockets.outbox.queue import Backpressure
from aquilia.sockets.presence.values import Presence

__all__ = [
    "INBOX_BYTES",
    "OUTBOX_BYTES",
    "TWO_URLS",
    "AppChain",
    "NodeSettings",
    "SettingsError",
    "SocketSettings",
    "node_settings",
    "socket_settings",
    "spools",
]

OUTBOX_BYTES = 1 << 28
"""Bytes that may wait for slow clients in a process, if nobody says otherwise."""
INBOX_BYTES = 1 << 28
"""Bytes that were read in a process and wait to be handled, likewise."""


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """What holds for the connections of one controller. Sizes in bytes, times in seconds."""

    max_connections: int | None = None
    max_connections_per_namespace: int | None = None
    message_rate_limit: float | None = None
    byte_rate_limit: float | None = None
    idle_timeout: float | None = None
    max_message_size: int = 65_536
    compression: Compression | None = None
    max_fragments: int | None = None
    """Frames of one message; None: 4096, or as many as have 16 bytes on average."""
    backpressure: Backpressure = field(default_factory=Backpressure)
    allowed_origins: tuple[str, ...] | None = None
    max_rooms: int = 100
    room_size: int | None = None
    subprotocols: tuple[str, ...] = ()
    require_auth: bool = False
    history: Histories = field(default_factory=Histories)
    """Which rooms remember how much; none do by default."""
    presence: Presence | None = None
    """Which rooms tell who is in them; none do by default."""
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
    redis_url: str | None = field(default=None, repr=False)
    """The same, of the adapter "redis"."""
    store_url: str | None = field(default=None, repr=False)
    """Whose store is taken, where that is not the broker's own."""
    publish_timeout: float | None = None
    """How long what goes into a room with history waits for a broker; None: as the adapter has it."""
    max_connections: int = 10_000
    max_connections_per_address: int | None = None
    max_connections_per_identity: int | None = None
    identity_rate_limit: float | None = None
    """Messages a second of one identity, over all its connections and all nodes."""
    identity_byte_rate_limit: float | None = None
    handshake_rate: float | None = None
    """Handshakes a second and address."""
    max_namespaces: int = 10_000
    outbox_bytes: int = OUTBOX_BYTES
    inbox_bytes: int = INBOX_BYTES
    spool_dir: str | None = None
    """Where what waits on disk is; None: in the system's folder for temporary files."""
    spool_bytes: int = 1 << 26
    """Of one connection."""
    spool_total_bytes: int = 1 << 30
    allowed_hosts: tuple[str, ...] | None = None
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose word on who their client is counts."""
    tickets: str | None = None
    """The path at which who is logged in gets a ticket for one handshake."""
    query_token: str | None = None
    """The parameter of a handshake's query that is a token."""
    heartbeat: float = 25.0
    ping_timeout: float | None = None
    """From a ping that nothing follows to the end of the connection; None: two heartbeats."""
    handshake_timeout: float = 10.0
    handler_timeout: float | None = None
    idempotence_ttl: float = 300.0
    revocation: bool = False
    """Whether access can be taken back: see `aquilia.sockets.revocation`."""
    admin: str | None = None
    """The path below which an admin is served over HTTP."""
    admin_role: str | None = None
    """Whoever has this role is one, by the AuthManager of the manifest that says so."""
    health: str | None = None
    """The path at which load balancers ask whether the process takes clients."""
    metrics: str | None = None
    """The path at which metrics are served, or "collect": they are kept, and the host serves them."""
    audit: str | None = None
    """The file to which the audit is appended; None: it goes to the log alone."""
    sockets: SocketSettings = field(default_factory=SocketSettings)
    chain: AppChain = field(default_factory=AppChain)


TWO_URLS = "adapter_url says where the broker is, too: leave one of the two out"


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
            raise SettingsError(where, key, _mistaken(key) or unknown("setting", key, _RULES))
        checked = rule(Place(where, key), value)
        if key in _SOCKET_KEYS:
            sockets[key] = checked
        elif key in _CHAIN_KEYS:
            chain[key] = checked
        elif key in _NODE_KEYS:
            values[key] = checked
    for key in ("adapter_url", "redis_url"):
        if (url := values.get(key)) is not None:
            told = adapter_of_scheme(url.partition("://")[0])
            if values.setdefault("adapter", told) != told:
                problem = f"it is that of {told!r}, and adapter says {values['adapter']!r}"
                raise SettingsError(where, key, problem)
    if values.get("redis_url") is not None and "adapter_url" in values:
        raise SettingsError(where, "redis_url", TWO_URLS)
    return NodeSettings(**values, sockets=SocketSettings(**sockets), chain=AppChain(**chain))


def socket_settings(declared: SocketDeclaration, node: NodeSettings, where: str) -> SocketSettings:
    """The settings of one controller: its own over its manifest's.

    Raises:
        SettingsError: for the first value that is wrong or not available.
    """
    merged: dict[str, Any] = {key: getattr(node.sockets, key) for key in _SOCKET_KEYS}
    for key, rule in _DECLARED.items():
        value = getattr(declared, key)
        if value is not None:
            checked = rule(Place(where, key), value)
            if key in SocketSettings.__dataclass_fields__:
                merged[key] = checked
    return SocketSettings(**merged)


def spools(settings: SocketSettings, emits: Mapping[str, Emits[Any]]) -> bool:
    """Whether anything that a controller sends may wait on disk."""
    return "spool" in (settings.backpressure.strategy, *(own.strategy for own in emits.values()))


def _guard_problems(guards: Sequence[Any]) -> Iterable[str]:
    return guard_problems(guards, of_event=False)


_SOCKET_KEYS = (
    "allowed_origins",
    "max_connections_per_namespace",
    "message_rate_limit",
    "byte_rate_limit",
    "idle_timeout",
    "max_fragments",
    "max_message_size",
    "compression",
    "require_auth",
    "backpressure",
)
"""What a manifest says for its controllers, and each of them may say for itself."""
_CHAIN_KEYS = frozenset(AppChain.__dataclass_fields__)
_NODE_KEYS = frozenset(NodeSettings.__dataclass_fields__)

_RULES: dict[str, Rule] = {
    "adapter": adapter,
    "adapter_url": adapter_url,
    "redis_url": or_none(redis_url),
    "store_url": or_none(adapter_url),
    "publish_timeout": or_none(not_negative),
    "max_connections": count,
    "max_connections_per_address": or_none(count),
    "max_connections_per_identity": or_none(count),
    "max_connections_per_namespace": or_none(count),
    "identity_rate_limit": or_none(positive),
    "identity_byte_rate_limit": or_none(positive),
    "handshake_rate": or_none(positive),
    "max_namespaces": count,
    "outbox_bytes": count,
    "inbox_bytes": count,
    "spool_dir": folder,
    "spool_bytes": count,
    "spool_total_bytes": count,
    "message_rate_limit": or_none(positive),
    "byte_rate_limit": or_none(positive),
    "idle_timeout": or_none(positive),
    "max_fragments": or_none(count),
    "max_message_size": message_size,
    "backpressure": backpressure,
    "allowed_origins": or_none(origins),
    "allowed_hosts": or_none(hosts),
    "trusted_proxies": proxies,
    "require_auth": boolean,
    "tickets": endpoint("/ws/ticket", "/ws/ticket"),
    "query_token": or_none(query_token),
    "compression": compression,
    "heartbeat": positive,
    "ping_timeout": or_none(positive),
    "handshake_timeout": positive,
    "handler_timeout": or_none(positive),
    "idempotence_ttl": remembering,
    "revocation": boolean,
    "admin": endpoint("/_aquilia/admin", "/internal/admin"),
    "admin_role": or_none(role),
    "health": endpoint("/health", "/internal/health"),
    "audit": audit,
    "metrics": endpoint("/metrics", "/internal/metrics", also="collect"),
    "guards": chain_of(_guard_problems, "guards: "),
    "message_middleware": chain_of(middleware_problems, "middleware: "),
}


def _mistaken(key: str) -> str | None:
    """Where a key belongs that is known elsewhere."""
    if key == "middleware":
        return (
            "middleware of messages is the setting 'message_middleware'; that of requests and handshakes is "
            "AppManifest(middleware=[…])"
        )
    return f"each controller says that for itself: @Socket(…, {key}=…)" if key in _DECLARED else None


_DECLARED: dict[str, Rule] = {
    **{key: _RULES[key] for key in _SOCKET_KEYS},
    "max_connections": count,
    "subprotocols": subprotocols,
    "history": history,
    "presence": presence,
    "resume": boolean,
    "max_rooms": count,
    "room_size": count,
}
