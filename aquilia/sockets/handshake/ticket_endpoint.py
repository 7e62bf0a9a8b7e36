"""The HTTP endpoint of the setting `tickets`: who is logged in gets a ticket for one handshake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.auth import TokenFault
from aquilia.controller import RequestCtx, media_type_of
from aquilia.exchange import bounded, route_path
from aquilia.faults import Fault, FaultEngine
from aquilia.http_faults import http_invalid_input, http_unsupported_media_type
from aquilia.middleware import Endpoint, compose, split
from aquilia.patterns import Match, PatternTable
from aquilia.responses import fault_response, json_response
from aquilia.sessions import Session
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.contract import SocketContract
from aquilia.sockets.faults import SocketFault, ws_auth_required, ws_internal_error, ws_namespace_not_found
from aquilia.sockets.handshake.refusal import note_response
from aquilia.sockets.handshake.request import check_any_origin, check_host, check_origin, credible
from aquilia.sockets.handshake.tickets import TICKET_TTL, Tickets
from aquilia.sockets.plan import SocketPlan
from aquilia.sockets.revocation import session_name
from aquilia.validation import InvalidValue, JsonReader

__all__ = ["TicketOffice", "open_ticket_office"]

MAX_BODY = 16_384
"""Bytes of a request: a namespace is part of an URL."""
_WANTED = "aquilia.ticket.namespace"


class _Asked(msgspec.Struct):
    namespace: str


class _Target(NamedTuple):
    """A controller that tickets open, and what stands before it."""

    contract: SocketContract
    endpoint: Endpoint


def open_ticket_office(
    plan: SocketPlan,
    tickets: Tickets,
    engine: FaultEngine,
    ready: Callable[[], Awaitable[None]],
    audit: AuditLog,
) -> TicketOffice | None:
    """Give and take tickets; None unless the setting says so."""
    if plan.node.tickets is None:
        return None
    for _, contract in plan.contracts:
        contract.tickets = tickets
    return TicketOffice(plan, tickets, engine, ready, audit)


class TicketOffice:
    """An ASGI application: POST `{"namespace": "/chat/acme"}` answers `{"ticket": "…", "expires_in": 30}`.

    Before it stand the middleware and the AuthManager of the app whose controller serves the namespace, and the
    origins that this controller allows: no other page makes a ticket of its visitor's cookie, nor does one that only
    `"*"` lets in. `ready` raises while nobody is served.
    """

    def __init__(
        self,
        plan: SocketPlan,
        tickets: Tickets,
        engine: FaultEngine,
        ready: Callable[[], Awaitable[None]],
        audit: AuditLog,
    ) -> None:
        self._audit = audit
        self._path = plan.node.tickets or ""
        self._tickets = tickets
        self._engine = engine
        self._ready = ready
        self._hosts = plan.node.allowed_hosts
        self._table: PatternTable[_Target] = PatternTable()
        chains: dict[str, Endpoint] = {}
        for app, contract in plan.contracts:
            name = app.manifest.name
            if name not in chains:
                auth = plan.authenticators.get(name)
                chain = [*split(app.middleware).chain, *([auth] if auth else [])]
                chains[name] = compose(chain, self._give, answer=self._answer)
            self._table.add(
                contract.declaration.path, _Target(contract, chains[name]), where=str(contract.location)
            )

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            response = Response(status_code=405, headers={"allow": "POST"})
        else:
            request = Request(scope)
            request = Request(scope, bounded(receive, request.headers, MAX_BODY), send)
            try:
                response = await self._asked(request)
            except ClientDisconnect:
                return
            except Exception as error:
                response = self._answer(error, "a request for a ticket")
        note_response(self._audit, scope, response, pattern=self._path)
        response.headers["cache-control"] = "no-store"
        await response(scope, receive, send)

    async def _asked(self, request: Request) -> Response:
        await self._ready()
        check_host(request, self._hosts)
        namespace = await _namespace(request)
        match = self._table.match(namespace)
        if match is None:
            raise self._unserved(request, namespace)
        origins = match.value.contract.settings.allowed_origins
        check_origin(request, origins)
        if (kept := credible(request, origins)) is not request:
            request = Request(kept.scope, _again(await request.body()))
        return await self._through(request, match)

    async def _through(self, request: Request, match: Match[_Target]) -> Response:
        ctx = RequestCtx(request, path=route_path(request.scope))
        ctx.state[_WANTED] = match.path
        return await match.value.endpoint(ctx)

    async def _give(self, ctx: RequestCtx) -> Response:
        """The end of the middleware."""
        if ctx.identity is None:
            raise ws_auth_required("a ticket is for who is logged in")
        session = ctx.session
        known = isinstance(session, Session) and not session.is_new
        ticket = await self._tickets.give(
            ctx.identity, ctx.state[_WANTED], session_name(session.id) if known else None
        )
        return json_response({"ticket": ticket, "expires_in": TICKET_TTL})

    def _unserved(self, request: Request, namespace: str) -> SocketFault:
        """Raises WS_ORIGIN_NOT_ALLOWED for a page that may open nothing here."""
        check_any_origin(request, (each.contract.settings.allowed_origins for _, each in self._table))
        fault = ws_namespace_not_found(namespace[:200])
        near = get_close_matches(
            namespace[:200], [pattern.source for pattern, _ in self._table], n=1, cutoff=0.4
        )
        if near:
            fault.message += f"; did you mean {near[0]!r}?"
        return fault

    def _answer(self, error: Exception, where: str) -> Response:
        if isinstance(error, ClientDisconnect):
            raise error  # nobody is there to be answered
        fault: Fault = self._engine.process(error, where, internal=ws_internal_error)
        headers = dict(error.headers) if isinstance(error, TokenFault) else {}
        if fault.status == 401:
            headers.setdefault("www-authenticate", "Bearer")  # RFC 9110 section 15.5.2
        return fault_response(fault, headers)


def _again(body: bytes) -> Receive:
    """What has been received, for another to receive."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


_read: Callable[[bytes], _Asked] = JsonReader[_Asked](_Asked).read


async def _namespace(request: Request) -> str:
    """What is asked for.

    Raises:
        Fault: the HTTP_* one for a request that is none.
    """
    media_type = media_type_of(request.headers)
    if media_type != "application/json":  # which no page sends to a foreign server without asking it first
        raise http_unsupported_media_type(media_type, "application/json")
    try:
        namespace = _read(await request.body()).namespace
    except InvalidValue as error:
        raise http_invalid_input(error.mistakes) from None
    if not namespace.startswith("/"):
        wrong = {"path": "body.namespace", "expected": "str that begins with '/'", "got": "another str"}
        raise http_invalid_input([wrong])
    return namespace
