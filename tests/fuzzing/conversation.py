"""What clients say to an application: their first words in protocol v1, and all that comes behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aquilia.sockets.envelope import MessageEnvelope
from fuzzing.choices import Choices
from fuzzing.house import ASKED, HERE, MAX_SIZE, PROFILES, V1, Guest, Open

EVENTS = ["echo", "note", "place", "once", "never", "keep", "ask", "say", "enter", "exit", "who", "nothing"]
ROOMS = ["lobby", "log:a", "private:x", "log:b", "attic", ""]
KEYS = ["type", "event", "id", "ack", "payload", "room", "meta", "more"]
WORDS = ["control", "system", "ack", "event", "hello", "ping", "auth", "error", "welcome"]
ENDS = {1003, 1009, 4400, 4401}
"""Codes that a connection may end with, whatever its client says; 1011 would be an error of ours."""

WHO = {"event": "who", "id": "the last", "ack": True}
_houses: list[Open] = []


async def _house() -> Open:
    if not _houses:
        _houses.append(await Open.make())
    return _houses[0]


def _answer(heard: list[MessageEnvelope], id: str) -> Any:
    """The data of the one ack of this message."""
    payloads = [each.payload for each in heard if each.type == "ack" and each.id == id]
    assert [payload["status"] for payload in payloads] == ["ok"], f"{id!r} got {payloads}"
    return payloads[0].get("data")


# hello


async def first_words(data: bytes) -> None:
    """Any first message of protocol v1: a welcome for who it says, or a close; and nothing before, nor to others."""
    house, choices = await _house(), Choices(data)
    profile, raw = choices.of(V1), choices.once_in(4)
    departed = None if raw or choices.once_in(2) else await _departed(house, choices)
    guest = await house.enter(profile)
    hello = _Hello(house.token, departed, choices)
    if raw:
        guest.say_bytes(choices.rest()[:MAX_SIZE])
    else:
        guest.say(await hello.words(house))
    guest.say(WHO)
    await house.settle()
    heard = guest.heard()
    if guest.wire.ended is not None:
        assert guest.wire.ended.code in ENDS, guest.wire.ended
        assert heard == [], "something was said before the end"
        assert raw or hello.is_odd, f"a good hello ended with {guest.wire.ended}"
    else:
        assert (heard[0].type, heard[0].event) == ("system", "welcome"), heard[0]
        _is_who_it_says(heard, hello, departed, raw=raw)
    await house.leave(guest)


class _Departed:
    """Who was here, and may come back: with what, and to what."""

    def __init__(self, heard: list[MessageEnvelope], whose: str | None) -> None:
        self.whose = whose
        self.token = heard[0].payload["resume"]
        joined = [each.payload for each in heard if each.event == "joined"]
        self.positions = {
            each["room"]: {"epoch": each["epoch"], "offset": each["offset"]}
            for each in joined
            if "epoch" in each
        }


async def _departed(house: Open, choices: Choices) -> _Departed:
    guest = await house.enter(choices.of(V1))
    whose = choices.of([None, "ann"])
    guest.say({"type": "control", "event": "hello", "payload": {"token": house.token} if whose else None})
    guest.say({"event": "enter", "payload": ["attic", "log:b"]})
    await house.settle()
    heard = guest.heard()
    guest.say({"event": "say", "payload": ["log:b", "missed"]})
    await house.settle()
    await house.leave(guest)
    return _Departed(heard, whose)


class _Hello:
    """What a client says first: who it is, and what it would come back to; more or less as it should."""

    def __init__(self, token: str, departed: _Departed | None, choices: Choices) -> None:
        self._token, self._departed, self._choices = token, departed, choices
        self.whose: str | None = None
        self.is_odd = self.comes_back = False

    async def words(self, house: Open) -> dict[str, Any]:
        choices = self._choices
        payload: dict[str, Any] = {}
        if choices.once_in(3):
            payload["token"], self.whose = self._token, "ann"
        if choices.once_in(4):
            self.is_odd = self.whose is not None  # one of the two is enough
            payload["ticket"], self.whose = await house.ticket(), "ann"
        if self._departed is not None:
            payload["resume"] = {"token": self._departed.token, "rooms": self._departed.positions}
            self.comes_back = self._departed.whose == self.whose
        hello: dict[str, Any] = {"type": "control", "event": "hello", "payload": payload}
        while choices.once_in(2):
            self.is_odd = True
            place = choices.of(_maps(hello))
            place[choices.of([*place, *KEYS, "token", "ticket", "resume", "rooms"])] = choices.value()
        return hello


def _maps(value: dict[str, Any]) -> list[dict[str, Any]]:
    """It, and all that are in it."""
    inner = [_maps(each) for each in value.values() if isinstance(each, dict)]
    return [value, *(each for maps in inner for each in maps)]


def _is_who_it_says(
    heard: list[MessageEnvelope], hello: _Hello, departed: _Departed | None, *, raw: bool
) -> None:
    who = _answer(heard, "the last")
    assert {each.type for each in heard if each.event != "said"} <= {"system", "ack"}, heard
    if raw or hello.is_odd:
        assert who["id"] in (None, hello.whose), "it is somebody else than it showed"
    else:
        assert who["id"] == hello.whose
        assert who["resumed"] is hello.comes_back, "a session was not gone on with, or it was another's"
    if not who["resumed"]:
        assert who["rooms"] == [], "somebody is in rooms that it has not entered"
    else:
        assert departed is not None
        assert who["id"] == departed.whose, "it went on with the session of somebody else"
        assert who["rooms"] == ["attic", "log:b"]
        missed = [each.payload for each in heard if each.event == "said"]
        assert missed == [["missed"]] or (hello.is_odd and missed == []), missed


# What comes behind


async def anything(data: bytes) -> None:
    """Any messages: each is answered as it should be, and nobody else hears of it."""
    house, choices = await _house(), Choices(data)
    profile = choices.of(list(PROFILES))
    guest = await house.enter(profile)
    speaker = _Speaker(guest, choices, v1=profile in V1)
    if speaker.v1:
        guest.say({"type": "control", "event": "hello"})
    while choices and guest.wire.ended is None:
        speaker.speak()
        if choices.once_in(4):
            await house.settle()
            speaker.hear()
    await house.settle(ASKED * speaker.asked + 1)
    speaker.hear()
    guest.say(WHO)
    await house.settle()
    speaker.hear()
    if guest.wire.ended is not None:
        assert guest.wire.ended.code in ENDS, guest.wire.ended
        assert speaker.is_odd, f"what was said is good, and ended with {guest.wire.ended}"
    else:
        speaker.check()
    await house.leave(guest)


class _Speaker:
    """What was said, what should come of it, and what came."""

    def __init__(self, guest: Guest, choices: Choices, *, v1: bool) -> None:
        self._guest, self._choices, self.v1 = guest, choices, v1
        self.is_odd = False
        self.asked = 0
        self._expected: Counter[str] = Counter()
        self._echoes: dict[str, Any] = {}
        self._rooms: set[str] = set()
        self._acks: list[MessageEnvelope] = []
        self._questions: list[str] = []

    def speak(self) -> None:
        choices = self._choices
        if choices.once_in(16):
            self.is_odd = True
            self._guest.say_bytes(choices.some(120))
            return
        if self._questions and choices.once_in(2):
            payload = {"status": choices.of(["ok", "error"]), choices.of(["data", "error"]): choices.value()}
            self._guest.say({"type": "ack", "id": self._questions.pop(), "payload": payload})
            return
        event = choices.of(EVENTS)
        message: dict[str, Any] = {"event": event, "payload": self._payload(event)}
        id = f"{len(self._expected)}"
        if choices.once_in(2) or event in ("note", "once"):
            message["id"], message["ack"] = id, True
        if is_odd := choices.once_in(8):
            self.is_odd = True
            message[choices.of(KEYS)] = choices.of(WORDS) if choices.once_in(2) else choices.value()
        self.asked += "ask" in (event, message["event"])
        if not is_odd and "id" in message:
            self._expected[id] += 1
            if event == "echo":
                self._echoes[id] = message["payload"]
        self._guest.say(message)

    def _payload(self, event: str) -> Any:
        choices = self._choices
        if choices.once_in(4):
            return choices.value()
        match event:
            case "enter" | "exit":
                return choices.of(ROOMS)
            case "say":
                return [choices.of(ROOMS), choices.text()]
            case "note":
                return {"text": choices.text(), "n": choices.of([0, 1, "no"])}
            case "place":
                return {"x": choices.of([0, -1, 0.5, None]), "name": choices.of([None, "here", 1])}
        return choices.value()

    def hear(self) -> None:
        """What came: nothing that is not for it."""
        for each in self._guest.heard():
            if each.type == "ack":
                self._acks.append(each)
            elif each.type == "system":
                assert self.v1, f"a plain client was told {each.event}"
                if each.event in ("joined", "left"):
                    (self._rooms.add if each.event == "joined" else self._rooms.discard)(each.payload["room"])
            elif each.event == "said":
                assert not self.v1 or each.room in self._rooms, f"it heard of {each.room!r}"
            elif each.event == "question":
                self._questions.append(each.id or "")
            else:
                assert each.event == "error", each
                _is_foreseen(each.payload)

    def check(self) -> None:
        """All is as the acks say."""
        who = _answer(self._acks, "the last")
        assert who["id"] is None
        assert not self.v1 or set(who["rooms"]) == self._rooms, f"{who['rooms']} are not {self._rooms}"
        assert len(who["rooms"]) <= 4
        assert not any(room.startswith("private:") for room in who["rooms"])
        came = Counter(each.id or "" for each in self._acks if each.id != "the last")
        # What is odd may bear an id as well, and be answered by it.
        assert came >= self._expected if self.is_odd else came == self._expected, f"{self._expected}: {came}"
        for each in self._acks:
            if each.payload["status"] == "error":
                _is_foreseen(each.payload["error"])
            elif each.id in self._echoes and not self.is_odd:
                assert each.payload.get("data") == self._echoes[each.id], each


def _is_foreseen(error: dict[str, Any]) -> None:
    assert error["code"].startswith("WS_"), error
    assert error["code"] != "WS_INTERNAL_ERROR", error


__all__ = ["HERE", "anything", "first_words"]
