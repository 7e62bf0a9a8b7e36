"""The way to Redis: a link to each server that has a share, and what is said and heard on them. It mends itself.

Whatever goes wrong (a link that ends, a share that has another server, a script that is not known any more), one task
makes things as they should be: it asks who has what, connects, listens, and says what waits, in the order in which it
was to be said. Where something may have been missed meanwhile, that is a loss, which is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from aquilia.sockets.adapters.outages import FIRST, LONGEST, UNREACHABLE, Outage
from aquilia.sockets.adapters.redis.calls import is_for_later, not_allowed
from aquilia.sockets.adapters.redis.channels import Channels
from aquilia.sockets.adapters.redis.dial import Address, DialError, dial, shown
from aquilia.sockets.adapters.redis.link import Link, Refusal, packed
from aquilia.sockets.adapters.redis.login import Login, login_of
from aquilia.sockets.adapters.redis.open_calls import OpenCalls
from aquilia.sockets.adapters.redis.posture import look_at
from aquilia.sockets.adapters.redis.scripts import ALL, Script
from aquilia.sockets.adapters.redis.topology import owners
from aquilia.sockets.adapters.redis.url import Target
from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["RedisConnection"]

logger = logging.getLogger("aquilia.sockets.redis")

CALM = 1.0
"""Seconds after which what goes wrong again is no repeat."""
LOOK = 0.25
"""Seconds between two looks at the links."""
SILENCE = 16
"""Looks in a row at which nothing has come, though an answer is due: then a link counts as lost. They are counted, so
that a process that stood still itself does not blame the server."""
IDLE = 4
"""Looks after which a link on which nothing comes is asked whether it is alive."""
PING = packed((b"PING",))


class RedisConnection:
    """See the head of this module."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on_lost: Callable[[], None] | None = None
        self.on_settling: Callable[[], Awaitable[None]] | None = None
        """Called on each new way, before anything that waits is said on it: it may `run_now`."""
        self.cut = False
        """From a loss until `on_lost` is called: what comes meanwhile is incomplete."""
        self.trouble: str | None = None
        """See the head of `adapters.base`."""
        self.stopped = True
        self.routes: Sequence[Link] = ()
        """By share."""
        self.channels = Channels(self)
        calls = self._calls = OpenCalls(self)
        self.run, self.repeat, self.send, self.deadline = calls.run, calls.repeat, calls.send, calls.deadline
        self._links: dict[Address, Link] = {}
        self._silent: dict[Link, tuple[int, int]] = {}
        """What had come at the last look, and for how many looks nothing has."""
        self._starting = False
        self._mending: asyncio.Task[None] | None = None
        self._mend_again = False
        self._mended_at = -CALM
        self._pause = 0.0
        self._looking: asyncio.TimerHandle | None = None

    @property
    def where(self) -> str:
        """What an operator calls it."""
        return f"Redis at {self.target}"

    @property
    def connected(self) -> bool:
        """See `Broker`."""
        return not self.cut and not self.stopped

    # Its life

    async def start(self) -> None:
        """Connect to all that is needed.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        self.cut = self._mend_again = self.stopped = False
        self._starting = True
        self.trouble = None
        try:
            await self._align()
            for address, link in self._links.items():
                await look_at(self.target, address, link)
            if not self._settled():
                raise DialError(f"the connection to {self.where} was lost again")
        except BaseException as error:
            await self.stop()
            if isinstance(error, DialError | ConnectionError | Refusal):
                raise ws_adapter_unavailable(str(error)) from error
            raise
        finally:
            self._starting = False
        self._open()
        self._watch()

    async def stop(self) -> None:
        """End it, and every command on it. Safe to call twice."""
        self.stopped = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait([self._mending])
            self._mending = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for link in list(self._links.values()):
            link.end()
        self._links.clear()
        self._silent.clear()
        self.routes = ()
        closed = ws_adapter_unavailable(f"the connection to {self.where} was closed")
        self._calls.stop(closed)
        self.channels.stop(closed)

    def _open(self) -> None:
        self.channels.open = True
        self._calls.say_waiting()

    def mend(self, *, lost: bool) -> None:
        """Make things as they should be; `lost`: something may have been missed."""
        self._mend_again = True
        if self.stopped or self._starting:
            return
        self._calls.open = self.channels.open = False
        if lost:
            self._lose()
        if self._mending is None or self._mending.done():
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    def _lose(self) -> None:
        if not self.cut:
            self.cut = True
            self.trouble = UNREACHABLE
            logger.warning("the connection to %s is lost, or rooms have moved; connecting again", self.where)

    async def _mend(self) -> None:
        loop = asyncio.get_running_loop()
        self._pause = min(LONGEST, self._pause * 2 or FIRST) if loop.time() - self._mended_at < CALM else 0.0
        await asyncio.sleep(self._pause)
        outage = Outage("Redis", logger)
        while not await self._mended(outage):
            await outage.pause()
        self._mended_at = loop.time()
        self.trouble = None
        if self.cut:
            logger.warning("connected to %s again", self.where)
            self.cut = False
            if self.on_lost is not None:
                self.on_lost()
            self.channels.told()
        self._open()

    async def _mended(self, outage: Outage) -> bool:
        self._mend_again = self.channels.open = False
        try:
            await self._align()
        except (DialError, ConnectionError, Refusal) as error:
            self.trouble = outage.failed(error, refused=isinstance(error, DialError) and error.refused)
            return False
        except Exception:  # whatever it was, the next attempt may go well
            logger.exception("the way to %s cannot be made, and is tried again", self.where)
            return False
        return not self._mend_again and self._settled()

    def _settled(self) -> bool:
        """Whether nothing has ended, or come up, while it was made."""
        return all(link.alive for link in self._links.values()) and self.channels.settled

    # Making it as it should be

    async def _align(self) -> None:
        try:
            login = await asyncio.to_thread(login_of, self.target)
        except ValueError as error:
            raise DialError(f"{self.where}: {error}", refused=True) from None
        addresses = await owners(self.target, self._links.values(), login)
        wanted = set(addresses)
        for address, link in list(self._links.items()):
            if address not in wanted or not link.alive:
                del self._links[address]
                self._silent.pop(link, None)
                if self.channels.has(
                    link
                ):  # another server was put in its place, and its end was not noticed
                    self._lose()
                link.end()
        await self._connect(wanted - self._links.keys(), login)
        self.routes = [self._links[address] for address in addresses]
        # Behind the answer to this, nothing that was said before is still to be answered.
        await asyncio.gather(*(self._teach(address, link) for address, link in self._links.items()))
        await self.channels.listen_anew(lost=self.cut)
        if self.on_settling is not None:
            await self.on_settling()

    async def _connect(self, addresses: set[Address], login: Login) -> None:
        opened = await asyncio.gather(
            *(self._connect_to(address, login) for address in addresses), return_exceptions=True
        )
        failures = [each for each in opened if each is not None]
        refusals = [each for each in failures if isinstance(each, DialError) and each.refused]
        if failures:
            raise (refusals or failures)[0]

    async def _connect_to(self, address: Address, login: Login) -> None:
        link = self._links[address] = await dial(self.target, address, login)
        link.on_message = self.channels.heard
        link.on_taken = partial(self._taken, link)
        link.on_end = partial(self._ended, link)
        if link.ended:
            raise ConnectionResetError("the connection was lost again")

    async def _teach(self, address: Address, link: Link) -> None:
        where = f"Redis at {shown(address)}"
        try:
            await asyncio.gather(*(link.ask("SCRIPT", "LOAD", script.source) for script in ALL))
        except Refusal as error:
            if str(error).startswith("NOPERM"):
                raise DialError(not_allowed(str(error), where, self.target.prefix), refused=True) from error
            raise DialError(f"{where} takes no scripts: {error}", refused=not is_for_later(error)) from error

    async def run_now(self, script: Script, share: int, keys: Sequence[bytes], *arguments: Any) -> Any:
        """What a script answers, while the way is being made.

        Raises:
            ConnectionError, Refusal: it does not.
        """
        return await self.routes[share].ask("EVALSHA", script.digest, len(keys), *keys, *arguments)

    def _ended(self, link: Link) -> None:
        """A link is over: what hung on it is begun anew, or fails."""
        self.channels.ended(link)
        if link in self._links.values():
            self.mend(lost=True)

    def _taken(self, link: Link, channel: bytes) -> None:
        if self.channels.taken(link, channel):
            self.mend(lost=True)

    # Looking after it

    def _watch(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        self._watch()
        self._calls.look()
        for link in list(self._links.values()):
            heard, silent = self._silent.get(link, (-1, 0))
            silent = silent + 1 if heard == link.heard else 0
            self._silent[link] = link.heard, silent
            if silent >= IDLE and not link.owed:
                link.say(PING, _nobody)
            elif silent >= SILENCE and link.owed:
                link.end()


def _nobody(reply: Any) -> None:
    """Nobody waits for it."""
