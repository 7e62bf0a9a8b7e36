"""Answers: what a client is told, and how it is read who has to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from aquilia.faults import Fault, FaultEngine
from aquilia.sockets.audit.records import security_event
from aquilia.sockets.codecs import Codec
from aquilia.sockets.connection import Connection, ConnectionState
from aquilia.sockets.envelope import MAX_EVENT_LENGTH, MAX_ID_LENGTH, MessageEnvelope
from aquilia.sockets.faults import (
    CLOSE_FOR_STATUS,
    ClientFault,
    CloseCode,
    SocketFault,
    ws_internal_error,
)

__all__ = [
    "ack",
    "close_code",
    "close_text",
    "close_with",
    "error_message",
    "fault_of",
    "internal_error_in_opening",
    "label",
    "note_fault",
    "sender",
]

RATE_LIMIT_PAUSE_MS = 10_000

_CLOSES = CLOSE_FOR_STATUS | {503: CloseCode.OVERLOADED}


def fault_of(
    engine: FaultEngine,
    error: Exception,
    where: str,
    conn: Connection,
    envelope: MessageEnvelope | None = None,
    *,
    internal: Callable[[str], Fault] = ws_internal_error,
) -> Fault:
    """The fault that answers an error; if nobody foresaw it, the log says whose it was."""
    about = {"connection": conn.id, "namespace": conn.namespace, "pattern": conn._home.pattern}
    if envelope is not None:
        about["event"] = envelope.event or ""
    return engine.process(error, where, internal=internal, about=about)


def close_with(conn: Connection, fault: Fault, envelope: MessageEnvelope | None = None) -> None:
    """End a connection with a fault, and count it."""
    note_fault(conn, fault, envelope, closes=True)
    conn._end(close_code(fault), close_text(fault))


def note_fault(
    conn: Connection, fault: Fault, envelope: MessageEnvelope | None = None, *, closes: bool = False
) -> None:
    """Count that a client is answered with a fault, and audit what touches security."""
    code = label(fault)
    conn._home.recorder.fault(conn._home.pattern, code)
    event = security_event(fault, opening=conn.phase is ConnectionState.CONNECTING)
    if event is not None:
        conn._hub.audit.note(
            event,
            conn,
            outcome="closed" if closes else "refused",
            code=code,
            # Beyond a guard the event is a declared one; before, it may be any words of the client.
            message=envelope.event or "" if envelope is not None and event != "limit.hit" else "",
            # Whoever looked at a token may have put it there.
            reason="" if event == "authentication.failed" else fault.message,
        )


def close_code(fault: Fault) -> int:
    """The code with which a fault ends a connection that is being opened."""
    code: int | None = getattr(fault, "close_code", None)
    return _CLOSES.get(fault.status, CloseCode.INTERNAL) if code is None else code


def ack(envelope: MessageEnvelope, data: Any) -> MessageEnvelope:
    """The ack of a message that was handled, with what the handler returned."""
    answer: dict[str, Any] = {"status": "ok"}
    if data is not None:
        answer["data"] = data
    return MessageEnvelope(type="ack", id=envelope.id, payload=answer)


def error_message(fault: Fault, envelope: MessageEnvelope | None) -> MessageEnvelope:
    """The error ack for a message with an id, else the error event."""
    error = fault.as_dict()
    if envelope is not None and envelope.id is not None:
        return MessageEnvelope(type="ack", id=envelope.id, payload={"status": "error", "error": error})
    if envelope is not None and envelope.event is not None:
        error["event"] = envelope.event
    return MessageEnvelope(event="error", payload=error)


def label(fault: Fault) -> str:
    """What is counted. A client's own codes would be labels without end."""
    return "WS_CLIENT_ERROR" if isinstance(fault, ClientFault) else fault.code


def sender(codec: Codec, data: bytes) -> MessageEnvelope | None:
    """Of a message that is no envelope, its id and event as far as they can be read: the answer carries them."""
    try:
        broken = codec.plain(msgspec.Raw(data))
    except SocketFault:
        return None
    if not isinstance(broken, dict):
        return None
    id, event = broken.get("id"), broken.get("event")
    return MessageEnvelope(
        id=id if isinstance(id, str) and 1 <= len(id) <= MAX_ID_LENGTH else None,
        event=event if isinstance(event, str) and 1 <= len(event) <= MAX_EVENT_LENGTH else None,
    )


def internal_error_in_opening(incident: str) -> SocketFault:
    """What an exception in `@OnConnect` becomes: it ends the connection."""
    return ws_internal_error(incident, close=True)


def come_back(seconds: float) -> str:
    """The reason of a close that asks the client to stay away for so long."""
    return msgspec.json.encode({"after": round(seconds * 1000)}).decode()


def close_text(fault: Fault) -> str:
    """The reason in a close frame, of at most 123 bytes (RFC 6455 section 5.5)."""
    if fault.code == "WS_RATE_LIMIT_EXCEEDED":
        return come_back(RATE_LIMIT_PAUSE_MS / 1000)
    return f"{fault.code}: {fault.message}".encode()[:123].decode(errors="ignore")
