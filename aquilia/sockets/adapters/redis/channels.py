"""Which channels are listened to, each at the server that has its share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aquilia.sockets.adapters.redis.calls import has_moved, is_for_later, not_allowed, refused
from aquilia.sockets.adapters.redis.dial import DialError
from aquilia.sockets.adapters.redis.link import Link, Refusal
from aquilia.sockets.adapters.redis.open_calls import OUTAGE, Way
from aquilia.sockets.faults import SocketFault, ws_adapter_unavailable

__all__ = ["Channels", "Receive"]

Receive = Callable[[bytes, bool], None]
"""Called with what was published, and whether it came by a way on which something before it may be missing, which
nobody has been told of yet."""
AGAIN = 0.1
"""Seconds after which a subscription that could not be made is looked at again."""


class _Channel:
    __slots__ = ("confirmed", "fresh", "link", "name", "receive", "share")

    def __init__(self, name: bytes, share: int, receive: Receive) -> None:
        self.name = name
        self.share = share
        self.receive = receive
        self.link: Link | None = None
        """Where the server was told."""
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.fresh = False
        """It was begun since something was lost, and that is not told yet."""


class Channels:
    """See the head of this module."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._channels: dict[bytes, _Channel] = {}
        self.open = False
        """What is to be listened to is told to a server at once; else when the way is made."""

    async def subscribe(self, name: bytes, share: int, receive: Receive) -> None:
        """Receive what is published there, from now on and on every later link; at once, in order.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE: it takes too long, or is not allowed.
        """
        way = self._way
        if way.stopped:
            raise ws_adapter_unavailable(f"the connection to {way.where} is not open")
        channel = self._channels[name] = _Channel(name, share, receive)
        if self.open:
            self._listen(channel, way.routes[share], fresh=way.cut)
        try:
            async with asyncio.timeout(OUTAGE):
                await self._confirmed(channel)
        except BaseException as error:
            if self._channels.get(name) is channel:
                self.unsubscribe(name)
            if isinstance(error, TimeoutError):
                raise ws_adapter_unavailable(f"{way.where} cannot be reached") from None
            raise

    async def _confirmed(self, channel: _Channel) -> None:
        while True:
            if self._channels.get(channel.name) is not channel:  # stopped meanwhile
                raise ws_adapter_unavailable(f"the connection to {self._way.where} was closed")
            try:
                return await asyncio.shield(channel.confirmed)
            except ConnectionError:
                await asyncio.sleep(AGAIN)  # on the next link
            except Refusal as error:
                if not is_for_later(error):
                    raise refused(error, self._way.where, self._way.target.prefix) from error
                await asyncio.sleep(AGAIN)

    def unsubscribe(self, name: bytes) -> None:
        """The opposite."""
        channel = self._channels.pop(name, None)
        if channel is not None and channel.link is not None:
            channel.link.unlisten(name)

    def heard(self, name: bytes, data: bytes) -> None:
        """Something came on a link."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.receive(data, channel.fresh)

    # While the way is made

    async def listen_anew(self, *, lost: bool) -> None:
        """Tell each server what is listened to there, and was not yet.

        Raises:
            DialError: it is not allowed any more.
            ConnectionError, Refusal: something has changed meanwhile.
        """
        begun: list[_Channel] = []
        for channel in self._channels.values():
            link = self._way.routes[channel.share]
            if channel.link is link:
                continue
            if channel.link is not None:
                channel.link.unlisten(channel.name)
                self._way.mend(lost=True)  # nobody may have noticed yet
                lost = True
            if channel.confirmed.done():
                channel.confirmed = asyncio.get_running_loop().create_future()
            self._listen(channel, link, fresh=lost)
            begun.append(channel)
        # From here on no room waits for the way to be whole: who joins and leaves all the time would never see it so.
        self.open = True
        waiting = [channel.confirmed for channel in begun]
        await asyncio.gather(*waiting, return_exceptions=True)
        for each in waiting:
            error = each.exception()
            if isinstance(error, Refusal) and not is_for_later(error):
                words = not_allowed(str(error), self._way.where, self._way.target.prefix)
                raise DialError(words, refused=True) from error
            if error is not None:
                raise error

    @property
    def settled(self) -> bool:
        """Whether every server was told what is listened to there."""
        return all(channel.link is not None for channel in self._channels.values())

    def told(self) -> None:
        """What was lost has been told."""
        for channel in self._channels.values():
            channel.fresh = False

    def has(self, link: Link) -> bool:
        """Whether anything is listened to on this link."""
        return any(channel.link is link for channel in self._channels.values())

    def ended(self, link: Link) -> None:
        """A link is over."""
        for channel in self._channels.values():
            if channel.link is link:
                channel.link = None

    def taken(self, link: Link, name: bytes) -> bool:
        """A server has a channel no more. Whether that matters to anybody."""
        channel = self._channels.get(name)
        if channel is None or channel.link is not link:
            return False
        channel.link = None
        return True

    def stop(self, fault: SocketFault) -> None:
        """End all of them."""
        self.open = False
        for channel in self._channels.values():
            _fail(channel.confirmed, fault)
        self._channels.clear()

    def _listen(self, channel: _Channel, link: Link, *, fresh: bool) -> None:
        channel.link, channel.fresh = link, fresh
        confirmed = channel.confirmed

        def answered(reply: Any) -> None:
            if confirmed.done():
                return
            if reply is True:
                confirmed.set_result(None)
                return
            if channel.link is link:
                channel.link = None
            refusal = isinstance(reply, Refusal)
            _fail(confirmed, reply if refusal else ConnectionResetError("the connection was lost"))
            if refusal and is_for_later(reply):
                self._way.mend(lost=has_moved(reply))

        link.listen(channel.name, answered)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # who waited for it may be gone
