"""`AquilaSockets`: the socket subsystem as an ASGI application, alone or mounted in another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.aquilary import App, BootError, Problem, Registry
from aquilia.controller import RequestCtx
from aquilia.di import Scope, ScopeContainer, Services
from aquilia.exchange import route_path
from aquilia.faults import Fault, FaultEngine
from aquilia.manifest import AppManifest
from aquilia.middleware import Endpoint, compose, split
from aquilia.patterns import PatternTable
from aquilia.sockets.adapters.base import Adapter
from aquilia.sockets.adapters.inmemory import InMemoryAdapter
from aquilia.sockets.codecs import codec as codec_named
from aquilia.sockets.connection import Connection
from aquilia.sockets.contract import SocketContract, guard_checks
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.faults import (
    CloseCode,
    ws_internal_error,
    ws_namespace_not_found,
    ws_overloaded,
)
from aquilia.sockets.guards import Check, passes
from aquilia.sockets.handshake import Handshake, check_host, check_origin, choose_profile, wants_v1
from aquilia.sockets.hub import Home, Hub
from aquilia.sockets.limits import TokenBucket
from aquilia.sockets.namespaces import Namespaces
from aquilia.sockets.outbox import Outbox
from aquilia.sockets.plan import PROVIDED, SocketPlan
from aquilia.sockets.recorder import Counters, Recorder
from aquilia.sockets.tasks import TaskSet
from aquilia.sockets.transports.asgi import ASGITransport

__all__ = ["AquilaSockets"]

logger = logging.getLogger("aquilia.sockets")

SHUTDOWN_GRACE = 10.0
"""Seconds that handlers may still run when the application stops."""

_CLOSE_FOR_STATUS = {
    400: CloseCode.BAD_HELLO,
    401: CloseCode.UNAUTHENTICATED,
    403: CloseCode.FORBIDDEN,
    404: CloseCode.NO_NAMESPACE,
}


@dataclass(slots=True)
class _Served:
    """A controller, ready to be connected to."""

    app: App
    contract: SocketContract
    dispatcher: Dispatcher
    checks: list[Check]
    chain: Endpoint | None = None
    connections: int = 0


@dataclass(slots=True)
class _Admission:
    """A handshake on its way, as the chain's endpoint leaves it."""

    handshake: Handshake
    served: _Served
    home: Home | None = None


class AquilaSockets:
    """Serves the socket controllers of a registry. An ASGI application for WebSocket scopes, and for lifespan.

    Alone: `uvicorn module:app`. Mounted in FastAPI, Starlette or any ASGI host: `app.mount("/ws", sockets)`; give
    the host `lifespan=sockets.lifespan`, or else it starts at the first connection.

    Raises:
        BootError: with every problem of the controllers.
        DIError: with every problem of their services.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        plan: SocketPlan | None = None,
        services: Services | None = None,
        engine: FaultEngine | None = None,
        recorder: Recorder | None = None,
        adapter: Adapter | None = None,
        development: bool = False,
    ) -> None:
        problems: list[Problem] = []
        self.plan = plan or SocketPlan.read(registry, problems)
        if problems:
            raise BootError(problems)
        self._owns_services = services is None
        self.services = services or Services.build(
            [service for app in registry.apps for service in app.services],
            self.plan.consumers(),
            provided=PROVIDED,
        )
        self.recorder = recorder or Counters()
        self._adapter = adapter or InMemoryAdapter()
        self._engine = engine or FaultEngine()
        self.hub = Hub(self._adapter.broker)
        self._tasks = TaskSet()
        self._namespaces = Namespaces(
            self.hub, self.services, self.recorder, self._tasks, limit=self.plan.node.max_namespaces
        )
        self._table: PatternTable[_Served] = PatternTable()
        self._apps: dict[str, ScopeContainer] = {}
        self._connections = 0
        self._started = False
        self._starting = asyncio.Lock()
        for app, contract in self.plan.contracts:
            self._serve_contract(app, contract, development)

    @classmethod
    def from_controllers(
        cls,
        controllers: Sequence[type],
        *,
        services: Sequence[Any] = (),
        middleware: Sequence[Any] = (),
        development: bool = False,
        **settings: Any,
    ) -> AquilaSockets:
        """Serve these controllers without a manifest; `settings` are those of `AppManifest(websockets={…})`."""
        manifest = AppManifest(
            "sockets", controllers=controllers, services=services, middleware=middleware, websockets=settings
        )
        return cls(Registry.build([manifest]), development=development)

    def _serve_contract(self, app: App, contract: SocketContract, development: bool) -> None:
        dispatcher = Dispatcher(
            contract,
            self.services,
            node=self.plan.node,
            engine=self._engine,
            tasks=self._tasks,
            ends=self,
            development=development,
        )
        checks = guard_checks(contract.declaration.guards, "check_handshake")
        served = _Served(
            app, contract, dispatcher, [c for _, c in sorted(checks, key=lambda entry: entry[0])]
        )
        served.chain = compose(split(app.middleware).chain, self._admit, answer=self._refusal)
        self._namespaces.prepare(contract)
        self._table.add(contract.declaration.path, served, where=str(contract.location))

    # The life of the application

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Start and stop with the host application: `FastAPI(lifespan=sockets.lifespan)`."""
        await self.startup()
        try:
            yield
        finally:
            await self.shutdown()

    async def startup(self, apps: Mapping[str, ScopeContainer] | None = None) -> None:
        """Connect the broker. `apps` are the manifests' containers, where the host has opened them already."""
        async with self._starting:
            if self._started:
                return
            if self._owns_services:
                await self.services.open()
                for app in self.plan.registry.apps:
                    self._apps[app.manifest.name] = await self.services.root.enter(Scope.APP)
            else:
                self._apps = dict(apps or {})
            await self.hub.start()
            self._started = True

    async def shutdown(self) -> None:
        """End every connection with 1012, let the handlers finish, and give everything back."""
        async with self._starting:
            if not self._started:
                return
            self._started = False
            for home in self.hub.homes.values():
                for conn in list(home.connections.members.values()):
                    conn._end(CloseCode.RESTART, "the server restarts")
            await self._tasks.settle(SHUTDOWN_GRACE)
            await self._namespaces.close()
            await self.hub.stop()
            if self._owns_services:
                for container in self._apps.values():
                    await container.aclose()
                await self.services.aclose()
            self._apps = {}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] == "websocket":
            await self._open(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        else:
            await _json_response(
                404, {"code": "HTTP_NOT_FOUND", "message": "only WebSockets are served here"}
            )(scope, receive, send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.startup()
        except Exception as error:
            logger.exception("the sockets cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    # The opening of a connection

    async def _open(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await self.startup()
        connection = HTTPConnection(scope)
        path = route_path(scope)
        match = self._table.match(path)
        offered: list[str] = scope.get("subprotocols") or []
        pattern = match.pattern.source if match else "none"
        ctx = RequestCtx(connection, path=path, path_params=match.params if match else {})
        before_upgrade, response = False, None
        admission: _Admission | None = None
        try:
            origins = (match.value.contract.settings if match else self.plan.node.sockets).allowed_origins
            before_upgrade = True
            check_host(connection, self.plan.node.allowed_hosts)
            check_origin(connection, origins)
            if match is None:
                before_upgrade = False
                raise ws_namespace_not_found(path[:200])
            self._check_room(match.value)
            before_upgrade = False
            profile, subprotocol = choose_profile(offered, match.value.contract.settings.subprotocols)
            admission = _Admission(Handshake(connection, match.path, match.params, subprotocol), match.value)
        except Fault as fault:
            response = self._refusal(fault, "handshake")
        self._connections += 1
        if match is not None:
            match.value.connections += 1
        try:
            if admission is not None:
                ctx.state[_ADMISSION] = admission
                assert admission.served.chain is not None
                response = await admission.served.chain(ctx)
            assert response is not None
            if response.status_code != 101 or admission is None or admission.home is None:
                self.recorder.handshake(pattern, _code_of(response))
                await _refuse(scope, send, response, told_by_close=not before_upgrade and wants_v1(offered))
                return
            self.recorder.handshake(pattern, "accepted")
            await send(
                {
                    "type": "websocket.accept",
                    "subprotocol": subprotocol,
                    "headers": _upgrade_headers(response),
                }
            )
            home, admission.home = admission.home, None
            await self._converse(admission, home, profile, receive, send)
        finally:
            self._connections -= 1
            if match is not None:
                match.value.connections -= 1
            if admission is not None and admission.home is not None:
                self._namespaces.release(admission.home)

    def _check_room(self, served: _Served) -> None:
        limit = served.contract.settings.max_connections
        if self._connections >= self.plan.node.max_connections or (limit and served.connections >= limit):
            raise ws_overloaded("too many connections")

    async def _admit(self, ctx: RequestCtx) -> Response:
        """The end of the handshake middleware: open the namespace, and ask the guards."""
        admission: _Admission = ctx.state[_ADMISSION]
        served, handshake = admission.served, admission.handshake
        handshake.identity, handshake.session = ctx.identity, ctx.session
        try:
            for check in served.checks:
                await passes(check, handshake)
            home = await self._namespaces.acquire(
                served.contract,
                self._apps[served.app.manifest.name],
                handshake.namespace,
                handshake.path_params,
            )
            admission.home = home
            for guard in served.contract.guards:
                if guard.declaration.on == "handshake":
                    await passes(getattr(home.controller, guard.handler.attribute), handshake)
        except Exception as error:
            return self._refusal(error, f"handshake of {served.contract.controller.__qualname__}")
        response = Response(status_code=101)
        del response.headers["content-length"]
        return response

    def _refusal(self, error: Exception, where: str) -> Response:
        fault = self._engine.process(error, where, internal=ws_internal_error)
        return _json_response(fault.status, {"code": fault.code, "message": fault.message})

    async def _converse(
        self, admission: _Admission, home: Home, profile: Any, receive: Receive, send: Send
    ) -> None:
        """From the upgrade to the end of the connection."""
        settings = admission.served.contract.settings
        codec = codec_named(profile.codec)
        transport = ASGITransport(receive, send, binary=codec.binary, tasks=self._tasks)
        rate = settings.message_rate_limit
        conn = Connection(
            id=secrets.token_urlsafe(12),
            handshake=admission.handshake,
            profile=profile,
            codec=codec,
            transport=transport,
            outbox=Outbox(settings.backpressure),
            hub=self.hub,
            home=home,
            bucket=TokenBucket(rate, max(1.0, 2 * rate), asyncio.get_running_loop().time()) if rate else None,
        )
        self.hub.add(conn)
        self.recorder.opened(home.pattern)
        admission.served.dispatcher.on_open(conn)
        await transport.serve(admission.served.dispatcher, conn)

    async def gone(self, conn: Connection) -> None:
        """The end of a connection, called by its dispatcher."""
        await self._namespaces.gone(conn)

    def live(self) -> dict[str, int]:
        """What is held now: for tests and diagnosis."""
        homes: Iterable[Home] = self.hub.homes.values()
        return {
            "connections": sum(len(home.connections.members) for home in homes),
            "namespaces": len(self.hub.homes),
            "rooms": sum(len(home.rooms) for home in homes),
            "tasks": len(self._tasks),
        }


_ADMISSION = "aquilia.admission"


def _json_response(status: int, body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _code_of(response: Response) -> str:
    try:
        return str(msgspec.json.decode(response.body)["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


def _upgrade_headers(response: Response) -> list[tuple[bytes, bytes]]:
    skipped = (b"content-length", b"content-type")
    return [(name, value) for name, value in response.raw_headers if name not in skipped]


async def _refuse(scope: ASGIScope, send: Send, response: Response, *, told_by_close: bool) -> None:
    """Say no: by a close code to a v1 client that may be told so, else by HTTP, as far as the server can."""
    code = _CLOSE_FOR_STATUS.get(response.status_code)
    if told_by_close and code is not None:
        v1 = next(s for s in scope["subprotocols"] if s.startswith("aquilia.v1."))
        await send({"type": "websocket.accept", "subprotocol": v1})
        await send({"type": "websocket.close", "code": int(code), "reason": _code_of(response)})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await send({"type": "websocket.http.response.body", "body": response.body})
    else:
        await send({"type": "websocket.close", "code": int(CloseCode.NORMAL)})
