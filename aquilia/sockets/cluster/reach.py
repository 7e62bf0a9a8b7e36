"""The reach of a node: who is in a room, one question to all of them, and the end of a connection, on all nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.cluster.control import ToldFault, pack, unpack
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.cluster.nodes import BEAT, LEASE
from aquilia.sockets.cluster.questions import Answers
from aquilia.sockets.faults import (
    CloseCode,
    SocketFault,
    ws_adapter_unavailable,
    ws_kicked,
    ws_message_invalid,
)
from aquilia.sockets.hub_port import Member
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.room_answers import RoomAnswers
from aquilia.sockets.room_names import require_text
from aquilia.sockets.room_questions import RoomQuestion

__all__ = ["Reach"]

logger = logging.getLogger("aquilia.sockets")

PATIENCE = LEASE + 2 * BEAT
"""Seconds for the answers of nodes: one that is dead is known to be so before."""
WAY = 0.25
"""Of the seconds for a question to members, so many are left for the way of the answers; a tenth of them at most."""

Homes = Mapping[str, Home]
Asked = TypeVar("Asked")


class _Asked(msgspec.Struct, frozen=True, array_like=True):
    """A question to the members of a room."""

    namespace: str
    room: str
    event: str
    payload: Any
    timeout: float
    exclude: str | None


class _Gathered(msgspec.Struct, frozen=True, array_like=True):
    """What came of it on one node."""

    answers: dict[str, bytes]
    faults: dict[str, ToldFault]
    missing: tuple[str, ...]


class Reach:
    """What the hub is asked for that may be on any node. Without a cluster, or others in it, nobody else is asked."""

    def __init__(
        self, homes: Homes, audit: AuditLog, stopwatch: Callable[[], float], cluster: Cluster | None
    ) -> None:
        self._homes = homes
        self._audit = audit
        self._stopwatch = stopwatch
        self._cluster = cluster
        if cluster is not None:
            cluster.on("members", lambda asked: self._members(*_asked(asked, tuple[str, str])))
            cluster.on("kick", lambda asked: self._kick(*_asked(asked, tuple[str, str])))
            cluster.on("request", lambda asked: self._gather(_asked(asked, _Asked)))

    @property
    def _others(self) -> Cluster | None:
        return None if self._cluster is None or self._cluster.alone else self._cluster

    async def members(self, namespace: str, room: str) -> Sequence[Member]:
        """See `HubPort`."""
        require_text(room)
        if (cluster := self._others) is None:
            return [Member(*each) for each in self._members(namespace, room)]
        told = await cluster.ask("members", (namespace, room), timeout=PATIENCE)
        _require_all(told, f"the members of {room!r} are not known")
        found = [msgspec.convert(each, list[tuple[str, Any]]) for each in told.by_node.values()]
        # One that is being taken over may be on two nodes.
        return [Member(*each) for each in {member[0]: member for each in found for member in each}.values()]

    def _members(self, namespace: str, room: str) -> list[tuple[str, Any]]:
        home = self._homes.get(namespace)
        audience = home.rooms.get(room) if home else None
        if audience is None:
            return []
        return [
            (conn.id, conn.identity.id if conn.identity is not None else None)
            for conn in (*audience.members.values(), *audience.waiting.values())
        ]

    async def kick(self, namespace: str, connection: str) -> bool:
        """See `HubPort`."""
        if self._kick(namespace, connection):
            return True
        if (cluster := self._others) is None:
            return False
        told = await cluster.ask("kick", (namespace, connection), timeout=PATIENCE, enough=bool)
        if any(told.by_node.values()):
            return True
        _require_all(told, f"whether {connection!r} was there is not known")
        return False

    def _kick(self, namespace: str, connection: str) -> bool:
        home = self._homes.get(namespace)
        conn = home.find(connection) if home else None
        if conn is None or conn._close is not None:
            return False
        self._audit.note("connection.kicked", conn, outcome="closed", code="WS_KICKED")
        conn._end(CloseCode.KICKED, ws_kicked().message)
        return True

    async def ask(
        self,
        namespace: str,
        room: str,
        event: str,
        payload: Any,
        *,
        timeout: float,
        exclude: str | None = None,
    ) -> RoomAnswers:
        """See `HubPort`."""
        require_text(room)
        question = RoomQuestion(self._homes.get(namespace), room, event, payload, exclude=exclude)
        if (cluster := self._others) is None:
            return await question.ask(timeout, self._stopwatch)
        rest = timeout - max(0.0, min(WAY, timeout / 10))
        asked = _Asked(namespace, room, event, payload, rest, exclude)
        told = await cluster.ask(
            "request", asked, timeout=timeout, here=lambda: question.ask(rest, self._stopwatch)
        )
        return _together(told, cluster.id)

    async def _gather(self, asked: _Asked) -> _Gathered:
        """What another node asks the members that are here."""
        home = self._homes.get(asked.namespace)
        question = RoomQuestion(home, asked.room, asked.event, asked.payload, exclude=asked.exclude)
        told = await question.ask(asked.timeout, self._stopwatch)
        answers: dict[str, bytes] = {}
        faults = {id: ToldFault.of(fault) for id, fault in told.faults.items()}
        for id, answer in told.answers.items():
            try:
                answers[id] = pack(answer)
            except SocketFault as fault:  # what one client says must not cost the answers of the others
                faults[id] = ToldFault.of(fault)
        return _Gathered(answers, faults, told.missing)


def _asked(payload: Any, kind: type[Asked]) -> Asked:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise ws_message_invalid(f"a question of another version: {error}") from error


def _require_all(told: Answers, otherwise: str) -> None:
    """See to it that all nodes have answered, but those that are dead.

    Raises:
        SocketFault: WS_ADAPTER_UNAVAILABLE; a node's own fault.
    """
    if told.faults:
        raise next(iter(told.faults.values()))
    if silent := [id for id in told.silent if id not in told.gone]:
        shown = "not all servers answer now: try again later"
        raise ws_adapter_unavailable(f"{otherwise}: no answer of node {', '.join(silent)}", shown)


def _together(told: Answers, me: str) -> RoomAnswers:
    """What the members said on all nodes.

    Raises:
        SocketFault: WS_PUBLISH_FAILED, by this node.
    """
    if (fault := told.faults.get(me)) is not None:
        raise fault
    silent = [*told.silent]
    own: RoomAnswers = told.by_node.get(me) or RoomAnswers()
    answers, faults, missing = dict(own.answers), dict(own.faults), list(own.missing)
    for node, fault in told.faults.items():
        logger.warning("node %s could not ask its members: %s", node, fault)
        silent.append(node)
    for node, answer in told.by_node.items():
        if node == me:
            continue
        try:
            gathered = msgspec.convert(answer, _Gathered)
            answers.update({id: unpack(data) for id, data in gathered.answers.items()})
        except (ValueError, msgspec.ValidationError):
            silent.append(node)
            continue
        faults.update({id: told.fault() for id, told in gathered.faults.items()})
        missing += gathered.missing
    return RoomAnswers(answers, faults, tuple(missing), tuple(silent))
