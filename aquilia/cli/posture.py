"""How a workspace is configured, as far as its safety is concerned: facts, without any secret. For `aq doctor`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from aquilia.jwt import KEY_VARIABLE, JWTAuthManager
from aquilia.loopback import is_loopback
from aquilia.server import Booted
from aquilia.sessions.engine import SESSION_SECRET, SessionEngine
from aquilia.sockets.adapters.choice import Choice, chosen, chosen_store
from aquilia.sockets.adapters.kafka.url import Target as KafkaTarget
from aquilia.sockets.adapters.nats.url import Target as NatsTarget
from aquilia.sockets.adapters.redis.url import Target as RedisTarget
from aquilia.sockets.adapters.schemes import adapter_of_scheme
from aquilia.sockets.adapters.signing import BUS_SECRET, BUS_SECRET_FILE
from aquilia.sockets.audit.trail import AUDIT_SECRET
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.guards import OriginGuard, RateLimitGuard
from aquilia.workspace import Environment, environment

__all__ = ["AdapterPosture", "Posture", "SecretPosture", "SocketPosture", "posture_of"]

_LOOKED_AT = 2000
"""Python files of a workspace in which secrets are looked for."""
_SKIPPED = {"node_modules", "site-packages", "tests"}
_DEFAULTS = re.compile(
    r"change.?me|secret|passw|default|example|test|dummy|sample|your.|replace|insecure|development|todo"
    r"|12345|abcde|qwert|aquilia|for the documents",
    re.IGNORECASE,
)
_LEAST_DISTINCT = 10
_LEAST_SOUGHT = 8
"""Characters of what can be told from other words of a source."""


class SocketPosture(msgspec.Struct, frozen=True, kw_only=True):
    """One controller. `asks` is whether anything asks who a client is, or decides what it may do."""

    path: str
    where: str
    asks: bool = True
    origins: tuple[str, ...] = ()
    message_rate_limit: float | None = 10.0


class SecretPosture(msgspec.Struct, frozen=True, kw_only=True):
    """A secret: what it is for, and what is wrong with it; its text is not here."""

    name: str
    looks_default: bool = False
    in_source: str = ""
    """The file and line of the workspace that has its text."""


class AdapterPosture(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is. `host` is empty for one that is not reached over the network."""

    where: str = "adapter_url"
    """The setting or variable that says where it is."""
    host: str = ""
    loopback: bool = True
    tls: bool = False
    login: bool = False
    signed: bool = False
    """Whether nodes sign what they say to one another."""
    advice: str = "use tls://, and a login by a file, such as ?creds=FILE"


class Posture(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace, and how it is to be served."""

    environment: Environment = "production"
    problems: tuple[tuple[str, str], ...] = ()
    """What keeps it from starting: where, and what."""
    sockets: tuple[SocketPosture, ...] = ()
    allowed_hosts: tuple[str, ...] | None = ()
    heartbeat: float = 25.0
    ping_timeout: float | None = None
    metrics: str | None = None
    health: str | None = None
    audit: str | None = "artifacts/audit.crous"
    audit_secret: bool = True
    adapter: AdapterPosture = AdapterPosture()
    store: AdapterPosture = AdapterPosture(where="store_url")
    """Where the store is, if it is apart from the broker."""
    secrets: tuple[SecretPosture, ...] = ()
    address: str = "127.0.0.1"
    """Where `aq serve` is to listen: `--host`, or `unix` with `--uds`."""
    certificate: bool = False
    trusted_proxies: tuple[str, ...] = ()
    """Those of the setting, or of `aq serve --trusted-proxies`."""
    door: bool = True
    """Whether an address is limited in its handshakes or connections."""
    takes_back: bool = True
    """Whether access can be taken back, where anybody has any."""


def posture_of(booted: Booted, root: Path) -> Posture:
    """The posture of a workspace, with the secrets of this environment."""
    plan = booted.application.sockets.plan
    node = plan.node
    signed = bool(os.environ.get(BUS_SECRET) or os.environ.get(BUS_SECRET_FILE))
    problems = booted.application.registry.boot_problems()
    return Posture(
        environment=environment(),
        problems=tuple((problem.where, problem.message) for problem in problems),
        sockets=tuple(_socket(contract) for _, contract in plan.contracts),
        allowed_hosts=node.allowed_hosts,
        heartbeat=node.heartbeat,
        ping_timeout=node.ping_timeout,
        metrics=None if node.metrics == "collect" else node.metrics,
        health=node.health,
        audit=node.audit,
        audit_secret=bool(os.environ.get(AUDIT_SECRET)),
        adapter=_adapter(chosen(node.adapter, node.adapter_url, node.redis_url), signed),
        store=_adapter(chosen_store(node.store_url), signed),
        trusted_proxies=node.trusted_proxies,
        door=node.handshake_rate is not None or node.max_connections_per_address is not None,
        takes_back=node.revocation
        or not any(app.auth or app.sessions for app in booted.application.registry.apps),
        secrets=tuple(_judged(name, text, root) for name, text in _secrets(booted)),
    )


def _socket(contract: SocketContract) -> SocketPosture:
    settings = contract.settings
    guards = [*contract.chain.guards, *contract.declaration.guards]
    asks = [guard for guard in guards if not isinstance(guard, OriginGuard | RateLimitGuard)]
    events = contract.events.values()
    each_asks = bool(events) and all(
        any(not isinstance(guard, RateLimitGuard) for guard in event.declaration.guards) for event in events
    )
    rate = settings.message_rate_limit
    if rate is None and any(isinstance(guard, RateLimitGuard) for guard in guards):
        rate = 1.0
    return SocketPosture(
        path=contract.declaration.path,
        where=str(contract.location),
        asks=settings.require_auth or bool(asks) or bool(contract.guards) or each_asks,
        origins=settings.allowed_origins or (),
        message_rate_limit=rate,
    )


def _adapter(choice: Choice | None, signed: bool) -> AdapterPosture:
    where, url = choice or ("adapter_url", None)
    return msgspec.structs.replace(adapter_posture(url), where=where, signed=signed)


def adapter_posture(url: str | None) -> AdapterPosture:
    """What an adapter's URL says of its safety. It is not kept: it may hold a password."""
    match adapter_of_scheme((url or "").partition("://")[0]):
        case "nats":
            return _nats_posture(NatsTarget.parse(url or ""))
        case "redis":
            return _redis_posture(RedisTarget.parse(url or ""))
        case "kafka":
            return _kafka_posture(KafkaTarget.parse(url or ""))
    return AdapterPosture()


def _nats_posture(target: NatsTarget) -> AdapterPosture:
    names = [urlsplit(server).hostname or "" for server in target.servers]
    return AdapterPosture(
        host=", ".join(names),
        loopback=all(not name or is_loopback(name) for name in names),
        tls=target.tls or not target.files.keys().isdisjoint({"ca", "cert"}),
        login=bool(target.user or target.token)
        or not target.files.keys().isdisjoint({"creds", "nkey", "token_file", "password_file", "cert"}),
    )


def _redis_posture(target: RedisTarget) -> AdapterPosture:
    names = [name.strip("[]") for name, _ in target.hosts]
    return AdapterPosture(
        host=", ".join(names),
        loopback=all(is_loopback(name) for name in names),
        tls=target.tls,
        login=target.password is not None or not target.files.keys().isdisjoint({"password_file", "cert"}),
        advice="use rediss://, and a login by a file: rediss://user@host?password_file=FILE",
    )


def _kafka_posture(target: KafkaTarget) -> AdapterPosture:
    names = [name.strip("[]") for name, _ in target.servers]
    return AdapterPosture(
        host=", ".join(names),
        loopback=all(is_loopback(name) for name in names),
        tls=target.tls,
        login=target.user is not None or "cert" in target.files,
        advice="use kafka+ssl://, and a login by a file: kafka+ssl://user@host?password_file=FILE",
    )


def _secrets(booted: Booted) -> Iterator[tuple[str, str]]:
    """The secrets that can be seen, each with what it is called."""
    for name in (SESSION_SECRET, KEY_VARIABLE, AUDIT_SECRET, BUS_SECRET):
        said = os.environ.get(name, "")
        for text in said.split(",") if name in (SESSION_SECRET, BUS_SECRET) else [said]:
            if text.strip() and not text.lstrip().startswith(("{", "-----")):
                yield name, text.strip()
    for app in booted.application.registry.apps:
        if isinstance(app.sessions, SessionEngine):
            for secret in app.sessions.secrets:
                yield f"SessionEngine of {app.manifest.name}", _text(secret)
        if isinstance(app.auth, JWTAuthManager):
            for secret in app.auth.secrets:
                yield f"JWTAuthManager of {app.manifest.name}", _text(secret)


def _text(secret: str | bytes) -> str:
    return secret.decode(errors="replace") if isinstance(secret, bytes) else secret


def _judged(name: str, text: str, root: Path) -> SecretPosture:
    default = len(set(text)) < _LEAST_DISTINCT or _DEFAULTS.search(text) is not None
    found = _found_in(root, text) if len(text) >= _LEAST_SOUGHT else ""
    return SecretPosture(name=name, looks_default=default, in_source=found)


def _found_in(root: Path, secret: str) -> str:
    for number, file in enumerate(_sources(root)):
        if number >= _LOOKED_AT:
            break
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line, text in enumerate(lines, 1):
            if secret in text:
                return f"{file.relative_to(root)}:{line}"
    return ""


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))
