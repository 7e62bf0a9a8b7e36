"""The half of a session that speaks: what its user says is queued, and what is said of one link alone goes first."""

from __future__ import annotations

from collections import deque
from typing import Any

from aquilia.client.faults import ConnectionEnded
from aquilia.client.frames import named
from aquilia.client.outgoing import Outgoing, Outgoings
from aquilia.client.steps import Phase
from aquilia.sockets.codecs import Codec
from aquilia.sockets.envelope import MessageEnvelope, MessageType

__all__ = ["Speaking"]


class Speaking:
    """What a session's user says, and what answers the server."""

    phase: Phase
    ended: ConnectionEnded | None
    link: int

    def __init__(self, codec: Codec, outgoing: Outgoings) -> None:
        self.codec = codec
        self.outgoing = outgoing
        self._urgent: deque[bytes] = deque()
        """What belongs to this link, and goes first."""
        self._ids = 0

    def send(self, event: str, payload: Any) -> None:
        """Say something that wants no ack.

        Raises:
            QueueFull: too much waits already.
            ConnectionEnded: the session is CLOSED.
            TypeError: the codec cannot write the payload.
            ValueError: the event has no proper name.
        """
        self.require_open()
        envelope = MessageEnvelope(event=named(event), payload=payload)
        self.outgoing.push(Outgoing(event, self._encode(envelope)))

    def call(
        self,
        event: str,
        payload: Any,
        *,
        now: float,
        timeout: float | None = None,
        idempotent: bool = False,
        control: bool = False,
    ) -> str:
        """Say something that wants an ack, within `timeout` seconds; the id that its outcome will have.

        Raises: as `send`.
        """
        self.require_open()
        self._ids += 1  # never used again, whatever becomes of the link: the server may remember it
        id = f"c{self._ids}"
        kind: MessageType = "control" if control else "event"
        envelope = MessageEnvelope(type=kind, event=named(event), payload=payload, id=id, ack=True)
        frame = self._encode(envelope)
        message = Outgoing(
            event, frame, id=id, idempotent=idempotent, control=control, timeout=timeout, now=now
        )
        self.outgoing.push(message)
        return id

    def _say_auth(self, token: str) -> str:
        """Before all that waits; the id that its ack will have."""
        self._ids += 1
        id = f"c{self._ids}"
        self._urgent.append(
            self._encode(
                MessageEnvelope(type="control", event="auth", payload={"token": token}, id=id, ack=True)
            )
        )
        return id

    def give_up(self, id: str) -> None:
        """Nobody waits for this call any more."""
        self.outgoing.close_call(id)

    def answer(self, link: int, id: str, data: Any) -> None:
        """Ack an event of the server's, which came on that link.

        Raises:
            TypeError: the codec cannot write the data.
        """
        self._answer(link, id, {"status": "ok"} if data is None else {"status": "ok", "data": data})

    def refuse(self, link: int, id: str, error: dict[str, Any]) -> None:
        """Answer an event of the server's with an error: its code, message and retryable."""
        self._answer(link, id, {"status": "error", "error": error})

    def _answer(self, link: int, id: str, payload: dict[str, Any]) -> None:
        frame = self._encode(MessageEnvelope(type="ack", id=id, payload=payload))
        if link == self.link and self.phase in (Phase.RESUMING, Phase.LIVE):
            self._urgent.append(frame)

    def require_open(self) -> None:
        """Be connected, or about to be.

        Raises:
            ConnectionEnded: it has stopped, or was never started.
        """
        if self.phase is Phase.IDLE:
            raise ConnectionEnded("not connected: use `async with`, or `await connect()` first")
        if self.ended is not None:
            raise self.ended.with_traceback(None)  # it is raised often, and would keep all its frames

    def _encode(self, envelope: MessageEnvelope) -> bytes:
        return self.codec.encode(envelope)
