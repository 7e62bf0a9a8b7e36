"""Publications over Redis: each room is a sharded channel, and one that remembers is a stream as well.

A node listens to the channels of its own rooms alone, and gets its own publications there as everybody does. What
goes into a log is stored, numbered and published by one script: see `scripts.py`.

Where Redis promises less than the port asks:

- Redis copies to its replicas behind the answer: who takes over may lack what came last, though it was acknowledged.
  The nodes that know of it find that out when they connect to the new server, and begin a new epoch. With `replicas`
  in the URL an acknowledgement waits for so many copies.
- What had reached some members before such a loss, and was not acknowledged, is said again: they may get it twice,
  with the word that an epoch has changed between the two.
- In a cluster, order among the rooms of one namespace is not kept.
- What Redis loses of its disk, or throws away for want of memory, is as its settings say; it is told by a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from secrets import token_urlsafe
from typing import Any

from aquilia.sockets.adapters.base import Deliver, Page, Publication
from aquilia.sockets.adapters.messages import Messages, OfMessages
from aquilia.sockets.adapters.redis.calls import is_on_its_way
from aquilia.sockets.adapters.redis.connection import RedisConnection
from aquilia.sockets.adapters.redis.link import Refusal, Word
from aquilia.sockets.adapters.redis.names import Place, place_of, stored_at
from aquilia.sockets.adapters.redis.scripts import CHECK, FORGET, HEAD, PUBLISH, READ
from aquilia.sockets.adapters.signing import Signer
from aquilia.sockets.faults import ws_adapter_unavailable
from aquilia.sockets.history import History, Position

__all__ = ["RedisBroker"]

logger = logging.getLogger("aquilia.sockets.redis")

HELD = 1 << 12
"""Publications that wait, while the way is found again, until the loss before them is told; the oldest go."""
REMEMBERED = 300.0
"""Seconds that the end of a log is known behind the time at which its newest entry has expired, or while a node
listens to the room: until then it proves that nothing is missing."""
REFRESH = 100.0
"""Seconds between two times that a node says which rooms it listens to."""
SEEN = 1 << 12
"""Rooms without a member here whose newest acknowledged position is known."""


@dataclass(slots=True)
class _Listening:
    namespace: str
    room: str | None
    place: Place
    history: History | None
    seen: Position | None = None
    """The newest that was in the log, as far as is known here."""


class RedisBroker(OfMessages):
    """See `Broker`, and the head of this module for what differs.

    A publication into a room with history waits for a lost server for `publish_timeout` seconds. With None that is 5
    seconds, 15 where another one may take over. With a `signer`, all publications are signed, and others are ignored.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        publish_timeout: float | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._connection = connection
        self._publish_timeout = publish_timeout
        self._prefix = connection.target.prefix
        self._letters = token_urlsafe(3)
        """What tells an epoch from one that another node begins in the same second."""
        self._messages = Messages(self._prefix, signer, f"in the channels {self._prefix}:* of Redis", logger)
        self._deliver: Deliver | None = None
        self._listening: dict[tuple[str, str | None], _Listening] = {}
        self._seen: dict[tuple[str, str], tuple[Position, History]] = {}
        """Of rooms that nobody here listens to; the newest last."""
        self._held: deque[Publication] = deque(maxlen=HELD)
        self._refreshing: asyncio.Task[None] | None = None
        self.on_lost: Callable[[], None] | None = None
        """See `Broker`."""

    @property
    def connected(self) -> bool:
        """See `Broker`."""
        return self._connection.connected

    @property
    def trouble(self) -> str | None:
        """See the head of `adapters.base`."""
        return self._connection.trouble

    async def start(self, deliver: Deliver) -> None:
        """See `Broker`. Also finds out what this login may do.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        self._deliver = _nobody
        self._connection.on_lost = self._lost
        self._connection.on_settling = self._settle
        await self._connection.start()
        try:
            await self._require_permissions()
        except BaseException:
            await self.stop()
            raise
        self._deliver = deliver
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())

    async def _require_permissions(self) -> None:
        """Say once what is said later, where nobody listens: what is denied is told now."""
        namespace, brief = "\0check", History(size=1, ttl=1)
        for room, history in ((None, None), ("check", brief)):
            told = Publication(id="check", namespace=namespace, event="check", payload=None, ts=0, room=room)
            await self.subscribe(namespace, room, history)
            await self.publish(told, history)
            await self.unsubscribe(namespace, room)
        await self.read(namespace, "check", brief)
        await self.forget(namespace, "check", brief)
        value = stored_at(self._prefix, "check")
        await self._connection.repeat(value.share, b"GET", value.key)

    async def stop(self) -> None:
        """See `Broker`."""
        self._deliver = None
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
            self._refreshing = None
        self._listening.clear()
        self._seen.clear()
        self._held.clear()
        await self._connection.stop()

    # Subscriptions

    async def subscribe(
        self, namespace: str, room: str | None, history: History | None = None
    ) -> Position | None:
        """See `Broker`."""
        key = (namespace, room)
        logged = history if room is not None else None
        listening = self._listening.get(key)
        if listening is None:
            place = place_of(self._prefix, namespace, room)
            listening = self._listening[key] = _Listening(namespace, room, place, logged)
            try:
                await self._connection.channels.subscribe(
                    place.channel, place.share, partial(self._receive, listening)
                )
            except BaseException:
                self._listening.pop(key, None)
                raise
        if logged is None:
            return None
        words = self._letters, _remembered(logged)
        keys = (listening.place.epoch, listening.place.head)
        head = _position(await self._connection.run(HEAD, listening.place.share, keys, *words))
        if listening.seen is None or head > listening.seen:
            listening.seen = head
        return head

    async def unsubscribe(self, namespace: str, room: str | None) -> None:
        """See `Broker`."""
        listening = self._listening.pop((namespace, room), None)
        if listening is not None:
            self._connection.channels.unsubscribe(listening.place.channel)

    def _receive(self, listening: _Listening, message: bytes, fresh: bool) -> None:
        position: Position | None = None
        previous: int | None = None
        try:
            if listening.history is not None:
                place, _, message = message.partition(b"\n")
                epoch, offset, before = place.decode("ascii").split(" ")
                position, previous = Position(epoch, int(offset)), int(before)
            publication = self._messages.read(message, position, previous)
            if publication.room != listening.room or publication.namespace != listening.namespace:
                raise ValueError("a publication for another room")
        except ValueError as error:
            self._messages.ignore(error)
            return
        if position is not None:
            listening.seen = position
        if fresh:
            self._held.append(publication)
        else:
            self._tell(publication)

    def _tell(self, publication: Publication) -> None:
        if self._deliver is None:
            return
        try:
            self._deliver(publication)
        except Exception:  # the link goes on: it is not its fault
            logger.exception("a publication could not be delivered")

    def _lost(self) -> None:
        if self.on_lost is not None:
            self.on_lost()
        held = list(self._held)
        self._held.clear()
        for publication in held:
            self._tell(publication)

    async def _settle(self) -> None:
        """On a new way, whether each log still has what is known of it; else its epoch ends."""
        known = {
            key: (each.seen, each.history)
            for key, each in self._listening.items()
            if each.history is not None and each.seen is not None
        }
        known |= {key: value for key, value in self._seen.items() if key not in known}
        found = await asyncio.gather(
            *(self._confirm(key, seen, history) for key, (seen, history) in known.items())
        )
        if lost := sum(found):
            logger.error(
                "%s has lost what rooms remembered, or the newest of it: %d known here begin a new epoch. "
                "What is stored there besides may be gone too, such as the sessions of clients that were away",
                *(self._connection.where, lost),
            )

    async def _confirm(self, key: tuple[str, str | None], seen: Position, history: History) -> bool:
        """Have the epoch of a log end that lacks what was seen there; whether it has."""
        place, run = place_of(self._prefix, *key), self._connection.run_now
        keys, remembered = (place.epoch, place.head), _remembered(history)
        try:
            if not await run(CHECK, place.share, keys, remembered, *seen):
                return False
            head = _position(await run(HEAD, place.share, keys, self._letters, remembered, *seen))
        except Refusal as error:
            if is_on_its_way(error):  # its keys are, as they were: the others do not wait for that
                return False
            raise ConnectionError(f"{self._connection.where}: {error}") from error
        if head.epoch == seen.epoch:
            return False
        listening = self._listening.get(key)
        if listening is not None and listening.seen == seen:
            listening.seen = head
        elif key in self._seen:
            self._seen[key] = head, history
        return True

    async def _refresh(self) -> None:
        """Where a node listens, the end of a log stays known."""
        while True:
            await asyncio.sleep(REFRESH)
            for each in list(self._listening.values()):
                if each.history is None:
                    continue
                words = (b"PEXPIRE", each.place.head, _remembered(each.history), b"GT")
                try:
                    await self._connection.repeat(each.place.share, *words)
                except Exception as error:
                    logger.debug("the end of a log may be forgotten: %s", error)
                    break

    # Publishing

    async def publish(self, publication: Publication, history: History | None = None) -> Position | None:
        """See `Broker`."""
        if self._deliver is None:
            raise ws_adapter_unavailable("the Redis broker is not running")
        namespace, room = publication.namespace, publication.room
        place = place_of(self._prefix, namespace, room)
        if history is None or room is None:
            data = self._messages.write(publication, logged=False)
            await self._connection.send(place.share, b"SPUBLISH", place.channel, data)
            return None
        position = _position(
            await self._connection.run(
                PUBLISH,
                place.share,
                (place.epoch, place.head, place.log, place.ids),
                self._letters,
                publication.id.encode("utf-8", "surrogatepass"),
                self._messages.write(publication, logged=True),
                *_bounds(history),
                place.channel,
                until=self._publish_deadline(),
                synced=True,
            )
        )
        self._remember((namespace, room), position, history)
        return position

    def _publish_deadline(self) -> float | None:
        patience = self._publish_timeout
        if patience is None:
            return None
        if self._connection.connected:
            patience = max(patience, 1.0)
        elif not patience:
            raise ws_adapter_unavailable(f"the connection to {self._connection.where} is lost")
        return asyncio.get_running_loop().time() + patience

    def _remember(self, key: tuple[str, str], position: Position, history: History) -> None:
        listening = self._listening.get(key)
        if listening is not None:
            if listening.seen is None or listening.seen < position:
                listening.seen = position
            return
        before = self._seen.pop(key, (position, history))
        self._seen[key] = max(before[0], position), history  # a repeat has the place of the first
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]

    # Logs

    async def read(
        self, namespace: str, room: str, history: History, *, since: Position | None = None, limit: int = 100
    ) -> Page:
        """See `Broker`."""
        place = place_of(self._prefix, namespace, room)
        words: list[Word] = [_milliseconds(history.ttl), limit]
        if since is not None:
            words += [since.epoch.encode("utf-8", "surrogatepass"), min(max(since.offset, 0), 1 << 53)]
        keys = (place.epoch, place.head, place.log)
        until = self._connection.deadline()
        while (told := await self._connection.run(READ, place.share, keys, *words, until=until)) is None:
            begun = self._letters, _remembered(history)
            await self._connection.run(HEAD, place.share, keys[:2], *begun, until=until)
        epoch, head, complete, of, entries = told
        found = []
        for id, (_, previous, _, _, _, data) in entries:
            position = Position(of.decode(), int(id.partition(b"-")[0]))
            try:
                found.append(self._messages.read(data, position, int(previous)))
            except ValueError as error:
                self._messages.ignore(error)
        return Page(found, Position(epoch.decode(), int(head)), bool(complete))

    async def forget(self, namespace: str, room: str, history: History) -> int:
        """See `Broker`."""
        place = place_of(self._prefix, namespace, room)
        keys = (place.head, place.log, place.ids)
        words = (_milliseconds(history.ttl), _remembered(history))
        return int(await self._connection.run(FORGET, place.share, keys, *words))


def _nobody(publication: Publication) -> None:
    """Nobody is served yet."""


def _position(reply: Any) -> Position:
    epoch, offset = reply
    return Position(epoch.decode(), int(offset))


@lru_cache(maxsize=256)
def _bounds(history: History) -> tuple[bytes, ...]:
    words = history.size, _milliseconds(history.ttl), history.max_bytes, _remembered(history)
    return tuple(b"%d" % word for word in words)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _remembered(history: History) -> int:
    return _milliseconds(history.ttl + REMEMBERED)
