"""What a room may be called."""

from __future__ import annotations

from aquilia.sockets.faults import ws_message_invalid
from aquilia.sockets.history import MAX_ROOM_LENGTH

__all__ = ["require_name", "require_text"]


def require_name(room: object) -> None:
    """See to it that a room can have this name.

    Raises:
        SocketFault: WS_MESSAGE_INVALID.
    """
    if not isinstance(room, str) or not 1 <= len(room) <= MAX_ROOM_LENGTH or room[0] == "\0":
        raise ws_message_invalid(
            f"a room's name is a string of 1 to {MAX_ROOM_LENGTH} characters, and begins with no NUL"
        )


def require_text(room: object) -> None:
    """The same where a room that nobody can be in is no error, and what is no string is one."""
    if not isinstance(room, str):
        require_name(room)
