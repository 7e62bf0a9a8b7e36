"""What nodes say to each other: calls, and their answers, which come in parts where they are large. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from aquilia.faults import Severity
from aquilia.sockets.cluster.nodes import VERSION, Name
from aquilia.sockets.codecs.base import WRITE_FAILURES, as_builtins
from aquilia.sockets.faults import ClientFault, SocketFault, ws_publish_failed

__all__ = ["Call", "Part", "Parts", "ToldFault", "pack", "parts", "unpack"]

PART_BYTES = 256 << 10
"""A message stays well below what brokers take: NATS takes 1 MiB unless it is told otherwise."""
MAX_PARTS = 256
"""Of one answer: 64 MiB."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A node tells or asks something."""

    version: int
    sender: Name
    question: int
    """The sender's number for what it asks; 0: it wants no answer."""
    verb: Annotated[str, msgspec.Meta(max_length=64)]
    payload: bytes
    """See `pack`."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A part of the answer to a question."""

    version: int
    sender: Name
    question: int
    kind: Literal["answer", "fault", "unknown"]
    """`unknown`: the one that was asked knows no such verb."""
    number: Annotated[int, msgspec.Meta(ge=0, lt=MAX_PARTS)]
    of: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARTS)]
    data: Annotated[bytes, msgspec.Meta(max_length=PART_BYTES)]


class ToldFault(msgspec.Struct, frozen=True, array_like=True):
    """A fault on its way to another node. Its details stay behind."""

    code: str
    message: str
    severity: Severity
    retryable: bool
    status: int
    close_code: int | None
    by_client: bool
    shown: str | None

    @classmethod
    def of(cls, fault: SocketFault) -> ToldFault:
        """That of a fault."""
        return cls(
            fault.code,
            fault.message.encode(errors="replace").decode(),
            fault.severity,
            fault.retryable,
            fault.status,
            None if fault.close_code is None else int(fault.close_code),
            isinstance(fault, ClientFault),
            fault.shown,
        )

    def fault(self) -> SocketFault:
        """The fault again."""
        kind = ClientFault if self.by_client else SocketFault
        fault = kind(
            self.code,
            self.message,
            severity=self.severity,
            retryable=self.retryable,
            status=self.status,
            close_code=self.close_code,
        )
        fault.shown = self.shown
        return fault


_encoder = msgspec.msgpack.Encoder(enc_hook=as_builtins)


def pack(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        SocketFault: WS_PUBLISH_FAILED: it cannot be written.
    """
    try:
        return _encoder.encode(value)
    except WRITE_FAILURES as error:
        raise ws_publish_failed(f"it cannot be told to other nodes: {error}") from error


def unpack(data: bytes) -> Any:
    """What was packed, as builtins.

    Raises:
        ValueError: it is none of it.
    """
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not what was packed: {error}") from error


def parts(sender: str, question: int, kind: Literal["answer", "fault"], data: bytes) -> Iterator[Part]:
    """The parts of an answer.

    Raises:
        SocketFault: WS_PUBLISH_FAILED: it is too large.
    """
    of = max(1, -(-len(data) // PART_BYTES))
    if of > MAX_PARTS:
        raise ws_publish_failed(f"an answer of {len(data)} bytes: {MAX_PARTS * PART_BYTES} are told at most")
    for number in range(of):
        piece = data[number * PART_BYTES : (number + 1) * PART_BYTES]
        yield Part(VERSION, sender, question, kind, number, of, piece)


class Parts:
    """One answer, as its parts come, in whatever order."""

    __slots__ = ("_found", "_of")

    def __init__(self) -> None:
        self._found: dict[int, bytes] = {}
        self._of = 0

    def add(self, part: Part) -> bytes | None:
        """Take a part. The whole, once it is there.

        Raises:
            ValueError: it is a part of something else.
        """
        if part.number >= part.of or (self._of and part.of != self._of):
            raise ValueError(f"part {part.number} of {part.of}, where there are {self._of}")
        self._of = part.of
        self._found[part.number] = part.data
        if len(self._found) < self._of:
            return None
        return b"".join(self._found[number] for number in range(self._of))
