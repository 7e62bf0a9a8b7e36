"""What stores on a server have in common: within which time it answers, and what is told if it does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from aquilia.faults import Fault, FaultDomain, Severity
from aquilia.sessions.store import SessionTooLarge

__all__ = ["Reach", "session_store_unavailable"]

logger = logging.getLogger("aquilia.sessions")


def session_store_unavailable() -> Fault:
    """The store of sessions did not answer, or refused. The client may try again; the log has the reason."""
    return Fault(
        "SESSION_STORE_UNAVAILABLE",
        "the sessions cannot be reached now: try again later",
        domain=FaultDomain.NETWORK,
        retryable=True,
        status=503,
    )


class Reach:
    """How a server is reached. `place` names it in the log, and `secret` is its password, which nobody is shown."""

    def __init__(self, place: str, *, timeout: float, secret: str | None = None) -> None:
        self.place = place
        self._timeout = timeout
        self._secret = secret
        self._lost = False

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """One call. What fails in it is a fault to the client, and in the log once, until a call succeeds.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE.
        """
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except SessionTooLarge:
            raise
        except Exception as error:
            if not self._lost:
                logger.error("%s: sessions cannot be reached: %s", self.place, self._reason(error))
            self._lost = True
            # The library's own error may show what it was given.
            raise session_store_unavailable() from None
        if self._lost:
            self._lost = False
            logger.info("%s: sessions can be reached again", self.place)

    @contextlib.asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """The first call: what fails in it keeps the application from starting.

        Raises:
            Fault: SESSION_STORE_UNAVAILABLE, with the reason.
        """
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except Exception as error:
            told = f"{self.place}: sessions cannot be kept there: {self._reason(error)}"
            raise Fault("SESSION_STORE_UNAVAILABLE", told, severity=Severity.FATAL, status=503) from None
        self._lost = False

    def _reason(self, error: Exception) -> str:
        found = getattr(error, "orig", None) or error  # of SQLAlchemy, whose own text has the statement too
        if isinstance(found, TimeoutError) and not str(found):
            return f"no answer within {self._timeout:g} seconds"
        told = " ".join(str(found).split()) or type(found).__name__
        return told.replace(self._secret, "***") if self._secret else told
