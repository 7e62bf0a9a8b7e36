"""What the members of a room answered to one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aquilia.sockets.faults import SocketFault

__all__ = ["RoomAnswers"]


@dataclass(frozen=True, slots=True)
class RoomAnswers:
    """What became of `request_room`: each member that was asked is in one of the first three, by its connection."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    """The data of the acks; of one node, in the order in which they came."""
    faults: Mapping[str, SocketFault] = field(default_factory=dict)
    """Who answered with an error, and who left before the answer: WS_CONNECTION_CLOSED."""
    missing: tuple[str, ...] = ()
    """Who did not answer in time."""
    silent: tuple[str, ...] = ()
    """The ids of nodes that died, or did not answer in time: who was asked there cannot be told."""
