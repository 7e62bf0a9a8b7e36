"""What `aq doctor` looks at: each check is one function of a workspace's posture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal, NamedTuple

import msgspec

from aquilia.cli.posture import AdapterPosture, Posture
from aquilia.forwarded import UNIX
from aquilia.loopback import is_loopback
from aquilia.sockets.adapters.signing import BUS_SECRET

__all__ = ["CHECKS", "Check", "Finding", "findings"]

Level = Literal["error", "warning", "note"]
_LEVELS: tuple[Level, ...] = ("error", "warning", "note")
LONG_HEARTBEAT = 120.0


class Finding(msgspec.Struct, frozen=True):
    """What is unsafe: where, what it is, and what to do about it."""

    level: Level
    check: str
    where: str
    problem: str
    remedy: str


class _Found(NamedTuple):
    where: str
    problem: str
    remedy: str


class Check(NamedTuple):
    """One thing that is looked at."""

    name: str
    level: Level
    look: Callable[[Posture], Iterator[_Found]]


CHECKS: dict[str, Check] = {}


def findings(posture: Posture, accepted: frozenset[str] = frozenset()) -> list[Finding]:
    """What all checks but those `accepted` find, errors first."""
    found = [
        Finding(check.level, check.name, *each)
        for check in CHECKS.values()
        if check.name not in accepted
        for each in check.look(posture)
    ]
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))


def _check(name: str, level: Level) -> Callable[[Callable[[Posture], Iterator[_Found]]], None]:
    def register(look: Callable[[Posture], Iterator[_Found]]) -> None:
        CHECKS[name] = Check(name, level, look)

    return register


@_check("start", "error")
def _start(posture: Posture) -> Iterator[_Found]:
    for where, problem in posture.problems:
        yield _Found(where, problem, "it does not start before that is mended")


@_check("auth", "error")
def _auth(posture: Posture) -> Iterator[_Found]:
    for socket in posture.sockets:
        if not socket.asks:
            yield _Found(
                socket.where,
                f"{socket.path}: whoever connects may send every event; nothing asks who it is",
                "say require_auth=True with an AuthManager, or give it guards",
            )


@_check("origins", "error")
def _origins(posture: Posture) -> Iterator[_Found]:
    for socket in posture.sockets:
        if "*" in socket.origins:
            yield _Found(
                socket.where,
                f"{socket.path}: the pages of every site may connect, though without the cookies of their visitors",
                "list your own in allowed_origins, or leave it out for the same origin",
            )


@_check("secrets", "error")
def _secrets(posture: Posture) -> Iterator[_Found]:
    for secret in posture.secrets:
        if secret.looks_default:
            yield _Found(
                secret.name,
                "it has words of an example in it, or few different characters: it can be guessed",
                "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )


@_check("source", "error")
def _source(posture: Posture) -> Iterator[_Found]:
    for secret in posture.secrets:
        if secret.in_source:
            yield _Found(
                secret.in_source,
                f"the secret of {secret.name} stands in the source: whoever reads that has it",
                "make a new one, and give it by the environment",
            )


@_check("tls", "error")
def _tls(posture: Posture) -> Iterator[_Found]:
    if not posture.certificate and not posture.trusted_proxies and not _is_local(posture.address):
        yield _Found(
            f"--host {posture.address}",
            "it is reached from other machines without TLS, and no proxy is trusted: tokens and cookies can be read",
            "give --ssl-certfile (here: --tls), or name the proxy that has TLS in the setting trusted_proxies",
        )


@_check("proxies", "error")
def _proxies(posture: Posture) -> Iterator[_Found]:
    for entry in posture.trusted_proxies:
        if entry != UNIX and _is_wide(ip_network(entry)):
            yield _Found(
                "trusted_proxies",
                f"whoever connects from {entry} may say which address, scheme and host it has: limits, origins and "
                "the audit believe it",
                "name the addresses of your proxies, or the network that they alone are in",
            )


@_check("adapter", "error")
def _adapter(posture: Posture) -> Iterator[_Found]:
    adapter, store = posture.adapter, posture.store
    if missing := _open_way(adapter):
        does = "reads all messages, and writes what is stored"
        advice = adapter.advice
        if not adapter.signed:
            does = "reads and writes all messages, and nobody signs them"
            advice += f"; set {BUS_SECRET} too"
        yield _Found(
            adapter.where, f"{adapter.host} is asked without {missing}: who reaches it {does}", advice
        )
    if missing := _open_way(store):
        does = "reads and writes what is stored: sessions to come back to, and answers"
        yield _Found(
            store.where, f"{store.host} is asked without {missing}: who reaches it {does}", store.advice
        )


def _open_way(adapter: AdapterPosture) -> str:
    missing = [word for word, there in (("TLS", adapter.tls), ("login", adapter.login)) if not there]
    return " and ".join(missing) if adapter.host and not adapter.loopback else ""


@_check("hosts", "warning")
def _hosts(posture: Posture) -> Iterator[_Found]:
    if posture.sockets and (posture.allowed_hosts is None or "*" in posture.allowed_hosts):
        yield _Found(
            "allowed_hosts",
            "any Host header is accepted: a name that somebody else points here counts as the same origin",
            "list the names of this server in the setting allowed_hosts",
        )


@_check("limits", "warning")
def _limits(posture: Posture) -> Iterator[_Found]:
    for socket in posture.sockets:
        if socket.message_rate_limit is None:
            yield _Found(
                socket.where,
                f"{socket.path}: one client may send as much as the process can take",
                "set message_rate_limit",
            )


@_check("door", "warning")
def _door(posture: Posture) -> Iterator[_Found]:
    if posture.sockets and not posture.door:
        yield _Found(
            "handshake_rate",
            "one address may knock as often as it likes, and take all the connections that there are",
            "set handshake_rate and max_connections_per_address, unless a proxy has such bounds",
        )


@_check("heartbeat", "warning")
def _heartbeat(posture: Posture) -> Iterator[_Found]:
    timeout = posture.ping_timeout or 2 * posture.heartbeat
    if posture.heartbeat > LONG_HEARTBEAT or timeout > 2 * LONG_HEARTBEAT:
        yield _Found(
            "heartbeat",
            f"clients that have vanished are held for up to {posture.heartbeat + timeout:g} seconds",
            "leave out heartbeat and ping_timeout: 25 and 50 seconds are the defaults",
        )


@_check("proxy", "warning")
def _proxy(posture: Posture) -> Iterator[_Found]:
    if posture.certificate or not _is_local(posture.address):
        return
    if posture.address == UNIX:
        trusted, name = UNIX in posture.trusted_proxies, UNIX
    else:
        trusted, name = any(entry != UNIX for entry in posture.trusted_proxies), "127.0.0.1"
    if not trusted:
        yield _Found(
            posture.address,
            "a proxy in front of it is not trusted: all clients share its address and its limits, and pages that it "
            "serves by https are refused as foreign",
            f"name it in the setting trusted_proxies, or with --trusted-proxies {name}",
        )


@_check("metrics", "warning")
def _metrics(posture: Posture) -> Iterator[_Found]:
    if posture.metrics is not None:
        yield _Found(
            "metrics",
            f"everybody who reaches the port can read them at {posture.metrics}",
            'see to it that your proxy does not pass that path on, or say "collect" and serve them elsewhere',
        )


@_check("audit", "warning")
def _audit(posture: Posture) -> Iterator[_Found]:
    if posture.audit is None:
        yield _Found(
            "audit", "the audit is in the log alone, where it can be changed unseen", "set audit to True"
        )
    elif not posture.audit_secret:
        yield _Found(
            "AQ_AUDIT_SECRET",
            "it is not set: who can write the audit file can make a new chain that verifies",
            "set it to a secret of 32 bytes or more",
        )


@_check("development", "warning")
def _development(posture: Posture) -> Iterator[_Found]:
    if posture.environment == "development":
        yield _Found(
            "AQ_ENV",
            "it is 'development': clients are told the names of events, and the artifact is not checked",
            "leave it out where clients are served",
        )


@_check("revocation", "note")
def _revocation(posture: Posture) -> Iterator[_Found]:
    if posture.sockets and not posture.takes_back:
        yield _Found(
            "revocation",
            "a stolen token or session is good until it expires, and a logout ends no open connection",
            "set revocation to True",
        )


@_check("health", "note")
def _health(posture: Posture) -> Iterator[_Found]:
    if posture.health is not None:
        yield _Found(
            "health",
            f"everybody who reaches the port can read at {posture.health} how many connections there are",
            "see to it that your proxy does not pass that path on",
        )


def _is_wide(network: IPv4Network | IPv6Network) -> bool:
    return network.prefixlen < (8 if network.version == 4 else 16)


def _is_local(address: str) -> bool:
    return address == UNIX or is_loopback(address)
