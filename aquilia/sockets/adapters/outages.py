"""What the connections of all brokers do while one is lost: say what the trouble is, and when they try again."""

from __future__ import annotations

import asyncio
import logging
import random

__all__ = ["FIRST", "LONGEST", "REFUSED", "UNREACHABLE", "Outage"]

UNREACHABLE, REFUSED = "unreachable", "refused"
"""What `trouble` says: see the head of `adapters.base`."""
FIRST, LONGEST = 0.05, 2.0
"""Seconds between attempts to connect; each is cut by chance to half of it at most."""


class Outage:
    """One of them, from the loss to the connection that replaces what was lost."""

    def __init__(self, broker: str, logger: logging.Logger) -> None:
        self._broker = broker
        self._logger = logger
        self._told = ""
        self._wait = FIRST

    def failed(self, error: Exception, *, refused: bool) -> str:
        """An attempt was in vain: what the trouble is. Each refusal is told in the log once."""
        news = refused and str(error) != self._told
        self._told = str(error) if news else self._told
        level = logging.WARNING if news else logging.DEBUG
        self._logger.log(level, "no connection to %s yet: %s", self._broker, error)
        return REFUSED if refused else UNREACHABLE

    async def pause(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self._wait * random.uniform(0.5, 1))
        self._wait = min(LONGEST, self._wait * 2)
