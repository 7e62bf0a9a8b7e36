"""Health: whether new clients should be sent to this process, as load balancers ask it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aquilia.sockets.drain import Drain

__all__ = ["Health"]


class Health:
    """An ASGI application: 200 while the process takes clients, 503 while it drains or its broker is away.

    The body is JSON: `{"status": "ready", "connections": n}`; or the status `draining`, or `broker_lost` with a
    `reason`: `trouble` is that of the broker.
    """

    def __init__(
        self, drain: Drain, *, trouble: Callable[[], str | None], connections: Callable[[], int]
    ) -> None:
        self._drain = drain
        self._trouble = trouble
        self._connections = connections

    @property
    def status(self) -> str:
        """`ready`, `draining` or `broker_lost`."""
        if not self._drain.ready:
            return "draining"
        return "ready" if self._trouble() is None else "broker_lost"

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application as well: 200, whatever the status is, as long as the event loop turns.

        It is for who restarts what hangs: a restart brings no broker back.
        """
        await _answer(scope, receive, send, 200, b'{"status":"live"}')

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe."""
        if (status := self.status) == "ready":
            body = msgspec.json.encode({"status": status, "connections": self._connections()})
            await _answer(scope, receive, send, 200, body)
        else:
            reason = {} if status == "draining" else {"reason": self._trouble()}
            await _answer(scope, receive, send, 503, msgspec.json.encode({"status": status, **reason}))


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, body: bytes) -> None:
    headers = {"cache-control": "no-store"}
    if scope["method"] in ("GET", "HEAD"):
        response = Response(body, status, headers, media_type="application/json")
    else:
        response = Response(status_code=405, headers={"allow": "GET, HEAD"})
    await response(scope, receive, send)
