"""What a connection does besides, where metrics are on: it counts what it sends. Chosen at boot."""

from __future__ import annotations

from aquilia.sockets.connection import Connection
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.metrics.figures import Meter

__all__ = ["MeasuredConnection"]


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
