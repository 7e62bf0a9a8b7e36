"""The admin: one set of things to look at and to do, over all nodes. HTTP and `aq ws` are two ways to it.

Each of them is an `Order`, and has its answer. What is done is done on every node, and counted where it is; a node
that did not answer is named.
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from aquilia.faults import Fault
from aquilia.http_faults import http_invalid_input
from aquilia.patterns import PatternTable
from aquilia.sockets.adapters.base import Broker
from aquilia.sockets.admin.node import Administered, Key, Record, Target, Wanted, key_of
from aquilia.sockets.admin.orders import (
    Broadcast,
    ConnectionRecord,
    Connections,
    ConnectionsPage,
    DrainNode,
    Kick,
    LiveNamespace,
    Namespaces,
    NamespacesPage,
    NodeRecord,
    Nodes,
    NodesPage,
    Order,
    PublishIdentity,
    PublishRoom,
    PurgeReport,
    PurgeRoom,
    Report,
    RoomRecord,
    Rooms,
    RoomsPage,
)
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.cluster.control import pack
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.cluster.questions import Answers
from aquilia.sockets.cluster.reach import PATIENCE
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.emits import emitted
from aquilia.sockets.faults import SocketFault, ws_message_invalid, ws_namespace_not_found
from aquilia.sockets.hub import Hub
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.plan import SocketPlan

__all__ = ["OPERATIONS", "ORDER", "PATIENCE_OF_GUESTS", "Admin", "Operation"]

logger = logging.getLogger("aquilia.sockets")

ORDER = "admin"
"""The verb of the control channel by which any node is asked to do an operation, over all of them."""
PATIENCE_OF_GUESTS = 2 * PATIENCE
"""Seconds for its answer."""
EXPECTING = 1.0
"""Seconds that nodes have to expect a publication, before it is published."""

Answer = TypeVar("Answer")
Located = TypeVar("Located", Rooms, Connections, Kick)
Kept = TypeVar("Kept", LiveNamespace, RoomRecord, ConnectionRecord)


class Admin:
    """What can be looked at and done.

    All of it raises `SocketFault`: WS_ADAPTER_UNAVAILABLE, if the broker is away.
    """

    def __init__(
        self,
        plan: SocketPlan,
        hub: Hub,
        broker: Broker,
        cluster: Cluster,
        audit: AuditLog,
        recorder: Recorder,
        stop: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._cluster = cluster
        self._audit = audit
        self._recorder = recorder
        self._here = Administered(hub, cluster, audit, stop)
        self._table: PatternTable[SocketContract] = PatternTable()
        for _, contract in plan.contracts:
            self._table.add(contract.declaration.path, contract, where=str(contract.location))
        cluster.on(ORDER, self._ordered)

    async def _ordered(self, asked: Any) -> Any:
        """What somebody orders by the broker: who may write there is an admin."""
        try:
            name, given = msgspec.convert(asked, tuple[str, Any])
            operation = OPERATIONS[name]
            order = msgspec.convert(given, operation.order)
        except (msgspec.ValidationError, KeyError) as error:
            raise ws_message_invalid(f"an order of another version: {error}") from error
        try:
            return await self.run(operation, order, by="the broker")
        except SocketFault:
            raise
        except Fault as fault:
            told = "; ".join(
                f"{each['path']}: {each['expected']}, got {each['got']}" for each in fault.details
            )
            raise SocketFault(fault.code, f"{fault.message}: {told}", status=fault.status) from fault

    async def run(self, operation: Operation, order: Order, *, about: Any = None, by: str = "") -> Any:
        """Do what is ordered, and audit it: `about` and `by` say from where, and who.

        Raises:
            Fault: what the operation does.
        """
        told = {"identity": by, "message": operation.name}
        try:
            answer = await operation.run(self, order)
        except Fault as fault:
            if operation.acts:
                self._recorder.acted(operation.name, "refused")
                self._audit.note(
                    "admin.action", about, outcome="refused", code=fault.code, reason=_spoken(order), **told
                )
            raise
        if operation.acts:
            self._recorder.acted(operation.name, "incomplete" if answer.silent else "done")
            reason = f"{_result(answer)}: {_spoken(order)}"
            self._audit.note("admin.action", about, outcome="done", reason=reason, **told)
        return answer

    # Looking

    async def nodes(self, order: Nodes) -> NodesPage:
        """Who lives, this node among them."""
        nodes = sorted(self._cluster.nodes().values(), key=lambda node: (node.started, node.id))
        items = [msgspec.convert(node, NodeRecord, from_attributes=True) for node in nodes]
        broker, store = self._cluster.trouble, self._cluster.store_trouble
        return NodesPage(items=items, broker=broker or "connected", store=store or "connected")

    async def namespaces(self, order: Namespaces) -> NamespacesPage:
        """The namespaces that are open on any node."""
        found, silent = await self._listed("namespaces", order, LiveNamespace)
        items, rest = _page(_together(found, _same_namespace), order.limit)
        return NamespacesPage(items=items, next=rest, silent=silent)

    async def rooms(self, order: Rooms) -> RoomsPage:
        """The rooms that anybody is in."""
        found, silent = await self._listed("rooms", self._located(order), RoomRecord)
        items, rest = _page(_together(found, _same_room), order.limit)
        return RoomsPage(items=items, next=rest, silent=silent)

    async def connections(self, order: Connections) -> ConnectionsPage:
        """The connections that fit all that is given."""
        found, silent = await self._listed("connections", self._located(order), ConnectionRecord)
        items, rest = _page(_together(found, lambda one, other: one), order.limit)
        return ConnectionsPage(items=items, next=rest, silent=silent)

    async def _listed(
        self, what: str, order: Namespaces | Rooms | Connections, kind: type[Kept]
    ) -> tuple[list[Kept], list[str]]:
        wanted = Wanted(order, None if order.after is None else _cursor(order.after))
        cut_off = self._cluster.trouble is not None  # what this node has is told all the same
        node = self._cluster.id if cut_off else None
        told = await self._cluster.ask(f"admin.{what}", wanted, timeout=PATIENCE, node=node)
        by_node, silent = self._answers(told, list[kind])  # type: ignore[valid-type]
        if cut_off:
            silent += sorted(self._cluster.others)
        return [record for records in by_node.values() for record in records], silent

    # Acting

    async def broadcast(self, order: Broadcast) -> Report:
        """Send an event to every connection of a namespace.

        Raises:
            SocketFault: WS_NAMESPACE_NOT_FOUND; WS_UNSUPPORTED_EVENT for what its controller does not declare;
                WS_PUBLISH_FAILED for a payload that does not fit.
        """
        return await self._publish(order)

    async def publish_room(self, order: PublishRoom) -> Report:
        """Send an event to the members of a room, and into what it remembers. Raises what `broadcast` does."""
        return await self._publish(order, room=order.room)

    async def publish_identity(self, order: PublishIdentity) -> Report:
        """Send an event to the connections of an identity in a namespace. Raises what `broadcast` does."""
        return await self._publish(order, identity=order.identity)

    async def _publish(
        self, order: Broadcast, *, room: str | None = None, identity: str | None = None
    ) -> Report:
        contract, path = self._contract(order.namespace)
        event, payload = _emitted(contract, order)
        history = None if room is None else contract.settings.history.of(room)
        target = Target(uuid4().hex, path, room)

        async def publish() -> int:
            await self._hub.publish(
                path, event, payload, room=room, identity=identity, history=history, id=target.id
            )
            return await self._here.count(target.id)

        # Not every broker keeps an order between what nodes ask and what they publish.
        await self._cluster.ask("admin.expect", target, timeout=EXPECTING)
        return await self._done("count", target, here=publish)

    def _located(self, order: Located) -> Located:
        """The same, with its namespace as it is called, if there is one; of others nothing is open."""
        if order.namespace is None or (found := self._table.match(order.namespace)) is None:
            return order
        return msgspec.structs.replace(order, namespace=found.path)

    def _contract(self, namespace: str) -> tuple[SocketContract, str]:
        found = self._table.match(namespace)
        if found is None:
            fault = ws_namespace_not_found(namespace)
            near = get_close_matches(namespace, [pattern.source for pattern, _ in self._table], n=1)
            fault.message += f"; did you mean {near[0]!r}?" if near else ""
            raise fault
        return found.value, found.path

    async def kick(self, order: Kick) -> Report:
        """End one connection, or all of an identity.

        Raises:
            Fault: HTTP_INVALID_INPUT, if neither or both are given.
        """
        if (order.connection is None) == (order.identity is None):
            wrong = {"path": "body", "expected": "one of connection and identity", "got": "both"}
            raise http_invalid_input([wrong | ({"got": "neither"} if order.identity is None else {})])
        return await self._done("kick", self._located(order))

    async def purge_room(self, order: PurgeRoom) -> PurgeReport:
        """Delete what a room remembers, and have all members leave it, who are told `left`.

        Raises:
            SocketFault: WS_NAMESPACE_NOT_FOUND; WS_ADAPTER_UNAVAILABLE: then nobody has left.
        """
        contract, path = self._contract(order.namespace)
        history, forgotten = contract.settings.history.of(order.room), None
        if history is not None:
            forgotten = await self._broker.forget(path, order.room, history)
        report = await self._done("purge", PurgeRoom(namespace=path, room=order.room))
        return PurgeReport(**msgspec.structs.asdict(report), forgotten=forgotten)

    async def drain(self, order: DrainNode) -> Report:
        """Have a node tell its clients to go elsewhere, and take no more. One that does not live is in no answer."""
        if order.node not in self._cluster.nodes():
            return Report(connections=0)
        return await self._done("drain", None, node=order.node)

    async def _done(
        self, verb: str, asked: Any, *, node: str | None = None, here: Callable[[], Any] | None = None
    ) -> Report:
        told = await self._cluster.ask(f"admin.{verb}", asked, timeout=PATIENCE, node=node, here=here)
        by_node, silent = self._answers(told, int)
        return Report(connections=sum(by_node.values()), nodes=by_node, silent=silent)

    def _answers(self, told: Answers, kind: type[Answer]) -> tuple[dict[str, Answer], list[str]]:
        """What each node answered, and who did not.

        Raises:
            SocketFault: of this node.
        """
        if (fault := told.faults.get(self._cluster.id)) is not None:
            raise fault
        silent = [*told.silent]
        for node, fault in told.faults.items():
            logger.warning("node %s did not do what an admin asked for: %s", node, fault)
            silent.append(node)
        answers: dict[str, Answer] = {}
        for node, answer in told.by_node.items():
            try:
                answers[node] = msgspec.convert(answer, kind)
            except msgspec.ValidationError:  # of another version
                silent.append(node)
        return answers, sorted(silent)


def _emitted(contract: SocketContract, order: Broadcast) -> tuple[str, Any]:
    declared = contract.emits
    if contract.declaration.function is not None:
        raise _refused(f"{contract.name} has its connections as a whole: its messages are no events")
    if order.event not in declared and not order.force:
        near = get_close_matches(order.event, list(declared), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(sorted(declared)) or "none"
        told = (
            f"{contract.name} does not declare the event {order.event!r} by Emits{hint} (declared: {known})"
        )
        raise _refused(f"{told}; with force it is sent all the same")
    try:
        event, payload = emitted(order.event, order.payload, declared)
        pack(payload)  # what no broker takes is refused before anybody waits for it
        return event, payload
    except SocketFault as fault:
        fault.status, fault.retryable = 422, False
        raise


def _refused(message: str) -> Fault:
    return SocketFault("WS_UNSUPPORTED_EVENT", message, status=422)


def _together(records: Iterable[Kept], join: Callable[[Kept, Kept], Kept]) -> list[Kept]:
    """The records in order, one for each key."""
    found: dict[Key, Kept] = {}
    for record in records:
        key = key_of(record)
        found[key] = join(found[key], record) if key in found else record
    return [found[key] for key in sorted(found)]


def _same_namespace(one: LiveNamespace, other: LiveNamespace) -> LiveNamespace:
    connections, nodes = one.connections + other.connections, one.nodes + other.nodes
    return msgspec.structs.replace(one, connections=connections, nodes=nodes)


def _same_room(one: RoomRecord, other: RoomRecord) -> RoomRecord:
    return msgspec.structs.replace(one, members=one.members + other.members)


def _page(records: list[Kept], limit: int) -> tuple[list[Kept], str | None]:
    items = records[:limit]
    return items, _said(items[-1]) if len(records) > limit else None


def _said(record: Record) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(key_of(record))).decode()


def _cursor(after: str) -> list[str]:
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(after), type=list[str])
    except (ValueError, msgspec.MsgspecError):
        wrong = {"path": "query.after", "expected": "`next` of the page before", "got": "another str"}
        raise http_invalid_input([wrong]) from None


class Operation(NamedTuple):
    """Something to look at, or to do, as it is called from outside."""

    name: str
    order: type[Order]
    answer: type[Struct]
    run: Callable[[Admin, Any], Awaitable[Any]]

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return issubclass(self.answer, Report)


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("nodes", Nodes, NodesPage, Admin.nodes),
        Operation("namespaces", Namespaces, NamespacesPage, Admin.namespaces),
        Operation("rooms", Rooms, RoomsPage, Admin.rooms),
        Operation("connections", Connections, ConnectionsPage, Admin.connections),
        Operation("broadcast", Broadcast, Report, Admin.broadcast),
        Operation("publish-room", PublishRoom, Report, Admin.publish_room),
        Operation("publish-identity", PublishIdentity, Report, Admin.publish_identity),
        Operation("kick", Kick, Report, Admin.kick),
        Operation("purge-room", PurgeRoom, PurgeReport, Admin.purge_room),
        Operation("drain", DrainNode, Report, Admin.drain),
    )
}
"""By their names."""


def _spoken(order: Order) -> str:
    """Whom it is for, without what is sent."""
    told = msgspec.structs.asdict(order)
    names = ("namespace", "room", "identity", "connection", "node", "event")
    return ", ".join(f"{name} {told[name]}" for name in names if told.get(name) is not None)


def _result(answer: Report) -> str:
    told = answer.forgotten if isinstance(answer, PurgeReport) else None
    forgotten = "" if told is None else f", {told} publications forgotten"
    silent = f", {len(answer.silent)} nodes silent" if answer.silent else ""
    return f"{answer.connections} connections{forgotten}{silent}"
