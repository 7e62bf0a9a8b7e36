"""The Python client of protocol v1: acks, rooms, resumption and backpressure over one WebSocket."""

from __future__ import annotations

from aquilia.client.client import Client, Token
from aquilia.client.faults import (
    AckTimeout,
    ClientFault,
    ConnectionEnded,
    ConnectionLost,
    PayloadInvalid,
    QueueFull,
    ServerFault,
)
from aquilia.client.notices import (
    Connected,
    Disconnected,
    Gap,
    GoAway,
    Joined,
    Left,
    Message,
    Position,
    Presence,
    Recovery,
    Rejected,
    Resumed,
    State,
)
from aquilia.client.streams import Stream

__all__ = [
    "AckTimeout",
    "Client",
    "ClientFault",
    "Connected",
    "ConnectionEnded",
    "ConnectionLost",
    "Disconnected",
    "Gap",
    "GoAway",
    "Joined",
    "Left",
    "Message",
    "PayloadInvalid",
    "Position",
    "Presence",
    "QueueFull",
    "Recovery",
    "Rejected",
    "Resumed",
    "ServerFault",
    "State",
    "Stream",
    "Token",
]
