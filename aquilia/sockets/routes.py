"""Routes: what handles each event and each end of a connection, composed once, when the application boots."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from aquilia.di import Injection, Scope, ScopeContainer, Services
from aquilia.faults import Fault, FaultEngine
from aquilia.sockets.answers import fault_of
from aquilia.sockets.codecs import CODECS
from aquilia.sockets.connection import Connection, DisconnectReason
from aquilia.sockets.contract import EventContract, HookContract, SocketContract
from aquilia.sockets.declaration import Handler
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.faults import ws_overloaded
from aquilia.sockets.guards import Check, guard_checks, judge, passes
from aquilia.sockets.idempotence import Promises
from aquilia.sockets.metrics.figures import Distribution, Tally
from aquilia.sockets.middleware import Handle, wrap
from aquilia.sockets.session_saving import saving
from aquilia.source import SourceLocation

__all__ = ["Hook", "Route", "RouteCompiler", "connection_container", "timed"]

Asked = ParamSpec("Asked")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Route:
    """What handles one event."""

    handle: Handle
    where: str
    acks: bool
    """Every message needs an id, and is acked."""
    received: Tally | None = None
    handling: Distribution | None = None
    """Where its messages and the seconds of its handling are counted, if they are."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A method that runs when a connection opens or ends."""

    run: Callable[[Connection, DisconnectReason | None], Awaitable[None]]
    where: str
    location: SourceLocation


class RouteCompiler:
    """Composes, once, what handles each event: middleware, then guards, then schema, then the method."""

    def __init__(
        self,
        contract: SocketContract,
        services: Services,
        timeout: float | None,
        *,
        promises: Promises,
        engine: FaultEngine,
        sessions: bool = False,
    ) -> None:
        self._contract = contract
        self._services = services
        self._timeout = timeout
        self._sessions = sessions
        self._promises = promises
        self._engine = engine

    def hook(self, hook: HookContract) -> Hook:
        """Prepare a method that runs at an end of the connection."""
        run = _hooked(hook, self._services.injector(hook.dependencies, Scope.CONNECTION))
        if self._sessions:
            run = saving(run)
        if self._timeout is not None:
            run = timed(run, self._timeout, hook.handler.attribute)
        return Hook(run, _where(self._contract, hook.handler), hook.handler.location)

    def route(self, event: EventContract) -> Route:
        """Compose what handles one event."""
        handle, promised = self._call(event), event.declaration.delivery != "at_most_once"
        if promised:
            handle = self._promises.keyed(handle)
        if event.declaration.kind != "event":
            handle = _moving(handle, join=event.declaration.kind == "subscribe")
        if event.declaration.delivery == "effectively_once":
            # What it changes in the session is part of its effect, and saved before its answer is kept.
            handle = self._promises.once(saving(handle) if self._sessions else handle, self._judge(event))
        checks = self._checks(event)
        if checks:
            handle = _guarded(checks, handle)
        app, declared = self._contract.chain.message_middleware, self._contract.declaration.middleware
        for middleware in reversed((*app, *declared, *event.declaration.middleware)):
            handle = wrap(middleware, handle)
        if self._sessions:
            handle = saving(handle)
        if self._timeout is not None:
            handle = timed(handle, self._timeout, event.handler.attribute)
        if promised:
            handle = self._promises.kept(handle)
        return Route(handle, _where(self._contract, event.handler), event.declaration.ack)

    def _judge(self, event: EventContract) -> Callable[[Exception, Connection, MessageEnvelope], Fault]:
        where = _where(self._contract, event.handler)
        return lambda error, conn, envelope: fault_of(self._engine, error, where, conn, envelope)

    def _checks(self, event: EventContract) -> list[Check]:
        app, declared = self._contract.chain.guards, self._contract.declaration.guards
        checks = guard_checks((*app, *declared, *event.declaration.guards), "check_message")
        for guard in self._contract.guards:
            if guard.declaration.on == "message":
                checks.append((guard.declaration.priority, _method_check(guard.handler)))
        return [check for _, check in sorted(checks, key=lambda entry: entry[0])]

    def _call(self, event: EventContract) -> Handle:
        method = event.handler.function
        decoders = {name: codec.payload_decoder(event.payload) for name, codec in CODECS.items()}
        injection = self._services.injector(event.dependencies, Scope.REQUEST)
        if injection.needed:
            return _injected(method, decoders, injection, event.takes_payload)
        if not event.takes_payload:
            return lambda conn, envelope: method(conn._controller, conn)

        def call(conn: Connection, envelope: MessageEnvelope) -> Awaitable[Any]:
            answer: Awaitable[Any] = method(
                conn._controller, conn, decoders[conn._variant.codec](envelope.payload)
            )
            return answer

        return call


def _hooked(
    hook: HookContract, injection: Injection
) -> Callable[[Connection, DisconnectReason | None], Awaitable[None]]:
    method, takes_reason = hook.handler.function, hook.takes_reason

    async def run(conn: Connection, reason: DisconnectReason | None) -> None:
        arguments = {}
        if injection.needed:
            arguments = await injection.resolve(await connection_container(conn, injection.scope))
        await method(conn._controller, conn, *((reason,) if takes_reason else ()), **arguments)

    return run


def _injected(
    method: Callable[..., Any],
    decoders: dict[str, Callable[[Any], Any]],
    injection: Injection,
    takes_payload: bool,
) -> Handle:
    async def call(conn: Connection, envelope: MessageEnvelope) -> Any:
        payload = (decoders[conn._variant.codec](envelope.payload),) if takes_payload else ()
        if injection.scope is not Scope.REQUEST:
            arguments = await injection.resolve(await connection_container(conn, injection.scope))
            return await method(conn._controller, conn, *payload, **arguments)
        connection_scope = await conn._connection_scope()
        async with await connection_scope.enter(Scope.REQUEST, {MessageEnvelope: envelope}) as scope:
            return await method(conn._controller, conn, *payload, **await injection.resolve(scope))

    return call


async def connection_container(conn: Connection, scope: Scope) -> ScopeContainer:
    """The narrowest container that is needed: a connection's own is made only when something asks for it."""
    if scope is Scope.CONNECTION or scope is Scope.REQUEST:
        return await conn._connection_scope()
    container: ScopeContainer = conn._home.container
    return container


def _moving(handle: Handle, *, join: bool) -> Handle:
    """Put the connection into the rooms that a method returned, or take it out of them."""

    async def move(conn: Connection, envelope: MessageEnvelope) -> Any:
        rooms = await handle(conn, envelope)
        if rooms is None:
            return None
        for room in [rooms] if isinstance(rooms, str) else rooms:
            await (conn.join(room) if join else conn.leave(room))
        return rooms

    return move


def _guarded(checks: list[Check], handle: Handle) -> Handle:
    def guarded(conn: Connection, envelope: MessageEnvelope) -> Awaitable[Any]:
        rest = iter(checks)
        for check in rest:
            verdict = check(conn, envelope)
            if verdict is not True and verdict is not None:
                if inspect.isawaitable(verdict):
                    return _guard_on(conn, envelope, verdict, rest, handle)
                judge(verdict)
        return handle(conn, envelope)

    return guarded


async def _guard_on(
    conn: Connection,
    envelope: MessageEnvelope,
    verdict: Awaitable[Any],
    checks: Iterator[Check],
    handle: Handle,
) -> Any:
    """The rest of the guards, from the first that has to wait."""
    judge(await verdict)
    for check in checks:
        await passes(check, conn, envelope)
    return await handle(conn, envelope)


def _method_check(handler: Handler) -> Check:
    function = handler.function
    return lambda conn, envelope: function(conn._controller, conn, envelope)


def timed(
    run: Callable[Asked, Awaitable[Done]], seconds: float, name: str
) -> Callable[Asked, Awaitable[Done]]:
    """What runs the method of a controller, in so many seconds at most: beyond them it raises WS_OVERLOADED."""

    async def in_time(*args: Asked.args, **kwargs: Asked.kwargs) -> Done:
        try:
            async with asyncio.timeout(seconds) as timer:
                return await run(*args, **kwargs)
        except TimeoutError:
            if not timer.expired():
                raise
            raise ws_overloaded(f"{name} did not finish within {seconds:g} s") from None

    return in_time


def _where(contract: SocketContract, handler: Handler) -> str:
    return f"{contract.controller.__qualname__}.{handler.attribute}"
