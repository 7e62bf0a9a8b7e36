"""What must hold: nothing is lost, doubled or out of order without a word to the client.

"Lost" means: stored in a room's log while a client was in that room, and neither seen by it nor covered by a `gap`
that it was told of at that place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aquilia.client import Gap, Joined, Left, Message, Position, Resumed
from aquilia.sockets.adapters.base import Publication
from simulation.application import Books
from simulation.broker import Cluster

__all__ = ["Reader"]

NAMESPACE = "/hall"


class Reader:
    """What one client has seen, compared with what there was to see, as it comes."""

    def __init__(self, name: str, cluster: Cluster, books: Books) -> None:
        self.name = name
        self.problems: list[str] = []
        self.seen = 0
        self.gaps = 0
        self._cluster = cluster
        self._books = books
        self.connection = ""
        self._names: set[str] = set()
        self.at: dict[str, Position | None] = {}
        """How far it has read each of its rooms; None for those that have no log."""
        self._plain = self._cut_off = -1
        self._poked = 0
        self._durable = 0
        self._poke_gap = False

    def _complain(self, what: str) -> None:
        self.problems.append(f"{self.name}: {what}")

    def _log(self, room: str, epoch: str) -> Sequence[Publication]:
        stored = self._cluster.stored.get((NAMESPACE, room), [])
        return [told for told in stored if told.position is not None and told.position.epoch == epoch]

    def head(self, room: str) -> Position | None:
        """The newest that its log took, in its present life."""
        key = (NAMESPACE, room)
        stored = self._cluster.stored.get(key, [])[self._cluster.before.get(key, 0) :]
        return Position(*stored[-1].position) if stored and stored[-1].position else None

    # What it sees

    def connected(self, connection: str) -> None:
        """It was welcomed. Another name means another session."""
        self._plain = self._cut_off = -1  # another node may be behind the one before
        if connection != self.connection:
            self.connection = connection
            self._names.add(connection)
            self._poked = self._durable = 0
            self._poke_gap = False

    def joined(self, notice: Joined) -> None:
        """It is in a room from here on."""
        self.at[notice.room] = notice.position

    def resumed(self, notice: Resumed) -> None:
        """It is in these rooms; also in one whose `joined` was lost on its way."""
        for room, recovery in notice.rooms.items():
            if room and room not in self.at:
                self.at[room] = recovery.position

    def left(self, notice: Left) -> None:
        """It is in a room no more."""
        self.at.pop(notice.room, None)

    def gap(self, notice: Gap) -> None:
        """It was told that something is missing."""
        self.gaps += 1
        room = notice.room
        if room == "":
            self._poke_gap = True
        elif room is not None and room in self.at:
            at, told = self.at[room], notice.position
            ahead = (
                at is not None and told is not None and at.epoch == told.epoch and at.offset >= told.offset
            )
            if notice.cause == "not_recovered" or (told is not None and not ahead):
                self.at[room] = told

    def said(self, message: Message[dict[str, Any]]) -> None:
        """A room's message came."""
        self.seen += 1
        room = message.room or ""
        if room not in self.at:
            self._complain(f"a message of {room!r}, in which it is not: {message.payload['text']}")
        elif message.offset is None:
            self._said_plainly(message)
        else:
            self._said_in_order(room, message)

    def _said_plainly(self, message: Message[dict[str, Any]]) -> None:
        serial = message.payload["serial"]
        place = self._cluster.passed.get(serial, -1)
        if (
            place < 0 and serial > self._cut_off
        ):  # its node has not reached the broker, and served its own members
            self._cut_off = serial
        elif place <= self._plain:
            self._complain(f"{message.payload['text']} came out of order, or twice, in {message.room}")
        self._plain = max(self._plain, place)

    def _said_in_order(self, room: str, message: Message[dict[str, Any]]) -> None:
        at = self.at[room]
        assert message.epoch is not None
        assert message.offset is not None
        here = Position(message.epoch, message.offset)
        self.at[room] = here
        if at is None or at.epoch != here.epoch:
            self._complain(f"{room} went on at {here}, behind {at}, without a gap")
            return
        if here.offset <= at.offset:
            self._complain(f"{room}: {here} came behind {at}: twice, or out of order")
            self.at[room] = at
            return
        for told in self._log(room, here.epoch):
            place = told.position
            assert place is not None
            if at.offset < place.offset < here.offset and told.exclude not in self._names:
                self._complain(
                    f"{room}: {place.offset} is lost without a gap: {at.offset}, then {here.offset}"
                )
            elif place.offset == here.offset:
                if told.payload != message.payload:
                    self._complain(f"{room}: {here} is {message.payload}, and was stored as {told.payload}")
                if told.exclude == self.connection:
                    self._complain(f"{room}: {here} came, though it was excluded")

    def poked(self, number: int) -> None:
        """What was sent to it alone came."""
        if number <= self._poked:
            self._complain(f"poke {number} came behind {self._poked}: twice, or out of order")
        elif number > self._poked + 1 and not self._poke_gap:
            self._complain(f"pokes are lost without a gap: {self._poked}, then {number}")
        self._poked = max(number, self._poked)
        self._poke_gap = False

    def booked(self, number: int) -> None:
        """A durable event came: once, and in order."""
        if number <= self._durable:
            self._complain(f"booking {number} came behind {self._durable}: twice, or out of order")
        self._durable = max(number, self._durable)

    # At the end

    def behind(self) -> list[str]:
        """What it should have seen by now, in words."""
        missing = []
        for room, at in self.at.items():
            head = self.head(room)
            if at is None or head is None or not room.startswith(("log:", "short:")):
                continue
            left = [
                told
                for told in self._log(room, head.epoch)
                if told.position is not None
                and (at.epoch != head.epoch or told.position.offset > at.offset)
                and told.exclude not in self._names
            ]
            if left:
                missing.append(f"{self.name}: {room}: it is at {at}, and the log at {head}")
        sent = self._books.poked.get(self.connection, [])
        if sent and self._poked < sent[-1] and not self._poke_gap:
            missing.append(f"{self.name}: it has seen poke {self._poked} of {sent[-1]}")
        return missing
