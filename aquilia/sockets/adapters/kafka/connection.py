"""The way to Kafka: one link after the other, and what listens on it.

A link is given up as soon as a broker that has a part of our topics does not answer: then nobody knows what is
missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from aquilia.sockets.adapters.kafka.dial import DENIED, LOG, MISSING, PLAIN, DialError, allow, dial
from aquilia.sockets.adapters.kafka.url import Target
from aquilia.sockets.adapters.outages import UNREACHABLE, Outage
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["KafkaConnection", "Reader"]

logger = logging.getLogger("aquilia.sockets.kafka")

PULSE = 1.0
"""Seconds between two questions to each broker whether it is there."""
SILENCE = 3.0
"""Seconds after which a broker that leaves one without answer is given up."""
READING = 0.1
"""Seconds in which an answer is read that has come."""
CALL = 5.0
"""Seconds that a call waits for a broker that is lost."""


class Reader(Protocol):
    """What reads from the topics."""

    async def prepare(self, link: Any, away: float) -> None:
        """A new link is there, `away` seconds after the end of the last one: find out where to go on."""

    def run(self, link: Any) -> None:
        """Go on, on this link, until it ends."""

    def lose(self) -> None:
        """The link has ended."""


class KafkaConnection:
    """See the head of this module."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on_lost: Callable[[], None] | None = None
        self.link: Any = None
        self.cut = False
        """From a loss until `on_lost` is called."""
        self.trouble: str | None = None
        """See the head of `adapters.base`."""
        self.stopped = True
        self.readers: list[Reader] = []
        self._there = asyncio.Event()
        self._lost_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def connected(self) -> bool:
        """Whether there is a link in use."""
        return self.link is not None

    async def start(self) -> None:
        """Connect.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        self.stopped = self.cut = False
        self.trouble = None
        self._there = asyncio.Event()
        try:
            await self._take(0.0)
        except ImportError as error:
            raise ws_adapter_unavailable(MISSING) from error
        except Exception as error:
            self.stopped = True
            raise ws_adapter_unavailable(str(error)) from error

    async def stop(self) -> None:
        """End it, and what reads from it. Safe to call twice."""
        self.stopped = True
        link, self.link = self.link, None
        self._there.clear()
        for reader in self.readers:
            reader.lose()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if link is not None:
            await link.close()

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run something in the background until it ends or we stop."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.error("something failed that reads from Kafka or writes to it", exc_info=error)
        if self.link is not None:
            self.link.end(f"{type(error).__name__}: {error}")

    async def ready(self, until: float) -> Any:
        """The link, once there is one.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, if there is none in time.
        """
        if self.link is None and not self.stopped:
            try:
                async with asyncio.timeout_at(until):
                    await self._there.wait()
            except TimeoutError:
                pass
        if self.link is None:
            raise ws_adapter_unavailable(f"the connection to Kafka at {self.target} is lost")
        return self.link

    async def there(self) -> None:
        """Wait until there is a link."""
        await self._there.wait()

    def deadline(self) -> float:
        """When a call that begins now gives up."""
        return asyncio.get_running_loop().time() + CALL

    async def _take(self, away: float) -> None:
        """Make a link, and go on with it."""
        broken: list[str] = []

        def end(link: Any, reason: str) -> None:
            broken.append(reason)
            self._lost(link, reason)

        link = await dial(self.target, end)
        try:
            for reader in self.readers:
                await reader.prepare(link, away)
            if broken:
                raise ConnectionError(broken[0])
        except BaseException as error:
            await link.close()
            if getattr(error, "code", None) in DENIED:
                raise DialError(f"Kafka at {self.target}: {error}: {allow(self.target)}", 3) from error
            raise
        self.link = link
        self.trouble = None
        if self.cut:
            self.cut = False
            if self.on_lost is not None:
                self.on_lost()
        if self.link is not link:  # on_lost has stopped it
            return
        for reader in self.readers:
            reader.run(link)
        self._there.set()
        self.spawn(self._watch(link))

    async def _watch(self, link: Any) -> None:
        """Whether all brokers that have something of ours are there.

        They are asked by a connection of its own: on another one the answer would come behind others.
        """
        places = [
            (self.target.topic(name), number)
            for name in (PLAIN, LOG)
            for number in range(self.target.partitions)
        ]
        while link.broken is None:
            pulse = asyncio.get_running_loop().create_task(link.offsets(places, -1, "pulse"))
            try:
                await asyncio.wait([pulse], timeout=SILENCE)
                if not pulse.done():  # this process may have stood still, and has yet to read the answer
                    await asyncio.sleep(READING)
                if not pulse.done():
                    link.end("no answer in time")
                elif (error := pulse.exception()) is not None:
                    link.end(str(error))
            finally:
                pulse.cancel()
            await asyncio.sleep(PULSE)

    def _lost(self, link: Any, reason: str) -> None:
        if self.stopped or link is not self.link:
            return
        self.link = None
        self.cut = True
        self.trouble = UNREACHABLE
        self._there.clear()
        self._lost_at = asyncio.get_running_loop().time()
        logger.warning("the connection to Kafka at %s is lost (%s); connecting again", self.target, reason)
        for reader in self.readers:
            reader.lose()
        self.spawn(self._come_back(link))

    async def _come_back(self, old: Any) -> None:
        await old.close()
        loop = asyncio.get_running_loop()
        outage = Outage("Kafka", logger)
        while True:
            try:
                await self._take(loop.time() - self._lost_at)
            except Exception as error:  # whatever it was, the next attempt may go well
                refused = isinstance(error, DialError) and error.weight > 0
                self.trouble = outage.failed(error, refused=refused)
            else:
                logger.warning("connected to Kafka at %s again", self.target)
                return
            await outage.pause()
