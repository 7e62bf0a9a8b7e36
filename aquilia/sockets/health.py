"""Health: whether new clients should be sent to this process, as load balancers ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aquilia.sockets.drain import Drain

__all__ = ["Health"]


class Health:
    """An ASGI application: 200 while the process takes clients, 503 while it drains or its broker is away.

    The body is JSON: `{"status": "ready", "connections": n}`; or the status `draining`, or `broker_lost` with a
    `reason`: `trouble` is that of the broker. A store of its own that is away, `store_trouble`, keeps nobody out, and
    is told as `"store"`; but where new clients are looked up there, `store_asked`, the status is `store_lost`.
    """

    def __init__(
        self,
        drain: Drain,
        *,
        trouble: Callable[[], str | None],
        connections: Callable[[], int],
        store_trouble: Callable[[], str | None] = lambda: None,
        store_asked: bool = False,
    ) -> None:
        self._drain = drain
        self._trouble = trouble
        self._connections = connections
        self._store_trouble = store_trouble
        self._store_asked = store_asked

    @property
    def status(self) -> str:
        """`ready`, `draining`, `broker_lost` or `store_lost`."""
        if not self._drain.ready:
            return "draining"
        if self._trouble() is not None:
            return "broker_lost"
        return "store_lost" if self._store_asked and self._store_trouble() is not None else "ready"

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application as well: 200, whatever the status is, as long as the event loop turns.

        It is for who restarts what hangs: a restart brings no broker back.
        """
        await _answer(scope, receive, send, 200, b'{"status":"live"}')

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe."""
        told: dict[str, Any] = {"status": self.status}
        match told["status"]:
            case "ready":
                told["connections"] = self._connections()
                if (trouble := self._store_trouble()) is not None:
                    told["store"] = trouble
            case "broker_lost":
                told["reason"] = self._trouble()
            case "store_lost":
                told["reason"] = self._store_trouble()
        code = 200 if told["status"] == "ready" else 503
        await _answer(scope, receive, send, code, msgspec.json.encode(told))


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, body: bytes) -> None:
    headers = {"cache-control": "no-store"}
    if scope["method"] in ("GET", "HEAD"):
        response = Response(body, status, headers, media_type="application/json")
    else:
        response = Response(status_code=405, headers={"allow": "GET, HEAD"})
    await response(scope, receive, send)
