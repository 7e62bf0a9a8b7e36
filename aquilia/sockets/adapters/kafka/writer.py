"""What is published, on its way: one queue for each partition, whose records go in the order in which they came.

While one batch is on its way, the next one gathers: so a broker that is slow gets larger ones, and nobody waits for
more to come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from aquilia.sockets.adapters.kafka.connection import KafkaConnection

__all__ = ["Lost", "Writer"]

BATCH_RECORDS = 2000
PAUSE = 0.1
"""Seconds before a partition is tried again that has too few replicas."""
_Put = tuple[bytes, bytes, "asyncio.Future[int]"]


class Lost(Exception):
    """Nobody knows whether it was stored."""


class _Queue:
    __slots__ = ("again", "busy", "waiting")

    def __init__(self, again: bool) -> None:
        self.again = again
        self.waiting: deque[_Put] = deque()
        self.busy = False


class Writer:
    """See the head of this module. What goes to the topic `again` is said again where its answer was lost, and waits
    for a lost broker, until nobody waits for it any more.
    """

    def __init__(self, connection: KafkaConnection, again: str) -> None:
        self._again = again
        self._connection = connection
        self._queues: dict[tuple[str, int], _Queue] = {}

    def put(self, topic: str, partition: int, key: bytes, value: bytes) -> asyncio.Future[int]:
        """Store a record behind those that were put there before; its offset.

        The future raises `Lost` where nobody knows, and `RefusedError` of `link` where it was refused.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault((topic, partition), _Queue(topic == self._again))
        queue.waiting.append((key, value, future))
        if not queue.busy:
            queue.busy = True
            self._connection.spawn(self._send(queue, (topic, partition)))
        return future

    async def _send(self, queue: _Queue, place: tuple[str, int]) -> None:
        from aquilia.sockets.adapters.kafka.link import (
            LIST_TOO_LARGE,
            NOT_ENOUGH_REPLICAS,
            TOO_FEW_AFTER,
            TOO_LARGE,
            LinkBrokenError,
            RefusedError,
        )

        batch: list[_Put] = []
        most = BATCH_RECORDS
        try:
            while queue.waiting:
                batch = _next(queue.waiting, most)
                if not batch:
                    continue
                link: Any = self._connection.link
                try:
                    if link is None:
                        raise LinkBrokenError("the connection to Kafka is lost")
                    first = await link.produce(place, [(key, value) for key, value, _ in batch])
                except RefusedError as error:
                    if error.code in (TOO_LARGE, LIST_TOO_LARGE) and len(batch) > 1:
                        queue.waiting.extendleft(reversed(batch))
                        most = max(1, len(batch) // 2)
                    elif queue.again and error.code in (NOT_ENOUGH_REPLICAS, TOO_FEW_AFTER):
                        queue.waiting.extendleft(reversed(batch))
                        await asyncio.sleep(PAUSE)
                    else:
                        _fail(batch, error)
                except LinkBrokenError as error:
                    if queue.again:
                        queue.waiting.extendleft(reversed(batch))
                        await self._connection.there()
                    else:
                        _fail(batch, Lost(str(error)))
                else:
                    for number, (_, _, future) in enumerate(batch):
                        if not future.done():
                            future.set_result(first + number)
        finally:
            queue.busy = False
            _fail(batch, Lost("the broker was stopped"))
            if self._connection.stopped:
                _fail(queue.waiting, Lost("the broker was stopped"))
                queue.waiting.clear()


def _next(waiting: deque[_Put], most: int) -> list[_Put]:
    from aquilia.sockets.adapters.kafka.link import BATCH

    batch: list[_Put] = []
    size = 0
    while waiting and len(batch) < most:
        key, value, future = waiting[0]
        size += len(key) + len(value) + 64
        if batch and size > BATCH:
            break
        waiting.popleft()
        if not future.done():  # nobody waits for it any more
            batch.append((key, value, future))
    return batch


def _fail(batch: Iterable[_Put], error: Exception) -> None:
    for _, _, future in batch:
        if not future.done():
            future.set_exception(error)
            future.exception()  # whoever has left does not miss it
