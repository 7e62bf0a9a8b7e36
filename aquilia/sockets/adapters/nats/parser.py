"""What comes from NATS, read: a short way for whole messages, which are nearly all of it.

nats-py reads each by two patterns and a state, awaits two coroutines for it, and cuts what it has read off a buffer.
It gets all that is not a whole message here: parts, what the server says of itself, and answers without a message.
Imports nats-py: import this where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

__all__ = ["Message", "QuickParser"]

HEADERS = b"NATS/1.0\r\n"


class Message(NamedTuple):
    """As nats-py's has it, what is asked of it here."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str] | None


class QuickParser(Parser):
    """Hands messages to the futures of their subscriptions."""

    reads = 0
    """How often anything has come."""

    async def parse(self, data: bytes = b"") -> None:
        """Read on.

        Raises:
            ProtocolError: no server says that.
        """
        self.reads += 1
        try:
            await self._parse(data)
        except (
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:  # nats-py's own; it ends at them
            raise ProtocolError(str(error)) from error

    async def _parse(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self.state == AWAITING_MSG_PAYLOAD:
                end = at + self.needed + 2 - len(self.buf)
            else:
                if not self.buf:
                    at = self._whole(data, at)
                end = data.find(b"\n", at) + 1 or len(data)
            if at < len(data):
                await super().parse(data[at:end])
            at = end

    def _whole(self, data: bytes, at: int) -> int:
        """Read whole messages. Where what follows them begins."""
        subscriptions = self.nc._subs
        while True:
            headed = data.startswith(b"HMSG ", at)
            if not headed and not data.startswith(b"MSG ", at):
                return at
            start = data.find(b"\r\n", at) + 2
            if start < 2:
                return at
            words = data[at : start - 2].split(b" ")
            try:
                subscription, end = subscriptions.get(int(words[2])), start + int(words[-1])
                body = start + int(words[-2]) if headed else start
            except (ValueError, IndexError):
                return at
            if not start <= body <= end:
                return at
            if len(data) < end + 2 or (headed and not data.startswith(HEADERS, start)):
                return at
            headers = None
            if headed:
                headers = _headers(data[start + len(HEADERS) : body])
                start = body
            if subscription is not None:
                reply = words[3] if len(words) == (6 if headed else 5) else b""
                message = Message(_text(words[1]), _text(reply), data[start:end], headers)
                subscription._future.set_result(message)
            at = end + 2


def _headers(lines: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in _text(lines).split("\r\n") if line)
    return {key: value.strip() for key, _, value in pairs}


def _text(raw: bytes) -> str:
    """Whatever anybody publishes, it does not end the reading."""
    return raw.decode("utf-8", "replace")
