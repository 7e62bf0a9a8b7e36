"""What one node tells an admin of itself, and does for one. The questions come over the control channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from heapq import nsmallest
from itertools import islice
from typing import Any, TypeVar

import msgspec

from aquilia.sockets.admin.counting import watch
from aquilia.sockets.admin.orders import (
    ConnectionRecord,
    Connections,
    Kick,
    LiveNamespace,
    Namespaces,
    PurgeRoom,
    RoomRecord,
    Rooms,
)
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.cluster.membership import Cluster
from aquilia.sockets.connection import Connection
from aquilia.sockets.faults import (
    CloseCode,
    ws_adapter_unavailable,
    ws_kicked,
    ws_message_invalid,
)
from aquilia.sockets.history import fits
from aquilia.sockets.history_following import Following
from aquilia.sockets.hub import Hub
from aquilia.sockets.open_namespace import Home

__all__ = ["Administered", "Key", "Record", "Target", "Wanted", "key_of"]

COUNTING = 3.0
"""Seconds in which a publication has to come, behind the question how many it goes to."""
EXPECTED = 10.0
"""Seconds for which one is expected about which nobody asks that."""
AT_ONCE = 256
"""Members that leave a room together."""
SLICE = 1024
"""Things that are looked at before the loop has its turn."""

Item = TypeVar("Item")
Asked = TypeVar("Asked")
Key = tuple[str, ...]
Record = LiveNamespace | RoomRecord | ConnectionRecord


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """A page: what is looked for, and behind what."""

    order: Any
    after: list[str] | None


class Target(msgspec.Struct, frozen=True, array_like=True):
    """A publication that is about to come, and whom it is for."""

    id: str
    namespace: str
    room: str | None


def key_of(record: Record) -> Key:
    """By what records are ordered: the names that tell them apart."""
    if isinstance(record, LiveNamespace):
        return (record.namespace,)
    if isinstance(record, RoomRecord):
        return record.namespace, record.room
    return record.namespace, record.id, record.node


class Administered:
    """This node, for whoever asks on the control channel. `stop` begins its drain."""

    def __init__(self, hub: Hub, cluster: Cluster, audit: AuditLog, stop: Callable[[], None]) -> None:
        self._hub = hub
        self._cluster = cluster
        self._audit = audit
        self._stop = stop
        cluster.on("admin.namespaces", self._namespaces)
        cluster.on("admin.rooms", self._rooms)
        cluster.on("admin.connections", self._connections)
        self._expected: dict[str, asyncio.Future[int]] = {}
        """By the ids of publications that are to be counted."""
        cluster.on("admin.expect", self._expect)
        cluster.on("admin.count", self._count)
        cluster.on("admin.kick", self._kick)
        cluster.on("admin.purge", self._purge)
        cluster.on("admin.drain", self._drain)

    # Looking

    async def _namespaces(self, asked: Any) -> list[LiveNamespace]:
        wanted, order = _wanted(asked, Namespaces)
        found = await _first(
            list(self._hub.homes.items()), lambda item: (item[0],), wanted.after, order.limit
        )
        return [
            LiveNamespace(namespace=path, pattern=home.pattern, connections=len(home.everyone()), nodes=1)
            for path, home in found
        ]

    async def _rooms(self, asked: Any) -> list[RoomRecord]:
        wanted, order = _wanted(asked, Rooms)
        rooms = (
            (path, name, audience)
            for path, home in self._homes(order.namespace)
            for name, audience in list(home.rooms.items())
            if len(audience) and (order.pattern is None or fits(name, order.pattern))
        )
        found = await _first(rooms, lambda item: item[:2], wanted.after, order.limit)
        return [
            RoomRecord(namespace=path, room=name, members=len(audience)) for path, name, audience in found
        ]

    async def _connections(self, asked: Any) -> list[ConnectionRecord]:
        wanted, order = _wanted(asked, Connections)
        node = self._cluster.id
        conns = (
            (path, conn)
            for path, home in self._homes(order.namespace)
            for conn in _some(home, order.room, order.identity)
            if order.address is None or conn._address == order.address
        )
        found = await _first(conns, lambda item: (item[0], item[1].id, node), wanted.after, order.limit)
        return [_record(conn, node) for _, conn in found]

    def _homes(self, namespace: str | None) -> list[tuple[str, Home]]:
        homes = self._hub.homes
        if namespace is None:
            return list(homes.items())
        return [(namespace, homes[namespace])] if namespace in homes else []

    # Acting

    def _expect(self, asked: Any) -> None:
        target = _read(asked, Target)
        home = self._hub.homes.get(target.namespace)
        audience = None
        if home is not None:
            audience = home.connections if target.room is None else home.rooms.get(target.room)
        self._expected[target.id] = watch(audience, target.id)
        asyncio.get_running_loop().call_later(EXPECTED, self._give_up, target.id)

    def _give_up(self, id: str) -> None:
        going = self._expected.pop(id, None)
        if going is not None:
            going.cancel()

    async def _count(self, asked: Any) -> int:
        return await self.count(_read(asked, Target).id)

    async def count(self, id: str) -> int:
        """To how many connections of this node a publication goes that was expected.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: it has not come, or was not expected.
        """
        going = self._expected.pop(id, None)
        if going is None:
            raise ws_adapter_unavailable(
                "this node did not know in time of a publication that was to be counted"
            )
        await asyncio.wait([going], timeout=COUNTING)
        if not going.done():
            going.cancel()
            shown = "it was published, and has not come here yet: to how many it goes is not known"
            raise ws_adapter_unavailable("the publication that was to be counted has not come", shown)
        return going.result()

    def _kick(self, asked: Any) -> int:
        order = _read(asked, Kick)
        return sum(
            self._end(conn) for _, home in self._homes(order.namespace) for conn in _kicked(home, order)
        )

    def _end(self, conn: Connection) -> bool:
        if conn._close is not None:
            return False
        self._audit.note("connection.kicked", conn, outcome="closed", code="WS_KICKED")
        conn._end(CloseCode.KICKED, ws_kicked().message)
        return True

    async def _purge(self, asked: Any) -> int:
        order = _read(asked, PurgeRoom)
        hub, path, room = self._hub, order.namespace, order.room
        hub.purges.note(path, room, hub.clock.time())
        home = hub.homes.get(path)
        audience = None if home is None else home.rooms.get(room)
        if home is None or audience is None:
            return 0
        if isinstance(audience.tail, Following):
            audience.tail.purge()
        members = _members(home, room)
        left = 0
        for begin in range(0, len(members), AT_ONCE):
            leaving = [hub.leave(conn, room) for conn in members[begin : begin + AT_ONCE]]
            # One that is not written to the store has left all the same.
            said = await asyncio.gather(*leaving, return_exceptions=True)
            left += sum(each is not False for each in said)
        return left

    def _drain(self, asked: Any) -> int:
        connections = sum(len(home.everyone()) for home in self._hub.homes.values())
        self._stop()
        return connections


def _some(home: Home, room: str | None, identity: str | None) -> Iterable[Connection]:
    conns = home.everyone() if room is None else _members(home, room)
    return conns if identity is None else [conn for conn in conns if _identity(conn) == identity]


def _members(home: Home, room: str) -> list[Connection]:
    audience = home.rooms.get(room)
    return [] if audience is None else [*audience.members.values(), *audience.waiting.values()]


def _kicked(home: Home, order: Kick) -> list[Connection]:
    if order.connection is None:
        return [conn for conn in home.everyone() if _identity(conn) == order.identity]
    conn = home.find(order.connection)
    return [] if conn is None else [conn]


def _identity(conn: Connection) -> str | None:
    id = getattr(conn.identity, "id", None)
    return None if id is None else str(id)


def _record(conn: Connection, node: str) -> ConnectionRecord:
    return ConnectionRecord(
        id=conn.id,
        namespace=conn.namespace,
        node=node,
        identity=_identity(conn),
        address=conn._address,
        since=conn.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        rooms=len(conn._rooms),
        messages_received=conn.messages_received,
        messages_sent=conn.messages_sent,
    )


async def _first(
    items: Iterable[Item], key: Callable[[Item], Key], after: list[str] | None, limit: int
) -> list[Item]:
    """The first behind a key, and one more: whether there are others is to be known.

    Between two slices of them the loop has its turn.
    """
    behind = iter(items if after is None else (item for item in items if key(item) > tuple(after)))
    found: list[Item] = []
    while some := list(islice(behind, SLICE)):
        found = nsmallest(limit + 1, [*found, *some], key=key)
        await asyncio.sleep(0)
    return found


def _wanted(asked: Any, kind: type[Asked]) -> tuple[Wanted, Asked]:
    wanted = _read(asked, Wanted)
    return wanted, _read(wanted.order, kind)


def _read(asked: Any, kind: type[Asked]) -> Asked:
    try:
        return msgspec.convert(asked, kind)
    except msgspec.ValidationError as error:
        raise ws_message_invalid(f"a question of another version: {error}") from error
