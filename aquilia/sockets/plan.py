"""The plan: every socket controller of a registry, read and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aquilia.aquilary import App, Problem, Registry
from aquilia.di import Consumer, Scope
from aquilia.patterns import PatternConflict, PatternTable
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract, read_contract
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import socket_declaration
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.hub_port import Namespace
from aquilia.sockets.settings import NodeSettings, SettingsError, node_settings

__all__ = ["PROVIDED", "SocketPlan"]

PROVIDED: dict[Scope, list[Any]] = {
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

    @classmethod
    def read(cls, registry: Registry, problems: list[Problem]) -> SocketPlan:
        """Read the controllers of all apps; what is wrong with them is added to `problems`."""
        plan = cls(registry, NodeSettings())
        table: PatternTable[SocketContract] = PatternTable()
        for index, app in enumerate(registry.apps):
            where = f"manifest {app.manifest.name!r}"
            node = _node_settings(app.manifest.websockets, where, problems)
            if index == 0 or app.manifest.websockets:
                plan._agree(node, where, problems)
            for controller in app.controllers:
                contract = _contract(controller, node, problems)
                if contract is None:
                    continue
                plan.contracts.append((app, contract))
                try:
                    table.add(contract.declaration.path, contract, where=str(contract.location))
                except PatternConflict as error:
                    problems.append(Problem(str(contract.location), str(error)))
        return plan

    def _agree(self, node: NodeSettings, where: str, problems: list[Problem]) -> None:
        """Settings of the process may be said by one manifest, or by several that say the same."""
        ours, theirs = _process_settings(self.node), _process_settings(node)
        for key, value in theirs.items():
            default = getattr(NodeSettings(), key)
            if value != default and ours[key] not in (default, value):
                problems.append(
                    Problem(
                        where, f"websockets: {key} is {value!r} here, and {ours[key]!r} in another manifest"
                    )
                )
        merged = {
            key: value if value != getattr(NodeSettings(), key) else ours[key]
            for key, value in theirs.items()
        }
        self.node = NodeSettings(**merged)

    def consumers(self) -> list[Consumer]:
        """What DI has to provide for the sockets."""
        return [consumer for _, contract in self.contracts for consumer in contract.consumers()]


def _node_settings(websockets: Mapping[str, Any], where: str, problems: list[Problem]) -> NodeSettings:
    """The settings of one manifest, as far as they can be honoured."""
    sound = {}
    for key, value in websockets.items():
        try:
            node_settings({key: value}, where)
            sound[key] = value
        except SettingsError as error:
            problems.append(Problem(where, f"websockets: {error.key}: {error.problem}"))
    return node_settings(sound, where)


def _process_settings(node: NodeSettings) -> dict[str, Any]:
    return {key: getattr(node, key) for key in NodeSettings.__dataclass_fields__ if key != "sockets"}


def _contract(controller: type, node: NodeSettings, problems: list[Problem]) -> SocketContract | None:
    if socket_declaration(controller) is None and not issubclass(controller, SocketController):
        return None  # an HTTP controller
    return read_contract(controller, node, problems)
