"""The HTTP endpoints of the setting `admin`: each operation of `Admin`, and the OpenAPI description of them all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.auth import TokenFault
from aquilia.controller import media_type_of
from aquilia.exchange import bounded, route_path
from aquilia.faults import Fault, FaultEngine
from aquilia.http_faults import http_invalid_input, http_unsupported_media_type
from aquilia.responses import fault_response, json_response
from aquilia.sockets.admin.access import AdminAccess, LacksRole, TooManyWrong
from aquilia.sockets.admin.openapi import description
from aquilia.sockets.admin.operations import OPERATIONS, Admin, Operation
from aquilia.sockets.admin.orders import Order
from aquilia.sockets.audit.records import AuditLog
from aquilia.sockets.faults import ws_internal_error
from aquilia.sockets.handshake.refusal import note_response
from aquilia.sockets.handshake.request import check_host
from aquilia.validation import InvalidValue, JsonReader

__all__ = ["AdminOffice"]

MAX_BODY = 1 << 18
"""Bytes of a request."""
DESCRIPTION = "openapi.json"


class AdminOffice:
    """An ASGI application below `path`. `ready` raises while the process does not run.

    Whoever asks needs the secret, or an admin's token, in its header: no cookie is looked at, and no page of another
    site is told anything, so a browser can neither be tricked into it nor read what comes. `hosts` are those that are
    served.
    """

    def __init__(
        self,
        path: str,
        admin: Admin,
        access: AdminAccess,
        engine: FaultEngine,
        audit: AuditLog,
        *,
        hosts: tuple[str, ...] | None,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._path = path
        self._admin = admin
        self._access = access
        self._engine = engine
        self._audit = audit
        self._hosts = hosts
        self._ready = ready
        self._readers: dict[str, JsonReader[Any]] = {
            name: JsonReader(operation.order) for name, operation in OPERATIONS.items() if operation.acts
        }

    def paths(self) -> Mapping[str, ASGIApp]:
        """Where it is served."""
        return {f"{self._path}/{name}": self for name in (*OPERATIONS, DESCRIPTION)}

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope)
        request = Request(scope, bounded(receive, request.headers, MAX_BODY), send)
        identity: Any = None
        try:
            response = await self._answered(request)
        except ClientDisconnect:
            return
        except LacksRole as lacking:
            identity, response = lacking.identity, self._refusal(lacking.fault)
        except Exception as error:
            response = self._refusal(error)
        note_response(self._audit, scope, response, pattern=self._path, identity=identity)
        response.headers["cache-control"] = "no-store"
        response.headers["x-content-type-options"] = "nosniff"
        await response(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        check_host(request, self._hosts)
        await self._ready()
        who = await self._access.require(request)
        operation = OPERATIONS.get(route_path(request.scope).rpartition("/")[2])
        method = "POST" if operation is not None and operation.acts else "GET"
        if request.method != method:
            return Response(status_code=405, headers={"allow": method})
        if operation is None:
            return json_response(self._description)
        order = await self._order(request, operation)
        return json_response(await self._admin.run(operation, order, about=request.scope, by=who))

    async def _order(self, request: Request, operation: Operation) -> Order:
        """What is asked for.

        Raises:
            Fault: the HTTP_* one for a request that is none.
        """
        if not operation.acts:
            return _queried(request, operation.order)
        media_type = media_type_of(request.headers)
        if media_type != "application/json":
            raise http_unsupported_media_type(media_type, "application/json")
        try:
            order: Order = self._readers[operation.name].read(await request.body())
        except InvalidValue as error:
            raise http_invalid_input(error.mistakes) from None
        return order

    @cached_property
    def _description(self) -> dict[str, Any]:
        return description(self._path)

    def _refusal(self, error: Exception) -> Response:
        headers = {}
        if isinstance(error, TooManyWrong):
            headers["retry-after"] = str(error.wait)
            error = error.fault
        elif isinstance(error, TokenFault):
            headers = dict(error.headers)
        fault: Fault = self._engine.process(error, "a request of an admin", internal=ws_internal_error)
        if fault.status == 401:
            headers.setdefault("www-authenticate", "Bearer")  # RFC 9110 section 15.5.2
        return fault_response(fault, headers)


def _queried(request: Request, kind: type[Order]) -> Order:
    given = request.query_params.multi_items()
    found = dict(given)
    if len(found) < len(given):
        wrong = {"path": "query", "expected": "each parameter once", "got": "one of them twice"}
        raise http_invalid_input([wrong])
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise http_invalid_input(
            [{"path": "query", "expected": str(error), "got": "another value"}]
        ) from None
