"""Gathering: one question to all members of a room, and their answers.

A question is one frame, encoded once for each variant of connection, with one id for all. Each member has a small
object among the acks that it owes, and all of them end one future: there is no task and no timer for each member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from aquilia.sockets.connection import Connection, Variant
from aquilia.sockets.envelope import MessageEnvelope
from aquilia.sockets.fanout import CLOCK_EVERY
from aquilia.sockets.faults import SocketFault, ws_connection_closed, ws_publish_failed
from aquilia.sockets.open_namespace import Home
from aquilia.sockets.outbound import Outbound
from aquilia.sockets.room_answers import RoomAnswers

__all__ = ["RoomQuestion"]

SLICE = 0.002
"""Seconds that members are asked without a break."""

_numbers = count(1)


class RoomQuestion:
    """A question to the members that a room has here now, but `exclude`, written for each kind of them.

    Raises:
        SocketFault: WS_PUBLISH_FAILED, if it cannot be written for one of them.
    """

    __slots__ = ("_frames", "_gathering", "_sent")

    def __init__(
        self, home: Home | None, room: str, event: str, payload: Any, *, exclude: str | None
    ) -> None:
        audience = None if home is None else home.rooms.get(room)
        asked: dict[str, Connection] = {}
        if audience is not None:
            members = audience.members | audience.waiting
            asked = {id: conn for id, conn in members.items() if id != exclude}
        self._gathering = _Gathering(f"r{next(_numbers)}", asked)
        self._frames = _frames(self._gathering, event, payload, room) if asked else {}
        self._sent = None if home is None else _tally(home, event)

    async def ask(self, timeout: float, stopwatch: Callable[[], float]) -> RoomAnswers:
        """Send it, and wait for the acks, `timeout` seconds at most."""
        gathering = self._gathering
        if not gathering.asked:
            return RoomAnswers()
        try:
            async with asyncio.timeout(timeout):
                await gathering.ask(self._frames, self._sent, stopwatch)
                await gathering.complete
        except TimeoutError:
            pass
        finally:
            missing = gathering.close()
        return RoomAnswers(gathering.answers, gathering.faults, missing)


class _Gathering:
    """The answers to one question, as they come."""

    __slots__ = ("answers", "asked", "complete", "faults", "id", "open")

    def __init__(self, id: str, asked: Mapping[str, Connection]) -> None:
        self.id = id
        self.asked = asked
        self.open = dict.fromkeys(asked)
        """Who owes an answer."""
        self.answers: dict[str, Any] = {}
        self.faults: dict[str, SocketFault] = {}
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(
        self,
        frames: Mapping[Variant, bytes],
        sent: Callable[[int], None] | None,
        stopwatch: Callable[[], float],
    ) -> None:
        """Send the question to each member, a slice at a time."""
        deadline = stopwatch() + SLICE
        for turn, (name, conn) in enumerate(self.asked.items(), 1):
            if conn._close is not None:
                self.settle(name, fault=ws_connection_closed())
                continue
            if conn._pending is None:
                conn._pending = {}
            conn._pending[self.id] = _Question(self, name, conn)
            conn._balance_reading()  # the ack must get through, even if the inbox is full
            frame = frames[conn._variant]
            conn._push(frame)
            if sent is not None:
                sent(len(frame))
            if turn % CLOCK_EVERY == 0 and stopwatch() >= deadline:
                await asyncio.sleep(0)
                deadline = stopwatch() + SLICE

    def settle(self, name: str, answer: Any = None, fault: SocketFault | None = None) -> None:
        """One member owes nothing any more."""
        del self.open[name]
        if fault is None:
            self.answers[name] = answer
        else:
            self.faults[name] = fault
        if not self.open and not self.complete.done():
            self.complete.set_result(None)

    def close(self) -> tuple[str, ...]:
        """Wait no longer. Those that are still open."""
        missing = tuple(self.open)
        for name in missing:
            _forget(self.asked[name], self.id)
        return missing


class _Question:
    """What one member owes: stands where a future would, among the acks that its connection waits for."""

    __slots__ = ("_conn", "_gathering", "_name")

    def __init__(self, gathering: _Gathering, name: str, conn: Connection) -> None:
        self._gathering = gathering
        self._name = name
        self._conn = conn

    def done(self) -> bool:
        return self._name not in self._gathering.open

    def set_result(self, result: Any) -> None:
        _forget(self._conn, self._gathering.id)
        self._gathering.settle(self._name, result)

    def set_exception(self, fault: SocketFault) -> None:
        _forget(self._conn, self._gathering.id)
        self._gathering.settle(self._name, fault=fault)


def _forget(conn: Connection, id: str) -> None:
    if conn._pending and conn._pending.pop(id, None) is not None:
        conn._balance_reading()


def _frames(gathering: _Gathering, event: str, payload: Any, room: str) -> dict[Variant, bytes]:
    """The question as each kind of member wants it. Nobody has been asked if one cannot be written.

    Raises:
        SocketFault: WS_PUBLISH_FAILED.
    """
    frames: dict[Variant, bytes] = {}
    ts = int(next(iter(gathering.asked.values()))._hub.clock.time() * 1000)
    for conn in gathering.asked.values():
        if (variant := conn._variant) in frames:
            continue
        meta = {"ts": ts} if variant.v1 else None
        envelope = MessageEnvelope(
            type="event", event=event, payload=payload, room=room, id=gathering.id, ack=True, meta=meta
        )
        try:
            frames[variant] = Outbound._encode(conn, envelope)
        except (TypeError, ValueError, OverflowError) as error:
            said = f"{event!r} cannot be encoded as {variant.codec}: {error}"
            raise ws_publish_failed(said) from error
    return frames


def _tally(home: Home, event: str) -> Callable[[int], None] | None:
    """What counts the frames that are sent, where there are metrics."""
    return None if home.meter is None else home.meter.sending(event).add
