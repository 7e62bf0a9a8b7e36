"""What a client may come back to: the token of a session, and its record.

Pure: no store, loop or clock inside. A session is what a client of v1 resumes; its name is the `id` of all
connections that it had, and it has one at a time. Each has a generation: that of a connection opened new is 0, and
the token that a welcome carries names the next. A token is good until the generation behind its own has been used,
since a welcome can be lost; using one makes its connection the owner, and the newest owner wins:

| record | a token of generation | becomes |
|---|---|---|
| live or away, generation r | r (but not 0) or r + 1 | live, of that generation and the new owner |
| live or away, generation r | any other | as it was: the token was replayed |
| ended, or none | any | as it was: there is nothing to come back to |
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from aquilia.sockets.codecs.base import WRITE_FAILURES
from aquilia.sockets.explanation import READ_FAILURES
from aquilia.sockets.history import Position
from aquilia.sockets.presence.roster import Kept

__all__ = [
    "Record",
    "Ticket",
    "Tokens",
    "packed_presence",
    "packed_state",
    "unpacked_presence",
    "unpacked_state",
]

RESUME_WINDOW = 120.0
"""Seconds that a client may take to come back."""
MAX_TOKEN = 256
MAX_STATE = 65_536
"""Bytes of `conn.state` that are kept."""

Refusal = Literal["invalid", "unknown", "replayed"]


class Ticket(NamedTuple):
    """What a token says."""

    session: str
    generation: int


class Tokens:
    """Signs tokens, and reads them; each is good in one namespace, for one identity (None: whoever is anonymous)."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, ticket: Ticket, namespace: str, identity: Hashable) -> str:
        """The token to come back with."""
        said = f"{ticket.session}.{ticket.generation:x}"
        return f"{said}.{self._signature(said, namespace, identity)}"

    def read(self, token: str, namespace: str, identity: Hashable) -> Ticket | None:
        """What a token says; None if it was not issued here, or to somebody else."""
        said, _, signature = token.rpartition(".")
        if not token.isascii() or len(token) > MAX_TOKEN:
            return None
        if not hmac.compare_digest(signature, self._signature(said, namespace, identity)):
            return None
        session, _, generation = said.rpartition(".")
        return Ticket(session, int(generation, 16))

    def _signature(self, said: str, namespace: str, identity: Hashable) -> str:
        whose = None if identity is None else (type(identity).__name__, str(identity))
        whole = _write(("aquilia.resume", namespace, whose, said))
        return urlsafe_b64encode(hmac.digest(self._key, whole, "sha256")).rstrip(b"=").decode()


class Record(msgspec.Struct, array_like=True, frozen=True):
    """What the store keeps of a session, for every node to read."""

    version: int
    phase: Literal["live", "away", "ended"]
    generation: int
    owner: str
    """Names the connection that has it, or had it last."""
    rooms: tuple[str, ...] = ()
    state: bytes = b""
    direct: Position | None = None
    """The head of its direct log. Said when it is away, and there was one."""
    presence: bytes = b""
    """Its metadata in rooms with presence."""
    entered: float = 0.0
    """When it last entered a room, in seconds since 1970."""

    def claimed(self, generation: int, owner: str) -> Record | Refusal:
        """The record once a token of this generation has been used by `owner`; or why it cannot be."""
        if self.phase == "ended":
            return "unknown"
        if generation < 1 or not self.generation <= generation <= self.generation + 1:
            return "replayed"
        return msgspec.structs.replace(self, phase="live", generation=generation, owner=owner, direct=None)

    def left(self, direct: Position | None, *, for_good: bool) -> Record:
        """The record once its connection has ended."""
        if for_good:
            return Record(self.version, "ended", self.generation, self.owner, direct=direct)
        return msgspec.structs.replace(self, phase="away", direct=direct)

    def pack(self) -> bytes:
        """Its bytes: equal ones for equal records."""
        return _write(self)

    @classmethod
    def read(cls, data: bytes) -> Record | None:
        """The record that was packed; None for one of a later version."""
        try:
            record = _read_record(data)
        except READ_FAILURES:
            return None
        return record if record.version == VERSION else None


VERSION = 1
_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder().decode
_read_presence = msgspec.msgpack.Decoder(dict[str, Kept]).decode
_read_record = msgspec.msgpack.Decoder(Record).decode


def packed_state(state: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """What is kept of `conn.state`, and the keys that are not: their values would come back as something else."""
    data = _packed(state)
    if data is not None and len(data) <= MAX_STATE:
        return data, []
    kept: dict[Any, Any] = {}
    unfit = []
    room = MAX_STATE - 8
    for key, value in state.items():
        entry = _packed({key: value})
        if entry is None or len(entry) > room:
            unfit.append(str(key))
        else:
            kept[key] = value
            room -= len(entry)
    return _packed(kept) or b"", unfit


def packed_presence(kept: Mapping[str, Kept]) -> bytes:
    """What is kept of metadata in rooms: of all, as long as they fit."""
    if not kept:
        return b""
    data = _write(dict(sorted(kept.items())))
    if len(data) <= MAX_STATE:
        return data
    fit: dict[str, Kept] = {}
    room = MAX_STATE - 8
    for name, meta in sorted(kept.items()):
        room -= len(_write({name: meta}))
        if room < 0:
            break
        fit[name] = meta
    return _write(fit)


def unpacked_presence(data: bytes) -> dict[str, Kept]:
    """What `packed_presence` kept."""
    return _read_presence(data) if data else {}


def _packed(state: Mapping[str, Any]) -> bytes | None:
    try:
        data = _write(state)
        return data if _read(data) == state else None
    except WRITE_FAILURES:
        return None


def unpacked_state(data: bytes) -> dict[str, Any]:
    """What `packed_state` kept."""
    state: dict[str, Any] = _read(data) if data else {}
    return state
