"""The half of a client that drives its session: it dials, waits, asks for tokens, and tells what came."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aquilia.client.conversation import Conversation
from aquilia.client.faults import ConnectionEnded
from aquilia.client.link import Dialer, Link
from aquilia.client.listening import Listening
from aquilia.client.notices import State
from aquilia.client.reading import Arrived
from aquilia.client.steps import Answered, CallFailed, Phase, TokenWanted
from aquilia.client.streams import Arrival, Signal
from aquilia.clock import Clock

__all__ = ["Driving", "Ticket", "Token"]

logger = logging.getLogger("aquilia.client")

LONGEST_TIMER = 3600.0
"""Seconds: who is told of a moment beyond it looks again then."""

Token = str | Callable[[], str | Awaitable[str | None] | None] | None
"""A token, or what gives one for each attempt to connect."""
Ticket = Callable[[], str | Awaitable[str | None] | None] | None
"""What gives a ticket for each attempt to connect: it is for one handshake."""


class _NoToken(TypeError):
    """What the function gave is none."""


class Driving(Listening):
    """What goes on in a client by itself, from `connect` to `close`."""

    _token: Token
    _ticket: Ticket
    _shown: str | None
    """The token for the next attempt, whatever else there is."""
    _clock: Clock
    _close_timeout: float
    _dialer: Dialer
    _stirred: Signal
    _written: Signal
    _calls: dict[str, asyncio.Future[Any]]
    _timer: asyncio.TimerHandle | None
    _conversation: Conversation | None
    _renewing: asyncio.Task[None] | None
    _failures: int
    """How often the function for tokens or tickets has failed since it last gave one."""

    def _now(self) -> float:
        return self._clock.monotonic()

    def _pump(self) -> None:
        """Carry out what the session wants after a step."""
        for event in self._session.take_events():
            if isinstance(event, Answered):
                self._answered(event.id, event.data)
            elif isinstance(event, CallFailed):
                self._answered(event.id, event.fault)
            elif isinstance(event, TokenWanted):
                self._renewing = asyncio.create_task(self._renew(event.link), name="aquilia client: token")
            elif isinstance(event, Arrived):
                arrival = Arrival(event.envelope, self._session.link)
                if event.envelope.ack:
                    self._desk.answer(arrival)
                else:
                    self._offer(event.envelope.event, arrival)
            else:
                self._offer(type(event), event)
                if isinstance(event, State):
                    self._written.fire()  # who waits for room in the queue looks whether there is a link
        if self._conversation is not None:
            self._conversation.leave()
        self._set_timer()
        self._stirred.fire()

    def _answered(self, id: str, outcome: Any) -> None:
        call = self._calls.get(id)
        if call is not None and not call.done():
            if isinstance(outcome, Exception):
                call.set_exception(outcome)
            else:
                call.set_result(outcome)

    def _offer(self, what: Any, item: Any) -> None:
        heard = self._desk.offer(what, item)
        for stream in list(self._streams):
            if stream._wants(what):
                stream._offer(item)
                heard = True
        if not heard:
            logger.debug("nobody listens to %s", what)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._session.deadline()
        if moment is not None:
            delay = min(max(0.0, moment - self._now()), LONGEST_TIMER)
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._session.tick(self._now())
        self._pump()

    async def _run(self) -> None:
        try:
            await self._stay_connected()
        except Exception as error:
            logger.exception("the client of %s failed", self._dialer.name)
            self._session.fail(error, self._now())
        finally:
            self._session.close(self._now())
            self._session.lost(1000, "", self._now())
            self._pump()
            if self._timer is not None:
                self._timer.cancel()
            for stream in list(self._streams):
                stream._end(self._session.ended)
            self._desk.end()

    async def _stay_connected(self) -> None:
        while self._session.phase is not Phase.CLOSED:
            if self._session.phase is Phase.DIALING:
                await self._attempt()
                self._pump()
            else:
                await self._stirred.wait()

    async def _attempt(self) -> None:
        try:
            token = None if self._shown or self._ticket else await self._fresh_token()
            ticket = None if self._shown else await self._fresh_ticket()
        except _NoToken as error:
            self._session.unusable(ConnectionEnded(f"no {self._wanted} was to be had: {error}"), self._now())
            return
        except Exception as error:
            self._session.unreachable(f"no {self._wanted} was to be had: {error!r}", self._now(), cause=error)
            return
        link = await self._dialer.dial(self._session)
        if link is not None:
            # Behind the dial: one may have been shown meanwhile.
            token, self._shown = self._shown or token, None
            await self._converse(link, token, None if token else ticket)

    @property
    def _wanted(self) -> str:
        return "token" if self._ticket is None else "ticket"

    async def _fresh_token(self) -> str | None:
        return await (self._asked(self._token) if callable(self._token) else _text(self._token))

    async def _fresh_ticket(self) -> str | None:
        return None if self._ticket is None else await self._asked(self._ticket)

    async def _asked(self, function: Callable[[], Any]) -> str | None:
        """What the function gives. That it fails is logged once, until it works again."""
        try:
            given = await _text(function())
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                logger.warning("%s gave no %s: %r", _name(function), self._wanted, error)
            raise
        if self._failures:
            told = "%s gives %ss again, after %d failures"
            logger.info(told, _name(function), self._wanted, self._failures)
            self._failures = 0
        return given

    async def _renew(self, link: int) -> None:
        token = None
        with contextlib.suppress(Exception):  # the link is good for a while yet
            token = await self._fresh_token()
        self._session.renew(link, token, self._now())
        self._pump()

    async def _converse(self, link: Link, token: str | None, ticket: str | None) -> None:
        self._conversation = Conversation(
            link,
            self._session,
            clock=self._clock,
            step=self._pump,
            backlog=self._backlog,
            stirred=self._stirred,
            written=self._written,
            read=self._read,
            leave_within=self._close_timeout,
        )
        try:
            await self._conversation.hold(token, ticket)
        finally:
            if self._renewing is not None:
                self._renewing.cancel()
                await asyncio.wait([self._renewing])
                self._renewing = None
            self._conversation = None

    def _backlog(self) -> float:
        return max([self._desk.backlog(), *(stream._backlog() for stream in self._streams)])


def _name(function: Callable[[], Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


async def _text(given: Any) -> str | None:
    if inspect.isawaitable(given):
        given = await given
    if given is not None and not isinstance(given, str):
        raise _NoToken(f"its function gives a string, or None, not {type(given).__name__}")
    return given
