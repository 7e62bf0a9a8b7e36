"""What is said to Redis and not answered yet, in the order in which it was to be said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from aquilia.sockets.adapters.redis.calls import Call, has_moved, is_for_later, is_of_the_way, refused
from aquilia.sockets.adapters.redis.link import ENDED, Link, Refusal, packed
from aquilia.sockets.adapters.redis.scripts import Script
from aquilia.sockets.adapters.redis.url import Target
from aquilia.sockets.faults import SocketFault, ws_adapter_unavailable

__all__ = ["OUTAGE", "OpenCalls"]

OUTAGE = 5.0
"""Seconds that a command waits for its answer, or for the way to be there again."""
FAILOVER = 15.0
"""The same where another server may take over, for what may be said twice."""
SYNC = 1000
"""Milliseconds that replicas have, each time."""
AGAIN = 0.1
"""Seconds after which what a server will do later is said again."""


class Way(Protocol):
    """What they go over."""

    target: Target
    routes: Sequence[Link]
    """By share."""
    stopped: bool
    cut: bool
    """Something was lost, and that is not told yet."""

    @property
    def where(self) -> str:
        """What an operator calls it."""

    def mend(self, *, lost: bool) -> None:
        """Make it as it should be; `lost`: something may have been missed."""


class OpenCalls:
    """See the head of this module. While they are not `open`, they wait."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._calls: dict[int, Call] = {}
        self._number = 0
        self._unsynced: list[Call] = []
        self._syncing: asyncio.Handle | None = None
        self._again: asyncio.TimerHandle | None = None
        self.open = False

    async def run(
        self,
        script: Script,
        share: int,
        keys: Sequence[bytes],
        *arguments: bytes | str | int,
        until: float | None = None,
        synced: bool = False,
    ) -> Any:
        """What a script answers; it is one that may be run again. The same faults as `send`."""
        command = packed((b"EVALSHA", script.digest, len(keys), *keys, *arguments))
        return await self._call(Call(share, command, until or self.deadline(), again=True, synced=synced))

    async def repeat(self, share: int, *words: bytes | int | str) -> Any:
        """The answer to a command that may be said again. The same faults as `send`."""
        return await self._call(Call(share, packed(words), self.deadline(), again=True, synced=False))

    async def send(self, share: int, *words: bytes) -> Any:
        """The answer to a command that is said once.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: no answer in time, or the way is lost, and it may have been done;
                WS_PUBLISH_FAILED: the server refuses it.
        """
        until = asyncio.get_running_loop().time() + OUTAGE
        return await self._call(Call(share, packed(words), until, again=False, synced=False))

    def deadline(self) -> float:
        """Until when, by the loop's time, something that begins now and may be said again is tried."""
        takes = OUTAGE if self._way.target.mode == "single" else FAILOVER
        return asyncio.get_running_loop().time() + takes

    def say_waiting(self) -> None:
        """Say what waits; what comes behind it goes out at once."""
        self.open = True
        for call in list(self._calls.values()):
            if call.link is None and not call.future.done():
                self._say(call)

    def look(self) -> None:
        """Give up what has waited for too long."""
        now = asyncio.get_running_loop().time()
        for call in list(self._calls.values()):
            if now >= call.until:
                call.fail(self._too_late(call, now - call.began))

    def _too_late(self, call: Call, took: float) -> Exception:
        if call.why is not None:
            return refused(call.why, self._way.where, self._way.target.prefix)
        return ws_adapter_unavailable(f"{self._way.where} did not answer within {round(took, 1):g} s")

    def stop(self, fault: SocketFault) -> None:
        """End all of them."""
        self.open = False
        if self._syncing is not None:
            self._syncing.cancel()
            self._syncing = None
        self._unsynced.clear()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for call in list(self._calls.values()):
            call.fail(fault)

    async def _call(self, call: Call) -> Any:
        if self._way.stopped:
            raise ws_adapter_unavailable(f"the connection to {self._way.where} is not open")
        number = self._number = self._number + 1
        self._calls[number] = call
        if self.open:
            self._say(call)
        try:
            return await call.future
        finally:
            del self._calls[number]

    def _say(self, call: Call) -> None:
        link = call.link = self._way.routes[call.share]
        synced = call.synced and self._way.target.replicas > 0

        def answered(reply: Any) -> None:
            if call.future.done():
                return
            if reply is ENDED:
                self._unanswered(call)
            elif reply.__class__ is Refusal:
                self._refused(call, reply)
            elif synced:
                call.held = reply
            else:
                call.future.set_result(reply)

        link.say(call.command, answered)
        if synced:
            self._unsynced.append(call)
            if self._syncing is None:
                self._syncing = asyncio.get_running_loop().call_soon(self._sync)

    def _unanswered(self, call: Call) -> None:
        call.link, call.held = None, None
        if not call.again:
            where = self._way.where
            call.fail(ws_adapter_unavailable(f"the connection to {where} was lost: it may have been done"))

    def _refused(self, call: Call, refusal: Refusal) -> None:
        if not is_for_later(refusal):
            call.fail(refused(refusal, self._way.where, self._way.target.prefix))
            return
        call.link, call.why = None, refusal
        if is_of_the_way(refusal):
            self._way.mend(lost=has_moved(refusal))
        else:
            self._say_later()

    def _say_later(self) -> None:
        """The others go on: what one waits for is none of theirs."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN, self._say_again)

    def _say_again(self) -> None:
        self._again = None
        if self.open:
            self.say_waiting()

    # Replicas

    def _sync(self) -> None:
        """Behind what was said in this turn, ask how many replicas have it."""
        self._syncing = None
        by_link: dict[Link, list[Call]] = {}
        for call in self._unsynced:
            if call.link is not None:
                by_link.setdefault(call.link, []).append(call)
        self._unsynced.clear()
        wait = packed((b"WAIT", self._way.target.replicas, SYNC))
        for link, calls in by_link.items():
            link.say(wait, partial(self._synced, link, calls))

    def _synced(self, link: Link, calls: Sequence[Call], reply: Any) -> None:
        waiting = [call for call in calls if call.link is link and not call.future.done()]
        if isinstance(reply, int) and reply >= self._way.target.replicas:
            for call in waiting:
                call.future.set_result(call.held)
            return
        if isinstance(reply, Refusal) and not is_for_later(reply):
            for call in waiting:
                call.fail(refused(reply, self._way.where, self._way.target.prefix))
            return
        for call in waiting:
            call.link, call.held = None, None
            if isinstance(reply, int):
                call.why = Refusal(f"NOREPLICAS {reply} of {self._way.target.replicas} replicas have it")
        if waiting and reply is not ENDED:
            self._say_later()
