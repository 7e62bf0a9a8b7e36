"""Guards: who may open a connection, and which messages may pass."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aquilia.sockets.faults import ws_forbidden

if TYPE_CHECKING:
    from aquilia.sockets.connection import Connection
    from aquilia.sockets.envelope import MessageEnvelope
    from aquilia.sockets.handshake import Handshake

__all__ = ["Check", "SocketGuard", "passes"]

Check = Callable[..., Any]


class SocketGuard:
    """Extend this, and override one check or both. A check refuses by returning False or raising a fault.

    A check may be async or not. Lower priorities run first.
    """

    priority: int = 50

    def check_handshake(self, handshake: Handshake) -> bool | Awaitable[bool | None] | None:
        """Called once, before the upgrade."""

    def check_message(
        self, conn: Connection, envelope: MessageEnvelope
    ) -> bool | Awaitable[bool | None] | None:
        """Called for each event; the envelope's payload is still raw."""


async def passes(check: Check, *arguments: Any) -> None:
    """Run one check.

    Raises:
        SocketFault: WS_FORBIDDEN if it returned False; whatever it raised.
    """
    verdict = check(*arguments)
    if inspect.isawaitable(verdict):
        verdict = await verdict
    if verdict is False:
        raise ws_forbidden()
