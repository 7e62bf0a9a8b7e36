"""The opening of a connection: one handshake, from the door to the dispatcher.

Its order: rate of handshakes, host, origin, path, number of connections, subprotocol, handshake middleware,
authentication, guards, upgrade. Whoever is not let in is told by an HTTP response, or by a close code where that is
all that the client could see.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.aquilary import App
from aquilia.controller import RequestCtx
from aquilia.di import ScopeContainer
from aquilia.exchange import route_path
from aquilia.faults import Fault, FaultEngine
from aquilia.middleware import Endpoint, compose, split
from aquilia.patterns import PatternTable
from aquilia.sockets.answers import come_back
from aquilia.sockets.codecs import codec as codec_named
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.envelope import Profile
from aquilia.sockets.faults import (
    CloseCode,
    ws_namespace_not_found,
    ws_overloaded,
    ws_quota_exceeded,
    ws_rate_limit_exceeded,
)
from aquilia.sockets.flow import FlowDispatcher
from aquilia.sockets.flow_request import FlowRequest
from aquilia.sockets.handshake.authentication import Arrival, Threshold, check_identity
from aquilia.sockets.handshake.offered_credentials import carriers, withdraw
from aquilia.sockets.handshake.refusal import Door, Refusals, admitted, upgrade_headers
from aquilia.sockets.handshake.request import Handshake, check_any_origin, check_host, check_origin, credible
from aquilia.sockets.hub import Hub
from aquilia.sockets.limits.identity_rates import IdentityRates
from aquilia.sockets.limits.quotas import Quotas, Seat
from aquilia.sockets.limits.rates import bucket_for
from aquilia.sockets.metrics.connection import MeasuredConnection
from aquilia.sockets.metrics.recorder import Recorder
from aquilia.sockets.namespaces import Namespaces
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.outbox.queue import Outbox
from aquilia.sockets.outbox.spooling import SpoolingOutbox
from aquilia.sockets.revocation import Revocations
from aquilia.sockets.settings import NodeSettings
from aquilia.sockets.tasks import TaskSet, own_error
from aquilia.sockets.transports.asgi import ASGITransport
from aquilia.sockets.transports.base import Transport

__all__ = ["Entrance"]

logger = logging.getLogger("aquilia.sockets")

_ADMISSION = "aquilia.admission"


@dataclass(slots=True)
class _Served:
    """A controller, ready to be connected to."""

    app: App
    contract: SocketContract
    dispatcher: Dispatcher | FlowDispatcher
    threshold: Threshold
    chain: Endpoint
    resumes: bool
    """Whether clients of v1 may come back to their sessions."""
    told: bool = False
    """Whether the log says that this server does not compress for us."""
    connections: int = 0


@dataclass(slots=True)
class _Admission:
    """A handshake on its way, as the chain's endpoint leaves it."""

    handshake: Handshake
    served: _Served
    v1: bool
    home: Home | None = None
    request: FlowRequest | None = None
    """What the controller's function sees of it, where it has one."""
    verdict: Fault | None = None
    """Why the client may not stay, unless it says in `hello` who it is."""
    seat: Seat | None = None


class Entrance:
    """Where clients come in, for all controllers of the process. It is closed until `open` says otherwise."""

    def __init__(
        self,
        *,
        node: NodeSettings,
        hub: Hub,
        namespaces: Namespaces,
        engine: FaultEngine,
        recorder: Recorder,
        tasks: TaskSet,
        absence: Callable[[], float | None],
        revocations: Revocations | None = None,
        identity_rates: IdentityRates | None = None,
    ) -> None:
        self.open = False
        self.apps: dict[str, ScopeContainer] = {}
        """The containers of the manifests."""
        self.connections = 0
        """Those that are here or on their way in."""
        self._node = node
        self._hub = hub
        self._namespaces = namespaces
        self._recorder = recorder
        self._refusals = Refusals(engine, recorder, hub.audit, absence)
        self._quotas = Quotas(node, hub.clock, recorder)
        self._tasks = tasks
        self._absence = absence
        """Seconds until the next process serves; None while this one does not leave."""
        self._revocations = revocations
        self._identity_rates = identity_rates
        self._carriers = carriers(tickets=node.tickets is not None, query_token=node.query_token)
        self._table: PatternTable[_Served] = PatternTable()
        self._served: dict[str, _Served] = {}

    def serve(self, app: App, contract: SocketContract, dispatcher: Dispatcher | FlowDispatcher) -> None:
        """Let clients in to a controller."""
        served = self._served[contract.declaration.path] = _Served(
            app,
            contract,
            dispatcher,
            Threshold(contract),
            compose(split(app.middleware).chain, self._admit, answer=self._refusals.response),
            isinstance(dispatcher, Dispatcher) and contract.settings.resume,
        )
        self._namespaces.prepare(contract)
        self._table.add(contract.declaration.path, served, where=str(contract.location))

    def tell_of_compression(self, why: str) -> None:
        """Warn of each controller that wants compression, and does not get it here; once for each."""
        for served in self._served.values():
            _tell_of_compression(served, why)

    def left(self, conn: Connection) -> None:
        """A connection has gone."""
        self._count(self._served[conn._home.pattern], -1)
        self._quotas.left(conn)

    async def turn_away(self, scope: ASGIScope, receive: Receive, send: Send, error: Exception) -> None:
        """Refuse a client, whoever it is."""
        withdraw(scope, self._carriers)
        await self._refusals.refuse(Door(scope, receive, send, "none"), error, by_close=False)

    async def enter(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """One handshake, whose `websocket.connect` has been received; the connection too, where it takes a task."""
        carried = withdraw(scope, self._carriers)
        connection = HTTPConnection(scope)
        path = route_path(scope)
        match = self._table.match(path)
        door = Door(scope, receive, send, match.pattern.source if match else "none", carried)
        if wait := self._quotas.knock(scope):
            too_often = ws_rate_limit_exceeded("too many handshakes from this address")
            await self._refusals.limit(door, "handshake_rate", too_often, retry_after=wait)
            return
        try:
            check_host(connection, self._node.allowed_hosts)
            if match is not None:
                origins = match.value.contract.settings.allowed_origins
                check_origin(connection, origins)
                connection = credible(connection, origins)
            else:
                rules = (each.contract.settings.allowed_origins for each in self._served.values())
                check_any_origin(connection, rules)
        except Fault as fault:
            await self._refusals.refuse(door, fault, by_close=False)
            return
        if match is None:
            await self._refusals.refuse(door, ws_namespace_not_found(path[:200]))
        elif self._is_full(match.value):
            await self._refusals.limit(door, "max_connections", ws_overloaded("too many connections"))
        elif self._quotas.is_full(scope):
            too_many = ws_quota_exceeded(f"at most {self._quotas.per_address} connections from one address")
            await self._refusals.limit(door, "max_connections_per_address", too_many)
        else:
            await self._let_in(
                door, match.value, RequestCtx(connection, path=match.path, path_params=match.params)
            )

    async def _let_in(self, door: Door, served: _Served, ctx: RequestCtx) -> None:
        """Ask middleware and guards, upgrade, and serve."""
        try:
            profile, subprotocol = served.dispatcher.negotiate(door.offered)
        except Fault as fault:
            await self._refusals.refuse(door, fault)
            return
        handshake = Handshake(ctx.request, ctx.path, ctx.path_params, subprotocol, _carried=door.carried)
        admission = ctx.state[_ADMISSION] = _Admission(handshake, served, profile.v1)
        admission.seat = self._quotas.seat(door.scope, door.pattern)
        conn = None
        self._count(served, 1)
        try:
            response = await served.chain(ctx)
            if response.status_code == 101 and admission.home is None:
                error = RuntimeError("a middleware answered 101, which only `call_next` can")
                response = self._refusals.response(error, pattern=door.pattern)
            if response.status_code != 101:
                await self._refusals.send(door, response, identity=handshake.identity)
                return
            await self._upgrade(door, admission, response)
            if not self.open:  # the end came while the upgrade was being sent
                reason = come_back(self._absence() or 0.0)
                close = {"type": "websocket.close", "code": int(CloseCode.RESTART), "reason": reason}
                await door.send(close)
                return
            transport: Any
            if door.native is not None:
                transport = door.native.attach()
            else:
                binary = None if admission.request is not None else codec_named(profile.codec).binary
                transport = ASGITransport(door.receive, door.send, binary=binary, tasks=self._tasks)
            conn = self._connect(admission, profile, transport)
            self._quotas.keep(conn, admission.seat)
            subject: Any = conn
            if admission.request is not None:
                subject = admission.request
                subject._open(conn)
        finally:
            if conn is None:  # else it is counted out, and its namespace released, when it has gone
                self._count(served, -1)
                self._release(admission)
                if admission.seat is not None:
                    admission.seat.leave()
        if door.native is not None:
            transport.start(served.dispatcher, subject)
        else:
            await transport.serve(served.dispatcher, subject)

    async def _upgrade(self, door: Door, admission: _Admission, response: Response) -> None:
        if door.native is not None:
            settings = admission.served.contract.settings
            door.native.max_message_size = settings.max_message_size
            door.native.max_fragments = settings.max_fragments
            door.native.ping_timeout = self._node.ping_timeout
            door.native.compression = settings.compression
            meter = self._recorder.meter(door.pattern)
            door.native.counted = None if meter is None else meter.deflated
        else:
            _tell_of_compression(admission.served, "under this server, which compresses, or not, by its own")
        await door.send(
            {
                "type": "websocket.accept",
                "subprotocol": admission.handshake.subprotocol,
                "headers": upgrade_headers(response),
            }
        )
        self._recorder.handshake(door.pattern, "accepted")

    def _is_full(self, served: _Served) -> bool:
        limit = served.contract.settings.max_connections
        return self.connections >= self._node.max_connections or (
            limit is not None and served.connections >= limit
        )

    def _count(self, served: _Served, change: int) -> None:
        self.connections += change
        served.connections += change

    async def _admit(self, ctx: RequestCtx) -> Response:
        """The end of the handshake middleware: open the namespace, and ask the guards."""
        admission: _Admission = ctx.state[_ADMISSION]
        self._release(admission)  # a middleware may ask twice
        served, handshake = admission.served, admission.handshake
        handshake.identity, handshake.session = ctx._identity, ctx.session
        try:
            may_wait = await self._ask(ctx, admission)
            self._require_open()
            admission.home = await self._namespaces.acquire(
                served.contract,
                self.apps[served.app.manifest.name],
                handshake.namespace,
                handshake.path_params,
            )
            self._require_open()
            self._require_place(admission.home)
            if admission.verdict is None:  # else the controller's own guards wait as well
                admission.verdict = await served.threshold.ask_methods(
                    handshake, admission.home.controller, may_wait=may_wait
                )
            if isinstance(served.dispatcher, FlowDispatcher):
                offered = ctx.request.scope.get("subprotocols") or []
                admission.request = served.dispatcher.begin(handshake, offered)
                await served.dispatcher.decided(admission.request)
                self._require_open()
        except (Exception, asyncio.CancelledError) as error:
            where = f"handshake of {served.contract.controller.__qualname__}"
            about = {"pattern": served.contract.declaration.path, "namespace": handshake.namespace}
            return self._refusals.response(own_error(error), where, **about)
        return admitted()

    async def _ask(self, ctx: RequestCtx, admission: _Admission) -> bool:
        """Authenticate, and ask the guards: see `_identify`.

        Nobody waits for ever for those who decide: a client on its way in takes the place of another.
        """
        threshold, seconds = admission.served.threshold, self._node.handshake_timeout
        try:
            async with asyncio.timeout(seconds) as timer:
                may_wait = await self._identify(ctx, admission)
                if admission.seat is not None:
                    resumes = admission.v1 and admission.served.resumes
                    admission.seat.claim(admission.handshake.identity, may_wait=resumes)
                admission.verdict = await threshold.ask_guards(admission.handshake, may_wait=may_wait)
        except TimeoutError:
            if not timer.expired():
                raise
            where = f"the handshake of {admission.served.contract.controller.__qualname__}"
            raise ws_overloaded(f"{where} took longer than {seconds:g} s") from None
        return may_wait

    async def _identify(self, ctx: RequestCtx, admission: _Admission) -> bool:
        """Authenticate by what the handshake brought. Whether the client may still say in `hello` who it is."""
        threshold, handshake = admission.served.threshold, admission.handshake
        check_identity(handshake.identity)
        had_token = await threshold.identify(handshake, ctx.request.scope.get("subprotocols") or ())
        if handshake.identity is None:
            handshake.identity = ctx.identity  # of the session: it gives way to a token
        ctx.identity = handshake.identity
        if self._revocations is not None:
            await self._revocations.require(None if had_token else handshake.identity, handshake.session)
        return admission.v1 and threshold.takes_credentials and not had_token and handshake.identity is None

    def _release(self, admission: _Admission) -> None:
        request, admission.request = admission.request, None
        if request is not None:
            request._abandon()
        home, admission.home = admission.home, None
        if home is not None:
            self._namespaces.release(home)

    def _require_place(self, home: Home) -> None:
        limit = home.settings.max_connections_per_namespace
        if limit is not None and home.users > limit:
            self._recorder.limited(home.pattern, "max_connections_per_namespace")
            raise ws_overloaded("too many connections of this namespace")

    def _require_open(self) -> None:
        if not self.open:
            raise ws_overloaded("the server stops")

    def _outbox(self, home: Home) -> Outbox:
        limits = home.settings.backpressure
        return SpoolingOutbox(limits, self._node.spool_bytes) if home.spools else Outbox(limits)

    def _connect(self, admission: _Admission, profile: Profile, transport: Transport) -> Connection:
        """The upgrade is done: from here on the connection is counted, and its dispatcher has it."""
        home = admission.home
        assert home is not None
        kind = Connection if home.meter is None else MeasuredConnection
        conn = kind(
            id=secrets.token_urlsafe(12),
            handshake=admission.handshake,
            profile=profile,
            codec=codec_named(profile.codec),
            transport=transport,
            outbox=self._outbox(home),
            hub=self._hub,
            home=home,
        )
        bucket = bucket_for(conn, home.settings.message_rate_limit, home.settings.byte_rate_limit)
        rates = self._identity_rates
        conn._bucket = bucket if rates is None else rates.bucket(conn, bucket)
        if home.spools and self._hub.spool is not None:
            self._hub.spool.attach(conn)
        self._hub.bind(conn, admission.handshake._bound_to)
        if profile.v1:
            self._hub.expect(conn)
        else:
            self._hub.add(conn)
        self._recorder.opened(home.pattern)
        arrival = None
        threshold, seat = admission.served.threshold, admission.seat
        if profile.v1 and (threshold.takes_credentials or (seat is not None and seat.waits)):
            arrival = Arrival(
                threshold,
                admission.handshake,
                home.controller,
                admission.verdict,
                seat,
                admission.served.resumes,
            )
        admission.served.dispatcher.on_open(conn, arrival)
        return conn


def _tell_of_compression(served: _Served, why: str) -> None:
    """Under any other server that is the server's matter: nothing is ignored in silence."""
    if served.contract.settings.compression is not None and not served.told:
        served.told = True
        logger.warning("%s: compression: has no effect %s", served.contract.declaration.path, why)
