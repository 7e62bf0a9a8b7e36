"""What the server says of events and rooms, as news for the user; positions are kept on the way."""

from __future__ import annotations

import msgspec

from aquilia.client.frames import GapWord, PlaceWord, PresenceWord, position_of, words_in
from aquilia.client.notices import Gap, Joined, Left, Notice, Presence, Rejected
from aquilia.client.positions import DIRECT, Positions
from aquilia.sockets.codecs import Codec
from aquilia.sockets.envelope import MessageEnvelope

__all__ = ["Arrived", "Reading"]


class Arrived(msgspec.Struct, frozen=True):
    """An event of the application came, for the first time."""

    envelope: MessageEnvelope


class Reading:
    """Reads one client's events and room words. Each method raises WS_MESSAGE_INVALID for what does not read."""

    def __init__(self, codec: Codec, positions: Positions) -> None:
        self.words = words_in(codec.name)
        self._positions = positions
        self.doubles = 0
        """How many messages were dropped because they had come before."""

    def event(self, envelope: MessageEnvelope) -> Arrived | Rejected | None:
        """An event; None for one that came before."""
        if envelope.event == "error":
            word = self.words.error(envelope.payload)
            return Rejected(fault=word.fault(), event=word.event)
        meta = envelope.meta
        if meta is not None:
            position = position_of(meta.get("epoch"), meta.get("offset"))
            if position is not None and not self._positions.pass_by(envelope.room or DIRECT, position):
                self.doubles += 1
                return None
        return Arrived(envelope)

    def joined(self, word: PlaceWord) -> Notice:
        """The client is in a room."""
        position = position_of(word.epoch, word.offset)
        self._positions.joined(word.room, position)
        return Joined(room=word.room, position=position)

    def left(self, word: PlaceWord) -> Notice:
        """The client is in it no more."""
        self._positions.left(word.room)
        return Left(room=word.room)

    def gap(self, word: GapWord) -> Notice:
        """Something is missing here. A position without a room is that of the direct log."""
        position = position_of(word.epoch, word.offset)
        self._positions.skip(DIRECT if word.room is None else word.room, position)
        return Gap(cause=word.cause, room=word.room, dropped=word.dropped, position=position)

    def presence(self, word: PresenceWord) -> Notice:
        """Who came and went."""
        return Presence(room=word.room, joins=word.joins, leaves=word.leaves, count=word.count)
