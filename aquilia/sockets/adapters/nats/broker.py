"""Publications over NATS: plain rooms by core subjects, rooms with history by JetStream.

Every room has one subject to listen on. What is stored comes there too, from the server (RePublish), with its place.

All rooms of one `History` share a stream, so offsets are the stream's sequences: they increase, and have holes. The
epoch stands in the stream's own subject, which ties each publication and each entry to the life of its stream: a
stream that was deleted and made anew by another node takes nothing that was meant for the old one.

Where JetStream promises less than the port asks:

- `History.max_bytes` is kept for a stream as a whole, never for one room: what
  `logs.py` says is for all its rooms together.
- An entry may outlive its `ttl` by moments, and a `ttl` below 0.1 s is 0.1 s.
- `read` says that it is incomplete where it cannot prove the contrary: when the entry at the position is gone, the
  stream has since let go of others by age or bytes, and this node has not been subscribed all the time.
- In a cluster, a subscription needs a moment to be known on every server: what a reader misses by that it finds by
  `previous`. The newest entries of all may be those that one server has, which lags: what comes behind a position is
  read till the leader's last is seen.
- Where a stream in a cluster loses its leader, publications that wait for their answer at that moment are stored
  once, and perhaps in another order than that of their calls.
- A machine that loses its power loses what the server has not yet synced (its `sync_interval`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aquilia.sockets.adapters.base import Deliver, Page, Publication
from aquilia.sockets.adapters.messages import FORGOTTEN, Messages, OfMessages
from aquilia.sockets.adapters.names import message_id, token
from aquilia.sockets.adapters.nats.connection import NatsConnection
from aquilia.sockets.adapters.nats.jetstream import Failure, refused
from aquilia.sockets.adapters.nats.logs import Logs
from aquilia.sockets.adapters.nats.open_calls import RETRY
from aquilia.sockets.adapters.signing import Signer
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position

__all__ = ["NatsBroker"]

logger = logging.getLogger("aquilia.sockets.nats")

HELD = 1 << 12
"""Publications that wait, while the way is found again, until the loss before them is told; the oldest go."""


@dataclass(slots=True)
class _Listening:
    namespace: str
    room: str | None
    subject: str
    logged: bool
    position: Position | None = None
    """The newest that arrived, while the subscription has had no hole."""
    mark: tuple[Position, int] | None = None
    """The newest mark that arrived that the log was emptied, and the offset before it."""


class NatsBroker(OfMessages):
    """See `Broker`, and the head of this module for what differs.

    A publication into a room with history waits for a lost server for `publish_timeout` seconds; for one that does
    not answer as well, and at least `RETRY`. With None that is 5 seconds, 15 where streams are replicated. With a
    `signer`, all publications are signed, and others are ignored.
    """

    def __init__(
        self,
        connection: NatsConnection,
        on_start: Callable[[], Awaitable[None]] | None = None,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._connection = connection
        self._on_start = on_start
        self._publish_timeout = publish_timeout
        self._messages = Messages(
            connection.target.prefix, signer, f"below {connection.target.prefix}.> on NATS", logger
        )
        self._logs = Logs(connection, self._messages)
        self._prefix = connection.target.prefix
        self._deliver: Deliver | None = None
        self._listening: dict[tuple[str, str | None], _Listening] = {}
        self._held: deque[Publication] = deque(maxlen=HELD)
        """Came by a new connection, of which not all subscriptions are known to be in effect."""
        self._held_link = 0
        self.on_lost: Callable[[], None] | None = None
        """See `Broker`."""

    @property
    def connected(self) -> bool:
        """See `Broker`."""
        return self._connection.connected and not self._connection.cut

    @property
    def trouble(self) -> str | None:
        """See the head of `adapters.base`."""
        return self._connection.trouble

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`. Also finds out what the server can do.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        self._deliver = deliver
        self._connection.on_lost = self._lost
        await self._connection.start()
        try:
            if self._on_start is not None:
                await self._on_start()
            await self._require_permissions()
        except BaseException:
            await self.stop()
            raise

    async def _require_permissions(self) -> None:
        """Say once what is said later, where nobody listens and nothing is stored: what is denied is told now."""
        prefix, api = self._prefix, "$JS.API"
        roads = (f"{prefix}.plain.check.check", f"{prefix}.stored.*.check.check")
        said = (roads[0], f"{prefix}.log.check.check.check.check")
        asked = tuple(
            f"{api}.{verb}.{prefix}_log_check" for verb in ("STREAM.CREATE", "STREAM.PURGE", "DIRECT.GET")
        )
        try:
            await asyncio.gather(
                *(self._connection.subscribe(road, lambda message: None) for road in roads),
                *(self._connection.send(subject, b"") for subject in said + asked),
            )
        finally:
            for road in roads:
                await self._connection.unsubscribe(road)

    async def stop(self) -> None:
        """See `Broker`."""
        self._deliver = None
        self._listening.clear()
        self._logs.clear()
        self._held.clear()
        await self._connection.stop()

    def _lost(self) -> None:
        for listening in self._listening.values():
            listening.position = None
        if self.on_lost is not None:
            self.on_lost()
        held = list(self._held) if self._held_link == self._connection.links else []
        self._held.clear()
        for publication in held:
            if self._deliver is not None:
                self._deliver(publication)

    def _hold(self, publication: Publication) -> None:
        if (
            self._held_link != self._connection.links
        ):  # what came by a link that was lost again is lost with the rest
            self._held_link = self._connection.links
            self._held.clear()
        self._held.append(publication)

    # Subscriptions

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        """See `Broker`."""
        key = (namespace, room)
        logged = history is not None and room is not None
        if key not in self._listening:
            road = "stored.*" if logged else "plain"
            subject = f"{self._prefix}.{road}.{token(namespace)}.{token(room)}"
            listening = _Listening(namespace, room, subject, logged)
            self._listening[key] = listening
            try:
                await self._connection.subscribe(subject, partial(self._receive, listening))
            except BaseException:
                self._listening.pop(key, None)
                raise
        if history is None or room is None:
            return None
        head = await self._logs.head(history, namespace, room)
        listening = self._listening[key]
        if listening.position is None or listening.position < head:
            listening.position = head
        return head

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        listening = self._listening.pop((namespace, room), None)
        if listening is not None:
            await self._connection.unsubscribe(listening.subject)

    def _receive(self, listening: _Listening, message: Any) -> None:
        position: Position | None = None
        previous: int | None = None
        try:
            if listening.logged:
                headers: Mapping[str, str] = message.headers or {}
                offset = int(headers["Nats-Sequence"])
                position = Position(message.subject.split(".")[2], offset)
                previous = int(headers.get("Nats-Last-Sequence", "0"))
            if listening.mark is not None and listening.mark[0] == (position and (position.epoch, previous)):
                previous = listening.mark[1]  # nothing is missing between the two
            publication = self._messages.read(message.data, position, previous)
            if publication.room != listening.room or publication.namespace != listening.namespace:
                raise ValueError("a publication for another room")
        except (ValueError, KeyError) as error:
            self._messages.ignore(error)
            return
        if position is not None and previous is not None and publication.event == FORGOTTEN:
            listening.mark = position, previous
            return
        listening.position = position
        if self._connection.cut:
            self._hold(publication)
        elif self._deliver is not None:
            self._deliver(publication)

    # Publishing

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        """See `Broker`."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the NATS broker is not running")
        namespace, room = publication.namespace, publication.room
        data = self._messages.write(publication, logged=history is not None and room is not None)
        if history is None or room is None:
            await self._connection.send(f"{self._prefix}.plain.{token(namespace)}.{token(room)}", data)
            return None
        id = message_id(f"{namespace}\n{room}", publication.id)
        until = self._publish_deadline()
        log, answer = await self._logs.store(history, namespace, room, data, id, until)
        if isinstance(answer, Failure):
            raise refused(answer)
        return Position(log.epoch, answer)

    def _publish_deadline(self) -> float:
        patience = self._publish_timeout
        if patience is None:
            return self._connection.deadline()
        if self._connection.connected:
            patience = max(patience, RETRY)
        elif not patience:
            raise ws_adapter_unavailable(f"the connection to NATS at {self._connection.target} is lost")
        return asyncio.get_running_loop().time() + patience

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        """See `Broker`."""

        def arrived() -> Position | None:
            known = self._listening.get((namespace, room))
            return None if known is None else known.position

        return await self._logs.read(namespace, room, history, since=since, limit=limit, arrived=arrived)

    async def forget(self, namespace: str, room: str, history: History) -> int:
        """See `Broker`."""
        return await self._logs.forget(namespace, room, history, self._connection.deadline())
