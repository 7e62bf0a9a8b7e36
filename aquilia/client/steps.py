"""The steps of a session: its phases and their table, and what it tells."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from aquilia.client.faults import ClientFault
from aquilia.client.notices import Notice
from aquilia.client.reading import Arrived

__all__ = ["LINKED", "STEPS", "Answered", "CallFailed", "Closing", "Event", "Phase", "TokenWanted"]


class Phase(enum.Enum):
    """Where a session stands."""

    IDLE = "idle"
    DIALING = "dialing"
    GREETING = "greeting"
    """The link is up, `hello` is said, `welcome` is to come."""
    RESUMING = "resuming"
    """`resumed` is to come."""
    LIVE = "live"
    LEAVING = "leaving"
    """The link is to end, and what comes after is decided."""
    WAITING = "waiting"
    CLOSED = "closed"


LINKED = {Phase.GREETING, Phase.RESUMING, Phase.LIVE, Phase.LEAVING}
STEPS = {
    Phase.IDLE: {Phase.DIALING, Phase.CLOSED},
    Phase.DIALING: {Phase.GREETING, Phase.WAITING, Phase.CLOSED},
    Phase.GREETING: {Phase.RESUMING, Phase.LIVE, Phase.LEAVING, Phase.WAITING, Phase.CLOSED},
    Phase.RESUMING: {Phase.LIVE, Phase.LEAVING, Phase.WAITING, Phase.CLOSED},
    Phase.LIVE: {Phase.LEAVING, Phase.WAITING, Phase.CLOSED},
    Phase.LEAVING: {Phase.WAITING, Phase.CLOSED},
    Phase.WAITING: {Phase.DIALING, Phase.CLOSED},
    Phase.CLOSED: {Phase.DIALING},
}


class Answered(msgspec.Struct, frozen=True):
    """A call was answered. `data` is as the codec left it."""

    id: str
    data: Any


class CallFailed(msgspec.Struct, frozen=True):
    """A call has come to nothing."""

    id: str
    fault: ClientFault


class TokenWanted(msgspec.Struct, frozen=True):
    """The identity on this link expires soon: `renew` takes a new token."""

    link: int


Event = Answered | CallFailed | Arrived | TokenWanted | Notice


class Closing(msgspec.Struct, frozen=True):
    """How the link is to end. `abort`: the peer is not there to answer."""

    code: int
    reason: str
    abort: bool = False
