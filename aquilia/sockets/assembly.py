"""The parts that an `AquilaSockets` is made of, as the settings choose them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from aquilia.aquilary import App, BootError, Problem, Registry
from aquilia.clock import Clock
from aquilia.di import Services
from aquilia.faults import FaultEngine
from aquilia.manifest import AppManifest
from aquilia.middleware import split
from aquilia.sockets.adapters import adapter_for
from aquilia.sockets.adapters.apart import has_store, with_store
from aquilia.sockets.adapters.base import Adapter, Broker, Store
from aquilia.sockets.adapters.choice import chosen_store
from aquilia.sockets.adapters.options import AdapterOptions
from aquilia.sockets.adapters.signing import bus_signer
from aquilia.sockets.admin.access import AdminAccess
from aquilia.sockets.admin.endpoints import AdminOffice
from aquilia.sockets.admin.operations import Admin
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.controller import SocketController
from aquilia.sockets.declaration import socket_declaration
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.flow import FlowDispatcher
from aquilia.sockets.handshake.tickets import Tickets
from aquilia.sockets.hub import Hub
from aquilia.sockets.idempotence import Promises
from aquilia.sockets.lifecycle import Ends
from aquilia.sockets.metrics.figures import Figures
from aquilia.sockets.metrics.recorder import Counters, Recorder
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.outbox.spool import Spool
from aquilia.sockets.plan import SocketPlan
from aquilia.sockets.resume.sessions import Resumption
from aquilia.sockets.revocation import Revocations
from aquilia.sockets.revoking_hub import RevokingHub, watch
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.store_needs import store_needs, without_store
from aquilia.sockets.tasks import TaskSet

if TYPE_CHECKING:
    from aquilia.sockets.metrics.exposition import Metrics

__all__ = [
    "adapter_of",
    "admin_office_of",
    "dispatchers_of",
    "hub_of",
    "recorder_of",
    "registry_alone",
    "require_disk",
    "tickets_of",
]


def registry_alone(manifest: AppManifest, where: str) -> Registry:
    """The registry of a manifest that no host serves.

    Raises:
        BootError: for what the host would have to serve: HTTP controllers, and pure ASGI middleware.
    """
    registry = Registry.build([manifest])
    if problems := _misplaced(registry.apps[0], where):
        raise BootError(problems)
    return registry


def _misplaced(app: App, where: str) -> list[Problem]:
    """What is given to the sockets alone, and would be left out in silence."""
    middleware = split(app.middleware, f"{where}: middleware")
    problems = [
        Problem(where, f"{each.__qualname__} is no SocketController with @Socket(path)")
        for each in app.controllers
        if socket_declaration(each) is None and not issubclass(each, SocketController)
    ]
    problems += middleware.problems
    for entry in middleware.asgi:
        problems.append(
            Problem(where, f"{entry.cls!r} is pure ASGI middleware: give it to the host application")
        )
    return problems


def adapter_of(plan: SocketPlan, clock: Clock, given: Adapter | None = None) -> Adapter:
    """The adapter of the settings, or the `given` one; with the store that the settings name.

    Raises:
        BootError: its URL is wrong, what it needs is not installed, or it has no store and one is needed.
    """
    node = plan.node
    store = chosen_store(node.store_url)
    try:
        if given is None:
            adapter = adapter_for(
                node.adapter,
                node.adapter_url,
                clock,
                redis_url=node.redis_url,
                store=store,
                publish_timeout=node.publish_timeout,
            )
        else:
            options = AdapterOptions(clock=clock, signer=bus_signer())
            adapter = given if store is None else with_store(given, store, options)
    except ValueError as error:
        raise BootError([Problem("adapter", str(error))]) from error
    if not has_store(adapter) and (needs := list(store_needs(plan))):
        raise BootError([Problem("adapter", without_store(needs))])
    return adapter


def recorder_of(
    plan: SocketPlan,
    given: Recorder | None,
    homes: Callable[[], Iterable[Home]],
    present: Callable[[], Iterable[tuple[str, int]]],
) -> tuple[Recorder, Metrics | None]:
    """The recorder: with metrics the one that keeps the figures of all controllers, and what serves them.

    Raises:
        BootError: the folder that workers share them in cannot be used.
        ValueError: a recorder was given, and there are metrics.
    """
    if plan.node.metrics is None and not plan.measured:
        return given or Counters(), None
    if given is not None:
        raise ValueError("recorder: metrics are kept by a recorder of their own; leave one of the two out")
    # Not imported by those who do not measure: prometheus-client takes 60 ms.
    from aquilia.sockets.metrics.exposition import Metrics
    from aquilia.sockets.metrics.shared_files import multiprocess_problem

    if problem := multiprocess_problem():
        raise BootError([Problem("metrics", problem)])
    figures = Figures()
    for _, contract in plan.contracts:
        figures.add(contract.declaration.path, contract.events, contract.emits)
    return figures, Metrics(figures, homes, present)


def hub_of(
    plan: SocketPlan,
    broker: Broker,
    revocations: Revocations,
    tasks: TaskSet,
    clock: Clock,
    audit: AuditLog,
    cluster: Cluster,
) -> Hub:
    """The hub: with a spool where anything may wait on disk, and a `RevokingHub` by the setting `revocation`."""
    node = plan.node
    options: dict[str, Any] = {
        "clock": clock,
        "outbox_bytes": node.outbox_bytes,
        "inbox_bytes": node.inbox_bytes,
        "spool": _spool(node) if plan.spools else None,
        "audit": audit,
        "cluster": cluster,
    }
    if not node.revocation:
        return Hub(broker, **options)
    watch(plan, revocations)
    return RevokingHub(broker, revocations, tasks, opening=node.handshake_timeout, **options)


def dispatchers_of(
    plan: SocketPlan,
    store: Store,
    services: Services,
    *,
    engine: FaultEngine,
    recorder: Recorder,
    resumption: Resumption,
    tasks: TaskSet,
    ends: Ends,
    clock: Clock,
    development: bool,
) -> Iterator[tuple[App, SocketContract, Dispatcher | FlowDispatcher]]:
    """What handles the messages of each controller. Those whose clients may come back know of `resumption`."""
    promises = Promises(store, ttl=plan.node.idempotence_ttl)
    for app, contract in plan.contracts:
        kind = Dispatcher if contract.declaration.function is None else FlowDispatcher
        dispatcher = kind(
            contract,
            services,
            node=plan.node,
            engine=engine,
            tasks=tasks,
            promises=promises,
            ends=ends,
            clock=clock,
            development=development,
            sessions=app.sessions is not None,
            meter=recorder.meter(contract.declaration.path),
        )
        if isinstance(dispatcher, Dispatcher) and contract.settings.resume:
            dispatcher.keep_sessions(resumption)
        yield app, contract, dispatcher


def tickets_of(plan: SocketPlan, store: Store, clock: Clock, revocations: Revocations) -> Tickets:
    """The tickets. Where access can be taken back, one whose holder has lost it lets nobody in."""
    tickets = Tickets(store, clock)
    if plan.node.revocation:
        tickets.barred = revocations.barred
    return tickets


def _spool(node: NodeSettings) -> Spool:
    return Spool(node.spool_dir, limit=node.spool_total_bytes, unwritten_limit=node.outbox_bytes // 8)


def admin_office_of(
    plan: SocketPlan,
    admin: Admin,
    access: AdminAccess,
    engine: FaultEngine,
    audit: AuditLog,
    ready: Callable[[], Awaitable[None]],
) -> Mapping[str, ASGIApp]:
    """What is served over HTTP by the setting `admin`, by its paths."""
    if plan.node.admin is None:
        return {}
    hosts = plan.node.allowed_hosts
    return AdminOffice(plan.node.admin, admin, access, engine, audit, hosts=hosts, ready=ready).paths()


def require_disk(spool: Spool | None, node: NodeSettings) -> None:
    """When it starts, and not before: who compiles has not the machine that serves.

    Raises:
        BootError: the setting `spool_dir` names no folder that takes files.
    """
    if spool is None:
        return
    try:
        spool.require_folder()
    except OSError as error:
        folder = node.spool_dir
        where = "the system's folder for temporary files" if folder is None else repr(folder)
        told = f"{where} takes no files ({error.strerror}): the strategy 'spool' needs a folder that does"
        raise BootError([Problem("spool_dir", told)]) from error
