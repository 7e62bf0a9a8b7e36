"""One call over NATS, and what came back on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from aquilia.sockets.faults import ws_adapter_unavailable

__all__ = ["Call", "Reply"]


class Reply(NamedTuple):
    """What came back on a call."""

    headers: Mapping[str, str]
    data: bytes

    @property
    def status(self) -> str:
        """The server's own word in the place of a message, such as "404"; else empty."""
        return self.headers.get("Status", "")


class Call:
    """What was said, and who waits for the answer."""

    __slots__ = (
        "again",
        "batch",
        "began",
        "data",
        "future",
        "headers",
        "replies",
        "reply",
        "resent",
        "said",
        "sent",
        "subject",
        "until",
    )

    def __init__(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None,
        reply: str,
        until: float,
        *,
        again: bool,
        batch: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.began = loop.time()
        self.until = until
        """When it is given up, by the loop's time."""
        self.said = 0.0
        self.subject = subject
        self.data = data
        self.headers = headers
        self.reply = reply
        self.again = again
        self.batch = batch
        self.sent = False
        self.resent = False
        self.replies: list[Reply] = []
        self.future: asyncio.Future[list[Reply]] = loop.create_future()

    def begin(self) -> None:
        """It is said now."""
        self.sent = True
        self.said = asyncio.get_running_loop().time()

    def fail(self, message: str) -> None:
        """Tell who waits that nothing comes of it."""
        self.give_up(ws_adapter_unavailable(message))

    def give_up(self, error: Exception) -> None:
        """The same, with what went wrong."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # who waited for it may be gone
