"""The plan: every socket controller of a registry, read and checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aquilia.aquilary import App, Problem, Registry
from aquilia.auth import Authenticator
from aquilia.di import Consumer, DIError, Scope, ScopeContainer
from aquilia.patterns import PatternConflict, PatternTable
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.contract_reading import read_contract
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import socket_declaration
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.hub_port import Namespace
from aquilia.sockets.middleware import MetricsMiddleware
from aquilia.sockets.revocation import Revocations
from aquilia.sockets.settings import TWO_URLS, NodeSettings, SettingsError, node_settings, spools

__all__ = ["PROVIDED", "SocketPlan"]

PROVIDED: dict[Scope, list[Any]] = {
    Scope.APP: [Revocations],
    Scope.NAMESPACE: [Namespace],
    Scope.CONNECTION: [Connection],
    Scope.REQUEST: [MessageEnvelope],
}
"""What the sockets pass in for services to ask for, by scope."""


@dataclass(slots=True)
class SocketPlan:
    """Every socket controller of a registry, read and checked, before anything runs."""

    registry: Registry
    node: NodeSettings
    contracts: list[tuple[App, SocketContract]] = field(default_factory=list)
    authenticators: dict[str, Authenticator] = field(default_factory=dict)
    """Those of the apps that have an AuthManager, by the app's name."""
    admin_auth: Authenticator | None = None
    """That of the app that says `admin_role`."""

    @classmethod
    def read(cls, registry: Registry, problems: list[Problem]) -> SocketPlan:
        """Read the controllers of all apps; what is wrong with them is added to `problems`."""
        plan = cls(registry, NodeSettings())
        said: dict[str, Any] = {}
        table: PatternTable[SocketContract] = PatternTable()
        for app in registry.apps:
            where = f"manifest {app.manifest.name!r}"
            sound, node = _sound_settings(app.manifest.websockets, where, problems)
            _agree(said, node, _of_process(sound), where, problems)
            plan._read_auth(app, where, problems)
            if node.admin_role is not None:
                problems += plan._read_admins(app, where)
            for controller in app.controllers:
                contract = _contract(controller, node, problems)
                if contract is None:
                    continue
                plan.contracts.append((app, contract))
                contract.auth = plan.authenticators.get(app.manifest.name)
                if contract.settings.require_auth and app.auth is None and app.sessions is None:
                    problems.append(
                        Problem(str(contract.location), _NO_AUTH.format(contract.declaration.path))
                    )
                try:
                    table.add(contract.declaration.path, contract, where=str(contract.location))
                except PatternConflict as error:
                    problems.append(Problem(str(contract.location), str(error)))
        plan.node = NodeSettings(**said)
        problems += plan._unmet()
        return plan

    def _unmet(self) -> Iterator[Problem]:
        """Settings that mean nothing without others, or beside them."""
        if self.node.redis_url is not None and self.node.adapter_url is not None:
            yield Problem("redis_url", f"in another manifest, {TWO_URLS}")
        if self.node.ping_timeout is not None and self.node.ping_timeout < self.node.heartbeat:
            least = f"at least the heartbeat is needed, {self.node.heartbeat:g} seconds"
            yield Problem("ping_timeout", f"{least}, not {self.node.ping_timeout:g}: pings come no sooner")
        if self.node.admin_role is not None and self.node.admin is None:
            yield Problem("admin_role", "there is no admin: say admin=True as well")
        if self.node.query_token is not None and not self.authenticators:
            yield Problem("query_token", "it needs an AuthManager, and there is none: give a manifest auth=…")
        knowing = any(app.auth or app.sessions or app.middleware for app in self.registry.apps)
        if self.node.tickets is not None and not knowing:
            lacking = "tickets are for who is logged in, and nobody could be"
            yield Problem("tickets", f"{lacking}: give a manifest auth=…, sessions=… or middleware=[…]")

    @property
    def measured(self) -> bool:
        """Whether a `MetricsMiddleware` stands around any event."""
        return any(
            isinstance(entry, MetricsMiddleware)
            for _, contract in self.contracts
            for chain in (
                contract.chain.message_middleware,
                contract.declaration.middleware,
                *(event.declaration.middleware for event in contract.events.values()),
            )
            for entry in chain
        )

    @property
    def spools(self) -> bool:
        """Whether any controller sends what may wait on disk."""
        return any(spools(contract.settings, contract.emits) for _, contract in self.contracts)

    def consumers(self) -> list[Consumer]:
        """What DI has to provide for the sockets."""
        found = [consumer for _, contract in self.contracts for consumer in contract.consumers()]
        for authenticator in self.authenticators.values():
            found += authenticator.consumers()
        return found

    async def start(self, apps: Mapping[str, ScopeContainer]) -> None:
        """Build the AuthManagers that are given as classes, in the containers of their apps."""
        for name, authenticator in self.authenticators.items():
            await authenticator.start(apps[name])

    def _read_auth(self, app: App, where: str, problems: list[Problem]) -> None:
        if app.auth is None:
            return
        try:
            self.authenticators[app.manifest.name] = Authenticator(app.auth)
        except TypeError as error:
            problems.append(Problem(where, f"auth: {error}"))
        except DIError as error:
            problems += [Problem(where, f"auth: {problem.message}") for problem in error.problems]

    def _read_admins(self, app: App, where: str) -> Iterator[Problem]:
        """Whose word on who has the admins' role counts: that of no other app, which may give it to anybody."""
        if app.auth is None:
            told = "it needs an AuthManager in the same manifest, that says who has the role: auth=…"
            yield Problem(where, f"websockets: admin_role: {told}")
        elif self.admin_auth is not None:
            told = "another manifest says it too: leave it to the one whose AuthManager knows the admins"
            yield Problem(where, f"websockets: admin_role: {told}")
        else:
            self.admin_auth = self.authenticators.get(app.manifest.name)


_NO_AUTH = (
    "@Socket({!r}): require_auth: True needs an AuthManager or sessions, and this application declares none; "
    "give its manifest auth=JWTAuthManager() or sessions=SessionEngine()"
)


_OF_PROCESS = NodeSettings.__dataclass_fields__.keys() - {"sockets", "chain"}


def _of_process(sound: Mapping[str, Any]) -> list[str]:
    """The settings of the process that a manifest says; an adapter's URL says which adapter."""
    keys = [key for key in sound if key in _OF_PROCESS]
    urls = [key for key in ("adapter_url", "redis_url") if sound.get(key) is not None]
    return [*keys, "adapter"] if urls else keys


_SECRET = ("adapter_url", "redis_url", "store_url")
"""Settings that may hold a password."""


def _sound_settings(
    websockets: Mapping[str, Any], where: str, problems: list[Problem]
) -> tuple[dict[str, Any], NodeSettings]:
    """The settings of one manifest that can be honoured: as they were written, and read."""
    sound = {}
    for key, value in websockets.items():
        try:
            node_settings({key: value}, where)
            sound[key] = value
        except SettingsError as error:
            problems.append(Problem(where, f"websockets: {error.key}: {error.problem}"))
    while True:
        try:
            return sound, node_settings(sound, where)
        except SettingsError as error:  # of two that are sound alone
            problems.append(Problem(where, f"websockets: {error.key}: {error.problem}"))
            del sound[error.key]


def _agree(
    said: dict[str, Any], node: NodeSettings, keys: Sequence[str], where: str, problems: list[Problem]
) -> None:
    """Settings of the process may be said by one manifest, or by several that say the same."""
    for key in keys:
        value = getattr(node, key)
        other = said.setdefault(key, value)
        if other != value:
            told = "one" if key in _SECRET else repr(value)
            others = "another" if key in _SECRET else repr(other)
            problems.append(
                Problem(where, f"websockets: {key} is {told} here, and {others} in another manifest")
            )


def _contract(controller: type, node: NodeSettings, problems: list[Problem]) -> SocketContract | None:
    if socket_declaration(controller) is None and not issubclass(controller, SocketController):
        return None  # an HTTP controller
    return read_contract(controller, node, problems)
