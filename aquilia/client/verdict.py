"""Why a link ended, or was never there, and what that asks for."""

from __future__ import annotations

import msgspec

from aquilia.client.advice import (
    Advice,
    advice_of_code,
    advice_of_status,
    delay_told,
    described,
    fault_code,
)
from aquilia.client.faults import ConnectionEnded
from aquilia.sockets.faults import CloseCode

__all__ = ["Verdict", "closed", "final", "passing", "refused"]


class Verdict(msgspec.Struct, frozen=True):
    """What an end asks for, and the fault that tells of it where it is final."""

    advice: Advice
    code: int
    reason: str
    fault: ConnectionEnded
    after: float | None = None
    """Seconds that the server asks to stay away; the client's own delay comes on top."""
    delay: float | None = None
    """Seconds until the next attempt, where they are known."""


def closed(code: int, reason: str, *, ours: bool) -> Verdict:
    """The link was closed. `ours`: the code is this side's, for what the server did wrong."""
    who = "this client closed the connection with" if ours else "the server closed the connection with"
    if code in (CloseCode.NO_STATUS, CloseCode.ABNORMAL):
        who = "the connection ended with"
    hint = "; `max_message_size` is its bound" if ours and code == CloseCode.TOO_BIG else ""
    advice = advice_of_code(code)
    fault = ConnectionEnded(
        f"{who} {described(code, reason)}{hint}",
        code=fault_code(reason) or "WS_CONNECTION_CLOSED",
        close_code=code,
        reason=reason,
        retryable=advice in (Advice.RETURN, Advice.RENEW),
    )
    return Verdict(advice, code, reason, fault, delay_told(reason))


def refused(server: str, status: int, code: str, message: str, after: float | None) -> Verdict:
    """The handshake was answered with an HTTP status that is no upgrade."""
    advice = advice_of_status(status, code)
    fault = ConnectionEnded(
        f"{server} refused the handshake with HTTP {status}: {message}",
        code=code,
        http_status=status,
        reason=message,
        retryable=advice in (Advice.RETURN, Advice.RENEW),
    )
    return Verdict(advice, CloseCode.ABNORMAL, str(fault), fault, after)


def passing(message: str, *, cause: Exception | None = None) -> Verdict:
    """There is no link, for a reason that may pass."""
    fault = ConnectionEnded(message, code="WS_UNREACHABLE", reason=message, retryable=True)
    fault.__cause__ = cause
    return Verdict(Advice.RETURN, CloseCode.ABNORMAL, message, fault)


def final(fault: ConnectionEnded, code: int = CloseCode.ABNORMAL, reason: str | None = None) -> Verdict:
    """There is no link, and none is to be had."""
    return Verdict(Advice.STOP, code, fault.message if reason is None else reason, fault)
