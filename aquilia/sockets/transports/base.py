"""The transport port: the wire of one connection, as the rest of the house sees it.

Below the port a transport makes whole messages out of frames, checks UTF-8, answers pings and does the closing
handshake. Above it, `TransportEvents` decides what a message means. All calls, both ways, come from the event
loop's thread and none of them waits.

What is promised:

- Messages go up in the order of the wire, each as bytes of its own: nothing that the transport reuses.
- Frames go down in the order of `write`. After `write` returned False, nothing is handed over until
  `on_writable`: the transport holds at most what it was given.
- `on_closed` comes exactly once, after the last message, whoever closed; nothing goes up after it.
- `close` sends what was written before, then the close frame, and waits a bounded time for the peer; `abort`
  sends nothing. Both may be called at any time, repeatedly.
- While reading is paused, messages that had been read already may still come up.
- `held` is what is in memory of messages that have not come up: it is 0 again when the connection is over. `on_held`
  comes when it has changed but for a downward call, once for each read at most.
- No upward call is made from within a downward one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["NATIVE", "Transport", "TransportEvents"]

NATIVE = "aquilia.native"
"""The ASGI extension by which a connection of the native transport can be taken over."""


class Transport(Protocol):
    """The downward half."""

    kind: str
    """Names the framing: connections of one kind share the frames that `frame` made."""

    @property
    def held(self) -> int:
        """Bytes of memory for messages that are not whole, or wait below this port; and of buffers that grew for
        them. Servers that put messages together for an ASGI application do not tell."""

    @property
    def line(self) -> Callable[[bytes], object] | None:
        """Writes one frame at once: the short way for a publication to many. None while there is none."""

    def frame(self, message: bytes, *, binary: bool) -> bytes:
        """The message as `write` wants it. Depends on `kind` and the arguments alone."""

    def write(self, frames: Sequence[bytes]) -> bool:
        """Hand over frames. False: wait for `on_writable` before the next."""

    def pause_reading(self) -> None:
        """Take no more from the wire than what has been read."""

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake (RFC 6455 section 7). `reason` is at most 123 bytes of UTF-8."""

    def abort(self) -> None:
        """Cut the connection."""

    def trim(self) -> None:
        """Give back memory that is held for messages to come."""

    def fail(self, code: int, reason: str) -> None:
        """Send a close frame, and end the connection without waiting for the peer's (RFC 6455 section 7.1.7).

        What is held is given back at once. Where a server does the closing handshake, it is as `close`.
        """


class TransportEvents(Protocol):
    """The upward half: one object serves many connections; `conn` is what it gave at the opening."""

    def on_message(self, conn: Any, data: bytes, *, binary: bool) -> None:
        """A whole message came. `data` is UTF-8 where it is not `binary`."""

    def on_writable(self, conn: Any) -> None:
        """The transport takes frames again."""

    def on_held(self, conn: Any) -> None:
        """What the transport holds has changed."""

    def on_shutdown(self, conn: Any) -> None:
        """The server stops, and wants the connection to end."""

    def on_closed(self, conn: Any, code: int, reason: str) -> None:
        """The connection is over: 1005 without a code from the peer, 1006 without a closing handshake."""
