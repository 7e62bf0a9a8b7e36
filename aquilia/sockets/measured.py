"""What connections and dispatch do besides, where metrics are on: they count messages. Chosen at boot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aquilia.sockets.connection import Connection
from aquilia.sockets.dispatch import Dispatcher
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.figures import OTHER, Meter

__all__ = ["MeasuredConnection", "MeasuredDispatcher"]


class MeasuredConnection(Connection):
    """Counts what is sent to this client alone; publications to many are counted by the fan-out."""

    __slots__ = ()

    def _encode(self, envelope: MessageEnvelope) -> bytes:
        codec = self._codec  # the method of the base class, without another call for each message
        frame = self._transport.frame(codec.encode(envelope), binary=codec.binary)
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
        self._kinds = {**meter.received_kinds, "event": meter.received_kinds[OTHER]}
        for name, route in self._routes.items():
            self._routes[name] = replace(route, received=meter.received[name], handling=meter.handling[name])

    def _count(self, conn: Connection, kind: str, size: int) -> None:
        self._kinds[kind].add(size)
