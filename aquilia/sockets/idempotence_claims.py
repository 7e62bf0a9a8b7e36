"""Claims: what is remembered of a message that shall take effect once, and what a repeat of it leads to.

A message is claimed before it is handled, and its answer stands in the place of the claim afterwards. Both end by
themselves: the store lets go of them when their time is over.
"""

from __future__ import annotations

import enum
from typing import Any
from urllib.parse import quote

import msgspec

from aquilia.faults import Fault
from aquilia.sockets.codecs.base import WRITE_FAILURES, as_builtins
from aquilia.sockets.faults import ClientFault, SocketFault, ws_already_handled, ws_message_invalid

__all__ = [
    "LARGEST_ANSWER",
    "Claim",
    "Step",
    "answer_of",
    "done",
    "failed",
    "free",
    "message_key",
    "pause",
    "read",
    "releases",
    "reused",
    "running",
    "step",
]

VERSION = 1
LARGEST_ANSWER = 1 << 16
"""Bytes of an answer that is remembered, as MessagePack. Of a larger one it is known that there was one."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two looks at a claim that another process holds; each pause is twice the one before."""


class Step(enum.Enum):
    """What to do with a message."""

    HANDLE = "nobody has handled it"
    WAIT = "somebody is handling it"
    ANSWER = "it has been handled"
    REFUSE = "its id belongs to another message"


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What the store has of one message."""

    version: int
    owner: str
    """Who handles it, or did."""
    digest: bytes
    """Of its event and payload: a repeat has the same."""
    state: str
    """One of: running, free, ok, large, fault."""
    answer: Any = None


_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder(Claim).decode


def message_key(namespace: str, session: str, id: str) -> str:
    """What names a message for ever: no two have the same, whatever characters a client puts into its ids."""
    return f"{quote(namespace)}:{session}:{id}"


def step(claim: Claim | None, digest: bytes) -> Step:
    """What a message with this digest leads to, beside the claim that was found."""
    if claim is None or claim.state == "free":
        return Step.HANDLE
    if claim.digest != digest:
        return Step.REFUSE
    return Step.WAIT if claim.state == "running" else Step.ANSWER


def pause(looks: int) -> float:
    """Seconds to wait after so many looks at a claim that is still held."""
    return min(SHORTEST_PAUSE * 2.0 ** min(looks, 16), LONGEST_PAUSE)


def running(owner: str, digest: bytes) -> bytes:
    """The claim of who begins to handle a message."""
    return _write(Claim(VERSION, owner, digest, "running"))


def free(owner: str) -> bytes:
    """What stands in the place of a claim that was taken back."""
    return _write(Claim(VERSION, owner, b"", "free"))


def done(owner: str, digest: bytes, answer: Any) -> bytes:
    """The record of a message that was handled, with what its handler returned."""
    try:
        plain = msgspec.to_builtins(
            answer, builtin_types=(bytes, bytearray, memoryview), enc_hook=as_builtins
        )
        record = _write(Claim(VERSION, owner, digest, "ok", plain))
    except WRITE_FAILURES:  # nor can it be an ack: whoever answers hears of that
        record = b""
    if 0 < len(record) <= LARGEST_ANSWER:
        return record
    return _write(Claim(VERSION, owner, digest, "large"))


def releases(fault: Fault) -> bool:
    """Whether a message that ended with this fault may be handled again: so it says, or its client had gone."""
    return fault.retryable or fault.code == "WS_CONNECTION_CLOSED"


def failed(owner: str, digest: bytes, fault: Fault) -> bytes:
    """The record of a message whose handler refused it for good."""
    close = getattr(fault, "close_code", None)
    fields = [fault.code, fault.message, fault.status, close, isinstance(fault, ClientFault)]
    try:
        details = msgspec.to_builtins(fault.details, enc_hook=as_builtins)
        record = _write(Claim(VERSION, owner, digest, "fault", [*fields, details]))
    except WRITE_FAILURES:
        record = b""
    if 0 < len(record) <= LARGEST_ANSWER:
        return record
    return _write(Claim(VERSION, owner, digest, "fault", [*fields, []]))


def read(data: bytes | None) -> Claim | None:
    """What was written.

    Raises:
        ValueError: for what is no claim, or one of a later version.
    """
    if data is None:
        return None
    try:
        claim = _read(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"no claim: {error}") from error
    if claim.version != VERSION:
        raise ValueError(f"a claim of version {claim.version}; this is Aquilia's version {VERSION}")
    return claim


def answer_of(claim: Claim) -> Any:
    """What the first handling of a message ended with.

    Raises:
        SocketFault: its fault, or WS_ALREADY_HANDLED where its answer was too large to keep.
    """
    if claim.state == "ok":
        return claim.answer
    if claim.state == "large":
        raise ws_already_handled(LARGEST_ANSWER)
    code, message, status, close, client, details = claim.answer
    kind = ClientFault if client else SocketFault
    raise kind(code, message, status=status, close_code=close, details=details)


def reused(id: str) -> SocketFault:
    """The refusal of a message whose id another message had."""
    return ws_message_invalid(f"the id {id!r} was used for another message: each message needs its own")
