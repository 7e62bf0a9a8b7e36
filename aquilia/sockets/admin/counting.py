"""How many connections a publication goes to, counted where it goes.

Only while somebody asks: what counts stands in the place of the audience's meter for so long, and nothing is added to
the way of all else.
"""

from __future__ import annotations

import asyncio

from aquilia.sockets.audience import Audience

__all__ = ["watch"]


class _Counting:
    """Measures for the audience's own meter, if it has one, and counts what is asked for."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._meter = audience.meter
        self._asked: dict[str, asyncio.Future[int]] = {}
        if self._meter is None:  # what was begun without a meter is finished with one
            for delivery in (audience.current, *audience.backlog):
                if delivery is not None:
                    delivery.measure(0.0)
        audience.meter = self

    def ask(self, id: str) -> asyncio.Future[int]:
        """Count the publication of this id, once it comes; a cancelled future counts no more."""
        asked = self._asked[id] = asyncio.get_running_loop().create_future()
        asked.add_done_callback(lambda done: self._forget(id))
        return asked

    def published(self, event: str, members: int, size: int, seconds: float) -> None:
        """See `Measure`."""
        done = self._audience.current
        if self._meter is not None:
            self._meter.published(event, members, size, seconds)
        asked = None if done is None else self._asked.get(done.publication.id)
        if asked is not None and not asked.done():
            asked.set_result(members)

    def ended(self) -> None:
        """See `Measure`: what has yet to come goes to nobody."""
        for asked in list(self._asked.values()):
            if not asked.done():
                asked.set_result(0)
        if self._meter is not None:
            self._meter.ended()

    def _forget(self, id: str) -> None:
        del self._asked[id]
        if not self._asked and self._audience.meter is self:
            self._audience.meter = self._meter


def watch(audience: Audience | None, id: str) -> asyncio.Future[int]:
    """How many members of an audience the publication of this id goes to. It is yet to be published.

    Where there is no audience it goes to none. Cancel the future to wait no longer.
    """
    if audience is None:
        nobody: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        nobody.set_result(0)
        return nobody
    meter = audience.meter
    return (meter if isinstance(meter, _Counting) else _Counting(audience)).ask(id)
