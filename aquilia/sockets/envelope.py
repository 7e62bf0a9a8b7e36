"""The message envelope: what one WebSocket message carries, in every codec. See the wire protocol, version 1."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "MAX_EVENT_LENGTH",
    "MAX_ID_LENGTH",
    "MAX_NESTING",
    "PLAIN_JSON",
    "V1_CBOR",
    "V1_JSON",
    "V1_MSGPACK",
    "MessageEnvelope",
    "MessageType",
    "Profile",
]

MessageType = Literal["event", "ack", "system", "control"]

MAX_EVENT_LENGTH = 128
MAX_ID_LENGTH = 64
MAX_NESTING = 64
"""Containers within containers that a message may have, the envelope being the first."""


def _event() -> MessageType:
    return "event"


class MessageEnvelope(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """One message. Absent keys are omitted on the wire, and unknown ones ignored.

    In a decoded envelope `payload` is still raw where the codec can leave it so (`msgspec.Raw`): the event's
    own decoder reads it, once.
    """

    type: MessageType = msgspec.field(default_factory=_event)  # said on the wire, unlike a plain default
    event: str | None = None
    payload: Any = None
    id: str | None = None
    ack: bool = False
    room: str | None = None
    meta: dict[str, Any] | None = None

    @property
    def key(self) -> str | None:
        """What names this message for ever, if its event has a delivery promise: for an application's own records.

        It is the same when the client repeats the message in its session, resumed or not, and no other message's.
        """
        return None


class Profile(msgspec.Struct, frozen=True):
    """What a subprotocol stands for: a codec, and whether its client speaks all of protocol version 1."""

    subprotocol: str
    codec: Literal["json", "msgpack", "cbor"]
    v1: bool


PLAIN_JSON = Profile("aquilia.plain.json", "json", v1=False)
V1_JSON = Profile("aquilia.v1.json", "json", v1=True)
V1_MSGPACK = Profile("aquilia.v1.msgpack", "msgpack", v1=True)
V1_CBOR = Profile("aquilia.v1.cbor", "cbor", v1=True)

PROFILES = {profile.subprotocol: profile for profile in (PLAIN_JSON, V1_JSON, V1_MSGPACK, V1_CBOR)}
