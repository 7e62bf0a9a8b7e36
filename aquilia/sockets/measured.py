"""What connections and dispatch do besides, where metrics are on: they count messages. Chosen at boot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aquilia.sockets.connection import Connection
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.figures import OTHER, Meter
from aquilia.sockets.outbound import Outbound

__all__ = ["MeasuredConnection", "MeasuredDispatcher"]


class MeasuredConnection(Connection):
    """Counts what is sent to this client alone; publications to many are counted by the fan-out."""

    __slots__ = ()

    def _encode(self, envelope: MessageEnvelope) -> bytes:
        frame = Outbound._encode(self, envelope)
        meter: Meter = self._home.meter
        if envelope.type == "event":
            name = envelope.event or ""
            tally = meter.sent.get(name) or meter.sending(name)
        else:
            tally = meter.sent_kinds[envelope.type]
        tally.messages += 1
        tally.bytes += len(frame)
        return frame


class MeasuredDispatcher(Dispatcher):
    """Counts what comes, by event, and the seconds that handling it takes."""

    def __init__(self, *args: Any, meter: Meter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._received = meter.received
        self._kinds = meter.received_kinds
        for name, route in self._routes.items():
            self._routes[name] = replace(route, handling=meter.handling[name])

    def _count(self, conn: Connection, kind: str, size: int) -> None:
        self._kinds[kind].add(size)

    def _take(self, conn: Connection, envelope: MessageEnvelope, now: float, size: int) -> None:
        if envelope.type == "event":
            tally = self._received.get(envelope.event or "") or self._kinds[OTHER]
        else:
            tally = self._kinds[envelope.type]
        tally.messages += 1
        tally.bytes += size
        Dispatcher._take(self, conn, envelope, now, size)
