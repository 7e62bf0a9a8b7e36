"""The compiler: the socket controllers of a workspace, read and checked, as an artifact."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import msgspec
from msgspec import UNSET, UnsetType

from aquilia.aquilary import App, qualified_name
from aquilia.sockets.artifact import (
    AppRecord,
    Artifact,
    EmitRecord,
    EventRecord,
    GuardRecord,
    HookRecord,
    Moment,
    NamespaceRecord,
    ParameterRecord,
)
from aquilia.sockets.contract import EventContract, SocketContract
from aquilia.sockets.emits import Emits
from aquilia.sockets.guards import SocketGuard
from aquilia.sockets.plan import SocketPlan

__all__ = ["artifact_of"]


def artifact_of(plan: SocketPlan) -> Artifact:
    """The artifact of a plan that was read without problems. Equal sources give an equal one, anywhere."""
    apps = [
        AppRecord(
            app.manifest.name,
            app.manifest.version,
            app.manifest.depends_on,
            None if app.auth is None else qualified_name(app.auth),
        )
        for app in plan.registry.apps
    ]
    namespaces = [_namespace(app, contract) for app, contract in plan.contracts]
    artifact = Artifact(
        apps=tuple(sorted(apps, key=lambda app: app.name)),
        namespaces=tuple(sorted(namespaces, key=lambda namespace: namespace.path)),
    )
    # As it will be read: JSON knows no tuples, which schemas and settings may have.
    return msgspec.json.decode(msgspec.json.encode(artifact), type=Artifact)


def _namespace(app: App, contract: SocketContract) -> NamespaceRecord:
    hooks = [HookRecord(hook.handler.attribute, "connect") for hook in contract.on_connect]
    hooks += [HookRecord(hook.handler.attribute, "disconnect") for hook in contract.on_disconnect]
    hooks += [HookRecord(hook.handler.attribute, "presence") for hook in contract.on_presence]
    return NamespaceRecord(
        path=contract.pattern.source,
        app=app.manifest.name,
        controller=contract.name,
        doc=_doc(contract.controller),
        parameters=tuple(ParameterRecord(each.name, each.kind) for each in contract.pattern.parameters),
        settings=msgspec.to_builtins(contract.settings, enc_hook=qualified_name),
        events=tuple(_event(event) for _, event in sorted(contract.events.items())),
        emits=tuple(
            EmitRecord(name, emits.payload.json_schema(), _policy(emits), emits.durable or UNSET)
            for name, emits in sorted(contract.emits.items())
        ),
        guards=tuple(sorted(_guards(contract), key=lambda guard: guard.priority)),
        middleware=_names((*contract.chain.message_middleware, *contract.declaration.middleware)),
        hooks=tuple(hooks),
        function=UNSET if contract.declaration.function is None else contract.name,
    )


def _policy(emits: Emits[Any]) -> dict[str, Any] | UnsetType:
    if emits.strategy is None:
        return UNSET
    key = qualified_name(emits.key) if callable(emits.key) else emits.key
    return {"strategy": emits.strategy} | ({} if key is None else {"key": key})


def _event(event: EventContract) -> EventRecord:
    declared = event.declaration
    return EventRecord(
        name=declared.name,
        kind=declared.kind,
        handler=event.handler.attribute,
        doc=_doc(event.handler.function),
        ack=declared.ack,
        payload=event.payload.json_schema(),
        answer=event.answer.json_schema() if event.answer is not None else UNSET,
        delivery=declared.delivery,
        guards=_names(declared.guards),
        middleware=_names(declared.middleware),
    )


def _guards(contract: SocketContract) -> Iterator[GuardRecord]:
    for guard in (*contract.chain.guards, *contract.declaration.guards):
        yield GuardRecord(qualified_name(guard), getattr(guard, "priority", 50), _moments(guard))
    for method in contract.guards:
        yield GuardRecord(method.handler.attribute, method.declaration.priority, (method.declaration.on,))


def _moments(guard: Any) -> tuple[Moment, ...]:
    """When a guard checks: what it has left as `SocketGuard` has it checks nothing."""
    found = []
    for moment in get_args(Moment):
        check = getattr(guard, f"check_{moment}", None)
        if check is not None and getattr(check, "__func__", None) is not getattr(
            SocketGuard, f"check_{moment}"
        ):
            found.append(moment)
    return tuple(found)


def _names(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(map(qualified_name, values))


def _doc(target: Any) -> str:
    """The first paragraph of the target's own docstring, as one line."""
    paragraph = inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split())
